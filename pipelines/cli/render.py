"""What people see on a terminal; plain lines where there is none."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from pipelines.monitoring.causes import alike, by_cause, named, shared
from pipelines.run.report import TableReport
from sources.core.errors import one_line
from sources.core.redaction import redact

if TYPE_CHECKING:
    from pipelines.config.project import Place
    from pipelines.operations.copy import Copied
    from pipelines.run.dbt import DbtReport
    from pipelines.run.report import RunReport

COLOURS = {
    "ok": "green",
    "unchanged": "green",
    "warning": "yellow",
    "mismatch": "red",
    "failed": "red",
    "discarded": "red",
    "crashed": "red",
    "running": "yellow",
    "done": "green",
    "replayed": "cyan",
}

# a log file has no width to keep to
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
progress_console = Console(stderr=True, soft_wrap=True)
MANY = 40


def say(markup: str, text: str) -> None:
    """Our markup, then somebody else's text on one line: redacted, never read as markup, nor obeyed by a terminal."""
    console.print(f"{markup}{escape(one_line(text))}", highlight=False)


class Progress:
    """Which table of each vendor is being walked: a moving line on a terminal, nothing elsewhere.

    Told from several threads at once.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._lock, self._at = threading.Lock(), dict[str, str]()
        self._status: Status | None = None
        if enabled and progress_console.is_terminal:
            self._status = progress_console.status("starting")

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def table(self, vendor: str, table: str) -> None:
        """`table`, or another word of what the vendor is at; an empty one: it is done."""
        if not self._status:
            return
        with self._lock:
            if table:
                self._at[vendor] = table.removeprefix(f"{vendor}.")
            else:
                self._at.pop(vendor, None)
            self._status.update(" · ".join(f"{name}: {escape(what)}" for name, what in self._at.items()) or "counting")


def show_run(report: RunReport, place: Place) -> None:
    """The counts of every table, then what to do about what went wrong."""
    for vendor in report.vendors:
        grid = grid_of("table", "vendor", "extracted", "landed", "live", "gone", "status")
        for table in _told(vendor.tables):
            counts = (table.vendor_count, table.extracted, table.landed, table.live, table.deleted or None)
            grid.add_row(Text(table.table), *map(_number, counts), _state(table.status))
        console.print(
            f"[bold]{vendor.vendor}[/]  {vendor.requests} requests, {vendor.seconds:.1f} s{_tries(vendor.tries)}  ",
            _state(vendor.status),
        )
        if vendor.tables:
            print_grid(grid)
        if vendor.error:
            say("  [red]✗[/] ", vendor.error)
        say_of_tables((each.table, each.error, each.notes) for each in vendor.tables)
    for name in report.skipped:
        console.print(f"{name}: skipped, it has no key (its README says which: sources/{name})", highlight=False)
    console.print(f"run {report.run_id} ", _state(report.status), f" → {place.shown}")
    if report.dbt:
        show_dbt(report.dbt)


def show_dbt(report: DbtReport) -> None:
    counts = {"passed": report.passed, "warned": report.warned, "failed": report.failed, "skipped": report.skipped}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    console.print("dbt: ", _state(report.status), f"  {told}", highlight=False)
    for failure in report.failures:
        say(f"  [red]✗[/] {escape(failure['name'])}: ", failure["message"])
    if report.error and not report.failures:
        say("  [red]✗[/] " if report.status == "failed" else "  ", report.error)


def _told(tables: Sequence[TableReport]) -> list[TableReport]:
    """The tables by name; of a dataset with many, those that went well become one line."""
    told: list[TableReport] = []
    for dataset in sorted({table.table.split(".")[0] for table in tables}):
        its = sorted((table for table in tables if table.table.split(".")[0] == dataset), key=lambda table: table.table)
        well = [table for table in its if table.status in ("ok", "unchanged")]
        if len(its) > MANY and well:
            its = [table for table in its if table not in well]
            total = TableReport(
                table=f"{dataset}: {len(well)} tables",
                status="ok" if any(table.status == "ok" for table in well) else "unchanged",
                extracted=sum(table.extracted or 0 for table in well),
                landed=sum(table.landed or 0 for table in well),
                live=sum(table.live or 0 for table in well),
            )
            told.append(total)
        told += its
    return told


def show_status(found: Mapping[str, Any]) -> None:
    if not found["vendors"]:
        console.print("no run yet; start one with: nightload run")
    for vendor in found["vendors"]:
        console.print(
            f"[bold]{vendor['vendor']}[/]  last run {vendor['finished_at'] or vendor['started_at']}  ",
            _state(vendor["status"]),
            f"  last good {vendor['last_good'] or 'never'}  ",
            _freshness(vendor["fresh"]),
            highlight=False,
        )
        if vendor["error"]:
            say("  [red]✗[/] ", vendor["error"])
        for change in vendor["drift"]:
            say("  [yellow]![/] ", _change(change))
        grid = grid_of("table", "vendor", "extracted", "landed", "live", "last good", "", "status")
        well = [table for table in vendor["tables"] if table["status"] in ("ok", "unchanged") and table["fresh"]]
        many = len(vendor["tables"]) > MANY
        for table in (table for table in vendor["tables"] if not (many and table in well)):
            counts = (table["vendor_count"], table["extracted"], table["landed"], table["live"])
            state = Text("left out", style="dim") if table["left_out"] else _freshness(table["fresh"])
            good = table["last_good"] or "never"
            grid.add_row(Text(one_line(table["table"])), *map(_number, counts), good, state, _state(table["status"]))
        if many and well:
            least = min(table["last_good"] for table in well)
            live = _number(sum(table["live"] or 0 for table in well))
            grid.add_row(f"{len(well)} tables", "", "", "", live, least, _freshness(True), _state("ok"))
        print_grid(grid)
    if dbt := found["dbt"]:
        console.print(
            f"dbt  last run {dbt['finished_at'] or dbt['started_at']}  ", _state(dbt["status"]), highlight=False
        )
        if dbt["error"]:
            say("  [red]✗[/] ", dbt["error"])
    for group in alike(found["incidents"]):
        incident, subjects = group[0], [each["subject"] for each in group if each["subject"]]
        about, why = f"{named(subjects)}: " if subjects else "", shared([each["why"] for each in group])
        say("[red]✗[/] ", f"{about}{incident['what']}, since {incident['opened_at']}: {why}")
        say("    ", incident["todo"])
    for event in found["noticed"]:
        about = f"{event['subject']}: " if event["subject"] else ""
        say("[yellow]![/] ", f"{about}{event['what']}, seen {event['opened_at']}: {event['why']}")
    for channel in found["alerts"]:
        if channel["error"]:
            failing = f"alerts by {channel['channel']} fail since {channel['failing_since']}: {channel['error']}"
            say("[red]✗[/] ", failing)
    for line in found["pending"]:
        say("[yellow]…[/] ", line)
    if found["stale"]:
        say("[red]stale:[/] ", ", ".join(found["stale"]))
    if (last := found["last_run"]) and last["status"] in ("running", "crashed"):
        started = f"  started {last['started_at']}"
        console.print(f"run {last['run_id']} ", _state(last["status"]), started, highlight=False)


def say_of_tables(tables: Iterable[tuple[str, str | None, Sequence[str]]]) -> None:
    """The errors and notes of (table, error, notes); an error of one cause once, with the tables that it concerns."""
    tables = list(tables)
    errors = {
        group[0]: (group, error) for group, error in by_cause((name, error) for name, error, _ in tables if error)
    }
    for name, _, notes in tables:
        if name in errors:
            group, error = errors[name]
            say(f"  [red]✗[/] {escape(named(group))}: ", error)
        for note in notes:
            say(f"  [yellow]![/] {escape(name)}: ", note)


def _freshness(fresh: bool | None) -> Text:
    return {True: Text("fresh", style="green"), False: Text("stale", style="red"), None: Text("")}[fresh]


def _change(change: Mapping[str, Any]) -> str:
    column = f" {change['column_name']}" if change["column_name"] else ""
    types = f" {change['old_type'] or ''} → {change['new_type']}" if change["new_type"] else ""
    return f"{change['table']}{column}: {change['change']}{types}"


def show_runs(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        console.print("no run yet; start one with: nightload run")
        return
    grid = grid_of("run", "began", "ended", "vendors", "tables", "landed", "not good", "status", "replay")
    for row in rows:
        grid.add_row(
            row["run_id"],
            row["started_at"][:16],
            (row["finished_at"] or "")[:16],
            ", ".join(row["vendors"]),
            _number(row["tables"]),
            _number(row["landed"]),
            _number(row["not_good"] or None),
            _state(row["status"]),
            Text("kept" if row["kept"] else "", style="dim"),
        )
    print_grid(grid)


def show_run_info(found: Mapping[str, Any]) -> None:
    run = found["run"]
    when = f"  {run['started_at']} to {run['finished_at'] or 'now'}  nightload {run['version']} on {run['host']}"
    console.print(f"[bold]run {run['run_id']}[/] ", _state(run["status"]), Text(when), highlight=False)
    if run["error"]:
        say("  [red]✗[/] ", run["error"])
    if run["kept"]:
        say("  its pages are kept: ", f"{', '.join(run['kept'])}; nightload replay {run['run_id']}")
    for vendor in found["vendors"]:
        console.print(
            f"[bold]{vendor['vendor']}[/]  {vendor['requests'] or 0} requests, {vendor['seconds'] or 0:.1f} s"
            f"{_tries(len(vendor['tries']))}  ",
            _state(vendor["status"]),
        )
        if vendor["error"]:
            say("  [red]✗[/] ", vendor["error"])
        for each in vendor["tries"] if len(vendor["tries"]) > 1 else ():
            tables = f" ({', '.join(each['tables'])})" if each["tables"] else ""
            say(f"  [dim]try {each['attempt']}[/] ", f"{each['started_at']}{tables}: {each['error'] or each['status']}")
        grid = grid_of("table", "vendor", "extracted", "landed", "live", "gone", "seconds", "status")
        for table in vendor["tables"]:
            names = ("vendor_count", "extracted", "landed", "live")
            counts = [_number(table[name]) for name in names] + [_number(table["deleted"] or None)]
            grid.add_row(
                Text(one_line(table["table"])), *counts, f"{table['seconds'] or 0:.1f}", _state(table["status"])
            )
        if vendor["tables"]:
            print_grid(grid)
        for change in vendor["schema_changes"]:
            say("  [yellow]![/] ", _change({"table": f"{change['dataset']}.{change['table_name']}", **change}))
        say_of_tables((each["table"], each["error"], each["notes"]) for each in vendor["tables"])


def show_tables(rows: Sequence[Mapping[str, Any]]) -> None:
    grid = grid_of("table", "mode", "key", "cursor", "last good", "live", "about")
    for row in rows:
        grid.add_row(
            Text(row["table"]),
            row["mode"],
            Text(one_line(", ".join(row["key"]))),
            Text(one_line(row["cursor"] or "")),
            row["last_good"] or "never",
            _number(row["live"]),
            Text(one_line(row["about"])),
        )
    print_grid(grid)


def show_copied(copied: Sequence[Copied], place: Place) -> None:
    grid = grid_of("table", "landed")
    for each in copied:
        grid.add_row(Text(each.table), _number(each.rows))
    print_grid(grid)
    console.print(f"{len(copied)} tables, {sum(each.rows for each in copied):,} rows → {place.shown}")
    console.print("Name it in NIGHTLOAD_WAREHOUSE, and the next night goes on there.")


def show_rows(table: str, columns: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]]) -> None:
    from pipelines.cli.formats import shown

    grid = Table(title=Text(table), title_justify="left")
    for column in columns:
        grid.add_column(Text(f"{column['name']}\n{column['type']}"), no_wrap=True)
    for row in rows:
        grid.add_row(*(Text("" if value is None else shown(redact(str(value))[:60])) for value in row.values()))
    print_grid(grid)


def print_grid(grid: Table) -> None:
    """Print a table. What is copied from it (an id, a table's name) stays whole, however narrow the terminal is."""
    least = 1
    for column in grid.columns:
        lines = str(column.header).splitlines() + [str(cell) for cell in column.cells]
        least += (3 if grid.box else 2) + (max(map(cell_len, lines), default=0) if column.no_wrap else 1)
    if least > console.width:
        grid.width = least
    console.print(grid)


def grid_of(*names: str, right: Collection[str] = ("vendor", "extracted", "landed", "live", "gone")) -> Table:
    """A table without lines; its first column stays whole."""
    grid = Table(box=None, pad_edge=True, padding=(0, 2, 0, 0))
    for number, name in enumerate(names):
        grid.add_column(
            name,
            justify="right" if name in right else "left",
            overflow="fold",
            no_wrap=number == 0,
            header_style="dim",
        )
    return grid


def _tries(count: int) -> str:
    return f", tried {count} times" if count > 1 else ""


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _state(status: str) -> Text:
    return Text(status, style=COLOURS.get(status, ""))
