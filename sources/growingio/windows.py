"""Windows of time as GrowingIO takes them: whole buckets of its own days, both edges inclusive, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from sources.growingio.settings import HOUR_MS, Settings, day_of


@dataclass(frozen=True, kw_only=True)
class Window:
    """From `start` to `end`, unix milliseconds, both inclusive."""

    start: int
    end: int

    def halves(self) -> tuple[Window, Window] | None:
        """Two windows of whole hours for one, or None if it is one hour."""
        hours = (self.end + 1 - self.start) // HOUR_MS
        if hours < 2:
            return None
        middle = self.start + hours // 2 * HOUR_MS
        return Window(start=self.start, end=middle - 1), Window(start=middle, end=self.end)


@dataclass(frozen=True)
class Bucket:
    """Days that count together, the last one included: one day, a week or a month."""

    first: date
    last: date


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """The vendor's days, and which of them are over."""

    zone: ZoneInfo
    week_starts: str

    @classmethod
    def of(cls, settings: Settings) -> Calendar:
        return cls(zone=ZoneInfo(settings.zone), week_starts=settings.week_starts)

    def window(self, buckets: Sequence[Bucket]) -> Window:
        end = self.midnight(buckets[-1].last + timedelta(days=1)) - 1
        return Window(start=self.midnight(buckets[0].first), end=end)

    def told(self, window: Window) -> str:
        """A window for people: its days, and its hours where it is less than a day."""
        first, last = self.day_at(window.start), self.day_at(window.end)
        if window == self.window((Bucket(first, last),)):
            return f"{first} to {last}"
        start, end = (datetime.fromtimestamp(edge / 1000, self.zone) for edge in (window.start, window.end))
        return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"

    def midnight(self, day: date) -> int:
        """The first millisecond of a day of the vendor's."""
        return int(datetime.combine(day, time(), self.zone).timestamp()) * 1000

    def day_at(self, milliseconds: int) -> date:
        """The vendor's day of a moment. Raises `ValueError` or `OverflowError` for one beyond the calendar."""
        return datetime.fromtimestamp(milliseconds / 1000, self.zone).date()

    def bucket_of(self, day: date, interval: str) -> Bucket:
        if interval == "week":
            since = day.weekday() if self.week_starts == "monday" else (day.weekday() + 1) % 7
            first = day - timedelta(days=since)
            return Bucket(first, first + timedelta(days=6))
        if interval == "month":
            first = day.replace(day=1)
            following = (first + timedelta(days=31)).replace(day=1)
            return Bucket(first, following - timedelta(days=1))
        return Bucket(day, day)

    def buckets(self, interval: str, first: date, last: date) -> list[Bucket]:
        """The buckets from that of `first` on that are over by the end of `last`."""
        found, bucket = [], self.bucket_of(first, interval)
        while bucket.last <= last:
            found.append(bucket)
            bucket = self.bucket_of(bucket.last + timedelta(days=1), interval)
        return found


def newest_day(settings: Settings, until: datetime) -> date:
    """The last day that is computed: yesterday's figures are ready some hours into the day."""
    # a plain datetime: pendulum's forgets a zoneinfo zone when it subtracts
    now = datetime.fromtimestamp(until.timestamp(), ZoneInfo(settings.zone))
    ready = now - timedelta(hours=settings.ready_hour)
    yesterday = ready.date() - timedelta(days=1)
    end = day_of("end", settings.end)
    return min(yesterday, end) if end else yesterday


def groups(buckets: Sequence[Bucket], days: int) -> Iterator[Sequence[Bucket]]:
    """The buckets in runs of at most `days` days, or of one bucket."""
    run: list[Bucket] = []
    for bucket in buckets:
        if run and (bucket.last - run[0].first).days >= days:
            yield run
            run = []
        run.append(bucket)
    if run:
        yield run


def instant(milliseconds: int) -> str:
    """Unix milliseconds as ISO 8601 in UTC."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC) + timedelta(milliseconds=milliseconds % 1000)
    return moment.isoformat(timespec="milliseconds")
