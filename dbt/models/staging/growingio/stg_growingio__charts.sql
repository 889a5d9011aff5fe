{{ stage('growingio', 'charts', [
    ['project_uid', 'text'],
    ['chart_id', 'text'],
    ['name', 'text', 'chart_name'],
    ['resource_type', 'text', 'chart_type'],
    ['meta_hash', 'text'],
    ['meta', 'json', 'chart_meta'],
    ['valid_from', 'timestamp'],
    ['valid_to', 'timestamp'],
]) }}
