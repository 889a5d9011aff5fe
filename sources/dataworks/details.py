"""Details of APIs that a list does not tell: fetched one by one, and remembered so that only changes cost a call.

The vendor's models say that a list's rows tell everything; whether the live lists do is not known. So a row that tells
its details is taken as it is, and one that does not is completed by a call for that API. What was fetched is kept in
the source's state beside a fingerprint of the list's row: while that stands, nothing is fetched. The state is a cache
and no cursor: every table is whole each night, with or without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sources.core.errors import ConfigurationError, NotReady, Refused
from sources.dataworks.definitions import Row, clean, has_details
from sources.extract.sync import reasons

Memory = dict[str, Any]
"""`<workspace>/<api>` → [fingerprint of the list's row, when it was fetched, the details as JSON text]."""

Get = Callable[[int, int], Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Completed:
    """APIs with their details. `unread` holds `<workspace>/<api>` of those that have none.

    Because today's calls are used up, `waiting` have none and `stale` have those of an earlier night. `refused` is what
    the vendor said of those that it refuses; they too have those of an earlier night, or none.
    """

    apis: list[Row]
    unread: frozenset[str] = frozenset()
    waiting: int = 0
    stale: int = 0
    refused: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        notes = []
        if self.waiting:
            notes.append(f"the details of {self.waiting} APIs were not read: today's calls are used up")
        if count := len(self.refused):
            said = reasons(self.refused)
            notes.append(f"the vendor refuses the details of {count} APIs; the first reasons: {said}")
        if self.stale:
            notes.append(f"the details of {self.stale} APIs are those of an earlier night: today's calls are used up")
        return notes


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When details are fetched. `manner` is missing, always or never; `full` distrusts what is remembered."""

    manner: str
    full: bool
    now: datetime
    refresh: timedelta


def complete(
    rows: Sequence[Row], *, get: Get, memory: Memory, policy: Policy, left: Callable[[], int | None]
) -> Completed:
    """Each row with its details; `left` is how many calls may still be made, None for any number.

    The rows that were never read come first, then those that changed, then those not looked at for long.
    """
    keys = [f"{row['ProjectId']}/{row['ApiId']}" for row in rows]
    for gone in memory.keys() - set(keys):
        del memory[gone]
    complete: dict[str, Row] = {}
    due: list[tuple[int, str, str, Row]] = []
    for key, row in zip(keys, rows, strict=True):
        if policy.manner == "never" or (policy.manner == "missing" and has_details(row)):
            complete[key] = row
            memory.pop(key, None)
            continue
        fingerprint, known = _fingerprint(row), memory.get(key)
        if known is None:
            due.append((0, "", key, row))
        elif known[0] != fingerprint:
            due.append((1, known[1], key, row))
        elif policy.full or policy.now - datetime.fromisoformat(known[1]) >= policy.refresh:
            due.append((2, known[1], key, row))
        else:
            complete[key] = _joined(row, json.loads(known[2]))
    unread: set[str] = set()
    refused: list[str] = []
    waiting = stale = 0
    over = False  # no call can be made any more today
    for urgency, _, key, row in sorted(due, key=lambda each: each[:2]):
        known = memory.get(key)
        complete[key] = row if known is None else _joined(row, json.loads(known[2]))
        is_unread = known is None and not has_details(row)
        details: Mapping[str, Any] | None = None
        over = over or left() == 0
        if not over:
            try:
                details = get(int(row["ProjectId"]), int(row["ApiId"]))
            except NotReady:
                over = True
            except (Refused, ConfigurationError) as error:
                if getattr(error, "status", None) == 403:
                    raise
                # about this one API (gone since the list was read, or private): the others have theirs
                refused.append(str(error))
        if details is None:
            unread |= {key} if is_unread else set()
            waiting += over and is_unread
            stale += over and known is not None and urgency < 2
            continue
        cleaned = clean(details, project=int(row["ProjectId"]))
        memory[key] = [_fingerprint(row), policy.now.isoformat(), json.dumps(cleaned)]
        complete[key] = _joined(row, cleaned)
    return Completed(
        apis=[complete[key] for key in keys],
        unread=frozenset(unread),
        waiting=waiting,
        stale=stale,
        refused=tuple(refused),
    )


def _joined(row: Row, details: Mapping[str, Any]) -> Row:
    """The list is newer or as new, the details tell more: what the list tells as empty is the details' to say."""
    return {**details, **{label: value for label, value in row.items() if value not in (None, {}, [])}}


def _fingerprint(row: Row) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:24]
