"""How threads that talk to vendors are ended: only the main thread hears a signal, and they may be waiting for hours.

`stop` wakes every pause and every wait for an answer in this process; each of these threads then meets `Stopped` at
its next request. It derives from KeyboardInterrupt, so that nothing takes it for a failure of the vendor.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

_stopped = threading.Event()
_lock = threading.Lock()
_sockets: WeakSet[socket.socket] = WeakSet()


class Stopped(KeyboardInterrupt):
    """The run was told to end: nothing more is asked of a vendor."""


def stop() -> None:
    """End what waits for a vendor, until `go_on`."""
    _stopped.set()
    with _lock:
        for each in list(_sockets):
            with suppress(OSError):  # closed already
                # not SSLSocket's own, which forgets the cipher that another thread reads with
                socket.socket.shutdown(each, socket.SHUT_RDWR)


def go_on() -> None:
    """Vendors may be asked again; call it when the threads that were to end have ended."""
    _stopped.clear()


def check() -> None:
    """Raise `Stopped` if the run was told to end."""
    if _stopped.is_set():
        raise Stopped


def heard(error: BaseException) -> bool:
    """Is it a signal? DuckDB makes a RuntimeError of one that comes in the midst of a query, and dlt wraps that."""
    told: BaseException | None = error
    while told is not None:
        if isinstance(told, KeyboardInterrupt) or (type(told) is RuntimeError and str(told) == "Query interrupted"):
            return True
        told = told.__cause__ or told.__context__
    return False


def sleep(seconds: float) -> None:
    """Sleep, or raise `Stopped`."""
    _stopped.wait(seconds)
    check()


def watch(event: str, told: dict[str, Any]) -> None:
    """An httpcore `trace` extension that remembers the sockets, for `stop`."""
    if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
        found = told["return_value"].get_extra_info("socket")
        if isinstance(found, socket.socket):
            with _lock:
                _sockets.add(found)
