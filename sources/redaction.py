"""Keeps secrets out of logs, error texts and records.

Two nets. The registry knows the exact secrets of this process, in every spelling they travel in. The patterns catch
what looks like a credential and was never registered: a key in a URL, an `Authorization` line, a password in JSON.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import threading
from collections.abc import Callable
from html.entities import codepoint2name
from urllib.parse import quote, quote_plus

MASK = "***"

# Shorter strings turn up inside ordinary words, and masking those would make every text unreadable.
_SHORTEST = 6

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
_known_bytes: tuple[bytes, ...] = ()
"""The spellings that the body of an answer may hold, the longest first."""


def register_secret(value: str) -> None:
    """From now on `redact` masks `value`, however it is spelled: see `_spelled`.

    Strings under six characters are ignored.
    """
    global _known, _known_bytes
    with _lock:
        known = {text: _spelled(text) for text in {value, value.strip()} - _known.keys() if len(text) >= _SHORTEST}
        if known:
            _known = dict(sorted((_known | known).items(), key=lambda item: len(item[0]), reverse=True))
            forms = {form for text in _known for form in _spellings(text)}
            _known_bytes = tuple(sorted((form.encode("utf-8", "replace") for form in forms), key=len, reverse=True))


def clear() -> None:
    """Forget every registered secret."""
    global _known, _known_bytes
    with _lock:
        _known, _known_bytes = {}, ()


def redact(text: str) -> str:
    """`text` with every registered secret, and whatever looks like a credential, replaced by `***`."""
    for pattern in _known.values():
        text = pattern.sub(MASK, text)
    for shape, replacement in _PATTERNS:
        text = shape.sub(replacement, text)
    return text


def mask_known(data: bytes) -> bytes:
    """`data` with every registered secret replaced by `***`, for bodies; what only looks like one is left alone.

    One search for each spelling: several times faster than a regular expression of them all.
    """
    for form in _known_bytes:
        if form in data:
            data = data.replace(form, MASK.encode())
    return data


def longest_known() -> int:
    """How many bytes the longest spelling of a registered secret has."""
    return max(map(len, _known_bytes), default=0)


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


def _spelled(value: str) -> re.Pattern[str]:
    """All the ways in which a secret travels: character by character quoted for URLs (once or twice, in large or small
    letters), escaped for JSON, HTML, SQL or Python; as a whole in base64, wherever in it (`user:password`), or in hex.
    """
    # A lone surrogate cannot be written as UTF-8; such a value still gets its other spellings.
    data = value.encode("utf-8", "replace")
    forms = ["".join(_ways(char) for char in value)]
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).decode()
        # what the characters that hold only bits of ours are depends on what stands there
        inner = text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        if len(inner) >= _LEAST_BASE64:
            forms.append("".join(_BASE64.get(char, char) for char in inner) + r"[A-Za-z0-9+/_-]{0,2}")
    if len(data) * 2 >= _LEAST_HEX:
        forms.append(f"(?i:{data.hex()})")
    return re.compile("|".join(forms))


def _spellings(value: str) -> set[str]:
    """The common ones among these, each as it stands."""
    data = value.encode("utf-8", "replace")
    return {
        value,
        quote(data),
        quote(data, safe=""),
        quote_plus(data),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        base64.b64encode(data).decode().rstrip("="),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
    }


def _ways(char: str) -> str:
    """A pattern of one character as it may be written."""
    if char.isascii() and char.isalnum():
        return char  # nobody escapes these
    quoted = "".join(f"%(?:25){{0,3}}(?i:{byte:02x})" for byte in char.encode("utf-8", "replace"))
    units = char.encode("utf-16-be", "surrogatepass")
    unicode = "".join(rf"\\{{1,8}}u(?i:{units[at : at + 2].hex()})" for at in range(0, len(units), 2))
    number = rf"#(?:0{{0,4}}{ord(char)}|[xX]0{{0,4}}(?i:{ord(char):x}))"
    named = "|".join([number, *(each for each in (codepoint2name.get(ord(char)),) if each)])
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
