{{ stage('tune', 'countries', [
    ['id', 'bigint', 'country_id'],
    ['name', 'text', 'country_name'],
    ['code', 'text', 'country_code'],
]) }}
