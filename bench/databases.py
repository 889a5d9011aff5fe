"""A Postgres for the bench, as a server keeps its promises (fsync and all), and what its processes take."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from postgres_server import execute, postgres_server, with_database

URL, PROCESS = "BENCH_POSTGRES", "BENCH_POSTMASTER"
"""Environment of a measured process: the database to load into, and the server process whose CPU counts too."""
SAFE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on"}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    url: str
    pid: int

    def empty(self, name: str) -> dict[str, str]:
        """Make an empty database; the environment of a process that loads into it."""
        execute(self.url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"', "CHECKPOINT")
        return self.at(name)

    def at(self, name: str) -> dict[str, str]:
        return {URL: with_database(self.url, name), PROCESS: str(self.pid)}

    def settle(self, name: str) -> None:
        """What a server does in its quiet hours, so that no measured process pays for it."""
        execute(with_database(self.url, name), "VACUUM (ANALYZE)", "CHECKPOINT")

    def rest(self) -> None:
        execute(self.url, "CHECKPOINT")


@contextmanager
def served() -> Iterator[Server]:
    os.environ.pop("NIGHTLOAD_TEST_POSTGRES", None)  # the CPU of another machine cannot be counted
    with postgres_server(**SAFE) as url:
        ((file,),) = execute(url, "SELECT pg_read_file('postmaster.pid')")
        yield Server(url, int(file.split()[0]))


def cpu() -> float:
    """Seconds that the server named in the environment has taken so far, with all its backends; 0 if there is none."""
    if PROCESS not in os.environ:
        return 0.0
    server = os.environ[PROCESS]
    ticks = sum(_ticks(server)[:4])
    for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        ticks += sum(_ticks(child)[:2])
    return ticks / TICKS


def _ticks(pid: str) -> tuple[int, ...]:
    """User and system time, and that of the children it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return (0, 0, 0, 0)
    return tuple(int(field) for field in fields[11:15])
