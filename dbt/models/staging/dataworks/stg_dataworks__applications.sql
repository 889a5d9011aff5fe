{{ stage('dataworks', 'applications', [
    ['project_id', 'bigint', 'workspace_id'],
    ['application_id', 'bigint'],
    ['application_name', 'text'],
]) }}
