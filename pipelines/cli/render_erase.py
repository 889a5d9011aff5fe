"""What `nightload forget` shows and asks. The value itself is never shown."""

from __future__ import annotations

import sys

import typer
from rich.text import Text

from pipelines.cli.render import grid_of, print_grid, say
from pipelines.config.project import Place
from pipelines.operations.erasure.erase import Found
from sources.core.errors import ConfigurationError, one_line


def show_found(found: Found, place: Place) -> None:
    """Table, column, rows and what is to be done; and what only the vendor's own pages can change."""
    if not found.traces:
        say("", f"found nowhere in {place.shown}")
    else:
        table = grid_of("table", "column", "rows", "to do", right=("rows",))
        for trace in found.traces:
            table.add_row(Text(trace.place.where), Text(one_line(trace.place.column)), str(trace.rows), trace.action)
        print_grid(table)
    if any(trace.action == "not nightload's" for trace in found.traces):
        say("", "tables that nightload does not load stay as they are: build them anew, or delete there yourself")
    if found.links:
        say("", "mentioned at the vendor's, to be edited there:")
        for link in found.links:
            say("  ", f"{link.vendor} {link.what} {link.name} ({link.ids}): {link.url}")
    if found.why_odd:
        say("[yellow]This can hardly be one person:[/] ", found.why_odd)


def show_done(done: Found, place: Place) -> None:
    say("[green]✓[/] ", f"{done.removed} rows removed, {done.blanked} values blanked in {place.shown}")
    say("  ", f"kept out of later loads; the record is {done.forget_id} in nightload.forgets")
    if place.postgres is not None:
        say("  ", "VACUUM FULL the tables above to take the deleted rows off the disk as well")


def agrees(found: Found, *, yes: bool, force: bool) -> bool:
    """Ask, unless told so. Raises `ConfigurationError` where there is nobody to ask."""
    terminal = sys.stdin.isatty()
    if found.why_odd and not force and (yes or not terminal):
        raise ConfigurationError(
            what="this can hardly be one person",
            why=found.why_odd,
            todo="Nothing was changed. Say where to look with --column, or --force if it is meant",
        )
    if yes:
        return True
    if not terminal:
        raise ConfigurationError(what="nobody can be asked here", todo="Nothing was changed. Give --yes if it is meant")
    if not typer.confirm("Remove, blank and keep out?", default=False):
        return False
    return not found.why_odd or force or typer.confirm("It looks like more than one person. Really?", default=False)
