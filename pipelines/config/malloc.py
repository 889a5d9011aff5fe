"""How the C library hands out memory while a run has many threads.

glibc gives each thread a heap of its own, and a heap keeps what was freed in it: 30 threads that each held a page of an
answer once cost some 40 MB for the rest of the night. With one heap for all, what a thread frees the next one takes.
Threads of ours mostly wait, and DuckDB brings its own allocator, so that nobody queues for it. Arrow, whose own keeps
13 MB for a night that never held more than 3 at once, goes along.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 256 * 2**10
"""Bytes from which on a buffer has pages of its own, which go back to the system with it. Left alone, glibc raises that
with each larger buffer that is freed, up to 32 MB: then they leave holes in the heap, which were over half of it."""
_KEPT = 2**20
"""Bytes that may stay free at the heap's end."""
_ARROW_POOL = "ARROW_DEFAULT_MEMORY_POOL"
_CHOSEN = ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
"""By these a user says how it shall be; glibc has read them."""


def share_one_heap() -> None:
    """From now on all threads share one heap, Arrow too if it was not imported yet; large buffers stay out of it.

    Nothing happens with another C library, or where the user chose.
    """
    if not os.environ.get(_ARROW_POOL):
        os.environ[_ARROW_POOL] = "system"
    if any(os.environ.get(name) for name in _CHOSEN):
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for setting, value in ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _KEPT), (_M_ARENA_MAX, 1)):
            libc.mallopt(setting, value)


def give_back() -> None:
    """Give to the system what is free in the heap: a vendor is done with, and the next one needs it elsewhere."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
