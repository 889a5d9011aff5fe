{{ stage('tonalytica', 'data_sources', [
    ['id', 'bigint', 'data_source_id'],
    ['name', 'text', 'data_source_name'],
    ['type', 'text', 'data_source_type'],
    ['syntax', 'text'],
    ['pause_reason', 'text'],
    ['paused', 'boolean', 'is_paused'],
    ['view_only', 'boolean', 'is_view_only'],
]) }}
