"""Parameters of an execution: the server fills in no default and computes no date, so we do.

The tokens are those of Redash's own date pickers (`d_last_30_days`, …); a week begins on Sunday, as
it does there. "Now" is the frozen upper edge of the run, in the declared zone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pendulum

from sources.core.errors import BrokenAnswer, ConfigurationError

FORMATS = {
    "date": "YYYY-MM-DD",
    "datetime-local": "YYYY-MM-DD HH:mm",
    "datetime-with-seconds": "YYYY-MM-DD HH:mm:ss",
    "date-range": "YYYY-MM-DD",
    "datetime-range": "YYYY-MM-DD HH:mm",
    "datetime-range-with-seconds": "YYYY-MM-DD HH:mm:ss",
}
_LAST = re.compile(r"d_last_(\d+)_(hour|day|week|month|year)s")
_CALENDAR = re.compile(r"d_(this|last)_(week|month|year)")


def resolve(
    given: Mapping[str, Any], definitions: Sequence[Mapping[str, Any]], *, now: datetime, zone: str, where: str
) -> dict[str, Any]:
    """The parameters to send: those given, else the query's defaults, with every date token computed.

    Raises `ConfigurationError` for a name that the query does not have, or an unknown token, and `BrokenAnswer` for a
    definition without a name.
    """
    for definition in definitions:
        if not isinstance(definition, Mapping) or not isinstance(definition.get("name"), str):
            raise BrokenAnswer(what="a parameter of the query has no name", where=where, todo="Name it at the vendor")
    known = {definition["name"]: definition for definition in definitions}
    for name in given:
        if name not in known:
            raise ConfigurationError(
                what=f"the query has no parameter {name}",
                where=where,
                todo=f"It has: {', '.join(known) or 'none'}",
            )
    local = pendulum.instance(now).in_timezone(zone)
    return {
        name: _value(
            given.get(name, definition.get("value")), str(definition.get("type")), local, where=f"{where}, {name}"
        )
        for name, definition in known.items()
    }


def _value(value: Any, kind: str, now: pendulum.DateTime, *, where: str) -> Any:
    if not isinstance(value, str) or not value.startswith("d_") or kind not in FORMATS:
        return value
    try:
        moments = _moments(value, kind, now)
    except (ValueError, OverflowError):  # before the year 1
        moments = None
    if moments is None or (len(moments) == 2) != ("range" in kind):
        raise ConfigurationError(
            what=f"{value} is no date token for a {kind}",
            where=where,
            todo="A date takes d_now or d_yesterday; a range d_today, d_this_week, d_last_month, d_last_30_days, …",
        )
    texts = [moment.format(FORMATS[kind]) for moment in moments]
    return texts[0] if len(texts) == 1 else {"start": texts[0], "end": texts[1]}


def _moments(token: str, kind: str, now: pendulum.DateTime) -> list[pendulum.DateTime] | None:
    """One moment for a date, two for a range; None for a token that nobody knows."""
    if token == "d_yesterday":  # noqa: S105 - a date token; the only one that is both
        day = now.subtract(days=1)
        return [day.start_of("day"), day.end_of("day")] if "range" in kind else [day]
    if token == "d_now":  # noqa: S105 - a date token
        return [now]
    if token == "d_today":  # noqa: S105
        return [now.start_of("day"), now.end_of("day")]
    if token == "d_last_hour":  # noqa: S105
        return [now.subtract(hours=1), now]
    if calendar := _CALENDAR.fullmatch(token):
        which, unit = calendar.groups()
        moment = now.subtract(**{f"{unit}s": 1}) if which == "last" else now
        if unit == "week":
            start = moment.start_of("day").subtract(days=(moment.isoweekday() % 7))
            return [start, start.add(days=6).end_of("day")]
        return [moment.start_of(unit), moment.end_of(unit)]
    if last := _LAST.fullmatch(token):
        number, unit = int(last[1]), last[2]
        start = now.subtract(**{f"{unit}s": number})
        return [start, now] if unit == "hour" else [start.start_of("day"), now.end_of("day")]
    return None
