"""Rows on their way to disk as one JSON array, and back from there one at a time."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from sources.convert.types import LOAD_ID, Real


@dataclass(frozen=True, kw_only=True)
class Part:
    """A parquet file of texts: `columns` are label → name in the file's order, the load id behind them.

    `digest` is the same for the same rows, however often they come.
    """

    path: Path
    columns: Mapping[str, str]
    rows: int
    digest: str

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.columns.values(), LOAD_ID)


class Spool:
    """Rows on their way to disk: one JSON array, appended to page by page.

    A row is an object, or, once `lists` has said what their places mean, an array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.has_nul = False
        """May a text have an escaped NUL?"""
        self.has_nan = False
        """May NaN or Infinity stand where a number is due?"""
        self.labels: list[str] | None = None
        self.widths: set[int] = set()
        self.parts: list[Part] = []
        self.pieces: list[Path] = []
        """The rows once more, in small files, where `sources.convert.pieces` made them."""
        self._file: IO[bytes] = path.open("wb")
        self._file.write(b"[")
        self._empty = True

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append parsed rows. Lone surrogates and NUL are replaced here, since orjson refuses the former."""
        if not rows:
            return
        try:
            array = orjson.dumps(rows)
        except (TypeError, orjson.JSONEncodeError):
            array = json.dumps(rows, ensure_ascii=True).encode()
        self.array(array)

    def array(self, array: bytes | memoryview) -> None:
        """Append the rows of one JSON array, given as bytes with its brackets."""
        inside = bytes(memoryview(array)[1:-1]).strip()
        if not inside:
            return
        if not self._empty:
            self._file.write(b",\n")
        self._file.write(inside)
        self._empty = False
        self._look(inside)

    def adopt(self, body: Path, start: int, end: int) -> None:
        """Append the array that stands at [start, end) of a file, without bringing it into memory."""
        with body.open("rb") as source:
            source.seek(start + 1)
            if not source.read(min(end - start - 2, 63)).strip():
                return
            if not self._empty:
                self._file.write(b",\n")
            self._file.flush()
            offset, left = start + 1, end - start - 2
            while left:
                sent = os.sendfile(self._file.fileno(), source.fileno(), offset, left)
                if not sent:
                    raise OSError(f"{body.name} ended before its array did")
                offset, left = offset + sent, left - sent
            self._file.seek(0, os.SEEK_END)
            self._empty = False
        for chunk in _overlapping(body, start, end):
            self._look(chunk)

    def _look(self, text: bytes) -> None:
        self.has_nul = self.has_nul or b"\\u0000" in text
        self.has_nan = self.has_nan or b"NaN" in text or b"Infinity" in text

    def lists(self, labels: Sequence[str]) -> None:
        """The rows that follow are arrays, their places so labelled; each label once.

        Said again, the labels may only become more: what the rows before lack is NULL.
        """
        known = self.labels or []
        if list(labels[: len(known)]) != known or len(set(labels)) < len(labels) or (not known and not self._empty):
            raise ValueError("the places of rows that were spooled cannot change their meaning")
        self.labels = list(labels)
        self.widths.add(len(labels))

    def part(self, part: Part) -> None:
        """Append the rows of a parquet file of texts; rows come in no other form then, and all columns are TEXT, their
        `place` the name in the file. What a file lacks is NULL. The file is taken over."""
        if not self._empty:
            raise ValueError("rows that were spooled cannot be joined with files")
        self.parts.append(part)

    def mark(self) -> tuple[int, list[str] | None, set[int]]:
        """Where the spool stands, for `rewind`."""
        return self._file.tell(), self.labels, set(self.widths)

    def rewind(self, mark: tuple[int, list[str] | None, set[int]]) -> None:
        """Forget the rows, and the labels, that came after `mark`."""
        position, self.labels, self.widths = mark[0], mark[1], set(mark[2])
        self._file.seek(position)
        self._file.truncate()
        self._empty = position <= 1

    def close(self) -> None:
        if not self._file.closed:
            self._file.write(b"]")
            self._file.close()


def iter_rows(
    path: Path, *, start: int = 0, as_written: bool = True, most: int | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of the array that begins at byte `start`, one at a time.

    `as_written` keeps numbers with a point or exponent as their text (`Real`), else they are floats. The first row that
    does not end within the next `most` characters ends the rows.
    """
    decoder = json.JSONDecoder(parse_float=Real if as_written else None, strict=False, object_pairs_hook=_each_key_once)
    with path.open("rb") as raw:
        raw.seek(start)
        file = io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
        text = file.read(1)
        if text != "[":
            raise ValueError("not an array")
        text, position, ended = "", 0, False
        while True:
            try:
                while position < len(text) and text[position] in " \t\r\n,":
                    position += 1
                if position < len(text) and text[position] == "]":
                    return
                row, after = decoder.raw_decode(text, position)
                if after == len(text) and not ended:
                    raise json.JSONDecodeError("may go on in the next chunk", text, after)
                position = after
                yield row
            except RecursionError:
                raise ValueError("a row is nested too deep") from None
            except json.JSONDecodeError:
                if ended:
                    raise
                text, position = text[position:], 0
                if most is not None and len(text) >= most:
                    return
                # as much again, so that a long row is parsed a few times and not once for each chunk
                chunk = file.read(max(1 << 20, len(text)))
                ended = not chunk
                text += chunk


def spooled_rows(spool: Spool, *, most: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a closed spool by their labels. Raises `ValueError` for an array of another length."""
    rows: Iterator[Any] = iter_rows(spool.path, most=most)
    if spool.labels is None:
        yield from rows
        return
    for row in rows:
        if not isinstance(row, list) or len(row) not in spool.widths:
            raise ValueError(f"a row is no list of {' or '.join(map(str, sorted(spool.widths)))} values")
        yield dict(zip(spool.labels, row, strict=False))


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object has the key {twice!r} twice, and one value would be lost")
    return row


def labels_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every label that the rows have, in the order of their first sight."""
    return list(dict.fromkeys(label for row in rows for label in row))


def _overlapping(body: Path, start: int, end: int) -> Iterator[bytes]:
    """What stands between these bytes, in chunks that share their edges, so that no short word falls between two.

    Read and not mapped: a mapped file counts as memory, all of it.
    """
    before, left = b"", end - start
    with body.open("rb") as file:
        file.seek(start)
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            left -= len(chunk)
            yield before + chunk
            before = chunk[-7:]
