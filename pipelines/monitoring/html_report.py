"""The page that shows a year of nights: one HTML file, no script, nothing fetched, fit to be mailed.

Its size is bounded: a cell per vendor and day for a year, bars for the last nights, and only so many lines of each
list. All text is somebody's, so all of it is redacted and escaped.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.config.files import replace
from pipelines.config.project import Place
from pipelines.ledger.store import Ledger
from pipelines.monitoring.causes import alike, by_cause, cause_of, named, shared
from pipelines.monitoring.html_style import STYLE
from pipelines.monitoring.incidents import change_in_words
from pipelines.monitoring.status import noticed, opened, stale, standing
from sources.core.errors import ConfigurationError
from sources.core.redaction import redact

WEEKS, BARS, RUNS, CHANGES, ERRORS, TABLES, INCIDENTS = 54, 45, 14, 60, 40, 250, 30
STEP = 12
WORST = ("ok", "mismatch", "crashed", "failed")
WORDS = {
    "ok": ("ok", "✓", "ok"),
    "unchanged": ("ok", "✓", "unchanged"),
    "warning": ("warn", "!", "warning"),
    "mismatch": ("warn", "≠", "counts part"),
    "failed": ("bad", "✗", "failed"),
    "crashed": ("bad", "✗", "crashed"),
    "discarded": ("bad", "✗", "not published"),
    "running": ("warn", "…", "running"),
}


def write(place: Place, path: Path, *, now: datetime | None = None) -> Path:
    """Write the page. Raises `ConfigurationError` if no run was ever recorded, or the file cannot be written."""
    with opened(place) as ledger:
        if ledger is None:
            raise ConfigurationError(
                what="there is nothing to report: no run yet", where=place.shown, todo="Start one with: nightload run"
            )
        page = "".join(render(ledger, place, now=now or datetime.now(UTC)))
    try:
        # to whom the ledger may tell it, the page may
        mode = place.ledger.stat().st_mode & 0o777 if place.ledger.exists() else 0o600
        replace(path, page, mode=mode)
    except OSError as error:
        raise ConfigurationError(
            what="the report cannot be written", where=str(path), why=error.strerror or "", todo="Name another --out"
        ) from None
    return path


def render(ledger: Ledger, place: Place, *, now: datetime) -> Iterator[str]:
    vendors = standing(ledger, place, now=now)
    incidents = [row for row in ledger.incidents() if row["closed_at"] is None]
    runs = ledger.query("SELECT * FROM runs ORDER BY run_id DESC LIMIT ?", (RUNS,))
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>nightload: {_e(place.shown)}</title><style>{STYLE}</style></head>\n<body>"
    )
    yield from _head(place, vendors, incidents, runs, now)
    yield "<main>\n"
    yield from _incidents(incidents)
    yield from _noticed(noticed(ledger, since=now - timedelta(days=31)))
    yield from _vendors(ledger, vendors, now)
    yield from _counts(vendors)
    yield from _nights(ledger, runs)
    yield from _changes(ledger)
    yield from _errors(ledger, now)
    yield f"</main>\n<footer>nightload · all times UTC · written {_time(now.isoformat())}</footer></body></html>\n"


def _head(
    place: Place,
    vendors: Sequence[Mapping[str, Any]],
    incidents: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    now: datetime,
) -> Iterator[str]:
    late = stale(list(vendors))  # type: ignore[arg-type]
    tables = sum(not table["left_out"] for vendor in vendors for table in vendor["tables"])
    if not vendors:
        state, said = "warning", "no vendor has run yet"
    elif incidents or late:
        parts = [f"{len(incidents)} open {_plural('incident', len(incidents))}"] if incidents else []
        parts += (
            [f"stale: {', '.join(late[:5])}{f' and {len(late) - 5} more' if len(late) > 5 else ''}"] if late else []
        )
        state, said = "failed", " · ".join(parts)
    else:
        state, said = "ok", "everything is fresh and nothing is wrong"
    counts = f"{len(vendors)} {_plural('vendor', len(vendors))}, {tables} {_plural('table', tables)}"
    last = f"last run {_ago(runs[0]['started_at'], now)}" if runs else "no run"
    yield (
        f'<header><h1>nightload</h1><p class="where">{_e(place.shown)}</p>'
        f'<p class="verdict">{_badge(state, said)}</p><p class="muted">{counts} · {last}</p></header>\n'
    )


def _incidents(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield '<section aria-labelledby="now"><h2 id="now">Wrong now</h2>\n'
    groups = alike(rows[::-1])
    for group in groups[:INCIDENTS]:
        row, subjects = group[0], [row["subject"] for row in group if row["subject"]]
        where = f" · {_e(named(subjects))}" if subjects else ""
        yield (
            f'<article class="incident"><h3>{_badge("failed", row["kind"])} {_e(row["what"])}{where}</h3>'
            f"<p>{_e(shared([row['why'] for row in group]))}</p><p><b>What to do:</b> {_e(row['todo'])}</p>"
            f'<p class="muted">since {_time(row["opened_at"])} · run {_e(row["run_id"])}</p></article>\n'
        )
    yield _more(len(groups), INCIDENTS)
    yield "</section>\n"


def _noticed(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield '<section aria-labelledby="noticed"><h2 id="noticed">Noticed in the last month</h2>\n'
    told = [
        [_time(row["opened_at"]), _e(row["what"]), f"{_e(row['subject'])}: " * bool(row["subject"]) + _e(row["why"])]
        for row in rows[:INCIDENTS]
    ]
    yield from _grid("noticed", ("when", "what", "more"), told)
    yield _more(len(rows), INCIDENTS) + "</section>\n"


def _vendors(ledger: Ledger, vendors: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[str]:
    nights = _nights_of_vendors(ledger, now)
    landed = _landed(ledger, now)
    yield '<section aria-labelledby="vendors"><h2 id="vendors">A year of nights</h2>'
    yield (
        '<p class="key muted"><span class="ok">■</span> green <span class="warn">▲</span> counts part '
        '<span class="bad">✗</span> failed <span class="none">·</span> no run; the last run of each UTC day</p>\n'
    )
    for vendor in vendors:
        name = vendor["vendor"]
        days = nights.get(name, {})
        fresh = {True: ("ok", "fresh"), False: ("failed", "stale"), None: ("unchanged", "not watched")}[vendor["fresh"]]
        yield (
            f'<article class="vendor"><h3>{_e(name)} {_badge(vendor["status"])} {_badge(*fresh)}</h3>'
            f'<p class="muted">last good {_ago(vendor["last_good"], now)} · '
            f"last run {_ago(vendor['started_at'], now)}, "
            f"{_duration(vendor['seconds'])}, {vendor['requests'] or 0:,} requests</p>"
        )
        yield from _calendar(name, days, now.date())
        recent = sorted(days)[-BARS:]
        seconds = [(day, days[day]["seconds"] or 0.0, _duration(days[day]["seconds"])) for day in recent]
        rows = [(day, float(n := landed.get((days[day]["run_id"], name), 0)), f"{n:,}") for day in recent]
        yield '<div class="bars">' + _bars("duration", seconds) + _bars("rows landed", rows) + "</div></article>\n"
    yield "</section>\n"


def _nights_of_vendors(ledger: Ledger, now: datetime) -> dict[str, dict[date, dict[str, Any]]]:
    """vendor → day → its last run of that day; a vendor that a run never came to has that run's end."""
    since = (now - timedelta(weeks=WEEKS)).date().isoformat()
    found: dict[str, dict[date, dict[str, Any]]] = {}
    runs = ledger.query(
        "SELECT run_id, started_at, status, vendors FROM runs WHERE started_at >= ? "
        "AND status NOT IN ('running', 'replayed') ORDER BY run_id",
        (since,),
    )
    reached = {
        (row["run_id"], row["vendor"]): row
        for row in ledger.query(
            "SELECT v.run_id, v.vendor, v.status, v.seconds FROM run_vendors v JOIN runs r USING (run_id) "
            "WHERE r.started_at >= ?",
            (since,),
        )
    }
    for run in runs:
        day = date.fromisoformat(run["started_at"][:10])
        for vendor in json.loads(run["vendors"] or "[]"):
            told = reached.get((run["run_id"], vendor)) or {**run, "seconds": None}
            found.setdefault(vendor, {})[day] = told
    return found


def _landed(ledger: Ledger, now: datetime) -> dict[tuple[str, str], int]:
    since = (now - timedelta(days=3 * BARS)).date().isoformat()
    rows = ledger.query(
        "SELECT t.run_id, t.vendor, sum(t.landed) AS landed FROM run_tables t JOIN runs r USING (run_id) "
        "WHERE r.started_at >= ? AND t.status IN ('ok', 'warning') GROUP BY t.run_id, t.vendor",
        (since,),
    )
    return {(row["run_id"], row["vendor"]): row["landed"] or 0 for row in rows}


def _calendar(vendor: str, days: Mapping[date, Mapping[str, Any]], today: date) -> Iterator[str]:
    monday = today - timedelta(days=today.weekday())
    start = monday - timedelta(weeks=WEEKS - 1)
    states = Counter(_state(night) for night in days.values())
    bad = sorted((day for day, night in days.items() if _state(night) != "ok"), reverse=True)
    said = f"{states['ok']} of {len(days)} nights green"
    yield f'<div class="year" role="img" aria-label="{_e(vendor)}: {said}">'
    half = WEEKS // 2
    for first, weeks in ((0, half), (half, WEEKS - half)):
        yield _weeks(days, start + timedelta(weeks=first), weeks, today)
    yield "</div>"
    listed = ", ".join(f"{day} {WORDS[_state(days[day])][2]}" for day in bad[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    yield f'<p class="muted">{said}{f"; not green: {listed}{more}" if bad else ""}</p>'


def _weeks(days: Mapping[date, Mapping[str, Any]], start: date, weeks: int, today: date) -> str:
    """Some weeks as a drawing: a column each, Monday on top. What is green is one path; what is not has a title."""
    green, none, bad, months = [], [], [], []
    for week in range(weeks):
        for weekday in range(7):
            day = start + timedelta(weeks=week, days=weekday)
            x, y = week * STEP, 16 + weekday * STEP
            if day > today:
                break
            if day.day == 1 and week < weeks - 2:
                months.append(f'<text x="{x}" y="10">{day:%b}</text>')
            night = days.get(day)
            state = _state(night) if night else None
            if state is None:
                none.append(f"M{x + 4} {y + 4}h2v2h-2z")
            elif state == "ok":
                green.append(f"M{x} {y}h10v10h-10z")
            elif state == "mismatch":
                title = f"<title>{day}: {WORDS[state][2]}</title>"
                bad.append(f'<path class="warn" d="M{x + 5} {y}l5 10h-10z">{title}</path>')
            else:
                title = f"<title>{day}: {WORDS[state][2]}</title>"
                cross = f"M{x + 1} {y + 1}l8 8M{x + 9} {y + 1}l-8 8"
                bad.append(f'<path class="cross" d="{cross}">{title}</path>')
    return (
        f'<svg viewBox="0 0 {weeks * STEP} {16 + 7 * STEP}" aria-hidden="true">{"".join(months)}'
        f'<path class="none" d="{"".join(none)}"/><path class="ok" d="{"".join(green)}"/>{"".join(bad)}</svg>'
    )


def _state(night: Mapping[str, Any]) -> str:
    return night["status"] if night["status"] in WORST else "failed"


def _bars(what: str, values: Sequence[tuple[date, float, str]]) -> str:
    if not values:
        return ""
    most = max(value for _, value, _ in values)
    shown = next(said for _, value, said in values if value == most)
    width = BARS * 7
    drawn = []
    for place, (day, value, said) in enumerate(values):
        height = max(1.0, 38 * value / most) if most else 1.0
        x = (BARS - len(values) + place) * 7
        title = f"<title>{day}: {said}</title>"
        drawn.append(f'<rect x="{x}" y="{40 - height:.1f}" width="5" height="{height:.1f}">{title}</rect>')
    label = f"{what}, the last {len(values)} nights: last {values[-1][2]}, most {shown}"
    return (
        f'<figure><svg viewBox="0 0 {width} 40" role="img" aria-label="{label}" preserveAspectRatio="none">'
        f'{"".join(drawn)}</svg><figcaption class="muted">{label}</figcaption></figure>'
    )


def _counts(vendors: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield '<section aria-labelledby="counts"><h2 id="counts">Counts proven</h2>\n'
    for vendor in vendors:
        tables = sorted(
            (table for table in vendor["tables"] if not table["left_out"]),
            key=lambda table: (table["status"] in ("ok", "unchanged"), table["table"]),
        )
        wrong = [table for table in tables if table["status"] in ("failed", "mismatch", "discarded")]
        late = [table for table in tables if table["fresh"] is False]
        good = len(tables) - len(wrong)
        told = f"{good} of {len(tables)} tables proven" + (f", {len(late)} stale" if late else "")
        yield f"<details{' open' if wrong else ''}><summary><b>{_e(vendor['vendor'])}</b> {told}</summary>"
        causes = by_cause((table["table"], table["error"]) for table in tables[:TABLES] if table["error"])
        why = {table: error if table == group[0] else f"as {group[0]}" for group, error in causes for table in group}
        yield from _grid(
            f"counts of {vendor['vendor']}",
            ("table", "status", "vendor", "extracted", "landed", "live", "last good"),
            (
                [
                    f"{_e(table['table'])}"
                    + (f'<p class="why">{_e(why[table["table"]])}</p>' if table["error"] else ""),
                    _badge(table["status"]) + (" " + _badge("failed", "stale") if table["fresh"] is False else ""),
                    *(_count(table[name]) for name in ("vendor_count", "extracted", "landed", "live")),
                    _time(table["last_good"]),
                ]
                for table in tables[:TABLES]
            ),
        )
        yield _more(len(tables), TABLES) + "</details>\n"
    yield "</section>\n"


def _nights(ledger: Ledger, runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield '<section aria-labelledby="runs"><h2 id="runs">The last runs</h2>\n'
    rows = []
    for run in runs:
        vendors = ledger.query("SELECT vendor, status FROM run_vendors WHERE run_id = ?", (run["run_id"],))
        again = ledger.query(
            "SELECT vendor, max(attempt) AS tries FROM run_tries WHERE run_id = ? GROUP BY 1 HAVING max(attempt) > 1",
            (run["run_id"],),
        )
        (counted,) = ledger.query(
            "SELECT count(*) AS tables, sum(CASE WHEN status IN ('ok', 'warning') THEN landed END) AS landed "
            "FROM run_tables WHERE run_id = ?",
            (run["run_id"],),
        )
        took = _between(run["started_at"], run["finished_at"])
        why = f'<p class="why">{_e(run["error"])}</p>' if run["error"] else ""
        green = sum(vendor["status"] == "ok" for vendor in vendors)
        states = " ".join(_badge(each["status"], each["vendor"]) for each in vendors if each["status"] != "ok")
        rows.append(
            [
                f'{_time(run["started_at"])}<p class="id">{_e(run["run_id"])}</p>',
                _badge(run["status"]) + why,
                _duration(took),
                f"{counted['tables']:,}",
                _count(counted["landed"]),
                (_badge("ok", f"{green} green") + " " if green else "")
                + states
                + "".join(f'<p class="muted">{_e(each["vendor"])}: tried {each["tries"]} times</p>' for each in again),
            ]
        )
    yield from _grid("the last runs", ("began", "status", "took", "tables", "rows landed", "vendors"), rows)
    yield "</section>\n"


def _changes(ledger: Ledger) -> Iterator[str]:
    rows = ledger.query("SELECT * FROM schema_changes ORDER BY run_id DESC LIMIT ?", (CHANGES,))
    (all_of_them,) = ledger.query("SELECT count(*) AS n FROM schema_changes")
    yield '<section aria-labelledby="changes"><h2 id="changes">Schema changes</h2>\n'
    if not rows:
        yield '<p class="muted">none</p>'
    else:
        told = [[_time(row["changed_at"]), _e(row["vendor"]), _e(change_in_words(row))] for row in rows]
        yield from _grid("schema changes", ("when", "vendor", "what"), told)
    yield _more(all_of_them["n"], CHANGES) + "</section>\n"


def _errors(ledger: Ledger, now: datetime) -> Iterator[str]:
    """What was said in the last quarter, each once, the last said first."""
    since = (now - timedelta(days=92)).date().isoformat()
    rows = ledger.query(
        "SELECT * FROM (SELECT e.vendor, e.subject, e.error, count(*) AS times, max(r.started_at) AS last FROM ("
        "SELECT run_id, vendor, vendor AS subject, error FROM run_vendors WHERE error IS NOT NULL UNION ALL "
        "SELECT run_id, vendor, dataset || '.' || table_name, error FROM run_tables WHERE error IS NOT NULL UNION ALL "
        "SELECT run_id, '', 'the run', error FROM runs WHERE error IS NOT NULL) e JOIN runs r USING (run_id) "
        "WHERE r.started_at >= ? GROUP BY 1, 2, 3) ORDER BY last DESC, times DESC LIMIT ?",
        (since, ERRORS * 20),
    )
    yield '<section aria-labelledby="errors"><h2 id="errors">What was said in the last three months</h2>\n'
    if not rows:
        yield '<p class="muted">nothing went wrong</p>'
    causes: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        causes.setdefault((row["vendor"], cause_of(row["error"])), []).append(row)
    for group in list(causes.values())[:ERRORS]:
        times = Counter[str]()
        for row in group:
            times[row["subject"]] += row["times"]
        count = max(times.values())
        yield (
            f'<article class="said"><h3>{_e(named(list(times)))}</h3><p>{_e(shared([r["error"] for r in group]))}</p>'
            f'<p class="muted">{count:,} {_plural("time", count)}, last {_time(group[0]["last"])}</p></article>\n'
        )
    yield "</section>\n"


def _grid(label: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table that scrolls by itself where the screen is narrow; cells are markup."""
    counts = {"vendor", "extracted", "landed", "live", "tables", "rows landed", "took"} if len(names) > 3 else set()
    kind = [' class="n"' if name in counts else "" for name in names]
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{_e(label)}"><table><thead><tr>'
    yield "".join(f'<th scope="col"{css}>{name}</th>' for name, css in zip(names, kind, strict=True))
    yield "</tr></thead><tbody>"
    for row in rows:
        yield "<tr>" + "".join(f"<td{css}>{cell}</td>" for cell, css in zip(row, kind, strict=True)) + "</tr>\n"
    yield "</tbody></table></div>"


def _badge(status: str, text: str | None = None) -> str:
    css, mark, word = WORDS.get(status, ("warn", "?", status))
    said = word if text is None else text
    hidden = "" if text is None else f'<span class="sr"> ({word})</span>'
    return f'<span class="badge {css}"><span aria-hidden="true">{mark}</span> {_e(said)}{hidden}</span>'


def _e(text: Any) -> str:
    return html.escape(redact(str(text)), quote=True)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _more(there: int, shown: int) -> str:
    return (
        f'<p class="muted">and {there - shown:,} more: nightload status, nightload run-info</p>'
        if there > shown
        else ""
    )


def _time(iso: str | None) -> str:
    if not iso:
        return '<span class="muted">never</span>'
    at = datetime.fromisoformat(iso).astimezone(UTC)
    return f'<time datetime="{at:%Y-%m-%dT%H:%M:%SZ}">{at:%Y-%m-%d %H:%M}</time>'


def _ago(iso: str | None, now: datetime) -> str:
    if not iso:
        return "never"
    seconds = (now - datetime.fromisoformat(iso)).total_seconds()
    return f"{_time(iso)} ({_duration(seconds)} ago)"


def _between(start: str, end: str | None) -> float | None:
    return None if end is None else (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
