{{ stage('nightload', 'columns', [
    ['dataset', 'text'],
    ['table_name', 'text'],
    ['table_label', 'text'],
    ['column_name', 'text'],
    ['label', 'text', 'vendor_label'],
    ['data_type', 'text'],
    ['is_key', 'boolean'],
]) }}
