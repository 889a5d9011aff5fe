with tables_of as (
    select
        run_id,
        vendor,
        count(*) as table_count,
        cast(sum(case when table_status in ('ok', 'unchanged', 'warning') then 0 else 1 end) as bigint) as bad_table_count,
        cast(sum(extracted_count) as bigint) as extracted_count,
        cast(sum(landed_count) as bigint) as landed_count,
        cast(sum(deleted_count) as bigint) as deleted_count
    from {{ ref('stg_nightload__run_tables') }}
    group by run_id, vendor
)

select
    run.run_id,
    vendor.vendor,
    run.started_at,
    run.finished_at,
    {{ seconds_between('run.started_at', 'run.finished_at') }} as run_seconds,
    vendor.run_seconds as vendor_seconds,
    run.run_status,
    vendor.vendor_status,
    vendor.vendor_error,
    vendor.request_count,
    coalesce(tables_of.table_count, 0) as table_count,
    coalesce(tables_of.bad_table_count, 0) as bad_table_count,
    tables_of.extracted_count,
    tables_of.landed_count,
    tables_of.deleted_count
from {{ ref('stg_nightload__runs') }} as run
join {{ ref('stg_nightload__run_vendors') }} as vendor on vendor.run_id = run.run_id
left join tables_of on tables_of.run_id = vendor.run_id and tables_of.vendor = vendor.vendor
