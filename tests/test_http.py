"""The shared HTTP room against a vendor that misbehaves, over real sockets."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import logging
import math
import os
import pickle
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import certifi
import httpx
import pytest

from sources.core import redaction
from sources.core.concurrency import in_order
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    NotReady,
    Recovery,
    Refused,
    Unavailable,
    summarize,
)
from sources.http.client import Http
from sources.http.rate_limit import Limiter, Rate
from sources.http.request import Patience
from sources.http.retry import TRIES

QUERY_CANARY = "q-canary-91f3"
HEADER_CANARY = "h-canary-77ab"

Route = Callable[["Handler"], None]


class Seen(NamedTuple):
    path: str
    headers: Message
    received: bytes


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an ACK
    server: Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client gave up on us, as it should on some of these routes
            self.close_connection = True

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        received = self.rfile.read(length)
        path = self.path.partition("?")[0]
        with self.server.lock:
            self.server.hits[path] += 1
            self.hit = self.server.hits[path]
            self.server.seen.append(Seen(self.path, self.headers, received))
        self.server.routes.get(path, lambda h: h.answer(404, {"message": "no such route"}))(self)

    do_POST = do_HEAD = do_GET

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **given}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, Route] = {}
        self.hits: Counter[str] = Counter()
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def on(self, path: str, *answers: Route) -> None:
        """The first answer to the first hit and so on; the last one stays."""
        self.routes[path] = lambda handler: answers[min(handler.hit, len(answers)) - 1](handler)


def say(status: int, body: Any = None, **headers: str) -> Route:
    return lambda handler: handler.answer(status, body, **headers)


def cut(handler: Handler) -> None:
    handler.answer(200, b"[1, 2", Content_Length="4000")
    handler.drop()


def drip(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        time.sleep(0.02)


def stall(handler: Handler) -> None:
    time.sleep(1.0)
    handler.answer(200, [])


OK = say(200, {"rows": [1]})
HTML = say(200, b"\n<!DOCTYPE html><title>Login</title>", Content_Type="text/html; charset=utf-8")
CUT_GZIP = say(200, gzip.compress(json.dumps(list(range(5000))).encode())[:-400], Content_Encoding="gzip")


@pytest.fixture(autouse=True)
def no_secrets_left() -> Iterator[None]:
    redaction.clear()
    yield
    redaction.clear()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def sleeps() -> list[float]:
    return []


@pytest.fixture
def connect(server: Server, sleeps: list[float]) -> Iterator[Callable[..., Http]]:
    """An `Http` for the server whose pauses are noted, not slept."""
    opened: list[Http] = []

    def make(**settings: Any) -> Http:
        opened.append(Http(**{"vendor": "acme", "base_url": server.url, "sleep": sleeps.append, **settings}))
        return opened[-1]

    yield make
    for http in opened:
        http.close()


Connect = Callable[..., Http]


# ---------------------------------------------------------------- what is sent


def test_path_joins_the_base_path_and_parameters_merge(server: Server, connect: Connect) -> None:
    server.on("/acme-org/api/items", OK)
    http = connect(base_url=f"  {server.url}acme-org/ ", params={"key": "k", "page": 1})
    http.json("GET", "/api/items", params={"page": 2, "tags": ["a", "b"], "none": None, "name": "城 市&"})
    assert server.seen[0].path == "/acme-org/api/items?key=k&page=2&tags=a&tags=b&name=%E5%9F%8E+%E5%B8%82%26"
    http.json("GET", "api/items", headers={"X-One": "1"})
    assert server.seen[1].headers["X-One"] == "1"


def test_a_link_keeps_its_query_as_it_came(server: Server, connect: Connect) -> None:
    server.on("/file.csv", say(200, b"a,b\n", Content_Type="text/csv"))
    assert connect().body("GET", "file.csv?sign=a%2Fb+c&expires=9").content == b"a,b\n"
    assert server.seen[0].path == "/file.csv?sign=a%2Fb+c&expires=9"


def test_bodies_and_forms(server: Server, connect: Connect) -> None:
    server.on("/x", OK)
    http = connect()
    http.json("POST", "x", body={"a": 1})
    http.json("POST", "x", form={"sql": "select 1"})
    http.json("POST", "x", body=b"raw")
    assert [seen.received for seen in server.seen] == [b'{"a":1}', b"sql=select+1", b"raw"]
    kinds = [seen.headers["Content-Type"] for seen in server.seen]
    assert kinds == ["application/json", "application/x-www-form-urlencoded", None]


def test_cookies_are_not_kept(server: Server, connect: Connect) -> None:
    server.on("/x", say(200, [], Set_Cookie="session=abc; Path=/"))
    http = connect()
    http.json("GET", "x")
    http.json("GET", "x")
    assert [seen.headers["Cookie"] for seen in server.seen] == [None, None]


def test_every_try_is_signed_anew(server: Server, connect: Connect) -> None:
    server.on("/x", say(503), OK)
    nonces = itertools.count()

    def sign(request: httpx.Request) -> None:
        request.headers["X-Nonce"] = str(next(nonces))

    connect(sign=sign).json("GET", "x")
    assert [seen.headers["X-Nonce"] for seen in server.seen] == ["0", "1"]


def test_a_proxy_from_the_environment_does_not_take_loopback(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.on("/x", OK)
    assert connect().json("GET", "x") == {"rows": [1]}


@pytest.mark.parametrize("path", ["a/../b", "..", "a#b", "./a"])
def test_a_path_that_goes_elsewhere_is_refused(server: Server, connect: Connect, path: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        connect().json("GET", path)
    assert not server.seen


def test_a_path_cannot_change_the_host(server: Server, connect: Connect) -> None:
    with pytest.raises(Refused):
        connect().json("GET", "//evil.example/https://evil.example/x")
    assert len(server.seen) == 1


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id": 9007199254740993}', {"id": 9007199254740993}),
        (b"[18446744073709551616, -9223372036854775809]", [18446744073709551616, -9223372036854775809]),
        (b'["\\ud800"]', ["\ud800"]),
        (b"\xef\xbb\xbf[1]", [1]),
        ('["城市"]'.encode(), ["城市"]),
        (b"null", None),
    ],
)
def test_json_is_exact(server: Server, connect: Connect, body: bytes, expected: Any) -> None:
    server.on("/x", say(200, body))
    answer = connect().json("GET", "x")
    assert answer == expected
    assert "float" not in repr([type(value) for value in answer or []])


def test_json_may_hold_nan(server: Server, connect: Connect) -> None:
    server.on("/x", say(200, b"[NaN, -Infinity]"))
    nan, infinity = connect().json("GET", "x")
    assert math.isnan(nan) and infinity == -math.inf


def test_json_of_a_wrong_content_type_is_read(server: Server, connect: Connect) -> None:
    server.on("/x", say(200, b"[1]", Content_Type="text/html"))
    assert connect().json("GET", "x") == [1]


@pytest.mark.parametrize("body", [b"", b"a,b\n1,2\n", b'{"a": 1', b"<xml/>", b"[" * 100_000])
def test_what_is_not_json_is_a_broken_answer(server: Server, connect: Connect, body: bytes) -> None:
    server.on("/x", say(200, body))
    with pytest.raises(BrokenAnswer, match="JSON") as caught:
        connect().json("GET", "x")
    assert caught.value.status == 200
    assert server.hits["/x"] == TRIES


def test_a_web_page_is_not_data(server: Server, connect: Connect, tmp_path: Path) -> None:
    server.on("/x", HTML)
    calls: list[Callable[[Http], object]] = [
        lambda http: http.json("GET", "x"),
        lambda http: http.body("GET", "x"),
        lambda http: http.spool("x", tmp_path / "x"),
    ]
    for call in calls:
        with pytest.raises(BrokenAnswer, match=r"web page .* wrong base_url, a proxy or login page\?"):
            call(connect())
    assert server.hits["/x"] == TRIES * len(calls)
    assert list(tmp_path.iterdir()) == []


def test_gzip_is_decoded_also_in_several_members(server: Server, connect: Connect) -> None:
    packed = gzip.compress(b"[1,") + gzip.compress(b"2]") + b"\0\0"
    server.on("/x", say(200, packed, Content_Encoding="gzip"))
    http = connect()
    assert http.json("GET", "x") == [1, 2]
    assert http.bytes == len(packed)


def test_a_cut_gzip_stream_is_noticed_and_fetched_again(server: Server, connect: Connect) -> None:
    server.on("/x", CUT_GZIP, OK)
    assert connect().json("GET", "x") == {"rows": [1]}
    server.on("/y", CUT_GZIP)
    with pytest.raises(BrokenAnswer, match="gzip stream is broken"):
        connect().body("GET", "y")


def test_damaged_gzip_and_unknown_encodings(server: Server, connect: Connect) -> None:
    server.on("/damaged", say(200, b"not gzip at all", Content_Encoding="gzip"))
    server.on("/br", say(200, b"[1]", Content_Encoding="br"))
    with pytest.raises(BrokenAnswer, match="gzip stream is broken"):
        connect().json("GET", "damaged")
    with pytest.raises(BrokenAnswer, match="encoded as br"):
        connect().json("GET", "br")
    assert server.hits == {"/damaged": TRIES, "/br": 1}


def test_too_large_is_refused_before_and_while_streaming(server: Server, connect: Connect) -> None:
    def chunked(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"64\r\n" + b"1" * 100 + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    server.on("/declared", say(200, b"1" * 5000))
    server.on("/chunked", chunked)
    server.on("/bomb", say(200, gzip.compress(b" " * 50_000_000), Content_Encoding="gzip"))
    http = connect(max_bytes=4999)
    for path in ("declared", "chunked", "bomb"):
        with pytest.raises(BrokenAnswer, match="too large"):
            http.body("GET", path)
    assert set(server.hits.values()) == {1}, "too large is not asked for again"
    assert connect(max_bytes=5000).body("GET", "declared").content == b"1" * 5000


# ---------------------------------------------------------------- spooling


def test_spool_writes_the_whole_file(server: Server, connect: Connect, tmp_path: Path) -> None:
    data = b"0123456789abcdef" * 400_000
    server.on("/x", say(200, gzip.compress(data), Content_Encoding="gzip", Content_Type="text/csv"))
    spooled = connect().spool("x", tmp_path / "x.csv")
    assert (spooled.path, spooled.size, spooled.headers["content-type"]) == (tmp_path / "x.csv", len(data), "text/csv")
    assert (tmp_path / "x.csv").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def test_spool_starts_over_after_a_cut(server: Server, connect: Connect, tmp_path: Path) -> None:
    server.on("/x", cut, CUT_GZIP, say(200, b"[9]"))
    assert connect().spool("x", tmp_path / "x").size == 3
    assert (tmp_path / "x").read_bytes() == b"[9]"


@pytest.mark.parametrize("route", [cut, CUT_GZIP, HTML, say(404, {"message": "gone"})])
def test_spool_leaves_an_older_file_alone_and_no_partial_one(
    server: Server, connect: Connect, tmp_path: Path, route: Route
) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    server.on("/x", route)
    with pytest.raises(NightloadError):
        connect().spool("x", file)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


# ---------------------------------------------------------------- how failures are classed


@pytest.mark.parametrize(
    ("status", "kind", "recovery", "hits"),
    [
        (400, Refused, Recovery.STOP, 1),
        (401, AccessDenied, Recovery.STOP, 1),
        (403, AccessDenied, Recovery.STOP, 1),
        (404, Refused, Recovery.STOP, 1),
        (422, Refused, Recovery.STOP, 1),
        (429, Unavailable, Recovery.RETRY, TRIES),
        (500, Unavailable, Recovery.RETRY, 2),
        (501, Unavailable, Recovery.RETRY, 1),
        (502, Unavailable, Recovery.RETRY, TRIES),
        (503, Unavailable, Recovery.RETRY, TRIES),
        (504, Unavailable, Recovery.RETRY, TRIES),
        (204, BrokenAnswer, Recovery.RETRY, 1),
    ],
)
def test_statuses(
    server: Server, connect: Connect, status: int, kind: type[NightloadError], recovery: Recovery, hits: int
) -> None:
    server.on("/x", say(status, b"" if status == 204 else {"message": "because"}))
    http = connect()
    with pytest.raises(kind) as caught:
        http.json("GET", "x")
    error: Any = caught.value
    assert (type(error), error.recovery, error.status) == (kind, recovery, status)
    assert error.message == ("" if status == 204 else "because")
    assert f"acme, GET {server.url}x" in str(error)
    assert (server.hits["/x"], http.requests, http.retries) == (hits, hits, hits - 1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"message": "No cached result found\nfor this query."}, "No cached result found for this query."),
        ({"errors": [{"message": "a"}, {"message": "b"}]}, "a; b"),
        ({"errors": {"message": "only"}}, "only"),
        ({"job": {"status": 4, "error": "paused"}}, "paused"),
        (b"plain words", "plain words"),
        (b"<html>page</html>", ""),
        ({"message": "key=abc api_key=zzz"}, "key=abc api_key=***"),
        ({"message": "m" * 1000}, "m" * 300),
    ],
)
def test_the_vendors_words_are_carried(server: Server, connect: Connect, body: Any, message: str) -> None:
    server.on("/x", say(404, body))
    with pytest.raises(Refused) as caught:
        connect().json("GET", "x")
    assert (caught.value.status, caught.value.message) == (404, message)


def test_an_accepted_status_is_an_answer(server: Server, connect: Connect, tmp_path: Path) -> None:
    server.on("/x", say(404, {"message": "no"}))
    assert connect().json("GET", "x", accept=(200, 404)) == {"message": "no"}
    assert connect().body("GET", "x", accept=(404,)).status == 404


def test_inspect_names_what_the_envelope_means(server: Server, connect: Connect, tmp_path: Path) -> None:
    server.on("/login", say(404, {"message": "Please login and try again."}))
    server.on("/busy", say(200, {"status_code": 503}), say(500, {"status_code": 503}), OK)
    server.on("/later", say(200, {"status": "running"}))

    def inspect(status: int, parsed: Any) -> NightloadError | None:
        if status == 404 and "login" in parsed["message"]:
            return AccessDenied(what="the key is wrong")
        if parsed.get("status_code") == 503:
            return Unavailable(what="busy")
        return NotReady(what="still running") if parsed.get("status") == "running" else None

    for ask in ("json", "spool"):
        with pytest.raises(AccessDenied, match=r"the key is wrong \(acme, GET http"):
            if ask == "json":
                connect().json("GET", "login", inspect=inspect)
            else:
                connect().spool("login", tmp_path / "x", inspect=inspect)
    http = connect()
    assert http.json("GET", "busy", inspect=inspect) == {"rows": [1]}
    assert http.retries == 2
    with pytest.raises(NotReady):
        connect().json("GET", "later", inspect=inspect)
    assert server.hits == {"/login": 2, "/busy": 3, "/later": 1}


def test_errors_survive_pickling_and_can_be_placed(server: Server, connect: Connect) -> None:
    server.on("/x", say(404, {"message": "no"}))
    with pytest.raises(Refused) as caught:
        connect().json("GET", "x")
    error = pickle.loads(pickle.dumps(caught.value.at("table t", "page 3")))
    assert (type(error), error.status, str(error)) == (Refused, 404, str(caught.value))
    assert "(table t, page 3, acme, GET http" in summarize(error)


# ---------------------------------------------------------------- retries


@pytest.mark.parametrize(
    "failure", [cut, Handler.drop, HTML, say(429), say(500), say(502), say(503), say(504), CUT_GZIP]
)
def test_a_get_recovers_and_a_post_is_sent_once(server: Server, connect: Connect, failure: Route) -> None:
    server.on("/x", failure, OK)
    http = connect()
    with pytest.raises(NightloadError):
        http.json("POST", "x", body={})
    assert (server.hits["/x"], http.retries) == (1, 0)
    server.hits.clear()
    assert http.json("GET", "x") == {"rows": [1]}
    server.hits.clear()
    assert http.json("POST", "x", retry=True) == {"rows": [1]}
    assert (server.hits["/x"], http.retries) == (2, 2)


def test_a_get_may_be_told_not_to_retry(server: Server, connect: Connect) -> None:
    server.on("/x", say(503), OK)
    with pytest.raises(Unavailable):
        connect().json("GET", "x", retry=False)
    assert server.hits["/x"] == 1


def test_a_500_is_repeated_once_also_between_others(server: Server, connect: Connect) -> None:
    server.on("/x", say(503), say(500), OK)
    assert connect().json("GET", "x") == {"rows": [1]}
    server.on("/y", say(500), say(503), say(500), OK)
    with pytest.raises(Unavailable, match="tried 3 times"):
        connect().json("GET", "y")


def test_a_request_that_never_left_is_sent_again_even_if_it_is_a_post(sleeps: list[float]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with Http(vendor="acme", base_url=f"http://127.0.0.1:{port}", sleep=sleeps.append) as http:
        with pytest.raises(
            Unavailable, match=rf"cannot reach 127.0.0.1:{port} .*refused.*sources.acme.base_url"
        ) as caught:
            http.json("POST", "x", body={})
        assert http.retries == TRIES - 1
    assert caught.value.status is None


def test_backoff_is_jittered_and_grows_to_its_cap(server: Server, connect: Connect, sleeps: list[float]) -> None:
    server.on("/x", say(503))
    http = connect(retry_budget=400)
    for _ in range(40):
        with pytest.raises(Unavailable):
            http.json("GET", "x")
    by_try = [sleeps[position :: TRIES - 1] for position in range(TRIES - 1)]
    for position, waits in enumerate(by_try):
        cap = 0.5 * 2**position
        assert 0 <= min(waits) < cap * 0.4 and cap * 0.6 < max(waits) <= cap


def date_in(seconds: float, now: datetime | None = None) -> str:
    return format_datetime((now or datetime.now(UTC)) + timedelta(seconds=seconds), usegmt=True)


def test_retry_after_is_obeyed_in_seconds_and_as_a_date(server: Server, connect: Connect, sleeps: list[float]) -> None:
    server.on("/seconds", say(429, Retry_After="7"), OK)
    connect().json("GET", "seconds")
    assert len(sleeps) == 1 and 6.9 < sleeps[0] <= 7
    sleeps.clear()
    server.on("/date", lambda handler: handler.answer(503, Retry_After=date_in(20)), OK)
    connect().json("GET", "date")
    assert len(sleeps) == 1 and 18 < sleeps[0] <= 20


def test_retry_after_is_read_against_the_vendors_clock(server: Server, connect: Connect, sleeps: list[float]) -> None:
    def ahead(handler: Handler) -> None:
        now = datetime.now(UTC) + timedelta(hours=3)
        handler.date_time_string = lambda timestamp=None: date_in(0, now)  # type: ignore[method-assign]
        handler.answer(429, Retry_After=date_in(15, now))

    server.on("/x", ahead, OK)
    connect().json("GET", "x")
    assert len(sleeps) == 1 and 14 < sleeps[0] <= 15


@pytest.mark.parametrize("text", ["", "soon", "-5", "nan", "Thu, 01 Jan 1970 00:00:00 GMT", "0"])
def test_a_retry_after_without_sense_means_ordinary_backoff(
    server: Server, connect: Connect, sleeps: list[float], text: str
) -> None:
    server.on("/x", say(429, Retry_After=text), OK)
    assert connect().json("GET", "x") == {"rows": [1]}
    assert len(sleeps) == 1 and sleeps[0] <= 0.5


def test_a_longer_pause_than_we_wait_is_told(server: Server, connect: Connect, sleeps: list[float]) -> None:
    server.on("/x", say(429, {"message": "slow down"}, Retry_After="3418"))
    with pytest.raises(Unavailable, match="3418 s") as caught:
        connect().json("GET", "x")
    assert (caught.value.retry_after, caught.value.status, caught.value.message) == (3418, 429, "slow down")
    assert (server.hits["/x"], sleeps) == (1, [])
    with pytest.raises(Unavailable, match="900 s"):
        connect().json("GET", "x", inspect=lambda status, parsed: Unavailable(what="limit", retry_after=900))


def test_a_pause_holds_the_whole_group_and_no_other(server: Server, connect: Connect, sleeps: list[float]) -> None:
    server.on("/x", say(429, Retry_After="9"), OK)
    server.on("/y", OK)
    http = connect(rates={"slow": Rate(1000, 5), "default": Rate(1000, 5)})
    http.json("GET", "x", group="slow")
    sleeps.clear()
    http.json("GET", "y")
    assert sleeps == []
    http.json("GET", "y", group="slow")
    assert len(sleeps) == 1 and sleeps[0] > 8


def test_the_budget_is_shared_by_all_threads(server: Server, connect: Connect) -> None:
    server.on("/x", say(503))
    http = connect(retry_budget=7)
    errors: list[NightloadError] = []

    def work() -> None:
        try:
            http.json("GET", "x")
        except NightloadError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (http.retries, server.hits["/x"], http.requests) == (7, 15, 15)
    spent = [error for error in errors if "budget of 7 retries is spent" in str(error)]
    assert len(errors) == 8 and len(spent) >= 7 and all(isinstance(error, Unavailable) for error in spent)


# ---------------------------------------------------------------- time


def test_a_slow_vendor_times_out(server: Server, connect: Connect) -> None:
    server.on("/x", stall)
    with pytest.raises(Unavailable, match=r"no answer came .*nothing for 0.1 s"):
        connect(timeout=0.1).json("GET", "x", retry=False)


def test_an_answer_that_does_not_come_is_asked_for_twice_not_five_times(server: Server, connect: Connect) -> None:
    server.on("/x", stall)
    with pytest.raises(Unavailable, match=r"nothing for 0.1 s \(tried 2 times\)"):
        connect(timeout=0.1).json("GET", "x")
    assert server.hits["/x"] == 2


def test_patience_with_a_slow_answer_waits_and_asks_once(server: Server, connect: Connect, tmp_path: Path) -> None:
    """Longer than the instance waits for others, and longer than its deadline."""
    server.on("/x", stall)
    connect(timeout=0.1, deadline=0.2).spool("x", tmp_path / "x", patience=Patience(5, "Raise it"))
    assert (server.hits["/x"], (tmp_path / "x").read_bytes()) == (1, b"[]")


@pytest.mark.parametrize("slow", [stall, say(502), say(504)])
def test_patience_that_is_too_short_asks_once_more_and_says_what_to_raise(
    server: Server, connect: Connect, slow: Route
) -> None:
    server.on("/x", slow)
    with pytest.raises(Unavailable, match=r"tried 2 times\).*Raise it"):
        connect().json("GET", "x", patience=Patience(0.1, "Raise it"))
    assert server.hits["/x"] == 2


@pytest.mark.parametrize("spooled", [False, True])
def test_a_dripping_body_meets_the_deadline(server: Server, connect: Connect, tmp_path: Path, spooled: bool) -> None:
    server.on("/x", drip)
    http = connect(deadline=0.15)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="did not end in time"):
        if spooled:
            http.spool("x", tmp_path / "x")
        else:
            http.json("GET", "x")
    assert time.monotonic() - started < 2
    assert server.hits["/x"] == 2, "tried once more, not five times"
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_turn_does_not_count_against_the_deadline(server: Server, connect: Connect) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.4)
        handler.answer(200, [])

    server.on("/x", slow)
    http = connect(concurrency=1, deadline=1.3)
    assert len(list(in_order(lambda _: http.json("GET", "x", retry=False), range(4), width=4))) == 4


# ---------------------------------------------------------------- redirects


def test_redirects_of_the_same_origin_are_followed_three_times(server: Server, connect: Connect) -> None:
    for hop in range(4):
        server.on(f"/{hop}", say(302, b"", Location=f"/{hop + 1}"))
    server.on("/4", OK)
    http = connect()
    assert http.json("GET", "1") == {"rows": [1]}
    assert http.requests == 4
    with pytest.raises(BrokenAnswer, match=r"redirect to .*/4 was not followed.*after 3 others"):
        http.json("GET", "0")


def test_credentials_never_follow_a_redirect_elsewhere(server: Server, connect: Connect) -> None:
    with Server() as other:
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        other.on("/taken", OK)
        server.on("/x", say(302, b"", Location=f"{other.url}taken?token=abc"))
        server.on("/tls", say(301, b"", Location=server.url.replace("http:", "https:") + "x"))
        http = connect(headers={"Authorization": f"Key {HEADER_CANARY}"})
        for path in ("x", "tls"):
            with pytest.raises(BrokenAnswer, match="credentials never go to another host or scheme"):
                http.json("GET", path)
        other.shutdown()
        assert not other.seen
    assert server.hits == {"/x": 1, "/tls": 1}


def test_a_post_is_not_redirected(server: Server, connect: Connect) -> None:
    server.on("/x", say(301, b"", Location="/y"))
    server.on("/y", OK)
    with pytest.raises(BrokenAnswer, match="POST is never redirected"):
        connect().json("POST", "x")
    assert server.hits == {"/x": 1}


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "it is empty"),
        ("redash.example.com/acme", "Write it like https://redash.example.com/acme/"),
        ("ftp://host/", "http:// or https://"),
        ("https:///path", "names no host"),
        ("https://user:hunter2secret@host/x", "Write it like https://host/x/"),
        ("https://host/x?api_key=hunter2secret", "Write it like https://host/x/"),
        ("https://host/#/queries", "query or a fragment"),
        ("https://host/org/api/", "Write it like https://host/org/"),
        ("https://ho st/", "blanks"),
        ("https://host:port/", "not a URL"),
        ("https://[::1/", "not a URL"),
    ],
)
def test_a_base_url_that_cannot_work_is_refused(given: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Http(vendor="acme", base_url=given)
    text = traceback.format_exc() + str(caught.value)
    assert says in text and "sources.acme.base_url" in text
    assert "hunter2secret" not in text


@pytest.mark.parametrize("value", ["Key abc123secret\n", " abc123secret", "ключ-abc123secret", "a\r\nX: abc123secret"])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(
    server: Server, connect: Connect, value: str
) -> None:
    for attempt in (
        lambda: connect(headers={"Authorization": value}),
        lambda: connect().json("GET", "x", headers={"Authorization": value}),
    ):
        with pytest.raises(ConfigurationError, match="header Authorization") as caught:
            attempt()
        assert "abc123secret" not in "".join(traceback.format_exception(caught.value))
    assert not server.seen


def test_an_unknown_group_is_a_mistake(connect: Connect) -> None:
    with pytest.raises(ValueError, match="no rate group 'slwo'"):
        connect(rates={"slow": Rate(1)}).json("GET", "x", group="slwo")


# ---------------------------------------------------------------- rates


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_limiter_lets_a_burst_through_and_then_keeps_the_rate() -> None:
    clock = Clock()
    limiter = Limiter(Rate(8, 4), clock=clock, sleep=clock.sleep)
    taken = []
    for _ in range(40):
        limiter.take()
        taken.append(clock.now - 100)
    assert taken[:5] == [0, 0, 0, 0, 0.125]
    assert taken[-1] == pytest.approx(36 / 8)
    clock.now += 1000
    before = clock.now
    for _ in range(4):
        limiter.take()
    assert clock.now == before, "a rest earns one burst"
    limiter.take()
    assert clock.now > before, "and only one"


def test_no_rate_means_no_wait() -> None:
    limiter = Limiter(None, sleep=lambda seconds: pytest.fail("waited"))
    for _ in range(100):
        limiter.take()


@pytest.mark.parametrize(
    "rate", [{"per_second": 0}, {"per_second": -1}, {"per_second": math.nan}, {"per_second": 1, "burst": 0}]
)
def test_a_rate_without_sense_is_refused(rate: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a rate needs"):
        Rate(**rate)


def test_eight_threads_stay_under_the_vendors_throttle(server: Server) -> None:
    hits: list[float] = []

    def throttled(handler: Handler) -> None:
        now = time.monotonic()
        with server.lock:
            hits.append(now)
            crowd = sum(now - hit < 0.5 for hit in hits)
        handler.answer(429 if crowd > 25 else 200, [])

    server.on("/x", throttled)

    def retries(rates: dict[str, Rate]) -> int:
        hits.clear()
        with Http(
            vendor="acme", base_url=server.url, rates=rates, sleep=time.sleep if rates else lambda _: None
        ) as http:
            with contextlib.suppress(Unavailable):
                list(in_order(lambda _: http.json("GET", "x"), range(40), width=8))
            return http.retries

    # at 80 % of what is allowed, as vendors are asked: requests may arrive closer together than they were sent
    assert retries({"default": Rate(32, 4)}) == 0
    assert retries({}) > 0, "without a limiter the throttle does bite"


def test_concurrency_is_bounded(server: Server, connect: Connect) -> None:
    running, most = 0, 0

    def slow(handler: Handler) -> None:
        nonlocal running, most
        with server.lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with server.lock:
            running -= 1
        handler.answer(200, [])

    server.on("/x", slow)
    http = connect(concurrency=2)
    assert len(list(in_order(lambda _: http.json("GET", "x"), range(12), width=6))) == 12
    assert most == 2


# ---------------------------------------------------------------- in_order


def test_in_order_keeps_the_order_whatever_ends_first() -> None:
    def fetch(item: int) -> int:
        time.sleep(0.02 if item % 4 == 0 else 0.001)
        return item * 10

    assert list(in_order(fetch, range(30), width=4)) == [item * 10 for item in range(30)]
    assert list(in_order(fetch, [], width=4)) == []


@pytest.mark.parametrize("width", [1, 3])
def test_in_order_never_runs_ahead_by_more_than_its_width(width: int) -> None:
    begun: list[int] = []
    drawn: list[int] = []

    def fetch(item: int) -> int:
        begun.append(item)
        return item

    def items() -> Iterator[int]:
        for item in range(20):
            drawn.append(item)
            yield item

    for done, _ in enumerate(in_order(fetch, items(), width=width), start=1):
        time.sleep(0.005)
        assert len(begun) <= len(drawn) <= done + width
    assert len(begun) == 20


def test_in_order_uses_its_width() -> None:
    together = threading.Barrier(3)
    results = in_order(lambda item: together.wait(timeout=5), range(3), width=3)
    assert sorted(results) == [0, 1, 2], "fewer than three at a time would break the barrier"


def test_in_order_raises_the_first_error_at_its_place_and_cancels_the_rest() -> None:
    begun: list[int] = []

    def fetch(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise Refused(what="no")
        time.sleep(0.05 if item < 3 else 0)
        return item

    results = in_order(fetch, range(100), width=4)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(Refused):
        next(results)
    assert len(begun) <= 8
    assert list(results) == []


def test_in_order_closes_cleanly() -> None:
    begun, ended = [], []

    def fetch(item: int) -> int:
        begun.append(item)
        time.sleep(0.02)
        ended.append(item)
        return item

    before = threading.active_count()
    results = in_order(fetch, itertools.count(), width=4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert sorted(begun) == sorted(ended) and len(begun) <= 5
    assert threading.active_count() == before


# ---------------------------------------------------------------- secrets


def echo(status: int) -> Route:
    """The vendor repeats what it was sent, as real ones do."""
    return lambda handler: handler.answer(
        status, {"message": f"bad: {handler.path} {handler.headers['Authorization']}"}
    )


def elsewhere(handler: Handler) -> None:
    handler.answer(302, b"", Location=f"http://127.0.0.2{handler.path}")


def not_http(handler: Handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
    handler.drop()


FAILURES: dict[str, tuple[Route, type[NightloadError]]] = {
    "401": (say(401), AccessDenied),
    "404": (say(404), Refused),
    "429": (say(429), Unavailable),
    "429 huge": (say(429, Retry_After="9999"), Unavailable),
    "500": (say(500), Unavailable),
    "503": (say(503), Unavailable),
    "web page": (HTML, BrokenAnswer),
    "cut": (cut, BrokenAnswer),
    "cut gzip": (CUT_GZIP, BrokenAnswer),
    "dropped": (Handler.drop, Unavailable),
    "slow": (stall, Unavailable),
    "dripping": (drip, Unavailable),
    "redirect": (elsewhere, BrokenAnswer),
    "wild redirect": (say(302, b"", Location="http://h:port/"), Unavailable),
    "not JSON": (say(200, b"a,b"), BrokenAnswer),
    "too large": (say(200, b"1" * 3000), BrokenAnswer),
    "no HTTP": (not_http, Unavailable),
}


def leaks(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    told = [str(error), repr(error), repr(vars(error)), repr(error.args), summarize(error), caplog.text]
    told += ["".join(traceback.format_exception(error)), *(record.getMessage() for record in caplog.records)]
    told += [repr(error.__context__), repr(error.__cause__)]
    return "\n".join(told)


@pytest.mark.parametrize("kind", FAILURES)
def test_no_failure_tells_query_or_headers_even_of_unknown_secrets(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The canaries are not registered and stand under a name no pattern knows: what is tested is what is told."""
    route, expected = FAILURES[kind]
    server.on("/x", route)
    http = connect(headers={"X-Pass": HEADER_CANARY}, timeout=0.2, deadline=0.15, max_bytes=2000)
    with caplog.at_level(logging.DEBUG), pytest.raises(NightloadError) as caught:
        http.json("GET", "x", params={"pass": QUERY_CANARY}, retry=kind != "slow")
    assert type(caught.value) is expected
    text = leaks(caught.value, caplog)
    assert f"acme, GET {server.url}x" in text
    assert QUERY_CANARY not in text and HEADER_CANARY not in text
    assert caught.value.__suppress_context__ and caught.value.__context__ is None
    assert QUERY_CANARY in server.seen[0].path and server.seen[0].headers["X-Pass"] == HEADER_CANARY


@pytest.mark.parametrize("kind", [*FAILURES, "echo 401", "echo 404", "echo 503"])
def test_registered_secrets_stay_secret_with_every_logger_at_debug(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    route = echo(int(kind.split()[1])) if kind.startswith("echo") else FAILURES[kind][0]
    server.on("/x", route)
    http = connect(
        headers={"Authorization": f"Key {HEADER_CANARY}"},
        params={"k": QUERY_CANARY},
        secrets=[HEADER_CANARY, QUERY_CANARY],
        timeout=0.2,
        deadline=0.15,
        max_bytes=2000,
    )
    for name in ("", "httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
        caplog.set_level(logging.DEBUG, logger=name)
    with pytest.raises(NightloadError) as caught:
        http.json("GET", "x", retry=kind != "slow")
    assert "httpcore" in {record.name.split(".")[0] for record in caplog.records}
    text = leaks(caught.value, caplog)
    assert QUERY_CANARY not in text and HEADER_CANARY not in text


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (socket.gaierror(-2, "Name or service not known"), "its name is not known"),
        (ConnectionRefusedError(111, "Connection refused"), "connection refused"),
    ],
)
def test_an_unreachable_host_is_named_and_nothing_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: OSError, says: str
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise failure

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    http = Http(vendor="acme", base_url="https://redash.example", sleep=lambda _: None)
    with caplog.at_level(logging.DEBUG), http, pytest.raises(Unavailable) as caught:
        http.json("GET", "x", params={"pass": QUERY_CANARY})
    assert "cannot reach redash.example:443" in str(caught.value) and says in str(caught.value)
    assert "sources.acme.base_url" in str(caught.value)
    assert QUERY_CANARY not in leaks(caught.value, caplog)


def test_tls_to_a_plain_port_is_explained(server: Server, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    http = connect(base_url=server.url.replace("http:", "https:"))
    with caplog.at_level(logging.DEBUG), pytest.raises(Unavailable, match="no TLS could be agreed") as caught:
        http.json("GET", "x", params={"pass": QUERY_CANARY})
    assert QUERY_CANARY not in leaks(caught.value, caplog)


def test_retries_are_logged_with_vendor_path_reason_and_wait(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server.on("/x", say(503), say(429), OK)
    with caplog.at_level(logging.INFO, logger="sources.http.retry"):
        connect().json("GET", "x", params={"pass": QUERY_CANARY})
    lines = [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "sources.http.retry"
    ]
    assert [level for level, _ in lines] == ["INFO", "WARNING"]
    assert lines[0][1].startswith("acme GET /x: the vendor answered 503; again in ")


def test_the_canaries_would_be_seen(server: Server) -> None:
    """A control: httpx alone does leak what the tests above look for."""
    server.on("/x", say(401))
    with pytest.raises(httpx.HTTPStatusError, match=QUERY_CANARY):
        httpx.get(f"{server.url}x", params={"pass": QUERY_CANARY}, trust_env=False).raise_for_status()


# ---------------------------------------------------------------- whom it believes


def test_clients_share_whose_certificates_they_believe_as_the_environment_says(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str | None] = []
    create = httpx.create_ssl_context
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: read.append(os.environ.get("SSL_CERT_FILE")) or create())
    own = tmp_path / "own.pem"
    own.write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    for _ in range(3):
        connect()
    assert read == [str(own)]
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        connect()
