"""Vendors at work side by side: each in a thread of its own, taken up again by the main thread as they come to an end.

dlt keeps what a thread is at (active pipeline, state, configuration sections) by the thread, so that a pipeline that
was made here may extract there and load here again, as long as no two threads have it at once. Threads and no
processes: they mostly wait for vendors and for DuckDB, which lets the others go on, and each process would cost dlt's
two seconds and 100 MB again.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

from sources.core import cancellation

Job = TypeVar("Job")


class SideBySide(Generic[Job]):
    """Jobs in threads, at most `width` of them under way: from `start` until `over` is told of them.

    Left by an exception (Ctrl-C, SIGTERM), it ends the jobs at their next request to a vendor, and waits for that.
    """

    def __init__(self, width: int) -> None:
        self._width, self._under_way = width, 0
        # no other queue lets a signal handler run while the main thread waits
        self._done: SimpleQueue[tuple[Job, BaseException | None]] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def has_room(self) -> bool:
        return self._under_way < self._width

    @property
    def under_way(self) -> bool:
        return self._under_way > 0

    def start(self, job: Job, work: Callable[[Job], None], *, name: str) -> None:
        def carry_out() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))  # the main thread's to hear
            failed = None
            try:
                work(job)
            except BaseException as error:  # noqa: BLE001 - told to the main thread, which judges it
                failed = error
            self._done.put((job, failed))

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=carry_out, name=name))
        self._under_way += 1
        self._threads[-1].start()

    def ended(self, job: Job, failed: BaseException) -> None:
        """A job that failed before it could be started."""
        self._under_way += 1
        self._done.put((job, failed))

    def next(self, timeout: float | None) -> tuple[Job, BaseException | None] | None:
        """A job that has come to its end, and what it failed with; None if there is none within `timeout` seconds."""
        try:
            return self._done.get(timeout=timeout)
        except Empty:
            return None

    def over(self) -> None:
        """A job that was taken is done with, and another may take its place."""
        self._under_way -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            return
        cancellation.stop()
        for thread in self._threads:
            thread.join()
        cancellation.go_on()
