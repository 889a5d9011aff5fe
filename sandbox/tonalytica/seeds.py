"""The queries the seed always has, one line per nasty kind: whatever the scale, each is there.

`(name, recipe, text)`; the text is what users of the API see, the recipe is what it returns.
"""

from __future__ import annotations

from typing import Any

from sandbox.core.nasty import LONG_CHINESE

NASTY: tuple[tuple[str, str, str], ...] = (
    ("Every type", "every_type", "select 1::smallint as i2, 9007199254740993::bigint as i8 /* every type */"),
    ("Texts that break parsers", "nasty_texts", "select id, txt, vc, note from nasty_texts order by id"),
    ("A lone surrogate", "lone_surrogate", "select id, txt from half_pairs"),
    ("NaN as an old Python wrote it", "nan_literals", "select id, 'NaN'::float8 as ratio from ratios"),
    (
        "Spaces, Capitals, 中文 columns",
        "nasty_names",
        'select id, "Pool Name", "总锁仓量", "24h change %" from pools order by id',
    ),
    ("Duplicate column names", "duplicate_names", "select id, id, name, name, id, id1 from twice"),
    ("Columns that differ in case", "case_names", 'select "Amount", amount, "AMOUNT", "Name", "NAME" from cases'),
    ("Only nulls", "only_nulls", "select null::int as i, null::float8 as f from generate_series(1, 5)"),
    ("No column has a type", "untyped", "select ints, floats, mixed_numbers, mixed_text from untyped"),
    ("Types that lie", "lying_types", "select int_with_float, int_with_text from sheet"),
    ("Ids above 2^53", "big_integers", "select id, big, untyped, as_text from big_ids"),
    ("Supply beyond 64 bits", "beyond_64_bits", "select id, supply from jettons"),
    ("Amounts as floats", "decimals", "select id, amount, amount::text as exact from payments"),
    ("Timestamps of every kind", "timestamps", "select id, ts, tz, d, raw from moments"),
    ("Leading zeros", "leading_zeros", "select code, zip, phone from codes"),
    ("No rows at all", "no_rows", "select id, name, at from wallets where false"),
    ("No columns at all", "no_columns", "select from wallets"),
    ("InfluxDB: keys come and go", "sparse_keys", "select time, host, load from cpu"),
    ("Athena: data scanned", "with_metadata", "select day, tx_count, volume from athena_daily"),
    ("Databricks: truncated", "truncated_flag", "select day, tx_count, volume from databricks_daily"),
    ("Rows before columns", "rows_before_columns", "select id, txt, vc, note from older_runner"),
    ("Deep JSON", "deep_json", "select id, js from deep"),
    ("Three hundred columns", "wide", "select * from wide"),
    ("One very long text", "one_long_text", "select id, body from essays"),
    ("Some thousand rows", "medium", "select id, address, balance, at, label from wallets order by id"),
    ("All transactions", "big", "select * from transactions order by id"),
    ("Changes every run", "changes_every_run", "select nextval('runs') as run, now() as at"),
    ("日活跃钱包数（去重）", "daily", "select day, count(*) from 钱包 group by 1"),
    (LONG_CHINESE + "甲", "daily", "select day, inflow from 净流入_甲"),
    (LONG_CHINESE + "乙", "daily", "select day, inflow from 净流入_乙"),
    ("Sales Report", "daily", "select day, tx_count from sales_capital"),
    ("sales report", "daily", "select day, tx_count from sales_small"),
    ("sales-report", "daily", "select day, tx_count from sales_dash"),
    ("Three queries have this name", "daily", "select 1 as which"),
    ("Three queries have this name", "daily", "select 2 as which"),
    ("Three queries have this name", "daily", "select 3 as which"),
    ("🚀 to the moon 👩‍👩‍👧‍👦", "daily", "select day, volume from moon"),
    ("rtl שלום \u202eabc", "daily", "select day, volume from rtl"),
    ("Quotes ' \" ` and \\ and / and\ttab", "daily", "select day, volume from quotes where a = 'it''s'"),
    ("../../etc/passwd", "daily", "select day, volume from paths"),
    ("#$%.?*", "daily", "select day, volume from symbols"),
    ("x" * 255, "daily", "select day, volume from long_name"),
    ("Kotik Котик", "daily", "select day, volume from котик"),
    ("Dropdown source: kinds", "kinds", "select value, name from kinds"),
    ("Fails the second time", "fails_second_time", "select day, volume from flaky"),
)

SHARED_TEXTS: tuple[tuple[str, str], ...] = (
    ("Shared text, one", "select day, volume from shared_daily order by day"),
    ("Shared text, two", "select day,  volume\nfrom shared_daily\norder by day"),
    ("Shared text, three", "/* of another author */ select day, volume from shared_daily order by day"),
)

NEVER_RUN: tuple[tuple[str, str, str], ...] = (
    ("Fails: no such table", "missing_relation", "select * from table_that_is_not_there"),
    ("Fails: division", "division", "select 1/0"),
    ("Statement without rows", "nodata", "create table if not exists scratch (id int)"),
    ("Never executed", "daily", "select day, volume from never_executed"),
    ("Takes long", "daily", "select pg_sleep(30), day, volume from slow"),
)


def parameter(name: str, kind: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "title": name.title(), "value": value, "global": False, "locals": [], **more}


KINDS = "wallet_v3\nwallet_v4\nnft_item"
SEVERAL = {"prefix": "'", "suffix": "'", "separator": ","}

PARAMETERISED: tuple[tuple[str, str, tuple[dict[str, Any], ...]], ...] = (
    ("Param: number", "select id, address from wallets order by id limit {{ n }}", (parameter("n", "number", 10),)),
    (
        "Param: text (unsafe)",
        "select id, address from wallets where label = '{{ needle }}'",
        (parameter("needle", "text", "wallet 1"),),
    ),
    ("Param: date", "select * from daily_stats where day = '{{ day }}'", (parameter("day", "date", "2024-01-01"),)),
    (
        "Param: date range",
        "select * from daily_stats where day between '{{ period.start }}' and '{{ period.end }}'",
        (parameter("period", "date-range", {"start": "2024-01-01", "end": "2024-01-31"}),),
    ),
    (
        "Param: dynamic date range",
        "select * from daily_stats where day >= '{{ period.start }}' and day < '{{ period.end }}'",
        (parameter("period", "date-range", "d_last_30_days"),),
    ),
    (
        "Param: enum",
        "select * from wallets where kind = '{{ kind }}'",
        (parameter("kind", "enum", "wallet_v3", enumOptions=KINDS),),
    ),
    (
        "Param: enum, several values",
        "select * from wallets where kind in ({{ kinds }})",
        (
            parameter(
                "kinds", "enum", ["wallet_v3", "nft_item"], enumOptions=KINDS, multiValuesOptions=SEVERAL
            ),
        ),
    ),
    (
        "Param: query dropdown",
        "select * from nft where kind = '{{ k }}'",
        (parameter("k", "query", "nft_item", queryId=0),),
    ),
    (
        "Param: two of them",
        "select * from wallets where id < {{ 上限 }} and label = '{{ needle }}'",
        (parameter("上限", "number", 5), parameter("needle", "text", "a")),
    ),
)  # fmt: skip
