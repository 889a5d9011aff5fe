"""`nightload find-tables`: which queries, charts, dashboards, data services and configured SQL use which table.

It answers from the published warehouse and asks no vendor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

from pipelines.catalog.query import Read, Row, live_rows, not_loaded, published, unpacked
from pipelines.config.project import Place
from pipelines.operations.redash.sql_tables import Used, tables_of
from sources.core.config import raw
from sources.core.errors import ConfigurationError, one_line, summarize

DIALECTS = {
    "athena": "athena",
    "bigquery": "bigquery",
    "bigquery_gce": "bigquery",
    "clickhouse": "clickhouse",
    "cockroach": "postgres",
    "d1": "sqlite",
    "databricks": "databricks",
    "drill": "drill",
    "druid": "druid",
    "duckdb": "duckdb",
    "e6data": "trino",
    "exasol": "exasol",
    "hive": "hive",
    "hive_http": "hive",
    "impala": "hive",
    "kylin": "hive",
    "memsql": "mysql",
    "mssql": "tsql",
    "mssql_odbc": "tsql",
    "mysql": "mysql",
    "nz": "postgres",
    "oracle": "oracle",
    "pg": "postgres",
    "presto": "presto",
    "rds_mysql": "mysql",
    "redshift": "redshift",
    "redshift_iam": "redshift",
    "results": "sqlite",
    "risingwave": "risingwave",
    "snowflake": "snowflake",
    "spanner": "bigquery",
    "sqlite": "sqlite",
    "tinybird": "clickhouse",
    "treasuredata": "trino",
    "trino": "trino",
    "uptycs": "presto",
    "vertica": "postgres",
}
"""Types of data sources as the vendor names them, and the dialect of each. Any other is tried as plain SQL."""

NOT_SQL = frozenset(
    {
        "arangodb", "aws_es", "azure_kusto", "cloudwatch", "cloudwatch_insights", "corporate_memory", "csv", "dgraph",
        "elasticsearch", "elasticsearch2", "excel", "google_analytics", "google_analytics4", "google_search_console",
        "google_spreadsheets", "graphite", "influxdbv2", "insecure_script", "jirajql", "json", "mongodb", "prometheus",
        "python", "sparql_endpoint", "url", "yandex_appmetrika", "yandex_disk", "yandex_metrika",
    }
)  # fmt: skip

DATAWORKS_DIALECTS = ("hive", "mysql", "postgres")
"""A data service does not tell which kind of database it reads: MaxCompute, an RDS MySQL or Hologres."""

_QUERY_TABLE = re.compile(r"(?:cached_)?query_(\d+)(?:_[0-9a-f]{32})?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a text runs; the same name in two sources is two tables."""

    vendor: str
    name: str = ""
    type: str = ""
    id: int | None = None


@dataclass
class Text:
    """One SQL text, the tables that it uses, and what stands on it."""

    kind: str
    id: Any
    name: str
    source: Source
    used: Used
    url: str | None = None
    archived: bool = False
    reads_queries: list[int] = field(default_factory=list)
    dependents: list[Row] = field(default_factory=list)

    def told(self) -> Row:
        row: Row = {"kind": self.kind, "id": self.id, "name": self.name, "url": self.url}
        return row | ({"archived": True} if self.archived else {})


def find_tables(place: Place, patterns: Sequence[str] = ()) -> Row:
    """The report as one document; `patterns` are names or globs of tables, all tables without one.

    Raises `ConfigurationError` if there is no warehouse, or nothing with SQL in it.
    """
    with published(place) as read:
        found = {
            "tonalytica": _queries(read),
            "dataworks": _services(read),
            "thinkingengine": _generated(read),
        }
    loaded = [texts for texts in found.values() if texts is not None]
    if not loaded:
        raise not_loaded("tonalytica, dataworks or thinkingengine")
    texts = [text for each in loaded for text in each]
    wanted = [pattern.strip() for pattern in patterns if pattern.strip()]
    return {
        "tables": list(_tables(texts, wanted)),
        "texts": [
            text.told()
            | {"source": _source(text.source), "tables": list(text.used.tables), "problems": list(text.used.problems)}
            | ({"reads_queries": text.reads_queries} if text.reads_queries else {})
            for text in texts
            if not wanted or any(_matches(table, wanted) for table in text.used.tables)
        ],
        "unread": [text.told() | {"why": problem} for text in texts for problem in text.used.problems],
        "not_loaded": [vendor for vendor, its in found.items() if its is None],
    }


def _tables(texts: Sequence[Text], wanted: Sequence[str]) -> Iterator[Row]:
    by_query = {text.id: text for text in texts if text.kind == "query"}
    uses: dict[tuple[str, str, int | None, str], list[tuple[Text, str]]] = {}
    for text in texts:
        for table in text.used.tables:
            key = (table, text.source.vendor, text.source.id, text.source.name)
            uses.setdefault(key, []).append((text, table))
    for (table, *_), its in sorted(uses.items(), key=lambda item: tuple(map(str, item[0]))):
        if wanted and not _matches(table, wanted):
            continue
        source = its[0][0].source
        users: list[Row] = []
        for text, name in its:
            written = text.used.written.get(name)
            users += [text.told() | ({"written": written} if written else {}), *text.dependents]
        row: Row = {"table": table, "source": _source(source), "users": _each_once(users)}
        queried = _query_of(table) if source.type == "results" else None
        if queried is not None:
            row["query"] = by_query[queried].told() if queried in by_query else {"kind": "query", "id": queried}
        yield row


def _each_once(users: Sequence[Row]) -> list[Row]:
    return list({(user["kind"], str(user["id"])): user for user in users}.values())


def _matches(table: str, patterns: Sequence[str]) -> bool:
    """A pattern fits the whole dotted name or its end: `events` and `ods.*` both find `ods.events`."""
    name = table.casefold()
    ends = [name, *(name[at + 1 :] for at, char in enumerate(name) if char == ".")]
    return any(fnmatchcase(end, pattern.casefold()) for pattern in patterns for end in ends)


def _source(source: Source) -> Row:
    return {name: value for name, value in vars(source).items() if value not in ("", None)}


def _query_of(table: str) -> int | None:
    found = _QUERY_TABLE.fullmatch(table)
    return int(found[1]) if found else None


# -- TONalytica -------------------------------------------------------------------------------------


def base_url() -> str:
    """Where people open TONalytica."""
    from sources.tonalytica.settings import Settings

    return str(raw("sources.tonalytica", "base_url") or Settings.base_url).rstrip("/")


def _queries(read: Read) -> list[Text] | None:
    rows = live_rows(read, "tonalytica", "queries")
    if rows is None:
        return None
    base = base_url()
    sources = {row["id"]: row for row in live_rows(read, "tonalytica", "data_sources") or ()}
    dependents = _dependents(read, base)
    texts = []
    for row in sorted(rows, key=lambda row: int(row["id"])):
        source = _data_source(sources, row["data_source_id"])
        values = {
            str(each["name"]): each.get("value")
            for each in (unpacked(row["options"]) or {}).get("parameters") or ()
            if isinstance(each, Mapping) and "name" in each
        }
        text = Text(
            kind="query",
            id=row["id"],
            name=row["name"] or "",
            source=source,
            used=_used(row["query"] or "", source.type, values),
            url=f"{base}/queries/{row['id']}",
            archived=bool(row["is_archived"]),
            dependents=dependents.get(row["id"], []),
        )
        if source.type == "results":
            text.reads_queries = [query for table in text.used.tables if (query := _query_of(table)) is not None]
        texts.append(text)
    return texts


def _used(sql: str, kind: str, values: Mapping[str, Any]) -> Used:
    if not sql.strip():
        return Used()
    if kind in NOT_SQL:
        return Used(problems=(f"{kind} does not speak SQL",))
    return tables_of(sql, (DIALECTS.get(kind, ""),), values=values)


def _data_source(sources: Mapping[int, Row], key: int | None) -> Source:
    row = sources.get(key) if key is not None else None
    if row is None:
        return Source(vendor="tonalytica", id=key, name="" if key is not None else "the data source is gone")
    return Source(vendor="tonalytica", id=key, name=row["name"] or "", type=row["type"] or "")


def _dependents(read: Read, base: str) -> dict[int, list[Row]]:
    """What shows a query: its charts, and the dashboards that they stand on."""
    found: dict[int, list[Row]] = {}
    for row in live_rows(read, "tonalytica", "visualizations") or ():
        url = f"{base}/queries/{row['query_id']}#{row['id']}"
        chart = {"kind": "chart", "id": row["id"], "name": row["name"] or "", "url": url, "type": row["type"]}
        found.setdefault(row["query_id"], []).append(chart)
    boards = {row["id"]: row for row in live_rows(read, "tonalytica", "dashboards") or ()}
    on = {(row["query_id"], row["dashboard_id"]) for row in live_rows(read, "tonalytica", "widgets") or ()}
    for query, board in sorted((query, board) for query, board in on if query is not None and board in boards):
        row = boards[board]
        url = f"{base}/dashboards/{row['id']}"
        found.setdefault(query, []).append({"kind": "dashboard", "id": row["id"], "name": row["name"], "url": url})
    for rows in found.values():
        rows.sort(key=lambda row: (row["kind"], row["id"]))
    return found


# -- DataWorks --------------------------------------------------------------------------------------


def _services(read: Read) -> list[Text] | None:
    found: list[Text] = []
    missing = 0
    for table, kind in (("published_apis", "published api"), ("draft_apis", "draft api")):
        rows = live_rows(read, "dataworks", table)
        missing += rows is None
        for row in sorted(rows or (), key=lambda row: (int(row["project_id"]), int(row["api_id"]))):
            script = row["script"] or (unpacked(row.get("script_details")) or {}).get("Script") or ""
            used = tables_of(script, DATAWORKS_DIALECTS, mybatis=True) if script.strip() else Used()
            if named := row["table_name"]:
                used = Used(tables=tuple(sorted({*used.tables, named})), problems=used.problems, written=used.written)
            source = Source(vendor="dataworks", id=row["connection_id"])
            key = f"{row['project_id']}/{row['api_id']}"
            found.append(Text(kind=kind, id=key, name=row["api_name"] or "", source=source, used=used))
    return None if missing == 2 else found


# -- ThinkingEngine ---------------------------------------------------------------------------------


def _generated(read: Read) -> list[Text] | None:
    """SQL that the vendor makes of filters, and SQL that the configuration holds."""
    configured = list(_configured())
    rows = live_rows(read, "thinkingengine", "generated_sql")
    if rows is None and not configured and live_rows(read, "thinkingengine", "event_meta") is None:
        return None
    source = Source(vendor="thinkingengine")
    made = [
        Text(
            kind="generated sql",
            id=row["name"],
            name=row["name"],
            source=source,
            used=tables_of(row["sql"], ("trino",)) if row["sql"] else Used(problems=("the vendor gave no SQL",)),
        )
        for row in sorted(rows or (), key=lambda row: str(row["name"]))
    ]
    return [*configured, *made]


def _configured() -> Iterator[Text]:
    """`[[sources.thinkingengine.queries]]`, whether or not the rest of that section is ready for a run."""
    section = "sources.thinkingengine"
    given = raw(section, "queries")
    try:
        queries = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        raise ConfigurationError(
            what=f"{section}.queries cannot be read", todo="Write it as a list of tables"
        ) from None
    for number, query in enumerate(queries or (), start=1):
        name = str(query.get("name") or number) if isinstance(query, Mapping) else str(number)
        used = _configured_tables(query, raw(section, "project_id"), where=f"query {name}")
        yield Text(kind="sql configuration", id=name, name=name, source=Source(vendor="thinkingengine"), used=used)


def _configured_tables(given: Any, project: Any, *, where: str) -> Used:
    from sources.thinkingengine.queries import Query, known_places, render

    try:
        sql = str(given["sql"])
        known_places(sql, where=where)
        query = Query(name="", sql=sql, project_id=int(given.get("project_id") or project or 0))
        text = render(query, zone="UTC", start=date(2000, 1, 1), end=date(2000, 1, 1))
    except (ConfigurationError, KeyError, TypeError, ValueError) as error:
        return Used(problems=(summarize(error),))
    return tables_of(text, ("trino",))


# -- for people -------------------------------------------------------------------------------------


def as_lines(report: Row) -> Iterator[str]:
    """The report as lines; names are somebody else's text and hold no control character here."""
    for table in report["tables"]:
        source = table["source"]
        runs = " ".join(str(source[name]) for name in ("vendor", "id", "name", "type") if name in source)
        yield one_line(f"{table['table']}  ({runs})")
        if queried := table.get("query"):
            yield f"  is the result of {_line(queried)}"
        for user in table["users"]:
            yield f"  {_line(user)}"
    if not report["tables"]:
        yield "no such table is used"
    if report["unread"]:
        yield ""
        yield f"{len(report['unread'])} that could not be read, wholly or in part:"
        for row in report["unread"]:
            yield f"  {_line(row)}: {one_line(row['why'])}"
    if report["not_loaded"]:
        yield ""
        yield f"not loaded, so not looked through: {', '.join(report['not_loaded'])}"


def _line(row: Row) -> str:
    name = f"  {row['name']}" if row.get("name") and row["name"] != row["id"] else ""
    more = "  (archived)" if row.get("archived") else ""
    written = f"  as {row['written']}" if row.get("written") else ""
    return one_line(f"{row['kind']} {row['id']}{name}{more}{written}") + (f"  {row['url']}" if row.get("url") else "")
