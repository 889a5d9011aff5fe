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
_known: set[str] = set()
_known_pattern: re.Pattern[str] | None = None
_known_bytes: tuple[bytes, ...] = ()


def register_secret(value: str) -> None:
    """From now on `redact` masks `value`, as it is and URL-quoted, JSON-escaped or in base64.

    Strings under six characters are ignored.
    """
    global _known_pattern, _known_bytes
    forms = {form for text in (value, value.strip()) if len(text) >= _SHORTEST for form in _spellings(text)}
    if not forms:
        return
    with _lock:
        _known.update(forms)
        # Longest first: of two secrets where one begins the other, the long one must not leave its tail behind.
        ordered = sorted(_known, key=len, reverse=True)
        _known_pattern = re.compile("|".join(map(re.escape, ordered)))
        _known_bytes = tuple(each.encode("utf-8", "replace") for each in ordered)


def clear() -> None:
    """Forget every registered secret."""
    global _known_pattern, _known_bytes
    with _lock:
        _known.clear()
        _known_pattern, _known_bytes = None, ()


def redact(text: str) -> str:
    """`text` with every registered secret, and whatever looks like a credential, replaced by `***`."""
    pattern = _known_pattern
    if pattern is not None:
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


def _spellings(value: str) -> set[str]:
    # A lone surrogate cannot be written as UTF-8; such a value still gets its other spellings.
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
