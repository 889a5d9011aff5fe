"""The rows in a vendor's envelope: found in the bytes, not parsed."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable
from typing import Any

import orjson

from sources.core.errors import BrokenAnswer
from sources.http.response import UNPARSED, flaw_of, parse

_TRIED = 2**26
"""So many bytes does `cut_array` try as envelopes; then it reads the array: a body may hold a `]` in every place."""


def cut_array(
    body: bytes | mmap.mmap, key: str, *, where: str, whole: Callable[[Any], bool] = bool
) -> tuple[Any, int, int]:
    """Find the array under `key` in a JSON document without parsing it: (envelope, start, end).

    The envelope is the document with that array empty. A quote inside a JSON string is escaped, so
    `"key": [` can only be a key. The end is the first `]` in the tail with which the rest parses:
    that proves the envelope. `whole` says whether an envelope has all that it must; where none does (a
    long list follows ours), the array is read to its end. Raises `BrokenAnswer` if there is no such array.
    """
    opening = re.compile(rb'"' + key.encode() + rb'"\s*:\s*\[').search(body)
    if opening is None:
        raise BrokenAnswer(
            what=f"no list under “{key}” in the answer",
            where=where,
            why=flaw_of(body[:]) if len(body) < _TRIED else "",
            todo="Run again; if it stays, the vendor changed its envelope",
        )
    start = opening.end() - 1
    found = _find_end(body, start, orjson.loads)
    if found is not None and whole(found[0]):
        return found
    if found is None:
        found = _find_end(body, start, _leniently)
    if found is None or not whole(found[0]):
        found = _read_to_end(body, start)
    if found is None or not whole(found[0]):
        raise BrokenAnswer(
            what=f"the list under “{key}” does not end", where=where, todo="Run again; the body was cut on its way"
        )
    envelope = parse(body[:start] + b"[]" + body[found[2] :])
    if envelope is UNPARSED:
        raise BrokenAnswer(
            what=f"the answer is not JSON outside of its “{key}”",
            where=where,
            why=flaw_of(body[:start] + b"[]" + body[found[2] :], gap=(start, found[2] - start - 2)),
            todo="Run again; if it stays, report it to the vendor",
        )
    return envelope, start, found[2]


def _find_end(body: bytes | mmap.mmap, start: int, load: Callable[[bytes], Any]) -> tuple[Any, int, int] | None:
    """What `cut_array` returns, by trying the last places where the array may end."""
    prefix = body[:start] + b"[]"
    tail_from = max(start + 1, len(body) - 65536)
    tail = body[tail_from:]
    found: tuple[Any, int, int] | None = None
    misses = 0
    at, left = tail.rfind(b"]"), _TRIED
    while at >= 0 and misses < 16 and left > 0:
        left -= len(prefix) + len(tail) - at
        try:
            found = (load(prefix + tail[at + 1 :]), start, tail_from + at + 1)
            misses = 0
        except (ValueError, RecursionError):
            # arrays may follow ours ("errors": []), so the first hit from the end need not be the one
            misses += 1 if found else 0
        at = tail.rfind(b"]", 0, at)
    return found if left > 0 else None


def _leniently(text: bytes) -> Any:
    """JSON with control characters in texts, lone surrogates, NaN, and bytes that are no UTF-8."""
    return json.loads(text.decode("utf-8", "replace"), strict=False)


def _read_to_end(body: bytes | mmap.mmap, start: int) -> tuple[Any, int, int] | None:
    """What `cut_array` does, by reading the array: slow, and as large in memory as the array."""
    try:
        # latin-1: one character per byte, so that the decoder's position is the body's
        _, length = json.JSONDecoder(strict=False).raw_decode(body[start:].decode("latin-1"))
        return _leniently(body[:start] + b"[]" + body[start + length :]), start, start + length
    except (ValueError, RecursionError):
        return None
