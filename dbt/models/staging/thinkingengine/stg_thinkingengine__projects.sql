{{ stage('thinkingengine', 'projects', [
    ['project_id', 'bigint'],
    ['project_name', 'text'],
    ['company_id', 'bigint'],
    ['role_name', 'text'],
    ['remark', 'text'],
]) }}
