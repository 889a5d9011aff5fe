{#-
  A staging model over one table of the warehouse.

  `columns` lists [column, kind, name, path]: the column as it lands; a kind of kinds.sql, or `joined` for a JSON list of
  texts; what it is called here (default: the same); and for JSON the path to the value that is wanted.

  A team has only some of the vendors, and a vendor only some of the columns: what is not in the warehouse is NULL of
  its kind, and a table that is not there is an empty one. Rows that are gone at the vendor's (`_deleted_at`) stay out.
-#}
{% macro stage(dataset, table, columns) -%}
{%- set wanted = source(dataset, table) -%}
{%- set relation = load_relation(wanted) if execute else none -%}
{%- set there = adapter.get_columns_in_relation(relation) | map(attribute='name') | list if relation else [] -%}
select
{%- for entry in columns %}
{%- set column, kind = entry[0], entry[1] %}
{%- set name = entry[2] if entry | length > 2 else column %}
{%- if column not in there %}
    cast(null as {{ kind_of(kind) }}) as {{ name }}
{%- elif kind == 'joined' %}
    {{ json_joined(adapter.quote(column)) }} as {{ name }}
{%- elif entry | length > 3 %}
    {{ json_value(adapter.quote(column), entry[3], kind) }} as {{ name }}
{%- else %}
    cast({{ adapter.quote(column) }} as {{ kind_of(kind) }}) as {{ name }}
{%- endif %}{{ "," if not loop.last }}
{%- endfor %}
{%- if relation %}
from {{ wanted }}
{%- if '_deleted_at' in there %}
where _deleted_at is null
{%- endif %}
{%- else %}
where false
{%- endif %}
{%- endmacro %}
