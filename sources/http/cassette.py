"""What of a vendor's answers may be kept on disk for a replay, and how a request is known again.

`sources.http.client` passes each response to the recorder of this vendor, or takes it from a player instead of sending
the request. What is recorded is the decoded response, less

- every registered secret, in each spelling (`sources.core.redaction`);
- of JSON documents: members that are called like credentials (each Redash query carries a key, each public dashboard
  an address that is one), links that open a file by their signature, and of people who stand in a row about something
  else all but their ids: no table has them;
- what a client says of its answers (`private`): tokens that a login gives, fields that are dropped unseen.

A request is known again by its method, path, parameters and body with the credentials taken out: nonces, dates and
signatures are put on later and are no part of it, and a link is known by its path alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl

from sources.core import cancellation
from sources.core.redaction import MASK, Masking, mask_known, redact

Held = TypeVar("Held")

HEADERS = ("content-type", "date", "retry-after", "x-acs-retry-after")
"""What is kept of an answer's headers: what anybody here looks at."""

_CREDENTIAL = re.compile(
    r"secret|passw(or)?d|pwd|token|credential|^authorization$|^cookie$|^public_url$|^profile_image_url$|api_?-?keys?$|"
    r"(access|app|application)[_-]?(key|code)s?(_?id)?$",
    re.IGNORECASE,
)
_SIGNED = re.compile(
    r"https?:[\\/]+[^?\s]+\?(?:.*?[&_-])?(?:sign(?:ature)?|expires?|credential|token|(?:aws|oss)?access_?key_?id)=",
    re.IGNORECASE,
)
_HINTS = (
    b"secret", b"passw", b"pwd", b"token", b"credential", b"authorization", b"cookie", b"key", b"code", b"email",
    b"sign", b"expires", b"public_url", b"profile_image_url",
)  # fmt: skip
"""No document without one of these words, in any case, has anything to take out."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it is known again: `where` tells it to people, `fingerprint` stands for it."""

    fingerprint: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One recorded answer."""

    status: int
    headers: Mapping[str, str]
    content: Callable[[], Iterator[bytes]]


class Tape(Protocol):
    """The recording of one answer: it counts only once it came to its `end`."""

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def drop(self) -> None:
        """The answer did not come whole."""
        ...


class Recorder(Protocol):
    private: Sequence[str]
    """Names of members that are masked in every answer of this vendor."""

    def begin(self, asked: Asked, *, table: str, status: int, headers: Mapping[str, str]) -> Tape | None:
        """None: this answer is not to be kept. `table` is the `dataset.table` it is asked for, "" for several."""
        ...

    def met(self, table: str, labels: Sequence[str], *, protected: bool) -> None:
        """The labels that a table has; `protected`: some of its values are hashed or dropped."""
        ...


class Player(Protocol):
    def answer(self, asked: Asked) -> Kept:
        """What was recorded for this request, in the recorded order. Raises `NightloadError` if nothing was."""
        ...


_recorders: dict[str, Recorder] = {}
_players: dict[str, Player] = {}
_table: ContextVar[str] = ContextVar("table", default="")


def recorder_of(vendor: str) -> Recorder | None:
    return _recorders.get(vendor)


def player_of(vendor: str) -> Player | None:
    return _players.get(vendor)


@contextmanager
def recording(vendor: str, recorder: Recorder) -> Iterator[None]:
    """All that this vendor answers inside is given to the recorder."""
    with _held(_recorders, vendor, recorder):
        yield


@contextmanager
def playing(vendor: str, player: Player) -> Iterator[None]:
    """No request to this vendor leaves inside: the player answers it."""
    with _held(_players, vendor, player):
        yield


@contextmanager
def _held(where: dict[str, Held], vendor: str, each: Held) -> Iterator[None]:
    where[vendor] = each
    try:
        yield
    finally:
        del where[vendor]


@contextmanager
def walking(table: str) -> Iterator[None]:
    """What is asked inside, in threads of `in_order` too, is asked for this `dataset.table`."""
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)


def pause(vendor: str, seconds: float) -> None:
    """Sleep while a vendor works; a replay does not wait for what has happened."""
    if player_of(vendor) is None:
        cancellation.sleep(seconds)


def table_of_now() -> str:
    return _table.get()


def met(vendor: str, table: str, labels: Sequence[str], *, protected: bool = False) -> None:
    """Tell whoever records this vendor which columns a table has."""
    if (recorder := recorder_of(vendor)) is not None:
        recorder.met(table, labels, protected=protected)


def asked(
    method: str,
    path: str,
    *,
    query: str = "",
    form: Mapping[str, str] | None = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Asked:
    """A request as it is known again. Of the headers of its own, those with credentials do not count."""
    parameters = sorted(_masked(parse_qsl(query, keep_blank_values=True)))
    fields = sorted(_masked((form or {}).items()))
    own = {name.lower(): value for name, value in (headers or {}).items() if name.lower() not in _NO_PART}
    told = [method, path, parameters, fields, mask_known(body or b"").decode("utf-8", "replace"), sorted(own.items())]
    fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]
    shown = "&".join(f"{name}={value[:60]}" for name, value in (*parameters, *fields) if value != MASK)
    action = f" {own['x-acs-action']}" if "x-acs-action" in own else ""
    return Asked(fingerprint=fingerprint, where=redact(f"{method} {path}{action}{f' ?{shown[:300]}' if shown else ''}"))


_NO_PART = frozenset({"authorization", "cookie", "content-type", "x-client-id"})


def _masked(pairs: Any) -> list[tuple[str, str]]:
    return [(name, MASK if _CREDENTIAL.search(name) else mask_known(value.encode()).decode()) for name, value in pairs]


def may_be_kept(content: bytes, *, private: Sequence[str] = ()) -> bytes:
    """A whole answer without what may not be kept; as it came, to the byte, if nothing has to go."""
    lowered = content.lower()
    if any(hint in lowered for hint in (*_HINTS, *(name.lower().encode() for name in private))):
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError):
            return mask_known(content)
        clean = _clean(parsed, frozenset(private))
        if clean is not parsed:
            content = json.dumps(clean).encode()
    return mask_known(content)


def _clean(value: Any, private: frozenset[str]) -> Any:
    """The same object if nothing in it has to go."""
    if isinstance(value, str):
        return value.partition("?")[0] if _SIGNED.match(value) else value
    if isinstance(value, list):
        items = [_clean(each, private) for each in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if not isinstance(value, dict):
        return value
    secret_parameter = _CREDENTIAL.search(str(value.get("ParameterName") or ""))
    clean: dict[str, Any] = {}
    for name, each in value.items():
        if name in private and each not in (None, "", [], {}):
            clean[name] = MASK if isinstance(each, str) else None
        elif isinstance(each, str) and each and _CREDENTIAL.search(name):
            clean[name] = MASK
        elif secret_parameter and name in ("DefaultValue", "ExampleValue"):
            clean[name] = None
        elif isinstance(each, dict) and isinstance(each.get("email"), str) and "id" in each:
            clean[name] = {"id": each["id"]}
        else:
            clean[name] = _clean(each, private)
    return clean if any(clean[name] is not each for name, each in value.items()) else value


class Masked:
    """A stream of bytes on its way to a tape, its secrets masked: one may lie across two pieces."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._masking = Masking()

    def write(self, data: bytes) -> None:
        if ready := self._masking.feed(data):
            self._tape.write(ready)

    def end(self) -> None:
        if ready := self._masking.rest():
            self._tape.write(ready)
        self._tape.end()
