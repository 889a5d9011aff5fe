{{ stage('nightload', 'run_vendors', [
    ['run_id', 'text'],
    ['vendor', 'text'],
    ['status', 'text', 'vendor_status'],
    ['error', 'text', 'vendor_error'],
    ['requests', 'bigint', 'request_count'],
    ['seconds', 'double', 'run_seconds'],
]) }}
