{{ stage('tonalytica', 'query_results', [
    ['query_id', 'bigint'],
    ['result_id', 'bigint'],
    ['parameters', 'text'],
    ['retrieved_at', 'timestamp'],
    ['runtime', 'double', 'runtime_seconds'],
    ['row_count', 'bigint'],
    ['data_source_id', 'bigint'],
    ['columns', 'json', 'result_columns'],
    ['query_hash', 'text'],
    ['auto_limited', 'boolean', 'is_auto_limited'],
    ['is_of_older_text', 'boolean'],
    ['table_name', 'text', 'result_table'],
]) }}
