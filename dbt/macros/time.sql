{#- A timestamp as text in UTC, the same on every database. -#}
{% macro time_text(column) %}{{ return(adapter.dispatch('time_text', 'nightload')(column)) }}{% endmacro %}

{% macro default__time_text(column) -%}
    strftime({{ column }} at time zone 'UTC', '%Y-%m-%d %H:%M:%S')
{%- endmacro %}

{% macro postgres__time_text(column) -%}
    to_char({{ column }} at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')
{%- endmacro %}


{#- The day of a timestamp, in UTC. -#}
{% macro day_of(column) -%}
    cast({{ column }} at time zone 'UTC' as date)
{%- endmacro %}


{#- The first moment of a day, in UTC. -#}
{% macro start_of(day) -%}
    cast({{ day }} as timestamp) at time zone 'UTC'
{%- endmacro %}


{#- Seconds from one timestamp to another. -#}
{% macro seconds_between(first, last) %}{{ return(adapter.dispatch('seconds_between', 'nightload')(first, last)) }}{% endmacro %}

{% macro default__seconds_between(first, last) -%}
    (epoch_ms({{ last }}) - epoch_ms({{ first }})) / 1000.0
{%- endmacro %}

{% macro postgres__seconds_between(first, last) -%}
    cast(extract(epoch from {{ last }} - {{ first }}) as double precision)
{%- endmacro %}
