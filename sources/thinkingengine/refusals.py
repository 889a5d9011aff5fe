"""What a return code becomes: an error classed by what helps. HTTP 200 with a code is an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    NotReady,
    Refused,
    Unavailable,
)
from sources.thinkingengine.settings import RETURN_CODES, VENDOR, Answered

_RUNNING = re.compile(r"task is (still )?running|任务.{0,6}(运行|执行)中", re.IGNORECASE)
# the task itself and not what it asks for: “task failed: Table … does not exist” is no lost task
_LOST = re.compile(
    r"\btask(\s{0,9}id)?[\s:=]{0,9}[\w-]{0,64}\s{0,9}((is|was|has|does|do|been)\s{1,9}){0,5}"
    r"(not found|not exist|expired)"
    r"|(\btask|任务)[\s:=]{0,9}[\w-]{0,64}?\s{0,9}(不存在|已过期)",
    re.IGNORECASE | re.ASCII,
)
_NO_PAGE = re.compile(r"page data (does not|doesn't|is not|do not) exist", re.IGNORECASE)
# not “token recognition error at: '`'”, which is about SQL
_NO_TOKEN = re.compile(r"\btoken\b.{0,20}\b(empty|null|missing|invalid|expired|required)\b", re.IGNORECASE)


class NoPermission(Refused):
    """This key may not do this one thing."""


class StillRunning(NotReady):
    """The SQL task has not ended."""


class LostTask(Refused):
    """The vendor does not know the SQL task any more: it has to be submitted again."""


class NoSuchPage(Refused):
    """There is no such page of the result."""


class NoData(Refused):
    """“No data currently”: an answer, for whoever asked for a list."""


def inspect_for(path: str) -> Callable[[int, Any], NightloadError | None]:
    """Classifies the envelope of one call."""

    def inspect(status: int, answer: Any) -> NightloadError | None:
        if isinstance(answer, Mapping) and "return_code" in answer:
            return refusal(path, answer, status)
        if status != 200:
            return None  # a gateway's answer: the general rules know it
        return BrokenAnswer(
            what="the answer has no return_code",
            where=f"{VENDOR}, {path}",
            todo=f"Check sources.{VENDOR}.base_url: is it this vendor's server?",
            status=status,
        )

    return inspect


def head_for(path: str) -> Callable[[bytes], NightloadError | None]:
    """Classifies an envelope at the head of an answer of lines."""

    def head(content: bytes) -> NightloadError | None:
        envelope = envelope_of(content)
        return None if envelope is None else refusal(path, envelope, 200)

    return head


def envelope_of(content: bytes) -> Mapping[str, Any] | None:
    """The envelope that the content is, or begins with in a line of its own; None if it begins with a row."""
    text = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text.startswith(b"{"):
        return None
    for candidate in (text.partition(b"\n")[0], text):
        try:
            parsed = orjson.loads(candidate)
        except orjson.JSONDecodeError:
            try:
                # lone surrogates, NaN, control characters, bytes that are no UTF-8
                parsed = json.loads(candidate.decode("utf-8", "replace"), strict=False)
            except (ValueError, RecursionError):
                continue
        return parsed if isinstance(parsed, dict) and "return_code" in parsed else None
    return None


def refusal(path: str, envelope: Mapping[str, Any], status: int) -> NightloadError | None:
    """The error that an envelope tells, or None."""
    said = envelope.get("return_code")
    try:
        code = int(str(said))
    except ValueError:
        code = None
    message = str(envelope.get("return_message") or envelope.get("stackMessage") or "")
    kind, meaning = RETURN_CODES.get(code, (None, "")) if code is not None else (None, "")
    if kind is Answered.OK:
        return None
    facts: dict[str, Any] = {
        "where": f"{VENDOR}, {path}",
        "why": f"{said}, {message or meaning or 'without a message'}",
        "status": status,
        "message": message,
    }
    if code in (-1, -1008, -1023):
        if _RUNNING.search(message):
            return StillRunning(what="the SQL task is still running", **facts)
        if _NO_PAGE.search(message):
            return NoSuchPage(what="the result has no such page", **facts)
        if _LOST.search(message):
            return LostTask(what="the vendor does not know the SQL task any more", todo="Run again", **facts)
    if code == -1008 and _NO_TOKEN.search(message):
        kind = Answered.ACCESS
    match kind:
        case Answered.AGAIN:
            return Unavailable(what="the vendor says to try again later", **facts)
        case Answered.NOT_READY:
            return NotReady(
                what="the data is not ready",
                todo="Nothing was moved: the next run asks for the same again",
                **facts,
            )
        case Answered.EMPTY:
            return NoData(what="the vendor has no data", **facts)
        case Answered.ACCESS:
            return AccessDenied(
                what="the vendor does not accept the key",
                todo=f"Check sources.{VENDOR}.token (ta-tool generate_api_secret or generate_root_secret; making a key "
                "again ends the former one) and the licence",
                **facts,
            )
        case Answered.PERMISSION:
            return NoPermission(
                what=f"the key may not call {path}",
                todo=f"Set sources.{VENDOR}.root_token, or leave the table out: sources.{VENDOR}.exclude",
                **facts,
            )
        case Answered.CONFIGURATION:
            return ConfigurationError(
                what=f"the vendor refuses what {path} was asked for",
                where=facts["where"],
                why=facts["why"],
                todo=f"Check project_id and the settings of this table under sources.{VENDOR}",
            )
        case Answered.FAILED | Answered.REFUSED:
            return Refused(what="the vendor refused", todo="Read its message; run again when it is mended", **facts)
        case _:
            return Refused(
                what="the vendor answered with a return code that is not in its own table",
                todo="Read its message, and tell the maintainers the code",
                **facts,
            )
