"""dbt's sources, written from the warehouse: tables, columns with the vendors' labels, keys as tests, freshness.

One file per dataset, the same bytes as long as the schema is the same, on every database. The header holds a hash of
what follows it, by which a file that somebody edited is known: such a file is never overwritten.

What the project's models read is declared, loaded or not, since dbt refuses a model over a source that is not; the
models themselves look whether it is there. What is not there has no columns, no tests and no freshness.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pipelines.config.project import OWN_DATASET, Place
from pipelines.warehouse.open import open_reader
from pipelines.warehouse.reader import Reader
from sources import VENDORS
from sources.core.errors import ConfigurationError
from sources.extract.connector import package

OWN_TABLES = {
    "runs": "one row per run",
    "run_vendors": "what each run came to, vendor by vendor",
    "run_tries": "each try of a vendor within a run",
    "run_tables": "the counts of each run and table: vendor, extracted, landed, live",
    "schema_changes": "every change of a table's columns",
    "column_values": "each column that came from a vendor: does it still have values",
    "dbt_runs": "what came of dbt after a run",
    "backfills": "each chunk of a backfill, as it went last",
    "interventions": "what a person did to a table: state reset, drop",
    "columns": "each column that came from a vendor, with the vendor's own label",
}
OWN_COLUMNS = {
    "_deleted_at": "since when the row is gone at the vendor's; NULL: it is live",
    "_dlt_load_id": "the load that brought the row, as in nightload.run_tables",
    "row_version": "hash of the row",
    "valid_from": "since when the row was so, as seen at night",
    "valid_to": "until when; NULL: it still is",
}
KINDS = {
    "character varying": "text",
    "varchar": "text",
    "boolean": "bool",
    "double precision": "double",
    "timestamp with time zone": "timestamp",
    "jsonb": "json",
}
"""What the databases call a type, in the words of `nightload.columns`."""

HEADER = "# Written by `nightload dbt sources` from the warehouse. What you have to say belongs into files of your own."
_STAMP = re.compile(r"^# sha256 (?P<hash>[0-9a-f]{64})$")
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")
_READS = re.compile(r"\b(?:stage|source)\(\s*['\"](\w+)['\"]\s*,\s*['\"](\w+)['\"]")
_JINJA = re.compile(r"\{\{|\{%|\{#")


@dataclass(frozen=True, kw_only=True)
class FoundColumn:
    name: str
    kind: str
    label: str | None = None
    is_key: bool = False


@dataclass(kw_only=True)
class FoundTable:
    label: str | None = None
    columns: list[FoundColumn] = field(default_factory=list)


Found = Mapping[str, Mapping[str, FoundTable]]
"""dataset → table → what the warehouse holds of it."""


class State(StrEnum):
    SAME = "same"
    WRITTEN = "written"
    KEPT = "edited by hand, and nothing new"
    REFUSED = "edited by hand"


def read(place: Place) -> Found:
    """What the published warehouse holds of our datasets; nothing, if there is none yet."""
    if place.postgres is None and not place.warehouse.exists():
        return {}
    with open_reader(place) as reader:
        return _found(reader)


def _found(reader: Reader) -> Found:
    found: dict[str, dict[str, FoundTable]] = {}
    datasets = ", ".join(f"'{name}'" for name in _datasets())
    rows = reader.query(
        "SELECT CAST(table_schema AS VARCHAR), CAST(table_name AS VARCHAR), CAST(column_name AS VARCHAR), "  # noqa: S608
        "lower(CAST(data_type AS VARCHAR)) FROM information_schema.columns "
        f"WHERE table_schema IN ({datasets}) ORDER BY table_schema, table_name, ordinal_position",
    )
    known: dict[tuple[str, str, str], tuple[str, str, str, bool]] = {}
    if any(row[:2] == (OWN_DATASET, "columns") for row in rows):
        labels = "SELECT dataset, table_name, column_name, table_label, label, data_type, is_key FROM nightload.columns"
        known = {(d, t, c): (of, label, kind, key) for d, t, c, of, label, kind, key in reader.query(labels)}
    for dataset, table, column, data_type in rows:
        if table.startswith("_dlt"):
            continue
        of, label, kind, key = known.get((dataset, table, column), (None, None, _kind(data_type), False))
        found_table = found.setdefault(dataset, {}).setdefault(table, FoundTable())
        found_table.label = found_table.label or of
        found_table.columns.append(FoundColumn(name=column, kind=kind, label=label, is_key=bool(key)))
    return found


def wanted(project: Path) -> set[tuple[str, str]]:
    """The tables (dataset, table) that models of the project read."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((project / "models").rglob("*.sql"))]
    return {(match[1], match[2]) for text in texts for match in _READS.finditer(text)}


def render(found: Found, wanted: Set[tuple[str, str]] = frozenset()) -> dict[str, str]:
    """File name → text."""
    files = {}
    for dataset in _datasets():
        absent = {table for name, table in wanted if name == dataset} - set(found.get(dataset, {}))
        body = "\n".join(_source(dataset, {**found.get(dataset, {}), **dict.fromkeys(absent)})) + "\n"
        files[f"{dataset}.yml"] = f"{HEADER}\n# sha256 {_hash(body)}\n{body}"
    return files


def write(folder: Path, files: Mapping[str, str], *, check: bool = False) -> dict[str, State]:
    """Bring the files up to date, or with `check` say what would be done.

    A file that was edited by hand stays; if there is something new, it is written beside as `<name>.new`.
    """
    states = {}
    for name, text in files.items():
        states[name] = state = _state(folder / name, text)
        if check:
            continue
        beside = folder / f"{name}.new"
        if state == State.REFUSED:
            _replace(beside, text)
        elif state == State.WRITTEN:
            _replace(folder / name, text)
        if state != State.REFUSED and beside.exists() and _is_ours(beside.read_text(encoding="utf-8")):
            beside.unlink()
    return states


def refuse_edited(folder: Path, states: Mapping[str, State]) -> None:
    """Raise `ConfigurationError` if a file could not be brought up to date."""
    if edited := [name for name, state in states.items() if state == State.REFUSED]:
        raise ConfigurationError(
            what=f"{', '.join(edited)} would change, but was edited by hand",
            where=str(folder),
            todo="What is new stands beside it as .new: take your lines into a file of your own and move .new over it",
        )


def _state(path: Path, text: str) -> State:
    if not path.exists():
        return State.WRITTEN
    present = path.read_text(encoding="utf-8")
    if present == text:
        return State.SAME
    if _is_ours(present):
        return State.WRITTEN
    return State.KEPT if _stamp(present) == _stamp(text) else State.REFUSED


def _is_ours(text: str) -> bool:
    """Is it as it was written?"""
    return _stamp(text) == _hash(text.split("\n", 2)[-1])


def _stamp(text: str) -> str | None:
    found = [match["hash"] for line in text.splitlines()[:2] if (match := _STAMP.match(line))]
    return found[0] if found else None


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    os.replace(fresh, path)


def _source(dataset: str, tables: Mapping[str, FoundTable | None]) -> Iterator[str]:
    about = {table.name: table.about for vendor in VENDORS for table in package(vendor).tables().get(dataset, ())}
    if dataset == OWN_DATASET:
        about = OWN_TABLES
    yield "version: 2"
    yield ""
    yield "sources:"
    yield f"  - name: {dataset}"
    yield f"    schema: {dataset}"
    yield "    config:"
    yield '      loaded_at_query: "{{ loaded_at(this) }}"'
    yield "    tables:" if tables else "    tables: []"
    for name in sorted(tables, key=_natural):
        yield from _table(dataset, name, about.get(name, ""), tables[name])


def _table(dataset: str, name: str, about: str, found: FoundTable | None) -> Iterator[str]:
    label = found.label if found and found.label != name else None
    described = "; ".join(part for part in (label, about if found else None) if part)
    yield f"      - name: {_text(name)}"
    if described:
        yield f"        description: {_text(described)}"
    if dataset == OWN_DATASET and name == "runs" and found:
        yield "        config:"
        yield "          loaded_at_query: \"select max(started_at) from {{ this }} where status = 'ok'\""
    elif dataset == OWN_DATASET or found is None:
        yield "        config: { freshness: null }"
    if found is None:
        return
    keys = [column.name for column in found.columns if column.is_key]
    current = "valid_to is null" if any(column.name == "valid_to" for column in found.columns) else None
    if len(keys) > 1:
        yield "        data_tests:"
        yield "          - unique_together:"
        yield f"              arguments: {{ columns: [{', '.join(map(_text, keys))}] }}"
        if current:
            yield f"              config: {{ where: {_text(current)} }}"
    yield "        columns:"
    for column in found.columns:
        yield f"          - name: {_text(column.name)}"
        description = column.label if column.label is not None else OWN_COLUMNS.get(column.name)
        if description is not None:
            yield f"            description: {_text(description)}"
        yield f"            data_type: {_text(column.kind)}"
        if keys == [column.name]:
            yield "            quote: true"
            yield "            data_tests:"
            yield "              - not_null"
            yield f"              - unique{f': {{ config: {{ where: {_text(current)} }} }}' if current else ''}"


def _text(text: str) -> str:
    """A YAML scalar that dbt reads as this very text: no escape, no Jinja in it takes effect."""
    if re.fullmatch(r"[a-z_][a-z0-9_]*", text) and text not in (
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
        "null",
        "y",
        "n",
    ):
        return text
    if _JINJA.search(text):
        inner = "".join(f"\\x{ord(char):02x}" if char in "{}%#\\\"'" else char for char in text)
        text = '{{ "' + inner + '" }}'
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def _natural(name: str) -> list[tuple[int, str]]:
    """query_9 before query_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _kind(data_type: str) -> str:
    return KINDS.get(data_type, data_type)


def _datasets() -> list[str]:
    return [*(dataset for vendor in VENDORS for dataset in package(vendor).tables()), OWN_DATASET]
