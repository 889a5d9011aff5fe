"""What one try that failed means, and what may be done about it."""

from __future__ import annotations

import socket
import ssl
from typing import Any, TypeVar

import httpx

from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    Recovery,
    Refused,
    Unavailable,
    Unreachable,
)
from sources.http.address import host_port, setting
from sources.http.request import CONNECT_TIMEOUT, Call
from sources.http.response import ERROR_BYTES, UNPARSED, parse, pause_asked, plain_text, vendor_text

_PASSING = frozenset({429, 500, 502, 503, 504})
Item = TypeVar("Item")


class Failure(Exception):
    """One try that failed, and what may be done about it. None leaves `Http`."""

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


def broken(call: Call, response: httpx.Response, *, what: str, why: str, todo: str = "") -> BrokenAnswer:
    return BrokenAnswer(what=what, where=call.where, why=why, todo=todo, status=response.status_code)


def _cause(exc: BaseException | None, kind: type[Item]) -> Item | None:
    while exc is not None:
        if isinstance(exc, kind):
            return exc
        exc = exc.__cause__ or exc.__context__
    return None


def refusal(call: Call, response: httpx.Response, content: bytes) -> Failure:
    """The error for a status that is not accepted."""
    status, parsed = response.status_code, parse(content)
    if failure := inspected(call, response, parsed):
        return failure
    message = plain_text(content) if parsed is UNPARSED else vendor_text(parsed)
    what, where, pause = f"the vendor answered {status}", call.where, _asked(call, response)
    error: NightloadError
    if status in {401, 403}:
        todo = f"Check the credentials under sources.{call.vendor} and what they may read"
        error = AccessDenied(what=what, where=where, why=message, todo=todo, status=status, message=message)
    elif status == 429 or status >= 500:
        error = Unavailable(what=what, where=where, why=message, status=status, message=message, retry_after=pause)
    elif status >= 400:
        error = Refused(what=what, where=where, why=message, status=status, message=message)
    else:
        error = broken(call, response, what=what, why=message or "no such status was expected")
    # 500 only once more: vendors also say it to a client's mistake (TONalytica to an unknown job).
    once = status == 500
    if call.patience is not None and status in {502, 504}:
        # a gateway did not wait for a slow answer, on which the vendor may still be at work
        once, error.todo = True, call.patience.todo
    return Failure(error, again=status in _PASSING, once=once, pause=pause)


def inspected(call: Call, response: httpx.Response, parsed: Any) -> Failure | None:
    if call.inspect is None or parsed is UNPARSED:
        return None
    error = call.inspect(response.status_code, parsed)
    return None if error is None else _told(call, response, error)


def look_at_head(call: Call, response: httpx.Response, content: bytes) -> None:
    refuse_web_page(call, response, content)
    if call.head is not None and (error := call.head(content[:ERROR_BYTES])) is not None:
        raise _told(call, response, error)


def refuse_web_page(call: Call, response: httpx.Response, content: bytes) -> None:
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    declared = "html" in response.headers.get("content-type", "") and start.startswith(b"<")
    if declared or start.startswith((b"<!doctype html", b"<html")):
        what, why = "a web page came instead of data", "wrong base_url, a proxy or login page?"
        page = broken(call, response, what=what, why=why, todo=f"Check {setting(call.vendor)}")
        raise Failure(page, again=True)


def lost(call: Call, exc: Exception, *, answered: bool, timeout: float) -> Failure:
    """The error for an answer that never came, or not to its end. httpx's own texts hold URLs: none is used."""
    where, check = call.where, f"Check {setting(call.vendor)}, the network and any proxy"
    if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        certificate = _cause(exc, ssl.SSLCertVerificationError)
        if certificate:
            why = f"its certificate is not trusted ({certificate.verify_message})"
            check = f"If a company proxy signs it, set SSL_CERT_FILE to its CA; else check {setting(call.vendor)}"
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
        error = Unreachable(what=f"cannot reach {host_port(call.url)}", where=where, why=why, todo=check)
        return Failure(error, again=not certificate, unsent=not (certificate or isinstance(exc, httpx.ProxyError)))
    if isinstance(exc, httpx.TimeoutException):
        what = "the answer stopped coming" if answered else "no answer came"
        todo = call.patience.todo if call.patience else ""
        late = Unavailable(what=what, where=where, why=f"nothing for {timeout:g} s", todo=todo)
        # once: a request that is given up may still be work for the vendor
        return Failure(late, again=True, once=True)
    if isinstance(exc, httpx.NetworkError | httpx.RemoteProtocolError):
        if answered:
            cut = BrokenAnswer(what="the answer was cut", where=where, why="the connection ended early")
            return Failure(cut, again=True)
        dropped = Unavailable(what="no answer came", where=where, why="the connection broke, or what came was not HTTP")
        return Failure(dropped, again=True)
    kind = type(exc).__name__
    return Failure(ConfigurationError(what="the request could not be sent", where=where, why=kind, todo=check))


def _told(call: Call, response: httpx.Response, error: NightloadError) -> Failure:
    error.where = error.where or call.where
    pause = error.retry_after if isinstance(error, Unavailable) else None
    return Failure(
        error,
        again=error.recovery is Recovery.RETRY,
        once=response.status_code == 500,
        pause=_asked(call, response) if pause is None else pause,
    )


def _asked(call: Call, response: httpx.Response) -> float | None:
    own = call.pause_asked(response.headers) if call.pause_asked else None
    return pause_asked(response) if own is None else own
