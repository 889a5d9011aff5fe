"""One request, as a client asks for it and as it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import httpx

from sources.core.errors import ConfigurationError, NightloadError
from sources.http.cassette import Asked

CONNECT_TIMEOUT = 10.0
Scalar = str | int | float | bool | None
Inspect = Callable[[int, Any], NightloadError | None]
Head = Callable[[bytes], NightloadError | None]
PauseAsked = Callable[[Mapping[str, str]], float | None]


class Patience(NamedTuple):
    """Each wait for bytes in seconds, in place of the instance's own, and what to do if it is too short."""

    seconds: float
    todo: str


class Options(TypedDict, total=False):
    """What every request takes.

    params   added to the instance's own; a value of None is left out
    body     bytes go as they are, anything else as JSON
    form     goes URL-encoded, instead of a body
    headers  added to the instance's own
    group    the rate to count against ("default")
    retry    may the request be sent again? (True for GET and HEAD, else False)
    patience for an answer that takes the vendor long to make. If it does not come, also by a gateway's 502 or 504, the
             request is sent once more and not again
    accept   the statuses that are an answer (200 only)
    inspect  gets the status and the parsed JSON: every one in `json`, those not accepted in `body` and `spool`.
             It may return an error to raise; one whose recovery is RETRY is retried under the same rules.
    head     gets the first bytes (at most 256 KB) of an accepted answer in `body` and `spool`, for vendors that refuse
             under a status that is an answer. What it returns counts as what `inspect` returns.
    private  names of members of the answer that are never kept, whatever is recorded
    login    is this how credentials are got? Each such request is another one, and stands for all of them
    """

    params: Mapping[str, Scalar | Sequence[Scalar]]
    body: Any
    form: Mapping[str, str]
    headers: Mapping[str, str]
    group: str
    retry: bool
    patience: Patience
    accept: Sequence[int]
    inspect: Inspect
    head: Head
    private: Sequence[str]
    login: bool


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it is prepared, with all that its answer is judged by."""

    vendor: str
    method: str
    url: httpx.URL
    where: str
    headers: Mapping[str, str]
    content: bytes | None
    form: Mapping[str, str] | None
    group: str
    retry: bool
    patience: Patience | None
    accept: Sequence[int]
    inspect: Inspect | None
    head: Head | None
    pause_asked: PauseAsked | None
    private: Sequence[str]
    masks: bool
    """Are registered secrets masked in the answer? Not where it brings a new one."""
    asked: Asked | None
    """As it is known again, where answers are recorded or played."""


def checked_headers(vendor: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Refused here, because httpx and h11 quote the value when they refuse one."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise ConfigurationError(
                what=f"the value of header {name} cannot be sent",
                where=vendor,
                why="it holds a line break, a blank at an end, or characters beyond ASCII",
                todo=f"Copy the credentials under sources.{vendor} again, without quotes or a line break",
            )
    return dict(headers)
