"""Where a person stands in the warehouse, and what is to be done there."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from dlt.common.versioned_state import compress_state, decompress_state

from pipelines.config.project import OWN_DATASET
from pipelines.warehouse.base import Session
from pipelines.warehouse.reader import Reader
from sources.convert.types import Kind
from sources.core.sql import quote
from sources.privacy.masking import judge
from sources.privacy.matching import Sought, is_column, normal, sought, words
from sources.privacy.pii_columns import is_about_whom_it_names, mark_of

Action = Literal["remove the row", "blank the value", "mask the words", "not nightload's"]
OURS_ALONE = ("forgotten", "forgets")
AT_ONCE = 500
_KINDS = {
    "varchar": Kind.TEXT,
    "text": Kind.TEXT,
    "character varying": Kind.TEXT,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
}
_STATE = ("_dlt_pipeline_state", "state")
_WHOLE = ("bigint", "integer", "hugeint", "decimal", "numeric")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One column. `owned`: nightload loads this table; what others made of it they must make anew."""

    dataset: str
    table: str
    column: str
    label: str
    type: str
    is_key: bool
    owned: bool

    @property
    def where(self) -> str:
        return f"{self.dataset}.{self.table}"

    @property
    def kind(self) -> Kind:
        return _KINDS.get(self.type.lower(), Kind.BIGINT)

    @property
    def as_text(self) -> str:
        return f"{quote(self.column)}::VARCHAR"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What was found in one column: values, and what lands in their place; `rows` that hold them."""

    place: Place
    action: Action
    values: Mapping[str, str | None]
    rows: int
    all_rows: int

    @property
    def is_vast(self) -> bool:
        """Do so many rows hold it that it can hardly be a person?"""
        marked = mark_of(self.place.dataset, self.place.table, self.place.label)
        return (self.rows > 1000 and marked is None) or (self.all_rows >= 20 and self.rows * 2 > self.all_rows)

    def as_json(self) -> dict[str, Any]:
        return {"table": self.place.where, "column": self.place.column, "action": self.action, "rows": self.rows}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Whom to look for: all spellings and hashes of the value. `columns`: only there, and as whole values."""

    values: tuple[str, ...]
    columns: tuple[str, ...] = ()
    sought: Sought = field(repr=False)

    @classmethod
    def of(cls, values: Sequence[str], columns: Sequence[str]) -> Wanted:
        told = sought(values)
        if columns:
            told = Sought(is_cell=told.is_cell, is_phrase=lambda _: False, sizes=frozenset())
        return cls(values=tuple(dict.fromkeys(values)), columns=tuple(columns), sought=told)


def find(database: Reader | Session, wanted: Wanted, datasets: Sequence[str]) -> list[Trace]:
    """Every trace; `datasets` are those that nightload loads."""
    return [trace for place in places(database, wanted.columns, datasets) for trace in _in(database, place, wanted)]


def spellings(traces: Sequence[Trace], value: str) -> list[str]:
    """How the value is written where it stands as a whole."""
    return sorted({held for trace in traces for held in trace.values if normal(held) == normal(value)})


def carry_out(session: Session, traces: Sequence[Trace]) -> dict[Action, int]:
    """Remove, blank and mask; the number of rows and values."""
    done: dict[Action, int] = {}
    order: tuple[Action, ...] = ("remove the row", "blank the value", "mask the words")
    for action in order:
        for trace in (each for each in traces if each.action == action):
            done[action] = done.get(action, 0) + _carry_out(session, trace)
    return done


def places(database: Reader | Session, columns: Sequence[str], datasets: Sequence[str]) -> Iterator[Place]:
    """The columns in which a person can stand."""
    labels: dict[tuple[str, str, str], tuple[str, bool]] = {}
    if "columns" in database.tables(OWN_DATASET):
        source = quote(OWN_DATASET, "columns")
        told = database.query(f"SELECT dataset, table_name, column_name, label, is_key FROM {source}")  # noqa: S608
        labels = {(dataset, table, column): (label, bool(key)) for dataset, table, column, label, key in told}
    owned = {*datasets, *(f"{name}_staging" for name in datasets), OWN_DATASET}
    for dataset, table, column, kind in database.query(
        "SELECT c.table_schema, c.table_name, c.column_name, c.data_type FROM information_schema.columns c "
        "JOIN information_schema.tables t ON t.table_catalog = c.table_catalog AND t.table_schema = c.table_schema "
        "AND t.table_name = c.table_name WHERE t.table_type = 'BASE TABLE' "
        "AND c.table_catalog = current_database() AND c.table_schema NOT IN ('pg_catalog', 'information_schema') "
        "ORDER BY c.table_schema, c.table_name, c.ordinal_position"
    ):
        if kind.lower().partition("(")[0] not in (*_KINDS, *_WHOLE) or (dataset == OWN_DATASET and table in OURS_ALONE):
            continue
        if table.startswith("_dlt_") and (table, column) not in (("_dlt_version", "schema"), _STATE):
            continue
        if column in ("_dlt_load_id", "row_version"):
            continue
        label, is_key = labels.get((dataset, table, column), (column, False))
        if is_column(columns, f"{dataset}.{table}", label, column):
            yield Place(
                dataset=dataset,
                table=table,
                column=column,
                label=label,
                type=kind,
                is_key=is_key,
                owned=dataset in owned,
            )


def _in(database: Reader | Session, place: Place, wanted: Wanted) -> Iterator[Trace]:
    condition, parameters = _may_hold(place, wanted)
    if not condition:
        return
    table = quote(place.dataset, place.table)
    found = database.query(f"SELECT DISTINCT {place.as_text} FROM {table} WHERE {condition}", parameters)  # noqa: S608
    nested = place.kind == Kind.JSON
    removes = place.is_key or is_about_whom_it_names(place.dataset, place.table, place.label, nested=nested)
    removes = removes and place.dataset != OWN_DATASET
    groups: dict[Action, dict[str, str | None]] = {}
    for (value,) in found:
        if place.table == "_dlt_version":
            verdict: tuple[bool, str | None] = False, _masked_schema(value, wanted.sought)
        elif (place.table, place.column) == _STATE:
            verdict = False, _masked_state(value, wanted)
        else:
            verdict = judge(value, place.kind, wanted.sought, removes)
        leaves, fresh = verdict
        if leaves or fresh != value:
            action: Action = "remove the row" if leaves else "blank the value" if fresh is None else "mask the words"
            groups.setdefault(action if place.owned else "not nightload's", {})[value] = fresh
    for action, values in groups.items():
        rows = sum(
            int(database.query(f"SELECT count(*) FROM {table} WHERE {condition}", parameters)[0][0])  # noqa: S608
            for condition, parameters in _one_of(place, list(values))
        )
        all_rows = int(database.query(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608
        yield Trace(place=place, action=action, values=values, rows=rows, all_rows=all_rows)


def _may_hold(place: Place, wanted: Wanted) -> tuple[str, list[str]]:
    """A quick test, which lets pass more than is meant; `judge` decides."""
    if (place.table, place.column) == _STATE:  # compressed
        return "true", []
    tests: list[str] = []
    parameters: list[str] = []
    for value in wanted.values:
        if place.kind == Kind.BIGINT:
            if value.strip().lstrip("-").isdecimal():
                tests.append(f"{place.as_text} = ?")
                parameters.append(value.strip())
            continue
        needle = _needle(value)
        forms = (needle, unicodedata.normalize("NFD", needle), needle.replace("@", "%40"))
        escaped = json.dumps(needle)[1:-1]
        for text in dict.fromkeys((*forms, escaped, escaped.upper().replace("\\U", "\\u"))):
            lowered = "@" in value and text.isascii()
            tests.append(f"strpos({f'lower({place.as_text})' if lowered else place.as_text}, ?) > 0")
            parameters.append(text.lower() if lowered else text)
    return " OR ".join(tests), parameters


def _needle(value: str) -> str:
    return max(words(value), key=lambda word: (word.isascii(), len(word)), default=value.strip())


def _one_of(place: Place, values: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    for some in in_parts(values):
        yield f"{place.as_text} IN ({', '.join('?' for _ in some)})", some


def in_parts(values: Sequence[str]) -> Iterator[list[str]]:
    """A statement takes only so many parameters."""
    for at in range(0, len(values), AT_ONCE):
        yield list(values[at : at + AT_ONCE])


def _carry_out(session: Session, trace: Trace) -> int:
    place, table = trace.place, quote(trace.place.dataset, trace.place.table)
    if trace.action == "mask the words":
        return sum(
            session.change(
                f"UPDATE {table} SET {quote(place.column)} = ?::{place.type} WHERE {place.as_text} = ?",  # noqa: S608
                [fresh, value],
            )
            for value, fresh in trace.values.items()
        )
    change = (
        f"DELETE FROM {table}"  # noqa: S608
        if trace.action == "remove the row"
        else f"UPDATE {table} SET {quote(place.column)} = NULL"  # noqa: S608
    )
    return sum(
        session.change(f"{change} WHERE {condition}", parameters)
        for condition, parameters in _one_of(place, list(trace.values))
    )


def _masked_schema(text: str, sought: Sought) -> str:
    """dlt's own copy of a schema with the vendor's names of tables masked: a query's name may be about a person."""
    schema = json.loads(text)
    before = json.dumps(schema)
    for table in schema.get("tables", {}).values():
        if isinstance(label := table.get("x-label"), str):
            table["x-label"] = sought.masked(label)
    after = json.dumps(schema)
    return text if after == before else json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _masked_state(text: str, wanted: Wanted) -> str:
    """dlt's state with its texts masked: it holds labels and parameters of the rows that it stands for."""
    state = decompress_state(text)
    plain = json.dumps(state, ensure_ascii=False, default=str).replace("\\\\", "\\").lower()
    needles = [_needle(value).lower() for value in wanted.values]
    if not any(form in plain for needle in needles for form in (needle, json.dumps(needle)[1:-1])):
        return text
    masked = _masked_texts(state, wanted.sought)
    return text if masked == state else compress_state(masked)


def _masked_texts(value: Any, sought: Sought) -> Any:
    """The texts in a value, JSON documents among them; numbers stay, for they count and point."""
    if isinstance(value, Mapping):
        return {name: _masked_texts(each, sought) for name, each in value.items()}
    if isinstance(value, list):
        return [_masked_texts(each, sought) for each in value]
    if not isinstance(value, str):
        return value
    if value[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            document = json.loads(value)
            masked = _masked_texts(document, sought)
            return value if masked == document else json.dumps(masked)
    return sought.masked(value)
