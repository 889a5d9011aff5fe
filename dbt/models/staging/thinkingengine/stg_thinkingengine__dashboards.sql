{{ stage('thinkingengine', 'dashboards', [
    ['project_id', 'bigint'],
    ['dashboard_id', 'bigint'],
    ['dashboard_name', 'text'],
    ['create_user', 'text', 'creator_name'],
    ['update_time', 'timestamp', 'updated_at'],
]) }}
