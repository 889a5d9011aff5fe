{{ stage('tune', 'account_users', [
    ['id', 'bigint', 'user_id'],
    ['account_id', 'bigint'],
    ['name', 'text', 'user_name'],
    ['first_name', 'text'],
    ['last_name', 'text'],
    ['email', 'text'],
    ['title', 'text'],
    ['status', 'text', 'user_status'],
    ['time_zone', 'text'],
    ['created', 'timestamp', 'created_at'],
    ['modified', 'timestamp', 'updated_at'],
]) }}
