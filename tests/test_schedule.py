"""Nights without anyone watching: every night that is due is run once or told as missed, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger

from conftest import Night
from pipelines.config import project as places
from pipelines.config.schedules import Schedule, parse_cron, parse_period, read
from pipelines.ledger.store import Ledger
from pipelines.scheduling.run_history import Nights
from pipelines.scheduling.state import Clock, Rota
from sources.core.errors import ConfigurationError

# -- when it is due ------------------------------------------------------------------------------------

BERLIN, NEW_YORK, SHANGHAI = "Europe/Berlin", "America/New_York", "Asia/Shanghai"


def fires(cron: str, zone: str, after: str, before: str) -> list[str]:
    schedule = Schedule(name="s", cron=cron, zone=ZoneInfo(zone))
    found = schedule.fires(datetime.fromisoformat(after), datetime.fromisoformat(before))
    return [f"{due:%m-%d %H:%MZ}" for due in found]


@pytest.mark.parametrize(
    ("zone", "after", "before", "due"),
    [
        # the hour from 2 to 3 is skipped on 29 March: due once, as long after midnight as ever
        (BERLIN, "2026-03-27T12:00Z", "2026-03-30T12:00Z", ["03-28 01:30Z", "03-29 01:30Z", "03-30 00:30Z"]),
        # it comes twice on 25 October: due once, the first time
        (BERLIN, "2026-10-23T12:00Z", "2026-10-26T12:00Z", ["10-24 00:30Z", "10-25 00:30Z", "10-26 01:30Z"]),
        (NEW_YORK, "2026-03-07T00:00Z", "2026-03-09T12:00Z", ["03-07 07:30Z", "03-08 07:30Z", "03-09 06:30Z"]),
        (SHANGHAI, "2026-03-28T00:00Z", "2026-03-30T12:00Z", ["03-28 18:30Z", "03-29 18:30Z"]),
    ],
)
def test_a_night_in_the_hour_that_is_skipped_or_doubled_comes_once(
    zone: str, after: str, before: str, due: list[str]
) -> None:
    assert fires("30 2 * * *", zone, after, before) == due


def test_new_york_sees_the_doubled_hour_once_too() -> None:
    assert fires("30 1 * * *", NEW_YORK, "2026-10-31T12:00Z", "2026-11-02T12:00Z") == ["11-01 05:30Z", "11-02 06:30Z"]


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, SHANGHAI])
def test_every_day_of_a_decade_has_its_night(zone: str) -> None:
    schedule = Schedule(name="s", cron="30 2 * * *", zone=ZoneInfo(zone))
    found = list(schedule.fires(datetime(2024, 1, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)))
    days = [due.astimezone(schedule.zone).date() for due in found]
    assert days == [days[0] + timedelta(days=number) for number in range(len(days))]
    assert len(days) == 3653


@pytest.mark.parametrize(
    "cron",
    [
        "30 2 * * *",
        "*/15 1-5 * * *",
        "0 0 1,15 * *",
        "5 4 * jan-mar,dec *",
        "0 3 * * mon-fri",
        "7 */6 29 2 *",
        "0 9/4 * * *",
    ],
)
@pytest.mark.parametrize("zone", ["UTC", SHANGHAI])
def test_a_year_is_as_apscheduler_has_it(cron: str, zone: str) -> None:
    start, end = datetime(2028, 1, 1, tzinfo=UTC), datetime(2029, 1, 1, tzinfo=UTC)
    trigger, theirs = CronTrigger.from_crontab(cron, timezone=zone), []
    due = trigger.get_next_fire_time(None, start + timedelta(seconds=1))
    while due and due <= end:
        theirs.append(due.astimezone(UTC))
        due = trigger.get_next_fire_time(due, due)
    assert list(Schedule(name="s", cron=cron, zone=ZoneInfo(zone)).fires(start, end)) == theirs
    assert theirs


def test_weekdays_are_crons_not_apschedulers() -> None:
    sundays = fires("0 0 * * 0", "UTC", "2026-11-01T01:00Z", "2026-11-30T00:00Z")
    assert sundays == ["11-08 00:00Z", "11-15 00:00Z", "11-22 00:00Z", "11-29 00:00Z"]
    assert fires("0 0 * * 7", "UTC", "2026-11-01T01:00Z", "2026-11-30T00:00Z") == sundays
    assert parse_cron("0 0 * * fri-sun").weekdays == (0, 5, 6)


def test_a_day_of_the_month_or_of_the_week_is_enough_if_both_are_given() -> None:
    assert fires("0 0 13 * fri", "UTC", "2026-11-01T00:00Z", "2026-11-21T00:00Z") == [
        "11-06 00:00Z", "11-13 00:00Z", "11-20 00:00Z",
    ]  # fmt: skip
    assert fires("0 0 */2 * fri", "UTC", "2026-11-01T00:00Z", "2026-11-21T00:00Z") == ["11-13 00:00Z"]


def config(home: Path, text: str) -> Path:
    (home / ".dlt").mkdir(exist_ok=True)
    (home / ".dlt" / "config.toml").write_text(text, encoding="utf-8")
    return home


def test_a_schedule_is_read_whole(tmp_path: Path) -> None:
    (schedule,) = read(
        config(
            tmp_path,
            '[schedules.nightly]\ncron = "30 2 * * *"\nzone = "Asia/Shanghai"\nvendors = ["tune"]\n'
            'tables = ["tune.countries"]\nthen = "dbt"\ndeadline = "5h"\ngrace = "90s"\nretry_after = "1m30s"\n',
        )
    )
    assert schedule == Schedule(
        name="nightly",
        cron="30 2 * * *",
        zone=ZoneInfo(SHANGHAI),
        vendors=("tune",),
        tables=("tune.countries",),
        then="dbt",
        deadline=timedelta(hours=5),
        grace=timedelta(seconds=90),
        retry_after=timedelta(seconds=90),
    )
    assert schedule.arguments() == ["run", "tune", "--table", "tune.countries", "--then", "dbt"]
    assert read(tmp_path / "nowhere") == ()


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    wrong = {
        "cron": '"61 2 * * *"', "zone": '"Mars/Olympus"', "vendors": '["tunes"]', "tables": '["countries"]',
        "then": '"rm"', "deadline": '"5 hours"', "grace": "60", "retry_after": '"0s"', "vendor": '["tune"]',
    }  # fmt: skip
    text = "[schedules.a]\n" + "".join(f"{name} = {value}\n" for name, value in wrong.items())
    text += '[schedules.b]\nzone = "UTC"\n[schedules."c d"]\ncron = "0 0 * * *"\n[schedules.e]\ncron = "0 0 30 2 *"\n'
    with pytest.raises(ConfigurationError) as refused:
        read(config(tmp_path, text))
    told = str(refused.value)
    for setting in [*(f"a.{name}" for name in wrong), "b.cron", "c d", "e.cron"]:
        assert f"schedules.{setting}: " in told, setting
    assert "did you mean vendors?" in told
    assert "never comes" in told
    with pytest.raises(ConfigurationError, match="schedules must be a table"):
        read(config(tmp_path, 'schedules = "daily"\n'))
    assert read(config(tmp_path, '[schedules.leap]\ncron = "0 0 29 2 *"\n'))


@pytest.mark.parametrize(
    "cron", ["", "* * * *", "0 0 * * * *", "60 * * * *", "* 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8",
             "5-1 * * * *", "*/0 * * * *", "a * * * *", "0 0 * * funday", "@reboot", "1,, * * * *", "-1 * * * *",
             "٣ * * * *"]
)  # fmt: skip
def test_a_cron_expression_that_means_nothing_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_cron(cron)


@pytest.mark.parametrize("period", ["", "5", "h", "5x", "-5h", "1e9h", "400d", "99999999999d", 5, None])
def test_a_period_that_means_nothing_is_refused(period: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_period(period)


# -- what was missed -----------------------------------------------------------------------------------


class Clocks:
    """A wall clock that can be set, and one that only goes on."""

    def __init__(self, at: str) -> None:
        self.wall, self.went = datetime.fromisoformat(at), 0.0

    def on(self, **by: float) -> None:
        self.wall += timedelta(**by)
        self.went += timedelta(**by).total_seconds()

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.wall, monotonic=lambda: self.went)


NIGHTLY = Schedule(name="nightly", cron="30 2 * * *", vendors=("tune",))
HOURLY = Schedule(name="hourly", cron="0 * * * *", vendors=("tune",))


class Told:
    """The ledger, as a rota sees it."""

    def __init__(self, last_run: str | None = None) -> None:
        self.nights: list[datetime] = []
        self.last = datetime.fromisoformat(last_run) if last_run else None
        self.pids: set[int] = set()

    def missed(self, schedule: Schedule, instants: Sequence[datetime], why: str) -> None:
        self.nights += instants

    def began(self, pid: int, since: datetime) -> bool:
        return pid in self.pids

    def last_run(self, schedule: Schedule) -> datetime | None:
        return self.last

    def shown(self) -> list[str]:
        return [f"{each:%d %H:%M}" for each in self.nights]


def rota(clocks: Clocks, tmp_path: Path, *schedules: Schedule, told: Told | None = None) -> tuple[Rota, list[str]]:
    made = Rota(schedules or (NIGHTLY,), tmp_path / "schedule.json", clocks.clock, told or Told())
    return made, [f"{due.at:%d %H:%M}" for due in made.start()]


def took(rota: Rota, name: str = "nightly") -> str | None:
    due = rota.take(name)
    if due is None:
        return None
    rota.note(due, done=True)
    return f"{due.at:%d %H:%M}"


def test_a_schedule_whose_vendors_never_ran_owes_nothing(tmp_path: Path) -> None:
    assert rota(Clocks("2026-11-20T10:00Z"), tmp_path)[1] == []


def test_the_newest_missed_night_is_caught_up_and_the_others_are_missed(tmp_path: Path) -> None:
    told = Told("2026-11-17T02:30:05Z")
    assert rota(Clocks("2026-11-20T10:00Z"), tmp_path, told=told)[1] == ["20 02:30"]
    assert told.shown() == ["18 02:30", "19 02:30"]


def test_a_schedule_that_was_edited_has_missed_nothing_it_never_promised(tmp_path: Path) -> None:
    clocks, told = Clocks("2026-11-17T01:00Z"), Told()
    rota(clocks, tmp_path, told=told)
    clocks.on(days=3)
    often = replace(NIGHTLY, cron="*/5 * * * *")
    assert rota(clocks, tmp_path, often, told=told)[1] == ["20 01:00"]
    assert told.shown() == []
    clocks.on(minutes=12)
    assert rota(clocks, tmp_path, often, told=told)[1] == ["20 01:10"]
    assert told.shown() == ["20 01:00", "20 01:05"]  # 01:00 was due, and never begun


def test_what_was_begun_and_not_ended_is_owed_at_the_next_start(tmp_path: Path) -> None:
    clocks, told = Clocks("2026-11-20T01:00Z"), Told()
    first, _ = rota(clocks, tmp_path, told=told)
    clocks.on(hours=2)
    due = first.take("nightly")
    assert due is not None
    first.note(due, done=False, pid=4711)
    assert rota(clocks, tmp_path, told=told)[1] == ["20 02:30"]
    clocks.on(days=1)
    assert rota(clocks, tmp_path, told=told)[1] == ["21 02:30"]
    assert told.shown() == ["20 02:30"]


def test_a_run_that_began_is_not_missed_though_nobody_saw_its_end(tmp_path: Path) -> None:
    clocks, told = Clocks("2026-11-20T01:00Z"), Told()
    told.pids.add(4711)
    first, _ = rota(clocks, tmp_path, told=told)
    clocks.on(hours=2)
    due = first.take("nightly")
    assert due is not None
    first.note(due, done=False, pid=4711)
    clocks.on(days=1)
    _, owed = rota(clocks, tmp_path, told=told)
    assert (owed, told.shown()) == (["21 02:30"], [])


def test_a_clock_that_goes_on_or_a_machine_that_slept_loses_no_night(tmp_path: Path) -> None:
    clocks, told = Clocks("2026-11-20T01:00Z"), Told()
    watch, _ = rota(clocks, tmp_path, told=told)
    clocks.wall += timedelta(days=3)
    assert (took(watch), told.shown()) == ("22 02:30", ["20 02:30", "21 02:30"])


def test_a_clock_put_back_over_a_fire_does_not_double_it(tmp_path: Path) -> None:
    clocks = Clocks("2026-11-20T02:00Z")
    watch, _ = rota(clocks, tmp_path)
    clocks.on(minutes=31)
    assert took(watch) == "20 02:30"
    clocks.wall -= timedelta(hours=1)
    watch.clock_went_back()
    clocks.on(hours=1, minutes=1)
    assert took(watch) is None
    assert rota(clocks, tmp_path)[1] == []
    clocks.on(days=1)
    assert took(watch) == "21 02:30"


def test_a_clock_that_was_days_ahead_costs_no_night_when_it_is_mended(tmp_path: Path) -> None:
    clocks = Clocks("2026-11-23T02:00Z")
    watch, _ = rota(clocks, tmp_path)
    clocks.on(hours=1)
    assert took(watch) == "23 02:30"
    clocks.wall -= timedelta(days=3)
    watch.clock_went_back()
    run = []
    for _ in range(24 * 5):
        clocks.on(hours=1)
        run.append(took(watch))
    assert [night for night in run if night] == [f"{day} 02:30" for day in (21, 22, 23, 24, 25)]


def test_a_clock_that_was_ahead_for_most_of_a_day_is_mended_and_the_night_comes_at_its_hour(tmp_path: Path) -> None:
    clocks = Clocks("2026-11-20T02:00Z")
    watch, _ = rota(clocks, tmp_path)
    clocks.on(minutes=31)
    assert took(watch) == "20 02:30"
    clocks.on(hours=20)
    clocks.wall -= timedelta(hours=20, minutes=45)
    watch.clock_went_back()
    clocks.on(hours=1)
    assert took(watch) == "20 02:30"


def test_an_hourly_schedule_does_not_wait_for_a_clock_put_back_by_half_a_day(tmp_path: Path) -> None:
    clocks = Clocks("2026-11-20T14:30Z")
    watch, _ = rota(clocks, tmp_path, HOURLY)
    clocks.on(minutes=31)
    assert took(watch, "hourly") == "20 15:00"
    clocks.wall -= timedelta(hours=12)
    watch.clock_went_back()
    clocks.on(hours=1)
    assert took(watch, "hourly") == "20 04:00"


def test_a_broken_memory_falls_back_to_the_ledger(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"nightly": 3}', '{"nightly": {"due_at": "x", "done": 1, "pid": null}}'):
        (tmp_path / "schedule.json").write_text(text)
        assert rota(Clocks("2026-11-20T10:00Z"), tmp_path, told=Told("2026-11-19T03:00Z"))[1] == ["20 02:30"], text


def test_what_a_full_disk_kept_from_the_memory_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = Clocks("2026-11-20T10:00Z")
    watch, _ = rota(clocks, tmp_path)
    clocks.on(days=1)
    with monkeypatch.context() as full:
        full.setattr(
            "pipelines.scheduling.state.os.fsync",
            mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")),
        )
        assert took(watch) == "21 02:30"
        assert watch.take("nightly") is None
    assert caplog.text.count("cannot be written") == 1, "said once"
    assert watch.take("nightly") is None
    assert rota(clocks, tmp_path)[1] == [], "it is remembered as done"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", range(8))
def test_every_instant_is_run_or_missed_exactly_once_whatever_is_killed(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler, killed at random moments, also between what it tells and what it remembers."""
    chance, clocks, told = random.Random(seed), Clocks("2026-11-01T00:10Z"), Told()
    began, run, write = clocks.wall, list[datetime](), Rota._write
    rota(clocks, tmp_path, HOURLY)  # from here on it is remembered

    def remember(self: Rota) -> None:
        if chance.random() < 0.1:
            raise Killed
        write(self)

    monkeypatch.setattr(Rota, "_write", remember)
    watch: Rota | None = None
    for _ in range(400):
        clocks.on(minutes=chance.choice([1, 20, 61, 400]))
        try:
            if watch is None or chance.random() < 0.1:
                watch = Rota((HOURLY,), tmp_path / "schedule.json", clocks.clock, told)
                found = watch.start()
                due = found[0] if found else None
            else:
                due = watch.take("hourly")
            if due is not None and chance.random() < 0.8:  # else it waits until the next one
                watch.note(due, done=False, pid=len(run))
                told.pids.add(len(run))
                run.append(due.at)
                watch.note(due, done=True)
        except Killed:
            watch = None
    missed = set(told.nights)
    assert len(run) > 50
    assert len(missed) > 50
    known = max(*run, *missed)
    # only the one that waits when all ends may be in neither
    assert sorted({*run, *missed}) == list(HOURLY.fires(began, known))
    assert not missed & set(run)


def test_what_a_full_disk_kept_from_the_ledger_is_recorded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places.at(places.DEFAULT, tmp_path)
    nights, due = Nights(place, {}), datetime(2026, 11, 1, 2, tzinfo=UTC)

    def rows() -> list[tuple[Any, ...]]:
        with sqlite3.connect(place.ledger) as ledger:
            return ledger.execute("SELECT started_at, status FROM runs").fetchall()

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(Ledger, "_insert", full)
        nights.missed(HOURLY, [due], "it had not begun")
    assert rows() == []
    nights.catch_up()
    nights.catch_up()
    assert rows() == [("2026-11-01T02:00:00.000+00:00", "missed")]


# -- processes -----------------------------------------------------------------------------------------

STUB = (
    f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
"""
    + """
from pipelines.ledger import store as ledger
from scheduled import shifted
home = Path(sys.argv[-1])
ledger.datetime = shifted(home)
def say(what):
    with (home / "said").open("a") as file:
        file.write(f"{what} {os.getpid()} {time.time()}\\n")
def told(*_):
    say("term")
    if mode != "stubborn":
        sys.exit(130)
mode, _, seconds = (home / "mode").read_text().partition(" ")
signal.signal(signal.SIGTERM, told)
say("begin")
book = ledger.Ledger(home / "data" / "warehouse.nightload" / "ledger.sqlite")
if mode not in ("locked", "early", "full"):
    run = book.open_run([], version="0")
if mode == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
end = time.time() + float(seconds or 0)
while time.time() < end:
    time.sleep(0.02)
say("end")
if mode not in ("locked", "early", "full"):
    book.close_run(run, status="ok")
sys.exit(3 if mode == "locked" else 1 if mode in ("failed", "full") else 2 if mode == "early" else 0)
"""
)


LATER = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pipelines.cli import main as cli
from pipelines.config import dlt_setup, project
from pipelines.ledger import store
from scheduled import shifted
store.datetime = shifted(Path(sys.argv[-1]))
dlt_setup.prepare(project.find(sys.argv[-1]))
from pipelines.run import runner as run
"""
"""`nightload`, by the shifted clock."""


class Stage:
    """A home, a stub in the place of `nightload run`, and the scheduler as a process."""

    def __init__(self, home: Path) -> None:
        self.home, self.started = home, list[subprocess.Popen[str]]()
        (home / "stub.py").write_text(STUB)
        self.mode("ok")

    def mode(self, mode: str) -> None:
        (self.home / "mode").write_text(mode)

    def serve(
        self, *schedules: dict[str, Any], env: dict[str, str] | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        told = {"schedules": schedules, "command": [sys.executable, str(self.home / "stub.py")], "LOOK": 0.1, **more}
        with (self.home / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("scheduled.py")), str(self.home), json.dumps(told)],
                stderr=log,
                stdout=log,
                text=True,
                env={**{n: v for n, v in os.environ.items() if not n.startswith("NIGHTLOAD_")}, **(env or {})},
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def said(self, what: str | None = None) -> list[str]:
        try:
            words = [line.split()[0] for line in (self.home / "said").read_text().splitlines()]
        except FileNotFoundError:
            return []
        return [word for word in words if what in (None, word)]

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def ledger(self, sql: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.home / "data" / "warehouse.nightload" / "ledger.sqlite") as connection:
            return connection.execute(sql).fetchall()

    def until(self, true: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"not within {seconds} s; {self.said()}; log:\n{self.log}"
            time.sleep(0.02)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.wait()
    if (tmp_path / "said").exists():
        for line in (tmp_path / "said").read_text().splitlines():
            pid = int(line.split()[1])
            command = Path(f"/proc/{pid}/cmdline")
            if command.exists() and str(tmp_path) in command.read_text():
                os.kill(pid, signal.SIGKILL)


def ended(process: subprocess.Popen[str], seconds: float = 20) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(seconds)


def test_every_fire_is_one_child_and_sigterm_ends_it_at_once_when_idle(stage: Stage) -> None:
    serving = stage.serve({"name": "often", "period": 1})
    stage.until(lambda: len(stage.said("end")) >= 3)
    stage.until(lambda: len(stage.said("begin")) == len(stage.said("end")))
    assert ended(serving) == 0
    assert stage.log.count("all green") == len(stage.said("end"))
    serving = stage.serve({"name": "rare", "cron": "0 0 29 2 *"})
    stage.until(lambda: "rare: next" in stage.log)
    began = time.monotonic()
    serving.send_signal(signal.SIGINT)
    assert serving.wait(20) == 0
    assert time.monotonic() - began < 3


def test_a_timer_that_a_jumping_clock_deceived_costs_no_night(stage: Stage) -> None:
    stage.serve({"name": "often", "period": 1}, deceived=True)
    stage.until(lambda: len(stage.said("end")) >= 2)


def test_sigterm_lets_the_run_finish_within_its_grace(stage: Stage) -> None:
    stage.mode("ok 2")
    serving = stage.serve({"name": "often", "period": 1, "grace": 20})
    stage.until(lambda: stage.said("begin"))
    assert ended(serving) == 0
    assert stage.said() == ["begin", "end"]


def test_after_its_grace_the_run_is_told_to_end_and_the_next_start_catches_up(stage: Stage) -> None:
    stage.mode("ok 60")
    serving = stage.serve({"name": "seldom", "period": 5, "grace": 0.3})
    stage.until(lambda: stage.said("begin"))
    assert ended(serving) == 0
    assert stage.said() == ["begin", "term"]
    stage.mode("ok")
    serving = stage.serve({"name": "seldom", "period": 86400})
    stage.until(lambda: stage.said("end"))
    assert "catching up" in stage.log
    assert ended(serving) == 0
    serving = stage.serve({"name": "seldom", "period": 86400})
    stage.until(lambda: stage.log.count("seldom: next") == 3)
    time.sleep(0.5)
    assert stage.said("end") == ["end"]


def test_a_second_signal_does_not_wait_for_the_grace(stage: Stage) -> None:
    stage.mode("ok 60")
    serving = stage.serve({"name": "often", "period": 1, "grace": 60})
    stage.until(lambda: stage.said("begin"))
    serving.send_signal(signal.SIGINT)
    stage.until(lambda: "told to end" in stage.log)
    assert ended(serving) == 0
    assert stage.said() == ["begin", "term"]


def test_a_run_beyond_its_deadline_is_ended_and_told(stage: Stage) -> None:
    stage.mode("ok 60")
    stage.serve({"name": "often", "period": 3600 * 24 * 365, "deadline": 600})
    caught_up(stage)
    reach_the_deadline(stage)
    stage.until(lambda: "its deadline of 0:10:00 is over" in stage.log and "ended after" in stage.log)
    assert stage.said() == ["begin", "term"]


def caught_up(stage: Stage) -> None:
    """Let a schedule that comes once a year be due now."""
    stage.until(lambda: "often: next" in stage.log)
    (stage.home / "shift").write_text(str(366 * 86400))


def reach_the_deadline(stage: Stage) -> None:
    """Let ten minutes have passed once the run is under way, however long it took to start."""
    stage.until(lambda: stage.said("begin"))
    (stage.home / "passed").write_text("600")


def test_a_run_that_heeds_no_sigterm_is_killed_with_all_it_started(stage: Stage) -> None:
    stage.mode("stubborn 60")
    stage.serve({"name": "often", "period": 3600 * 24 * 365, "deadline": 600}, KILL_AFTER=0.5)
    caught_up(stage)
    reach_the_deadline(stage)
    stage.until(lambda: "did not end, killed" in stage.log and "ended after" in stage.log)
    assert stage.said() == ["begin", "term"]


def test_a_locked_warehouse_is_tried_again_and_given_up_at_the_deadline(stage: Stage) -> None:
    stage.mode("locked")
    stage.serve({"name": "often", "period": 3600 * 24 * 365, "deadline": 6, "retry_after": 0.4, "vendors": ["tune"]})
    caught_up(stage)
    stage.until(lambda: "missed" in stage.log)
    assert len(stage.said("begin")) >= 2
    stage.until(lambda: stage.ledger("SELECT 1 FROM runs"))
    ((status, vendors, error, same),) = stage.ledger(
        "SELECT status, vendors, error, started_at = finished_at FROM runs"
    )
    assert (status, json.loads(vendors), same) == ("missed", ["tune"], 1)
    assert error.startswith("schedule often: missed: ")
    assert "its deadline of 0:00:06" in error


def test_a_warehouse_that_is_freed_in_time_is_loaded(stage: Stage) -> None:
    stage.mode("locked")
    stage.serve({"name": "often", "period": 3600 * 24 * 365, "deadline": 30, "retry_after": 0.5})
    caught_up(stage)
    stage.until(lambda: "tried again" in stage.log)
    stage.mode("ok")
    stage.until(lambda: "all green" in stage.log)


def test_a_run_that_found_no_room_to_begin_is_tried_again(stage: Stage) -> None:
    stage.mode("full")
    stage.serve({"name": "often", "period": 3600 * 24 * 365, "deadline": 30, "retry_after": 0.5})
    caught_up(stage)
    stage.until(lambda: "its run could not begin" in stage.log and "tried again" in stage.log)
    stage.mode("ok")
    stage.until(lambda: "all green" in stage.log)
    assert stage.ledger("SELECT status FROM runs") == [("ok",)]


def test_a_run_that_crashes_is_begun_once_more_and_the_scheduler_goes_on(stage: Stage) -> None:
    stage.mode("crash")
    serving = stage.serve({"name": "often", "period": 3600 * 24 * 365, "retry_after": 0.2})
    caught_up(stage)
    stage.until(lambda: stage.log.count("its run crashed") == 2)
    assert re.search(r"its run crashed after \d s \(signal 9\)", stage.log)
    stage.mode("ok")
    (stage.home / "shift").write_text(str(2 * 366 * 86400))
    stage.until(lambda: stage.said("end"))
    assert stage.said() == ["begin", "begin", "begin", "end"]
    assert serving.poll() is None


def test_a_run_that_failed_is_told_and_not_begun_again(stage: Stage) -> None:
    stage.mode("failed")
    stage.serve({"name": "often", "period": 3600 * 24 * 365, "retry_after": 0.1})
    caught_up(stage)
    stage.until(lambda: "something failed" in stage.log)
    time.sleep(1)
    assert stage.said() == ["begin", "end"]


def test_a_run_that_ended_before_it_began_is_missed(stage: Stage) -> None:
    """A run that finds its settings wrong writes no row of its own."""
    stage.mode("early")
    stage.serve({"name": "often", "period": 3600 * 24 * 365})
    caught_up(stage)
    stage.until(lambda: "missed" in stage.log)
    stage.until(lambda: stage.ledger("SELECT status FROM runs") == [("missed",)])
    assert "its configuration is wrong" in stage.ledger("SELECT error FROM runs")[0][0]


def test_runs_never_overlap_and_what_waits_is_one_run(stage: Stage) -> None:
    stage.mode("ok 2.5")
    serving = stage.serve({"name": "a", "period": 1}, {"name": "b", "period": 1})
    stage.until(lambda: len(stage.said("end")) >= 4, 60)
    assert ended(serving) == 0
    words = stage.said()
    assert words == ["begin", "end"] * (len(words) // 2)
    missed = stage.ledger("SELECT error FROM runs WHERE status = 'missed'")
    assert missed
    assert all("it had not begun when the next one was due" in error for (error,) in missed)


def test_a_second_scheduler_on_the_same_warehouse_is_refused(stage: Stage) -> None:
    stage.serve({"name": "rare", "period": 86400})
    stage.until(lambda: "rare: next" in stage.log)
    second = stage.serve({"name": "rare", "period": 86400})
    assert second.wait(20) == 3
    assert "another scheduler serves this warehouse" in stage.log


def test_the_next_scheduler_does_not_overlap_the_run_that_a_killed_one_left(night: Night) -> None:
    """SIGKILL to the scheduler: its run goes on and ends well, and the next one neither overlaps nor repeats it."""
    home = night.home
    stage = Stage(home)
    slow = home / "slow.py"
    slow.write_text(LATER + "n = run._night\nrun._night = lambda *a: (time.sleep(4), n(*a))[1]\ncli.main()\n")
    env = night.environment()
    command = [sys.executable, str(slow)]
    told = {"name": "often", "period": 86400 * 365, "vendors": ["tune"], "retry_after": 1.5}
    first = stage.serve(told, command=command, env=env)
    caught_up(stage)
    path = night.state / "ledger.sqlite"

    def runs() -> list[tuple[Any, ...]]:
        try:
            with sqlite3.connect(path) as connection:
                return connection.execute("SELECT status FROM runs ORDER BY run_id").fetchall()
        except sqlite3.Error:  # not there yet
            return []

    try:
        stage.until(lambda: runs() == [("running",)])
        first.kill()
        first.wait()
        second = stage.serve(told, command=command, env=env)
        stage.until(lambda: "the last scheduler left goes on" in stage.log, 60)
        stage.until(lambda: "has come to its end" in stage.log, 60)
        assert runs() == [("ok",)]
        assert ended(second) == 0
    finally:
        for process in stage.started:
            if process.poll() is None:
                process.kill()


def test_a_run_that_was_left_and_never_ends_keeps_no_later_night(stage: Stage) -> None:
    stage.mode("stubborn 60")
    told = {"name": "often", "period": 3600 * 24 * 365}
    first = stage.serve(told)
    caught_up(stage)
    stage.until(lambda: stage.said("begin"))
    first.kill()
    first.wait()
    stage.mode("ok")
    second = stage.serve({**told, "deadline": 6}, KILL_AFTER=0.5)
    stage.until(lambda: "all green" in stage.log)
    assert re.findall("beyond its deadline: (.*)", stage.log) == ["SIGTERM", "SIGKILL"]
    assert stage.said() == ["begin", "term", "begin", "end"]
    assert ended(second) == 0


def test_a_clock_that_jumps_on_fires_what_it_jumped_over_and_tells_the_rest(stage: Stage) -> None:
    stage.serve({"name": "daily", "period": 86400, "vendors": ["tune"]})
    stage.until(lambda: "daily: next" in stage.log)
    (stage.home / "shift").write_text(str(3 * 86400))
    stage.until(lambda: "all green" in stage.log)
    assert sorted(stage.ledger("SELECT status FROM runs")) == [("missed",), ("missed",), ("ok",)]
    assert stage.said() == ["begin", "end"]
    assert "the clock went on by 3 days" in stage.log


def test_a_clock_that_jumps_back_does_not_silence_the_scheduler(stage: Stage) -> None:
    (stage.home / "shift").write_text(str(30 * 86400))
    stage.serve({"name": "often", "period": 2})
    stage.until(lambda: stage.said("end"))
    (stage.home / "shift").write_text("0")
    stage.until(lambda: "the clock went back by 30 days" in stage.log)
    before = len(stage.said("end"))
    stage.until(lambda: len(stage.said("end")) >= before + 2, 15)


def test_a_night_is_loaded_for_real_and_the_missed_ones_show_in_the_warehouse(night: Night) -> None:
    stage = Stage(night.home)
    assert night.run("tune").code == 0
    try:
        (night.home / "shift").write_text(str(3 * 86400))
        (night.home / "later.py").write_text(LATER + "cli.main()\n")
        command = [sys.executable, str(night.home / "later.py")]
        serving = stage.serve(
            {"name": "daily", "period": 86400, "vendors": ["tune"]}, command=command, env=night.environment()
        )
        stage.until(lambda: "all green" in stage.log, 60)
        assert ended(serving) == 0
    finally:
        for process in stage.started:
            if process.poll() is None:
                process.kill()
    rows = night.rows("SELECT status, vendors, started_at FROM nightload.runs ORDER BY run_id")
    assert sorted(row[0] for row in rows) == ["missed", "missed", "ok", "ok"]
    assert {row[2].strftime("%H:%M:%S") for row in rows if row[0] == "missed"} == {"00:00:00"}
    told = night.main("status", "--json").json
    assert [vendor["status"] for vendor in told["vendors"]] == ["ok"]


def test_a_lost_disk_takes_over_the_ledger_though_nights_were_missed_first(night: Night) -> None:
    """The rows of missed nights make no ledger that the database's would not be taken over into."""
    from pipelines.ledger.store import Ledger

    assert night.run("tune").code == 0
    (night.state / "ledger.sqlite").unlink()
    book = Ledger(night.state / "ledger.sqlite")
    due = datetime.now(UTC) - timedelta(hours=1)
    for _ in range(2):
        book.missed(due, schedule="nightly", vendors=["tune"], version="0", why="missed: it was off")
    assert book.is_new()
    book.close()
    if night.database.url is not None:
        assert night.main("status", "--json").json["vendors"][0]["status"] == "ok"
    assert night.run("tune").code == 0
    assert sorted(night.rows("SELECT status FROM nightload.runs")) == [("missed",), ("ok",), ("ok",)]


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_fresh_disk_owes_what_the_ledger_in_the_database_says(night: Night) -> None:
    assert night.run("tune").code == 0
    night.settings["STATUS__STALE_AFTER"] = '{"default": "0m"}'  # as after nights that were missed
    shutil.rmtree(night.state)
    stage = Stage(night.home)
    (night.home / "shift").write_text(str(3 * 86400))
    serving = stage.serve({"name": "daily", "period": 86400, "vendors": ["tune"]}, env=night.environment())
    try:
        stage.until(lambda: "daily: next" in stage.log, 60)
        assert "catching up" in stage.log
        assert len(re.findall("daily: missed", stage.log)) == 2
        assert ended(serving) == 0
    finally:
        if serving.poll() is None:
            serving.kill()


def test_an_idle_scheduler_is_small(stage: Stage) -> None:
    serving = stage.serve({"name": "rare", "cron": "0 0 29 2 *"})
    stage.until(lambda: "rare: next" in stage.log)
    time.sleep(0.5)
    status = Path(f"/proc/{serving.pid}/status").read_text()
    resident = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024
    maps = Path(f"/proc/{serving.pid}/maps").read_text()
    assert not re.search("duckdb|pyarrow|psycopg2|orjson", maps)
    assert resident < 60, f"{resident:.0f} MB"


def test_nothing_heavy_is_imported_by_the_scheduler(tmp_path: Path) -> None:
    config(tmp_path, '[schedules.a]\ncron = "0 0 * * *"\n')
    code = (
        "import sys; from pathlib import Path; import pipelines.cli.main, pipelines.scheduling.scheduler\n"
        f"from pipelines.config.schedules import read; read(Path({str(tmp_path)!r}))\n"
        "print(sorted(set(sys.modules) & {'dlt', 'duckdb', 'pyarrow', 'psycopg2', 'httpx'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
