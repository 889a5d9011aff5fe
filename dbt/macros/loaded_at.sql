{#- When a source table was last proven: the start of the newest run in which its counts agreed. -#}
{% macro loaded_at(relation) -%}
    select max(run.started_at)
    from {{ source('nightload', 'runs') }} as run
    join {{ source('nightload', 'run_tables') }} as run_table on run_table.run_id = run.run_id
    where run_table.dataset = '{{ relation.schema }}'
      and run_table.table_name = '{{ relation.identifier }}'
      and run_table.status in ('ok', 'unchanged', 'warning')
{%- endmacro %}
