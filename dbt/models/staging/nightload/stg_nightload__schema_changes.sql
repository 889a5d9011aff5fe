{{ stage('nightload', 'schema_changes', [
    ['run_id', 'text'],
    ['vendor', 'text'],
    ['changed_at', 'timestamp'],
    ['dataset', 'text'],
    ['table_name', 'text'],
    ['column_name', 'text'],
    ['change', 'text', 'change_kind'],
    ['old_type', 'text'],
    ['new_type', 'text'],
]) }}
