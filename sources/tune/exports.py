"""TUNE's export queue: order, ask after, download. Links are the vendor's words, so they are looked at before use.

Three variants: `export/download` tells of jobs that are a text or an object, `…/status` of the same ones for cohorts,
and the third version has handles in its path. What they answer differs in the nesting only.
"""

from __future__ import annotations

import logging
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from sources.core.errors import AccessDenied, BrokenAnswer, NotReady, Refused, Unavailable
from sources.core.redaction import masked, register_secret
from sources.http.cassette import pause
from sources.http.client import Http
from sources.http.download_links import Links, bad_link
from sources.http.unpack import Bomb, gunzip
from sources.tune.settings import LINK_HOSTS, VENDOR, Settings

log = logging.getLogger(__name__)

FRESH_LINKS = 3
"""So many links of one export are tried: each ends after an hour."""
_SLOWEST = 6
_JOB = re.compile(r"[A-Za-z0-9_-]{1,200}")
_CHUNK = 2**20

Ask = Callable[[], Any]
"""One request for the state of a job."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """An export that can be fetched; `lines` if the vendor counts them."""

    link: str
    lines: int | None


def job_of(data: Any, *names: str, where: str) -> str:
    """The job's id, from a text or from an object that has it under one of `names`."""
    told = next((data[name] for name in names if name in data), None) if isinstance(data, Mapping) else data
    if not isinstance(told, str | int) or isinstance(told, bool) or not _JOB.fullmatch(str(told)):
        raise BrokenAnswer(
            what="the vendor named no job for the export", where=where, why=f"it says {str(data)[:60]!r}"
        )
    return str(told)


def _pause(seconds: float) -> None:
    pause(VENDOR, seconds)


def wait_for(ask: Ask, settings: Settings, *, where: str, sleep: Callable[[float], None] = _pause) -> Ready:
    """Ask after the job until its link is there: after 10 s, then 20, and so on up to 60, 60 times at most.

    Raises `NotReady` then, and `Unavailable` if the vendor gave the job up.
    """
    state, percent = "", ""
    for number in range(1, settings.poll_tries + 1):
        sleep(settings.poll_seconds * min(number, _SLOWEST))
        told = ask()
        if not isinstance(told, Mapping):
            raise BrokenAnswer(what="the vendor tells no state of the export", where=where, todo="Run again")
        state, percent = str(told.get("status", "")).lower(), str(told.get("percent_complete", ""))
        if state in ("fail", "failed", "error"):
            raise Unavailable(what="the vendor's export failed", where=where, todo="Run again, or ask for less")
        inner = told.get("data")
        link = told.get("url") or (inner.get("url") if isinstance(inner, Mapping) else None)
        # done, and no link yet, is a state that lasts a moment
        if state in ("complete", "completed") and percent in ("100", "100.0", "") and isinstance(link, str) and link:
            lines = told.get("lines_exported")
            known = (
                isinstance(lines, int | str) and not isinstance(lines, bool) and re.fullmatch("[0-9]{1,18}", str(lines))
            )
            return Ready(link=link, lines=int(lines) if known else None)  # type: ignore[arg-type]
    raise NotReady(
        what="the export is not ready",
        where=where,
        why=f"it is {state or 'in no state'}, at {percent or 'no'} percent",
        todo=f"Run again later, or raise sources.{VENDOR}.poll_tries",
    )


class Downloads:
    """Fetches what links name, each host with an `Http` of its own that knows no key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._links = Links(
            vendor=VENDOR, base_url=settings.base_url, usual=LINK_HOSTS, named=settings.link_hosts or ()
        )
        self._lock = threading.Lock()
        self._https: dict[str, Http] = {}

    @property
    def requests(self) -> int:
        return sum(http.requests for http in self._https.values())

    def close(self) -> None:
        for http in self._https.values():
            http.close()

    def fetch(self, ready: Ready, again: Callable[[], Ready], file: Path, *, where: str) -> Ready:
        """Bring the export to `file`, unpacked. A link that is refused is asked for anew: `again`.

        Returns what the vendor said of the file that came.
        """
        for number in range(1, FRESH_LINKS + 1):
            try:
                self._spool(ready.link, file, where=where)
            except AccessDenied as refused:
                status = refused.status
                if number < FRESH_LINKS:
                    log.info("%s: the link was refused (%s); asking for a fresh one", where, status)
                    ready = again()
            else:
                _unpack(file, most=self._settings.download_megabytes * 2**20, where=where)
                return ready
        raise Refused(
            what=f"the export's link was refused {FRESH_LINKS} times", where=where, todo="Run again", status=status
        )

    def _spool(self, link: str, file: Path, *, where: str) -> None:
        parts = self._checked(link, where=where)
        origin = f"{parts.scheme}://{parts.netloc}"
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        if parts.query:
            register_secret(parts.query, in_rows=False)  # it is the signature that opens the file
        with self._lock:
            if origin not in self._https:
                most = self._settings.download_megabytes * 2**20
                self._https[origin] = Http(
                    vendor=VENDOR, base_url=origin, max_bytes=most, retry_budget=10, links=self._links, masks=True
                )
            http = self._https[origin]
        try:
            http.spool(path, file)
        except ValueError:
            raise bad_link("it holds what no link can carry", where) from None

    def _checked(self, link: str, *, where: str) -> SplitResult:
        """The link's parts, its backslashes mended. Raises `BrokenAnswer` for one that leads where it should not."""
        # seen as https:\\s3.amazonaws.com\...: slashes that were escaped, once or twice
        text = re.sub(r"^([a-z]+):/?\\[\\/]*", r"\1://", link.strip(), flags=re.IGNORECASE)
        return self._links.checked(re.sub(r"\\+/?", "/", text), where=where)


@contextmanager
def downloads(settings: Settings) -> Iterator[Downloads]:
    fetching = Downloads(settings)
    try:
        yield fetching
    finally:
        fetching.close()


def _unpack(file: Path, *, most: int, where: str) -> None:
    """Replace a gzip file by what is in it."""
    with file.open("rb") as packed:
        if packed.read(2) != b"\x1f\x8b":
            return
    target = file.with_suffix(".unpacked")
    try:
        with file.open("rb") as packed, target.open("wb") as out:
            size = 0
            for chunk in masked(gunzip(iter(partial(packed.read, _CHUNK), b""))):
                size += len(chunk)
                if size > most:
                    raise BrokenAnswer(what="the export is too large", where=where, todo="Ask for smaller windows")
                out.write(chunk)
        target.replace(file)
    except Bomb as bomb:
        raise BrokenAnswer(what="the export is packed as no honest one is", where=where, why=str(bomb)) from None
    except (EOFError, zlib.error):
        raise BrokenAnswer(what="the export's gzip is cut or damaged", where=where, todo="Run again") from None
    finally:
        target.unlink(missing_ok=True)
