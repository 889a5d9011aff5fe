"""A scheduler whose clock a soak sets, and whose nights are forks of it that meet what the soak has in store for them.

`SOAK_PID` is the soak, with which all of it ends. In the folder `SOAK`: `clock` says what time it is (see `Clock`) and
is read again at SIGUSR1; `next.json` is a list of what the next runs meet, {"arm": where it kills itself, "files": how
large one of its files may grow}; `runs.jsonl` gets a line when a run begins and one when it has ended.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import time_machine
from dlt.common import time as dlt_time

import forked
from broken import PROTECTIONS
from pipelines.cli import main as cli
from pipelines.scheduling import scheduler
from pipelines.scheduling.run_history import COMMAND
from pipelines.scheduling.state import Clock as Clocks
from sources.http import retry


@dataclass(frozen=True)
class Clock:
    """It was `wall` (seconds since 1970) when the machine's monotonic clock showed `read`.

    `passed` is what the soak adds to the monotonic clock.
    """

    wall: float
    read: float
    passed: float = 0.0

    @classmethod
    def of(cls, file: Path) -> Clock:
        return cls(**json.loads(file.read_text()))

    def write(self, file: Path) -> None:
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(self)))
        new.replace(file)

    def now(self) -> float:
        return self.wall + time.monotonic() - self.read

    def moved(self, seconds: float, *, jump: bool = False) -> Clock:
        """Time that passes, which both clocks show; or a jump, of which the monotonic one knows nothing."""
        return Clock(self.now() + seconds, time.monotonic(), self.passed + (0 if jump else seconds))


class Child:
    """In the place of a Popen of `nightload run …`."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, **_: Any) -> None:
        self._folder = Path(env["SOAK"])
        self.arguments = list(command[len(COMMAND) :])
        waiting = self._folder / "next.json"
        meets: list[dict[str, Any]] = json.loads(waiting.read_text()) if waiting.exists() else []
        meeting = meets.pop(0) if meets else {}
        waiting.write_text(json.dumps(meets))
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._run(meeting, cwd)
        self._tell(begun=datetime.now(UTC).isoformat(), arguments=self.arguments)

    def _run(self, meeting: Mapping[str, Any], cwd: Path) -> None:
        code: Any = 70
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            end_with(int(os.environ["SOAK_PID"]))
            os.chdir(cwd)
            sys.argv = ["nightload", *self.arguments, "--json"]
            forked.named(sys.argv)
            if "files" in meeting:
                resource.setrlimit(resource.RLIMIT_FSIZE, (meeting["files"], meeting["files"]))
            if "arm" in meeting:
                from killed import arm

                arm(*meeting["arm"])
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code if isinstance(code, int) else 1)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                cpu = round(usage.ru_utime + usage.ru_stime, 2)
                self._tell(code=self.returncode, peak=usage.ru_maxrss // 1024, cpu=cpu)
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _tell(self, **told: Any) -> None:
        with (self._folder / "runs.jsonl").open("a") as out:
            out.write(json.dumps({"pid": self.pid, **told}) + "\n")


class Forking:
    """What the scheduler asks of `subprocess`."""

    DEVNULL, PIPE, Popen, run = subprocess.DEVNULL, subprocess.PIPE, Child, subprocess.run


_travels: list[time_machine.Coordinates] = []


def set_clock(folder: Path) -> Clock:
    """Let this process, and those that it forks, see the soak's time."""
    clock = Clock.of(folder / "clock")
    moment = datetime.fromtimestamp(clock.now(), UTC)
    if _travels:
        _travels[0].move_to(moment, tick=True)
    else:
        _travels.append(time_machine.travel(moment, tick=True).start())
    dlt_time.increasing_precise_time._last = 0.0  # it never goes back, and has seen what time it really is
    return clock


def end_with(pid: int) -> None:
    """Let this process be killed when that one has ended: a soak that is killed leaves nothing that runs."""
    watched = os.pidfd_open(pid)

    def watch() -> None:
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """`nightload schedule`, or any other command at the time that the clock shows."""
    end_with(int(os.environ["SOAK_PID"]))
    folder = Path(os.environ["SOAK"])
    clock = set_clock(folder)
    retry._BACKOFF_BASE = 0.01
    PROTECTIONS[os.environ.get("SOAK_BROKEN", "nothing")]()
    if sys.argv[1:2] == ["schedule"]:

        def read_again(*_: Any) -> None:
            nonlocal clock
            clock = set_clock(folder)
            # a queue that waits for less time than a signal takes waits for ever, unless something comes into it
            os.kill(os.getpid(), signal.SIGCHLD)

        signal.signal(signal.SIGUSR1, read_again)
        scheduler.subprocess = Forking
        scheduler.LOOK = 0.05
        monotonic = Clocks(monotonic=lambda: time.monotonic() + clock.passed)
        served = scheduler.serve
        scheduler.serve = lambda place, found, environment: served(place, found, clock=monotonic)
    cli.main()
