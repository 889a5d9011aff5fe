{{ stage('thinkingengine', 'property_meta', [
    ['project_id', 'bigint'],
    ['table_type', 'text'],
    ['event_name', 'text'],
    ['column_name', 'text', 'property_name'],
    ['column_desc', 'text', 'property_title'],
    ['select_type', 'text', 'property_type'],
    ['column_remark', 'text', 'remark'],
]) }}
