{#- The value at `path` (a list of keys) of a JSON column, as text; NULL where there is none. -#}
{% macro json_text(column, path) %}{{ return(adapter.dispatch('json_text', 'nightload')(column, path)) }}{% endmacro %}

{% macro default__json_text(column, path) -%}
    json_extract_string({{ column }}, '$."{{ path | join('"."') }}"')
{%- endmacro %}

{% macro postgres__json_text(column, path) -%}
    ({{ column }} #>> '{ {{- '"' ~ path | join('","') ~ '"' -}} }')
{%- endmacro %}


{#- The same as a kind; NULL where the text is none of that kind, since nobody checks what people write into options. -#}
{% macro json_value(column, path, kind) -%}
{%- set text = json_text(column, path) | trim -%}
{%- set number = {'bigint': '^-?[0-9]{1,18}$', 'double': '^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$'} -%}
{%- if kind == 'boolean' -%}
    case lower({{ text }}) when 'true' then true when 'false' then false end
{%- elif kind in number -%}
    case when {{ text }} ~ '{{ number[kind] }}' then cast({{ text }} as {{ kind_of(kind) }}) end
{%- else -%}
    cast({{ text }} as {{ kind_of(kind) }})
{%- endif -%}
{%- endmacro %}


{#- A JSON list of texts in one text: ["ton", "kpi"] is `ton, kpi`. -#}
{% macro json_joined(column) %}{{ return(adapter.dispatch('json_joined', 'nightload')(column)) }}{% endmacro %}

{% macro default__json_joined(column) -%}
    array_to_string(json_extract_string({{ column }}, '$[*]'), ', ')
{%- endmacro %}

{% macro postgres__json_joined(column) -%}
    coalesce((
        select string_agg(item, ', ' order by place)
        from jsonb_array_elements_text(case when jsonb_typeof({{ column }}) = 'array' then {{ column }} end)
            with ordinality as items (item, place)
    ), case when {{ column }} is not null then '' end)
{%- endmacro %}


{#- `from t {{ json_items('t.column', 'item') }}`: a row per item of a list, with item.place (from 1) and item.value. -#}
{% macro json_items(column, alias) %}{{ return(adapter.dispatch('json_items', 'nightload')(column, alias)) }}{% endmacro %}

{% macro default__json_items(column, alias) -%}
    cross join lateral (
        select cast(each.key as bigint) + 1 as place, each.value from json_each({{ column }}) as each
    ) as {{ alias }}
{%- endmacro %}

{% macro postgres__json_items(column, alias) -%}
    cross join lateral jsonb_array_elements(case when jsonb_typeof({{ column }}) = 'array' then {{ column }} end)
        with ordinality as {{ alias }} (value, place)
{%- endmacro %}


{#- `from t {{ json_entries('t.column', 'entry') }}`: a row per key of an object, with entry.name and entry.value (text). -#}
{% macro json_entries(column, alias) %}{{ return(adapter.dispatch('json_entries', 'nightload')(column, alias)) }}{% endmacro %}

{% macro default__json_entries(column, alias) -%}
    cross join lateral (
        select each.key as name, json_extract_string(each.value, '$') as value from json_each({{ column }}) as each
    ) as {{ alias }}
{%- endmacro %}

{% macro postgres__json_entries(column, alias) -%}
    cross join lateral jsonb_each_text(case when jsonb_typeof({{ column }}) = 'object' then {{ column }} end)
        as {{ alias }} (name, value)
{%- endmacro %}
