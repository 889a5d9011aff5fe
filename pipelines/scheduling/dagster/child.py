"""A nightload command as a child of whoever orchestrates it: its document, its exit code, its end."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config.project import Place
from pipelines.scheduling.run_history import COMMAND
from sources.core.redaction import redact

STOP = 120.0
"""Seconds between SIGTERM, which ends a run cleanly, and SIGKILL."""


@dataclass(frozen=True)
class Ended:
    """How a command ended. `document` is what `--json` printed; None: it printed none that is whole."""

    code: int
    document: dict[str, Any] | None
    said: str = ""
    """The last line that it told on stderr."""
    stopped: bool = False
    """Was it ended by its deadline?"""


def nightload(
    arguments: Sequence[str], place: Place, *, on_line: Callable[[str], None], deadline: float | None = None
) -> Ended:
    """Run a command with `--json`; what it tells on stderr goes to `on_line`, masked.

    Whatever ends the caller ends the command first, cleanly, within `STOP` seconds; so does the `deadline`, in seconds.
    """
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(  # noqa: S603
            [*COMMAND, *arguments, "--json", "--home", str(place.home)],
            cwd=place.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a signal to the caller's group is the caller's to pass on
        )
        timer = threading.Timer(deadline or 0, child.terminate)
        timer.daemon = True
        said = ""
        try:
            if deadline is not None:
                timer.start()
            for line in child.stderr or ():
                said = redact(line.rstrip("\n"))
                on_line(said)
            code = child.wait()
        finally:
            stopped = timer.finished.is_set() and deadline is not None
            timer.cancel()
            _end(child)
        out.seek(0)
        return Ended(code, _document(out.read()), said, stopped)


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stderr is not None:
        child.stderr.close()


def _document(text: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
