"""The windows in which a report is asked for: whole days of UTC, half-open, on a grid that never moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sources.core.dates import Days

UNITS = ("day", "week", "month", "year")
_DAY = timedelta(days=1)
_MONDAY = date(1970, 1, 5)


@dataclass(frozen=True, kw_only=True)
class Window:
    """[start, end) in UTC; `label` is its first day, and `end` may be cut at the start of the run."""

    label: str
    start: datetime
    end: datetime

    @property
    def last_second(self) -> datetime:
        return self.end - timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """How days make windows: `days` of them together, counted from a Monday (or Sunday) in 1970; or a week, month or
    year. So the windows of a report are the same ones whenever it was begun."""

    unit: str = "day"
    days: int = 1
    week_starts: str = "monday"

    @property
    def told(self) -> str:
        return f"window of {self.days} days" if self.unit == "day" and self.days > 1 else self.unit

    def first(self, day: date) -> date:
        """The first day of the window that holds `day`."""
        if self.unit == "month":
            return day.replace(day=1)
        if self.unit == "year":
            return day.replace(month=1, day=1)
        size = 7 if self.unit == "week" else self.days
        anchor = _MONDAY if self.week_starts == "monday" else _MONDAY - _DAY
        return day - timedelta(days=(day - anchor).days % size)

    def following(self, first: date) -> date:
        """The first day of the next window."""
        if self.unit in ("month", "year"):
            return self.first(first + timedelta(days=31 if self.unit == "month" else 366))
        return first + timedelta(days=7 if self.unit == "week" else self.days)

    def within(self, days: Days, until: datetime) -> Iterator[Window]:
        """The windows whose last day is one of these, whole."""
        for window in self.windows(days.first, until):
            if date.fromisoformat(window.label) > days.last:
                return
            if self.following(date.fromisoformat(window.label)) - _DAY in days:
                yield window

    def windows(self, since: date, until: datetime) -> Iterator[Window]:
        """From the one that holds `since` to the one that holds `until`, which ends there, at a whole second."""
        until = until.astimezone(UTC).replace(microsecond=0)
        first = self.first(since)
        while (start := datetime.combine(first, time(), UTC)) < until:
            following = self.following(first)
            end = min(datetime.combine(following, time(), UTC), until)
            yield Window(label=first.isoformat(), start=start, end=end)
            first = following


def clock(moment: datetime) -> str:
    """As the vendor's second version writes a moment."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def iso(moment: datetime) -> str:
    """As its third version does."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
