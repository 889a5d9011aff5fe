"""How the C library hands out memory while a run has many threads.

glibc gives each thread a heap of its own, and a heap keeps what was freed in it: 30 threads that each held a page of an
answer once cost some 40 MB for the rest of the night. With one heap for all, what a thread frees the next one takes.
Threads of ours mostly wait, and DuckDB and Arrow bring their own allocators, so that nobody queues for it.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_ARENA_MAX = -8
_CHOSEN = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
"""By these a user says how it shall be; glibc has read them."""


def share_one_heap() -> None:
    """From now on all threads share one heap. Nothing happens with another C library, or where the user chose."""
    if any(os.environ.get(name) for name in _CHOSEN):
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give to the system what is free in the heap: a vendor is done with, and the next one needs it elsewhere."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
