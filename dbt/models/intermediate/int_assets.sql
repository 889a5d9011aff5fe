-- Whatever people make at the vendors' and somebody should own, in one shape.
-- touched_at: last edit. data_at: when its figures were last computed, where the vendor tells.
with tonalytica_results as (
    select query_id, max(retrieved_at) as data_at
    from {{ ref('stg_tonalytica__query_results') }}
    group by query_id
),

growingio_chart_creators as (
    select project_uid, chart_id, min(creator_name) as creator_name
    from {{ ref('stg_growingio__dashboard_charts') }}
    group by project_uid, chart_id
),

growingio_chart_data as (
    select project_uid, chart_id, max(point_time) as data_at
    from {{ ref('stg_growingio__chart_points') }}
    group by project_uid, chart_id
),

assets as (
    select
        {{ key_of("'tonalytica'", "'query'", 'query_id') }} as asset_key,
        'tonalytica' as vendor,
        'query' as asset_kind,
        cast(null as {{ kind_of('text') }}) as container,
        query_name as asset_name,
        cast(owner_user_id as {{ kind_of('text') }}) as owner_id,
        case when is_archived then 'archived' when is_draft then 'draft' else 'live' end as asset_state,
        created_at,
        updated_at as touched_at,
        coalesce(tonalytica_results.data_at, retrieved_at) as data_at
    from {{ ref('stg_tonalytica__queries') }}
    left join tonalytica_results using (query_id)

    union all
    select
        {{ key_of("'tonalytica'", "'dashboard'", 'dashboard_id') }}, 'tonalytica', 'dashboard', null, dashboard_name,
        cast(owner_user_id as {{ kind_of('text') }}),
        case when is_archived then 'archived' when is_draft then 'draft' else 'live' end, created_at, updated_at, null
    from {{ ref('stg_tonalytica__dashboards') }}

    union all
    select
        {{ key_of("'tonalytica'", "'alert'", 'alert_id') }}, 'tonalytica', 'alert', null, alert_name,
        cast(owner_user_id as {{ kind_of('text') }}), 'live', created_at, updated_at, last_triggered_at
    from {{ ref('stg_tonalytica__alerts') }}

    union all
    select
        {{ key_of("'growingio'", "'dashboard'", 'project_uid', 'dashboard_id') }}, 'growingio', 'dashboard', project_uid,
        dashboard_name, creator_name, 'live', {{ start_of('created_on') }}, {{ start_of('updated_on') }}, null
    from {{ ref('stg_growingio__dashboards') }}

    union all
    select
        {{ key_of("'growingio'", "'chart'", 'chart.project_uid', 'chart.chart_id') }}, 'growingio',
        'chart', chart.project_uid, chart.chart_name, creator.creator_name, 'live', null, null, points.data_at
    from {{ ref('stg_growingio__charts') }} as chart
    left join growingio_chart_creators as creator
        on creator.project_uid = chart.project_uid and creator.chart_id = chart.chart_id
    left join growingio_chart_data as points
        on points.project_uid = chart.project_uid and points.chart_id = chart.chart_id
    where chart.valid_to is null

    union all
    select
        {{ key_of("'growingio'", "'segment'", 'project_uid', 'segmentation_id') }}, 'growingio', 'segment', project_uid,
        segmentation_name, null, 'live', null, {{ start_of('updated_on') }}, null
    from {{ ref('stg_growingio__segmentations') }}

    union all
    select
        {{ key_of("'dataworks'", "'api'", 'workspace_id', 'api_id') }}, 'dataworks', 'api',
        cast(workspace_id as {{ kind_of('text') }}), api_name, creator_id, 'live', created_at, updated_at, null
    from {{ ref('stg_dataworks__published_apis') }}

    union all
    select
        {{ key_of("'dataworks'", "'draft api'", 'workspace_id', 'api_id') }}, 'dataworks', 'draft api',
        cast(workspace_id as {{ kind_of('text') }}), api_name, creator_id, 'draft', created_at, updated_at, null
    from {{ ref('stg_dataworks__draft_apis') }}

    union all
    select
        {{ key_of("'thinkingengine'", "'report'", 'project_id', 'report_id') }}, 'thinkingengine', 'report',
        cast(project_id as {{ kind_of('text') }}), report_name, creator_name, 'live', null, updated_at, null
    from {{ ref('stg_thinkingengine__reports') }}

    union all
    select
        {{ key_of("'thinkingengine'", "'dashboard'", 'project_id', 'dashboard_id') }}, 'thinkingengine', 'dashboard',
        cast(project_id as {{ kind_of('text') }}), dashboard_name, creator_name, 'live', null, updated_at, null
    from {{ ref('stg_thinkingengine__dashboards') }}

    union all
    select
        {{ key_of("'thinkingengine'", "'metric'", 'project_id', 'metric_id') }}, 'thinkingengine', 'metric',
        cast(project_id as {{ kind_of('text') }}), metric_name, creator_name, 'live', created_at, updated_at, null
    from {{ ref('stg_thinkingengine__metrics') }}

    union all
    select
        {{ key_of("'thinkingengine'", "'event'", 'project_id', 'event_name') }}, 'thinkingengine', 'event',
        cast(project_id as {{ kind_of('text') }}), event_name, null,
        case when is_hidden then 'archived' else 'live' end, null, null, null
    from {{ ref('stg_thinkingengine__event_meta') }}

    union all
    select
        {{ key_of("'thinkingengine'", "'cohort'", 'project_id', 'cluster_name') }}, 'thinkingengine', 'cohort',
        cast(project_id as {{ kind_of('text') }}), coalesce(cluster_title, cluster_name), creator_name, 'live', null,
        updated_at, null
    from {{ ref('stg_thinkingengine__user_clusters') }}

    union all
    select
        {{ key_of("'tune'", "'campaign'", 'campaign_id') }}, 'tune', 'campaign',
        cast(advertiser_id as {{ kind_of('text') }}), campaign_name, cast(advertiser_id as {{ kind_of('text') }}),
        case when campaign_status in ('deleted', 'paused') then 'archived' else 'live' end, created_at, updated_at, null
    from {{ ref('stg_tune__advertiser_campaigns') }}

    union all
    select
        {{ key_of("'tune'", "'app'", 'site_id') }}, 'tune', 'app', cast(advertiser_id as {{ kind_of('text') }}),
        site_name, cast(advertiser_id as {{ kind_of('text') }}),
        case when site_status = 'deleted' then 'archived' else 'live' end, created_at, updated_at, null
    from {{ ref('stg_tune__advertiser_sites') }}

    union all
    select
        {{ key_of("'tune'", "'app event'", 'event.site_event_id') }}, 'tune', 'app event',
        cast(app.advertiser_id as {{ kind_of('text') }}), event.event_name, cast(app.advertiser_id as {{ kind_of('text') }}),
        case when event.event_status = 'deleted' then 'archived' else 'live' end, event.created_at, null, null
    from {{ ref('stg_tune__advertiser_site_events') }} as event
    left join {{ ref('stg_tune__advertiser_sites') }} as app on app.site_id = event.site_id
)

select * from assets
