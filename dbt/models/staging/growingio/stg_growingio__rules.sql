{{ stage('growingio', 'rules', [
    ['project_uid', 'text'],
    ['rule_id', 'text'],
    ['event_name', 'text'],
    ['event_type', 'text'],
]) }}
