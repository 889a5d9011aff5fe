"""The warehouse, asked: SQL, its description, what dbt builds on it."""

from __future__ import annotations

import itertools
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pipelines.cli.commands import Home, WarehouseUrl, app, engine, say_error
from pipelines.config import project as places
from pipelines.config.exit_codes import FAILED, OK, USAGE
from sources.core.errors import ConfigurationError, did_you_mean


class _WithQuery(TyperCommand):
    """A query may begin with a comment, and that with two dashes; a misspelt option is not taken for one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = [option for each in self.get_params(ctx) for option in each.opts if option.startswith("-")]
        for word in itertools.takewhile(lambda arg: arg != "--", args):
            name = word.partition("=")[0]
            if re.fullmatch(r"--?[A-Za-z][\w-]*", name) and name not in known:
                todo = did_you_mean(name, known, f"It has: {', '.join(known)}; a query stands in quotes")
                raise ConfigurationError(what=f"nightload sql has no option {name}", todo=todo)
        return super().parse_args(ctx, args)


@app.command(cls=_WithQuery, context_settings={"ignore_unknown_options": True})
def sql(
    query: Annotated[
        str | None, typer.Argument(help="One or more statements; - reads them from stdin. Without: a shell.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help='CSV; NULL is nothing, an empty text is "".')] = False,
    as_json: Annotated[bool, typer.Option("--json", help="An array of objects.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="Rows of an answer; 0: all. Default: 100 of a table, else all.")
    ] = None,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Ask the warehouse in SQL. Reads only."""
    from pipelines.cli.sql_shell import Form, ask, shell
    from pipelines.warehouse.reader import Interrupted

    if as_csv and as_json:
        raise ConfigurationError(what="an answer cannot be CSV and JSON at once", todo="Give one of --csv and --json")
    place = places.find(home, warehouse)
    form = Form(kind="csv" if as_csv else "json" if as_json else "table", limit=limit)
    try:
        if query is None:
            raise typer.Exit(OK if shell(place, form) else USAGE)
        ask(place, sys.stdin.read() if query == "-" else query, form)
    except Interrupted as error:
        say_error(error)
        raise typer.Exit(130) from None


@app.command()
def docs(
    folder: Annotated[str | None, typer.Option("--dir", help="Where to (default: docs in the home).")] = None,
    freshness: Annotated[
        bool, typer.Option("--freshness/--no-freshness", help="Tell when each table was last loaded.")
    ] = True,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Write what there is: a page (HTML) and two diagrams (Mermaid, DBML)."""
    from pathlib import Path

    from pipelines.catalog.docs.page import write
    from pipelines.warehouse.open import open_reader

    place = places.find(home, warehouse)
    with open_reader(place) as reader:
        for file, changed in write(reader, Path(folder) if folder else place.home / "docs", freshness=freshness):
            sys.stdout.write(f"{file}{'' if changed else ' (unchanged)'}\n")


dbt = typer.Typer(help="dbt over the warehouse; see dbt/README.md.", no_args_is_help=True)
app.add_typer(dbt, name="dbt")


@dbt.command("sources")
def dbt_sources(
    folder: Annotated[str | None, typer.Option("--dir", help="The dbt project (NIGHTLOAD_DBT; default: dbt).")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if something would change.")] = False,
    home: Home = None,
    warehouse: WarehouseUrl = None,
) -> None:
    """Write dbt's sources from the warehouse: tables, columns, labels, keys, freshness."""
    place = places.find(home, warehouse)
    with engine(place):
        from pipelines.catalog.dbt_sources import State, read, refuse_edited, render, wanted, write
        from pipelines.run.dbt import project_folder

        project = project_folder(place.home, folder)
        target = project / "models" / "sources"
        states = write(target, render(read(place), wanted(project)), check=check)
        for name, state in states.items():
            sys.stdout.write(f"{name}: {'would be written' if check and state == State.WRITTEN else state}\n")
        refuse_edited(target, states)
        if check and State.WRITTEN in states.values():
            raise typer.Exit(FAILED)
