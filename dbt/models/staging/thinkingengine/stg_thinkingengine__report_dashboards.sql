{{ stage('thinkingengine', 'report_dashboards', [
    ['project_id', 'bigint'],
    ['report_id', 'bigint'],
    ['dashboard_id', 'bigint'],
]) }}
