{{ stage('thinkingengine', 'virtual_events', [
    ['project_id', 'bigint'],
    ['event_name', 'text'],
    ['event_desc', 'text', 'event_title'],
    ['remark', 'text'],
    ['rule', 'json', 'event_rule'],
]) }}
