{{ stage('growingio', 'dashboard_charts', [
    ['project_uid', 'text'],
    ['dashboard_id', 'text'],
    ['chart_id', 'text'],
    ['name', 'text', 'chart_name'],
    ['creator', 'text', 'creator_name'],
    ['created_at', 'text', 'created_text'],
    ['resource_type', 'text', 'chart_type'],
    ['position', 'bigint', 'board_position'],
]) }}
