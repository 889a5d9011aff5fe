"""What goes over the wire: JSON bytes and timestamps.

orjson writes nearly everything. What it refuses (a lone surrogate, an integer beyond 64 bits) is real vendor output all
the same, so those values fall back to the standard library, whose ASCII escapes carry a lone surrogate unharmed.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import orjson


def dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        return dumps_python(value)


def dumps_python(value: object) -> bytes:
    """As an old Python's json module writes it: NaN and Infinity come out as bare words, which no standard knows."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


_ahead = timedelta()


def now() -> datetime:
    """By the vendors' clock, which all of them share."""
    return datetime.now(UTC) + _ahead


def set_clock(moment: datetime | None) -> None:
    """Let it be that moment now; None: the machine's own time. The clock goes on from there."""
    global _ahead
    _ahead = timedelta() if moment is None else moment - datetime.now(UTC)


def iso(moment: datetime) -> str:
    """ISO 8601 UTC with milliseconds and Z; the fraction is absent when it is zero (tonalytica sheet, section 4)."""
    moment = moment.astimezone(UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    millis = moment.microsecond // 1000
    return f"{text}.{millis:03d}Z" if millis else f"{text}Z"


def parse_iso(text: str) -> datetime:
    return datetime.fromisoformat(text)


def mysql_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
