-- Which column of a query's result is which axis of its charts. Redash keeps that in the chart's options, by label.
with roles as (
    select
        chart.visualization_id,
        chart.query_id,
        entry.name as label,
        entry.value as axis
    from {{ ref('stg_tonalytica__visualizations') }} as chart
    {{ json_entries('chart.column_mapping', 'entry') }}
    union all
    select visualization_id, query_id, counter_column, 'counter'
    from {{ ref('stg_tonalytica__visualizations') }}
    where visualization_type = 'COUNTER' and counter_column is not null
)

select
    roles.visualization_id,
    roles.query_id,
    roles.label,
    roles.axis,
    result.table_name as result_table,
    result.column_name,
    result.data_type
from roles
left join {{ ref('stg_nightload__columns') }} as result
    on result.dataset = 'tonalytica_results'
    and result.table_name = 'query_' || cast(roles.query_id as {{ kind_of('text') }})
    and result.vendor_label = roles.label
