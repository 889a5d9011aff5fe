"""gzip from elsewhere, unpacked in bounded memory: what is packed small may be meant to fill a disk."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

PIECE = 2**20
MAX_RATIO = 200
"""So many times larger than what came may a body become. A table of repeated rows stays well below…"""
RATIO_FROM = 256 * 2**20
"""…and a body of up to so many bytes may be as monotonous as it likes."""


class Bomb(Exception):
    """A body that is packed as no honest one is; its text says why."""


def gunzip(raw: Iterable[bytes]) -> Iterator[bytes]:
    """Decode gzip (also several members in a row) in pieces of a megabyte, whatever the compression ratio.

    How large it may become in all is for the caller to say. Raises zlib.error if it is damaged, EOFError if it is cut
    and `Bomb` if it becomes out of all proportion.
    """
    member, begun = zlib.decompressobj(zlib.MAX_WBITS | 16), False
    came = size = 0
    for data in raw:
        came += len(data)
        while data:
            if member.eof:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            begun = True
            piece = member.decompress(data, PIECE)
            while piece:
                size += len(piece)
                if size > max(RATIO_FROM, came * MAX_RATIO):
                    raise Bomb(f"{came} bytes became more than {size}")
                yield piece
                piece = member.decompress(member.unconsumed_tail, PIECE)
            data = member.unused_data
    if begun and not member.eof:
        raise EOFError
