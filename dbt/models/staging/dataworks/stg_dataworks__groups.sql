{{ stage('dataworks', 'groups', [
    ['project_id', 'bigint', 'workspace_id'],
    ['group_id', 'text'],
    ['group_name', 'text'],
    ['description', 'text'],
    ['creator_id', 'text'],
    ['api_gateway_group_id', 'text'],
    ['created_time', 'timestamp', 'created_at'],
    ['modified_time', 'timestamp', 'updated_at'],
]) }}
