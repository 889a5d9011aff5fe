with nights as (
    select
        run_table.*,
        run.started_at,
        run_table.table_status in ('ok', 'unchanged', 'warning') as is_good,
        row_number() over (partition by run_table.dataset, run_table.table_name order by run.started_at desc) as nights_ago
    from {{ ref('stg_nightload__run_tables') }} as run_table
    join {{ ref('stg_nightload__runs') }} as run on run.run_id = run_table.run_id
),

good as (
    select dataset, table_name, min(nights_ago) as nights_ago, max(started_at) as last_good_at
    from nights
    where is_good
    group by dataset, table_name
)

select
    night.vendor,
    night.dataset,
    night.table_name,
    night.load_mode,
    night.table_status as last_status,
    night.table_error as last_error,
    night.started_at as last_run_at,
    good.last_good_at,
    coalesce(good.nights_ago - 1, (
        select count(*) from nights as every_night
        where every_night.dataset = night.dataset and every_night.table_name = night.table_name
    )) as bad_nights_in_a_row,
    night.vendor_count,
    night.extracted_count,
    night.landed_count,
    night.live_count
from nights as night
left join good on good.dataset = night.dataset and good.table_name = night.table_name
where night.nights_ago = 1
