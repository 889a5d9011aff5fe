{{ stage('nightload', 'run_tries', [
    ['run_id', 'text'],
    ['vendor', 'text'],
    ['attempt', 'bigint', 'attempt_number'],
    ['started_at', 'timestamp'],
    ['finished_at', 'timestamp'],
    ['tables', 'text', 'tried_tables'],
    ['status', 'text', 'attempt_status'],
    ['error', 'text', 'attempt_error'],
    ['requests', 'bigint', 'request_count'],
    ['seconds', 'double', 'attempt_seconds'],
]) }}
