{{ stage('tune', 'advertiser_publishers_sub_campaigns', [
    ['id', 'bigint', 'sub_campaign_id'],
    ['name', 'text', 'sub_campaign_name'],
    ['ref', 'text', 'sub_campaign_ref'],
    ['publisher_id', 'bigint'],
    ['campaign_id', 'bigint'],
]) }}
