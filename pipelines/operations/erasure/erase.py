"""`nightload forget`: a person out of every loaded table, kept out of every later load, and a record of it.

It goes through the warehouse as a night does: under the lock, and published at once or not at all. Killed in between,
it leaves yesterday's warehouse, and run again it does all of it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unicodedata import normalize

from pipelines import __version__
from pipelines.catalog.suppression import keep_out
from pipelines.catalog.system_tables import add_rows, publish
from pipelines.config.project import Place
from pipelines.ledger.store import Ledger, user
from pipelines.operations.erasure.locate import Trace, Wanted, carry_out, find, spellings
from pipelines.operations.erasure.vendor_links import Link, links_of
from pipelines.run.recording import retention
from pipelines.run.recovery import close_crashed
from pipelines.warehouse.base import Session
from pipelines.warehouse.lock import lock
from pipelines.warehouse.open import open_reader, open_warehouse
from pipelines.warehouse.reader import Reader
from sources import VENDORS
from sources.core.errors import ConfigurationError, NightloadError
from sources.core.redaction import register_secret
from sources.extract.connector import package
from sources.privacy.policy import read_policy

TABLE = "forgets"
COLUMNS = {
    "forget_id": "TEXT",
    "forgotten_at": "TIMESTAMP",
    "by_whom": "TEXT",
    "host": "TEXT",
    "version": "TEXT",
    "rows_removed": "BIGINT",
    "values_blanked": "BIGINT",
    "tables": "TEXT",
    "to_edit": "TEXT",
    "columns": "TEXT",
}
SHORTEST = 4


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a forget would do, or did. `links`: what must be edited at the vendor's."""

    traces: Sequence[Trace]
    links: Sequence[Link]
    wanted: Wanted
    why_odd: str = ""
    forget_id: str | None = None
    removed: int = 0
    blanked: int = 0
    columns: Sequence[str] = field(default=())

    def as_json(self) -> dict[str, Any]:
        return {
            "forget_id": self.forget_id,
            "traces": [trace.as_json() for trace in self.traces],
            "to_edit": [link.as_json() for link in self.links],
            "rows_removed": self.removed,
            "values_blanked": self.blanked,
            "odd": self.why_odd or None,
        }


def look(place: Place, value: str, columns: Sequence[str]) -> Found:
    """Where the person stands in the published warehouse; nothing is changed."""
    _refuse_empty(value)
    with open_reader(place) as reader:
        return _look(reader, value, columns)


def forget(place: Place, value: str, columns: Sequence[str], *, agrees: Callable[[Found], bool]) -> Found | None:
    """Carry it out, if what is found then is agreed to; None if not.

    Raises `Locked` when a run has the warehouse, `ConfigurationError` if it cannot be used.
    """
    _refuse_empty(value)
    register_secret(value)
    with lock(place):
        ledger = Ledger(place.ledger)
        try:
            close_crashed(place, ledger)
            with open_warehouse(place, datasets=_datasets()) as warehouse:
                warehouse.begin()
                with warehouse.write() as session:
                    found = _look(session, value, columns)
                    if not agrees(found):
                        return None
                    # its news go into the warehouse with the publish; if that does not come, it is masked all the same
                    ledger.mask(found.wanted.sought.masked)
                    done = carry_out(session, found.traces)
                    _mask_comments(session, found.wanted)
                    told = Found(
                        traces=found.traces,
                        links=found.links,
                        wanted=found.wanted,
                        forget_id=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
                        removed=done.get("remove the row", 0),
                        blanked=done.get("blank the value", 0) + done.get("mask the words", 0),
                        columns=columns,
                    )
                    _record(session, told, value)
                # before the warehouse says that it is done: killed in between, more is gone than had to be
                _forget_pages(place, found)
                warehouse.purge()
                publish(warehouse, ledger)
            ledger.mask(found.wanted.sought.masked)
            _mask_files(place, found.wanted)
        finally:
            ledger.close()
            shutil.rmtree(place.work, ignore_errors=True)
    return told


def _look(database: Reader | Session, value: str, columns: Sequence[str]) -> Found:
    forms = _forms([value])
    wanted = Wanted.of(forms, columns)
    traces = find(database, wanted, _datasets())
    if more := [each for each in _forms(spellings(traces, value)) if each not in forms]:
        # an e-mail address that stands somewhere in another spelling may be hashed in that spelling elsewhere
        wanted = Wanted.of([*forms, *more], columns)
        traces = find(database, wanted, _datasets())
    return Found(
        traces=traces,
        links=links_of(database, traces, wanted),
        wanted=wanted,
        why_odd=_why_odd(value, traces),
        columns=columns,
    )


def _forget_pages(place: Place, found: Found) -> None:
    """What vendors said of the person in earlier runs, where that is kept."""
    values = {value.lower() for value in found.wanted.values}
    values |= {json.dumps(value)[1:-1].lower() for value in found.wanted.values}

    def is_theirs(text: str) -> bool:
        lowered = text.lower()
        return any(value in lowered for value in values)

    if found.columns:  # then the value alone is nobody
        retention.forget(place, lambda _: False, [trace.place.where for trace in found.traces])
    else:
        retention.forget(place, is_theirs, [])


def _mask_comments(session: Session, wanted: Wanted) -> None:
    """A table's comment holds the vendor's name of it, which may name a person."""
    for dataset in _datasets():
        there = session.comments(dataset)
        masked = {place: wanted.sought.masked(text) for place, text in there.items() if text}
        if changed := {place: text for place, text in masked.items() if text != there[place]}:
            session.comment(dataset, changed)


def _mask_files(place: Place, wanted: Wanted) -> None:
    """What stands beside the warehouse and quotes it or its errors; and what was asked of it in a shell."""
    for path in (place.report, place.state / "sql_history", place.state / "cron.log"):
        try:
            if path.exists() and (masked := wanted.sought.masked(told := path.read_text("utf-8", "replace"))) != told:
                path.write_text(masked, "utf-8")
        except OSError as error:
            raise NightloadError(
                what=f"{path} could not be cleaned", why=error.strerror or "", todo="Remove it yourself"
            ) from None


def _forms(values: Sequence[str]) -> list[str]:
    """The values and their hashes, in lower and upper case too where case does not tell them apart."""
    plain = [form for value in values for form in ((value, value.lower(), value.upper()) if "@" in value else (value,))]
    plain += [form for each in plain for form in (normalize("NFC", each), normalize("NFD", each))]
    plain = list(dict.fromkeys(plain))
    policy = read_policy()
    hashes = [policy.hashed(each) for each in plain] if policy.prefix else []
    for vendor in VENDORS:
        of_vendor = getattr(package(vendor), "hashed", None)
        if of_vendor is not None and package(vendor).configured():
            hashes += [of_vendor(each) for each in plain]
    return list(dict.fromkeys([*plain, *hashes]))


def _why_odd(value: str, traces: Sequence[Trace]) -> str:
    """Why this can hardly be one person; empty if it can."""
    if len(value.strip()) < SHORTEST:
        return f"it has {len(value.strip())} characters only"
    vast = next((trace for trace in traces if trace.is_vast and trace.action != "not nightload's"), None)
    return f"{vast.rows} of {vast.all_rows} rows of {vast.place.where} have it in {vast.place.column}" if vast else ""


def _refuse_empty(value: str) -> None:
    if not value.strip():
        raise ConfigurationError(what="there is nobody to forget", todo="Give the e-mail address or id of the person")


def _datasets() -> list[str]:
    return [name for vendor in VENDORS for name in package(vendor).tables()]


def _record(session: Session, found: Found, value: str) -> None:
    """Who did what when, and the salted hashes that keep the person out. Never the value."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    assert found.forget_id is not None  # noqa: S101 - it was just made
    keep_out(session, [value], columns=list(found.columns), forget_id=found.forget_id, at=at)
    row = {
        "forget_id": found.forget_id,
        "forgotten_at": at,
        "by_whom": user(),
        "host": socket.gethostname(),
        "version": __version__,
        "rows_removed": found.removed,
        "values_blanked": found.blanked,
        "tables": json.dumps([trace.as_json() for trace in found.traces], ensure_ascii=False),
        "to_edit": json.dumps([link.as_json() for link in found.links], ensure_ascii=False),
        "columns": json.dumps(list(found.columns), ensure_ascii=False),
    }
    add_rows(session, TABLE, COLUMNS, [row])
