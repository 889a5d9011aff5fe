"""From JSON rows to parquet: every value exactly, each in one declared way, whatever the vendor sends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reference import expected, found, loads
from sources.convert.json_envelope import cut_array
from sources.convert.parquet import Converted, to_parquet
from sources.convert.spool import Spool, iter_rows
from sources.convert.types import Column, Kind, Real, join
from sources.core.errors import BrokenAnswer, TypeFlip
from sources.extract.dlt_hints import at_least

SQL_TYPES = {Kind.BOOL: "BOOLEAN", Kind.BIGINT: "BIGINT", Kind.DOUBLE: "DOUBLE", Kind.DECIMAL: "DECIMAL(38,0)",
             Kind.TEXT: "VARCHAR", Kind.JSON: "JSON", Kind.TIMESTAMP: "TIMESTAMPTZ", Kind.DATE: "DATE"}  # fmt: skip


def convert(folder: Path, body: str | bytes, *columns: Column, **options: Any) -> Converted:
    """Convert a JSON array, given as its text, as it would come from a vendor."""
    spool = Spool(folder / "rows.json")
    spool.array(body.encode() if isinstance(body, str) else body)
    named = [replace(column, name=column.name or f"c{n}") for n, column in enumerate(columns)]
    return to_parquet(spool, out=folder / "rows.parquet", columns=named, load_id="1.5", where="shop.orders", **options)


def values(converted: Converted, column: str = "c0") -> list[Any]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return [row[0] for row in connection.execute(f"SELECT \"{column}\" FROM '{converted.path}'").fetchall()]


def column_of(folder: Path, texts: Sequence[str], column: Column) -> tuple[Kind | None, list[Any]]:
    """One column whose values are given as JSON texts: its kind, and what landed."""
    body = (
        "["
        + ",".join(f'{{"n": {position}, {json.dumps(column.label)}: {text}}}' for position, text in enumerate(texts))
        + "]"
    )
    converted = convert(folder, body, column, Column(label="n", name="n", kind=Kind.BIGINT))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(f"SELECT c0 FROM '{converted.path}' ORDER BY n").fetchall()
    return converted.columns[0].kind, [row[0] for row in rows]


# -- what a column becomes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "kind", "landed"),
    [
        (["1", "2"], Kind.BIGINT, [1, 2]),
        (["1", "1.5"], Kind.DOUBLE, [1.0, 1.5]),
        (["true", "false", "null"], Kind.BOOL, [True, False, None]),
        (["true", "2"], Kind.BIGINT, [1, 2]),
        (["true", "1.5"], Kind.DOUBLE, [1.0, 1.5]),
        (["1", '"x"'], Kind.TEXT, ["1", "x"]),
        (["true", '"x"'], Kind.TEXT, ["true", "x"]),
        (["1.5", '"x"'], Kind.TEXT, ["1.5", "x"]),
        (["1.1", '"1.10"', "12345678901234567890.123456789", "0.12345678901234567", '"x"'], Kind.TEXT,
         ["1.1", "1.10", "12345678901234567890.123456789", "0.12345678901234567", "x"]),
        (['"12345678901234567890.123456789"', '"1.2345678901234567e+19"'], Kind.TEXT,
         ["12345678901234567890.123456789", "1.2345678901234567e+19"]),
        (["7", '"007"'], Kind.TEXT, ["7", "007"]),
        (['"007"', '"1e5"', '"1.50"'], Kind.TEXT, ["007", "1e5", "1.50"]),
        (["9007199254740993", "-9223372036854775808", "9223372036854775807"], Kind.BIGINT,
         [9007199254740993, -(2**63), 2**63 - 1]),
        (["9223372036854775808", "1"], Kind.DECIMAL, [Decimal(2**63), Decimal(1)]),
        ([str(10**38), "1"], Kind.TEXT, [str(10**38), "1"]),
        (["9007199254740993", "0.5"], Kind.TEXT, ["9007199254740993", "0.5"]),
        (["9007199254740992", "0.5"], Kind.DOUBLE, [9007199254740992.0, 0.5]),
        (["18446744073709551616", "0.5"], Kind.TEXT, ["18446744073709551616", "0.5"]),
        (["NaN", "Infinity", "-Infinity", "0.5"], Kind.DOUBLE, [None, None, None, 0.5]),
        (["NaN", "1"], Kind.BIGINT, [None, 1]),
        (["null", "null"], Kind.TEXT, [None, None]),
        (['{"a": 1}', "null"], Kind.JSON, ['{"a":1}', None]),
        (['{"a": 1}', '"x"', "1", "true"], Kind.JSON, ['{"a":1}', '"x"', "1", "true"]),
        (["[1, 2.50]", "{}"], Kind.JSON, None),
        (["-0.0", "5e-324", "1.7976931348623157e308"], Kind.DOUBLE, [-0.0, 5e-324, 1.7976931348623157e308]),
        (['"2024-01-01"'], Kind.TEXT, ["2024-01-01"]),
    ],
)  # fmt: skip
def test_values_decide_the_kind_of_a_column(texts: list[str], kind: Kind, landed: Any, tmp_path: Path) -> None:
    got = column_of(tmp_path, texts, Column(label="v"))
    assert got[0] == kind
    if landed is not None:
        if kind == Kind.JSON:
            assert [value and json.loads(value) for value in got[1]] == [
                value and json.loads(value) for value in landed
            ]
        else:
            assert got[1] == landed
            assert [type(value) for value in got[1]] == [type(value) for value in landed]


@pytest.mark.parametrize("late", ['"n/a"', "1.5", "true", "18446744073709551616", '{"a": 1}', '"007"'])
def test_a_value_beyond_the_sample_is_as_exact_as_one_in_it(late: str, tmp_path: Path) -> None:
    """The kind is guessed from the first rows; what comes later must neither be rounded nor lost."""
    texts = ["1"] * 600 + [late]
    kind, landed = column_of(tmp_path, texts, Column(label="v"))
    assert kind is not None
    assert [found(value, SQL_TYPES[kind], nested=False) for value in landed] == [
        expected(loads(text), SQL_TYPES[kind]) for text in texts
    ]


@pytest.mark.parametrize(
    ("kind", "text", "landed"),
    [
        (Kind.BIGINT, '"12"', 12), (Kind.BIGINT, "12", 12), (Kind.BIGINT, "12.0", 12), (Kind.BIGINT, "1e3", 1000),
        (Kind.BIGINT, "null", None), (Kind.BIGINT, "NaN", None),
        (Kind.BIGINT, "1.5", TypeFlip), (Kind.BIGINT, '"007"', TypeFlip), (Kind.BIGINT, '"x"', TypeFlip),
        (Kind.BIGINT, "9223372036854775808", TypeFlip),
        (Kind.BIGINT, "true", TypeFlip), (Kind.BIGINT, "{}", TypeFlip),
        (Kind.BIGINT, '""', TypeFlip), (Kind.BIGINT, '" 7"', TypeFlip), (Kind.BIGINT, '"0x10"', TypeFlip),
        (Kind.BOOL, "1", True), (Kind.BOOL, "0", False), (Kind.BOOL, '"true"', True), (Kind.BOOL, "2", TypeFlip),
        (Kind.BOOL, '"yes"', TypeFlip),
        (Kind.DOUBLE, "1", 1.0), (Kind.DOUBLE, "0.1", 0.1), (Kind.DOUBLE, "Infinity", None),
        (Kind.DOUBLE, '"x"', TypeFlip), (Kind.DOUBLE, "true", TypeFlip),
        (Kind.TEXT, "7", "7"), (Kind.TEXT, "true", "true"), (Kind.TEXT, '"\\u0000"', "\ufffd"),
        (Kind.TEXT, '"\\ud800x"', "\ufffdx"), (Kind.TEXT, '"🚀"', "🚀"),
        (Kind.TEXT, '""', ""), (Kind.TEXT, '"NULL"', "NULL"),
        (Kind.DECIMAL, "1.5", Decimal("1.5")), (Kind.DECIMAL, '"0.10"', Decimal("0.1")),
        (Kind.DECIMAL, "12345678901234567890.123456789", Decimal("12345678901234567890.123456789")),
        (Kind.DECIMAL, "0.1234567891", TypeFlip), (Kind.DECIMAL, '"1,5"', TypeFlip), (Kind.DECIMAL, "1e30", TypeFlip),
        (Kind.DATE, '"2024-02-29"', "2024-02-29"), (Kind.DATE, '"0000-00-00"', None), (Kind.DATE, '""', None),
        (Kind.DATE, '"2024-02-29T10:00:00"', TypeFlip),
        (Kind.DATE, '"2023-02-29"', TypeFlip), (Kind.DATE, "20240229", TypeFlip),
        (Kind.TIMESTAMP, '"2024-02-29T18:29:59.123Z"', "2024-02-29 18:29:59.123+00"),
        (Kind.TIMESTAMP, '"2024-02-29T18:29:59+05:30"', "2024-02-29 12:59:59+00"),
        (Kind.TIMESTAMP, '"2024-02-29 18:29:59"', "2024-02-29 18:29:59+00"),
        (Kind.TIMESTAMP, '"0000-00-00 00:00:00"', None),
        (Kind.TIMESTAMP, '"soon"', TypeFlip), (Kind.TIMESTAMP, "5", TypeFlip),
        (Kind.JSON, '"x"', '"x"'), (Kind.JSON, "null", None), (Kind.JSON, "[NaN, 1]", "[null,1]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("among_others", [False, True])
def test_a_declared_column_holds_the_value_exactly_or_refuses_it(
    kind: Kind, text: str, landed: Any, among_others: bool, tmp_path: Path
) -> None:
    """`among_others`: a neighbour forces the slow and exact way, which must come to the same."""
    neighbour = '"\\ud800"' if among_others else "1"
    body = f'[{{"v": {text}, "w": {neighbour}}}]'
    columns = (Column(label="v", kind=kind), Column(label="w"))
    if landed is TypeFlip:
        with pytest.raises(TypeFlip) as refused:
            convert(tmp_path, body, *columns)
        told = str(refused.value)
        assert "shop.orders" in told and "column v " in told and str(kind) in told
        assert "a rebuild with --full fails in the same way" in told and "nightload run --full" not in told
        return
    (value,) = values(convert(tmp_path, body, *columns))
    if kind in (Kind.DATE, Kind.TIMESTAMP) and value is not None:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            value = connection.execute("SELECT ?::VARCHAR", [value]).fetchall()[0][0]
    assert value == landed
    assert type(value) is type(landed)


@pytest.mark.parametrize(
    ("text", "landed"),
    [
        (r'{"a": "\u0000", "\u0000": "x\u0000\u0000"}', {"a": "\ufffd", "\ufffd": "x\ufffd\ufffd"}),
        (r'{"a": "\\u0000", "b": "\\\u0000"}', {"a": r"\u0000", "b": "\\\ufffd"}),
        (r'{"a": "\u0000", "b": NaN}', {"a": "\ufffd", "b": None}),
        (r'{"a": "\ud800", "b": "\u0000", "\udfff": 1}', {"a": "\ufffd", "b": "\ufffd", "\ufffd": 1}),
        ('{"a": 1e200000, "b": [-1e99999, 1.5]}', {"a": None, "b": [None, 1.5]}),
        ('{"a": "nan, inf", "b": "NaN", "c": "x: 1e99999 ,"}', {"a": "nan, inf", "b": "NaN", "c": "x: 1e99999 ,"}),
        ('{"a": "", "": []}', {"a": "", "": []}),
    ],
)
@pytest.mark.parametrize("among_others", [False, True])
def test_json_lands_as_every_database_takes_it(
    text: str, landed: Any, among_others: bool, tmp_path: Path, postgres: str
) -> None:
    """Postgres' jsonb refuses NUL, half a surrogate pair, and a number past its numeric."""
    neighbour = '"\\ud800"' if among_others else "1"
    body = f'[{{"v": {text}, "w": {neighbour}}}]'
    (value,) = values(convert(tmp_path, body, Column(label="v", kind=Kind.JSON), Column(label="w")))
    assert json.loads(value) == landed
    with closing(psycopg2.connect(postgres)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb", [value])
        assert cursor.fetchone() == (landed,)


@pytest.mark.parametrize("word", ["nan", "-inf", "infinity"])
def test_a_word_where_json_has_none_is_told(word: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenAnswer, match="not JSON"):
        convert(tmp_path, f'[{{"v": {{"a": {word}}}}}]', Column(label="v", kind=Kind.JSON))


def test_a_zero_date_is_null_in_a_column_of_dates_and_itself_in_one_of_texts(tmp_path: Path) -> None:
    hinted = Column(label="v", kind=Kind.DATE, declared=False)
    assert column_of(tmp_path, ['"2024-01-01"', '"0000-00-00"', '""'], hinted)[0] == Kind.DATE
    kind, landed = column_of(tmp_path, ['"2024-01-01"', '"0000-00-00"', '""', '"31/12/2024"'], hinted)
    assert (kind, landed) == (Kind.TEXT, ["2024-01-01", "0000-00-00", "", "31/12/2024"])


NO_NUMBERS = ['"NaN"', '"Infinity"', '"-Infinity"']


def rows_of(texts: Sequence[str], *, strict: bool) -> str:
    """Rows with these JSON texts under "v"; `strict`: a neighbour forces the strict cast."""
    return "[" + ",".join(f'{{"v": {text}, "w": {STRANGE if strict else 1}}}' for text in texts) + "]"


STRANGE = '"\\ud800"'


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize(
    ("kind", "number", "landed"), [(Kind.BIGINT, "7", 7), (Kind.DOUBLE, "1.5", 1.5), (Kind.DECIMAL, "7", Decimal(7))]
)
def test_nan_as_a_text_is_null_where_a_number_is_hinted(
    kind: Kind, number: str, landed: Any, declared: bool, strict: bool, tmp_path: Path
) -> None:
    body = rows_of([number, *NO_NUMBERS], strict=strict)
    converted = convert(tmp_path, body, Column(label="v", kind=kind, declared=declared), Column(label="w"))
    assert converted.columns[0].kind == kind
    assert sorted(values(converted), key=str) == sorted([landed, None, None, None], key=str)


def test_nan_as_a_text_is_null_where_a_number_is_stored(tmp_path: Path) -> None:
    column = at_least(Column(label="v", name="c0", declared=False), {"c0": {"data_type": "double"}})
    assert column_of(tmp_path, ["1.5", *NO_NUMBERS], column) == (Kind.DOUBLE, [1.5, None, None, None])


@pytest.mark.parametrize("rows", [1, 600])
def test_nan_as_a_text_stays_in_a_column_of_texts(rows: int, tmp_path: Path) -> None:
    """Behind the sampled rows as among them."""
    kind, landed = column_of(tmp_path, ["1.5"] * rows + NO_NUMBERS, Column(label="v"))
    assert (kind, landed[rows:]) == (Kind.TEXT, ["NaN", "Infinity", "-Infinity"])
    hinted = Column(label="v", kind=Kind.BIGINT, declared=False)
    assert column_of(tmp_path, ["7", '"NaN"', '"n/a"'], hinted) == (Kind.TEXT, ["7", "NaN", "n/a"])
    assert column_of(tmp_path, NO_NUMBERS, Column(label="v", kind=Kind.TEXT))[1] == ["NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("text", ['"nan"', '"inf"', '"+Infinity"', '"NAN"'])
def test_another_word_is_no_number_in_a_declared_column(text: str, strict: bool, tmp_path: Path) -> None:
    with pytest.raises(TypeFlip):
        convert(tmp_path, rows_of([text], strict=strict), Column(label="v", kind=Kind.DOUBLE), Column(label="w"))


@pytest.mark.parametrize("strict", [False, True])
def test_a_number_that_no_double_holds_is_null(strict: bool, tmp_path: Path) -> None:
    body = rows_of(["1e400"], strict=strict)
    assert values(convert(tmp_path, body, Column(label="v", kind=Kind.DOUBLE), Column(label="w"))) == [None]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("kind", [Kind.DATE, Kind.TIMESTAMP])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_a_date_whose_month_or_day_is_zero_is_null(
    kind: Kind, declared: bool, zone: str, strict: bool, tmp_path: Path
) -> None:
    zeros = ["2019-12-00", "2019-00-00", "2019-00-15", "0000-00-00", "2019-12-00 00:00:00", "2019-12-00T08:00:00.5Z",
             "0000-00-00T00:00:00+08:00"]  # fmt: skip
    column = Column(label="v", kind=kind, declared=declared, zone=zone)
    body = rows_of([json.dumps(text) for text in ["2019-12-01", *zeros]], strict=strict)
    converted = convert(tmp_path, body, column, Column(label="w"))
    assert converted.columns[0].kind == kind
    assert sorted(value is None for value in values(converted)) == [False, *(True for _ in zeros)]
    assert column_of(tmp_path, ['"2019-12-00"', '"x"'], replace(column, kind=Kind.TEXT))[1] == ["2019-12-00", "x"]


@pytest.mark.parametrize("text", ["2019-13-00", "2019-00-40", "2019-12-00x", "2019-12-00 25"])
def test_what_only_looks_like_a_zero_date_is_no_time(text: str, tmp_path: Path) -> None:
    hinted = Column(label="v", kind=Kind.TIMESTAMP, declared=False)
    assert column_of(tmp_path, [json.dumps(text)], hinted) == (Kind.TEXT, [text])


@pytest.mark.parametrize(
    ("text", "zone", "landed"),
    [
        ("2019-12-01 08:00:00 CST", "Asia/Shanghai", "2019-12-01 00:00:00+00"),
        ("2019-12-01 08:00:00 CST", "America/Chicago", "2019-12-01 14:00:00+00"),
        ("2019-12-01 08:00:00 CST", "UTC", None),
        ("2019-12-01 08:00:00 PST", "Asia/Shanghai", None),
        ("2019-12-01 08:00 EST", "UTC", None),
        ("2019-12-01 08:00:00 NST", "UTC", None),
        ("2019-12-01 08:00:00 EST5EDT", "Asia/Shanghai", None),
        ("08:00:00 CST", "Asia/Shanghai", None),
        ("2019-12-01 08:00:00 UTC", "Asia/Shanghai", "2019-12-01 08:00:00+00"),
        ("2019-12-01 08:00:00.000 Asia/Shanghai", "UTC", "2019-12-01 00:00:00+00"),
        ("2019-12-01 08:00:00.000 America/New_York", "Asia/Shanghai", "2019-12-01 13:00:00+00"),
        ("2019-12-01 08:00:00+00", "Asia/Shanghai", "2019-12-01 08:00:00+00"),
        ("2019-12-01 08:00+01", "Asia/Shanghai", "2019-12-01 07:00:00+00"),
        ("2019-1-2 8:00+08:00", "America/Chicago", "2019-01-02 00:00:00+00"),
        ("2019-12-01 08:00:00 +8", "Asia/Shanghai", None),
        ("2019-12-01T08:00", "Asia/Shanghai", "2019-12-01 00:00:00+00"),
        ("2019-12-01", "Asia/Shanghai", "2019-11-30 16:00:00+00"),
        ("2019-12-01 8:00:00 AM", "Asia/Shanghai", None),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_a_zone_in_a_time_is_read_as_it_is_or_not_at_all(
    text: str, zone: str, landed: str | None, strict: bool, tmp_path: Path
) -> None:
    """None: the text is no time, so a hinted column is a text and a declared one refuses it."""
    body = rows_of([json.dumps(text)], strict=strict)
    hinted = Column(label="v", kind=Kind.TIMESTAMP, zone=zone, declared=False)
    converted = convert(tmp_path, body, hinted, Column(label="w"))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        (got,) = connection.execute(f"SELECT c0::VARCHAR FROM '{converted.path}'").fetchone() or ()
    assert (converted.columns[0].kind, got) == ((Kind.TIMESTAMP, landed) if landed else (Kind.TEXT, text))
    if landed is None:
        with pytest.raises(TypeFlip):
            convert(tmp_path, body, replace(hinted, declared=True), Column(label="w"))


def test_a_time_without_a_zone_is_of_the_declared_one(tmp_path: Path) -> None:
    column = Column(label="v", kind=Kind.TIMESTAMP, zone="Asia/Shanghai")
    for neighbour in ("", ', "w": "\\ud800"'):
        body = (
            f'[{{"v": "2024-01-01 08:00:00"{neighbour}}}, {{"v": "2024-01-01T00:00:00Z"}}, '
            '{"v": "2024-01-01T09:00:00+0900"}]'
        )
        moments = values(convert(tmp_path, body, column, Column(label="w")))
        assert len({moment.timestamp() for moment in moments}) == 1
        assert moments[0].timestamp() == 1704067200


def test_texts_that_mean_null_are_null_where_it_is_said(tmp_path: Path) -> None:
    assert column_of(tmp_path, ['"NULL"', '"x"'], Column(label="v", kind=Kind.TEXT, nulls=("NULL",)))[1] == [None, "x"]
    assert column_of(tmp_path, ['"NULL"', "7"], Column(label="v", kind=Kind.BIGINT, nulls=("NULL", "")))[1] == [None, 7]


def test_a_nested_value_is_lifted_by_its_path(tmp_path: Path) -> None:
    column = Column(label="advertiser.name", kind=Kind.TEXT, path=("advertiser", "name"))
    body = '[{"advertiser": {"name": "a"}}, {"advertiser": null}, {}, {"advertiser": {}}]'
    assert sorted(values(convert(tmp_path, body, column)), key=str) == [None, None, None, "a"]


# -- names, keys, shapes ------------------------------------------------------------------------


def test_a_table_of_one_text_column_holds_its_value_and_not_its_row(tmp_path: Path) -> None:
    assert values(convert(tmp_path, '[{"v": "x"}, {"v": "{}"}]', Column(label="v", kind=Kind.TEXT))) == ["x", "{}"]


@pytest.mark.parametrize("texts", [("1", "2", "3"), ('"a"', '"b"', '"c"')])
def test_labels_that_differ_in_case_alone_are_different_columns(texts: tuple[str, ...], tmp_path: Path) -> None:
    body = '[{{"Amount": {}, "amount": {}, "AMOUNT": {}}}]'.format(*texts)
    converted = convert(tmp_path, body, *(Column(label=label) for label in ("AMOUNT", "Amount", "amount")))
    landed = [values(converted, f"c{n}")[0] for n in range(3)]
    assert landed == [json.loads(texts[2]), json.loads(texts[0]), json.loads(texts[1])]


@pytest.mark.parametrize(
    "label", ["", " ", 'quo"ted', "it's", "tab\t", "中文", "🚀", "a.b", "\ud800", "\x00", "select", "v", "c0", "?"]
)
def test_any_label_finds_its_value(label: str, tmp_path: Path) -> None:
    body = json.dumps([{label: 5, "other": 1}])
    converted = convert(tmp_path, body, Column(label=label), Column(label="other"))
    assert (values(converted), values(converted, "c1")) == ([5], [1])


def test_a_label_that_comes_twice_in_one_row_is_refused_and_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(BrokenAnswer) as refused:
        convert(tmp_path, '[{"v": 1, "v": 2}]', Column(label="v"))
    assert "shop.orders" in str(refused.value)


@pytest.mark.parametrize("body", ["[1]", '["x"]', "[[1]]", '[{"v": 1}', '[{"v": 1} x]', '[{"v": }]'])
def test_what_is_no_list_of_objects_is_a_broken_answer(body: str, tmp_path: Path) -> None:
    with pytest.raises(BrokenAnswer) as refused:
        convert(tmp_path, body, Column(label="v"))
    assert "shop.orders" in str(refused.value)
    assert not (tmp_path / "rows.exact.json").exists()


def test_no_row_is_a_table_with_columns_and_no_rows(tmp_path: Path) -> None:
    converted = convert(tmp_path, "[]", Column(label="v", kind=Kind.BIGINT), Column(label="w"))
    assert (converted.rows, converted.keys, values(converted)) == (0, 0, [])


def test_rows_that_repeat_a_key_are_one_row_the_newest(tmp_path: Path) -> None:
    came = [(1, "2024-01-01"), (1, "2024-01-03"), (1, "2024-01-02"), (2, None)]
    body = json.dumps([{"id": key, "at": at} for key, at in came])
    columns = (Column(label="id", kind=Kind.BIGINT), Column(label="at", kind=Kind.TEXT))
    converted = convert(tmp_path, body, *columns, key=("c0",), newest_by="c1")
    assert (converted.rows, converted.keys) == (2, 2)
    assert sorted(zip(values(converted), values(converted, "c1"), strict=True)) == [(1, "2024-01-03"), (2, None)]


def test_the_digest_depends_on_the_rows_and_not_on_their_order(tmp_path: Path) -> None:
    columns = (Column(label="id", kind=Kind.BIGINT), Column(label="t", kind=Kind.TEXT))
    rows = [{"id": n, "t": f"text {n}"} for n in range(50)]
    digests = [
        convert(tmp_path, json.dumps(each), *columns).digest
        for each in (
            rows,
            rows[::-1],
            [*rows[:-1], rows[0]],
            [*rows[:-1], rows[-1] | {"t": "x"}],
            rows[:-1],
            [*rows, rows[0], rows[0]],
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 5


# -- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("megabytes", [15, 17, 40])
def test_a_row_of_many_megabytes_lands(megabytes: int, tmp_path: Path) -> None:
    long = "长" * (megabytes * 2**20 // 3)
    body = json.dumps([{"id": 1, "v": long}, {"id": 2, "v": "short"}], ensure_ascii=False)
    converted = convert(tmp_path, body, Column(label="v", kind=Kind.TEXT), Column(label="id", kind=Kind.BIGINT))
    assert sorted(map(len, values(converted))) == [5, len(long)]


PEAK = """
import json, resource, sys
from pathlib import Path
from sources.convert.types import Column, Kind
from sources.convert.spool import Spool
from sources.convert.parquet import to_parquet
folder, slow = Path(sys.argv[1]), sys.argv[2] == "exact"
spool = Spool(folder / "rows.json")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for start in range(0, 1_000_000, 20_000):
    if start >= (100_000 if slow else 600_000):
        break
    rows = [
        {"id": n, "name": f"wallet {n}", "amount": n / 8, "meta": {"i": n, "tags": ["a", "b"]}, "t": "x" * 60}
        for n in range(start, start + 20_000)
    ]
    if slow:
        rows[-1]["name"] = chr(0xD800)
    spool.rows(rows)
del rows
columns = [Column(label=label, name=label) for label in ("id", "name", "amount", "meta", "t")]
to_parquet(spool, out=folder / "rows.parquet", columns=columns, load_id="1", where="t")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((folder / "rows.json").stat().st_size // 2**20, (after - before) // 1024)
"""


@pytest.mark.parametrize("way", ["fast", "exact"])
def test_memory_is_bounded_whatever_the_size(way: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), way],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    size, grown = map(int, done.stdout.split())
    assert size > (10 if way == "exact" else 75)
    assert grown < 220


# -- cutting an array out of a document ---------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"v": '"rows": ['}],
        [{"v": "]}"}, {"v": "},{"}, {"v": '{"rows": [], "columns": []}'}],
        [{"rows": [{"a": 1}]}],
        [{"v": "\\"}, {"v": '\\"]}'}],
        [{"v": [[[]]]}, {"v": {"]": "["}}],
        [{"v": n} for n in range(20_000)],
    ],
)
@pytest.mark.parametrize("after", [{}, {"errors": []}, {"errors": [{"x": []}], "more": [1, 2]}, {"text": "] } ]"}])
@pytest.mark.parametrize("spaces", [None, 1])
def test_the_array_is_found_whatever_stands_in_and_behind_it(
    rows: list[Any], after: dict[str, Any], spaces: int | None
) -> None:
    document = {"query_result": {"id": 1, "data": {"columns": [{"name": "rows"}], "rows": rows, **after}, "end": None}}
    body = json.dumps(document, indent=spaces).encode()
    envelope, start, end = cut_array(body, "rows", where="here")
    assert json.loads(body[start:end]) == rows
    document["query_result"]["data"]["rows"] = []  # type: ignore[index]
    assert envelope == document


@pytest.mark.parametrize("end", [1, 2, 3, 10, 30, 60])
def test_a_document_that_is_cut_is_a_broken_answer(end: int) -> None:
    body = json.dumps({"data": {"rows": [{"a": [1, 2]}, {"b": "x"}]}, "id": 1, "more": [1]}).encode()
    with pytest.raises(BrokenAnswer):
        cut_array(body[:-end], "rows", where="here")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"rows": 1}', b'{"rows": null}', b"<html>", b'{"rows2": []}'])
def test_a_document_without_the_array_is_a_broken_answer(body: bytes) -> None:
    with pytest.raises(BrokenAnswer):
        cut_array(body, "rows", where="here")


@pytest.mark.parametrize("rows", [[], [{"a": "\x00"}], [{"a": 1}], [{"a": "x" * 3_000_000}]])
@pytest.mark.parametrize("before", [False, True])
def test_an_adopted_array_is_the_same_as_one_that_was_read(rows: list[Any], before: bool, tmp_path: Path) -> None:
    document = json.dumps({"id": 1, "rows": rows, "more": []}).encode()
    body = tmp_path / "body"
    body.write_bytes(document)
    _, start, end = cut_array(document, "rows", where="here")
    spool = Spool(tmp_path / "spool")
    first = [{"a": "first"}] if before else []
    spool.rows(first)
    spool.adopt(body, start, end)
    spool.rows([{"a": "last"}])
    spool.close()
    assert json.loads((tmp_path / "spool").read_bytes()) == [*first, *rows, {"a": "last"}]
    assert spool.has_nul == ("\x00" in str(rows) or "\\x00" in repr(rows))


def test_rows_are_read_one_at_a_time_across_chunks(tmp_path: Path) -> None:
    rows = [{"n": n, "t": "总" * (n % 700), "f": n / 7} for n in range(9_000)]
    file = tmp_path / "rows.json"
    file.write_text("xxx" + json.dumps(rows, ensure_ascii=False))
    assert list(iter_rows(file, start=3, as_written=False)) == rows
    assert isinstance(next(iter_rows(file, start=3))["f"], Real)


# -- random rows --------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    [
        "",
        "007",
        "1e5",
        "NaN",
        "null",
        "true",
        "NULL",
        "0000-00-00",
        "2024-01-01",
        '"rows": [',
        "]}",
        "},{",
        "\x00",
        "\ud800",
        "🚀",
    ]
)
NUMBERS = (
    st.integers(-(2**70), 2**70)
    | st.integers(-5, 5)
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([2**53, 2**53 + 1, 2**63, 2**63 - 1, -(2**63), 0.1, 1e22, -0.0, 5e-324])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
ROWS = st.lists(
    st.fixed_dictionaries({}, optional={"a": VALUES, "b": NUMBERS, "c": TEXTS, "d": SCALARS, "A": VALUES}), max_size=12
)


@settings(max_examples=250)
@given(ROWS)
@example([{"a": 1.5}, {"a": 2**53 + 1}])
@example([{"b": 2**64}, {"b": 0.5}])
@example([{"d": "x"}, {"d": float("nan")}, {"d": "NaN"}])
@example([{"d": 10**47}, {"d": float("-inf")}])
@example([{"a": [2**70, 0.1, None, float("nan")]}])
def test_random_rows_land_as_they_are(rows: list[dict[str, Any]]) -> None:
    body = json.dumps(rows)
    labels = ("a", "b", "c", "d")
    as_sent = loads(body)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as connection:
        converted = convert(Path(folder), body, *(Column(label=label) for label in labels))
        kinds = {column.label: SQL_TYPES[column.kind or Kind.TEXT] for column in converted.columns}
        landed = connection.execute(f"SELECT c0, c1, c2, c3 FROM '{converted.path}'").fetchall()
    nested = {label: any(isinstance(row.get(label), dict | list) for row in as_sent) for label in labels}
    have = [
        tuple(found(value, kinds[label], nested=nested[label]) for label, value in zip(labels, row, strict=True))
        for row in landed
    ]
    want = [tuple(expected(row.get(label), kinds[label]) for label in labels) for row in as_sent]
    assert sorted(have, key=repr) == sorted(want, key=repr)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, ROWS)
def test_pages_spooled_as_rows_or_as_bytes_are_the_same(
    tmp_path: Path, first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    by_rows, by_bytes = Spool(tmp_path / "one.json"), Spool(tmp_path / "two.json")
    for page in (first, second):
        by_rows.rows(page)
        by_bytes.array(json.dumps(page).encode())
    by_rows.close()
    by_bytes.close()
    told = [_without_nan(json.loads(spool.path.read_bytes())) for spool in (by_rows, by_bytes)]
    assert told[0] == told[1]


def _without_nan(value: Any) -> Any:
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case Mapping():
            return {key: _without_nan(item) for key, item in value.items()}
        case list():
            return [_without_nan(item) for item in value]
        case str():
            return re.sub("[\ud800-\udfff]", "\ufffd", value)
        case _:
            return value


@given(
    st.lists(
        st.sampled_from([kind for kind in Kind if kind not in (Kind.TIMESTAMP, Kind.DATE)]), min_size=2, max_size=3
    )
)
def test_joining_kinds_does_not_depend_on_the_order(kinds: list[Kind]) -> None:
    assert join(kinds[0], kinds[1]) == join(kinds[1], kinds[0])
    assert join(kinds[0], join(kinds[0], kinds[1])) == join(kinds[0], kinds[1])


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (Kind.BOOL, Kind.BIGINT, Kind.BIGINT),
        (Kind.BIGINT, Kind.DECIMAL, Kind.DECIMAL),
        (Kind.BIGINT, Kind.DOUBLE, Kind.DOUBLE),
        (Kind.DECIMAL, Kind.DOUBLE, Kind.TEXT),
        (Kind.BIGINT, Kind.TEXT, Kind.TEXT),
        (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMP),
        (Kind.DATE, Kind.TEXT, Kind.TEXT),
        (Kind.TEXT, Kind.JSON, Kind.JSON),
    ],
)
def test_kinds_widen_in_one_direction(first: Kind, second: Kind, joined: Kind) -> None:
    assert join(first, second) == joined
