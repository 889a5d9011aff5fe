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
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2

from broken import PROTECTIONS
from conftest import Database, Night
from forked import Forked, Forks, forks
from killed import STEPS
from pipelines import place as places
from pipelines import schedules
from pipelines.ledger import MISSED
from pipelines.schedules import Schedule
from pipelines.warehouse.postgres import RUN_LOCK
from postgres_server import Server, execute, fresh_database, running_postgres
from sandbox_process import SandboxProcess, start_sandbox
from soak_schedule import Clock
from year import PARTS, Part

START = datetime(2026, 3, 25, 12, tzinfo=UTC)
SCHEDULES = """
[nightload]
pauses = ["PAUSES"]

[schedules.boards]
cron = "30 2 * * *"
zone = "Europe/Berlin"
vendors = ["tonalytica"]
retry_after = "1s"

[schedules.figures]
cron = "0 4 * * mon,thu"
zone = "Asia/Shanghai"
vendors = ["thinkingengine", "growingio"]
retry_after = "1s"

[schedules.money]
cron = "15 3 * * tue,fri"
zone = "America/New_York"
vendors = ["tune"]
retry_after = "1s"

[schedules.services]
cron = "45 1 * * wed,sat"
vendors = ["dataworks"]
retry_after = "1s"
"""
PATIENCE = 240.0
"""Seconds of real time in which whatever is due must have come to its end."""
Codes = list[int | None]


class Wrong(AssertionError):
    """What was promised and is not so."""


@dataclass
class Meeting:
    """What one night meets. `codes`: may its tries have ended so?"""

    name: str
    codes: Callable[[Codes], bool]
    next: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    held: Callable[[], AbstractContextManager[Any]] | None = None
    """What is so from before the night until its run has ended."""
    during: Callable[[Schedule], None] | None = None
    after: Callable[[Schedule], None] | None = None


def ends(*last: int) -> Callable[[Codes], bool]:
    return lambda codes: bool(codes) and codes[-1] in last


def green(codes: Codes) -> bool:
    return codes == [0]


class Soak:
    def __init__(
        self,
        *,
        seed: int,
        folder: Path,
        box: SandboxProcess,
        forking: Forks,
        database: Database,
        server: Server | None,
        broken: str,
    ) -> None:
        self.seed, self.dice, self.broken = seed, random.Random(seed), broken
        self.life = random.Random(seed)
        """For what happens at the vendors; each night has dice of its own, so that its fault hangs on nothing else."""
        self.box, self.forking, self.server = box, forking, server
        self.control = folder / "control"
        self.control.mkdir()
        self.night = Night(home=folder / "home", database=database)
        (self.night.home / ".dlt").mkdir(parents=True)
        self.pauses("9h")  # past every deadline: it is the scheduler that tries again, at once
        self.schedules = {each.name: each for each in schedules.read(self.night.home)}
        self.parts: list[Part] = [PARTS[vendor](box) for vendor in PARTS]
        self.clock = Clock(START.timestamp(), time.monotonic())
        self.scheduler: Forked | None = None
        self.down_until: datetime | None = None
        self.down_since = START
        self.seen = 0
        self.met: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.figures: list[dict[str, Any]] = []
        self.codes: dict[int, int | None] = {}
        self.without_room: set[int] = set()
        """Processes whose disk was full, so that the ledger may not say how they ended."""
        self.compared = 0
        self.loaded: set[str] = set()
        """Schedules that had a good night: whoever says at first that there is nothing is believed."""
        self.calm = 0.5
        """The share of nights that meet nothing."""

    def pauses(self, pauses: str) -> None:
        """How long a run waits before it tries a vendor again."""
        (self.night.home / ".dlt" / "config.toml").write_text(SCHEDULES.replace("PAUSES", pauses))

    # -- time ------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now(), UTC)

    def go_to(self, moment: datetime, *, jump: bool = False, vendors: datetime | None = None) -> None:
        """Let the machine's clock show `moment`, and the vendors' the same or `vendors`."""
        ahead = moment.timestamp() - self.clock.now()
        self.clock = self.clock.moved(ahead, jump=jump or ahead < 0)
        self.clock.write(self.control / "clock")
        self.box.control("tune", "POST", "clock", {"now": (vendors or moment).isoformat()})
        if self.scheduler is not None:
            self.scheduler.send_signal(signal.SIGUSR1)

    # -- processes -------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> Forked:
        told = {"SOAK": str(self.control), "SOAK_BROKEN": self.broken, "SOAK_PID": str(os.getpid())}
        environment = self.night.environment(told)
        home = self.night.home
        return self.forking.start(*arguments, environment=environment, cwd=home, main="soak_schedule:main")

    def start_scheduler(self) -> None:
        self.scheduler = self.command("schedule", "--home", str(self.night.home))
        self.until(lambda: self.marks() is not None or self.scheduler.poll() is not None, "the scheduler starts")  # type: ignore[union-attr]

    def stop_scheduler(self, number: int = signal.SIGTERM) -> None:
        if self.scheduler is None:
            return
        self.scheduler.send_signal(number)
        code = self.scheduler.wait(PATIENCE)
        self.scheduler = None
        if number == signal.SIGTERM and code != 0:
            raise Wrong(f"the scheduler ended with {code}")

    def marks(self) -> dict[str, Any] | None:
        try:
            marks: dict[str, Any] = json.loads((self.night.state / "schedule.json").read_text())
        except FileNotFoundError:
            return None
        return marks

    def settled(self) -> bool:
        """Is all that was due run or missed?"""
        marks, now = self.marks(), self.now()
        if marks is None or self.scheduler is None or self.scheduler.poll() is not None:
            return False
        return all(
            mark["done"] and self.schedules[name].next_fire(datetime.fromisoformat(mark["due_at"])) > now
            for name, mark in marks.items()
        )

    def over(self) -> bool:
        """Is all settled, or has a run ended while that could not be written down?"""
        return self.settled() or (len(self.told()) > self.seen and self.running() is None)

    def until(self, holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise Wrong(f"it did not come to pass in {seconds:.0f} s: {what}")
            time.sleep(0.02)

    def told(self) -> list[dict[str, Any]]:
        """What the scheduler's runs said, all of them."""
        file = self.control / "runs.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def running(self) -> int | None:
        """The process that was begun last, unless it has ended."""
        told = self.told()
        if len(told) <= self.seen or "code" in told[-1]:
            return None
        return int(told[-1]["pid"])

    def collect(self) -> tuple[Codes, list[dict[str, Any]]]:
        """How the runs since the last look have ended, in the order in which they began."""
        told = self.told()
        fresh, self.seen = told[self.seen :], len(told)
        begun = [each["pid"] for each in fresh if "begun" in each]
        codes: dict[int, int | None] = dict.fromkeys(begun)
        codes |= {each["pid"]: each["code"] for each in fresh if "code" in each}
        self.codes |= codes
        return list(codes.values()), [each for each in fresh if "code" in each]

    # -- what a night meets ----------------------------------------------------------------------------

    def draw(self, schedule: Schedule) -> Meeting:
        dice = self.dice
        if dice.random() < self.calm:
            return Meeting("nothing", green)
        chosen = dice.choice(
            [self._kill, self._vendor, self._passing, self._warehouse, self._machine, self._scheduling]
        )
        return chosen(schedule)

    def _kill(self, schedule: Schedule) -> Meeting:
        dice = self.dice
        step = dice.choice(list(STEPS.get(self.night.database.kind, {}) | STEPS["both"]))
        point = (STEPS["both"] | STEPS[self.night.database.kind])[step]
        look = self._looked_at(lambda pid: None)
        match dice.choice(["step", "step", "instant", "instant", "twice", "sigterm"]):
            case "step":
                return Meeting(
                    f"kill: {step}", lambda codes: codes in ([-9, 0], [0]), next=[{"arm": point}], during=look
                )
            case "twice":
                both = [{"arm": ("pipelines.passes:_count", "before", 1, "")}] * 2
                return Meeting("kill: both tries", lambda codes: codes in ([-9, -9], [0]), next=both, during=look)
            case "sigterm":
                during = self._signals(signal.SIGTERM)
                return Meeting("SIGTERM", lambda codes: codes in ([130, 0], [0], [-15, 0]), during=during)
        during = self._signals(signal.SIGKILL)
        return Meeting("kill: at random", lambda codes: codes in ([-9, 0], [0]), during=during)

    def _looked_at(self, act: Callable[[int], None]) -> Callable[[Schedule], None]:
        """Meet the run and, before it is tried again, look at what it left: a night is shown proven or not at all."""

        def during(schedule: Schedule) -> None:
            self.until(lambda: self.running() is not None or self.settled(), "a run begins")
            if self.scheduler is None or (pid := self.running()) is None:
                return
            self.scheduler.send_signal(signal.SIGSTOP)
            try:
                act(pid)
                self.until(lambda: _is_dead(pid), "the run ends")
                self.nothing_unproven()
            finally:
                self.scheduler.send_signal(signal.SIGCONT)

        return during

    def _signals(self, number: int) -> Callable[[Schedule], None]:
        wait = self.dice.uniform(0, 3)

        def act(pid: int) -> None:
            end = time.monotonic() + wait
            while time.monotonic() < end and not _is_dead(pid):
                time.sleep(0.02)
            os.kill(pid, number)  # which a process that has ended and is not waited for does not mind

        return self._looked_at(act)

    def _vendor(self, schedule: Schedule) -> Meeting:
        dice = self.dice
        name, codes, do, times = dice.choice(
            [
                ("429, a few", ends(0), {"status": 429, "headers": {"Retry-After": "0"}}, 3),
                ("503, a few", ends(0), {"status": 503, "headers": {"Retry-After": "0"}}, 3),
                ("429, all night", ends(1), {"status": 429, "headers": {"Retry-After": "0"}}, -1),
                ("500, all night", ends(1), {"status": 500}, -1),
                ("429, for an hour", ends(1), {"status": 429, "headers": {"Retry-After": "3600"}}, -1),
                ("cut bodies", ends(0), {"cut": 20}, 2),
                ("all bodies cut", ends(1), {"cut": 20}, -1),
                ("dropped connections", ends(0), {"drop": True}, 2),
                ("cut gzip", ends(0), {"truncated_gzip": True}, 2),
                ("a sign-in page", ends(1), {"html": True}, -1),
                ("wrong counts", ends(0, 1, 4), {"count": dice.choice([-2, 3])}, -1),
                ("empty answers", ends(0, 1, 4), {"empty": True}, -1),
            ][: None if schedule.name in self.loaded else -1]
        )
        skip = dice.choice([0, 0, 3, 11])
        if skip and codes([1]):
            codes = ends(0, 1, 4)  # it may come after the last request
        return Meeting(f"vendor: {name}", codes, rules=[{"match": {}, "skip": skip, "times": times, "do": do}])

    def _passing(self, schedule: Schedule) -> Meeting:
        """A vendor that fails until it is tried a second time."""
        name, do = self.dice.choice(
            [
                ("429", {"status": 429, "headers": {"Retry-After": "0"}}),
                ("500", {"status": 500}),
                ("503", {"status": 503, "headers": {"Retry-After": "0"}}),
                ("dropped connections", {"drop": True}),
            ]
        )

        def during(schedule: Schedule) -> None:
            self.until(lambda: len(self.tries()) == len(schedule.vendors) or self.settled(), "all vendors are tried")
            for vendor in schedule.vendors:
                self.box.control(vendor, "DELETE", "faults")

        def after(schedule: Schedule) -> None:
            for vendor, tries in self.tries().items():
                if tries[:1] != ["failed"] or len(tries) < 2 or "failed" in tries[-1:]:
                    raise Wrong(f"{name}, until the second try: the tries of {vendor} ended with {tries}")

        return Meeting(
            f"until the second try: {name}",
            green,
            rules=[{"match": {}, "times": -1, "do": do}],
            held=self.short_pauses,
            during=during,
            after=after,
        )

    def _warehouse(self, schedule: Schedule) -> Meeting:
        """What others do to the database."""
        dice = self.dice
        if self.night.database.url is None:
            if schedule.name not in self.loaded:
                return Meeting("nothing", green)
            return Meeting("an analyst reads", green, held=self.analyst)
        match dice.choice(["reads", "lock", "restart"] if schedule.name in self.loaded else ["lock", "restart"]):
            case "reads":
                return Meeting("an analyst reads", ends(0, 1), held=self.analyst, after=self._waited_for_the_analyst)
            case "lock":
                codes = lambda codes: codes[:1] == [3] and codes[-1] == 0  # noqa: E731
                return Meeting("the database's lock", codes, held=self.database_lock_held, during=self._stuck())
        return Meeting("the database restarts", ends(0, 1), held=self.short_pauses, during=self._restarts())

    def _waited_for_the_analyst(self, schedule: Schedule) -> None:
        """A night that must change a table's columns waits for who reads it, and not for ever."""
        told = self.ledger("SELECT error FROM run_vendors WHERE run_id = (SELECT max(run_id) FROM runs)")
        if strange := [error for (error,) in told if error and "stayed locked" not in error]:
            raise Wrong(f"beside an analyst who reads, the night failed: {strange}")

    def _restarts(self) -> Callable[[Schedule], None]:
        wait, down = self.dice.uniform(0, 3), self.dice.choice([0, 0, 1])

        def during(schedule: Schedule) -> None:
            self.until(lambda: self.running() is not None or self.settled(), "a run begins")
            time.sleep(wait)
            assert self.server is not None
            self.server.restart(down=down)

        return during

    def _machine(self, schedule: Schedule) -> Meeting:
        dice = self.dice
        match dice.choice(["disk", "lock", "lock until the deadline", "forward", "back", "slept"]):
            case "disk":
                room = dice.choice([0, 40_000, 400_000, 3_000_000])
                return Meeting("full disk", ends(0, 1), held=lambda: self.full_disk(room))
            case "lock":
                codes = lambda codes: codes[:1] == [3] and codes[-1] == 0  # noqa: E731
                return Meeting("stuck lock", codes, held=self.lock_held, during=self._stuck())
            case "lock until the deadline":
                during = self._stuck(over=True)
                return Meeting(
                    "lock until the deadline", lambda codes: codes[:1] == [3], held=self.lock_held, during=during
                )
            case "forward":
                return Meeting("clock a day ahead", lambda codes: len(codes) > 0, after=self._ahead)
            case "back":
                return Meeting("clock an hour back", green, after=self._back)
        return Meeting("slept for hours", lambda codes: codes[-1:] == [0], after=self._slept)

    def _stuck(self, *, over: bool = False) -> Callable[[Schedule], None]:
        def during(schedule: Schedule) -> None:
            def refused() -> bool:
                return any(each.get("code") == 3 for each in self.told()[self.seen :])

            self.until(lambda: refused() or self.settled(), "a run is refused")
            if over:
                self.go_to(self.now() + schedule.deadline + timedelta(minutes=1))
                marks = self.marks
                self.until(lambda: bool((marks() or {})[schedule.name]["done"]), "the night is given up")

        return during

    def _ahead(self, schedule: Schedule) -> None:
        """For some time the clock is a day ahead; what falls due there is run, and the vendors are where they were."""
        there = self.now()
        self.go_to(there + timedelta(days=1), jump=True, vendors=there)
        self.until(self.settled, "all that is due is run")
        self.go_to(there + timedelta(minutes=1), jump=True)
        self.until(self.settled, "all that is due is run")

    def _back(self, schedule: Schedule) -> None:
        there = self.now()
        self.go_to(there - timedelta(hours=1), jump=True, vendors=there)
        time.sleep(0.3)  # in which a night would begin again
        self.until(self.settled, "all that is due is run")
        self.go_to(there + timedelta(minutes=1), jump=True)

    def _slept(self, schedule: Schedule) -> None:
        self.go_to(self.now() + timedelta(hours=self.dice.choice([3, 20])), jump=True)

    def _scheduling(self, schedule: Schedule) -> Meeting:
        dice = self.dice
        match dice.choice(["two schedulers", "two runs", "killed", "down"]):
            case "two schedulers":
                return Meeting("two schedulers", green, during=self._another_scheduler)
            case "two runs":
                return Meeting("two runs", lambda codes: codes[-1:] == [0], during=self._another_run)
            case "killed":
                return Meeting("scheduler killed", lambda codes: True, during=self._kill_scheduler)
        return Meeting("scheduler down", lambda codes: True, after=self._down)

    def _another_scheduler(self, schedule: Schedule) -> None:
        code = self.command("schedule", "--home", str(self.night.home)).wait(PATIENCE)
        if code != 3:
            raise Wrong(f"a second scheduler ended with {code}, not 3")

    def _another_run(self, schedule: Schedule) -> None:
        other = self.command("run", *schedule.vendors, "--json")
        code = other.wait(PATIENCE)
        self.codes[other.pid] = code
        if code not in (0, 3):
            raise Wrong(f"a run beside the other ended with {code}: {other.communicate()}")

    def _kill_scheduler(self, schedule: Schedule) -> None:
        self.until(lambda: self.running() is not None or self.settled(), "a run begins")
        time.sleep(self.dice.uniform(0, 2))
        pid = self.running()
        self.stop_scheduler(signal.SIGKILL)
        if pid is not None and self.dice.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(self.dice.uniform(0, 1))
        self.start_scheduler()

    def _down(self, schedule: Schedule) -> None:
        self.stop_scheduler()
        self.down_since = self.now()
        self.down_until = self.down_since + timedelta(days=self.dice.choice([1, 2, 3]))

    # -- nights ----------------------------------------------------------------------------------------

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
    def full_disk(self, room: int) -> Iterator[None]:
        """Where the home is a file system of its own, fill it; else no file may grow beyond `room`."""
        home = self.night.home
        if not os.path.ismount(home):
            (self.control / "next.json").write_text(json.dumps([{"files": max(room, 1000)}] * 2))
            yield
            return
        ballast = home / "ballast"
        free = os.statvfs(home).f_bavail * os.statvfs(home).f_frsize
        with ballast.open("wb") as out, contextlib.suppress(OSError):
            os.posix_fallocate(out.fileno(), 0, max(1, free - room))
        try:
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def lock_held(self) -> Iterator[None]:
        """Somebody has the warehouse's lock and does not give it back."""
        from filelock import FileLock

        lock = FileLock(self.night.state / "lock")
        lock.acquire(timeout=PATIENCE)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def database_lock_held(self) -> Iterator[None]:
        """Somebody on another machine has the warehouse's lock in the database."""
        with contextlib.closing(psycopg2.connect(self.night.database.url)) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (RUN_LOCK,))
            yield

    @contextlib.contextmanager
    def short_pauses(self) -> Iterator[None]:
        """A run that begins now tries a vendor again soon."""
        self.pauses("1s")
        try:
            yield
        finally:
            self.pauses("9h")

    @contextlib.contextmanager
    def analyst(self) -> Iterator[None]:
        """Somebody reads from before the night until after."""
        warehouse = self.night.database.url or str(self.night.warehouse)
        reader = self.forking.start(
            warehouse, environment=self.night.environment(), cwd=self.control, main="soak_reader:main"
        )
        self.until(lambda: bool(reader.told_so_far) or reader.poll() is not None, "an analyst has read")
        try:
            yield
        finally:
            reader.send_signal(signal.SIGTERM)
            out, err = reader.communicate(PATIENCE)
        if reader.returncode != 0:
            raise Wrong(f"what an analyst reads while a night runs: {out[-300:]} {err[-2000:]}")

    # -- what must be so -------------------------------------------------------------------------------

    def check(self, number: int) -> None:
        """All vendors are loaded by hand without any fault; then all that is promised must be so."""
        started = time.monotonic()
        by_hand = self.command("run", "--json")
        out, err = by_hand.communicate(PATIENCE)
        self.codes[by_hand.pid] = by_hand.returncode
        if by_hand.returncode != 0:
            raise Wrong(f"a night without any fault ended with {by_hand.returncode}: {out[-2000:]} {err[-1000:]}")
        rows = 0
        for part in self.parts:
            try:
                part.rows_there = part.check(self.night, self.now())
                rows += part.rows_there
            except Exception as wrong:
                raise Wrong(f"{part.name} is not as its truth: {str(wrong)[:3000] or 'see the check'}") from wrong
        self.compared += rows
        self.ledger_is_true()
        self.nothing_is_left()
        sys.stdout.write(f"{number:4} all true: {rows} rows, {time.monotonic() - started:.1f} s\n")
        sys.stdout.flush()

    def ledger(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What the ledger's file says now."""
        place = places.at(self.night.database.url or places.DEFAULT, self.night.home)
        with contextlib.closing(sqlite3.connect(f"file:{place.ledger}?mode=ro", uri=True)) as ledger:
            return ledger.execute(sql, parameters).fetchall()

    def tries(self) -> dict[str, list[str]]:
        """Vendor → how its tries ended in the run that began last."""
        found: dict[str, list[str]] = {}
        newest = "SELECT max(run_id) FROM runs WHERE status <> 'missed' AND started_at > ?"
        begun = datetime.fromtimestamp(self.clock.wall, UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(sqlite3.OperationalError):  # the first run of all makes the ledger
            for vendor, status in self.ledger(
                f"SELECT vendor, status FROM run_tries WHERE run_id = ({newest}) ORDER BY attempt", begun
            ):
                found.setdefault(vendor, []).append(status)
        return found

    def ledger_is_true(self) -> None:
        night, place = self.night, places.at(self.night.database.url or places.DEFAULT, self.night.home)
        with contextlib.closing(sqlite3.connect(place.ledger)) as ledger:
            ledger.row_factory = sqlite3.Row
            runs = [dict(row) for row in ledger.execute("SELECT * FROM runs ORDER BY run_id")]
            tables = [dict(row) for row in ledger.execute("SELECT * FROM run_tables")]
        last = max(run["started_at"] for run in runs if run["status"] == "ok")
        shown = night.rows("SELECT run_id, status FROM nightload.runs")
        told = {run["run_id"]: run["status"] for run in runs if run["started_at"] <= last}
        self.same({row[0]: row[1] for row in shown} | told, {**told, **dict(shown)}, "the ledger in the warehouse")
        if missing := set(told) - {row[0] for row in shown}:
            raise Wrong(f"the warehouse does not show the runs {sorted(missing)[:5]}")
        if open_ones := [run["run_id"] for run in runs if run["finished_at"] is None]:
            raise Wrong(f"runs are open: {open_ones}")
        self.same(len(runs), len({run["run_id"] for run in runs}), "runs that are there once")
        for run in runs:
            if run["status"] == MISSED:
                continue
            code = self.codes.get(run["pid"], -1)
            expected = {
                0: {"ok"}, **{each: {"failed"} for each in (1, 2, 3, 130)}, 4: {"mismatch"}, -15: {"failed", "crashed"},
                -9: {"crashed", "ok", "failed", "mismatch"}, None: {"ok", "crashed", "failed", "mismatch"},
            }.get(code, set())  # fmt: skip
            if run["pid"] in self.without_room:
                expected = expected | {"crashed"}  # for want of room, its end could not be written down
            if run["status"] not in expected:
                raise Wrong(f"run {run['run_id']} ended with {code}, and the ledger says {run['status']}")
        self.every_night_is_told(runs)
        good = {row["load_id"] for row in tables if row["load_id"]}
        for dataset, table in night.rows(
            "SELECT schema_name, table_name FROM duckdb_columns() WHERE column_name = '_dlt_load_id' "
            "AND schema_name NOT LIKE '%\\_staging' ESCAPE '\\' AND table_name NOT LIKE '\\_dlt%' ESCAPE '\\'"
        ):
            strange = {
                load for (load,) in night.rows(f'SELECT DISTINCT _dlt_load_id FROM "{dataset}"."{table}"')
            } - good
            if strange:
                raise Wrong(f"{dataset}.{table} has rows of loads that the ledger does not know: {sorted(strange)[:5]}")
        for (dataset,) in night.rows("SELECT schema_name FROM duckdb_tables() WHERE table_name = '_dlt_loads'"):
            twice = night.rows(f'SELECT load_id FROM "{dataset}"._dlt_loads GROUP BY 1 HAVING count(*) > 1')
            self.same(twice, [], f"loads of {dataset} that are there twice")

    def nothing_unproven(self) -> None:
        """Every row that is shown is of a load that the ledger beside it tells of: both came at once, or neither."""
        if not self.night.is_loaded():
            return
        tables = self.night.look(
            "SELECT table_schema, table_name FROM information_schema.columns WHERE column_name = '_dlt_load_id' "
            "AND table_schema NOT LIKE '%\\_staging' ESCAPE '\\' AND table_name NOT LIKE '\\_dlt%' ESCAPE '\\'"
        )
        loads = " UNION ".join(f'SELECT _dlt_load_id FROM "{dataset}"."{table}"' for dataset, table in sorted(tables))
        if loads and (strange := self.night.look(f"({loads}) EXCEPT SELECT load_id FROM nightload.run_tables")):
            raise Wrong(f"the warehouse shows rows of loads that nobody has proven: {strange[:5]}")

    def every_night_is_told(self, runs: Sequence[dict[str, Any]]) -> None:
        # while no scheduler is there, the nights are owed: the next one tells them
        end = self.now() if self.down_until is None else self.down_since
        for schedule in self.schedules.values():
            vendors = json.dumps(list(schedule.vendors))
            own = [run for run in runs if run["vendors"] == vendors]
            missed = {datetime.fromisoformat(run["started_at"]) for run in own if run["status"] == MISSED}
            began = [datetime.fromisoformat(run["started_at"]) for run in own if run["status"] != MISSED]
            for due in schedule.fires(START, end):
                following = schedule.next_fire(due)
                if due not in missed and not any(due <= each < following for each in began):
                    raise Wrong(f"the ledger says nothing of {schedule.name}, due {due}")

    def nothing_is_left(self) -> None:
        usual = {".dlt/config.toml", *(f"data/{self.night.state.name}/schedule.{kind}" for kind in ("json", "lock"))}
        usual |= {f"data/{self.night.state.name}/{name}" for name in ("alerts.lock",)}
        if left := self.night.files() - usual:
            raise Wrong(f"files are left: {sorted(left)[:10]}")
        if left := {path.name for path in self.night.state.iterdir() if path.is_dir()}:
            raise Wrong(f"folders are left: {sorted(left)}")

    def same(self, found: object, expected: object, what: str) -> None:
        if found != expected:
            raise Wrong(f"{what}: {found!r:.500}, not {expected!r:.500}")

    def measure(self, number: int) -> None:
        pid = self.scheduler.pid if self.scheduler else 0
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            peaks = [each["peak"] for each in self.told()[-10:] if "peak" in each]
            url = self.night.database.url
            found = {
                "night": number,
                "rows": sum(part.rows_there for part in self.parts),
                "warehouse MB": _megabytes(
                    execute(url, "SELECT pg_database_size(current_database())")[0][0]
                    if url
                    else self.night.warehouse.stat().st_size
                ),
                "ledger MB": _megabytes((self.night.state / "ledger.sqlite").stat().st_size),
                "home MB": _megabytes(
                    sum(path.stat().st_size for path in self.night.home.rglob("*") if path.is_file())
                ),
                "scheduler MB": int(status.partition("VmRSS:")[2].split()[0]) // 1024,
                "scheduler's files": len(os.listdir(f"/proc/{pid}/fd")),
                "a night's MB": max(peaks, default=0),
                "files": len(self.night.files()),
            }
            self.figures.append(found)
            sys.stdout.write(f"     {found}\n")


def _is_dead(pid: int) -> bool:
    """Has it ended, whether or not its parent knows?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _megabytes(size: float) -> float:
    return round(size / 2**20, 2)


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
