"""What people see of a replay."""

from __future__ import annotations

from rich.text import Text

from pipelines.cli.render import _number, console, grid_of, print_grid, say, say_of_tables
from pipelines.operations.replay import Replayed


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
