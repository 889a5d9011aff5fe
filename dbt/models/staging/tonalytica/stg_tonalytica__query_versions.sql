{{ stage('tonalytica', 'query_versions', [
    ['query_id', 'bigint'],
    ['data_source_id', 'bigint'],
    ['query_hash', 'text'],
    ['query', 'text', 'query_text'],
    ['valid_from', 'timestamp'],
    ['valid_to', 'timestamp'],
]) }}
