"""What a night of a soak may meet, drawn from its dice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2

from killed import STEPS
from pipelines.config.schedules import Schedule
from pipelines.warehouse.postgres.warehouse import RUN_LOCK
from soak_clockwork import PATIENCE, Codes, Wrong
from soak_truth import Truth


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


class Meetings(Truth):
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
                both = [{"arm": ("pipelines.run.load:_count", "before", 1, "")}] * 2
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


def _is_dead(pid: int) -> bool:
    """Has it ended, whether or not its parent knows?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
