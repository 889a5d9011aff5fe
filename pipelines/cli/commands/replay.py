"""A run played again from what was kept of it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from pipelines.cli.commands import AsJson, Home, OnlyTables, RunId, Verbose, WarehouseUrl, app, engine, print_json
from pipelines.config import project as places
from pipelines.config.exit_codes import MISMATCH, OK
from pipelines.monitoring.hooks import with_hooks


@app.command()
def replay(
    run_id: RunId,
    check: Annotated[bool, typer.Option("--check", help="Compare counts and digests, load nowhere (default).")] = False,
    to: Annotated[str | None, typer.Option("--to", metavar="PATH", help="Load into this fresh DuckDB file.")] = None,
    into: Annotated[bool, typer.Option("--into", help="Load into the warehouse; cursors stay as they are.")] = False,
    table: OnlyTables = None,
    warehouse: WarehouseUrl = None,
    home: Home = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run once more from the kept pages, without calling a vendor: same counts, same digests?"""
    place = places.find(home, warehouse)
    with engine(place, verbose=verbose, quiet=as_json), with_hooks(place) if into else nullcontext():
        from pipelines.cli.render_operations import show_replayed
        from pipelines.operations.replay import replay as play
        from sources.core.errors import ConfigurationError

        if check and (to is not None or into):
            raise ConfigurationError(what="--check loads nowhere", todo="Leave it out, or --to and --into")
        done = play(place, run_id, to=to, into=into, tables=table or ())
    print_json(done.as_json()) if as_json else show_replayed(done)
    raise typer.Exit(OK if done.same else MISMATCH)
