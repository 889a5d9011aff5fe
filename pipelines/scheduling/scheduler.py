"""`nightload schedule`: waits, and starts `nightload run` as a child when a night is due.

APScheduler wakes this process; what is due it asks the rota, so that no jump of the clock loses or doubles a night.
One child at a time: they share the warehouse's lock, and a run that waits takes in the ones that fall due meanwhile.
A child does not die with its scheduler: the next scheduler waits for it, and anybody's run on another machine or by
hand is known by the warehouse's lock and tried again after.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from filelock import FileLock, Timeout

from pipelines.config.exit_codes import FAILED, LOCKED
from pipelines.config.permissions import state_folder
from pipelines.config.project import Place
from pipelines.config.schedules import Schedule
from pipelines.scheduling.run_history import COMMAND, Nights, told
from pipelines.scheduling.state import Clock, Due, Rota
from sources.core.errors import ConfigurationError, Locked, NoRoom, no_room
from sources.core.redaction import install

log = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds between two looks at the clock: it may have been set, or the machine may have slept."""
JUMP = 60.0
"""A clock that is set by less is no jump."""
KILL_AFTER = 120.0
"""Seconds between SIGTERM and SIGKILL."""
CRASHES = 2
"""So many times one night is begun, if its run crashes."""
MEANING = ("all green", "something failed", "its configuration is wrong", "", "counts did not agree")


class Fires:
    """A schedule, as APScheduler asks for it."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        return self._schedule.next_fire(previous or now)


BaseTrigger.register(Fires)


@dataclass(kw_only=True)
class _Try:
    """A night that waits for its run, or has it."""

    due: Due
    not_before: float = 0.0
    ends: float | None = None
    """The deadline, from the first try on."""
    crashes: int = 0
    stopped: str | None = None
    """Why it was told to end."""
    kill_at: float | None = None


def serve(
    place: Place,
    schedules: Sequence[Schedule],
    *,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = COMMAND,
    clock: Clock | None = None,
) -> None:
    """Run the schedules until SIGTERM or SIGINT.

    Raises `Locked` if another scheduler serves this warehouse, `ConfigurationError` if there is nothing to do.
    """
    if not schedules:
        raise ConfigurationError(
            what="no schedule is set",
            where=str(place.home / ".dlt" / "config.toml"),
            todo='Write one: [schedules.nightly] with cron = "30 2 * * *"',
        )
    with _only_one(place):
        _Scheduler(place, schedules, {**os.environ, **(environment or {})}, command, clock or Clock()).serve()


@contextmanager
def _only_one(place: Place) -> Iterator[None]:
    try:
        state_folder(place.state)
        held = FileLock(place.state / "schedule.lock")
        held.acquire(timeout=0)
    except Timeout:
        raise Locked(
            what="another scheduler serves this warehouse", where=place.shown, todo="End that one first"
        ) from None
    except OSError as error:
        raise (NoRoom if no_room(error) else ConfigurationError)(
            what=f"the folder {place.state} cannot be written",
            why=error.strerror or "",
            todo="Give the warehouse a folder that this user may write, with --warehouse or NIGHTLOAD_WAREHOUSE",
        ) from None
    try:
        yield
    finally:
        held.release()


class _Scheduler:
    def __init__(
        self,
        place: Place,
        schedules: Sequence[Schedule],
        environment: Mapping[str, str],
        command: Sequence[str],
        clock: Clock,
    ) -> None:
        self._place = place
        self._schedules = {schedule.name: schedule for schedule in schedules}
        self._environment = environment
        self._command = command
        self._clock = clock
        self._nights = Nights(place, environment)
        self._rota = Rota(schedules, place.state / "schedule.json", clock, self._nights)
        # a signal handler may put into it while this thread takes from it, which no other queue allows
        self._events: SimpleQueue[None] = SimpleQueue()
        self._waiting: dict[str, _Try] = {}
        self._running: tuple[_Try, subprocess.Popen[bytes], float] | None = None
        self._left: dict[int, tuple[float, signal.Signals]] = {}
        self._signals = 0
        self._ahead = self._difference()

    def serve(self) -> None:
        handlers = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGTERM, self._on_signal),
                (signal.SIGINT, self._on_signal),
                (signal.SIGCHLD, lambda *_: self._events.put(None)),
            )
        }
        try:
            for due in self._rota.start():
                log.info("schedule %s: catching up what was due %s", due.schedule.name, told(due.at, due.schedule))
                self._wait_for(due)
            timer = self._timer()
            try:
                self._loop(timer)
            finally:
                timer.shutdown(wait=False)
        finally:
            for number, former in handlers.items():
                signal.signal(number, former)

    def _timer(self) -> Any:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        timer = BackgroundScheduler(executors={"default": DebugExecutor()}, timezone="UTC", daemon=True)
        for name, schedule in self._schedules.items():
            timer.add_job(
                self._fire,
                Fires(schedule),
                id=name,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
            )
            following = schedule.next_fire(self._clock.now())
            log.info("schedule %s: next %s", name, told(following, schedule))
        timer.start()
        return timer

    def _fire(self) -> None:
        self._events.put(None)

    def _on_signal(self, *_: Any) -> None:
        self._signals += 1
        self._events.put(None)

    def _loop(self, timer: Any) -> None:
        while not (self._signals and self._running is None):
            with suppress(Empty):
                self._events.get(timeout=self._pause())
            self._look_at_the_clock(timer)
            timer.wakeup()  # it sleeps on a clock that neither a jump nor a sleeping machine moves
            for name in self._schedules:  # whoever woke us: a clock that jumps between two looks deceives the timer
                if due := self._rota.take(name):
                    self._wait_for(due)
            self._mind_child()
            if self._running is None and not self._signals:
                self._begin_next()
        for waiting in self._waiting.values():
            log.info("schedule %s: left for the next start", waiting.due.schedule.name)
        log.info("ended")

    def _pause(self) -> float:
        moments = [waiting.not_before for waiting in self._waiting.values()] if self._running is None else []
        if self._running is not None:
            attempt = self._running[0]
            moments = [moment for moment in (attempt.ends, attempt.kill_at) if moment is not None]
        return max(0.0, min([LOOK, *(moment - self._clock.monotonic() for moment in moments)]))

    def _look_at_the_clock(self, timer: Any) -> None:
        ahead, self._ahead = self._ahead, self._difference()
        moved = self._ahead - ahead
        if abs(moved) < JUMP:
            return
        log.warning("the clock went %s by %s", "on" if moved > 0 else "back", timedelta(seconds=round(abs(moved))))
        if moved < 0:
            self._rota.clock_went_back()
            for name, schedule in self._schedules.items():
                timer.reschedule_job(name, trigger=Fires(schedule))

    def _difference(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    # -- runs ------------------------------------------------------------------------------------------

    def _wait_for(self, due: Due) -> None:
        """Queue a night, in the place of one that waits already."""
        self._waiting[due.schedule.name] = _Try(due=due)

    def _begin_next(self) -> None:
        now = self._clock.monotonic()
        ready = [each for each in self._waiting.values() if each.not_before <= now]
        if not ready:
            return
        attempt = ready[0]
        due, name = attempt.due, attempt.due.schedule.name
        if due.left is not None and _is_run_of(due.left, self._place.home):
            if not attempt.not_before:
                log.info("schedule %s: the run that the last scheduler left goes on (process %s)", name, due.left)
            self._mind_left(due.left, due.schedule)
            attempt.not_before = now + LOOK
            return
        del self._waiting[name]
        if due.left is not None and self._nights.ended(due.left, due.at):
            log.info("schedule %s: the run that the last scheduler left has come to its end", name)
            self._rota.note(due, done=True)
            return
        if attempt.ends is None:
            attempt.ends = now + due.schedule.deadline.total_seconds()
        arguments = [*due.schedule.arguments(), *self._until(attempt.ends - now), "--home", str(self._place.home)]
        try:
            # a session of its own: Ctrl-C in a terminal must not reach it before we say so
            child = subprocess.Popen(  # noqa: S603
                [*self._command, *arguments],
                env=dict(self._environment),
                cwd=self._place.home,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            log.error("schedule %s: its run cannot be started: %s", name, error)
            self._again(attempt, None, "its run could not be started")
            return
        log.info("schedule %s: begun (process %s), due %s", name, child.pid, told(due.at, due.schedule))
        self._running = attempt, child, now
        self._rota.note(due, done=False, pid=due.left or child.pid)

    def _until(self, left: float) -> list[str]:
        """So long the run may try again what passes by itself: it has the warehouse, which the next one will want."""
        now = self._clock.now()
        following = min(schedule.next_fire(now) for schedule in self._schedules.values())
        seconds = int(min(left, (following - now).total_seconds()))
        return ["--until", f"{seconds}s"] if seconds > 0 else []

    def _mind_left(self, pid: int, schedule: Schedule) -> None:
        """End a run that a former scheduler left when its deadline is over, counted from when it was met here."""
        now = self._clock.monotonic()
        ends, number = self._left.setdefault(pid, (now + schedule.deadline.total_seconds(), signal.SIGTERM))
        if now < ends:
            return
        log.error("schedule %s: process %s was left and is beyond its deadline: %s", schedule.name, pid, number.name)
        self._left[pid] = now + KILL_AFTER, signal.SIGKILL
        with suppress(OSError):
            with_all_of_it = number == signal.SIGKILL and os.getpgid(pid) == pid
            (os.killpg if with_all_of_it else os.kill)(pid, number)

    def _mind_child(self) -> None:
        if self._running is None:
            return
        attempt, child, began = self._running
        if (code := child.poll()) is not None:
            self._running = None
            self._ended(attempt, code, pid=child.pid, seconds=self._clock.monotonic() - began)
            return
        now, schedule = self._clock.monotonic(), attempt.due.schedule
        if attempt.stopped is None:
            if attempt.ends is not None and now >= attempt.ends:
                self._stop(child, attempt, f"its deadline of {schedule.deadline} is over")
            elif self._signals:
                attempt.ends = min(attempt.ends or now, now + schedule.grace.total_seconds())
                attempt.stopped = ""
                log.info("told to end: the run of schedule %s has %s", schedule.name, schedule.grace)
        if attempt.stopped == "" and (self._signals > 1 or (attempt.ends is not None and now >= attempt.ends)):
            self._stop(child, attempt, "the scheduler was told to end")
        if attempt.kill_at is not None and now >= attempt.kill_at:
            log.error("schedule %s: process %s did not end, killed", schedule.name, child.pid)
            attempt.kill_at = now + KILL_AFTER
            _kill_all_of(child)

    def _stop(self, child: subprocess.Popen[bytes], attempt: _Try, why: str) -> None:
        log.warning("schedule %s: %s; its run is ended", attempt.due.schedule.name, why)
        attempt.stopped, attempt.ends, attempt.kill_at = why, None, self._clock.monotonic() + KILL_AFTER
        child.terminate()

    def _ended(self, attempt: _Try, code: int, *, pid: int, seconds: float) -> None:
        name, took = attempt.due.schedule.name, f"after {seconds:.0f} s"
        if code == LOCKED:
            log.warning("schedule %s: another run has the warehouse", name)
            self._again(attempt, pid, "another run had the warehouse")
        elif code == FAILED and not self._nights.began(pid, attempt.due.at):  # the disk beside the warehouse is full
            log.error("schedule %s: its run could not begin", name)
            self._again(attempt, pid, "its run could not begin")
        elif 0 <= code < len(MEANING):
            log.log(logging.INFO if code == 0 else logging.ERROR, "schedule %s: %s, %s", name, MEANING[code], took)
            self._over(attempt.due, pid, MEANING[code])
        elif self._signals:
            log.info("schedule %s: interrupted %s; the next start catches up", name, took)
        elif attempt.stopped:
            log.error("schedule %s: ended %s, %s", name, took, attempt.stopped)
            self._over(attempt.due, pid, attempt.stopped)
        else:
            attempt.crashes += 1
            how = f"signal {-code}" if code < 0 else f"exit {code}"
            log.error("schedule %s: its run crashed %s (%s)", name, took, how)
            if attempt.crashes < CRASHES:
                self._again(attempt, pid, "its run crashed")
            else:
                self._over(attempt.due, pid, "its run crashed")

    def _over(self, due: Due, pid: int | None, why: str) -> None:
        """A night is over. One whose run did not come so far as the ledger is missed."""
        self._nights.catch_up()
        if pid is None or not self._nights.began(pid, due.at):
            self._nights.missed(due.schedule, [due.at], f"{why} before it had begun" if pid else why)
        self._rota.note(due, done=True)

    def _again(self, attempt: _Try, pid: int | None, why: str) -> None:
        """Try it again in a while, if its deadline allows and the next one is not due yet."""
        due, schedule = attempt.due, attempt.due.schedule
        attempt.not_before = self._clock.monotonic() + schedule.retry_after.total_seconds()
        if self._signals:
            return
        if schedule.name in self._waiting:
            self._over(due, pid, f"{why} until the next one was due,")
        elif attempt.ends is not None and attempt.not_before < attempt.ends:
            log.info("schedule %s: tried again in %s", schedule.name, schedule.retry_after)
            attempt.stopped = attempt.kill_at = None
            self._waiting[schedule.name] = attempt
            self._rota.note(due, done=False, pid=due.left or (pid if attempt.crashes else None))
        else:
            log.error("schedule %s: given up, its deadline of %s is over", schedule.name, schedule.deadline)
            self._over(due, pid, f"{why} until its deadline of {schedule.deadline} was over,")


def refuse_unknown_tables(schedules: Sequence[Schedule], environment: Mapping[str, str] | None = None) -> None:
    """Raise `ConfigurationError` for a table that no vendor has.

    It is asked in a process of its own, which loads all vendors for it.
    """
    if not (tables := sorted({table for schedule in schedules for table in schedule.tables})):
        return
    ask = (
        "import sys; from pipelines.run.request import refuse_unknown_table as refuse\n"
        "for table in sys.argv[1:]:\n"
        "    try: refuse(table)\n"
        "    except Exception as error: print(error)"
    )
    asked = subprocess.run(  # noqa: S603
        [sys.executable, "-P", "-c", ask, *tables],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if asked.stdout.strip():
        raise ConfigurationError(
            what="the schedules cannot be used", why="; ".join(asked.stdout.strip().splitlines()), todo="Fix them"
        )


def _is_run_of(pid: int, home: Path) -> bool:
    """Is that process a run of this home? Where the system does not tell, the warehouse's lock will."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"run" in words and os.fsencode(home) in words


def _kill_all_of(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a child and all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()


def set_up_logging(*, verbose: bool) -> None:
    """One line per event on stderr, in UTC."""
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    install()
