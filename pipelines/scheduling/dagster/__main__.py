"""Dagster's UI over a home: `make dagster`, or `python -m pipelines.scheduling.dagster`.

It stands beside the ledger, is reached from this machine only, and tells nobody of it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from pipelines.config import project as places
from pipelines.config import schedules
from pipelines.config.exit_codes import code_of
from pipelines.config.project import Place
from sources.core.errors import ConfigurationError, NightloadError, summarize

STOP = 150
"""Seconds that all have to end before they are killed: a run has 120 of its own."""
SETTINGS = """\
# Written once by nightload; yours from then on.
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  pools: {default_limit: 1, granularity: run}  # runs of one warehouse wait for each other
"""


def home_of_dagster(place: Place) -> Path:
    """Dagster's own folder, with its settings. Raises `ConfigurationError`."""
    folder = place.state / "dagster"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (folder / "dagster.yaml").exists():
            (folder / "dagster.yaml").write_text(SETTINGS, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            what=f"the folder {folder} cannot be written", why=error.strerror or "", todo="Let this user write there"
        ) from None
    return folder


def serve(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command until it ends or we are told to end; its exit code. Nothing that it started is left.

    Dagster's webserver and daemon are children of its own, which it ends on Ctrl-C and leaves on SIGTERM: whatever we
    are told, all of them are told Ctrl-C.
    """
    children: list[subprocess.Popen[bytes]] = []

    def tell(number: signal.Signals) -> None:
        for each in children:
            with suppress(ProcessLookupError):
                os.killpg(each.pid, number)

    def end(*_: Any) -> None:
        tell(signal.SIGINT)
        signal.alarm(STOP)

    # before it is started: in the background of a shell it would inherit that Ctrl-C is ignored
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    signal.signal(signal.SIGALRM, lambda *_: tell(signal.SIGKILL))
    child = subprocess.Popen(words, env=dict(environment), start_new_session=True)  # noqa: S603 - a user's own Python
    children.append(child)
    code = child.wait()
    tell(signal.SIGTERM)
    return code if code >= 0 else 128 - code


def main() -> NoReturn:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.scheduling.dagster", description="Dagster's UI over a home."
    )
    parser.add_argument("--home", help="folder with .dlt (NIGHTLOAD_HOME; default: here)")
    parser.add_argument("--port", type=int, default=3000)
    told = parser.parse_args()
    try:
        if find_spec("dagster_webserver") is None:
            raise ConfigurationError(
                what="Dagster is not installed", todo='Install it: pip install "nightload[dagster]"'
            )
        place = places.find(told.home)
        schedules.read(place.home)
        environment = {**os.environ, "DAGSTER_HOME": str(home_of_dagster(place)), "NIGHTLOAD_HOME": str(place.home)}
    except NightloadError as error:
        sys.stderr.write(f"nightload: {summarize(error)}\n")
        sys.exit(code_of(error))
    words = [
        "dagster",
        "dev",
        "-m",
        "pipelines.scheduling.dagster.dagster_assets",
        "-h",
        "127.0.0.1",
        "-p",
        str(told.port),
    ]
    sys.exit(serve([sys.executable, "-m", *words], environment))


if __name__ == "__main__":
    main()
