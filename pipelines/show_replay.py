"""What people see of a replay."""

from __future__ import annotations

from rich.markup import escape
from rich.text import Text

from pipelines.replay import Replayed
from pipelines.show import _grid, _number, console, say


def show_replayed(done: Replayed) -> None:
    """Each table then and now, and what was not kept."""
    grid = _grid("table", "vendor", "extracted", "digest", "", "")
    for each in done.compared:
        verdict = {True: ("same", "green"), False: ("differs", "red"), None: ("not compared", "yellow")}[each.same]
        counts = (_number(each.now["vendor_count"]), _number(each.now["extracted"]))
        grid.add_row(Text(each.table), *counts, each.now["digest"][:12], Text(*verdict), Text(each.why))
    console.print(grid)
    for each in done.compared:
        if each.now["error"]:
            say(f"  [red]✗[/] {escape(each.table)}: ", each.now["error"])
    for why in dict.fromkeys(done.left_out.values()):
        say("  [yellow]![/] not kept: ", why)
    for line in done.torn:
        say("  [yellow]![/] ", line)
    same = sum(each.same is True for each in done.compared)
    told = f"run {done.run_id}: {same} of {len(done.compared)} tables came out as they did then"
    console.print(f"{told}, and were loaded into {done.into}" if done.into else told, highlight=False)
