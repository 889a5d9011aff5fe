{{ stage('dataworks', 'api_tests', [
    ['test_id', 'bigint'],
    ['api_id', 'bigint'],
    ['status', 'text', 'test_status'],
    ['ret_code', 'bigint', 'return_code'],
    ['cost_time', 'bigint', 'cost_milliseconds'],
    ['create_time', 'timestamp', 'created_at'],
]) }}
