{{ stage('growingio', 'dashboards', [
    ['project_uid', 'text'],
    ['id', 'text', 'dashboard_id'],
    ['name', 'text', 'dashboard_name'],
    ['type', 'text', 'dashboard_type'],
    ['scope', 'text'],
    ['creator', 'text', 'creator_name'],
    ['updater', 'text', 'updater_name'],
    ['created_at', 'date', 'created_on'],
    ['updated_at', 'date', 'updated_on'],
]) }}
