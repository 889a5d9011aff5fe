{{ stage('thinkingengine', 'metrics', [
    ['project_id', 'bigint'],
    ['metric_id', 'bigint'],
    ['metric_name', 'text'],
    ['metric_desc', 'text', 'description'],
    ['metric_remark', 'text', 'remark'],
    ['metric_mode', 'text'],
    ['format', 'text', 'number_format'],
    ['create_user', 'text', 'creator_name'],
    ['update_user', 'text', 'updater_name'],
    ['create_time', 'timestamp', 'created_at'],
    ['update_time', 'timestamp', 'updated_at'],
]) }}
