"""`nightload docs`: every dataset, table and column in one HTML file, and how they hang together as Mermaid and DBML.

The page needs no network and is readable on a phone. The same warehouse gives the same bytes; what changes each night
(when a table was loaded) can be left out.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from pipelines.catalog.docs.diagrams import dbml, mermaid
from pipelines.catalog.docs.relations import Relation, is_history, key_of, relations
from pipelines.catalog.docs.samples import examples, personal
from pipelines.catalog.introspect import ColumnThere, columns_of, tables_of
from pipelines.config.project import OWN_DATASET
from pipelines.warehouse.reader import Reader
from sources.convert.types import DELETED_AT
from sources.core.errors import ConfigurationError
from sources.core.sql import quote

STYLE = """
body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:0 .8rem 3rem}
body{color:#1b1f24;background:#fff}summary b{font-family:ui-monospace,monospace}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d5d9de}
details{border-bottom:1px solid #eceef1;padding:.35rem 0}summary{cursor:pointer}
p{margin:.4rem 0}small,.about{color:#59636e}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem}th,td{text-align:left;padding:.2rem .7rem .2rem 0;vertical-align:top}
th{color:#59636e;font-weight:500}td code{white-space:nowrap}td.key{font-weight:600}.null{color:#59636e}
input{font:inherit;width:100%;box-sizing:border-box;padding:.45rem;border:1px solid #c3c9d0;border-radius:.4rem}
@media(prefers-color-scheme:dark){body{color:#e4e8ec;background:#14171a}h2,details{border-color:#31363c}
small,.about,th{color:#98a2ad}input{background:#1d2125;color:inherit;border-color:#3a4047}a{color:#79b8ff}}
"""
SCRIPT = """
const q=document.getElementById('q');q.oninput=()=>{const w=q.value.toLowerCase();
document.querySelectorAll('details').forEach(d=>{d.hidden=!d.textContent.toLowerCase().includes(w)})};
addEventListener('hashchange',show);
function show(){const d=document.getElementById(decodeURIComponent(location.hash.slice(1)));
if(d&&d.tagName==='DETAILS'){d.open=true;d.scrollIntoView()}}show();
"""
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
"""No script but ours, and nothing fetched, should a text ever get through as markup."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """One table, as it is told. `live`: rows that the vendor has still; None: all of them, or not counted."""

    dataset: str
    name: str
    about: str | None
    columns: Sequence[ColumnThere]
    rows: int | None
    live: int | None
    fresh: str | None
    examples: Mapping[str, Sequence[str]]

    @property
    def full_name(self) -> str:
        return f"{self.dataset}.{self.name}"


def write(reader: Reader, folder: Path, *, freshness: bool) -> list[tuple[Path, bool]]:
    """Write the three files; each with whether it changed. Raises `ConfigurationError` if it cannot."""
    tables = describe(reader, freshness=freshness)
    related = relations(reader, {(t.dataset, t.name): t.columns for t in tables})
    files = {
        "warehouse.html": page(tables, related),
        "warehouse.mmd": mermaid(tables, related),
        "warehouse.dbml": dbml(tables, related),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [(folder / name, _put(folder / name, text)) for name, text in files.items()]
    except OSError as error:
        raise ConfigurationError(
            what="the documentation cannot be written",
            where=str(folder),
            why=error.strerror or "",
            todo="Name another folder with --dir",
        ) from None


def describe(reader: Reader, *, freshness: bool) -> list[Described]:
    """The tables that nightload loads, and its own. Raises `ConfigurationError` if there is none."""
    fresh = _fresh(reader)
    ours = {dataset for dataset, _ in fresh} | {OWN_DATASET}
    about = {(table.dataset, table.name): table.about for table in tables_of(reader) if table.dataset in ours}
    every = [column for column in columns_of(reader) if (column.dataset, column.table) in about]
    if not every:
        raise ConfigurationError(what="there is nothing to document yet", todo="Load the warehouse with: nightload run")
    is_personal = personal()
    found = []
    for (dataset, name), group in groupby(every, key=lambda column: (column.dataset, column.table)):
        columns = list(group)
        own = dataset == OWN_DATASET  # it grows each night, and names hosts
        rows, live = (None, None) if own else _rows(reader, columns)
        found.append(
            Described(
                dataset=dataset,
                name=name,
                about=about[dataset, name],
                columns=columns,
                rows=rows,
                live=live,
                fresh=fresh.get((dataset, name)) if freshness else None,
                examples={} if own else examples(reader, columns, is_personal),
            )
        )
    return sorted(found, key=lambda table: (table.dataset == OWN_DATASET, table.dataset, table.name))


def page(tables: Sequence[Described], related: Sequence[Relation]) -> str:
    out, to, by = _Relations(related), "→", "←"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<title>The warehouse</title><style>{STYLE}</style></head><body>",
        "<h1>The warehouse</h1>",
        f"<p class=about>{len(tables)} tables. Columns have the names that SQL takes; the vendor's own name stands "
        "beside where it differs. Values are examples; of columns that may hold personal data none is shown. In SQL: "
        "<code>nightload sql</code>.</p>",
        '<p><input id="q" type="search" placeholder="find a table or column" aria-label="find a table or column"></p>',
    ]
    for dataset, group in groupby(tables, key=lambda table: table.dataset):
        lines.append(f"<h2>{_html(dataset)}</h2>")
        for table in group:
            lines += [
                f'<details id="{_html(table.full_name)}"><summary><b>{_html(table.name)}</b> '
                f"<span class=about>{_html(table.about or '')}</span></summary>",
                f"<p><small>{_html(_facts(table))}</small></p>",
                "<div class=wide><table><tr><th>column<th>type<th>vendor's name<th>examples",
                *(_row(table, column) for column in table.columns),
                "</table></div>",
            ]
            for arrow, its in ((to, out.of(table)), (by, out.to(table))):
                for relation in its:
                    lines.append(f"<p><small>{_related(relation, arrow)}</small></p>")
            lines.append("</details>")
    lines += [f"<script>{SCRIPT}</script>", "</body></html>"]
    return "\n".join(lines) + "\n"


class _Relations:
    def __init__(self, related: Sequence[Relation]) -> None:
        self._related = related

    def of(self, table: Described) -> Iterator[Relation]:
        return (r for r in self._related if (r.dataset, r.table) == (table.dataset, table.name))

    def to(self, table: Described) -> Iterator[Relation]:
        return (r for r in self._related if (r.dataset, r.parent) == (table.dataset, table.name))


def _fresh(reader: Reader) -> dict[tuple[str, str], str | None]:
    """(dataset, table) → when a good run last had it, of every table that a run has met."""
    if not {"runs", "run_tables"} <= reader.tables(OWN_DATASET):
        return {}
    rows = reader.query(
        "SELECT t.dataset, t.table_name, "
        "max(CASE WHEN t.status IN ('ok', 'unchanged', 'warning') THEN r.finished_at END) "
        "FROM nightload.run_tables t JOIN nightload.runs r ON r.run_id = t.run_id GROUP BY t.dataset, t.table_name"
    )
    return {(dataset, table): _moment(moment) for dataset, table, moment in rows}


def _moment(moment: Any) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _rows(reader: Reader, columns: Sequence[ColumnThere]) -> tuple[int, int | None]:
    marked = any(column.name == DELETED_AT for column in columns)
    live = f"count(*) - count({DELETED_AT})" if marked else "NULL"
    table = quote(columns[0].dataset, columns[0].table)
    ((rows, still),) = reader.query(f"SELECT count(*), {live} FROM {table}")  # noqa: S608
    return rows, None if still in (None, rows) else still


def _facts(table: Described) -> str:
    facts = []
    if table.rows is not None:
        facts.append(f"{table.rows:,} rows" + (f", {table.live:,} of them live" if table.live is not None else ""))
    if key := key_of(table.columns):
        facts.append(f"key {', '.join(key)}" + (", each version a row" if is_history(table.columns) else ""))
    if table.fresh:
        facts.append(f"last good load {table.fresh}")
    return " · ".join(facts)


def _row(table: Described, column: ColumnThere) -> str:
    label = column.label if column.label not in (None, column.name) else ""
    about = column.about if column.label is None and column.about else ""
    shown = ", ".join(f"<code>{_html(text)}</code>" for text in table.examples.get(column.name, ()))
    mark = " class=key" if column.key else ""
    return (
        f"<tr><td{mark}><code>{_html(column.name)}</code>{' (key)' if column.key else ''}<td>{_html(column.type)}"
        f"<td>{_html(label or '')}<td>{shown}<span class=about>{_html(about)}</span>"
    )


def _related(relation: Relation, arrow: str) -> str:
    child, parent = (f"{relation.dataset}.{name}" for name in (relation.table, relation.parent))
    other = parent if arrow == "→" else child
    columns, its = ", ".join(relation.columns), ", ".join(relation.parent_columns)
    mine, there = (columns, its) if arrow == "→" else (its, columns)
    return f'{_html(mine)} {arrow} <a href="#{_html(other)}">{_html(other)}</a> ({_html(there)})'


def _html(text: str) -> str:
    return escape("".join(sign if sign.isprintable() else " " for sign in text))


def _put(file: Path, text: str) -> bool:
    """Write a file if it would change; whole or not at all."""
    content = text.encode("utf-8", "replace")
    if file.exists() and file.read_bytes() == content:
        return False
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, file)
    return True
