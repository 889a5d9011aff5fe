"""What the commands share: their options, exit codes, and how they tell. Each module beside this one is a chapter."""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from pipelines.config import project as places
from sources import VENDORS
from sources.core.cancellation import heard
from sources.core.errors import NightloadError, summarize
from sources.core.redaction import install

app = typer.Typer(
    name="nightload",
    help="Loads analytics vendors into your warehouse, and proves it.",
    add_completion=False,
    pretty_exceptions_enable=False,
)

Home = Annotated[str | None, typer.Option("--home", help="Folder with .dlt (NIGHTLOAD_HOME; default: here).")]
WarehouseUrl = Annotated[
    str | None,
    typer.Option("--warehouse", help="duckdb:///PATH or postgresql://… (NIGHTLOAD_WAREHOUSE)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]
OnlyTables = Annotated[list[str] | None, typer.Option("--table", help="Only DATASET.TABLE; may be repeated.")]
RunId = Annotated[str, typer.Argument(metavar="ID", help="A run's id, or enough of its beginning.")]
Vendors = Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(VENDORS)}. Default: all with a key.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell what is done on stderr.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")]


@contextmanager
def engine(place: places.Place, *, verbose: bool = False, quiet: bool = False, refuse: bool = True) -> Iterator[None]:
    """Set up logging and dlt; let SIGTERM end a run as Ctrl-C does: nothing half done is published.

    Raises `ConfigurationError` for names in the configuration that nothing reads, unless `refuse` is false.
    """
    from pipelines.config.dlt_setup import prepare

    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    # several vendors speak at once, and their threads have their names
    form = f"%(asctime)s %(levelname)s{' %(threadName)s' if verbose else ''} %(message)s"
    logging.basicConfig(level=level, format=form, stream=sys.stderr)
    install()
    signal.signal(signal.SIGTERM, _interrupted)
    prepare(place)
    if refuse:
        from pipelines.operations.config_check import refuse_unknown

        refuse_unknown(place)
    try:
        yield
    except (KeyboardInterrupt, RuntimeError) as error:
        if not heard(error):
            raise
        sys.stderr.write("interrupted; nothing half done was published\n")
        raise typer.Exit(130) from None


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def say_error(error: NightloadError) -> None:
    sys.stderr.write(f"nightload: {summarize(error)}\n")


def print_json(document: Any) -> None:
    from pipelines.cli.formats import output

    output()(json.dumps(document, ensure_ascii=False, default=str) + "\n")
