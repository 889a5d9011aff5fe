-- "Now" is the last run: what was loaded then is what is judged.
with moment as (
    select max(started_at) as now_at from {{ ref('stg_nightload__runs') }}
),

judged as (
    select ownership.*, {{ day_of('moment.now_at') }} as today
    from {{ ref('ownership') }} as ownership
    cross join moment
    where ownership.asset_state = 'live'
),

stale as (
    select asset_key, 'untouched' as reason, {{ day_of('touched_at') }} as since
    from judged
    where today - {{ day_of('touched_at') }} > {{ var('stale_after_days') }}

    union all
    select asset_key, 'old figures', {{ day_of('data_at') }}
    from judged
    where asset_kind in ('query', 'chart') and today - {{ day_of('data_at') }} > {{ var('stale_after_days') }}

    union all
    select asset_key, 'owner left', cast(null as date)
    from judged
    where not owner_is_active

    union all
    select asset_key, 'no owner', cast(null as date)
    from judged
    where owner_id is null and vendor in ('tonalytica', 'dataworks')
)

select
    stale.asset_key,
    stale.reason,
    stale.since,
    judged.today - stale.since as days,
    judged.vendor,
    judged.asset_kind,
    judged.asset_name,
    judged.owner_name,
    judged.owner_email
from stale
join judged on judged.asset_key = stale.asset_key
