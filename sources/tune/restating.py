"""A report's walk: which windows are asked for again, which of them changed, which ran empty, and what is remembered.

Figures are restated: the last days are read again every night, and a window that differs replaces its rows as a whole.
State: `windows` (label → rows and their digest), `through` (the last window up to which none is missing), `start`;
`backfilled` is as `windows`, of those that no night has asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import Any

from sources.convert.spool import Spool
from sources.convert.types import Column
from sources.core.concurrency import in_order
from sources.core.config import unmatched
from sources.core.dates import Days
from sources.core.errors import (
    AccessDenied,
    ConfigurationError,
    CountMismatch,
    EmptyAnswer,
    NightloadError,
    Refused,
    Unreachable,
)
from sources.extract.checks import guard_floor
from sources.extract.sync import Extra, Fetch, Walk
from sources.tune.answers import Answer, Question, export, find
from sources.tune.client import Client
from sources.tune.exports import Downloads, downloads
from sources.tune.fields import Metadata, is_dropped
from sources.tune.logs import Logs
from sources.tune.periods import Window
from sources.tune.reports import ROW_KEY, WINDOW, ZONE, Report
from sources.tune.settings import CREDENTIAL, DATASET, VENDOR, WALKS, Settings, filter_fields, unknown, wrong

FIRST_DAYS = 30
"""How far back a report without `start` begins."""
MOST_WINDOWS = 20_000

_ALL_STOPS = (AccessDenied, Unreachable, ConfigurationError)


@dataclass(kw_only=True)
class Gathered:
    """What the windows of one walk came to."""

    answers: list[tuple[Window, int, str]] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)
    loaded: int = 0
    emptied: set[str] = field(default_factory=set)
    unproven: set[str] = field(default_factory=set)
    labels: dict[str, None] = field(default_factory=dict)
    missed: NightloadError | None = None

    @property
    def told(self) -> dict[str, list[object]]:
        """What the state keeps of each window: its rows and their digest."""
        return {window.label: [rows, digest] for window, rows, digest in self.answers}


class Reporter:
    """Walks the configured reports of one account."""

    def __init__(self, client: Client, settings: Settings, allow_empty: frozenset[str] = frozenset()) -> None:
        self._client, self._settings, self._allow_empty = client, settings, allow_empty

    def fetch(self, report: Report) -> Fetch:
        def fetch(walk: Walk) -> None:
            logs = Logs(self._client, self._settings) if report.kind == "logs" else None
            try:
                with downloads(self._settings) as fetching:
                    try:
                        question = self.question(report, walk.notes.append)
                        self._walk(question, walk, fetching, logs)
                    finally:
                        # the run tells the requests of the vendor's one Http
                        self._client.http.requests += fetching.requests + (logs.http.requests if logs else 0)
            except Refused as error:
                if error.status in (403, 404):
                    error.todo = f"Check the path of report {report.name}, and that the key's user may read reports"
                raise
            finally:
                if logs is not None:
                    logs.http.close()

        return fetch

    def question(self, report: Report, note: Callable[[str], None]) -> Question:
        """The report with its fields checked against the vendor's own list, where that can be had.

        Raises `ConfigurationError` for fields that are not there, or that are never loaded.
        """
        kept = frozenset(self._settings.keep_personal or ())
        for name in (*report.wanted, *filter_fields(report.filter)):
            if CREDENTIAL.search(name) or is_dropped(report.path or report.kind, name, kept):
                raise wrong(f"report {report.name} asks for {name}, which is not loaded", "Take it out of the report")
        metadata = None
        if report.path:
            metadata = self._client.metadata(report.path, related=any("." in name for name in report.wanted))
            if metadata is None:
                note(f"the vendor tells no fields of {report.path}: a wrong one shows when it is asked for")
        fields = _known(report, metadata)
        traffic = [test for name, test in report.traffic if metadata is None or metadata.has(name)]
        if len(traffic) < len(report.traffic):
            note(f"{report.path} has no field to leave all test traffic out by")
        text = " AND ".join(f"({test})" for test in (*([report.filter] if report.filter else []), *traffic))
        by_time = metadata is not None and metadata.has(report.time_column)
        sort = report.sort or (*report.group, *((report.time_column,) if by_time else ()))
        return Question(report=report, filter=text, fields=fields, sort=sort)

    def _walk(self, question: Question, walk: Walk, fetching: Downloads, logs: Logs | None) -> None:
        report, state = question.report, walk.state
        if walk.limit:
            self._preview(question, walk, fetching, logs)
            return
        if walk.window is not None:
            self._backfill(question, walk, walk.window, fetching, logs)
            return
        asked, grid = f"{report.fingerprint()} {question.filter}", repr(report.calendar)
        known: dict[str, list[object]] = dict(state.get("windows", {}))
        backfilled: dict[str, list[object]] = state.get("backfilled", {})
        regrid = bool(known or backfilled) and state.get("grid") != grid
        begun = min(known, default="")
        earlier = report.start is not None and report.calendar.first(report.start).isoformat() < begun
        full = walk.full or state.get("asked") != asked or regrid or earlier
        if full and known and not walk.full:
            walk.notes.append("read from its start again, because the report was changed")
        windows = self._windows(report, walk, full=full)
        there = backfilled | known
        with self._gathered(question, windows, {} if full else there, walk, fetching, logs) as done:
            if done.missed is not None and (regrid or not done.answers):
                raise done.missed
            if state.get("asked") == asked:
                self._guard(walk, done, there)
        gone = set(there) - set(done.told) if regrid else set()
        self._note_emptied(walk, done, there, gone)
        kept = {label: told for label, told in known.items() if label not in gone}
        state["windows"] = kept | done.told
        state.pop("backfilled", None)
        if older := {label: told for label, told in backfilled.items() if label not in gone | set(done.told)}:
            state["backfilled"] = older
        state["asked"], state["grid"] = asked, grid
        state["through"] = done.answers[-1][0].label if done.answers else state.get("through")
        walk.missed, walk.emptied = done.missed, frozenset(done.emptied)
        self._tell(report, question, walk, done)

    def _backfill(self, question: Question, walk: Walk, days: Days, fetching: Downloads, logs: Logs | None) -> None:
        """The windows that end in these days, whole; where the nights stand is not touched."""
        report, state = question.report, walk.state
        grid = repr(report.calendar)
        if state.get("grid", grid) != grid:
            raise wrong(
                f"the windows of report {report.name} are others than those that its table has",
                f"Load it with them first: nightload run --table {DATASET}.{report.table}",
            )
        windows = list(report.calendar.within(days, walk.until))
        if not windows:
            walk.notes.append(f"no {report.calendar.told} ends in {days}")
            walk.unchanged(0)
            return
        known: dict[str, list[object]] = {**state.get("backfilled", {}), **state.get("windows", {})}
        with self._gathered(question, windows, known, walk, fetching, logs) as done:
            if done.missed is not None and not done.answers:
                raise done.missed
            self._guard(walk, done, known)
        self._note_emptied(walk, done, known, set())

        def remember(state: dict[str, Any]) -> None:
            live = state.get("windows", {})
            fresh = {label: told for label, told in done.told.items() if label not in live}
            if again := {label: told for label, told in done.told.items() if label in live}:
                state["windows"] = live | again
            if fresh:
                state["backfilled"], state["grid"] = state.get("backfilled", {}) | fresh, grid

        walk.remember = remember
        walk.missed, walk.emptied = done.missed, frozenset(done.emptied)
        self._tell(report, question, walk, done)

    @contextmanager
    def _gathered(
        self,
        question: Question,
        windows: Sequence[Window],
        known: dict[str, list[object]],
        walk: Walk,
        fetching: Downloads,
        logs: Logs | None,
    ) -> Iterator[Gathered]:
        """What the windows came to; if the block finds no fault with it, what changed is spooled."""
        try:
            done = self._gather(question, windows, known, walk, fetching, logs)
            yield done
            for path in done.changed:
                walk.spool.adopt(path, 0, path.stat().st_size)
        finally:
            for file in walk.spool.path.parent.glob(f"{walk.spool.path.stem}.window-*"):
                file.unlink(missing_ok=True)

    def _note_emptied(self, walk: Walk, done: Gathered, known: Mapping[str, list[object]], gone: set[str]) -> None:
        done.emptied = {label for label in done.emptied if known.get(label, [0])[0]} | gone
        if done.emptied:
            walk.notes.append(f"now without rows: the windows {_some(sorted(done.emptied))}")

    def _windows(self, report: Report, walk: Walk, *, full: bool) -> list[Window]:
        state, today = walk.state, walk.until.astimezone(UTC).date()
        start = report.start or date.fromisoformat(
            state.setdefault("start", (today - timedelta(days=FIRST_DAYS)).isoformat())
        )
        if start > today:
            raise wrong(f"report {report.name} starts on {start}, which is still to come", "Set an earlier start")
        since = start
        if not full and state.get("through"):
            # a clock that was wrong once must not leave a gap: never later than today
            through = min(date.fromisoformat(state["through"]), today)
            since = max(start, through - timedelta(days=report.lookback_days))
        windows = list(report.calendar.windows(since, walk.until))
        if len(windows) > MOST_WINDOWS:
            raise wrong(f"report {report.name} has {len(windows)} windows", "Set a later start, or larger window_days")
        return windows

    def _gather(
        self,
        question: Question,
        windows: Sequence[Window],
        known: dict[str, list[object]],
        walk: Walk,
        fetching: Downloads,
        logs: Logs | None,
    ) -> Gathered:
        """Ask for all windows, several at once, up to the first that cannot be had; keep those that differ."""
        done = Gathered()
        at = iter(windows)

        def one(window: Window) -> Answer:
            return self._answer(question, window, walk, fetching, logs, known=known.get(window.label))

        answers = in_order(one, windows, width=min(self._settings.concurrency, 4))
        try:
            for answer in answers:
                next(at)
                file, label, digest = answer.spool.path, answer.window.label, _digest(answer)
                if answer.rows and known.get(label) != [answer.rows, digest]:
                    done.changed.append(file)
                    done.loaded += answer.rows
                else:
                    file.unlink()
                if not answer.rows:
                    done.emptied.add(label)
                    if not answer.proven:
                        done.unproven.add(label)
                done.labels |= answer.labels
                done.answers.append((answer.window, answer.rows, digest))
        except NightloadError as error:
            window = next(at)
            if window.label not in f"{error.where} {error.what}":
                error.at(f"window {window.label}")
            if isinstance(error, _ALL_STOPS):
                raise
            done.missed = error
        finally:
            answers.close()  # type: ignore[attr-defined]
        return done

    def _answer(
        self,
        question: Question,
        window: Window,
        walk: Walk,
        fetching: Downloads,
        logs: Logs | None,
        *,
        known: list[object] | None,
    ) -> Answer:
        """One window, asked for again while the counts disagree, or, of several pages, until two walks agree.

        A row that goes between two pages shifts another out of sight, and one that came keeps the count as it was. What
        is `known` of the window is an earlier walk: if all its rows are the same, no second one is needed.
        """
        path = walk.spool.path.with_name(f"{walk.spool.path.stem}.window-{window.label}.json")
        seen: set[int] = set()
        for _ in range(WALKS):
            answer = Answer(window=window, spool=Spool(path))
            try:
                self._ask(question, answer, fetching, logs, folder=path.parent)
            except CountMismatch as error:
                mismatch = error
                continue
            finally:
                answer.spool.close()
            if answer.pages < 2 or answer.keys in seen or known == [answer.rows, _digest(answer)]:
                return answer
            seen.add(answer.keys)
            mismatch = CountMismatch(
                table=f"{DATASET}.{walk.table.name}",
                what=f"window {window.label} has other rows on each walk of its {answer.pages} pages",
                todo="Run again at a quieter hour",
            )
        raise mismatch

    def _ask(
        self,
        question: Question,
        answer: Answer,
        fetching: Downloads,
        logs: Logs | None,
        *,
        folder: Path,
        limit: int | None = None,
    ) -> None:
        if logs is not None:
            logs.read(fetching, question, answer, folder, limit=limit)
        elif question.report.via == "export" and not limit:
            export(self._client, fetching, self._settings, question, answer, folder)
        else:
            find(self._client, question, answer, limit=limit)

    def _preview(self, question: Question, walk: Walk, fetching: Downloads, logs: Logs | None) -> None:
        """Some rows of the last window that is over, else of the running one."""
        calendar = question.report.calendar
        today = walk.until.astimezone(UTC).date()
        window = next(calendar.windows(calendar.first(today) - timedelta(days=1), walk.until))
        answer = Answer(window=window, spool=walk.spool)
        self._ask(question, answer, fetching, logs, folder=walk.spool.path.parent, limit=walk.limit)
        walk.columns = _columns(question, answer.labels)
        self._extras(question.report, walk, answer.labels)

    def _guard(self, walk: Walk, done: Gathered, known: dict[str, list[object]]) -> None:
        """Refuse what would empty the table: a vendor who lost sight of the rows answers with none as well."""
        name = f"{DATASET}.{walk.table.name}"
        if {"*", name} & self._allow_empty:
            return
        had = {window.label: _rows_of(known.get(window.label)) for window, _, _ in done.answers}
        before, now = sum(had.values()), sum(rows for _, rows, _ in done.answers)
        lost = sorted(label for label in done.unproven if had.get(label))
        if lost:
            raise EmptyAnswer(
                table=name,
                had=sum(had[label] for label in lost),
                why=f"the windows {_some(lost)}; and there is no count to prove it",
                todo=f"Nothing was changed. If the vendor is right: nightload run --allow-empty {name}",
            )
        guard_floor(now, before, where=name, of="rows of these windows")

    def _tell(self, report: Report, question: Question, walk: Walk, done: Gathered) -> None:
        """The counts, the columns, and what was asked for and did not come."""
        walk.vendor_count = done.loaded
        if walk.window is None:
            every = walk.state.get("backfilled", {}) | walk.state["windows"]
            walk.total = sum(_rows_of(told) for told in every.values())
        if not done.changed:
            came = sum(rows for _, rows, _ in done.answers)
            walk.vendor_count = came
            walk.unchanged(came)
            return
        walk.columns = _columns(question, done.labels)
        self._extras(report, walk, done.labels)
        sent = {label.replace(".", "_") for label in done.labels}
        missing = [name for name in question.fields if name.replace(".", "_") not in sent]
        missing = [name for name in missing if f"meta.{name}" not in done.labels]
        if missing:
            walk.notes.append(f"asked for, but not sent: {', '.join(missing)}")
        if done.labels:
            known = (*done.labels, *question.fields)
            types = f"types of report {report.name}"
            walk.notes += map(str, unmatched(VENDOR, types, report.types, known, what="column of its rows"))

    def _extras(self, report: Report, walk: Walk, labels: Iterable[str]) -> None:
        walk.extra = {"response_timezone": Extra(f"'{ZONE}'", "text")}
        have = set(labels)
        lacking = [name for name in report.key_fields if name not in have]
        if lacking and have:
            raise ConfigurationError(
                what=f"the rows of report {report.name} have no {' and no '.join(lacking)} to tell them apart by",
                where=f"sources.{VENDOR}",
                todo=f"Set time_column or key of the report; the rows have: {', '.join(sorted(have))}",
            )
        if walk.table.key == (ROW_KEY,):
            key = (WINDOW, *report.key_fields)

            def hashed(names: Mapping[str, str]) -> str:
                parts = ", ".join(f"coalesce({names[label]}::VARCHAR, chr(0))" for label in key)
                return f"md5(concat_ws(chr(31), {parts}))"

            walk.extra = {**walk.extra, ROW_KEY: Extra(hashed, "text")}


def _known(report: Report, metadata: Metadata | None) -> tuple[str, ...]:
    """The fields to ask for. The default ones are those that there are; what was configured must be there."""
    if metadata is None:
        return report.wanted
    known = {*metadata.fields, *metadata.related}
    for name in (*report.group, *filter_fields(report.filter), *(() if report.fields_are_default else report.fields)):
        if not metadata.has(name):
            raise unknown(name, known, what=f"report {report.name}: {report.path} has no field {name}")
    return tuple(name for name in report.wanted if metadata.has(name))


def _columns(question: Question, labels: Iterable[str]) -> list[Column]:
    return [question.report.column(label) for label in dict.fromkeys((WINDOW, *labels))]


def _digest(answer: Answer) -> str:
    if not answer.rows:
        return ""
    with answer.spool.path.open("rb") as body:
        return hashlib.file_digest(body, "sha1").hexdigest()[:16]


def _rows_of(told: object) -> int:
    return int(told[0]) if isinstance(told, list) else 0


def _some(labels: Sequence[str]) -> str:
    return ", ".join(labels[:5]) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
