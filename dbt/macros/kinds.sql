{#- A kind of column, in the words of the database. -#}
{% macro kind_of(kind) %}{{ return(adapter.dispatch('kind_of', 'nightload')(kind)) }}{% endmacro %}

{% macro default__kind_of(kind) %}
    {{ return({'text': 'varchar', 'joined': 'varchar', 'double': 'double', 'json': 'json', 'timestamp': 'timestamptz', 'decimal': 'decimal(38, 9)'}.get(kind, kind)) }}
{% endmacro %}

{% macro postgres__kind_of(kind) %}
    {{ return({'joined': 'text', 'double': 'double precision', 'json': 'jsonb', 'timestamp': 'timestamptz', 'decimal': 'numeric'}.get(kind, kind)) }}
{% endmacro %}
