{#- No two rows share all of `columns`, and none of them is NULL. -#}
{% test unique_together(model, columns) %}
    {%- set quoted = [] -%}
    {%- for column in columns %}{% do quoted.append(adapter.quote(column)) %}{% endfor -%}
    select {{ quoted | join(', ') }}, count(*) as rows_of_it
    from {{ model }}
    group by {{ quoted | join(', ') }}
    having count(*) > 1 or {% for column in quoted %}{{ column }} is null{{ " or " if not loop.last }}{% endfor %}
{% endtest %}
