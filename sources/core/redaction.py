"""Keeps secrets out of logs, error texts and records.

Two nets. The registry knows the exact secrets of this process, in every spelling they travel in. The patterns catch
what looks like a credential and was never registered: a key in a URL, an `Authorization` line, a password in JSON.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from html.entities import html5

MASK = "***"

# Shorter strings turn up inside ordinary words, and masking those would make every text unreadable.
_SHORTEST = 6
# Rows are masked for longer ones only: a password may be a word or a number that a vendor's rows hold too.
_SHORTEST_IN_ROWS, _SURE_IN_ROWS = 8, 16

_NAMES = r"(?:api[-_]?keys?|token|password|passwd|secret|signature)"
# What is masked already is passed over: texts are redacted more than once, and a second pass must not eat what follows.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Greedy up to the last @ before a slash: passwords hold @ too.
        (r"(//)[^/\s\"'<>?#]+@", rf"\1{MASK}@"),
        (r"(authorization\\?[\"']\s*[:,]\s*b?)([\"']).*?\2", rf"\1\2{MASK}\2"),
        # To the end of the line: schemes put commas, blanks and quotes into their credentials.
        (r"(authorization\s*[:=]\s*)(?![\s\"']|\*\*\*)[^\r\n]+", rf"\1{MASK}"),
        (rf"({_NAMES}\\?[\"']\s*[:,]\s*b?\\?[\"'])[^\"']+", rf"\1{MASK}"),
        (rf"({_NAMES}\s*(?:=|%3D)\s*)(?!\*\*\*)(?:\"[^\"]*\"|'[^']*'|[^\s&\"'<>;,)\]}}]+)", rf"\1{MASK}"),
        (r"((?:api[-_]?key|password)\s*:\s*)(?!\*\*\*)[^\s\"',;]+", rf"\1{MASK}"),
    )
)

_LOUD = ("httpx", "httpcore", "hpack", "urllib3", "dlt")

_lock = threading.RLock()
_known: dict[str, re.Pattern[str]] = {}
"""Longest first: of two secrets where one begins the other, the long one must not leave its tail behind."""
_in_rows: tuple[_Form, ...] = ()
"""The forms of the secrets that are masked in the bodies of answers too."""


def register_secret(value: str, *, in_rows: bool = True) -> None:
    """From now on `redact` masks `value`, however it is spelled: see `_forms`.

    Strings under six characters are ignored. `in_rows`: may it occur in a vendor's rows? Then `mask_known` and `masked`
    look for it too, unless ordinary data could hold it (`_is_distinct`).
    """
    global _known, _in_rows
    with _lock:
        known = {
            text: re.compile("|".join(form.pattern for form in _forms(text)))
            for text in {value, value.strip()} - _known.keys()
            if len(text) >= _SHORTEST
        }
        if known:
            _known = dict(sorted((_known | known).items(), key=lambda item: len(item[0]), reverse=True))
        # A delimiter of JSON at an end is no part of what a row holds, and a body without it is no JSON any more.
        bare = value.strip().strip("\"'\\")
        if in_rows and _is_distinct(bare):
            found = [form for form in _forms(bare) if form not in _in_rows]
            _in_rows = (*_in_rows, *found)


def clear() -> None:
    """Forget every registered secret."""
    global _known, _in_rows
    with _lock:
        _known, _in_rows = {}, ()


def redact(text: str) -> str:
    """`text` with every registered secret, and whatever looks like a credential, replaced by `***`."""
    for pattern in _known.values():
        text = pattern.sub(MASK, text)
    for shape, replacement in _PATTERNS:
        text = shape.sub(replacement, text)
    return text


def mask_known(data: bytes) -> bytes:
    """`data` with every distinct registered secret replaced by `***`, for bodies and rows."""
    return b"".join(masked([data]))


def masked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A body with every distinct registered secret replaced by `***`, also where it lies across two chunks.

    The result does not depend on where chunks end: rows must not change with the network.
    """
    masking = Masking()
    for chunk in chunks:
        if ready := masking.feed(chunk):
            yield ready
    if ready := masking.rest():
        yield ready


class Masking:
    """`masked`, for bodies that are pushed."""

    def __init__(self) -> None:
        self._forms = _in_rows
        self._hold = max((form.longest for form in self._forms), default=1) - 1
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of the body so far is sure."""
        data = self._held + data if self._held else data
        # whatever begins before `sure` ends within `data`
        ready, self._held = self._cut(data, max(0, len(data) - self._hold))
        return ready

    def rest(self) -> bytes:
        data, self._held = self._held, b""
        return self._cut(data, len(data))[0]

    def _cut(self, data: bytes, sure: int) -> tuple[bytes, bytes]:
        spans = [
            match.span()
            for form in self._forms
            if form.may_be_in(data)
            for match in form.in_bytes.finditer(data)
            if match.start() < sure
        ]
        if not spans:
            return data[:sure], data[sure:]
        pieces, at = [], 0
        for start, end in sorted(spans):
            if start >= at:
                pieces += [data[at:start], MASK.encode()]
            at = max(at, end)
        return b"".join([*pieces, data[at:sure]]), data[max(at, sure) :]


class RedactingFilter(logging.Filter):
    """Masks a record's message, arguments, traceback and stack; lets every record pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        _mask(record)
        return True


def install() -> None:
    """Mask everything that is logged in this process, and silence the libraries that log URLs.

    The record factory covers handlers that are added later, and loggers that do not propagate (dlt's own). Records
    that are not built by it (a queue, a pickled record) are met by the filter on the root's handlers. May be called
    often; levels are set by the first call only, so that a developer can turn a library up again.
    """
    with _lock:
        factory = logging.getLogRecordFactory()
        if not isinstance(factory, _RedactingFactory):
            logging.setLogRecordFactory(_RedactingFactory(factory))
            for name in _LOUD:
                logger = logging.getLogger(name)
                logger.setLevel(max(logger.level, logging.WARNING))
        for handler in logging.getLogger().handlers:
            if not any(isinstance(present, RedactingFilter) for present in handler.filters):
                handler.addFilter(RedactingFilter())


class _RedactingFactory:
    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *args: object, **kwargs: object) -> logging.LogRecord:
        record = self._make(*args, **kwargs)
        _mask(record)
        return record


_formatter = logging.Formatter()


def _mask(record: logging.LogRecord) -> None:
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - a caller's broken format or __str__ must not turn logging into a crash
        message = f"{record.msg} (arguments that do not fit were left out)"
    record.msg, record.args = redact(message), None
    if record.exc_info:
        record.exc_text = record.exc_text or _formatter.formatException(record.exc_info)
        # Handlers with a formatter of their own would print the exception itself.
        record.exc_info = None
    if record.exc_text:
        record.exc_text = redact(record.exc_text)
    if record.stack_info:
        record.stack_info = redact(record.stack_info)


# Escapes of JSON, SQL, a shell or Python before a character, also of a text that was escaped before. Bounded, as
# whatever repeats must be: a text may be nothing but backslashes.
_ESCAPED = r"\\{0,8}"
_CONTROLS = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
_BASE64 = {"+": r"(?:[+-]|%2[Bb])", "/": r"(?:\\{0,4}[/_]|%2[Ff])"}
_LEAST_BASE64 = 7
_LEAST_HEX = 12
_SHORTEST_ANCHOR = 4
# `&amp;amp;amp;#x00001F600;`, `%2525252Fx` of four bytes, an escaped pair of surrogates: none has more.
_LONGEST_CHARACTER = 48


@dataclass(frozen=True, kw_only=True)
class _Form:
    """One way to write a secret. `anchors`: one of them is in each text that holds it; none: that is not known.

    Searching a long literal costs some 0.2 ns a byte, a pattern a hundred times as much.
    """

    pattern: str
    in_bytes: re.Pattern[bytes]
    anchors: tuple[bytes, ...]
    longest: int

    def may_be_in(self, data: bytes) -> bool:
        return not self.anchors or any(anchor in data for anchor in self.anchors)


def _form(text: str, spelled: Callable[[str], str], *, more: str = "", any_case: bool = False) -> _Form:
    pattern = "".join(map(spelled, text)) + more
    pattern = f"(?i:{pattern})" if any_case else pattern
    run = max(re.findall("[A-Za-z0-9]+", text), key=len, default="")
    anchors = {run.lower(), run.upper()} if any_case else {run} if len(run) >= _SHORTEST_ANCHOR else set()
    return _Form(
        pattern=pattern,
        in_bytes=re.compile(pattern.encode("utf-8", "surrogatepass")),
        anchors=tuple(sorted(anchor.encode() for anchor in anchors)),
        longest=2 + sum(1 if char.isascii() and char.isalnum() else _LONGEST_CHARACTER for char in text),
    )


def _forms(value: str) -> list[_Form]:
    """All the ways in which a secret travels: character by character quoted for URLs (once or twice, in large or small
    letters), escaped for JSON, HTML, SQL or Python; as a whole in base64, wherever in it (`user:password`), or in hex.
    """
    # A lone surrogate cannot be written as UTF-8; such a value still gets its other spellings.
    data = value.encode("utf-8", "replace")
    forms = [_form(value, _ways)]
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).decode()
        # what the characters that hold only bits of ours are depends on what stands there
        inner = text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        if len(inner) >= _LEAST_BASE64:
            forms.append(_form(inner, lambda char: _BASE64.get(char, char), more=r"[A-Za-z0-9+/_-]{0,2}"))
    if len(data) * 2 >= _LEAST_HEX:
        forms.append(_form(data.hex(), str, any_case=True))
    return forms


def _is_distinct(value: str) -> bool:
    """Is it sure that no ordinary data holds this?"""
    letters = any(char.isalpha() for char in value)
    digits = any(char.isdecimal() for char in value)
    return letters and (len(value) >= _SURE_IN_ROWS or (digits and len(value) >= _SHORTEST_IN_ROWS))


@cache
def _entities() -> dict[str, list[str]]:
    """HTML's names of each character, the longest first."""
    names: dict[str, list[str]] = {}
    for name in sorted(html5, key=len, reverse=True):
        if name.endswith(";"):
            names.setdefault(html5[name], []).append(name[:-1])
    return names


def _ways(char: str) -> str:
    """A pattern of one character as it may be written."""
    if char.isascii() and char.isalnum():
        return char  # nobody escapes these
    quoted = "".join(f"%(?:25){{0,3}}(?i:{byte:02x})" for byte in char.encode("utf-8", "replace"))
    units = char.encode("utf-16-be", "surrogatepass")
    unicode = "".join(rf"\\{{1,8}}u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2))
    number = rf"#(?:0{{0,4}}{ord(char)}|[xX]0{{0,4}}(?i:{ord(char):x}))"
    named = "|".join([number, *_entities().get(char, ())])
    ways = [_ESCAPED + re.escape(char), quoted, unicode, rf"&(?:amp;){{0,3}}(?:{named});"]
    if char == "\\":
        ways[0] = r"\\{1,8}"
    elif char in "'\"":
        ways.insert(0, char * 2)  # before the one of them that it begins with
    elif char == " ":
        ways.append(r"\+")
    if char in _CONTROLS:
        ways.append(rf"\\{{1,8}}{_CONTROLS[char]}")
    return f"(?:{'|'.join(ways)})"
