"""When a night is due: the schedules of `.dlt/config.toml`, and the instants that a cron expression means in a zone.

A schedule is read by the field's rules (0 and 7 are Sunday; a day of the month *or* of the week, if both are given).
The clock's two odd nights: what is due in an hour that is skipped is due once, as long after midnight as ever (02:30
is then 03:30); what is due in an hour that comes twice is due once, the first time.

No heavy import here: a scheduler is small while it waits.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sources import VENDORS
from sources.core.errors import ConfigurationError

SETTINGS = ("cron", "zone", "vendors", "tables", "then", "deadline", "grace", "retry_after")
THEN = ("dbt",)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 7))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTHS = {name: number for number, name in enumerate(_MONTHS, 1)}
WEEKDAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PERIOD = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True, kw_only=True)
class Cron:
    """A cron expression, each field as the numbers it allows; weekdays from 0, Sunday, to 6."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either_day: bool
    """Both days were given: one of them is enough."""

    def on(self, day: date) -> bool:
        """Is anything due on that day?"""
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return in_month or in_week if self.either_day else in_month and in_week

    def ever(self) -> bool:
        return self.either_day or any(self.days[0] <= monthrange(2024, month)[1] for month in self.months)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What runs when: `vendors` empty means all that have a key, `tables` empty means all of them."""

    name: str
    cron: str
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    vendors: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    then: str | None = None
    deadline: timedelta = timedelta(hours=6)
    """From the first try: then the run is ended, and nothing is tried again."""
    grace: timedelta = timedelta(minutes=1)
    """How long a run may go on when the scheduler is told to end."""
    retry_after: timedelta = timedelta(minutes=5)
    """The pause before a next try, when another run holds the warehouse or a run has crashed."""

    def fires(self, after: datetime, before: datetime) -> Iterator[datetime]:
        """The instants, in UTC, at which it is due: later than `after`, up to and with `before`."""
        cron = parse_cron(self.cron)
        day, last = after.astimezone(self.zone).date() - timedelta(days=1), before.astimezone(self.zone).date()
        done = after
        while day <= last:
            if cron.on(day):
                clock = (time(hour, minute) for hour in cron.hours for minute in cron.minutes)
                for due in sorted({datetime.combine(day, at, self.zone).astimezone(UTC) for at in clock}):
                    if done < due <= before:
                        yield due
                        done = due
            day += timedelta(days=1)

    def next_fire(self, after: datetime) -> datetime:
        """The first instant, in UTC, that is later than `after`."""
        start, span = after, timedelta(days=2)
        while True:
            end = start + span
            for due in self.fires(start, end):
                return due
            start, span = end, span * 2

    def loads(self, vendor: str, table: str) -> bool:
        """Is this table (or the vendor, named in place of it) among what it loads?"""
        return (not self.vendors or vendor in self.vendors) and (not self.tables or table in (*self.tables, vendor))

    def arguments(self) -> list[str]:
        """What follows `nightload` on the command line of its run."""
        tables = [each for table in self.tables for each in ("--table", table)]
        return ["run", *self.vendors, *tables, *(["--then", self.then] if self.then else [])]

    def arguments_unattended(self, *, now: datetime) -> list[str]:
        """The same where no scheduler of ours starts it: it tries again what may pass until its deadline, or until it
        is due again."""
        due = self.next_fire(now)
        seconds = int(min(self.deadline, self.next_fire(due) - due).total_seconds())
        return [*self.arguments(), "--until", f"{seconds}s"]


def read(home: Path) -> tuple[Schedule, ...]:
    """The schedules of a home, in the order of its file; none, if it has none.

    Raises `ConfigurationError` that names every setting which is wrong.
    """
    file = home / ".dlt" / "config.toml"
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8")).get("schedules", {})
    except FileNotFoundError:
        return ()
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(
            what=f"{file} is not valid TOML", why=str(error), todo="Fix that line; quote texts"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(what=f"{file} cannot be read", why=str(error)) from None
    problems: list[str] = []
    schedules = []
    if not isinstance(told, dict):
        problems.append("schedules must be a table: write [schedules.nightly] with cron = …")
        told = {}
    for name, settings in told.items():
        if not NAME.fullmatch(name):
            problems.append(f"schedules.{name}: a name is of letters, digits, _ and -, at most 40")
        elif not isinstance(settings, dict):
            problems.append(f"schedules.{name} must be a table: write [schedules.{name}] with cron = …")
        else:
            schedules.append(_schedule(name, settings, problems))
    if problems:
        raise ConfigurationError(
            what="the schedules cannot be used", where=str(file), why="; ".join(problems), todo="Fix these settings"
        )
    return tuple(each for each in schedules if each)


def _schedule(name: str, settings: Mapping[str, Any], problems: list[str]) -> Schedule | None:
    found: dict[str, Any] = {}
    bad = len(problems)

    def refuse(setting: str, why: object) -> None:
        problems.append(f"schedules.{name}.{setting}: {why}")

    for setting, value in settings.items():
        if setting not in SETTINGS:
            near = difflib.get_close_matches(setting, SETTINGS, n=1)
            refuse(setting, f"no such setting; {f'did you mean {near[0]}?' if near else ', '.join(SETTINGS)}")
            continue
        try:
            found[setting] = _READERS[setting](value)
        except ValueError as error:
            refuse(setting, error)
    if "cron" not in settings:
        refuse("cron", 'is missing; write cron = "30 2 * * *"')
    if found.get("retry_after") == timedelta(0) or found.get("deadline") == timedelta(0):
        refuse("deadline" if found.get("deadline") == timedelta(0) else "retry_after", "must be longer than nothing")
    return None if len(problems) > bad else Schedule(name=name, **found)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text in quotes is wanted, not {value!r}")
    return value.strip()


def _cron(value: Any) -> str:
    if not parse_cron(_text(value)).ever():
        raise ValueError(f"{value!r} never comes: no such day in these months")
    return " ".join(value.split())


def _zone(value: Any) -> ZoneInfo:
    name = _text(value)
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):  # LookupError: not found; the others: no name at all
        raise ValueError(f"there is no zone {name!r}; write one like Asia/Shanghai, Europe/Berlin, UTC") from None


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f'a list of texts is wanted, like ["…"], not {value!r}')
    return tuple(dict.fromkeys(value))


def _vendors(value: Any) -> tuple[str, ...]:
    if unknown := [each for each in _texts(value) if each not in VENDORS]:
        raise ValueError(f"there is no vendor {', '.join(unknown)}; there are {', '.join(VENDORS)}")
    return _texts(value)


def _tables(value: Any) -> tuple[str, ...]:
    if wrong := [each for each in _texts(value) if not re.fullmatch(r"[^.\s-][^.\s]*\.\S+", each)]:
        raise ValueError(f"{', '.join(wrong)} is not DATASET.TABLE")
    return _texts(value)


def _then(value: Any) -> str:
    if value not in THEN:
        raise ValueError(f"it can be {' or '.join(map(repr, THEN))}, not {value!r}")
    return str(value)


def parse_period(value: Any) -> timedelta:
    """`5h`, `90m`, `1h30m`, `45s`, `2d`. Raises `ValueError`."""
    match = _PERIOD.fullmatch(_text(value))
    if match is None or not any(match.groups()):
        raise ValueError(f'{value!r} is no period; write "5h", "90m", "1h30m" or "45s"')
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    try:
        period = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        raise ValueError(f"{value!r} is too long") from None
    if period > timedelta(days=366):
        raise ValueError(f"{value!r} is longer than a year")
    return period


_READERS = {
    "cron": _cron,
    "zone": _zone,
    "vendors": _vendors,
    "tables": _tables,
    "then": _then,
    "deadline": parse_period,
    "grace": parse_period,
    "retry_after": parse_period,
}


def parse_cron(text: str) -> Cron:
    """Five fields, or `@daily` and its like. Raises `ValueError` that says which field is wrong."""
    fields = _fields(text)
    minutes, hours, days, months, weekdays = (
        tuple(sorted(_field(told, *of))) for told, of in zip(fields, FIELDS, strict=True)
    )
    return Cron(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=tuple(sorted({day % 7 for day in weekdays})),
        # as cron has it: also */2 counts as a star
        either_day=not (fields[2].startswith("*") or fields[4].startswith("*")),
    )


def in_numbers(text: str) -> str:
    """The same expression in five fields of stars and numbers, which every cron reads alike.

    Names in a range are not (`fri-sun` is no day at all where Sunday is 0), nor is `5/15`. Stars stay: they decide
    whether both days must be met. Raises `ValueError` as `parse_cron` does.
    """
    found = []
    for told, (name, low, high) in zip(_fields(text), FIELDS, strict=True):
        parts = []
        for part in told.split(","):
            numbers = _field(part, name, low, high)
            numbers = {number % 7 for number in numbers} if high == 7 else numbers
            parts.append(part if part.startswith("*") else ",".join(map(str, sorted(numbers))))
        found.append(",".join(parts))
    return " ".join(found)


def _fields(text: str) -> list[str]:
    if text.startswith("@"):
        if text not in MACROS:
            raise ValueError(f"{text!r} is not one of {', '.join(MACROS)}")
        text = MACROS[text]
    fields = text.lower().split()
    if len(fields) != 5:
        raise ValueError(
            f"{text!r} has {len(fields)} fields; a cron expression has five: minute hour day month weekday"
        )
    return fields


def _field(text: str, name: str, low: int, high: int) -> set[int]:
    names = MONTHS if name == "month" else WEEKDAYS if name.endswith("week") else {}
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?", part, re.ASCII)
        if match is None:
            raise ValueError(f"the {name} {part!r} cannot be read; write *, 1, 1-5, */15 or a list of these")
        step = int(match["step"] or 1)
        first = low if match["first"] is None else _number(match["first"], name, names)
        open_end = match["first"] is None or (match["last"] is None and match["step"] is not None)
        last = (6 if high == 7 else high) if open_end else _number(match["last"] or match["first"], name, names)
        if names is WEEKDAYS and last == 0 < first:
            last = 7  # fri-sun
        if not (low <= first <= last <= high) or step < 1 or step > high:
            raise ValueError(f"the {name} {part!r} is outside {low}-{high} or runs backwards")
        found.update(range(first, last + 1, step))
    return found


def _number(text: str, name: str, names: Mapping[str, int]) -> int:
    if text in names:
        return names[text]
    if not text.isdigit():
        known = f"; there are {', '.join(names)}" if names else ""
        raise ValueError(f"the {name} {text!r} is no number{known}")
    return int(text)


def listed(schedules: Iterable[Schedule], *, now: datetime, count: int = 3) -> list[dict[str, Any]]:
    """What each schedule is and when it is due next, in its zone and in UTC; fit for JSON."""
    rows = []
    for schedule in schedules:
        due: list[datetime] = []
        while len(due) < count:
            due.append(schedule.next_fire(due[-1] if due else now))
        rows.append(
            {
                "schedule": schedule.name,
                "cron": schedule.cron,
                "zone": schedule.zone.key,
                "vendors": list(schedule.vendors),
                "tables": list(schedule.tables),
                "then": schedule.then,
                "deadline_seconds": int(schedule.deadline.total_seconds()),
                "next": [
                    {
                        "local": each.astimezone(schedule.zone).isoformat(),
                        "utc": each.isoformat().replace("+00:00", "Z"),
                    }
                    for each in due
                ],
            }
        )
    return rows
