{{ stage('tune', 'advertiser_publishers', [
    ['id', 'bigint', 'publisher_id'],
    ['name', 'text', 'publisher_name'],
    ['status', 'text', 'publisher_status'],
    ['advertiser_id', 'bigint'],
    ['website', 'text'],
    ['created', 'timestamp', 'created_at'],
    ['modified', 'timestamp', 'updated_at'],
]) }}
