"""A run that is told to end: whoever waits for a vendor, in whatever thread, ends at once and blames nobody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from dlt.destinations.exceptions import DestinationConnectionError

from sources.core import cancellation
from sources.core.cancellation import Stopped
from sources.core.concurrency import in_order
from sources.http.client import Http
from sources.http.rate_limit import Rate


@pytest.fixture(autouse=True)
def going_on() -> Iterator[None]:
    yield
    cancellation.go_on()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A vendor that takes requests and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(30)
        yield listener


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}/"


class Waiting:
    """A thread that waits for something; what it raised."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.raised: BaseException | None = None

        def work() -> None:
            try:
                wait()
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.raised = error

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def stopped(self) -> bool:
        self._thread.join(10)
        return not self._thread.is_alive() and isinstance(self.raised, Stopped)


def test_a_wait_for_an_answer_is_ended(silent: socket.socket) -> None:
    with Http(vendor="acme", base_url=url_of(silent)) as http:
        waiting = Waiting(lambda: http.json("GET", "rows"))
        with silent.accept()[0] as connection:
            assert connection.recv(1000).startswith(b"GET /rows")
            cancellation.stop()
            assert waiting.stopped()
        assert (http.requests, http.retries) == (1, 0)


def test_answers_that_several_threads_wait_for_are_ended(silent: socket.socket) -> None:
    with Http(vendor="acme", base_url=url_of(silent)) as http:
        waiting = Waiting(lambda: list(in_order(lambda _: http.json("GET", "rows"), range(9), width=3)))
        connections = [silent.accept()[0] for _ in range(3)]
        for connection in connections:
            connection.recv(1000)
        cancellation.stop()
        assert waiting.stopped()
        assert http.requests == 3
        for connection in connections:
            connection.close()


def test_a_pause_is_ended(silent: socket.socket) -> None:
    with Http(vendor="acme", base_url=url_of(silent), rates={"default": Rate(0.001)}) as http:
        http._limiters["default"].hold(1000)
        waiting = Waiting(lambda: http.json("GET", "rows"))
        sleeping = Waiting(lambda: cancellation.sleep(1000))
        cancellation.stop()
        assert waiting.stopped() and sleeping.stopped()
        assert http.requests == 0


def test_afterwards_vendors_are_asked_again(silent: socket.socket) -> None:
    cancellation.stop()
    with Http(vendor="acme", base_url=url_of(silent)) as http:
        with pytest.raises(Stopped):
            http.json("GET", "rows")
        cancellation.go_on()
        waiting = Waiting(lambda: http.json("GET", "rows"))
        with silent.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            waiting._thread.join(10)
        assert waiting.raised is None


def test_a_signal_is_heard_though_dlt_wraps_what_duckdb_makes_of_it() -> None:
    def wrapped(why: str) -> BaseException:
        try:
            raise RuntimeError(why)
        except RuntimeError as error:
            try:
                raise DestinationConnectionError("DuckDbSqlClient", "tune", str(error), error)
            except DestinationConnectionError as told:
                return told

    assert cancellation.heard(wrapped("Query interrupted"))
    assert not cancellation.heard(wrapped("the file is locked"))
