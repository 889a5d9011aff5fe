{{ stage('dataworks', 'authorized_apis', [
    ['workspace_id', 'bigint'],
    ['api_id', 'bigint'],
    ['project_id', 'bigint', 'owner_workspace_id'],
    ['api_name', 'text'],
    ['api_path', 'text'],
    ['api_status_name', 'text', 'api_status'],
    ['creator_id', 'text'],
    ['grant_created_time', 'timestamp', 'granted_at'],
    ['grant_end_time', 'timestamp', 'ends_at'],
    ['grant_operator_id', 'text', 'granted_by_id'],
]) }}
