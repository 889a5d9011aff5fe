"""What the vendor's JSON is in a warehouse, worked out a second time and without nightload.

Every value is compared as what it means: integers and decimals as fractions, so that nothing is
rounded; times as instants; JSON as parsed; texts as they are.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

import duckdb
import httpx

from sandbox_process import SandboxProcess

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ZERO = re.compile(r"|\d{4}-(00-\d\d|\d\d-00)([ T]\d\d:\d\d(:\d\d([.]\d+)?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
OUR_COLUMNS = {"_dlt_load_id", "_dlt_id", "_deleted_at", "row_version", "valid_from", "valid_to", "_result_id"}

_http = httpx.Client(timeout=30, verify=False)


class Written(str):
    """A JSON number with a point or an exponent, as the vendor wrote it."""

    __slots__ = ()


def loads(body: bytes | str) -> Any:
    return json.loads(body, parse_float=Written, parse_constant=lambda _: None)


def truth(sandbox: SandboxProcess, table: str, vendor: str = "tonalytica") -> list[dict[str, Any]]:
    """The rows that the sandbox knows to be true."""
    answer = _http.get(f"{sandbox.ready[vendor]['control_url']}/truth/{table}")
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = loads(answer.content)["rows"]
    return rows


def expected(value: Any, kind: str) -> object:
    """What `value` must have become in a column of DuckDB's type `kind`."""
    if value is None:
        return None
    if kind == "JSON":
        return "json", json.dumps(_plain(value), sort_keys=True)
    if kind == "VARCHAR":
        if isinstance(value, dict | list):
            return "json", json.dumps(_plain(value), sort_keys=True)
        return _clean(str(value).lower() if isinstance(value, bool) else str(value))
    if kind == "BOOLEAN":
        return {True: True, False: False, "true": True, "false": False}.get(value, ("not a bool", value))
    if kind in ("BIGINT", "DOUBLE") or kind.startswith("DECIMAL"):
        if value in NO_NUMBERS:
            return None
        if isinstance(value, Written):
            return Fraction(float(value)) if kind == "DOUBLE" else Fraction(value)
        return Fraction(value)
    if kind.startswith("TIMESTAMP"):
        if ZERO.fullmatch(value):
            return None
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
    if kind == "DATE":
        return None if ZERO.fullmatch(value) else date.fromisoformat(value)
    raise AssertionError(f"no column should be {kind}")


def found(value: Any, kind: str, *, nested: bool) -> object:
    """The same of a value that the warehouse gave."""
    if value is None:
        return None
    if kind == "JSON" or (nested and kind == "VARCHAR" and value[:1] in ("{", "[")):
        return "json", json.dumps(_plain(loads(value)), sort_keys=True)
    if kind in ("BIGINT", "DOUBLE") or kind.startswith("DECIMAL"):
        return Fraction(value)
    if kind.startswith("TIMESTAMP"):
        return timedelta(microseconds=value)
    return value


def columns_of(
    connection: duckdb.DuckDBPyConnection, dataset: str, table: str, *, ours: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """label → (column, DuckDB type), by `nightload.columns`; every column that is not ours must be there."""
    types = dict(
        connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = ? AND table_name = ?",
            [dataset, table],
        ).fetchall()
    )
    labels = connection.execute(
        "SELECT label, column_name FROM nightload.columns WHERE dataset = ? AND table_name = ?", [dataset, table]
    ).fetchall()
    columns = {label: (column, types[column]) for label, column in labels}
    assert len(columns) == len(labels), f"a label of {dataset}.{table} stands twice in nightload.columns"
    assert {column for column, _ in columns.values()} | OUR_COLUMNS | set(ours) >= set(types)
    return columns


def differences(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    table: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    labels: Iterable[str],
    where: str = "true",
    ours: Collection[str] = (),
) -> list[str]:
    """How the table parts from `rows`, looking at `labels`; an empty list: value by value the same."""
    columns = columns_of(connection, dataset, table, ours=ours)
    labels = list(labels)
    if missing := [label for label in labels if label not in columns]:
        return [f"{dataset}.{table} has no column for {missing}"]
    rows = list(rows)
    nested = {label for label in labels if any(isinstance(row.get(label), dict | list) for row in rows)}
    kinds = {label: columns[label][1] for label in labels}
    select = ", ".join(_selected(*columns[label]) for label in labels) or "1"
    have = connection.execute(f'SELECT {select} FROM "{dataset}"."{table}" WHERE {where}').fetchall()
    landed = Counter(
        tuple(found(value, kinds[label], nested=label in nested) for label, value in zip(labels, row, strict=False))
        for row in have
    )
    wanted = Counter(tuple(expected(row.get(label), kinds[label]) for label in labels) for row in rows)
    return [
        f"{dataset}.{table}: {side} {dict(zip(labels, row, strict=True))}"
        for side, rest in (("missing", wanted - landed), ("too much", landed - wanted))
        for row in list(rest)[:3]
    ]


def _selected(column: str, kind: str) -> str:
    name = '"' + column.replace('"', '""') + '"'
    return f"epoch_us({name})" if kind.startswith("TIMESTAMP") else name


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {_clean(key): _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case Written():
            return float(value)
        case str():
            return _clean(value)
        case _:
            return value


def _clean(text: str) -> str:
    return re.sub("[\ud800-\udfff\x00]", "\ufffd", text)
