"""The body of an answer as it comes: decoded, and no longer or larger than it may be."""

from __future__ import annotations

import time
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator

import httpx

from sources.core.errors import Unavailable
from sources.http.address import setting
from sources.http.error_mapping import Failure, broken
from sources.http.request import Call
from sources.http.unpack import Bomb, gunzip


def bounded(
    call: Call,
    response: httpx.Response,
    *,
    begun: float,
    deadline: float,
    most: int,
    count: Callable[[int], None],
) -> Iterator[bytes]:
    """The decoded body, bounded in time (`deadline` seconds from `begun`) and in size (`most` bytes).

    A gzip stream must come to its end. `count` is told how many bytes came, before decoding. A byte order mark is left
    out: JSON may not begin with one, and no other text needs it.
    """
    until, smaller = begun + deadline, "Ask for less at once: a smaller window, page or result"

    # made when needed: an error redacts its texts, which would cost more than a small answer does
    def late() -> Failure:
        what, why = "the answer did not end in time", f"still coming after {deadline:g} s"
        status = response.status_code
        error = Unavailable(what=what, where=call.where, why=why, todo=smaller, status=status)
        return Failure(error, again=True, once=True)

    def large() -> Failure:
        why = f"more than {most} bytes"
        return Failure(broken(call, response, what="the answer is too large", why=why, todo=smaller))

    def received() -> Iterator[bytes]:
        for data in response.iter_raw():
            count(len(data))
            if time.monotonic() > until:
                raise late()
            yield data

    length = response.headers.get("content-length", "")
    if call.method != "HEAD" and length.isdecimal() and int(length) > most:
        raise large()
    encoding = response.headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in {"identity", "gzip", "x-gzip"}:
        what = f"the answer is encoded as {encoding}"
        raise Failure(broken(call, response, what=what, why="only gzip was offered"))
    size = 0
    try:
        for chunk in _unmarked(received() if encoding == "identity" else gunzip(received())):
            size += len(chunk)
            if size > most:
                raise large()
            yield chunk
    except Bomb as bomb:
        what, todo = (
            "the answer is packed as no honest one is",
            f"Nothing was loaded; check {setting(call.vendor)}",
        )
        packed = broken(call, response, what=what, why=str(bomb), todo=todo)
        raise Failure(packed) from None
    except (zlib.error, EOFError):
        damaged = broken(call, response, what="the gzip stream is broken", why="it is cut or damaged")
        raise Failure(damaged, again=True) from None


def _unmarked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks without a byte order mark before them."""
    head: bytes | None = b""
    for chunk in chunks:
        if head is not None:
            head += chunk
            if BOM_UTF8.startswith(head) and head != BOM_UTF8:
                continue
            chunk, head = head.removeprefix(BOM_UTF8), None
        yield chunk
    if head:
        yield head
