{#- A column of a known kind as text, times in UTC; NULL where there is no column. -#}
{% macro as_text(column, kind) -%}
{%- if not column -%}
    cast(null as {{ kind_of('text') }})
{%- elif kind == 'timestamp' -%}
    {{ time_text(adapter.quote(column)) }}
{%- else -%}
    cast({{ adapter.quote(column) }} as {{ kind_of('text') }})
{%- endif -%}
{%- endmacro %}
