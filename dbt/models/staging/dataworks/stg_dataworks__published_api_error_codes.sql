{{ stage('dataworks', 'published_api_error_codes', [
    ['project_id', 'bigint', 'workspace_id'],
    ['api_id', 'bigint'],
    ['kind', 'text', 'parameter_kind'],
    ['position', 'bigint', 'error_place'],
    ['error_code', 'text'],
    ['error_message', 'text'],
    ['error_solution', 'text'],
]) }}
