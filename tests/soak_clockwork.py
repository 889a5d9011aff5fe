"""The clockwork of a soak: its clock, the scheduler that lives by it, and what its runs come to."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conftest import Database, Night
from forked import Forked, Forks
from pipelines.config import schedules
from postgres_server import Server
from sandbox_process import SandboxProcess
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


class Clockwork:
    """A home with a scheduler whose clock is set, and five vendors."""

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
