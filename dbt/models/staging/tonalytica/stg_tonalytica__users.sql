{{ stage('tonalytica', 'users', [
    ['id', 'bigint', 'user_id'],
    ['name', 'text', 'user_name'],
    ['email', 'text'],
    ['auth_type', 'text'],
    ['groups', 'json', 'user_groups'],
    ['is_disabled', 'boolean'],
    ['is_invitation_pending', 'boolean'],
    ['is_email_verified', 'boolean'],
    ['active_at', 'timestamp'],
    ['disabled_at', 'timestamp'],
    ['created_at', 'timestamp'],
    ['updated_at', 'timestamp'],
]) }}
