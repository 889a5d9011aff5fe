"""What the warehouse behind the Redash answers: a query's recipe turns its rendered text into columns and rows.

Same seed, same recipe and same rendered text give the same table, so a parameter changes the rows and a re-run does not
(but for `changes_every_run`). `error`, `nodata` and `sleep` are statements that fail, return nothing, or take long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.core.nasty import BEYOND_64_BITS, BIG_INTEGERS, LONE_SURROGATE, LONG_CHINESE, TEXTS
from sandbox.core.wire import dumps_python
from sandbox.tonalytica.big import BIG_COLUMNS, big_rows
from sandbox.tonalytica.tables import Row, Run, StatementError, Table, columns_of, named_columns, positional, table


def _day(number: int) -> str:
    return f"2024-{number // 28 % 12 + 1:02d}-{number % 28 + 1:02d}"


def daily(run: Run) -> Table:
    rng = run.rng
    columns = columns_of(day="date", tx_count="integer", volume="float", active_wallets="integer", failed_ratio="float")
    start = rng.randrange(300)
    rows = [
        (_day(start + i), rng.randrange(10**6), rng.randrange(10**8) / 100, rng.randrange(5000), rng.random() / 10)
        for i in range(rng.randrange(5, 30))
    ]
    return positional(columns, rows)


def every_type(run: Run) -> Table:
    pairs: list[tuple[str, str | None, Any, Any]] = [
        ("i2", "integer", 1, None),
        ("i8", "integer", 2**53 + 1, 2**63 - 1),
        ("num38", "float", 1.2345678901234567e19, 0.1),
        ("f8", "float", 0.30000000000000004, 100.0),
        ("nan", "float", None, None),
        ("b", "boolean", True, False),
        ("bn", "boolean", None, None),
        ("d", "date", "2024-02-29", "0001-01-01"),
        ("ts", "datetime", "2024-02-29T23:59:59.999", "2024-02-29T23:59:59"),
        ("tstz", "datetime", "2024-02-29T18:29:59.123Z", "2024-02-29T12:00:00Z"),
        ("t", None, "12:34:56.789", "00:00:00"),
        ("iv", None, "1 day, 2:03:04.500000", "-1 day, 23:59:59"),
        ("txt", None, "text", ""),
        ("vc", "string", "vc", None),
        ("ch", None, "ch   ", "     "),
        ("bin", None, "deadbeef", ""),
        ("js", None, {"a": [1, 2, {"b": None}], "中": "文"}, []),
        ("arr", None, [1, 2, None], None),
        ("tarr", "string", ["x", "y,z"], []),
        ("u", None, "550e8400-e29b-41d4-a716-446655440000", "00000000-0000-0000-0000-000000000000"),
        ("rng", None, "[1, 10)", "empty"),
        ("ip", None, "10.0.0.1", "::1"),
        ("cash", None, "$12.50", "-$0.01"),
        ("pt", None, "(1,2)", None),
    ]
    columns = named_columns([(name, kind) for name, kind, _, _ in pairs])
    return positional(columns, [tuple(p[2] for p in pairs), tuple(p[3] for p in pairs)])


def nasty_texts(run: Run) -> Table:
    columns = columns_of(id="integer", txt=None, vc="string", note="string")
    rows = [(i, text, text, None if i % 3 else "") for i, text in enumerate(TEXTS)]
    return positional(columns, rows)


def lone_surrogate(run: Run) -> Table:
    return positional(columns_of(id="integer", txt=None), [(1, "fine"), (2, LONE_SURROGATE), (3, "总 fine again")])


def nan_literals(run: Run) -> Table:
    """An old Redash wrote NaN and Infinity bare, which is no JSON: a loader has to say so, or to cope."""
    rows = [{"id": 1, "ratio": float("nan")}, {"id": 2, "ratio": float("inf")}, {"id": 3, "ratio": 0.5}]
    return Table(columns_of(id="integer", ratio="float"), 3, lambda: dumps_python(rows))


def nasty_names(run: Run) -> Table:
    names: list[tuple[str, str | None]] = [
        ("Pool Name", "string"), ("总锁仓量", "float"), ("24h change %", "float"), ("a.b", "integer"),
        ("select", "string"), ("?column?", "integer"), ("kind::filter", "string"),
        ("x::multi-filter", "string"), ("#", "integer"),
        ("$amount", "float"), ("%", "float"), ("🚀", "integer"), ("_dlt_id", "string"), ("__", "integer"),
        ("1st", "integer"), ('quo"ted', "string"), ("tab\tname", "string"), (" padded ", "string"),
        ("a__b", "integer"), ("a_b", "integer"),
        ("Котик", "string"), ("שלום", "string"), ("", "integer"),
        (LONG_CHINESE + "甲", "integer"), (LONG_CHINESE + "乙", "integer"),
        ("c" * 90, "integer"), ("c" * 91, "integer"),
    ]  # fmt: skip
    columns = named_columns(names)
    values: list[dict[str | None, Any]] = [{"string": f"v{i}", "float": i + 0.5, "integer": 7 + i} for i in range(6)]
    return table(columns, [{c["name"]: value[c["type"]] for c in columns} for value in values])


def duplicate_names(run: Run) -> Table:
    columns = named_columns([(name, "integer") for name in ("id", "id", "name", "name", "id", "id1")])
    return positional(columns, [tuple(10 * i + j for j in range(6)) for i in range(4)])


def case_names(run: Run) -> Table:
    amounts: list[tuple[str, str | None]] = [(name, "float") for name in ("Amount", "amount", "AMOUNT")]
    columns = named_columns([*amounts, ("Name", "string"), ("NAME", "string")])
    return positional(columns, [(1.5 + i, 2.5 + i, 3.5 + i, f"a{i}", f"b{i}") for i in range(4)])


def only_nulls(run: Run) -> Table:
    columns = columns_of(i="integer", f="float", b="boolean", s="string", d="date", ts="datetime", untyped=None)
    return positional(columns, [(None,) * 7 for _ in range(5)])


def untyped(run: Run) -> Table:
    columns = columns_of(
        ints=None, floats=None, mixed_numbers=None, mixed_text=None, bools=None, objects=None, lists=None,
        mixed_all=None, uuids=None, times=None, intervals=None, late=None,
    )  # fmt: skip
    mixed: list[Any] = [1, "x", None, True, 2.5, {"a": 1}, [1], "2024-01-01"]
    rows = [
        (
            i, i + 0.5, i if i % 2 else i + 0.25, i if i % 2 else f"n/a {i}", i % 2 == 0,
            {"k": i, "deep": {"x": [i, None]}}, [i, str(i)], mixed[i], f"550e8400-e29b-41d4-a716-44665544000{i}",
            f"0{i}:00:00", f"{i} days, 0:00:00",
            None if i < 7 else 2**53 + 1,
        )
        for i in range(8)
    ]  # fmt: skip
    return positional(columns, rows)


def lying_types(run: Run) -> Table:
    """The type is a hint from the runner and values need not follow it (section 5)."""
    columns = columns_of(
        int_with_float="integer", int_with_text="integer", float_with_int="float",
        date_with_junk="date", bool_with_int="boolean", ts_with_mix="datetime", text_with_number="string",
    )  # fmt: skip
    rows: list[tuple[Any, ...]] = [
        (1, 1, 1, "2024-01-01", True, "2024-01-01T00:00:00Z", "007"),
        (2.5, "n/a", 2.0, "0000-00-00", 1, "2024-01-01T00:00:00.123", 7),
        (None, "", 0.1, "31/12/2024", None, "2024-01-01 00:00:00", None),
        (3, 4, 5, None, False, "2024-01-01T05:30:00+05:30", True),
    ]
    return positional(columns, rows)


def big_integers(run: Run) -> Table:
    columns = columns_of(id="integer", big="integer", untyped=None, as_text="string")
    rows = [(i, n, n, str(n)) for i, n in enumerate(BIG_INTEGERS)]
    return positional(columns, rows)


def beyond_64_bits(run: Run) -> Table:
    return positional(columns_of(id="integer", supply="integer"), [(1, 10), (2, BEYOND_64_BITS), (3, None)])


def decimals(run: Run) -> Table:
    columns = columns_of(id="integer", amount="float", exact="string")
    values: list[tuple[float | int | None, str | None]] = [
        (1.2345678901234567e19, "12345678901234567890.123456789"), (0.1, "0.10"), (-0.0, "0"), (1e-300, "1e-300"),
        (1.7976931348623157e308, "max"), (5e-324, "min"), (100, "100.00"), (None, None), (1e22, "1e22"),
    ]  # fmt: skip
    return positional(columns, [(i, a, e) for i, (a, e) in enumerate(values)])


def timestamps(run: Run) -> Table:
    columns = columns_of(id="integer", ts="datetime", tz="datetime", d="date", raw="string")
    rows: list[tuple[Any, ...]] = [
        (1, "2024-02-29T23:59:59.999", "2024-02-29T18:29:59.123Z", "2024-02-29", "2024-02-29 23:59"),
        (2, "2024-02-29T23:59:59", "2024-02-29T12:00:00Z", "1970-01-01", "0000-00-00"),
        (3, "0001-01-01T00:00:00", "9999-12-31T23:59:59.999Z", "9999-12-31", "0000-00-00 00:00:00"),
        (4, "2024-03-31T02:30:00", "2024-03-31T02:30:00+02:00", None, "31/12/2024"),
        (5, None, None, "0001-01-01", ""),
    ]
    return positional(columns, rows)


def leading_zeros(run: Run) -> Table:
    columns = columns_of(code="string", zip=None, phone=None)
    return positional(columns, [("007", "00123", "+79990000000"), ("000", "0", ""), ("7", None, "0")])


def no_rows(run: Run) -> Table:
    return table(columns_of(id="integer", name="string", at="datetime", untyped=None), [])


def no_columns(run: Run) -> Table:
    return table([], [])


def sparse_keys(run: Run) -> Table:
    """Not an SQL source: rows leave keys out and columns have no type (section 5, InfluxDB)."""
    columns: list[dict[str, Any]] = [{"name": name, "friendly_name": name} for name in ("time", "host", "load")]
    rows: list[Row] = [
        {"time": "2024-01-01T00:00:00Z", "host": "a"},
        {"time": "2024-01-01T00:01:00Z", "load": 0.5},
        {},
        {"time": "2024-01-01T00:02:00Z", "host": "b", "load": 1, "undeclared": "x"},
    ]
    return table(columns, rows)


def with_metadata(run: Run) -> Table:
    found = daily(run)
    found.extra = {"metadata": {"data_scanned": 123456789}}
    return found


def truncated_flag(run: Run) -> Table:
    found = daily(run)
    found.extra = {"truncated": True}
    return found


def rows_before_columns(run: Run) -> Table:
    found = nasty_texts(run)
    found.rows_first = True
    return found


def deep_json(run: Run) -> Table:
    deep: Any = "bottom"
    for level in range(60):
        deep = {"level": level, "next": deep} if level % 2 else [deep, {"},{": "]}"}]
    return positional(
        columns_of(id="integer", js=None), [(1, deep), (2, {}), (3, None), (4, "[]"), (5, {"rows": [{"a": 1}]})]
    )


def wide(run: Run) -> Table:
    columns = named_columns([(f"c{i:03d}", "integer") for i in range(300)])
    return positional(columns, [tuple(i + j for j in range(300)) for i in range(20)])


def one_long_text(run: Run) -> Table:
    return positional(columns_of(id="integer", body=None), [(1, "长" * 200_000), (2, "short")])


def limited_rows(run: Run) -> Table:
    count = 1000 if run.text.rstrip().upper().endswith("LIMIT 1000") else 4000
    return positional(columns_of(id="integer", kind="string"), [(i, f"k{i % 7}") for i in range(count)])


def medium(run: Run) -> Table:
    rng = run.rng
    columns = columns_of(id="integer", address="string", balance="float", at="datetime", label=None)
    count = max(200, int(3000 * run.scale))
    return positional(
        columns,
        [
            (i, f"EQ{rng.getrandbits(120):030x}", rng.randrange(10**9) / 1000, f"{_day(i)}T00:00:00Z", TEXTS[i % 20])
            for i in range(count)
        ],
    )


def big(run: Run) -> Table:
    count = max(2000, int(200_000 * run.scale))
    return Table(named_columns(BIG_COLUMNS), count, lambda: big_rows(run.seed, count))


def changes_every_run(run: Run) -> Table:
    return positional(columns_of(run="integer", at="string"), [(run.number, f"run {run.number}")])


def parameterised(run: Run) -> Table:
    """Depends on the rendered text alone, so each set of parameter values has rows of its own."""
    rng = run.rng
    columns = columns_of(id="integer", address="string", amount="float", asked="string")
    return positional(
        columns,
        [
            (i, f"EQ{rng.getrandbits(96):024x}", rng.randrange(10**6) / 100, run.text)
            for i in range(rng.randrange(3, 12))
        ],
    )


def kinds(run: Run) -> Table:
    return positional(
        columns_of(value="string", name="string"), [("wallet_v3", "V3"), ("wallet_v4", "V4"), ("nft_item", "NFT")]
    )


def missing_relation(run: Run) -> Table:
    raise StatementError(
        'relation "table_that_is_not_there" does not exist\n'
        "LINE 1: ...cf71d85ad7ecfd, Scheduled: False */ select * from table_that...\n"
        "                                                             ^\n"
    )


def division(run: Run) -> Table:
    raise StatementError("division by zero\n")


def nodata(run: Run) -> Table:
    raise StatementError("Query completed but it returned no data.")


def fails_second_time(run: Run) -> Table:
    if run.number > 1:
        raise StatementError("Query exceeded Redash query execution time limit.")
    return daily(run)


SLOW = "pg_sleep"
"""A statement with this in it takes twenty times as long as the others."""

RECIPES: dict[str, Callable[[Run], Table]] = {
    recipe.__name__: recipe
    for recipe in (
        daily, every_type, nasty_texts, lone_surrogate, nan_literals, nasty_names, duplicate_names, case_names,
        only_nulls, untyped, lying_types, big_integers, beyond_64_bits, decimals, timestamps, leading_zeros, no_rows,
        no_columns,
        sparse_keys, with_metadata, truncated_flag, rows_before_columns, deep_json, wide, one_long_text, limited_rows,
        medium, big, changes_every_run, parameterised, kinds, missing_relation, division, nodata, fails_second_time,
    )
}  # fmt: skip
