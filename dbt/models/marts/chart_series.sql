{{ config(materialized='view') }}
-- A view, so that the text of a query is not written down once per point.
select
    {{ key_of("'tonalytica'", "'chart'", 'point.visualization_id') }} as chart_key,
    'tonalytica' as vendor,
    chart.visualization_name as chart_name,
    coalesce(chart.series_type, lower(chart.visualization_type)) as chart_type,
    point.metric_name,
    point.series_name,
    point.parameters,
    point.x,
    point.metric_value,
    {{ key_of("'tonalytica'", "'query'", 'point.query_id') }} as asset_key,
    query.query_name as fed_by,
    query.query_text as definition
from {{ ref('int_tonalytica__chart_points') }} as point
join {{ ref('stg_tonalytica__visualizations') }} as chart on chart.visualization_id = point.visualization_id
join {{ ref('stg_tonalytica__queries') }} as query on query.query_id = point.query_id

union all
select
    {{ key_of("'growingio'", "'chart'", 'point.project_uid', 'point.chart_id') }},
    'growingio',
    chart.chart_name,
    chart.chart_type,
    point.metric_name,
    cast(point.dimensions as {{ kind_of('text') }}),
    point.chart_interval,
    {{ time_text('point.point_time') }},
    point.metric_value,
    {{ key_of("'growingio'", "'chart'", 'point.project_uid', 'point.chart_id') }},
    chart.chart_name,
    cast(chart.chart_meta as {{ kind_of('text') }})
from {{ ref('stg_growingio__chart_points') }} as point
join {{ ref('stg_growingio__charts') }} as chart
    on chart.project_uid = point.project_uid and chart.chart_id = point.chart_id and chart.valid_to is null
