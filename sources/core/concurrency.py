"""Several fetches side by side, their results in order; and what several tables need, fetched once."""

from __future__ import annotations

import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from sources.core.errors import NightloadError

Item = TypeVar("Item")
Result = TypeVar("Result")


class once(Generic[Result]):
    """A property that is made once per instance. If that fails, every further use raises the same error again.

    A vendor is not asked once per table for a list that it cannot give.
    """

    def __init__(self, make: Callable[[Any], Result]) -> None:
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Result:
        known, failed = instance.__dict__, f"{self._name} failed"
        if failed in known:
            raise copy.copy(known[failed])
        try:
            known[self._name] = self._make(instance)  # found before this descriptor from now on
        except NightloadError as error:
            known[failed] = copy.copy(error)  # who meets it may add its own place
            raise
        return known[self._name]  # type: ignore[no-any-return]


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
