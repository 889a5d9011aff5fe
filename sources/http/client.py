"""How vendors are spoken to: limited, retried where that is safe, bounded in time and size, and silent about secrets.

One `Http` serves one vendor, from any number of threads. Every failure is raised as an error of `sources.core.errors`
that names method, host and path; query strings and header values are never told, and no httpx exception escapes
(httpx puts the full URL into its texts and log lines).
"""

from __future__ import annotations

import itertools
import os
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import httpx
import orjson

from sources.core import cancellation
from sources.core.errors import BrokenAnswer, ConfigurationError
from sources.core.redaction import install, masked, register_secret
from sources.http.address import checked_base_url, is_loopback, origin, place, setting
from sources.http.body import bounded
from sources.http.cassette import Asked, asked, pause, player_of, recorder_of
from sources.http.download_links import Links
from sources.http.error_mapping import Failure, broken, inspected, look_at_head, lost, refusal, refuse_web_page
from sources.http.rate_limit import Limiter, Rate
from sources.http.recording import played, recorded
from sources.http.request import CONNECT_TIMEOUT, Call, Options, PauseAsked, Scalar, checked_headers
from sources.http.response import ERROR_BYTES, UNPARSED, Answer, Spooled, flaw_of, head_of, parse
from sources.http.retry import Retries

Result = TypeVar("Result")
MAX_REDIRECTS = 3
MAX_IN_MEMORY = 256 * 2**20
"""What `json` and `body` hold at most, however much `spool` may bring to disk."""
_CHUNK = 2**20
Receive = Callable[[httpx.Response, Iterator[bytes]], Result]


@cache
def _trusted(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Whose certificates are believed, as httpx takes it from SSL_CERT_FILE and SSL_CERT_DIR.

    Once, and not for each client, whom it costs 30 ms of CPU.
    """
    return httpx.create_ssl_context()


def _waits(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CONNECT_TIMEOUT, pool=None)


class Http:
    """One vendor's HTTP.

    Of `rates`, a Limiter is shared with whoever else was given it. `timeout` bounds each wait for bytes, `deadline` a
    whole answer, `max_bytes` its decoded size, all per try.
    `retry_budget` is shared by everything this instance does. `sign` is called with each request about to be sent,
    again for every retry: for signatures over a fresh nonce and date. `pause_asked` reads the pause in seconds from
    headers that a vendor has of its own; None leaves it to `Retry-After`. `sends` are patterns of `METHOD path`: with
    them nothing but GET, HEAD and what fits one of them ever leaves. With `links` it is for the files that a vendor's
    reply names: each host and address is looked at before it is connected to, redirects too. `masks`: registered
    secrets are masked in all answers but those to a `login`, before anything reads or records them. `requests`,
    `retries` and `bytes` (as received, before decoding) count.

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
        pause_asked: PauseAsked | None = None,
        sends: Iterable[str] | None = None,
        links: Links | None = None,
        masks: bool = False,
        sleep: Callable[[float], None] = cancellation.sleep,
    ) -> None:
        # Here, not only in the command line: the dlt sources are also used without it, and httpx logs URLs.
        install()
        for secret in secrets:
            register_secret(secret)
        self.vendor = vendor
        self.requests = self.bytes = 0
        self._lock = threading.Lock()
        self._base = checked_base_url(vendor, base_url)
        self._params = dict(params or {})
        self._limiters = {
            name: rate if isinstance(rate, Limiter) else Limiter(rate, sleep=sleep)
            for name, rate in {"default": None, **(rates or {})}.items()
        }
        self._timeout, self._deadline, self._max_bytes = timeout, deadline, max_bytes
        self._retries = Retries(budget=retry_budget, limiters=self._limiters, sleep=sleep)
        self._slots = threading.BoundedSemaphore(concurrency)
        self._sign, self._pause_asked, self._links, self._masks = sign, pause_asked, links, masks
        self._sends = None if sends is None else tuple(map(re.compile, sends))
        # Only gzip is offered, because only gzip is decoded here (httpx lets a cut gzip stream pass as whole).
        offered = {"User-Agent": "nightload", "Accept-Encoding": "gzip", **checked_headers(vendor, headers or {})}
        host = self._base.host
        try:
            self._client = httpx.Client(
                headers=offered,
                verify=_trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                # Waiting for a connection is the semaphore's part, so the deadline starts with the request.
                timeout=_waits(min(timeout, deadline)),
                limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
                # A company proxy from the environment is honoured, but it cannot reach this machine's loopback.
                mounts={f"all://{f'[{host}]' if ':' in host else host}": None} if is_loopback(host) else None,
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
            parsed = parse(content)
            if parsed is UNPARSED:
                refuse_web_page(call, response, content)
                what = "the answer is not JSON" if content.strip() else "an empty answer came where JSON was due"
                kind = response.headers.get("content-type", "no content type")
                flaw = flaw_of(content)
                why = flaw or f"{len(content)} bytes of {kind}, perhaps cut"
                raise Failure(broken(call, response, what=what, why=why), again=True, once=bool(flaw))
            if failure := inspected(call, response, parsed):
                raise failure
            return parsed

        return self._run(call, receive)

    def body(self, method: str, path: str, **options: Unpack[Options]) -> Answer:
        """The answer as bytes."""
        call = self._prepare(method, path, options)

        def receive(response: httpx.Response, chunks: Iterator[bytes]) -> Answer:
            content = b"".join(chunks)
            look_at_head(call, response, content)
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
                    look_at_head(call, response, out.read(ERROR_BYTES))
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
            return Spooled(path=file, size=size, headers=response.headers)

        return self._run(call, receive, streams=True)

    @property
    def retries(self) -> int:
        """How many of the budget were spent."""
        return self._retries.spent

    def renew_budget(self) -> None:
        """What follows may be tried again as often as what was before."""
        self._retries.spent = 0

    def wait(self, seconds: float) -> None:
        """What a client sleeps before it asks again after work that the vendor does; no time at all in a replay."""
        pause(self.vendor, seconds)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, method: str, path: str, options: Options) -> Call:
        if "#" in path or not {".", ".."}.isdisjoint(path.partition("?")[0].split("/")):
            raise ValueError("a path with '#', '.' or '..' goes elsewhere than it says; quote the values in it")
        self._refuse_write(method.upper(), path)
        group = options.get("group", "default")
        if group not in self._limiters:
            raise ValueError(f"{self.vendor} has no rate group {group!r}")
        body = options.get("body")
        headers = checked_headers(self.vendor, options.get("headers", {}))
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
        return Call(
            vendor=self.vendor,
            method=method.upper(),
            url=url,
            where=f"{self.vendor}, {method.upper()} {place(url)}",
            headers=headers,
            content=body,
            form=options.get("form"),
            group=group,
            retry=options.get("retry", method.upper() in {"GET", "HEAD"}),
            patience=options.get("patience"),
            accept=options.get("accept", (200,)),
            inspect=options.get("inspect"),
            head=options.get("head"),
            pause_asked=self._pause_asked,
            private=options.get("private", ()),
            masks=self._masks and not options.get("login", False),
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

    def _run(self, call: Call, receive: Receive[Result], *, streams: bool = False) -> Result:
        return self._retries.run(call, lambda: self._attempt(call, receive, streams=streams))

    def _attempt(self, call: Call, receive: Receive[Result], *, streams: bool) -> Result | Failure:
        cancellation.check()
        player = player_of(self.vendor)
        if player is None:
            self._limiters[call.group].take()
        answered, wait = False, call.patience.seconds if call.patience else self._timeout
        with self._slots:
            begun = time.monotonic()
            try:
                with closing(self._send(call) if player is None else played(call, player)) as response:
                    answered = True
                    most = self._max_bytes if streams else min(self._max_bytes, MAX_IN_MEMORY)
                    chunks = bounded(
                        call,
                        response,
                        begun=begun,
                        deadline=self._deadline + max(0.0, wait - self._timeout),
                        most=most,
                        count=lambda size: self._count(bytes=size),
                    )
                    if call.masks:
                        chunks = masked(chunks)
                    recorder = recorder_of(self.vendor)
                    if response.status_code not in call.accept:
                        content = head_of(chunks, ERROR_BYTES)
                        if recorder is not None:
                            deque(recorded(call, response, [content], recorder, streams=False), maxlen=0)
                        return refusal(call, response, content)
                    if recorder is not None:
                        chunks = recorded(call, response, chunks, recorder, streams=streams)
                    return receive(response, chunks)
            except Failure as failure:
                return failure
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as exc:
                return lost(call, exc, answered=answered, timeout=wait)

    def _send(self, call: Call) -> httpx.Response:
        request = self._client.build_request(
            call.method,
            call.url,
            content=call.content,
            data=call.form,
            headers=call.headers,
            timeout=_waits(call.patience.seconds) if call.patience else self._client.timeout,
            extensions={"trace": cancellation.watch},
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
            elif self._links is None and origin(following.url) != origin(to):
                why = "credentials never go to another host or scheme"
            elif hop == MAX_REDIRECTS:
                why = f"it came after {MAX_REDIRECTS} others"
            if why:
                what = f"a redirect to {place(following.url)} was not followed"
                raise Failure(broken(call, response, what=what, why=why, todo=f"Check {setting(self.vendor)}"))
            request = following
            self._limiters[call.group].take()
        raise AssertionError("unreachable")

    def _looked_at(self, request: httpx.Request, call: Call) -> httpx.Request:
        """For a link's host: the request bound to an address that may be asked."""
        if self._links is None:
            return request
        try:
            self._links.connect(request, where=call.where)
        except BrokenAnswer as error:
            refused = Failure(error)
        else:
            return request
        raise refused

    def _following(self, response: httpx.Response, asked: httpx.URL) -> httpx.Request | None:
        following = response.next_request
        if following is None or self._links is None:
            return following
        # not httpx's own, which goes on from the address; and a link's redirect takes nothing along
        return self._client.build_request("GET", asked.join(response.headers["location"]))

    def _count(self, *, requests: int = 0, bytes: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.bytes += bytes
