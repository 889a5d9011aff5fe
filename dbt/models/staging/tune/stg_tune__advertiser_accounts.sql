{{ stage('tune', 'advertiser_accounts', [
    ['id', 'bigint', 'advertiser_account_id'],
    ['advertiser_id', 'bigint'],
    ['account_id', 'bigint'],
    ['status', 'text', 'grant_status'],
]) }}
