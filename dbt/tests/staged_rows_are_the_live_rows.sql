{#- The staging models show as many rows as nightload counted as live when it last proved the table. -#}
{%- set staged = {
    'tonalytica': ['queries', 'dashboards', 'widgets', 'visualizations', 'users', 'alerts'],
    'growingio': ['dashboards', 'dashboard_charts', 'segmentations', 'rules', 'chart_points'],
    'dataworks': ['published_apis', 'draft_apis', 'published_api_response_parameters'],
    'thinkingengine': ['metrics', 'reports', 'event_meta'],
    'tune': ['advertiser', 'advertiser_campaigns', 'advertiser_sites', 'advertiser_site_events'],
} %}
with staged as (
{%- for dataset, tables in staged.items() %}{% set outer = loop %}{% for table in tables %}
    select '{{ dataset }}' as dataset, '{{ table }}' as table_name, count(*) as staged_count
    from {{ ref('stg_' ~ dataset ~ '__' ~ table) }}
    {{ "union all" if not (outer.last and loop.last) }}
{%- endfor %}{% endfor %}
)

select staged.dataset, staged.table_name, staged.staged_count, health.live_count
from staged
join {{ ref('table_health') }} as health on health.dataset = staged.dataset and health.table_name = staged.table_name
where health.bad_nights_in_a_row = 0 and staged.staged_count <> health.live_count
