{{ stage('tune', 'regions', [
    ['id', 'bigint', 'region_id'],
    ['name', 'text', 'region_name'],
    ['country_id', 'bigint'],
    ['code', 'text', 'region_code'],
]) }}
