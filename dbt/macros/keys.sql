{#- One text that names a thing across vendors: {{ key_of("'tune'", "'campaign'", 'campaign_id') }} is tune:campaign:520. -#}
{% macro key_of() -%}
    concat_ws(':'{% for part in varargs %}, cast({{ part }} as {{ kind_of('text') }}){% endfor %})
{%- endmacro %}
