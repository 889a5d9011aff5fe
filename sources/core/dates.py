"""Days of a vendor, the last one included, which a backfill asks for at once; and times of its clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)


@dataclass(frozen=True, order=True)
class Days:
    """From `first` to `last`, both included. Raises `ValueError` if the last one is before the first."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError(f"{self.last} is before {self.first}")

    def __str__(self) -> str:
        return f"{self.first}..{self.last}"

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def split(self, size: int) -> Iterator[Days]:
        """These days, `size` of them at a time; the last part may be shorter."""
        first = self.first
        while first <= self.last:
            last = min(first + (size - 1) * _DAY, self.last)
            yield Days(first, last)
            first = last + _DAY


def on_clock(text: str, zone: str) -> datetime:
    """A time as a clock in the zone shows it; without an offset it is that already. Raises `ValueError` for no time."""
    moment = datetime.fromisoformat(text)
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) if moment.tzinfo else moment


def latest(texts: Iterable[str | None], zone: str) -> str | None:
    """The text of the latest instant; what is no time is left out."""

    def at(text: str) -> datetime:
        try:
            return on_clock(text, zone)
        except (ValueError, OverflowError):
            return datetime(1, 1, 1)  # noqa: DTZ001 - a clock's time has no zone

    return max((text for text in texts if text), key=at, default=None)


@dataclass(frozen=True, kw_only=True)
class Calls:
    """How many requests a window takes: at least so many; `beyond` names what more nobody can know before."""

    least: int
    beyond: str = ""

    def __add__(self, other: Calls) -> Calls:
        return Calls(least=self.least + other.least, beyond=self.beyond or other.beyond)
