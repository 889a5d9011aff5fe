-- The metrics that each present chart shows, in the chart's own order; labels repeat, and people rename them.
select
    chart.project_uid,
    chart.chart_id,
    chart.chart_name,
    chart.chart_type,
    chart.chart_meta,
    item.place as meta_place,
    {{ json_text('item.value', ['name']) }} as metric_name
from {{ ref('stg_growingio__charts') }} as chart
{{ json_items('chart.chart_meta', 'item') }}
where chart.valid_to is null and {{ json_value('item.value', ['metric'], 'boolean') }}
