"""The command line. Each command imports what it needs when it runs, so that `--help` and `status` are quick."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from pipelines import __version__
from pipelines.cli.commands import app, say_error
from pipelines.config import permissions
from pipelines.config.exit_codes import FAILED, OK, code_of
from sources.core.errors import NightloadError, no_room, summarize
from sources.core.redaction import install

for chapter in ("run", "replay", "inspect", "query", "state", "tools"):
    import_module(f"pipelines.cli.commands.{chapter}")  # which makes its commands, in this order


def main() -> NoReturn:
    """Run the command line; every mistake of a user ends in one line on stderr."""
    install()
    try:
        app()
    except NightloadError as error:
        say_error(error)
        sys.exit(code_of(error))
    except BrokenPipeError:
        sys.exit(FAILED)
    except Exception as error:
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        full = no_room(error)  # wherever it is met, also where dlt wraps it
        sys.stderr.write(f"nightload: {summarize(full or error)}\n")
        if full is None and not isinstance(error, OSError):
            sys.stderr.write("This is a mistake of nightload itself; run it with --verbose to see where it happened.\n")
        sys.exit(FAILED)
    finally:
        _flush_stdout()
    sys.exit(OK)


def _flush_stdout() -> None:
    """Flush stdout; drop the rest if its reader is gone. Python would flush again at exit, and exit with 120."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


@app.callback(invoke_without_command=True)
def nightload(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if context.invoked_subcommand not in permissions.SHARED:
        permissions.keep()
    if version:
        sys.stdout.write(f"nightload {__version__}\n")
    elif context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


if __name__ == "__main__":
    main()
