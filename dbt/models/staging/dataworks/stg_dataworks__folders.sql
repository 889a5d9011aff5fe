{{ stage('dataworks', 'folders', [
    ['project_id', 'bigint', 'workspace_id'],
    ['folder_id', 'bigint'],
    ['folder_name', 'text'],
    ['group_id', 'text'],
    ['parent_id', 'bigint', 'parent_folder_id'],
    ['created_time', 'timestamp', 'created_at'],
    ['modified_time', 'timestamp', 'updated_at'],
]) }}
