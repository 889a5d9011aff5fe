{{ stage('thinkingengine', 'event_meta', [
    ['project_id', 'bigint'],
    ['event_name', 'text'],
    ['event_desc', 'text', 'event_title'],
    ['remark', 'text'],
    ['is_hidden', 'boolean'],
]) }}
