{{ stage('dataworks', 'published_api_versions', [
    ['project_id', 'bigint', 'workspace_id'],
    ['api_id', 'bigint'],
    ['api_name', 'text'],
    ['api_path', 'text'],
    ['api_mode_name', 'text', 'api_mode'],
    ['request_method_name', 'text', 'request_method'],
    ['group_id', 'text'],
    ['description', 'text'],
    ['script', 'text', 'query_text'],
    ['definition', 'json'],
    ['valid_from', 'timestamp'],
    ['valid_to', 'timestamp'],
]) }}
