{{ stage('thinkingengine', 'user_clusters', [
    ['project_id', 'bigint'],
    ['cluster_name', 'text'],
    ['display_name', 'text', 'cluster_title'],
    ['cluster_id', 'bigint'],
    ['cluster_catalog', 'text'],
    ['cluster_type', 'text'],
    ['qp', 'json', 'cluster_rule'],
    ['create_user', 'text', 'creator_name'],
    ['update_time', 'timestamp', 'updated_at'],
]) }}
