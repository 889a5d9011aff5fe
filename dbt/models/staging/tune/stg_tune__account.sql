{{ stage('tune', 'account', [
    ['id', 'bigint', 'account_id'],
    ['name', 'text', 'account_name'],
    ['type', 'text', 'account_type'],
    ['status', 'text', 'account_status'],
    ['country_id', 'bigint'],
    ['region_id', 'bigint'],
    ['city', 'text'],
    ['website', 'text'],
]) }}
