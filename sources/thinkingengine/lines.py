"""The forms in which rows of SQL come: JSON arrays or objects, one a line, an envelope line before them or none.

A JSON text holds no raw line break, so the rows of a block are as many as its lines, and the block becomes one JSON
array without being parsed. Only odd forms are looked at line by line; digits stay as they were written in both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sources.convert.types import label_of
from sources.core.errors import BrokenAnswer
from sources.thinkingengine.refusals import envelope_of, refusal
from sources.thinkingengine.settings import VENDOR

BLOCK = 4 * 2**20
_BETWEEN = ",\n"
_decoder = json.JSONDecoder(strict=False)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows as the bytes of one JSON array of arrays. `labels` where the block itself told them."""

    array: bytes
    rows: int
    labels: tuple[str, ...] | None = None


def read_block(content: bytes, labels: Sequence[str] | None, *, where: str) -> Block:
    """The rows of whole lines. `labels` give the order of values where lines are objects.

    Raises `BrokenAnswer` for a line that is no row, which a cut answer ends with, and what an envelope among the rows
    tells: an object with `return_code` is one, unless that is a column.
    """
    told, text = (None, content) if "return_code" in (labels or ()) else _without_envelope(content)
    labels = labels or told
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    text = text.strip(b" \t\r\n")
    if not text:
        return Block(array=b"[]", rows=0, labels=told)
    breaks = text.count(b"\n")
    if text.startswith(b"[") and text.endswith(b"]") and breaks == text.count(b"]\n["):
        _check_last(text, where=where)
        return Block(array=b"[" + text.replace(b"\n", b",\n") + b"]", rows=breaks + 1, labels=told)
    rows, keys = [], tuple(map(label_of, labels)) if labels else None
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values, names = elements(line.decode("utf-8", "replace").strip())
        except (ValueError, RecursionError):
            raise _broken(f"line {number} is no row: {line[:60].decode('utf-8', 'replace')!r}", where) from None
        if names is not None and "return_code" in names and "return_code" not in (keys or ()):
            raise refusal(where.removeprefix(f"{VENDOR}, "), envelope_of(line) or {}, 200) or _broken(
                f"line {number} is an envelope", where
            )
        if names is not None:
            names = [label_of(name) for name in names]
            keys = keys or tuple(names)
            by_name = dict(zip(names, values, strict=True))
            if len(by_name) < len(names):
                raise _broken(f"line {number} has two keys that become one label", where)
            if strange := set(by_name) - set(keys):
                raise _broken(f"line {number} has {', '.join(sorted(strange))}, which no header tells", where)
            values = [by_name.get(key, "null") for key in keys]
        rows.append(f"[{','.join(values)}]")
    return Block(array=f"[{_BETWEEN.join(rows)}]".encode(), rows=len(rows), labels=told or (None if labels else keys))


def elements(text: str) -> tuple[list[str], list[str] | None]:
    """The values of one array or object as they are written, and an object's keys. Raises `ValueError`."""
    if text[:1] not in ("[", "{"):
        raise ValueError("no array or object")
    closing = "]" if text[0] == "[" else "}"
    names: dict[str, None] | None = None if closing == "]" else {}
    values: list[str] = []
    at = _after_blanks(text, 1)
    while text[at : at + 1] != closing:
        if values:
            if text[at : at + 1] != ",":
                raise ValueError("no comma")
            at = _after_blanks(text, at + 1)
        if names is not None:
            name, at = _decoder.raw_decode(text, at)
            at = _after_blanks(text, at)
            if not isinstance(name, str) or name in names or text[at : at + 1] != ":":
                raise ValueError("no key, or one twice")
            names[name] = None
            at = _after_blanks(text, at + 1)
        _, end = _decoder.raw_decode(text, at)
        values.append(text[at:end])
        at = _after_blanks(text, end)
    if at + 1 != len(text):
        raise ValueError("something follows")
    return values, None if names is None else list(names)


def in_order_of(array: bytes, labels: Sequence[str], known: Sequence[str]) -> bytes:
    """The rows of a block with their values brought into the order of `known`; what a row lacks is null.

    Raises `BrokenAnswer` for a line that is no row.
    """
    places = {label: place for place, label in enumerate(labels)}
    rows = []
    for number, line in enumerate(array[1:-1].split(b"\n"), start=1):
        try:
            values, _ = elements(line.decode().removesuffix(","))
        except (ValueError, RecursionError):
            raise _broken(f"line {number} is no row", VENDOR) from None
        if len(values) != len(labels):
            raise _broken(f"line {number} has {len(values)} values for {len(labels)} columns", VENDOR)
        rows.append(f"[{','.join(values[places[label]] if label in places else 'null' for label in known)}]")
    return f"[{_BETWEEN.join(rows)}]".encode()


def blocks(file: Path, *, size: int = BLOCK) -> Iterator[bytes]:
    """A file in blocks of whole lines."""
    rest = b""
    with file.open("rb") as body:
        while data := body.read(size):
            head, found, tail = (rest + data).rpartition(b"\n")
            rest = tail
            if found:
                yield head
    if rest.strip():
        yield rest


def labels_from(headers: Any) -> tuple[str, ...] | None:
    """The headers as labels, each once: a name that comes again gets a number. None if there are none."""
    if not isinstance(headers, list) or not headers:
        return None
    labels: dict[str, None] = {}
    numbers: Counter[str] = Counter()
    for header in map(label_of, headers):
        label = header
        while label in labels:
            numbers[header] += 1
            label = f"{header} ({numbers[header] + 1})"
        labels[label] = None
    return tuple(labels)


def _without_envelope(content: bytes) -> tuple[tuple[str, ...] | None, bytes]:
    content = content.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not content.startswith(b"{"):
        return None, content
    line, _, rest = content.partition(b"\n")
    envelope = envelope_of(line)
    if envelope is None:
        whole = envelope_of(content)
        return (_told(whole), b"") if whole is not None else (None, content)
    return _told(envelope), rest


def _told(envelope: Mapping[str, Any]) -> tuple[str, ...] | None:
    data = envelope.get("data")
    return labels_from(data.get("headers")) if isinstance(data, Mapping) else None


def _check_last(text: bytes, *, where: str) -> None:
    """A cut answer may end in `]` by chance."""
    last = text[text.rfind(b"\n") + 1 :]
    try:
        orjson.loads(last)
    except orjson.JSONDecodeError:
        try:
            json.loads(last, strict=False)  # lone surrogates, NaN
        except (ValueError, RecursionError):
            raise _broken(f"the last line is no row: {last[:60].decode('utf-8', 'replace')!r}", where) from None


def _after_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def _broken(why: str, where: str) -> BrokenAnswer:
    return BrokenAnswer(what="the rows cannot be read", where=where, why=why, todo="Run again: the answer may be cut")
