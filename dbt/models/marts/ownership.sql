-- Redash tells who a user is and whether they are still there, TUNE who an advertiser is; the others tell a name or an id.
select
    assets.asset_key,
    assets.vendor,
    assets.asset_kind,
    assets.container,
    assets.asset_name,
    assets.asset_state,
    nullif(assets.owner_id, '') as owner_id,
    coalesce(person.user_name, advertiser.advertiser_name, nullif(assets.owner_id, '')) as owner_name,
    person.email as owner_email,
    case
        when assets.vendor = 'tonalytica' then not person.is_disabled
        when assets.vendor = 'tune' then advertiser.advertiser_status <> 'deleted'
    end as owner_is_active,
    assets.created_at,
    assets.touched_at,
    assets.data_at
from {{ ref('int_assets') }} as assets
left join {{ ref('stg_tonalytica__users') }} as person
    on assets.vendor = 'tonalytica' and cast(person.user_id as {{ kind_of('text') }}) = assets.owner_id
left join {{ ref('stg_tune__advertiser') }} as advertiser
    on assets.vendor = 'tune' and cast(advertiser.advertiser_id as {{ kind_of('text') }}) = assets.owner_id
