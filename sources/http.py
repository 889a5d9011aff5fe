"""How vendors are spoken to: limited, retried where that is safe, bounded in time and size, and silent about secrets.

One `Http` serves one vendor, from any number of threads. Whatever goes wrong leaves as an error of `sources.errors`
that names method, host and path; query strings and header values are never told, and no httpx exception escapes
(httpx puts the full URL into its texts and log lines).
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import logging
import math
import random
import re
import socket
import ssl
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

import httpx
import orjson

from sources import interruption
from sources.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    Recovery,
    Refused,
    Unavailable,
    Unreachable,
    VendorError,
    one_line,
)
from sources.kept import HEADERS as KEPT_HEADERS
from sources.kept import (
    Asked,
    Masked,
    Player,
    Recorder,
    asked,
    may_be_kept,
    pause,
    player_of,
    recorder_of,
    table_of_now,
)
from sources.links import Links
from sources.redaction import install, redact, register_secret
from sources.unpacking import Bomb, gunzip

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

TRIES = 5
LONGEST_PAUSE = 120.0
CONNECT_TIMEOUT = 10.0
MAX_REDIRECTS = 3
MAX_IN_MEMORY = 256 * 2**20
"""What `json` and `body` hold at most, however much `spool` may bring to disk."""

_BACKOFF_BASE, _BACKOFF_CAP = 0.5, 30.0
_CHUNK = 2**20
_ERROR_BYTES = 2**18
_PASSING = frozenset({429, 500, 502, 503, 504})
_UNPARSED: Final = object()
_ALL_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_dice = random.SystemRandom()

Scalar = str | int | float | bool | None
Inspect = Callable[[int, Any], NightloadError | None]
Head = Callable[[bytes], NightloadError | None]


class Options(TypedDict, total=False):
    """What every request takes.

    params   added to the instance's own; a value of None is left out
    body     bytes go as they are, anything else as JSON
    form     goes URL-encoded, instead of a body
    headers  added to the instance's own
    group    the rate to count against ("default")
    retry    may the request be sent again? (True for GET and HEAD, else False)
    accept   the statuses that are an answer (200 only)
    inspect  gets the status and the parsed JSON: every one in `json`, those not accepted in `body` and `spool`.
             It may return an error to raise; one whose recovery is RETRY is retried under the same rules.
    head     gets the first bytes (at most 256 KB) of an accepted answer in `body` and `spool`, for vendors that refuse
             under a status that is an answer. What it returns counts as what `inspect` returns.
    private  names of members of the answer that are never kept, whatever is recorded
    login    is this how credentials are got? Each such request is another one, and stands for all of them
    """

    params: Mapping[str, Scalar | Sequence[Scalar]]
    body: Any
    form: Mapping[str, str]
    headers: Mapping[str, str]
    group: str
    retry: bool
    accept: Sequence[int]
    inspect: Inspect
    head: Head
    private: Sequence[str]
    login: bool


@dataclass(frozen=True)
class Rate:
    """At most `burst` requests at once and `per_second` (may be a fraction) in the long run."""

    per_second: float
    burst: int = 1

    def __post_init__(self) -> None:
        if not self.per_second > 0 or self.burst < 1:
            raise ValueError(f"a rate needs per_second > 0 and burst >= 1, not {self}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Spooled:
    path: Path
    size: int
    headers: Mapping[str, str] = field(repr=False)


class Limiter:
    """A token bucket as reservations: each caller gets a moment of its own and sleeps once, outside the lock."""

    def __init__(
        self,
        rate: Rate | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = interruption.sleep,
    ) -> None:
        self._interval = 1 / rate.per_second if rate else 0.0
        self._tolerance = self._interval * (rate.burst - 1) if rate else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._next = self._held = -math.inf

    def take(self) -> None:
        """Return when the caller may send."""
        with self._lock:
            now = self._clock()
            start = max(now, self._held, self._next - self._tolerance)
            self._next = max(self._next, start) + self._interval
        if start > now:
            self._sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Nobody gets a moment before `seconds` from now."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)


@dataclass(frozen=True, kw_only=True)
class _Call:
    method: str
    url: httpx.URL
    where: str
    headers: Mapping[str, str]
    content: bytes | None
    form: Mapping[str, str] | None
    group: str
    retry: bool
    accept: Sequence[int]
    inspect: Inspect | None
    head: Head | None
    private: Sequence[str]
    asked: Asked | None
    """As it is known again, where answers are recorded or played."""


class _Failure(Exception):
    """One try that failed, and what may be done about it; stays inside this module."""

    def __init__(
        self,
        error: NightloadError,
        *,
        again: bool = False,
        once: bool = False,
        unsent: bool = False,
        pause: float | None = None,
    ) -> None:
        super().__init__()
        self.error = error
        self.again = again  # worth another try
        self.once = once  # ... but not a third one
        self.unsent = unsent  # certainly never reached the vendor
        self.pause = pause  # what the vendor asked for, in seconds


_Receive = Callable[[httpx.Response, Iterator[bytes]], Result]


class Http:
    """One vendor's HTTP.

    Of `rates`, a Limiter is shared with whoever else was given it. `timeout` bounds each wait for bytes, `deadline` a
    whole answer, `max_bytes` its decoded size, all per try.
    `retry_budget` is shared by everything this instance does. `sign` is called with each request about to be sent,
    again for every retry: for signatures over a fresh nonce and date. `pause_asked` reads the pause in seconds from
    headers that a vendor has of its own; None leaves it to `Retry-After`. `sends` are patterns of `METHOD path`: with
    them nothing but GET, HEAD and what fits one of them ever leaves. With `links` it is for the files that a vendor's
    reply names: each host and address is looked at before it is connected to, redirects too. `requests`, `retries` and
    `bytes` (as received, before decoding) count.

    Raises ConfigurationError at once for a `base_url` or a header that cannot work.
    """

    def __init__(
        self,
        *,
        vendor: str,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Scalar | Sequence[Scalar]] | None = None,
        rates: Mapping[str, Rate | Limiter] | None = None,
        timeout: float = 60.0,
        deadline: float = 600.0,
        max_bytes: int = 2 * 2**30,
        retry_budget: int = 50,
        secrets: Iterable[str] = (),
        concurrency: int = 8,
        sign: Callable[[httpx.Request], None] | None = None,
        pause_asked: Callable[[Mapping[str, str]], float | None] | None = None,
        sends: Iterable[str] | None = None,
        links: Links | None = None,
        sleep: Callable[[float], None] = interruption.sleep,
    ) -> None:
        # Here, not only in the command line: the dlt sources are also used without it, and httpx logs URLs.
        install()
        for secret in secrets:
            register_secret(secret)
        self.vendor = vendor
        self.requests = self.retries = self.bytes = 0
        self._lock = threading.Lock()
        self._base = _base_url(vendor, base_url)
        self._params = dict(params or {})
        self._limiters = {
            name: rate if isinstance(rate, Limiter) else Limiter(rate, sleep=sleep)
            for name, rate in {"default": None, **(rates or {})}.items()
        }
        self._timeout, self._deadline, self._max_bytes = timeout, deadline, max_bytes
        self._budget = retry_budget
        self._slots = threading.BoundedSemaphore(concurrency)
        self._sign, self._sleep = sign, sleep
        self._own_pause, self._links = pause_asked, links
        self._sends = None if sends is None else tuple(map(re.compile, sends))
        # Only gzip is offered, because only gzip is decoded here (httpx lets a cut gzip stream pass as whole).
        offered = {"User-Agent": "nightload", "Accept-Encoding": "gzip", **_checked_headers(vendor, headers or {})}
        host = self._base.host
        try:
            self._client = httpx.Client(
                headers=offered,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                # Waiting for a connection is the semaphore's part, so the deadline starts with the request.
                timeout=httpx.Timeout(min(timeout, deadline), connect=CONNECT_TIMEOUT, pool=None),
                limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
                # A company proxy from the environment is honoured, but it cannot reach this machine's loopback.
                mounts={f"all://{f'[{host}]' if ':' in host else host}": None} if _is_loopback(host) else None,
            )
        except (ValueError, OSError, ImportError, httpx.InvalidURL) as exc:
            problem = f"{type(exc).__name__}: {exc}"
        else:
            return
        raise ConfigurationError(
            what="the HTTP client cannot be set up",
            where=vendor,
            why=problem,
            todo="Check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY and SSL_CERT_FILE in the environment",
        )

    def json(self, method: str, path: str, **options: Unpack[Options]) -> Any:
        """The parsed answer. Integers are exact at any size; NaN and lone surrogates come as Python has them."""
        call = self._prepare(method, path, options)

        def receive(response: httpx.Response, chunks: Iterator[bytes]) -> Any:
            content = b"".join(chunks)
            parsed = _parse(content)
            if parsed is _UNPARSED:
                self._refuse_web_page(call, response, content)
                what = "the answer is not JSON" if content.strip() else "an empty answer came where JSON was due"
                why = f"{len(content)} bytes of {response.headers.get('content-type', 'no content type')}, perhaps cut"
                raise _Failure(_broken(call, response, what=what, why=why), again=True)
            if failure := self._inspected(call, response, parsed):
                raise failure
            return parsed

        return self._run(call, receive)

    def body(self, method: str, path: str, **options: Unpack[Options]) -> Answer:
        """The answer as bytes."""
        call = self._prepare(method, path, options)

        def receive(response: httpx.Response, chunks: Iterator[bytes]) -> Answer:
            content = b"".join(chunks)
            self._look_at_head(call, response, content)
            return Answer(status=response.status_code, headers=response.headers, content=content)

        return self._run(call, receive)

    def spool(self, path: str, file: Path, *, method: str = "GET", **options: Unpack[Options]) -> Spooled:
        """Stream the decoded answer to `file` in bounded memory.

        `file` appears whole or not at all; an older one stays until then. A retry starts over. Errors of the disk
        (OSError) pass through.
        """
        call = self._prepare(method, path, options)
        partial = file.with_name(f"{file.name}.partial")

        def receive(response: httpx.Response, chunks: Iterator[bytes]) -> Spooled:
            try:
                with partial.open("w+b", buffering=_CHUNK) as out:
                    size = sum(map(out.write, chunks))
                    out.seek(0)
                    self._look_at_head(call, response, out.read(_ERROR_BYTES))
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
            return Spooled(path=file, size=size, headers=response.headers)

        return self._run(call, receive, streams=True)

    def wait(self, seconds: float) -> None:
        """What a client sleeps before it asks again after work that the vendor does; no time at all in a replay."""
        pause(self.vendor, seconds)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, method: str, path: str, options: Options) -> _Call:
        if "#" in path or not {".", ".."}.isdisjoint(path.partition("?")[0].split("/")):
            raise ValueError("a path with '#', '.' or '..' goes elsewhere than it says; quote the values in it")
        self._refuse_write(method.upper(), path)
        group = options.get("group", "default")
        if group not in self._limiters:
            raise ValueError(f"{self.vendor} has no rate group {group!r}")
        body = options.get("body")
        headers = _checked_headers(self.vendor, options.get("headers", {}))
        if body is not None and not isinstance(body, bytes):
            body, headers = orjson.dumps(body), {"Content-Type": "application/json", **headers}
        params = {**self._params, **options.get("params", {})}
        params = {name: value for name, value in params.items() if value is not None}
        try:
            # Text, not URL.join: whatever `path` holds, the host stays the base's.
            url = httpx.URL(f"{str(self._base).rstrip('/')}/{path.lstrip('/')}")
            url = url.copy_merge_params(params) if params else url
        except (httpx.InvalidURL, UnicodeError):
            url = None
        if url is None:
            raise ValueError(f"{self.vendor}: a path or parameter holds what no URL can carry; quote the values in it")
        return _Call(
            method=method.upper(),
            url=url,
            where=f"{self.vendor}, {method.upper()} {_place(url)}",
            headers=headers,
            content=body,
            form=options.get("form"),
            group=group,
            retry=options.get("retry", method.upper() in {"GET", "HEAD"}),
            accept=options.get("accept", (200,)),
            inspect=options.get("inspect"),
            head=options.get("head"),
            private=options.get("private", ()),
            asked=self._asked_for(method.upper(), url, body, headers, options),
        )

    def _asked_for(
        self, method: str, url: httpx.URL, body: bytes | None, headers: Mapping[str, str], options: Options
    ) -> Asked | None:
        if player_of(self.vendor) is None and recorder_of(self.vendor) is None:
            return None
        if self._links is not None:  # what opens the file is a secret, and another one each time
            return asked(method, f"{url.host}{url.path}")
        path = url.path.removeprefix(self._base.path.rstrip("/"))
        if options.get("login"):
            return asked(method, path)
        query = url.query.decode("ascii", "replace")
        return asked(method, path, query=query, form=options.get("form"), body=body, headers=headers)

    def _refuse_write(self, method: str, path: str) -> None:
        if self._sends is None or method in {"GET", "HEAD"}:
            return
        asked = f"{method} {path.partition('?')[0].lstrip('/')}"
        if not any(pattern.fullmatch(asked) for pattern in self._sends):
            raise ValueError(f"{self.vendor}: {asked} is not among the requests that may be sent here")

    def _run(self, call: _Call, receive: _Receive[Result], *, streams: bool = False) -> Result:
        repeated = False
        for tries in itertools.count(1):
            outcome = self._attempt(call, receive, streams=streams)
            if isinstance(outcome, _Failure):
                interruption.check()  # then it is no failure of the vendor
            # Errors are raised out here, not where they are met: they must not carry httpx's as their context.
            if not isinstance(outcome, _Failure):
                return outcome
            error, pause = outcome.error, outcome.pause
            if outcome.again and pause is not None and pause > LONGEST_PAUSE:
                what = f"the vendor asks for a pause of {pause:.0f} s"
                raise self._gave_up(call, error, what=what, todo="Come back later", retry_after=pause) from None
            may = outcome.unsent or (call.retry and outcome.again)
            if not may or tries == TRIES or (outcome.once and repeated):
                if tries > 1:
                    error.why = f"{error.why} (tried {tries} times)".lstrip()
                raise error from None
            repeated = repeated or outcome.once
            if not self._spend_retry():
                what, todo = (
                    f"the budget of {self.retries} retries is spent",
                    "Look at the vendor's state, and run again",
                )
                raise self._gave_up(call, error, what=what, todo=todo) from None
            self._pause(call, error, tries=tries, asked=pause)
        raise AssertionError("unreachable")

    def _attempt(self, call: _Call, receive: _Receive[Result], *, streams: bool) -> Result | _Failure:
        interruption.check()
        player = player_of(self.vendor)
        if player is None:
            self._limiters[call.group].take()
        answered = False
        with self._slots:
            until = time.monotonic() + self._deadline
            try:
                with closing(self._send(call) if player is None else _played(call, player)) as response:
                    answered = True
                    most = self._max_bytes if streams else min(self._max_bytes, MAX_IN_MEMORY)
                    chunks = self._chunks(call, response, until=until, most=most)
                    recorder = recorder_of(self.vendor)
                    if response.status_code not in call.accept:
                        content = _head(chunks, _ERROR_BYTES)
                        if recorder is not None:
                            deque(_recorded(call, response, [content], recorder, streams=False), maxlen=0)
                        return self._refusal(call, response, content)
                    if recorder is not None:
                        chunks = _recorded(call, response, chunks, recorder, streams=streams)
                    return receive(response, chunks)
            except _Failure as failure:
                return failure
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
                return self._lost(call, exc, answered=answered)

    def _send(self, call: _Call) -> httpx.Response:
        request = self._client.build_request(
            call.method,
            call.url,
            content=call.content,
            data=call.form,
            headers=call.headers,
            extensions={"trace": interruption.watch},
        )
        for hop in itertools.count():
            if self._sign:
                self._sign(request)
            self._count(requests=1)
            to = request.url
            response = self._client.send(self._looked_at(request, call), stream=True)
            following = self._following(response, to)
            if following is None or response.status_code in call.accept:
                return response
            response.close()
            why = ""
            if call.method not in {"GET", "HEAD"}:
                why = f"a {call.method} is never redirected"
            elif self._links is None and _origin(following.url) != _origin(to):
                why = "credentials never go to another host or scheme"
            elif hop == MAX_REDIRECTS:
                why = f"it came after {MAX_REDIRECTS} others"
            if why:
                what = f"a redirect to {_place(following.url)} was not followed"
                raise _Failure(_broken(call, response, what=what, why=why, todo=f"Check {_setting(self.vendor)}"))
            request = following
            self._limiters[call.group].take()
        raise AssertionError("unreachable")

    def _looked_at(self, request: httpx.Request, call: _Call) -> httpx.Request:
        """For a link's host: the request bound to an address that may be asked."""
        if self._links is None:
            return request
        try:
            self._links.connect(request, where=call.where)
        except BrokenAnswer as error:
            refused = _Failure(error)
        else:
            return request
        raise refused

    def _following(self, response: httpx.Response, asked: httpx.URL) -> httpx.Request | None:
        following = response.next_request
        if following is None or self._links is None:
            return following
        # not httpx's own, which goes on from the address; and a link's redirect takes nothing along
        return self._client.build_request("GET", asked.join(response.headers["location"]))

    def _chunks(self, call: _Call, response: httpx.Response, *, until: float, most: int) -> Iterator[bytes]:
        """The decoded body, bounded in time and in size (`most` bytes); a gzip stream must come to its end."""
        smaller = "Ask for a smaller window or page"

        # made when needed: an error redacts its texts, which would cost more than a small answer does
        def late() -> _Failure:
            what, why = "the answer did not end in time", f"still coming after {self._deadline:g} s"
            status = response.status_code
            error = Unavailable(what=what, where=call.where, why=why, todo=smaller, status=status)
            return _Failure(error, again=True, once=True)

        def large() -> _Failure:
            why = f"more than {most} bytes"
            return _Failure(_broken(call, response, what="the answer is too large", why=why, todo=smaller))

        def received() -> Iterator[bytes]:
            for data in response.iter_raw():
                self._count(bytes=len(data))
                if time.monotonic() > until:
                    raise late()
                yield data

        length = response.headers.get("content-length", "")
        if call.method != "HEAD" and length.isdecimal() and int(length) > most:
            raise large()
        encoding = response.headers.get("content-encoding", "").strip().lower() or "identity"
        if encoding not in {"identity", "gzip", "x-gzip"}:
            what = f"the answer is encoded as {encoding}"
            raise _Failure(_broken(call, response, what=what, why="only gzip was offered"))
        size = 0
        try:
            for chunk in received() if encoding == "identity" else gunzip(received()):
                size += len(chunk)
                if size > most:
                    raise large()
                yield chunk
        except Bomb as bomb:
            what, todo = (
                "the answer is packed as no honest one is",
                f"Nothing was loaded; check {_setting(self.vendor)}",
            )
            packed = _broken(call, response, what=what, why=str(bomb), todo=todo)
            raise _Failure(packed) from None
        except (zlib.error, EOFError):
            damaged = _broken(call, response, what="the gzip stream is broken", why="it is cut or damaged")
            raise _Failure(damaged, again=True) from None

    def _refusal(self, call: _Call, response: httpx.Response, content: bytes) -> _Failure:
        """The error for a status that is not accepted."""
        status, parsed = response.status_code, _parse(content)
        if failure := self._inspected(call, response, parsed):
            return failure
        message = _plain_text(content) if parsed is _UNPARSED else _vendor_text(parsed)
        what, where, pause = f"the vendor answered {status}", call.where, self._asked(response)
        error: NightloadError
        if status in {401, 403}:
            todo = f"Check the credentials under sources.{self.vendor} and what they may read"
            error = AccessDenied(what=what, where=where, why=message, todo=todo, status=status, message=message)
        elif status == 429 or status >= 500:
            error = Unavailable(what=what, where=where, why=message, status=status, message=message, retry_after=pause)
        elif status >= 400:
            error = Refused(what=what, where=where, why=message, status=status, message=message)
        else:
            error = _broken(call, response, what=what, why=message or "no such status was expected")
        # 500 only once more: vendors also say it to a client's mistake (TONalytica to an unknown job).
        return _Failure(error, again=status in _PASSING, once=status == 500, pause=pause)

    def _inspected(self, call: _Call, response: httpx.Response, parsed: Any) -> _Failure | None:
        if call.inspect is None or parsed is _UNPARSED:
            return None
        error = call.inspect(response.status_code, parsed)
        return None if error is None else self._told(call, response, error)

    def _look_at_head(self, call: _Call, response: httpx.Response, content: bytes) -> None:
        self._refuse_web_page(call, response, content)
        if call.head is not None and (error := call.head(content[:_ERROR_BYTES])) is not None:
            raise self._told(call, response, error)

    def _told(self, call: _Call, response: httpx.Response, error: NightloadError) -> _Failure:
        error.where = error.where or call.where
        pause = error.retry_after if isinstance(error, Unavailable) else None
        return _Failure(
            error,
            again=error.recovery is Recovery.RETRY,
            once=response.status_code == 500,
            pause=self._asked(response) if pause is None else pause,
        )

    def _asked(self, response: httpx.Response) -> float | None:
        own = self._own_pause(response.headers) if self._own_pause else None
        return _pause_asked(response) if own is None else own

    def _refuse_web_page(self, call: _Call, response: httpx.Response, content: bytes) -> None:
        start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        declared = "html" in response.headers.get("content-type", "") and start.startswith(b"<")
        if declared or start.startswith((b"<!doctype html", b"<html")):
            what, why = "a web page came instead of data", "wrong base_url, a proxy or login page?"
            page = _broken(call, response, what=what, why=why, todo=f"Check {_setting(self.vendor)}")
            raise _Failure(page, again=True)

    def _lost(self, call: _Call, exc: Exception, *, answered: bool) -> _Failure:
        """The error for an answer that never came, or not to its end. httpx's own texts hold URLs: none is used."""
        where, check = call.where, f"Check {_setting(self.vendor)}, the network and any proxy"
        if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
            certificate = _cause(exc, ssl.SSLCertVerificationError)
            if certificate:
                why = f"its certificate is not trusted ({certificate.verify_message})"
                check = f"If a company proxy signs it, set SSL_CERT_FILE to its CA; else check {_setting(self.vendor)}"
            elif isinstance(exc, httpx.ProxyError):
                why = "the proxy named in the environment refused"
            elif isinstance(exc, httpx.ConnectTimeout):
                why = f"no connection within {CONNECT_TIMEOUT:g} s"
            elif _cause(exc, ssl.SSLError):
                why = "no TLS could be agreed; is it plain http?"
            elif _cause(exc, socket.gaierror):
                why = "its name is not known"
            else:
                why = "connection refused" if _cause(exc, ConnectionRefusedError) else "no connection"
            error = Unreachable(what=f"cannot reach {_host_port(call.url)}", where=where, why=why, todo=check)
            return _Failure(error, again=not certificate, unsent=not (certificate or isinstance(exc, httpx.ProxyError)))
        if isinstance(exc, httpx.TimeoutException):
            what = "the answer stopped coming" if answered else "no answer came"
            return _Failure(Unavailable(what=what, where=where, why=f"nothing for {self._timeout:g} s"), again=True)
        if isinstance(exc, httpx.NetworkError | httpx.RemoteProtocolError):
            if answered:
                cut = BrokenAnswer(what="the answer was cut", where=where, why="the connection ended early")
                return _Failure(cut, again=True)
            dropped = Unavailable(
                what="no answer came", where=where, why="the connection broke, or what came was not HTTP"
            )
            return _Failure(dropped, again=True)
        kind = type(exc).__name__
        return _Failure(ConfigurationError(what="the request could not be sent", where=where, why=kind, todo=check))

    def _gave_up(
        self, call: _Call, last: NightloadError, *, what: str, todo: str, retry_after: float | None = None
    ) -> Unavailable:
        why = f"{last.what}: {last.why}" if last.why else last.what
        error = Unavailable(what=what, where=call.where, why=why, todo=todo, retry_after=retry_after)
        if isinstance(last, VendorError):
            error.status, error.message = last.status, last.message
        return error

    def _pause(self, call: _Call, error: NightloadError, *, tries: int, asked: float | None) -> None:
        backoff = _dice.uniform(0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2 ** (tries - 1)))
        wait = max(backoff, asked or 0.0)
        if player_of(self.vendor) is not None:
            return
        level, path = logging.INFO if tries == 1 else logging.WARNING, one_line(call.url.path)
        logger.log(level, "%s %s %s: %s; again in %.1f s", self.vendor, call.method, path, error.what, wait)
        if asked:
            # Meant for the whole group: its other threads wait as well, and the next `take` does the sleeping.
            self._limiters[call.group].hold(wait)
        else:
            self._sleep(wait)

    def _count(self, *, requests: int = 0, bytes: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.bytes += bytes

    def _spend_retry(self) -> bool:
        with self._lock:
            if self.retries >= self._budget:
                return False
            self.retries += 1
            return True


def _played(call: _Call, player: Player) -> httpx.Response:
    assert call.asked is not None  # noqa: S101 - made where there is a player
    kept = player.answer(call.asked)
    return httpx.Response(kept.status, headers=dict(kept.headers), content=kept.content())


def _recorded(
    call: _Call, response: httpx.Response, chunks: Iterable[bytes], recorder: Recorder, *, streams: bool
) -> Iterator[bytes]:
    """The same pieces, written to a tape as they pass. What does not come to its end is no recording."""
    if call.asked is None:
        yield from chunks
        return
    headers = {name: redact(response.headers[name]) for name in KEPT_HEADERS if name in response.headers}
    tape = recorder.begin(call.asked, table=table_of_now(), status=response.status_code, headers=headers)
    if tape is None:
        yield from chunks
        return
    masked, held, whole = Masked(tape), [], False
    try:
        for chunk in chunks:
            if streams:
                masked.write(chunk)
            else:
                held.append(chunk)
            yield chunk
        whole = True
    finally:
        if not whole:
            tape.drop()
    if held:
        tape.write(may_be_kept(b"".join(held), private=(*call.private, *recorder.private)))
    masked.end()


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


def _setting(vendor: str) -> str:
    return f"sources.{vendor}.base_url"


def _base_url(vendor: str, given: str) -> httpx.URL:
    text = given.strip()
    problem, example = "", "https://host/"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        shown = f"[{host}]" if ":" in host else host
        netloc = f"{shown}:{port}" if port else shown
        path = parts.path.rstrip("/")
        if not text:
            problem = "it is empty"
        elif parts.scheme not in {"http", "https"}:
            problem = "it does not begin with http:// or https://"
            example = "https://host/" if "@" in text or "://" in text else f"https://{text.split('?')[0].strip('/')}/"
        elif not host:
            problem = "it names no host"
        elif "@" in parts.netloc:
            problem, example = "it holds a user name or password", f"{parts.scheme}://{netloc}{path}/"
        elif "?" in text or "#" in text:
            problem, example = "it holds a query or a fragment", f"{parts.scheme}://{netloc}{path}/"
        elif any(char.isspace() or not char.isprintable() for char in text) or "\\" in text:
            problem = "it holds blanks or characters that no URL can carry"
        elif path.lower().split("/")[-1] == "api":
            # Every path that is asked for begins with api/ where the vendor has it.
            problem, example = "it ends in /api, which is added here", f"{parts.scheme}://{netloc}{path[:-4]}/"
        else:
            return httpx.URL(f"{parts.scheme}://{netloc}{path}/")
    except (ValueError, httpx.InvalidURL):
        problem = "it is not a URL"
    raise ConfigurationError(
        what=f"{_setting(vendor)} cannot be used", where=vendor, why=problem, todo=f"Write it like {example}"
    ) from None


def _checked_headers(vendor: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Refused here, because httpx and h11 quote the value when they refuse one."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise ConfigurationError(
                what=f"the value of header {name} cannot be sent",
                where=vendor,
                why="it holds a line break, a blank at an end, or characters beyond ASCII",
                todo=f"Copy the credentials under sources.{vendor} again, without quotes or a line break",
            )
    return dict(headers)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_port(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or {'http': 80, 'https': 443}.get(url.scheme, '')}"


def _origin(url: httpx.URL) -> tuple[str, str]:
    return url.scheme, _host_port(url)


def _place(url: httpx.URL) -> str:
    """Scheme, host and path: what may be told of a URL."""
    host = _host_port(url) if url.port else _host_port(url).rpartition(":")[0]
    return redact(f"{url.scheme}://{host}{url.path}")


def _broken(call: _Call, response: httpx.Response, *, what: str, why: str, todo: str = "") -> BrokenAnswer:
    return BrokenAnswer(what=what, where=call.where, why=why, todo=todo, status=response.status_code)


def _parse(content: bytes) -> Any:
    try:
        # orjson turns integers beyond 64 bits into floats without a word. Nineteen digits in a row may be one;
        # a translated copy finds them about ten times faster than a regular expression.
        if b"0" * 19 not in content.translate(_ALL_ZEROS):
            return orjson.loads(content)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return _UNPARSED


def _vendor_text(parsed: Any) -> str:
    """What the vendor says went wrong, wherever its envelope puts it."""
    if isinstance(parsed, str):
        return one_line(parsed)[:300]
    if isinstance(parsed, list):
        return "; ".join(filter(None, map(_vendor_text, parsed[:5])))[:300]
    if isinstance(parsed, dict):
        for name in ("message", "Message", "errors", "error", "return_message", "job"):
            if text := _vendor_text(parsed.get(name)):
                return text
    return ""


def _plain_text(content: bytes) -> str:
    text = content[:4096].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else one_line(text)[:300]


def _pause_asked(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds, from either of its two forms; None if there is none that makes sense."""
    text = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
        return seconds if 0 <= seconds < math.inf else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(text)
        # Against the vendor's own clock if it tells it, so that a wrong clock here does not matter.
        now = parsedate_to_datetime(response.headers["date"]) if "date" in response.headers else datetime.now(UTC)
        wait: timedelta = until.replace(tzinfo=until.tzinfo or UTC) - now.replace(tzinfo=now.tzinfo or UTC)
        return max(0.0, wait.total_seconds())
    except (ValueError, OverflowError):
        return None


def _head(chunks: Iterator[bytes], limit: int) -> bytes:
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= limit:
            break
    return head[:limit]


def _cause(exc: BaseException | None, kind: type[Item]) -> Item | None:
    while exc is not None:
        if isinstance(exc, kind):
            return exc
        exc = exc.__cause__ or exc.__context__
    return None
