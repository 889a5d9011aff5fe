"""How GrowingIO is asked: the token, the generations of its paths, what its refusals mean. Reads only.

One token serves a whole run. Minting a new one makes the former one invalid, so it is done under a lock, once, and
once more if the vendor stops taking the token in mid-run (another job has then minted one).
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import mmap
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sources.convert.json_envelope import cut_array
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    NightloadError,
    NotReady,
    Refused,
    Unavailable,
    Unreachable,
    one_line,
)
from sources.core.redaction import register_secret
from sources.growingio.settings import LINK_HOSTS, VENDOR, Settings, wrong
from sources.http.client import Http
from sources.http.download_links import Links, bad_link
from sources.http.rate_limit import Rate
from sources.http.request import Patience, Scalar
from sources.http.response import parse

log = logging.getLogger(__name__)

Result = TypeVar("Result")

SCHEMES = ("Token ", "")
FRESH_LINKS = 2
"""So often is a download link asked for: it lives some minutes only."""
_ID = re.compile(r"[A-Za-z0-9_.-]+")
_LIMITED = re.compile(r"rate|limit|too many|throttl|频", re.IGNORECASE)
_LARGEST = 16 * 2**30
_SERIES = {"chart": "charts", "funnel": "funnels", "retention": "retentions"}


class TimedOut(Refused):
    """The vendor's own clock of 5000 ms ran out over this window: ask for less."""


class TooMany(Refused):
    """As many rows as one answer carries at most: it may be cut. Ask for less."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """An answer of a chart, funnel or retention: what it says of itself, and where its rows stand in `file`."""

    file: Path
    start: int
    envelope: Mapping[str, Any]


class Client:
    """One project. To be used from any number of threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._signed = settings.auth_mode == "signed"
        self._project = str(settings.project_uid)
        self._token = None if self._signed else str(settings.console_token)
        self._first_scheme = self._scheme = settings.auth_scheme
        self._scheme_is_sure = self._minted_again = False
        self._denied: AccessDenied | None = None
        self._lock = threading.Lock()
        self.http = Http(
            vendor=VENDOR,
            base_url=settings.base_url,
            headers={"X-Client-Id": settings.client_id} if settings.client_id else {},
            secrets=[str(each) for each in (settings.console_token, settings.secret) if each],
            rates={"default": Rate(per_second=settings.requests_per_second)},
            concurrency=settings.concurrency,
            masks=True,
            max_bytes=_LARGEST,
            deadline=3600.0,
        )

    @property
    def scheme(self) -> str:
        """The form of the header that the vendor takes, as far as it is known."""
        return self._scheme

    def begin_with(self, scheme: str) -> None:
        """Try this form of the header first: an earlier run found it out. Too late once an answer has come."""
        with self._lock:
            if not self._scheme_is_sure and self._scheme == self._first_scheme and scheme in SCHEMES:
                self._first_scheme = self._scheme = scheme

    # -- what there is ----------------------------------------------------------------------------

    def dashboards(self) -> list[dict[str, Any]]:
        """The boards; later than the first generation of the interface, so a server may not have the list."""
        return self._list("dashboards.json")

    def dashboard(self, dashboard_id: str) -> dict[str, Any]:
        """One board with its `charts`."""
        path = f"dashboards/{path_id(dashboard_id)}.json"
        board = self._json(path)
        if not isinstance(board, dict) or not isinstance(board.get("charts"), list):
            raise _shapeless(path, board, "an object with a list of charts")
        return board

    def segmentations(self) -> list[dict[str, Any]]:
        return self._list("segmentations.json")

    def rules(self, file: Path) -> None:
        """The rules as the CSV text that came. Raises `BrokenAnswer` for an error told under status 200."""
        self._text("rules.csv", file)

    # -- series -----------------------------------------------------------------------------------

    def series(self, kind: str, uid: str, params: Mapping[str, Scalar], file: Path) -> Series:
        """One window of a chart, funnel or retention, its body kept in `file`.

        Raises `TimedOut` where a smaller window may work, `NotReady` where the vendor does not come to an end.
        """
        generation, until = self._settings.charts_api, time.monotonic() + self._settings.poll_timeout
        path = self._series_path(kind, uid)
        inspect = partial(_windowed, waits=generation == "v3")
        while True:
            self._call(lambda headers: self.http.spool(path, file, params=params, headers=headers, inspect=inspect))
            found = _series(file, where=f"{VENDOR}, {path}")
            if isinstance(found, Series):
                return found
            self._still_doing(found, path, generation=generation, until=until)

    def _series_path(self, kind: str, uid: str) -> str:
        what = f"projects/{self._project}/{_SERIES[kind]}/{path_id(uid)}"
        if self._settings.charts_api == "v3":
            return f"v3/exporter/{what}"
        # the first generation has charts only: funnels and retentions came with the second
        if self._settings.charts_api == "v1" and kind == "chart":
            return f"{what}.json"
        return f"v2/{what}.json"

    # -- the users of a segment -------------------------------------------------------------------

    def segmentation_users(self, segmentation_id: str, file: Path) -> None:
        """Stream the users of one segment to `file`, as the CSV text that comes."""
        path = f"segmentations/{path_id(segmentation_id)}/users"
        if self._settings.segmentations_api == "v1":
            self._text(f"{path}.csv", file)
            return
        path = f"v3/exporter/projects/{self._project}/{path}"
        where, status = f"{VENDOR}, {path}", None
        for _ in range(FRESH_LINKS):
            links = self._links(path)
            try:
                self._download(links, file, where=where)
            except AccessDenied as refused:
                # the link's end, and no word about the token, which did not go along
                status = refused.status
                log.info("%s: the link was refused (%s); asking for a fresh one", where, status)
            else:
                _refuse_json(file, where=where)
                return
        raise Refused(what="the export's link was refused twice", where=where, todo="Run again", status=status)

    def _links(self, path: str) -> list[str]:
        """Order the export and wait for the links to its files."""
        params, until = {"expire": self._settings.link_minutes}, time.monotonic() + self._settings.poll_timeout
        while True:
            answer = self._call(
                lambda headers: self.http.json("GET", path, params=params, headers=headers, inspect=_refusal)
            )
            links = answer.get("downloadLinks") if isinstance(answer, dict) else None
            if isinstance(answer, dict) and answer.get("status") == "done" and isinstance(links, list) and links:
                return [str(link) for link in links]
            self._still_doing(answer, path, generation="v3", until=until)

    def _download(self, links: list[str], file: Path, *, where: str) -> None:
        """Fetch what the links name, one after the other, as strangers: no header of ours goes along."""
        for number, link in enumerate(links):
            register_secret(link, in_rows=False)
            allowed = links_of(self._settings)
            parts = allowed.checked(link, where=where)
            if parts.query:
                register_secret(parts.query, in_rows=False)
            part = file if number == 0 else file.with_suffix(f".{number}")
            with Http(
                vendor=VENDOR,
                base_url=f"{parts.scheme}://{parts.netloc}",
                max_bytes=_LARGEST,
                deadline=3600.0,
                links=allowed,
                masks=True,
            ) as stranger:
                try:
                    stranger.spool(parts._replace(scheme="", netloc="").geturl(), part)
                except ValueError:
                    raise bad_link("it holds what no link can carry", where) from None
                except Unreachable as error:
                    # the host of the files, not the vendor's own
                    raise Unavailable(what=error.what, where=where, why=error.why, todo="Run again") from None
            if number:
                _append(part, file, where=where)

    def _still_doing(self, answer: Any, path: str, *, generation: str, until: float) -> None:
        """Wait a while if the answer says that it is not ready. Raises what else it may say."""
        where = f"{VENDOR}, {path}"
        told = answer if isinstance(answer, dict) else {}
        if generation != "v3" or told.get("status") != "doing":
            raise Refused(
                what="the vendor did not make the export"
                if told.get("status") == "failed"
                else "no data in the answer",
                where=where,
                why=_message(told) or f"it holds {', '.join(map(str, told)) or 'nothing'}",
                todo="Run again; if it stays, "
                + (
                    "leave it out: name the others in segmentation_users"
                    if path.endswith("/users")
                    else "ask for a smaller window (window_days)"
                ),
            )
        if time.monotonic() > until:
            raise NotReady(
                what=f"the export was not ready within {self._settings.poll_timeout} s",
                where=where,
                todo=f"Come back later, or raise sources.{VENDOR}.poll_timeout",
            )
        self.http.wait(self._settings.poll_seconds)

    # -- the token --------------------------------------------------------------------------------

    def _call(self, ask: Callable[[Mapping[str, str]], Result]) -> Result:
        """`ask` with the token; on a 401 the other form of the header is tried once, then a new token once."""
        while True:
            token, scheme = self._credentials()
            try:
                answer = ask({"Authorization": f"{scheme}{token}"})
            except AccessDenied as error:
                if error.status != 401:
                    raise
                self._refused(token, scheme, error)
                continue
            if not self._scheme_is_sure:
                with self._lock:
                    self._scheme, self._scheme_is_sure = scheme, True
            return answer

    def _credentials(self) -> tuple[str, str]:
        with self._lock:
            if self._denied is not None:
                raise self._denied
            if self._token is None:
                self._token = self._mint_or_never()
            return self._token, self._scheme

    def _refused(self, token: str, scheme: str, error: AccessDenied) -> None:
        """Change what can be changed about credentials that were not taken; raise `error` if nothing can."""
        with self._lock:
            if (token, scheme) != (self._token, self._scheme):
                return  # another worker has changed them already
            if not self._scheme_is_sure and scheme == self._first_scheme:
                self._scheme = SCHEMES[1 - SCHEMES.index(scheme)]
                log.info("%s does not take the token; trying auth_scheme = %r", VENDOR, self._scheme)
                return
            if not self._scheme_is_sure:
                self._scheme = self._first_scheme
            if self._signed and not self._minted_again:
                self._minted_again = True
                log.warning("%s does not take the token: another job may have minted one. Minting again", VENDOR)
                self._token = self._mint_or_never()
                return
            self._denied = error
            error.what = "the vendor does not accept the token"
            error.todo = (
                f"Check sources.{VENDOR}.project_uid, account_ai, client_id and secret; if another job mints tokens "
                "for this project, run them one after the other"
                if self._signed
                else f"Make a new one in the console (project settings, API token): sources.{VENDOR}.console_token"
            )
            raise error

    def _mint_or_never(self) -> str:
        try:
            return self._mint()
        except AccessDenied as error:
            self._denied = error  # what is refused once is not asked for again
            raise

    def _mint(self) -> str:
        settings = self._settings
        tm = int(time.time() * 1000) + settings.clock_skew_seconds * 1000
        text = f"project={settings.project_uid}&ai={settings.account_ai}&tm={tm}"
        auth = signature(str(settings.secret), text)

        def inspect(status: int, answer: Any) -> NightloadError | None:
            code = answer.get("code") if isinstance(answer, dict) else None
            if status == 200 and answer.get("status") == "success" and isinstance(code, str) and code:
                return None
            if status >= 500 or status == 429:
                return None
            return AccessDenied(
                what="the vendor minted no token",
                why=_message(answer),
                todo=f"Check sources.{VENDOR}.project_uid, account_ai, client_id and secret, and this machine's clock; "
                "newer projects have console tokens only",
                status=status,
            )

        answer = self.http.json(
            "POST",
            "auth/token",
            body=f"{text}&auth={auth}".encode(),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            inspect=inspect,
            private=("code",),
            login=True,
        )
        register_secret(answer["code"])
        return str(answer["code"])

    # -- calls ------------------------------------------------------------------------------------

    def _json(self, path: str) -> Any:
        full = f"projects/{self._project}/{path}"
        return self._call(lambda headers: self.http.json("GET", full, headers=headers, inspect=_refusal))

    def _list(self, path: str) -> list[dict[str, Any]]:
        rows = self._json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("id") for row in rows):
            raise _shapeless(path, rows, "a list of objects with an id")
        return rows

    def _text(self, path: str, file: Path) -> None:
        full = f"projects/{self._project}/{path}"
        # the server builds the whole CSV before its first byte
        patience = Patience(self._settings.poll_timeout, f"Run again, or raise sources.{VENDOR}.poll_timeout")
        self._call(lambda headers: self.http.spool(full, file, headers=headers, inspect=_refusal, patience=patience))
        _refuse_json(file, where=f"{VENDOR}, {full}")


def links_of(settings: Settings) -> Links:
    """Which download links are followed: the vendor's own hosts, and what the settings name."""
    return Links(vendor=VENDOR, base_url=settings.base_url, usual=LINK_HOSTS, named=settings.link_hosts or ())


def _refuse_json(file: Path, *, where: str) -> None:
    """Raises `BrokenAnswer` for an error document under status 200, where CSV was due."""
    with file.open("rb") as body:
        head = body.read(2**16).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head.startswith(b"{"):
        return
    told = _message(parse(head))
    file.unlink()
    raise BrokenAnswer(what="an error came where CSV was due", where=where, why=told, todo="Run again")


def _append(part: Path, file: Path, *, where: str) -> None:
    """Add another file of the same export, whose header is that of the first."""
    with part.open("rb") as more, file.open("r+b") as whole:
        headers = [each.readline().removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") for each in (whole, more)]
        if headers[0] != headers[1]:
            raise BrokenAnswer(
                what="the files of the export begin with different headers", where=where, todo="Run again"
            )
        if whole.seek(0, os.SEEK_END):
            whole.seek(-1, os.SEEK_END)
            if whole.read(1) != b"\n":
                whole.write(b"\n")
        shutil.copyfileobj(more, whole, 2**20)
    part.unlink()


def signature(secret: str, text: str) -> str:
    """`auth` of the mint request, over `text` = `project=…&ai=…&tm=…`."""
    return hmac.new(secret.encode(), f"POST\n/auth/token\n{text}".encode(), hashlib.sha256).hexdigest()


def check_credentials(settings: Settings) -> None:
    """Raises `ConfigurationError` that names everything that is missing at once."""
    names: tuple[str, ...] = ("project_uid", "console_token")
    if settings.auth_mode == "signed":
        names = ("project_uid", "account_ai", "client_id", "secret")
    if missing := [name for name in names if not getattr(settings, name)]:
        told = ", ".join(f"sources.{VENDOR}.{name}" for name in missing)
        variables = ", ".join(f"SOURCES__{VENDOR}__{name}".upper() for name in missing)
        raise wrong(f"{told} is not set", f"Write it into .dlt/secrets.toml, or set {variables}")


def _series(file: Path, *, where: str) -> Series | Any:
    """The answer in `file`, or the parsed document if it has no rows: it then says why."""
    if file.stat().st_size == 0:
        raise BrokenAnswer(what="an empty answer came", where=where, todo="Run again")
    with file.open("rb") as body, mmap.mmap(body.fileno(), 0, access=mmap.ACCESS_READ) as view:
        try:
            envelope, start, _ = cut_array(view, "data", where=where)
        except BrokenAnswer:
            told = parse(view[:])
            if not isinstance(told, dict) or "data" in told:
                raise
            return told
    if not isinstance(envelope, dict) or not isinstance(envelope.get("meta"), list):
        raise _shapeless(where, envelope, "an object with meta and data")
    return Series(file=file, start=start, envelope=envelope)


def _refusal(status: int, answer: Any) -> NightloadError | None:
    """What a refusal means where HTTP alone does not tell."""
    if status != 403 or not _LIMITED.search(_message(answer)):
        return None
    return Unavailable(what="the vendor throttles", why=_message(answer), status=status)


def _windowed(status: int, answer: Any, *, waits: bool) -> NightloadError | None:
    if status >= 500 and "request_timeout" in _codes(answer):
        return TimedOut(
            what="the vendor did not compute it in time",
            why=_message(answer),
            todo="Make the chart smaller" + ("" if waits else ', or use charts_api = "v3", which waits'),
            status=status,
        )
    return _refusal(status, answer)


def _codes(answer: Any) -> set[str]:
    errors = answer.get("errors") if isinstance(answer, dict) else None
    return {str(each.get("code")) for each in errors if isinstance(each, dict)} if isinstance(errors, list) else set()


def _message(answer: Any) -> str:
    if not isinstance(answer, dict):
        return ""
    errors = answer.get("errors")
    told = [each.get("message") for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    texts = [answer.get("message"), answer.get("errorMsg"), *told]
    return one_line("; ".join(dict.fromkeys(str(text) for text in texts if text)))[:300]


def path_id(uid: str) -> str:
    """An id as a path holds it; ids come from the vendor's own answers."""
    if not _ID.fullmatch(uid) or uid in (".", ".."):
        raise BrokenAnswer(what=f"{uid[:40]!r} is no id", where=VENDOR, todo="Look at the vendor's list")
    return uid


def _shapeless(path: str, found: Any, due: str) -> BrokenAnswer:
    what = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
    return BrokenAnswer(
        what=f"the answer is not {due}",
        where=path if path.startswith(VENDOR) else f"{VENDOR}, {path}",
        why=_message(found) or f"it is {what[:80]}",
        todo="Run again; if it stays, the vendor changed its answers",
    )


STOPPING = (AccessDenied, Unreachable)
"""Errors after which nothing else of this vendor works."""
