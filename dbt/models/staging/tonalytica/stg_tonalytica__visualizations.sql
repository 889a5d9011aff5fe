{{ stage('tonalytica', 'visualizations', [
    ['id', 'bigint', 'visualization_id'],
    ['query_id', 'bigint'],
    ['type', 'text', 'visualization_type'],
    ['name', 'text', 'visualization_name'],
    ['description', 'text'],
    ['options', 'text', 'series_type', ['globalSeriesType']],
    ['options', 'json', 'column_mapping', ['columnMapping']],
    ['options', 'text', 'counter_column', ['counterColName']],
    ['created_at', 'timestamp'],
    ['updated_at', 'timestamp'],
]) }}
