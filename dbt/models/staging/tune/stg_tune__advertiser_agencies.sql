{{ stage('tune', 'advertiser_agencies', [
    ['id', 'bigint', 'advertiser_agency_id'],
    ['advertiser_id', 'bigint'],
    ['agency_id', 'bigint'],
    ['status', 'text', 'grant_status'],
]) }}
