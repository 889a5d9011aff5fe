"""A process that is measured, and what was measured so far."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one measured process took: seconds, seconds, MB."""

    cpu: float
    wall: float
    peak: float
    imports: float = 0.0
    asked: float = 0.0
    """Seconds from the first request to the last one."""
    requests: float = 0
    load: float = 0.0
    """CPU seconds of dlt's load; then of all that follows the extraction, of the counts, of copying a DuckDB file."""
    after: float = 0.0
    count: float = 0.0
    copy: float = 0.0


class Results:
    """What was measured, by name and part."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], list[Taken]] = defaultdict(list)

    def add(self, name: str, part: str, taken: Taken) -> None:
        self._taken[name, part].append(taken)

    def median(self, name: str, part: str) -> Taken | None:
        """The median of each figure by itself; None if it was not measured."""
        taken = self._taken.get((name, part))
        if not taken:
            return None
        columns = {figure.name: [getattr(each, figure.name) for each in taken] for figure in fields(Taken)}
        return Taken(**{figure: statistics.median(values) for figure, values in columns.items()})


def child(way: str, kind: str, url: str, rows: int, home: Path, extra: Mapping[str, str] | None = None) -> Taken:
    """A way to load, in a process of its own: see `bench.child`."""
    command = [sys.executable, "-m", "bench.child", way, kind, url, str(rows), str(home)]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment() | dict(extra or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{way}, {kind}:\n{done.stdout}{done.stderr}")
    return Taken(**json.loads(done.stdout.splitlines()[-1]))


def command_line(command: list[str], extra: Mapping[str, str]) -> Taken:
    """A whole process, imports and all."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment() | dict(extra), stdout=output, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{output.read().decode()}")
    wall = time.perf_counter() - started
    return Taken(cpu=usage.ru_utime + usage.ru_stime, wall=wall, peak=usage.ru_maxrss / 1024)


def home_at(home: Path) -> dict[str, str]:
    return {"NIGHTLOAD_HOME": str(home)}


def _environment() -> dict[str, str]:
    """Without what would configure dlt or nightload from outside."""
    foreign = ("SOURCES__", "NIGHTLOAD_", "DESTINATION__", "LOAD__", "NORMALIZE__", "DATA_WRITER__", "DLT_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


@contextmanager
def empty(home: Path) -> Iterator[None]:
    """A home for one measured process."""
    home.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(home, ignore_errors=True)
