{{ stage('tune', 'advertiser_sites', [
    ['id', 'bigint', 'site_id'],
    ['name', 'text', 'site_name'],
    ['package_name', 'text'],
    ['status', 'text', 'site_status'],
    ['url', 'text'],
    ['advertiser_id', 'bigint'],
    ['mobile_app_type', 'text'],
    ['store_app_id', 'text'],
    ['country_id', 'bigint'],
    ['created', 'timestamp', 'created_at'],
    ['modified', 'timestamp', 'updated_at'],
]) }}
