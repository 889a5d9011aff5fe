{{ stage('nightload', 'dbt_runs', [
    ['run_id', 'text'],
    ['started_at', 'timestamp'],
    ['finished_at', 'timestamp'],
    ['status', 'text', 'dbt_status'],
    ['passed', 'bigint', 'passed_count'],
    ['warned', 'bigint', 'warned_count'],
    ['failed', 'bigint', 'failed_count'],
    ['skipped', 'bigint', 'skipped_count'],
    ['error', 'text', 'dbt_error'],
]) }}
