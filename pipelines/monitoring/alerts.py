"""Alerts: a sweep that tells what was not told yet, once on each channel, and that it is well again.

What was told is kept with the incident, so a channel that failed is tried again by the next sweep, and one that went
well is left alone. No alert fails a run; a channel that fails is seen in `nightload status`.
"""

from __future__ import annotations

import json
import logging
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from filelock import FileLock, Timeout

from pipelines.config.project import Place
from pipelines.config.sections import SECTIONS, Section, duration, section, text
from pipelines.ledger.store import Ledger
from pipelines.monitoring.incidents import is_event, observe, summary, told_on
from pipelines.monitoring.notifiers import mail, ping, post, run_command
from pipelines.monitoring.status import NEWS, opened, stale, standing
from sources.core.errors import ConfigurationError, NightloadError, one_line, summarize
from sources.core.redaction import register_secret

log = logging.getLogger(__name__)

MANY = 5
FAILURES = 2
"""So many, and a channel is left alone until the next sweep; a single one may be of that message."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One incident, or several that say the same. `event`: opened · reminder · recovered · noticed."""

    event: str
    kind: str
    what: str
    where: str
    why: str
    todo: str
    since: str
    until: str | None
    vendor: str | None
    tables: list[str]
    run_id: str | None
    incidents: list[str]

    @property
    def title(self) -> str:
        mark = {"opened": "", "noticed": "", "reminder": "still: ", "recovered": "well again: "}[self.event]
        return f"nightload: {mark}{self.what}"

    @property
    def text(self) -> str:
        lines = [self.title, f"where: {self.where}"]
        if self.event == "recovered":
            lines.append(f"it was so from {self.since} to {self.until}: {self.why}")
        else:
            lines += [f"why: {self.why}", f"what to do: {self.todo}", f"since: {self.since}"]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "title": self.title, "text": self.text}


Send = Callable[[Message], None]


@dataclass
class Channels:
    """How to send on each that is set up, where the heartbeat goes, and what is wrong with others."""

    sends: dict[str, Send] = field(default_factory=dict)
    heartbeat: str | None = None
    wrong: list[ConfigurationError] = field(default_factory=list)


def sweep(place: Place, *, now: datetime | None = None, dry_run: bool = False) -> list[tuple[str, Message]]:
    """Tell what was not told yet: (channel, message) of what was told, or would be.

    Raises `ConfigurationError`; for a channel that is set up wrong, when the others were told.
    """
    settings = section(place.home, "alerts", known=SECTIONS["alerts"])
    found = channels(settings)
    remind = None
    try:
        remind = duration(settings.get("remind_after", "never"), setting="alerts.remind_after")
    except ConfigurationError as error:  # incidents are recorded all the same
        found.wrong.append(error)
    if found.wrong and dry_run:
        raise found.wrong[0]
    told = _sweep(place, found, now=now or datetime.now(UTC), remind=remind, dry_run=dry_run)
    if found.wrong:
        raise found.wrong[0]
    return told


def _sweep(
    place: Place, found: Channels, *, now: datetime, remind: timedelta | None, dry_run: bool
) -> list[tuple[str, Message]]:
    told: list[tuple[str, Message]] = []
    with opened(place, writes=not dry_run) as ledger:
        if ledger is None:
            return []
        if dry_run:
            rows = observe(ledger, place, now=now)
            return [
                (channel, message)
                for channel in found.sends or ["nobody"]
                for message, _, _ in _untold(rows, channel, place, now=now, remind=remind)
            ]
        try:
            with FileLock(place.state / "alerts.lock", timeout=0) if place.state.exists() else nullcontext():
                before = ledger.incidents()
                rows = observe(ledger, place, now=now)
                ledger.keep_incidents(row for row in rows if row not in before)
                for channel, send in found.sends.items():
                    told += _tell(ledger, place, channel, send, rows, now=now, remind=remind)
                _heartbeat(ledger, place, found.heartbeat, now=now)
                if place.postgres is not None and rows != before:
                    _show(place.postgres, ledger)
        except Timeout:
            log.info("another sweep is under way")
    return told


def channels(settings: Section) -> Channels:
    """The channels that are set up. Their secrets become known."""
    found = Channels()
    for name, channel in (("webhook", _webhook), ("email", _email), ("command", _command)):
        try:
            if send := channel(settings):
                found.sends[name] = send
        except ConfigurationError as error:
            found.wrong.append(error)
    try:
        found.heartbeat = _address(settings, "heartbeat")
    except ConfigurationError as error:
        found.wrong.append(error)
    return found


def _address(settings: Section, name: str) -> str | None:
    if url := text(settings, name, where="alerts"):
        register_secret(url)
        register_secret(url.partition("://")[2].partition("/")[2])
        if not url.startswith(("https://", "http://")):
            raise ConfigurationError(what=f"alerts.{name} is no http(s) address", todo="Write the whole URL")
    return url


def _webhook(settings: Section) -> Send | None:
    url = _address(settings, "webhook")
    return (lambda message: post(url, {"text": _for_slack(message.text)})) if url else None


def _email(settings: Section) -> Send | None:
    if not (email := settings.get("email")):
        return None
    if not isinstance(email, dict) or not email.get("host") or not email.get("to"):
        raise ConfigurationError(what="alerts.email lacks host or to", todo="Write both under [alerts.email]")
    if password := email.get("password"):
        register_secret(str(password))
    return lambda message: mail(email, subject=message.title, body=message.text)


def _command(settings: Section) -> Send | None:
    command = settings.get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command or ())
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            what="alerts.command cannot be read", why=str(error), todo='Write a list of words: ["/usr/bin/tell", "me"]'
        ) from None
    return (lambda message: run_command(words, message.as_json())) if words else None


def _for_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _tell(
    ledger: Ledger, place: Place, channel: str, send: Send, rows: list[dict[str, Any]], *, now: datetime, remind: Any
) -> list[tuple[str, Message]]:
    told = []
    at = now.isoformat(timespec="milliseconds")
    failures: list[str] = []
    for message, group, column in _untold(rows, channel, place, now=now, remind=remind):
        well = False
        if len(failures) < FAILURES:
            try:
                send(message)
                told.append((channel, message))
                well = True
            except Exception as error:  # noqa: BLE001 - whatever an alert does, it fails no run
                failures.append(summarize(error))
        for row in group:
            seen = told_on(row, column)
            if well or channel not in seen:
                row[column] = json.dumps(seen | {channel: at if well else None})
        ledger.keep_incidents(group)  # at once: what was told is not told again, even if the next one is our end
    if told or failures:
        _mark(ledger, channel, at=at, error=failures[0] if failures else None)
    return told


def _mark(ledger: Ledger, channel: str, *, at: str, error: str | None) -> None:
    name = f"channel:{channel}"
    before = ledger.marks(name).get(name, {})
    if error is None:
        ledger.mark(name, {"last_good": at, "failing_since": None, "error": None})
    else:
        since = before.get("failing_since") or at
        ledger.mark(name, {"last_good": before.get("last_good"), "failing_since": since, "error": error})
        log.error("the alert by %s could not be sent, and is tried again by the next sweep: %s", channel, error)


def _untold(
    rows: list[dict[str, Any]], channel: str, place: Place, *, now: datetime, remind: Any
) -> Iterator[tuple[Message, list[dict[str, Any]], str]]:
    """What this channel has yet to hear: the message, its incidents, and where its telling is kept."""
    chosen: dict[str, list[dict[str, Any]]] = {"opened": [], "noticed": [], "reminder": [], "recovered": []}
    for row in rows:
        told, recovery = told_on(row, "told"), told_on(row, "recovery_told")
        last = told.get(channel)
        is_news = row["closed_at"] is None or datetime.fromisoformat(row["closed_at"]) >= now - NEWS
        if is_event(row):
            if last is None and is_news:
                chosen["noticed"].append(row)
        elif row["closed_at"] is None:
            if last is None:
                chosen["opened"].append(row)
            elif remind is not None and datetime.fromisoformat(last) <= now - remind:
                chosen["reminder"].append(row)
        elif channel in told and recovery.get(channel) is None and is_news:
            chosen["recovered"].append(row)
    for event, picked in chosen.items():
        for group in summary(picked):
            yield _message(event, group, place), group, "recovery_told" if event == "recovered" else "told"


def _message(event: str, group: list[dict[str, Any]], place: Place) -> Message:
    first = group[0]
    tables = [row["subject"] for row in group if row["subject"]]
    shown = ", ".join(tables[:MANY]) + (f" and {len(tables) - MANY} more" if len(tables) > MANY else "")
    where = f"{shown or first['vendor'] or 'all vendors'}; warehouse {place.shown} on {socket.gethostname()}"
    return Message(
        event=event,
        kind=first["kind"],
        what=one_line(first["what"]),
        where=one_line(f"{where}, run {first['run_id']}"),
        why=one_line(first["why"]),
        todo=one_line(first["todo"]),
        since=min(row["opened_at"] for row in group),
        until=max((row["closed_at"] for row in group if row["closed_at"]), default=None),
        vendor=first["vendor"],
        tables=tables,
        run_id=first["run_id"],
        incidents=[row["incident_id"] for row in group],
    )


def _heartbeat(ledger: Ledger, place: Place, url: str | None, *, now: datetime) -> None:
    """Once for each run that was green, as long as nothing is stale."""
    if url is None:
        return
    last = ledger.query("SELECT run_id, status FROM runs WHERE finished_at IS NOT NULL ORDER BY run_id DESC LIMIT 1")
    if not last or last[0]["status"] != "ok" or stale(standing(ledger, place, now=now)):
        return
    if ledger.marks("heartbeat").get("heartbeat", {}).get("run_id") == last[0]["run_id"]:
        return
    failure: str | None = None
    try:
        ping(url)
        ledger.mark("heartbeat", {"run_id": last[0]["run_id"]})
    except Exception as error:  # noqa: BLE001 - as any alert
        failure = summarize(error)
    _mark(ledger, "heartbeat", at=now.isoformat(timespec="milliseconds"), error=failure)


def _show(url: str, ledger: Ledger) -> None:
    """On Postgres the incidents are told at once: the next night may be another machine's."""
    from pipelines.catalog.system_tables import write_incidents
    from pipelines.warehouse.postgres.connection import Shared
    from pipelines.warehouse.postgres.warehouse import PostgresSession

    try:
        database = Shared(url)
        try:
            database.begin()
            write_incidents(PostgresSession(database), ledger)
            database.end(commit=True)
        finally:
            database.connection.close()
    except NightloadError as error:  # the run has said that the database is out of reach
        log.info("the incidents are not shown in the warehouse: %s", error)
    except Exception as error:  # noqa: BLE001 - the file has it all; libpq's errors are of many kinds
        log.error("the incidents could not be shown in the warehouse: %s", summarize(error))
