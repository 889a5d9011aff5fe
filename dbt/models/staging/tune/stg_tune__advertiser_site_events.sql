{{ stage('tune', 'advertiser_site_events', [
    ['id', 'bigint', 'site_event_id'],
    ['name', 'text', 'event_name'],
    ['type', 'text', 'event_type'],
    ['site_id', 'bigint'],
    ['status', 'text', 'event_status'],
    ['revenue', 'decimal'],
    ['attributes', 'json', 'event_attributes'],
    ['created', 'timestamp', 'created_at'],
]) }}
