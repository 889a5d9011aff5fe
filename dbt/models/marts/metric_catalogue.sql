-- Whatever gives a figure at any vendor, and what it is computed from. A metric's asset is in `ownership`.
with latest_points as (
    select project_uid, chart_id, metric_name, max(point_time) as last_point_at
    from {{ ref('stg_growingio__chart_points') }}
    group by project_uid, chart_id, metric_name
),

latest_results as (
    select query_id, max(retrieved_at) as last_point_at
    from {{ ref('stg_tonalytica__query_results') }}
    group by query_id
)

select
    {{ key_of("'thinkingengine'", "'metric'", 'project_id', 'metric_id') }} as metric_key,
    'thinkingengine' as vendor,
    'metric' as metric_kind,
    metric_name,
    coalesce(nullif(description, ''), nullif(remark, '')) as description,
    metric_mode as definition,
    {{ key_of("'thinkingengine'", "'metric'", 'project_id', 'metric_id') }} as asset_key,
    updated_at,
    cast(null as {{ kind_of('timestamp') }}) as last_point_at
from {{ ref('stg_thinkingengine__metrics') }}

union all
select
    {{ key_of("'thinkingengine'", "'event'", 'project_id', 'event_name') }}, 'thinkingengine', 'event', event_name,
    coalesce(nullif(event_title, ''), nullif(remark, '')), 'count of ' || event_name,
    {{ key_of("'thinkingengine'", "'event'", 'project_id', 'event_name') }}, null, null
from {{ ref('stg_thinkingengine__event_meta') }}
where not coalesce(is_hidden, false)

union all
select
    {{ key_of("'tonalytica'", "'chart column'", 'axis.visualization_id', 'axis.label') }}, 'tonalytica', 'chart column',
    axis.label, chart.visualization_name || ' of ' || query.query_name, query.query_text,
    {{ key_of("'tonalytica'", "'query'", 'axis.query_id') }}, query.updated_at, latest_results.last_point_at
from {{ ref('int_tonalytica__chart_columns') }} as axis
join {{ ref('stg_tonalytica__visualizations') }} as chart on chart.visualization_id = axis.visualization_id
join {{ ref('stg_tonalytica__queries') }} as query on query.query_id = axis.query_id
left join latest_results on latest_results.query_id = axis.query_id
where axis.axis in ('y', 'counter')

union all
select
    {{ key_of("'growingio'", "'chart metric'", 'metric.project_uid', 'metric.chart_id', 'metric.meta_place') }},
    'growingio', 'chart metric', metric.metric_name, metric.chart_type || ' ' || metric.chart_name,
    cast(metric.chart_meta as {{ kind_of('text') }}),
    {{ key_of("'growingio'", "'chart'", 'metric.project_uid', 'metric.chart_id') }}, null, latest_points.last_point_at
from {{ ref('int_growingio__chart_metrics') }} as metric
left join latest_points
    on latest_points.project_uid = metric.project_uid
    and latest_points.chart_id = metric.chart_id
    and latest_points.metric_name = metric.metric_name

union all
select
    {{ key_of("'dataworks'", "'api field'", 'field.workspace_id', 'field.api_id', 'field.parameter_kind', 'field.parameter_place') }},
    'dataworks', 'api field', field.parameter_name, nullif(field.description, ''),
    coalesce(nullif(api.query_text, ''), nullif(api.read_table, ''), api.api_path),
    {{ key_of("'dataworks'", "'api'", 'field.workspace_id', 'field.api_id') }}, api.updated_at, null
from {{ ref('stg_dataworks__published_api_response_parameters') }} as field
join {{ ref('stg_dataworks__published_apis') }} as api
    on api.workspace_id = field.workspace_id and api.api_id = field.api_id
where field.parameter_type in ('Int', 'Long', 'Float', 'Double')

union all
select
    {{ key_of("'tune'", "'app event'", 'event.site_event_id') }}, 'tune', 'app event', event.event_name, event.event_type,
    'count of ' || event.event_name || ' in ' || coalesce(app.site_name, 'app ' || cast(event.site_id as {{ kind_of('text') }})),
    {{ key_of("'tune'", "'app event'", 'event.site_event_id') }}, event.created_at, null
from {{ ref('stg_tune__advertiser_site_events') }} as event
left join {{ ref('stg_tune__advertiser_sites') }} as app on app.site_id = event.site_id
