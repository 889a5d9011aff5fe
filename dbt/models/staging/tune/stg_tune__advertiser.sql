{{ stage('tune', 'advertiser', [
    ['id', 'bigint', 'advertiser_id'],
    ['name', 'text', 'advertiser_name'],
    ['status', 'text', 'advertiser_status'],
    ['account_id', 'bigint'],
    ['agency_id', 'bigint'],
    ['currency_code', 'text'],
    ['created', 'timestamp', 'created_at'],
    ['modified', 'timestamp', 'updated_at'],
]) }}
