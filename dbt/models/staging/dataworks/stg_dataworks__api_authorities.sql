{{ stage('dataworks', 'api_authorities', [
    ['workspace_id', 'bigint', 'owner_workspace_id'],
    ['api_id', 'bigint'],
    ['authorized_project_id', 'bigint', 'granted_workspace_id'],
    ['authorized_creator_id', 'text', 'granted_by_id'],
    ['authorized_time', 'timestamp', 'granted_at'],
    ['end_time', 'timestamp', 'ends_at'],
    ['api_name', 'text'],
    ['api_path', 'text'],
]) }}
