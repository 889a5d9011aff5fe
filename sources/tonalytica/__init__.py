"""TONalytica, which is a Redash: what there is (queries, dashboards, …), and what the queries gave.

Two datasets. `tonalytica` holds the metadata; `tonalytica_results` one table per query with its
latest result. The row in `query_results` that records a result is in the state of the result's
table, and is made once that table is loaded: a result that the database refuses is not recorded,
and where `query_results` failed, a later run records it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import dlt
from dlt.extract import DltResource, DltSource

from sources.convert.spool import iter_rows, labels_of
from sources.convert.types import Column, Kind, key_of, label_of
from sources.core.concurrency import once
from sources.core.config import is_set, settings_of, unmatched
from sources.core.errors import AccessDenied, ConfigurationError, NightloadError, NotReady, Refused, Unreachable
from sources.extract.connector import Part
from sources.extract.extractor import Extraction
from sources.extract.sync import RESET, Extra, Fetch, Walk, noting
from sources.extract.table import Mode, Table
from sources.tonalytica import settings as has
from sources.tonalytica.client import Client, Listed, Result, StillQueued
from sources.tonalytica.parameters import resolve
from sources.tonalytica.selection import Execution, Selection, read_executions

log = logging.getLogger(__name__)

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
PARAMETERS = "_parameters"
"""The column that tells with which parameters a row was executed."""
_LIMIT = "(LIMIT1000|FETCHNEXT1000ROWSONLY)?"
"""What the server adds to a text, or TOP1000, by the dialect; compared without white space."""
_PARAMETER = re.compile(r"\{\{.*?\}\}")


def configured() -> bool:
    return is_set(has.VENDOR, "api_key", "query_keys")


def connect() -> Tonalytica:
    return Tonalytica(settings_of(has.VENDOR, has.Settings(), secrets=has.Settings.secrets))


def tables() -> dict[str, tuple[Table, ...]]:
    """The tables of `tonalytica_results` are the vendor's queries: only a connection knows them."""
    return {has.RESULTS: (), has.DATASET: has.TABLES}


@dlt.source(name=has.DATASET)
def tonalytica(vendor: Any = None, extraction: Any = None) -> Iterable[DltResource]:
    """The metadata, as a dlt source for a pipeline of one's own."""
    vendor = vendor or connect()
    return list(vendor.metadata(extraction or Extraction.standalone(has.VENDOR)))


@dlt.source(name=has.RESULTS)
def tonalytica_results(vendor: Any = None, extraction: Any = None) -> Iterable[DltResource]:
    """The results, one resource per query, as a dlt source. Asks the vendor for its queries."""
    vendor = vendor or connect()
    return list(vendor.results(extraction or Extraction.standalone(has.VENDOR)))


class Tonalytica:
    """One connected Redash. What several tables need is fetched once per run."""

    def __init__(self, settings: has.Settings) -> None:
        if not settings.api_key and not settings.query_keys:
            raise ConfigurationError(
                what="TONalytica has no key",
                todo="Set sources.tonalytica.api_key (or query_keys) in .dlt/secrets.toml, "
                "or SOURCES__TONALYTICA__API_KEY in the environment",
            )
        has.check(settings)
        self.settings = settings
        self.selection = Selection.read(settings.results)
        self.executions = read_executions(settings.executions)
        for name in settings.exclude or ():
            if name not in {table.name for table in has.TABLES} | {"results"}:
                raise ConfigurationError(
                    what=f"sources.tonalytica.exclude names {name}, which is no table",
                    todo=f"It may name: results, {', '.join(table.name for table in has.TABLES)}",
                )
        self.client = Client(settings)
        self.http = self.client.http
        self._has_records = False
        """Did this run read a result, or change a record?"""

    def parts(self, extraction: Extraction) -> list[Part]:
        return [
            Part(dataset=has.RESULTS, source=lambda: _source(tonalytica_results, self, extraction)),
            Part(dataset=has.DATASET, source=lambda: _source(tonalytica, self, extraction), records=has.RESULTS),
        ]

    def check(self) -> Iterator[str | NightloadError]:
        if self.client.has_user_key:
            session, date = self.client.session()
            version = (session.get("client_config") or {}).get("version", "unknown")
            user = session["user"]
            yield f"the user key works: {user['name']}, groups {user.get('groups')}, Redash {version}"
            if date is not None:
                apart = abs((datetime.now(UTC) - date).total_seconds())
                yield f"the clocks are {apart:.0f} s apart" + (" - set yours" if apart > 60 else "")
            yield f"{self.client.get('queries', page=1, page_size=1)['count']} queries are visible"
        for query_id in self.client.query_keys:
            yield f"the key of query {query_id} works: {self.client.query_of_key(query_id)['name']}"
        if "results" in (self.settings.exclude or ()):
            return
        for query_id, found in self._named():
            if isinstance(found, NightloadError) and query_id not in self.client.query_keys:
                yield found
        yield from self.unmatched()

    # -- what several tables need ---------------------------------------------------------------

    @once
    def queries(self) -> Listed:
        """Every query that the user key can see; `found_in` says where."""
        listed = self.client.list_all("queries")
        archived = self.client.list_all("queries/archive")
        rows = {row["id"]: row | {"found_in": "list"} for row in listed.rows}
        rows |= {row["id"]: row | {"found_in": "archive"} for row in archived.rows if row["id"] not in rows}
        hidden, note = self._hidden("queries", rows)
        rows |= {row["id"]: row for row in hidden}
        self.client.readable = frozenset(rows)
        return Listed(
            rows=list(rows.values()),
            count=listed.count + archived.count + len(hidden),
            whole=not note,
            notes=(*listed.notes, *archived.notes, *note),
        )

    @once
    def query_details(self) -> dict[int, dict[str, Any]]:
        """Each query with its visualizations. Editing those does not move the query's updated_at, so all are read."""
        ids = [row["id"] for row in self.queries.rows]
        found = {each: detail for each, detail in self.client.details("queries", ids) if detail is not None}
        self.client.refuse_listed("queries", [each for each in ids if each not in found])
        return found

    @once
    def dashboards(self) -> Listed:
        """Every dashboard that the key can see, with its widgets."""
        listed = self.client.list_all("dashboards", duplicates=True)
        rows: dict[int, dict[str, Any]] = {}
        gone = []
        for row in listed.rows:
            detail = self.client.dashboard(row["id"], row["slug"])
            if detail is None:
                gone.append(row["id"])
            else:
                rows[row["id"]] = row | {"widgets": detail.get("widgets") or [], "found_in": "list"}
        self.client.refuse_listed("dashboards", gone)
        hidden, note = self._hidden("dashboards", rows)
        rows |= {row["id"]: row for row in hidden}
        count = listed.count - len(gone) + len(hidden)
        whole = listed.whole and not note
        return Listed(rows=list(rows.values()), count=count, whole=whole, notes=(*listed.notes, *note))

    def _hidden(self, path: str, seen: Mapping[int, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
        """What no list shows, though it can be read: the newest ids between those that are seen; a note if not all."""
        if not self.settings.probe_hidden:
            return [], ()
        newest = max(seen, default=0)
        gaps = list(islice((each for each in range(newest, 0, -1) if each not in seen), has.MAX_PROBED))
        # 403: there is something, which this key may not see; so it stays hidden
        details = self.client.details(path, gaps, passing=(403, 404))
        hidden = [detail | {"found_in": "hidden"} for _, detail in details if detail is not None]
        missing = newest - len(seen.keys() & set(range(1, newest + 1))) - len(gaps)
        if not missing:
            return hidden, ()
        return hidden, (
            f"probe_hidden asked for the {len(gaps)} newest of {len(gaps) + missing} {path} that no list shows; "
            f"{missing} older ids were not asked for, and no row is marked as deleted",
        )

    # -- metadata -------------------------------------------------------------------------------

    def metadata(self, extraction: Extraction) -> Iterator[DltResource]:
        fetches: dict[str, Fetch] = {
            "queries": self._fetch_queries,
            "query_versions": self._fetch_query_versions,
            "visualizations": self._fetch_visualizations,
            "dashboards": self._fetch_dashboards,
            "widgets": self._fetch_widgets,
            "data_sources": self._fetch_array("data_sources"),
            "users": self._fetch_users,
            "alerts": self._fetch_array("alerts"),
            "query_snippets": self._fetch_array("query_snippets"),
            "query_results": partial(self._fetch_query_results, extraction),
        }
        excluded = set(self.settings.exclude or ())
        noted = next((t.name for t in (has.QUERY_RESULTS, *has.TABLES) if t.name not in excluded), None)
        if noted and extraction.tables is None and "results" not in excluded:
            fetches[noted] = noting(fetches[noted], self.unmatched)
        for table in has.TABLES:
            by_query_keys_alone = not self.client.has_user_key and table is not has.QUERY_RESULTS
            if by_query_keys_alone or table.name in (self.settings.exclude or ()):
                continue
            # a result that was just loaded is recorded, even where only its own table was asked for
            records = table is has.QUERY_RESULTS and self._has_records
            if records or extraction.wants(has.DATASET, table.name):
                yield extraction.resource(has.DATASET, table, fetches[table.name])

    def _fetch_queries(self, walk: Walk) -> None:
        _spool(walk, self.queries.rows, count=self.queries.count, notes=self.queries.notes, whole=self.queries.whole)

    def _fetch_query_versions(self, walk: Walk) -> None:
        rows = [row | {"query_id": row["id"]} for row in self.queries.rows]
        _spool(walk, rows, count=self.queries.count, only_declared=True)

    def _fetch_visualizations(self, walk: Walk) -> None:
        rows = [
            visualization | {"query_id": query_id}
            for query_id, detail in self.query_details.items()
            for visualization in detail.get("visualizations") or ()
        ]
        _spool(walk, rows)

    def _fetch_dashboards(self, walk: Walk) -> None:
        rows = [{name: value for name, value in row.items() if name != "widgets"} for row in self.dashboards.rows]
        _spool(walk, rows, count=self.dashboards.count, notes=self.dashboards.notes, whole=self.dashboards.whole)

    def _fetch_widgets(self, walk: Walk) -> None:
        rows = [_widget(widget, row["id"]) for row in self.dashboards.rows for widget in row["widgets"]]
        _spool(walk, rows, whole=self.dashboards.whole)

    def _fetch_users(self, walk: Walk) -> None:
        enabled, disabled = self.client.list_all("users"), self.client.list_all("users", disabled="true")
        _spool(walk, enabled.rows + disabled.rows, count=enabled.count + disabled.count)

    def _fetch_array(self, path: str) -> Fetch:
        def fetch(walk: Walk) -> None:
            _spool(walk, self.client.array(path))

        return fetch

    def _fetch_query_results(self, extraction: Extraction, walk: Walk) -> None:
        """The records that this table does not have in their present form."""
        loaded = {table: state.get("records", []) for table, state in extraction.states.get(has.RESULTS, {}).items()}
        recorded = {} if walk.full else dict(walk.state.get("recorded", {}))
        rows = []
        for table, records in loaded.items():
            rows += [json.loads(record) for record in records if _digest(record) not in recorded.get(table, ())]
            recorded[table] = [_digest(record) for record in records]
        if not rows:
            walk.unchanged(0)
            return
        walk.state["recorded"] = recorded
        _spool(walk, rows)

    # -- results --------------------------------------------------------------------------------

    def results(self, extraction: Extraction) -> Iterator[DltResource]:
        """One resource per query that has a result, or that is to be executed."""
        if "results" in (self.settings.exclude or ()) or not extraction.wants_any_of(has.RESULTS):
            return
        for query in self.queries.rows if self.client.has_user_key else ():
            yield from self._result(extraction, query)
        for query_id, found in self._named():
            table = Table(name=f"query_{query_id}", mode=Mode.LATEST)
            if not isinstance(found, NightloadError):
                yield from self._result(extraction, found)
            elif extraction.wants(has.RESULTS, table.name):
                # one query that cannot be had fails its own table, and nothing else
                yield extraction.resource(has.RESULTS, table, partial(_raise, found))

    def _result(self, extraction: Extraction, query: dict[str, Any]) -> Iterator[DltResource]:
        """The resource of one query's result, if there is one and it is wanted."""
        name = f"query_{query['id']}"
        if not extraction.wants(has.RESULTS, name):
            return
        label = name if query.get("name") is None else label_of(query["name"])
        table = Table(name=name, mode=Mode.LATEST, label=label, about=f"result of “{label}”")
        if any(execution.query == query["id"] for execution in self.executions):
            yield extraction.resource(has.RESULTS, table, self._fetch_executions(extraction, query))
        elif query["latest_query_data_id"] is not None and self.selection.wants(query):
            kept = query["id"] in self.selection.keep_history
            table = replace(table, mode=Mode.KEPT, scope="_result_id") if kept else table
            yield extraction.resource(has.RESULTS, table, self._fetch_result(extraction, query))

    def _named(self) -> Iterator[tuple[int, dict[str, Any] | NightloadError]]:
        """The queries that the settings name and no list shows: read by their ids, for they may be hidden."""
        listed = {row["id"] for row in self.queries.rows} if self.client.has_user_key else set()
        named = dict.fromkeys(self.client.query_keys, "query_keys")
        named |= dict.fromkeys(self.selection.keep_history, "results.keep_history")
        named |= dict.fromkeys(self.selection.include.ids, "results.include.ids")
        named |= {execution.query: "executions" for execution in self.executions}
        for query_id, setting in named.items():
            if query_id in listed:
                continue
            try:
                found: dict[str, Any] | NightloadError = self.client.query(query_id)
            except Refused as error:
                found = error
                if error.status == 404 and query_id not in self.client.query_keys:
                    (found,) = unmatched(has.VENDOR, setting, [query_id], (), what="query")
            yield query_id, found

    def unmatched(self) -> Iterator[NightloadError]:
        """An error for each list of the settings that names what no query has. A query's key lists nothing."""
        if not self.client.has_user_key:
            return
        rows, chosen = self.queries.rows, self.selection
        ids = {row["id"] for row in rows}
        tags = {tag for row in rows for tag in row.get("tags") or ()}
        sources = {row.get("data_source_id") for row in rows}
        found = partial(unmatched, has.VENDOR)
        for name, each in (("include", chosen.include), ("exclude", chosen.exclude)):
            yield from found(f"results.{name}.tags", each.tags, tags, what="tag of a query")
            yield from found(f"results.{name}.data_sources", each.data_sources, sources, what="data source of a query")
        yield from found("results.exclude.ids", chosen.exclude.ids, ids, what="query")
        executed = {execution.query for execution in self.executions}
        asked = chosen.include.ids & ids - executed
        computed = {row["id"] for row in rows if row["latest_query_data_id"] is not None}
        yield from found("results.include.ids", asked, computed, what="query with a result")
        loaded = {row["id"] for row in rows if chosen.wants(row)}
        yield from found("results.keep_history", chosen.keep_history & ids, loaded, what="query in results.include")

    def _fetch_result(self, extraction: Extraction, query: dict[str, Any]) -> Fetch:
        def fetch(walk: Walk) -> None:
            latest = query["latest_query_data_id"]
            kept = walk.table.mode == Mode.KEPT
            as_before = _same_manner(walk, "kept" if kept else "latest")
            if as_before and walk.state.get("result_id") == latest and not walk.full:
                self._judge_text(query, walk)
                walk.unchanged(walk.state.get("rows", 0))
                return
            file = _beside(walk, "body")
            try:
                result = self._latest(query, latest, file)
                walk.spool.adopt(file, result.start, result.end)
                walk.columns, walk.open_columns = result_columns(result), True
            finally:
                file.unlink(missing_ok=True)
            if not walk.columns:
                if not walk.stored:
                    walk.notes.append("the result has no column, so there is no table for it")
                    walk.unchanged(0)
                    return
                walk.columns = walk.stored  # nothing came, not even columns: an empty answer like any other
            if kept:
                walk.extra = {"_result_id": Extra(f"{result.envelope['id']}::BIGINT", "bigint")}
            # the first result that is kept takes the place of the latest one, which may be the same
            walk.anew = kept and not as_before
            walk.state["result_id"] = latest
            self._begin_records(extraction, walk)
            self._record(query, result, walk)

        return fetch

    def _latest(self, query: dict[str, Any], result_id: int, file: Path) -> Result:
        try:
            return self.client.result(query["id"], result_id, file)
        except Refused as error:
            if error.status != 404:
                raise
            raise NotReady(
                what=f"result {result_id} is gone",
                where=f"query {query['id']}",
                why="the server deletes a result that no query points to any more",
                todo="Run again: the list will name a newer one",
                status=404,
            ) from None

    def _fetch_executions(self, extraction: Extraction, query: dict[str, Any]) -> Fetch:
        """All parameter sets of one query: the table holds each set's rows, told apart by `PARAMETERS`.

        A set that fails keeps its rows of an earlier run, and the others are loaded.
        """
        executions = [each for each in self.executions if each.query == query["id"]]

        def fetch(walk: Walk) -> None:
            _same_manner(walk, "executed")
            walk.state.pop("result_id", None)
            self._begin_records(extraction, walk)
            before: dict[str, str] = walk.state.get("sets", {})
            loaded: dict[str, str] = {}
            columns: dict[str, Column] = {}
            empty: set[str] = set()
            failed: list[NightloadError] = []
            walk.certain = True
            for execution in executions:
                if failed and isinstance(failed[-1], StillQueued):
                    break  # the others would only make the queue longer
                try:
                    parameters, result, labelled, rows = self._execute(query, execution, walk)
                except (AccessDenied, Unreachable):
                    raise
                except NightloadError as error:
                    failed.append(error if len(executions) == 1 else error.at(f"parameters {execution.given}"))
                    continue
                walk.certain = walk.certain and bool(result.columns)
                for column in labelled:
                    columns.setdefault(column.label, column)
                loaded[_digest(execution.given)] = parameters
                empty |= set() if rows else {parameters}
                # the newest result is that of the defaults
                of_set = query | {"latest_query_data_id": None} if execution.parameters else query
                self._record(of_set, result, walk, parameters=parameters, rows=rows)
            if failed and (not loaded or (walk.stored and not before)):
                raise failed[0]
            walk.columns, walk.open_columns = [*columns.values(), Column(label=PARAMETERS, kind=Kind.TEXT)], True
            stay = {_digest(each.given) for each in executions} - loaded.keys()
            walk.state["sets"] = {given: sent for given, sent in before.items() if given in stay} | loaded
            if failed:
                walk.missed, walk.notes = failed[0], [*walk.notes, *map(str, failed[1:])]
            if failed and walk.stored:
                walk.table = replace(walk.table, mode=Mode.KEPT, scope=PARAMETERS)
                gone = {*before.values()} - {*walk.state["sets"].values()}
                walk.emptied = frozenset(gone | empty)

        return fetch

    def _execute(
        self, query: dict[str, Any], execution: Execution, walk: Walk
    ) -> tuple[str, Result, list[Column], int]:
        """Execute one parameter set and spool its rows; the parameters as they were sent, and how many rows came."""
        values = resolve(
            execution.parameters,
            (query.get("options") or {}).get("parameters") or [],
            now=walk.until,
            zone=self.settings.zone,
            where=f"sources.tonalytica.executions, query {query['id']}",
        )
        parameters = json.dumps(values, ensure_ascii=False, sort_keys=True)
        file, mark = _beside(walk, "body"), walk.spool.mark()
        try:
            result = self.client.execute(query["id"], values, max_age=execution.max_age, file=file)
            rows = _spool_tagged(walk, result, parameters, where=f"query {query['id']}")
            return parameters, result, result_columns(result), rows
        except BaseException:
            walk.spool.rewind(mark)
            raise
        finally:
            file.unlink(missing_ok=True)

    # -- records of results ---------------------------------------------------------------------

    def _begin_records(self, extraction: Extraction, walk: Walk) -> None:
        """Keep of the earlier records those that `query_results` lacks; the others would stay for ever."""
        of_records = extraction.states.get(has.DATASET, {}).get(has.QUERY_RESULTS.name, {})
        recorded = of_records.get("recorded", {}).get(walk.table.name, ())
        lost = has.DATASET in extraction.states and has.QUERY_RESULTS.name not in (self.settings.exclude or ())
        earlier = walk.state.get("records", []) if lost else []
        walk.state["records"] = [record for record in earlier if _digest(record) not in recorded]

    def _record(
        self, query: dict[str, Any], result: Result, walk: Walk, *, parameters: str = "", rows: int | None = None
    ) -> None:
        """Let the row of `query_results` for this result be made once it is loaded; `rows` None: as many as loaded."""
        ran = str(result.envelope.get("query") or "")
        limited = bool((query.get("options") or {}).get("apply_auto_limit")) or bool(
            has.AUTO_LIMIT.search(ran) and not has.AUTO_LIMIT.search(query.get("query") or "")
        )
        row = {
            "query_id": query["id"],
            # the answer to a query's key that comes from the cache has no id
            "result_id": result.envelope.get("id") or query.get("latest_query_data_id") or 0,
            "parameters": parameters,
            "retrieved_at": result.envelope.get("retrieved_at"),
            "runtime": result.envelope.get("runtime"),
            "data_source_id": result.envelope.get("data_source_id") or query.get("data_source_id"),
            "columns": result.columns,
            "query_hash": result.envelope.get("query_hash"),
            "auto_limited": limited and not parameters,
            "is_of_older_text": bool(ran) and not _could_be(query.get("query"), ran),
            "table_name": f"query_{query['id']}",
        }
        if not parameters:
            walk.state["text"] = [_digest(_bare(query.get("query"))), row["is_of_older_text"]]

        def loaded(count: int) -> None:
            walk.state["records"].append(json.dumps(row | {"row_count": count if rows is None else rows}))
            self._has_records = True

        walk.on_loaded = [*walk.on_loaded, loaded]
        if data := set(result.envelope["data"]) - {"columns", "rows", "metadata"}:
            walk.notes.append(f"the result says {', '.join(sorted(data))}: it may not be whole")

    def _judge_text(self, query: dict[str, Any], walk: Walk) -> None:
        """Correct `is_of_older_text` of a result that was loaded before: its query may be edited, or edited back."""
        if not (records := walk.state.get("records")):
            return
        *earlier, last = records
        row, (text, older) = json.loads(last), walk.state["text"]
        if text != _digest(_bare(query.get("query"))):
            older = query.get("query_hash") != row["query_hash"]
        if older != row["is_of_older_text"]:
            walk.state["records"] = [*earlier, json.dumps(row | {"is_of_older_text": older})]
            self._has_records = True


def _raise(error: NightloadError, _: Walk) -> None:
    raise error


def _same_manner(walk: Walk, manner: str) -> bool:
    """Was the table kept in this manner the last time? What only the table has is not given up unasked."""
    before = walk.state.get("manner")
    if before == "kept" and manner != "kept" and (not walk.full or RESET in walk.state):
        raise ConfigurationError(
            what="the table keeps results that the vendor has no more",
            where=f"{has.RESULTS}.{walk.table.name}",
            why="its query was taken out of sources.tonalytica.results.keep_history",
            todo="Put it back, or give the kept results up: "
            f"nightload run --full --table {has.RESULTS}.{walk.table.name}",
        )
    walk.state["manner"] = manner
    return bool(before == manner)


def result_columns(result: Result) -> list[Column]:
    """The result's columns, each key of the rows once; their types are hints. Without names, the rows show them."""
    named = [each for each in result.columns if isinstance(each, dict) and "name" in each]
    types = {key_of(each["name"]): each.get("type") for each in named}
    types = types or dict.fromkeys(labels_of(iter_rows(result.path, start=result.start)))
    return [
        Column(label=key, kind=has.KIND_OF_TYPE.get(hint) if isinstance(hint, str) else None, declared=False)
        for key, hint in types.items()
    ]


def _spool_tagged(walk: Walk, result: Result, parameters: str, *, where: str) -> int:
    """How many rows came.

    Raises `ConfigurationError` for a result that has a column of the name under which its rows are told apart.
    """
    count = 0
    rows = iter_rows(result.path, start=result.start, as_written=False)
    while page := list(islice(rows, 1000)):
        if any(PARAMETERS in row for row in page):
            raise ConfigurationError(
                what=f"the result has a column {PARAMETERS}",
                where=where,
                why="that column says with which parameters a row was executed",
                todo="Give it another name in the SQL",
            )
        walk.spool.rows([row | {PARAMETERS: parameters} for row in page])
        count += len(page)
    return count


def _spool(
    walk: Walk,
    rows: list[dict[str, Any]],
    *,
    count: int | None = None,
    whole: bool = True,
    notes: Iterable[str] = (),
    only_declared: bool = False,
) -> None:
    """Spool metadata rows: keys that give access are dropped, nested owners become ids, new fields become columns.

    `count` is the vendor's own; where it tells none (lists without pages, children), what its answers hold.
    """
    walk.vendor_count = len(rows) if count is None else count
    walk.complete = None if whole else False
    walk.notes += notes
    if walk.limit is not None:
        rows = rows[: walk.limit]
    tidy = [_tidy(row) for row in rows]
    walk.spool.rows(tidy)
    declared = {column.label for column in walk.table.columns}
    extra = [] if only_declared else [label for label in labels_of(tidy) if label not in declared]
    walk.columns = [*walk.table.columns, *(Column(label=label, declared=False) for label in extra)]


OWNERS = {"user": "user_id", "last_modified_by": "last_modified_by_id", "query": "query_id"}
"""Nested objects of which only the id is kept: each stands in a table of its own."""

LEFT_OUT = {"visualizations", "profile_image_url", "can_edit", "public_url"}
"""Children with a table of their own, a hash of the e-mail address, and what is about the asking key alone."""


def _tidy(row: Mapping[str, Any]) -> dict[str, Any]:
    tidy: dict[str, Any] = {}
    for label, value in row.items():
        if label in LEFT_OUT or has.LIVE_KEYS.search(label):
            continue
        if label in OWNERS and (value is None or isinstance(value, dict)):
            tidy.setdefault(OWNERS[label], (value or {}).get("id"))
        else:
            tidy[label] = _without_keys(value)
    return tidy


def _without_keys(value: Any) -> Any:
    match value:
        case dict():
            return {k: _without_keys(v) for k, v in value.items() if not has.LIVE_KEYS.fullmatch(k)}
        case list():
            return [_without_keys(item) for item in value]
        case _:
            return value


def _widget(widget: Mapping[str, Any], dashboard_id: int) -> dict[str, Any]:
    visualization = widget.get("visualization") or {}
    return {name: value for name, value in widget.items() if name != "visualization"} | {
        "dashboard_id": dashboard_id,
        "visualization_id": visualization.get("id"),
        "query_id": (visualization.get("query") or {}).get("id"),
        "restricted": bool(widget.get("restricted")),
    }


def _beside(walk: Walk, suffix: str) -> Path:
    return walk.spool.path.with_suffix(f".{suffix}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _could_be(template: str | None, ran: str) -> bool:
    """Is `ran` what the query's text gives with some values in the place of its parameters (and a LIMIT)?"""
    bare = _bare(ran)
    pattern = re.compile(".*".join(map(re.escape, _PARAMETER.split(_bare(template)))) + _LIMIT)
    return any(pattern.fullmatch(each) for each in (bare, bare.replace("TOP1000", "", 1)))


def _bare(text: str | None) -> str:
    """A query's text as the server compares it: neither white space nor comments count."""
    return "".join(_COMMENT.sub("", text or "").split()).rstrip(";")


def _source(make: Any, vendor: Tonalytica, extraction: Extraction) -> DltSource:
    source: DltSource = make(vendor, extraction)
    return source
