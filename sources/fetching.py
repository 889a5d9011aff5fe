"""Several fetches side by side, their results in order."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(fetch: Callable[[Item], Result], items: Iterable[Item], *, width: int) -> Iterator[Result]:
    """`fetch` of every item over `width` threads, yielded in the order of `items`.

    At most `width` items are begun that were not yielded yet. The first error comes at its place and cancels what has
    not begun; closing the generator does the same. Both return when the running ones have ended.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(max_workers=width, thread_name_prefix=f"{threading.current_thread().name}-fetch")
    window: deque[Future[Result]] = deque()

    def begin(item: Item) -> Future[Result]:
        # each thread knows what its caller is about: which table is walked
        return pool.submit(copy_context().run, fetch, item)

    try:
        window.extend(begin(item) for item in itertools.islice(source, width))
        while window:
            result = window.popleft().result()
            window.extend(begin(item) for item in itertools.islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
