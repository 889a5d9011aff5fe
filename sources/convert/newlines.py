"""Which CRs of a CSV file end a line: in a file whose lines end with LF or CRLF, a CR alone is part of a cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_CHUNK = 2**15
_BARE = re.compile(rb"\r(?!\n)")
_SIGNS = range(0xE000, 0xF900)
"""Private characters, of which a file has hardly one."""


def hide_bare_returns(file: Path) -> str:
    """Put a sign in the place of each CR that is part of a cell, because CSV readers end a line there.

    Returns the sign, which the file did not have; "" if there was nothing to hide.
    """
    bare = before = 0
    for chunk in _chunks(file):
        bare += chunk.count(b"\r") - chunk.count(b"\r\n") - (before == 13 and chunk.startswith(b"\n"))
        before = chunk[-1]
    if bare <= (before == 13) or not has_lines(_chunks(file)):
        return ""
    sign = next(chr(code) for code in _SIGNS if not _has(file, chr(code).encode()))
    target = file.with_suffix(".returns")
    rest = b""
    with target.open("wb") as out:
        for chunk in _chunks(file):
            chunk = rest + chunk
            # a CR at the end may belong to an LF that is still to come
            rest = b"\r" if chunk.endswith(b"\r") else b""
            out.write(_BARE.sub(sign.encode(), chunk.removesuffix(rest)))
        out.write(rest)
    target.replace(file)
    return sign


def has_lines(chunks: Iterable[bytes]) -> bool:
    """Is there an LF outside quotes? Else the lines end with CR."""
    inside = False
    for chunk in chunks:
        for place, text in enumerate(chunk.split(b'"')):
            inside ^= place > 0
            if not inside and b"\n" in text:
                return True
    return False


def _has(file: Path, sought: bytes) -> bool:
    rest = b""
    for chunk in _chunks(file):
        if sought in rest + chunk:
            return True
        rest = chunk[-len(sought) :]
    return False


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as body:
        while chunk := body.read(_CHUNK):
            yield chunk
