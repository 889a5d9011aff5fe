{{ stage('tonalytica', 'query_snippets', [
    ['id', 'bigint', 'snippet_id'],
    ['trigger', 'text', 'snippet_trigger'],
    ['description', 'text'],
    ['snippet', 'text', 'snippet_text'],
    ['user_id', 'bigint', 'owner_user_id'],
    ['created_at', 'timestamp'],
    ['updated_at', 'timestamp'],
]) }}
