"""A year of nights on a clock of its own, against vendors that misbehave and a machine that fails.

    python soak.py [--nights 365] [--seed N] [--warehouse duckdb|postgres] [--folder DIR] [--every 15]

A real scheduler (`soak_schedule.py`) runs real nights, each a process. Every night may meet a fault, drawn from the
seed: kills, throttling, cut answers, a full disk, a stuck lock, a clock that jumps, a scheduler that dies. Every few
nights, and at the end, all that is loaded is held against the vendors' truth, and the ledger against what was seen to
happen. What is wrong ends the soak with the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from broken import PROTECTIONS
from conftest import Database
from forked import forks
from pipelines.config.schedules import Schedule
from postgres_server import Server, fresh_database, running_postgres
from sandbox_process import start_sandbox
from soak_clockwork import START, Codes, Wrong
from soak_meetings import Meetings


class Soak(Meetings):
    """Nights, one after the other."""

    def year(self, nights: int, *, every: int, calm: float = 0.5) -> None:
        self.calm = calm
        for part in self.parts:
            part.settle(self.night, START.date())
        self.go_to(START)
        for number in range(1, nights + 1):
            noon = START + timedelta(days=number - 1)
            if self.now() < noon:
                self.go_to(noon)
            for part in self.parts:
                part.day(self.life, noon.date())
            if self.scheduler is None and self.down_until is None:
                self.start_scheduler()
            due = [(at, each) for each in self.schedules.values() for at in each.fires(noon, noon + timedelta(days=1))]
            for at, schedule in sorted(due, key=lambda one: one[0]):
                self.one(number, at, schedule)
            if number % every == 0 or number == nights:
                self.check(number)
            if number in (1, 10, 30, 100, 200, 300, nights):
                self.measure(number)
        self.stop_scheduler()

    def one(self, number: int, at: datetime, schedule: Schedule) -> None:
        started, self.dice = time.monotonic(), random.Random(f"{self.seed} {number} {schedule.name}")
        if self.down_until is not None:
            if at < self.down_until:
                return
            self.down_until = None
            self.go_to(max(self.now(), at + timedelta(seconds=2)))
            self.start_scheduler()
            self.until(self.settled, "what was owed is caught up")
            self.line(number, at, schedule, "caught up", *self.collect(), started)
            return
        mark = (self.marks() or {}).get(schedule.name)
        if at <= self.now() or (mark and datetime.fromisoformat(mark["due_at"]) >= at):  # the clock was beyond it
            self.until(self.settled, "all that is due is run")
            self.line(number, at, schedule, "came with the last", *self.collect(), started)
            return
        meeting = self.draw(schedule)
        self.met[meeting.name] += 1
        (self.control / "next.json").write_text(json.dumps(meeting.next))
        for vendor in schedule.vendors:
            if meeting.rules:
                self.box.control(vendor, "POST", "faults", meeting.rules)
        with meeting.held() if meeting.held else contextlib.nullcontext():
            self.go_to(at + timedelta(seconds=self.dice.uniform(0.2, 20)))
            if meeting.during:
                meeting.during(schedule)
            # where a disk is full, the scheduler writes down how far it is when there is room again
            self.until(self.over, f"the night that meets {meeting.name} has a run that ends")
        self.until(self.settled, f"the night that meets {meeting.name} ends")
        for vendor in schedule.vendors:
            self.box.control(vendor, "DELETE", "faults")
        (self.control / "next.json").write_text("[]")
        codes, runs = self.collect()
        self.line(number, at, schedule, meeting.name, codes, runs, started)
        if codes[-1:] == [0]:
            self.loaded.add(schedule.name)
        if meeting.name == "full disk":
            self.without_room.update(run["pid"] for run in runs)
        if not meeting.codes(codes):
            raise Wrong(f"{meeting.name}: the tries of {schedule.name} ended with {codes}")
        if meeting.after:
            meeting.after(schedule)
            if self.scheduler is not None:
                self.until(self.settled, f"what follows {meeting.name} ends")
            codes, runs = self.collect()
            if codes:
                self.line(number, at, schedule, f"… {meeting.name}", codes, runs, started)

    def line(
        self,
        number: int,
        at: datetime,
        schedule: Schedule,
        name: str,
        codes: Codes,
        runs: Sequence[dict[str, Any]],
        started: float,
    ) -> None:
        self.outcomes.update(str(code) for code in codes)
        peak = max((run["peak"] for run in runs), default=0)
        sys.stdout.write(
            f"{number:4} {at:%Y-%m-%d %H:%MZ} {schedule.name:8} {name:40.40} exit {codes} "
            f"{time.monotonic() - started:.1f} s, {peak} MB\n"
        )
        sys.stdout.flush()


@contextlib.contextmanager
def small_disk(home: Path, megabytes: int = 512) -> Iterator[None]:
    """A file system of its own for the home, where this user may make one."""
    home.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={megabytes}m".encode()
    mounted = os.geteuid() == 0 and libc.mount(b"soak", str(home).encode(), b"tmpfs", 0, options) == 0
    try:
        yield
    finally:
        if mounted:
            libc.umount2(str(home).encode(), 2)


@contextlib.contextmanager
def database_of(kind: str) -> Iterator[tuple[Database, Server | None]]:
    if kind == "duckdb":
        yield Database(), None
        return
    # it is stopped without a goodbye, and what it has committed must be there then
    with (
        running_postgres(autovacuum="on", synchronous_commit="on") as server,
        fresh_database(server.url, "soak") as url,
    ):
        yield Database.at(url), server


def play(
    *, nights: int, seed: int, kind: str, every: int, folder: Path, broken: str = "nothing", calm: float = 0.5
) -> Soak:
    """Raises `Wrong`, and keeps the folder, if anything is not as promised."""
    with (
        start_sandbox("--scale", "0.01", "--now", START.isoformat()) as box,
        forks() as forking,
        database_of(kind) as (database, server),
        small_disk(folder / "home"),
    ):
        soak = Soak(seed=seed, folder=folder, box=box, forking=forking, database=database, server=server, broken=broken)
        try:
            soak.year(nights, every=every, calm=calm)
        except BaseException:
            if soak.scheduler is not None:
                sys.stdout.write(soak.scheduler._err.read_text()[-6000:])
                soak.scheduler.send_signal(signal.SIGKILL)
            with contextlib.suppress(OSError):
                shutil.copytree(soak.night.home, folder / "as it was", dirs_exist_ok=True)
            raise
        return soak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--warehouse", choices=("duckdb", "postgres"), default="duckdb")
    parser.add_argument("--every", type=int, default=15, help="nights between two looks at the truth")
    parser.add_argument("--calm", type=float, default=0.5, help="the share of nights that meet no fault")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--broken", choices=PROTECTIONS, default="nothing", help="switch a protection off (broken.py)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="nightload-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"seed {options.seed}, {options.nights} nights, {options.warehouse}, in {folder}\n")
    started = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that whatever was mounted and begun is ended
    try:
        soak = play(
            nights=options.nights,
            seed=options.seed,
            kind=options.warehouse,
            every=options.every,
            folder=folder,
            broken=options.broken,
            calm=options.calm,
        )
    except BaseException as stopped:
        sys.stdout.write(f"\nFAILED with seed {options.seed}; what was there is in {folder}\n")
        if isinstance(stopped, Wrong):
            sys.stdout.write(f"{stopped}\n")
            sys.exit(1)
        raise
    kills = sum(count for code, count in soak.outcomes.items() if code in ("-9", "None"))
    sys.stdout.write(
        f"\n{options.nights} nights, {sum(soak.outcomes.values())} runs by their exit {dict(soak.outcomes)}, "
        f"{kills} killed; {soak.compared} rows compared, 0 lost, 0 doubled; {time.monotonic() - started:.0f} s\n"
        f"met: {dict(soak.met.most_common())}\n"
    )
    for found in soak.figures:
        sys.stdout.write(f"{found}\n")
    if not options.folder:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
