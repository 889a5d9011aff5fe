-- What was published is what was extracted, table by table and run by run.
select run_id, dataset, table_name, extracted_count, landed_count
from {{ ref('stg_nightload__run_tables') }}
where table_status in ('ok', 'unchanged', 'warning') and landed_count <> extracted_count
