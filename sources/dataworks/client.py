"""How DataWorks is asked: one path, signed actions, envelopes, pages. Reads only.

Some answers carry `Success`, some do not; the vendor's own samples show an error's code and text beside a success, so
only `Success: false`, a status of 400 and more, or an error's envelope where rows were due is a no.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx

from sources.core.errors import AccessDenied, BrokenAnswer, CountMismatch, NightloadError, NotReady, Refused
from sources.dataworks.refusals import ClockRefused, inspect_for, pause_asked
from sources.dataworks.settings import ACTIONS, DATASET, MOST_PAGES, VENDOR, VERSION, WALKS, Action, Settings
from sources.dataworks.signature import Signer
from sources.http.client import Http
from sources.http.rate_limit import Rate

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """All rows of one list, each key once, and the vendor's own count of them.

    `mark` stands for the keys of a list that took several pages; "" for one that came in a single answer.
    """

    rows: list[dict[str, Any]]
    total: int
    mark: str = ""


class Calls:
    """How many calls were made today, and how many may be. Counts every request that is sent, retries too."""

    def __init__(self, *, most: int, zone: str) -> None:
        self.most, self._zone = most, ZoneInfo(zone)
        self._day, self._count = self._today(), 0
        self._lock = threading.Lock()

    def remember(self, told: Mapping[str, Any]) -> None:
        """Go on from what an earlier run of the same day used."""
        with self._lock:
            if told.get("day") == self._day and not self._count:
                self._count = int(told.get("count", 0))

    def dump(self) -> dict[str, Any]:
        return {"day": self._day, "count": self._count}

    @property
    def left(self) -> int | None:
        """None if there is no limit."""
        self._turn()
        return max(0, self.most - self._count) if self.most else None

    def spend(self) -> None:
        """Raises `NotReady` if today's calls are used up."""
        with self._lock:
            self._turn()
            if self.most and self._count >= self.most:
                raise NotReady(
                    what=f"today's {self.most} calls are used up",
                    where=VENDOR,
                    why=f"sources.{VENDOR}.calls_per_day, counted by the day of {self._zone.key}",
                    todo="Tables that are still to come keep their rows; run again tomorrow, or raise calls_per_day",
                )
            self._count += 1

    def _turn(self) -> None:
        if self._today() != self._day:
            self._day, self._count = self._today(), 0

    def _today(self) -> str:
        return f"{datetime.now(self._zone):%Y-%m-%d}"


class Client:
    """One Alibaba Cloud account in one region, as one key sees it."""

    def __init__(self, settings: Settings) -> None:
        self._size = settings.page_size
        self._tenant = settings.tenant_id
        self.calls = Calls(most=settings.calls_per_day, zone=settings.day_zone)
        signer = Signer(
            access_key_id=str(settings.access_key_id),
            access_key_secret=str(settings.access_key_secret),
            security_token=str(settings.security_token or ""),
            form=settings.signature,
        )

        def sign(request: httpx.Request) -> None:
            self.calls.spend()
            signer(request)

        self.http = Http(
            vendor=VENDOR,
            base_url=settings.base_url or f"https://dataworks.{settings.region}.aliyuncs.com",
            headers={"Accept": "application/json", "x-acs-version": VERSION},
            secrets=[
                str(each)
                for each in (settings.access_key_id, settings.access_key_secret, settings.security_token)
                if each
            ],
            rates={"default": Rate(per_second=settings.requests_per_second)},
            concurrency=1,
            sign=sign,
            masks=True,
            pause_asked=pause_asked,
        )

    def call(self, action: Action, **parameters: Any) -> dict[str, Any]:
        """The envelope of one action's answer, success proven. Parameters of None are left out."""
        if action not in ACTIONS:
            raise ValueError(f"{action.name} is not a read that may be called")
        given = {name: str(value) for name, value in sorted(parameters.items()) if value is not None}
        form = {name: value for name, value in given.items() if name not in action.url}
        try:
            answer = self.http.json(
                action.method,
                "",
                params={name: value for name, value in given.items() if name in action.url},
                form=form,
                headers={"x-acs-action": action.name},
                retry=True,  # a read, whatever the method; each try is signed anew
                inspect=inspect_for(action, given),
            )
        except ClockRefused as refused:
            error: NightloadError = self._clock_error(refused)
        else:
            return dict(answer)
        raise error

    def walk(self, action: Action, *, known: str | None = None, proven: bool = True, **parameters: Any) -> Listed:
        """All pages of a list, walked until two walks agree on its keys.

        One walk proves nothing where there are several pages: a row that goes away between two of them shifts another
        out of sight, and if one came meanwhile the count still fits. `known` is the mark of an earlier walk that was
        proven, and counts as one of the two: so a list whose keys stand costs no second walk. `proven` False takes the
        first walk that fits its count. Raises `CountMismatch` if the list does not settle.
        """
        if action.name != "ListProjects":
            parameters = {"TenantId": self._tenant, **parameters}
        seen = {"", known}
        for _ in range(WALKS):
            try:
                listed = self._pages(action, parameters)
            except CountMismatch as error:
                mismatch = error
            else:
                if listed.mark in seen or not proven:
                    return listed
                seen.add(listed.mark)
                mismatch = _mismatch(action, "it has other rows on each walk", listed.total, listed.rows)
            log.info("%s: one walk of %s came to nothing: %s", VENDOR, action.name, mismatch.why)
        raise mismatch

    def page(self, action: Action, *, size: int, **parameters: Any) -> Listed:
        """The first page of a list."""
        answer = self.call(action, **{"TenantId": self._tenant} | parameters, PageNumber=1, PageSize=size)
        return _listed(answer, action)

    def detail(self, action: Action, *, project: int, api: int) -> dict[str, Any] | None:
        """One API with its details; None if it is gone."""
        try:
            data = self.call(action, ProjectId=project, ApiId=api, TenantId=self._tenant).get("Data")
        except Refused as error:
            if error.status == 404 and "InvalidApi" not in error.message:
                return None
            raise
        return data if isinstance(data, dict) and data.get("ApiId") is not None else None

    def tests(self, action: Action, *, api: int, size: int) -> list[dict[str, Any]]:
        """The newest tests of one API; this list has neither pages nor a count."""
        rows = _rows(self.call(action, ApiId=api, PageSize=size).get("Data"), action)
        for row in rows:
            _key(row, action)
        return rows

    def apart(self) -> float | None:
        """Seconds that this machine's clock is ahead of the vendor's; None if the vendor's is not told."""
        any_status = (200, 400, 401, 403, 404, 429, 500, 503)
        answer = self.http.body(
            "POST", "", params={"PageNumber": 1, "PageSize": 1}, headers={"x-acs-action": "ListProjects"},
            accept=any_status,
        )  # fmt: skip
        return apart(answer.headers.get("date", ""))

    def _clock_error(self, refused: ClockRefused) -> NightloadError:
        try:
            seconds = self.apart()
        except NightloadError:
            seconds = None
        if seconds is None:
            told = "how far they are apart is not known: the vendor's answers have no date"
        else:
            told = f"this machine's is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the vendor's"
        return AccessDenied(
            what="the vendor refuses the time of the signature",
            where=refused.where,
            why=f"{refused.code}; {told}",
            todo="Set this machine's clock (NTP): the vendor accepts a difference of 15 minutes",
            status=refused.status,
            message=refused.message,
        )

    def _pages(self, action: Action, parameters: Mapping[str, Any]) -> Listed:
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        total: int | None = None
        for number in range(1, MOST_PAGES + 1):
            answer = self.call(action, **parameters, PageNumber=number, PageSize=self._size)
            page = _listed(answer, action)
            if total is not None and page.total != total:
                raise _mismatch(action, f"its count moved from {total} to {page.total} under the walk", total, found)
            total = page.total
            keyed = {_key(row, action): row for row in page.rows}
            if keyed and keyed.keys() <= found.keys():
                raise _mismatch(action, f"page {number} repeats rows that came before", total, found)
            found |= keyed
            if not page.rows or len(found) >= total:
                break
        if total is None or len(found) != total:
            raise _mismatch(action, "its pages hold another number of rows than it counts", total or 0, found)
        mark = _mark(found) if number > 1 else ""
        return Listed(rows=list(found.values()), total=total, mark=mark)


def apart(date: str) -> float | None:
    """Seconds that this machine's clock is ahead of the one in a `Date` header."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return None
    return (datetime.now(UTC) - theirs.replace(tzinfo=theirs.tzinfo or UTC)).total_seconds()


def _listed(answer: Mapping[str, Any], action: Action) -> Listed:
    """One page. A missing list is an empty one, if the count says so too."""
    holder = answer.get(action.rows[0])
    # an empty object may come as []
    holder = {} if holder in (None, []) else holder
    if not isinstance(holder, Mapping):
        raise _broken(action, f"{action.rows[0]} is {str(holder)[:40]!r}")
    rows = _rows(holder.get(action.rows[1]), action)
    told = holder.get("TotalCount", 0 if not rows else None)
    if isinstance(told, bool) or not re.fullmatch("[0-9]+", str(told)):
        raise _broken(action, f"TotalCount is {str(told)[:40]!r}")
    return Listed(rows=rows, total=int(told))


def _rows(rows: Any, action: Action) -> list[dict[str, Any]]:
    if rows is None:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _broken(action, f"{'.'.join(action.rows)} is {str(rows)[:40]!r}")
    return rows


def _key(row: Mapping[str, Any], action: Action) -> tuple[str, ...]:
    missing = [name for name in action.key if row.get(name) is None and name != "ProjectId"]
    if missing:
        raise _broken(action, f"a row has no {' and no '.join(missing)}")
    return tuple(str(row.get(name)) for name in action.key)


def _mark(keys: Mapping[tuple[str, ...], object]) -> str:
    return hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()[:24]


def _broken(action: Action, why: str) -> BrokenAnswer:
    return BrokenAnswer(
        what=f"the answer of {action.name} cannot be used",
        where=VENDOR,
        why=why,
        todo="Run again; if it stays, the vendor changed its answers",
    )


def _mismatch(action: Action, why: str, total: int, found: Sized) -> CountMismatch:
    return CountMismatch(
        table=f"{DATASET}: {action.name}",
        what=f"{action.name} cannot be read whole",
        why=f"{why}: vendor {total}, {len(found)} came",
        counts={"vendor": total, "extracted": len(found)},
        todo="Run again at a quieter hour",
    )
