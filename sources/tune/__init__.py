"""TUNE (MobileAppTracking): records of the Management API, one table per endpoint; and configured reports.

A walk asks the vendor for its fields, then for a count, then for all pages sorted by the key, then for the count
again and, if there were several pages, for the keys once more. Pages shift when rows come and go under the walk: a
moved count shows some of that, the second look at the keys the rest (one row gone and one new leave the count as is).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

import dlt
from dlt.extract import DltResource

from sources.convert.inspect import keys_apart, newest_text
from sources.convert.parquet import Converted
from sources.convert.spool import Spool, iter_rows, labels_of
from sources.convert.types import Column
from sources.core.concurrency import in_order
from sources.core.config import is_set, settings_of
from sources.core.dates import Calls, Days, latest, on_clock
from sources.core.errors import AccessDenied, ConfigurationError, CountMismatch, NightloadError, Refused
from sources.extract.connector import Part
from sources.extract.extractor import Extraction
from sources.extract.sync import Fetch, Walk
from sources.extract.table import Table
from sources.tune.client import Client, Request
from sources.tune.fields import Metadata, Plan, column_of, is_dropped, plan, unknown_kept
from sources.tune.reports import reports_of, table_of_report
from sources.tune.restating import Reporter
from sources.tune.settings import DATASET, MOST_ROWS, VENDOR, Endpoint, Settings, endpoints_of, table_of, wrong
from sources.tune.settings import check as check_settings

_TIME = r"[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?)?"
_CLOCK_TOLERANCE = 60.0


def configured() -> bool:
    return is_set(VENDOR, "api_key")


def connect() -> Tune:
    """Raises `ConfigurationError` for a setting that is missing or cannot work."""
    settings = _settings()
    if not settings.api_key:
        raise ConfigurationError(
            what=f"sources.{VENDOR}.api_key is not set",
            todo=f"Write it into .dlt/secrets.toml, or set SOURCES__{VENDOR.upper()}__API_KEY",
        )
    return Tune(settings)


def tables() -> dict[str, tuple[Table, ...]]:
    settings = _settings()
    records = tuple(table_of(endpoint, settings) for endpoint in endpoints_of(settings))
    return {DATASET: records + tuple(table_of_report(report) for report in reports_of(settings))}


def _settings() -> Settings:
    settings = settings_of(VENDOR, Settings(), secrets=Settings.secrets)
    check_settings(settings)
    return settings


@dataclass
class _Hidden:
    """Endpoints that the key does not see, `of` all that are asked for: some are usual, all of them are no night."""

    of: int = 0
    paths: set[str] = field(default_factory=set)

    def meet(self, endpoint: Endpoint, error: Refused) -> None:
        """Raises `AccessDenied` for the last one, if no other was seen."""
        self.paths.add(endpoint.path)
        if len(self.paths) == self.of:
            raise AccessDenied(
                what="the key may read nothing that is asked for",
                where=f"{VENDOR}, {len(self.paths)} endpoints",
                why=str(error),
                todo="Ask an administrator of the account for a key that may read it",
            )


class Tune:
    """A connected TUNE account."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.endpoints = endpoints_of(settings)
        self.reports = reports_of(settings)
        names = {endpoint.table for endpoint in self.endpoints}
        for report in self.reports:
            if report.table in names:
                raise wrong(f"a report and an endpoint both ask for the table {report.table}", "Rename the report")
        self.client = Client(settings)
        self.http = self.client.http

    def parts(self, extraction: Extraction) -> list[Part]:
        return [Part(dataset=DATASET, source=lambda: tune(self, extraction))]

    def resources(self, extraction: Extraction) -> list[DltResource]:
        """A resource per endpoint and report that the extraction wants."""
        reporter = Reporter(self.client, self.settings, extraction.allow_empty)
        hidden = _Hidden()
        made: list[tuple[Table, Fetch]] = [
            *((table_of(endpoint, self.settings), self._fetch(endpoint, hidden)) for endpoint in self.endpoints),
            *((table_of_report(report), reporter.fetch(report)) for report in self.reports),
        ]
        wanted = [(table, fetch) for table, fetch in made if extraction.wants(DATASET, table.name)]
        hidden.of = len(wanted)
        return [extraction.resource(DATASET, table, fetch) for table, fetch in wanted]

    def calls(self, name: str, days: Days, state: Mapping[str, Any]) -> Calls | None:
        """Of a window: its count and its pages, or an order, asking after it and the download."""
        report = next((each for each in self.reports if f"{DATASET}.{each.table}" == name), None)
        if report is None:
            return None
        windows = len(list(report.calendar.within(days, datetime.now(UTC))))
        once = bool(windows and report.path)  # its fields
        if report.via == "export":
            counted = report.count and not report.is_cohort
            return Calls(least=once + (3 + counted) * windows, beyond="an export is asked after until it is ready")
        if report.kind == "logs":
            beyond = f"a window with {report.row_limit} rows and more is halved until it has less"
            return Calls(least=windows, beyond=beyond)
        beyond = f"a window of over {report.page_size} rows has more pages, and those are read twice"
        return Calls(least=once + (1 + report.count) * windows, beyond=beyond)

    def check(self) -> Iterator[str | NightloadError]:
        try:
            answer = self.client.greet()
        except Refused:
            yield "the key is accepted, though not for advertiser"
        else:
            yield "the key is accepted"
            yield _clock(answer.headers.get("date", ""))
        hidden, shown = [], []
        counts = in_order(self._look, self.endpoints, width=self.settings.concurrency)
        for endpoint, count in zip(self.endpoints, counts, strict=True):
            if count is None:
                hidden.append(endpoint.path)
            else:
                shown.append(f"{endpoint.path} ({count})")
        yield f"visible, with their counts: {', '.join(shown) or 'none'}"
        if hidden:
            yield f"not visible to this key, and skipped: {', '.join(hidden)}"
        kept = {entry.partition(".")[0] for entry in self.settings.keep_personal or ()}
        for endpoint in self.endpoints:
            if endpoint.path in kept and endpoint.path not in hidden:
                yield from unknown_kept(
                    endpoint, plan(endpoint, self._metadata(endpoint), self.settings), self.settings
                )
        reporter = Reporter(self.client, self.settings)
        for report in self.reports:
            notes: list[str] = []
            reporter.question(report, notes.append)
            yield f"report {report.name}: {'; '.join(notes) or 'its fields are there'}"

    def close(self) -> None:
        self.client.http.close()

    def _look(self, endpoint: Endpoint) -> int | None:
        """How many rows there are; None for one of the default endpoints that the key does not see."""
        try:
            if endpoint.configured:
                plan(endpoint, self._metadata(endpoint), self.settings)
            return self.client.count(endpoint.path, endpoint.filter)
        except Refused as error:
            if endpoint.configured or error.status not in (403, 404):
                raise
            return None

    def _metadata(self, endpoint: Endpoint) -> Metadata | None:
        dotted = any("." in name for name in (*endpoint.related, *endpoint.fields, endpoint.filter))
        return self.client.metadata(endpoint.path, related=dotted)

    def _fetch(self, endpoint: Endpoint, hidden: _Hidden) -> Fetch:
        def fetch(walk: Walk) -> None:
            try:
                self._walk(endpoint, walk)
            except Refused as error:
                # What was visible once and is not any more is a failure; what never was is not.
                if endpoint.configured or error.status not in (403, 404) or walk.state.get("rows") or walk.limit:
                    raise
                hidden.meet(endpoint, error)
                walk.notes.append(f"skipped: {error}")
                walk.unchanged(0)

        return fetch

    def _walk(self, endpoint: Endpoint, walk: Walk) -> None:
        metadata = self._metadata(endpoint)
        if metadata is None and "metadata" in walk.state:
            metadata = Metadata.load(walk.state["metadata"])
            walk.notes.append("the vendor tells no fields today: those that it told last are asked for")
        elif metadata is None:
            walk.notes.append("the vendor tells no fields: loaded is what it sends by default, typed by the values")
        asked = plan(endpoint, metadata, self.settings)
        walk.notes += map(str, unknown_kept(endpoint, asked, self.settings))
        since = None if walk.limit else self._since(endpoint, asked, walk)
        text = " AND ".join(f"({each})" for each in (endpoint.filter, since) if each)
        request = Request(path=endpoint.path, key=endpoint.key, fields=asked.fields, filter=text)
        if walk.limit:
            size = min(walk.limit, self.settings.page_size)
            walk.spool.array(self.client.page(request, 1, size=size, may_be_empty=True))
        else:
            keys = self._spool(request, walk)
            walk.complete = since is None
            walk.total = walk.vendor_count if walk.complete else self.client.count(endpoint.path, endpoint.filter)
        walk.columns = asked.columns if asked.columns is not None else self._columns_of(endpoint, asked, walk)
        _note_missing(endpoint, asked, walk)
        if walk.limit:
            return
        walk.state["asked"] = asked.fingerprint(endpoint)
        if metadata is not None:
            walk.state["metadata"] = metadata.dump()

        def after(converted: Converted) -> None:
            if keys is not None:
                _compare_keys(request, walk, converted, keys)
            self._set_cursor(asked, walk, converted)

        walk.after = after

    def _spool(self, request: Request, walk: Walk) -> Spool | None:
        """All rows of the request, and their keys once more if there were several pages.

        Raises `CountMismatch` if the count moved meanwhile; then the table is walked again.
        """
        size, counted = self.settings.page_size, self.client.count(request.path, request.filter)
        for rows in self.client.pages(request, count=counted, size=size):
            walk.spool.array(rows)
        after = self.client.count(request.path, request.filter)
        if after != counted:
            raise CountMismatch(
                table=f"{DATASET}.{walk.table.name}",
                what=f"the count of {request.path} moved from {counted} to {after} while its pages were read",
                counts={"before": counted, "after": after},
                todo="Run again at a quieter hour",
            )
        walk.vendor_count = counted
        return self._look_again(request, walk, counted) if counted >= size else None

    def _look_again(self, request: Request, walk: Walk, counted: int) -> Spool:
        """The keys once more, in the largest pages: they are those of the rows, unless something shifted."""
        keys = replace(request, fields=request.key)
        spool = Spool(walk.spool.path.with_suffix(".keys.json"))
        try:
            for rows in self.client.pages(keys, count=counted, size=MOST_ROWS):
                spool.array(rows)
        except BaseException:
            spool.path.unlink(missing_ok=True)
            raise
        finally:
            spool.close()
        return spool

    def _since(self, endpoint: Endpoint, asked: Plan, walk: Walk) -> str | None:
        """The filter of what changed, or None to walk the table whole.

        It has no upper edge. Rows changed after the frozen one come along, and rows of a future date come every night:
        with an edge neither would be found until the next whole walk.
        """
        cursor = walk.state.get("cursor")
        if asked.cursor is None or cursor is None or walk.due_whole:
            return None
        if walk.state.get("asked") != asked.fingerprint(endpoint):
            walk.notes.append("walked whole, because other fields, another filter, key or cursor are asked for")
            return None
        try:
            # The vendor's own clock text: no zone is guessed for it, and so a wrong one cannot lose a row.
            start = on_clock(cursor, self.settings.zone) - walk.table.lookback
        except (ValueError, OverflowError):
            return None  # 2014-13-45 was the newest
        return (
            f"{asked.cursor} >= '{start:%Y-%m-%d}'"
            if len(cursor) == 10
            else f"{asked.cursor} >= '{start:%Y-%m-%d %H:%M:%S}'"
        )

    def _set_cursor(self, asked: Plan, walk: Walk, converted: Converted) -> None:
        """What the next walk goes on from; kept only if the rows load."""
        before = None if walk.complete else walk.state.get("cursor")
        newest = before
        if asked.cursor is not None:
            # A row dated 2999 must not stop the stream: the cursor never passes the start of the run.
            edge = f"{walk.until.astimezone(ZoneInfo(self.settings.zone)):%Y-%m-%d %H:%M:%S}"
            seen = newest_text(converted, walk.spool, asked.cursor, like=_TIME, up_to=edge)
            newest = latest((seen, before), self.settings.zone)
        if newest is None:
            walk.state.pop("cursor", None)
        else:
            walk.state["cursor"] = newest

    def _columns_of(self, endpoint: Endpoint, asked: Plan, walk: Walk) -> tuple[Column, ...]:
        """The columns that the rows show, where the vendor tells none; of an object the parts that were asked for."""
        walk.spool.close()
        kept = frozenset(self.settings.keep_personal or ())
        told = labels_of(iter_rows(walk.spool.path))
        parts = [name for name in asked.fields if "." in name and name.partition(".")[0] in told]
        whole = set(told) - {name.partition(".")[0] for name in parts}
        labels = [label for label in told if label in whole and not is_dropped(endpoint.path, label, kept)] + parts
        missing = [name for name in endpoint.key if name not in labels]
        if labels and missing:
            raise ConfigurationError(
                what=f"the rows of {endpoint.path} have no {' and no '.join(missing)} to tell them apart by",
                where=f"sources.{VENDOR}",
                todo="Write [[sources.tune.endpoints]] with this path, and as key one or more of: " + ", ".join(labels),
            )
        if not labels and not walk.state.get("rows"):
            walk.unchanged(0)  # an empty table of unknown columns: nothing to make
        zone = self.settings.zone
        asked_for = [(label, column_of(label, "", zone=zone)) for label in labels or endpoint.key]
        return tuple(column if label in parts else replace(column, path=(label,)) for label, column in asked_for)


def _compare_keys(request: Request, walk: Walk, converted: Converted, keys: Spool) -> None:
    """Raises `CountMismatch` if the second look saw other keys than the rows have."""
    try:
        apart = keys_apart(converted, walk.spool, keys, request.key)
    finally:
        keys.path.unlink(missing_ok=True)
    if apart:
        raise CountMismatch(
            table=f"{DATASET}.{walk.table.name}",
            what=f"{apart} rows of {request.path} came or went while its pages were read",
            todo="Run again at a quieter hour",
        )


def _note_missing(endpoint: Endpoint, asked: Plan, walk: Walk) -> None:
    """The vendor leaves out what it does not know without a word; the first row tells."""
    walk.spool.close()
    try:
        first = next(iter_rows(walk.spool.path), None)
    except ValueError:
        return  # the conversion tells what is wrong with the rows
    missing = [name for name in asked.fields if first is not None and name.partition(".")[0] not in first]
    if missing:
        walk.notes.append(f"asked for, but not sent by {endpoint.path}: {', '.join(missing)}")


def _clock(date: str) -> str:
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return "the vendor's clock is not known: its answers have no date"
    apart = (datetime.now(UTC) - theirs.replace(tzinfo=theirs.tzinfo or UTC)) / timedelta(seconds=1)
    if abs(apart) > _CLOCK_TOLERANCE:
        side = "ahead of" if apart > 0 else "behind"
        return f"warning: this machine's clock is {abs(apart):.0f} s {side} the vendor's"
    return "the clocks agree"


@dlt.source(name=DATASET)
def tune(vendor: Tune | None = None, extraction: Extraction | None = None) -> Any:
    """TUNE's records, a resource per endpoint. Both parameters are for nightload's own runs."""
    vendor = vendor or connect()
    return vendor.resources(extraction or Extraction.standalone(VENDOR))
