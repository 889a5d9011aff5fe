{#- The tables of results come and go with the queries, so this reads which of them the charts point to. -#}
{{ config(materialized='table') }}
-- depends_on: {{ ref('int_tonalytica__chart_columns') }}
{%- set wanted %}
    select y.visualization_id, y.query_id, y.label, y.result_table, y.column_name, max(x.column_name) as x_column,
        max(x.data_type) as x_type, max(split.column_name) as split_column, max(given.column_name) as parameters_column
    from {{ ref('int_tonalytica__chart_columns') }} as y
    join information_schema.columns as there
        on there.table_schema = 'tonalytica_results'
        and there.table_name = y.result_table
        and there.column_name = y.column_name
    left join information_schema.columns as given
        on given.table_schema = 'tonalytica_results'
        and given.table_name = y.result_table
        and given.column_name = '_parameters'
    left join {{ ref('int_tonalytica__chart_columns') }} as x
        on x.visualization_id = y.visualization_id and x.axis = 'x'
    left join {{ ref('int_tonalytica__chart_columns') }} as split
        on split.visualization_id = y.visualization_id and split.axis = 'series'
    where y.axis in ('y', 'counter') and y.data_type in ('bigint', 'double', 'decimal')
    group by 1, 2, 3, 4, 5
    order by 1, 3
{%- endset %}
{%- set columns_built = load_relation(ref('int_tonalytica__chart_columns')) if execute else none %}
{%- for series in (run_query(wanted) if columns_built else []) %}
select
    {{ series['visualization_id'] }} as visualization_id,
    {{ series['query_id'] }} as query_id,
    {{ dbt.string_literal(dbt.escape_single_quotes(series['label'])) }} as metric_name,
    {{ as_text(series['split_column'], 'text') }} as series_name,
    {{ as_text(series['parameters_column'], 'text') }} as parameters,
    {{ as_text(series['x_column'], series['x_type']) }} as x,
    cast({{ adapter.quote(series['column_name']) }} as {{ kind_of('double') }}) as metric_value
from {{ adapter.quote('tonalytica_results') }}.{{ adapter.quote(series['result_table']) }}
union all
{%- endfor %}
select
    cast(null as bigint) as visualization_id,
    cast(null as bigint) as query_id,
    cast(null as {{ kind_of('text') }}) as metric_name,
    cast(null as {{ kind_of('text') }}) as series_name,
    cast(null as {{ kind_of('text') }}) as parameters,
    cast(null as {{ kind_of('text') }}) as x,
    cast(null as {{ kind_of('double') }}) as metric_value
where false
