"""What people see of a backfill, of what is remembered, and of what is about to go."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from pipelines.cli.render import COLOURS, _number, console, grid_of, print_grid, progress_console, say, say_of_tables

if TYPE_CHECKING:
    from pipelines.config.project import Place
    from pipelines.operations.backfill import Done
    from pipelines.operations.backfill_plan import Plan
    from pipelines.operations.drop import Doomed
    from pipelines.operations.replay import Replayed
    from pipelines.operations.state import Remembered


class Chunks:
    """A backfill under way: a bar on a terminal, a line per chunk elsewhere.

    What is left is estimated by the median of the chunks that were loaded since it began; before the first, and while
    it waits for a run, nobody knows.
    """

    def __init__(self, plan: Plan, *, enabled: bool) -> None:
        self._plan, self._enabled = plan, enabled
        self._took: list[float] = []
        self._since = time.monotonic()
        self._bar: Progress | None = None
        if enabled and progress_console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._bar = Progress(*columns, console=progress_console, transient=True)
            self._task = self._bar.add_task(escape(plan.table), total=len(plan.due), left="time left: not known yet")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def wait(self) -> None:
        """A run has the warehouse: that is no part of a chunk's time."""
        if self._bar:
            self._bar.update(self._task, left="waits for the run that has the warehouse")
        elif self._enabled:
            sys.stdout.write("waiting for the run that has the warehouse\n")
            sys.stdout.flush()

    def done(self, done: Done) -> None:
        now = time.monotonic()
        self._took.append(now - self._since)
        self._since = now
        left = self.estimate(len(self._plan.due) - len(self._took))
        if self._bar:
            self._bar.update(self._task, advance=1, left=left)
        if self._enabled:
            line = f"{done.chunk.days}  {done.table.status}  {_counts(done)}"
            if done.table.error:
                line += f"  {done.table.error}"
            say("", line if self._bar else f"{line}  ({left})" if left else line)
            sys.stdout.flush()

    def estimate(self, left: int) -> str:
        """How long so many chunks may take, by those that are done."""
        if not left or not self._took:
            return ""
        seconds = statistics.median(self._took) * left
        about = timedelta(seconds=round(seconds)) if seconds < 3600 else timedelta(minutes=round(seconds / 60))
        return f"about {about} left, by {len(self._took)} done"


def show_plan(plan: Plan) -> None:
    rows = grid_of("days", "calls", "", right=("calls",))
    for chunk in plan.chunks:
        told = "" if chunk.done or chunk.calls is None else _calls(chunk.calls.least, chunk.calls.beyond)
        rows.add_row(str(chunk.days), told, Text("done", style=COLOURS["done"]) if chunk.done else Text(""))
    print_grid(rows)
    skipped = len(plan.chunks) - len(plan.due)
    more = f", {skipped} are done and skipped (--again loads them once more)" if skipped else ""
    say("", f"{plan.table}: {len(plan.due)} chunks of days in {plan.zone}{more}")
    if (calls := plan.calls) is None:
        say("", "calls: the vendor's part of nightload does not tell; at least one per chunk")
    elif calls.beyond and plan.due:
        say("", f"calls: at least {calls.least:,}; how many in all nobody can know before: {calls.beyond}")
    else:
        say("", f"calls: {calls.least:,}")
    asked = f"; {plan.asked} requests were made to find the table" if plan.asked else ", and nobody was asked"
    say("", f"nothing was loaded{asked}")


def _calls(least: int, beyond: str) -> str:
    return f"≥ {least:,}" if beyond else f"{least:,}"


def show_chunks(plan: Plan, done: Sequence[Done], place: Place) -> None:
    good = [each for each in done if each.good]
    landed = sum(each.table.landed or 0 for each in good)
    told = [f"{len(good)} of {len(plan.due)} chunks loaded, {landed:,} rows"]
    if skipped := len(plan.chunks) - len(plan.due):
        told.append(f"{skipped} were done and skipped")
    if left := len(plan.due) - len(done):
        told.append(f"{left} were not tried")
    notes = {note: None for each in done for note in (*each.table.notes, *each.changes)}
    for note in list(notes)[:10]:
        say(f"  [yellow]![/] {escape(plan.table)}: ", note)
    say("", f"{plan.table}: {', '.join(told)} → {place.shown}")
    if bad := [each for each in done if not each.good]:
        say("  [red]✗[/] ", f"{len(bad)} chunks failed; run the same command again: what is loaded is skipped")


def _counts(done: Done) -> str:
    counts = (done.table.vendor_count, done.table.extracted, done.table.landed)
    return "vendor {} = extracted {} = landed {}".format(*("?" if each is None else f"{each:,}" for each in counts))


def show_states(found: Sequence[Remembered]) -> None:
    if not found:
        console.print("nothing is remembered yet; the first night begins it")
        return
    rows = grid_of("table", "rows came last", "remembered")
    for each in found:
        rows.add_row(Text(each.name), each.loaded_at or "", Text("\n".join(each.lines)))
    print_grid(rows)


def show_forgets(found: Sequence[Remembered]) -> None:
    if not found:
        console.print("there is nothing to forget")
        return
    from pipelines.operations.state import in_words

    rows = grid_of("table", "would be forgotten")
    for each in found:
        rows.add_row(Text(each.name), Text("\n".join(f"{k}: {in_words(v)}" for k, v in sorted(each.forgets.items()))))
    print_grid(rows)
    console.print("Rows stay; the next night fetches these tables anew, as far back as their settings say.")


def show_doomed(doomed: Sequence[Doomed], place: Place) -> None:
    rows = grid_of("table", "rows", "with it", right=("rows",))
    for each in doomed:
        told = [f"{each.dataset}.{name} ({count:,} rows)" for name, count in each.asides]
        told += [f"remembered: {', '.join(each.state)}"] if each.state else []
        told += [f"views on it: {', '.join(each.views)}"] if each.views else []
        rows.add_row(Text(each.name), "" if each.rows is None else f"{each.rows:,}", Text("\n".join(told)))
    print_grid(rows)
    total = sum((each.rows or 0) + sum(count for _, count in each.asides) for each in doomed)
    say(
        "",
        f"{len(doomed)} tables with {total:,} rows go from {place.shown}; deleted rows and history, which only they "
        "have, go for good",
    )
    if any(each.views for each in doomed) and place.postgres is None:
        console.print("The views answer again when a night has loaded their tables.")


def show_replayed(done: Replayed) -> None:
    """Each table then and now, and what was not kept."""
    grid = grid_of("table", "vendor", "extracted", "digest", "", "")
    for each in done.compared:
        verdict = {True: ("same", "green"), False: ("differs", "red"), None: ("not compared", "yellow")}[each.same]
        counts = (_number(each.now["vendor_count"]), _number(each.now["extracted"]))
        grid.add_row(Text(each.table), *counts, each.now["digest"][:12], Text(*verdict), Text(each.why))
    print_grid(grid)
    say_of_tables((each.table, each.now["error"], ()) for each in done.compared)
    for why in dict.fromkeys(done.left_out.values()):
        say("  [yellow]![/] not kept: ", why)
    for line in done.torn:
        say("  [yellow]![/] ", line)
    same = sum(each.same is True for each in done.compared)
    told = f"run {done.run_id}: {same} of {len(done.compared)} tables came out as they did then"
    console.print(f"{told}, and were loaded into {done.into}" if done.into else told, highlight=False)
