"""The rows of a spool in small files, which DuckDB reads in the memory of one of them.

DuckDB parses 2048 rows at once, and the parsed form is three times as large as the text: of wide rows that is more than
a table may take. It never parses across files, and a file of one long row also says how long that row is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import orjson

from sources.convert.duckdb_session import LONGEST_ROW
from sources.convert.spool import Spool
from sources.convert.types import Column
from sources.core.errors import RowTooLong

SIZE = 2 * 2**20
WIDE = 100
"""From so many columns on the rows are split at once, and not only when they do not fit."""
_TRIED = 4
"""Places in a block that are tried as the end of a row."""
_OPENING = re.compile(rb'\[|\{\s*"(?:[^"\\]|\\.){0,200}"?')
_WORD = 16
"""So near to its end, what is no JSON may go on."""


def split(spool: Spool, columns: Sequence[Column], *, key: Sequence[str], where: str) -> int:
    """Write the rows of a closed spool into `spool.pieces`; the bytes of the longest one.

    Each piece is proven to hold whole rows: it is read as JSON. There are none where the rows are no JSON, which the
    conversion reports. Raises `RowTooLong` beyond `LONGEST_ROW`.
    """
    longest, start, end = 0, 1, spool.path.stat().st_size - 1
    with spool.path.open("rb") as file:
        while start < end:
            size = SIZE
            while True:
                file.seek(start)
                block = file.read(min(size, end - start))
                cut = len(block) if start + len(block) == end else _end_of_row(block)
                if cut > 0:
                    break
                if len(block) > LONGEST_ROW and cut == 0:
                    raise _too_long(block, columns, key=key, where=where)
                if cut < 0:
                    for piece in spool.pieces:
                        piece.unlink()
                    spool.pieces.clear()
                    return 0
                size = 2 * size if size < 2**24 else size + size // 4
            piece = spool.path.with_suffix(f".{len(spool.pieces)}.piece")
            spool.pieces.append(piece)
            with piece.open("wb") as out:
                out.write(b"[")
                out.write(memoryview(block)[:cut])
                out.write(b"]")
            longest = max(longest, cut + 2)
            if cut > LONGEST_ROW:
                raise _too_long(block, columns, key=key, where=where)
            file.seek(start + cut)
            gap = re.match(rb"[\s,]*", file.read(64))
            start += cut + (gap.end() if gap else 0)
    return longest


def _end_of_row(block: bytes) -> int:
    """Where the last whole row of the block ends, 0 if none does, -1 if the block is no JSON.

    Another row most likely begins as the first one does; what looks so may stand inside a row, or in a text.
    """
    first = _OPENING.match(block)
    if first is None:
        return -1
    between = re.compile(rb"\s*,\s*" + re.escape(first[0]))
    at = len(block)
    for _ in range(_TRIED):
        while (at := block.rfind(b"}" if block[:1] == b"{" else b"]", 0, at)) > 0 and not between.match(block, at + 1):
            pass
        if at <= 0:
            break
        if _is_rows(block, at + 1):
            return at + 1
    return _end_by_reading(block.decode("latin-1"))  # one character per byte: the position is the block's


def _end_by_reading(text: str) -> int:
    """The same row by row, which is slower and finds every row."""
    decoder, end, at = json.JSONDecoder(strict=False), 0, 0
    while True:
        try:
            _, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            is_cut = error.msg.startswith("Unterminated") or error.pos > len(text) - _WORD
            return end if end or is_cut else -1
        except RecursionError:
            return end or -1
        at = end
        while text[at : at + 1] in (" ", "\t", "\r", "\n", ","):
            at += 1


def _is_rows(block: bytes, end: int) -> bool:
    text = b"".join((b"[", memoryview(block)[:end], b"]"))
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            json.loads(text, strict=False)  # NaN, lone surrogates
        except (ValueError, RecursionError):
            return False
    return True


def _too_long(block: bytes, columns: Sequence[Column], *, key: Sequence[str], where: str) -> RowTooLong:
    """Which row and column it is, as far as the beginning of the row shows."""
    labels = {column.name: column.label for column in columns}
    column = max(columns, key=lambda each: block.rfind(orjson.dumps(each.place[0]) + b":"), default=None)
    values = []
    for label in (labels.get(name, name) for name in key):
        found = re.search(re.escape(orjson.dumps(label)) + rb'\s*:\s*("(?:[^"\\]|\\.){0,100}"|[^,"}\]]{1,40})', block)
        values.append(f"{label} {found[1].decode('utf-8', 'replace') if found else '?'}")
    return RowTooLong(table=where, column=column.label if column else "", key=", ".join(values), most=LONGEST_ROW)
