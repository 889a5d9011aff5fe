{{ stage('thinkingengine', 'reports', [
    ['project_id', 'bigint'],
    ['report_id', 'bigint'],
    ['report_name', 'text'],
    ['report_desc', 'text', 'description'],
    ['report_model', 'bigint'],
    ['create_type', 'text'],
    ['create_user', 'text', 'creator_name'],
    ['update_time', 'timestamp', 'updated_at'],
]) }}
