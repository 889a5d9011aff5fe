"""What an answer says: its JSON, the vendor's own words, the pause that it asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from sources.core.errors import one_line

ERROR_BYTES = 2**18
UNPARSED: Final = object()
_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Spooled:
    path: Path
    size: int
    headers: Mapping[str, str] = field(repr=False)


def parse(content: bytes) -> Any:
    try:
        # orjson turns integers beyond 64 bits into floats without a word. Nineteen digits in a row may be one;
        # a translated copy finds them about ten times faster than a regular expression.
        if b"0" * 19 not in content.translate(_ALL_ZEROS):
            return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return UNPARSED


def flaw_of(content: bytes, *, gap: tuple[int, int] = (0, 0)) -> str:
    """What these bytes hold that JSON may not; empty if they may only be cut. `gap`: where how many are left out."""
    try:
        json.loads(content.decode())
    except UnicodeDecodeError as error:
        is_cut = error.reason == "unexpected end of data" and error.end == len(content)
        at, flaw = error.start, "" if is_cut else f"is not UTF-8 (0x{content[error.start]:02x})"
    except json.JSONDecodeError as error:
        is_control = error.msg.startswith("Invalid control character")
        at = len(error.doc[: error.pos].encode())
        flaw = f"is a control character (U+{ord(error.doc[error.pos]):04X}) in a text" if is_control else ""
    except (ValueError, RecursionError):
        return ""
    else:
        return ""
    return flaw and f"byte {at + (gap[1] if at > gap[0] else 0)} {flaw}"


def vendor_text(parsed: Any) -> str:
    """What the vendor says went wrong, wherever its envelope puts it."""
    if isinstance(parsed, str):
        return one_line(parsed)[:300]
    if isinstance(parsed, list):
        return "; ".join(filter(None, map(vendor_text, parsed[:5])))[:300]
    if isinstance(parsed, dict):
        for name in ("message", "Message", "errors", "error", "return_message", "job"):
            if text := vendor_text(parsed.get(name)):
                return text
    return ""


def plain_text(content: bytes) -> str:
    text = content[:4096].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else one_line(text)[:300]


def pause_asked(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds, from either of its two forms; None if there is none that makes sense."""
    text = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
        return seconds if 0 <= seconds < math.inf else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(text)
        # Against the vendor's own clock if it tells it, so that a wrong clock here does not matter.
        now = parsedate_to_datetime(response.headers["date"]) if "date" in response.headers else datetime.now(UTC)
        wait: timedelta = until.replace(tzinfo=until.tzinfo or UTC) - now.replace(tzinfo=now.tzinfo or UTC)
        return max(0.0, wait.total_seconds())
    except (ValueError, OverflowError):
        return None


def head_of(chunks: Iterator[bytes], limit: int) -> bytes:
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= limit:
            break
    return head[:limit]
