"""What the fuzzers share: nasty texts, how bytes get cut and damaged, and how long evil input may take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import settings
from hypothesis import strategies as st

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"

costly = settings(max_examples=400 if DEEP else 20)
"""For a property whose every example takes a database, or many requests."""
cheap = settings(max_examples=3000 if DEEP else 40)

TEXTS = st.text(max_size=30) | st.text(alphabet="\"',;\t\r\n\\ \0\ufeff\u0085\u2028a1城é{}[]:", max_size=12)
WELL_FORMED = TEXTS.map(lambda text: text.encode("utf-8", "replace").decode())
"""Without lone surrogates, which UTF-8 cannot carry."""

NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WELL_FORMED,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WELL_FORMED, inner, max_size=4),
    max_leaves=5,
)
"""Anything that JSON can say."""


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """The bytes with one thing wrong: cut, a byte changed, a piece left out, doubled, or put in."""
    at = draw(st.integers(0, max(len(body) - 1, 0)))
    piece = draw(st.integers(1, 9))
    match draw(st.sampled_from(("cut", "flip", "out", "twice", "in"))):
        case "cut":
            return body[:at]
        case "flip":
            return body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
        case "out":
            return body[:at] + body[at + piece :]
        case "twice":
            return body[: at + piece] + body[at:]
        case _:
            return body[:at] + draw(st.binary(min_size=1, max_size=4)) + body[at:]


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    """What is inside takes at most so much CPU. Said of input on which a quadratic way takes minutes."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < seconds, f"{took:.1f} s of CPU"
