{{ stage('dataworks', 'projects', [
    ['project_id', 'bigint', 'workspace_id'],
    ['project_identifier', 'text', 'workspace_identifier'],
    ['project_name', 'text', 'workspace_name'],
    ['project_description', 'text', 'description'],
    ['project_owner_base_id', 'text', 'owner_id'],
    ['project_status_code', 'text', 'workspace_status'],
    ['tags', 'json'],
]) }}
