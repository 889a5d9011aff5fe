{{ stage('nightload', 'runs', [
    ['run_id', 'text'],
    ['started_at', 'timestamp'],
    ['finished_at', 'timestamp'],
    ['status', 'text', 'run_status'],
    ['vendors', 'text', 'run_vendors'],
    ['error', 'text', 'run_error'],
    ['version', 'text', 'nightload_version'],
    ['host', 'text'],
]) }}
