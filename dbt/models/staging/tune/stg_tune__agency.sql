{{ stage('tune', 'agency', [
    ['id', 'bigint', 'agency_id'],
    ['name', 'text', 'agency_name'],
    ['status', 'text', 'agency_status'],
    ['created', 'timestamp', 'created_at'],
    ['modified', 'timestamp', 'updated_at'],
]) }}
