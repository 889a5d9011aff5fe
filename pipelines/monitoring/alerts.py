"""Send pending alerts: each incident and its resolution once per channel.

Deliveries are stored with the incident, so the next sweep retries only channels that failed.
No alert fails a run; `nightload status` shows a failing channel.
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
"""Failures per sweep before a channel is skipped; a single one may be due to the message."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One incident, or several with the same text. `event`: opened · reminder · recovered · noticed."""

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
        mark = {"opened": "", "noticed": "", "reminder": "still: ", "recovered": "resolved: "}[self.event]
        return f"nightload: {mark}{self.what}"

    @property
    def text(self) -> str:
        lines = [self.title, f"where: {self.where}"]
        if self.event == "recovered":
            lines.append(f"from {self.since} to {self.until}: {self.why}")
        else:
            lines += [f"why: {self.why}", f"what to do: {self.todo}", f"since: {self.since}"]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "title": self.title, "text": self.text}


Send = Callable[[Message], None]


@dataclass
class Channels:
    """Configured channels, the heartbeat address, and the configuration errors of the others."""

    sends: dict[str, Send] = field(default_factory=dict)
    heartbeat: str | None = None
    wrong: list[ConfigurationError] = field(default_factory=list)


def sweep(place: Place, *, now: datetime | None = None, dry_run: bool = False) -> list[tuple[str, Message]]:
    """Send pending alerts; (channel, message) of those sent, or with `dry_run` those pending.

    Raises `ConfigurationError`; for an invalid channel only after the other channels were sent.
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
    sent = _sweep(place, found, now=now or datetime.now(UTC), remind=remind, dry_run=dry_run)
    if found.wrong:
        raise found.wrong[0]
    return sent


def _sweep(
    place: Place, found: Channels, *, now: datetime, remind: timedelta | None, dry_run: bool
) -> list[tuple[str, Message]]:
    sent: list[tuple[str, Message]] = []
    with opened(place, writes=not dry_run) as ledger:
        if ledger is None:
            return []
        if dry_run:
            rows = observe(ledger, place, now=now)
            return [
                (channel, message)
                for channel in found.sends or ["nobody"]
                for message, _, _ in _pending(rows, channel, place, now=now, remind=remind)
            ]
        try:
            with FileLock(place.state / "alerts.lock", timeout=0) if place.state.exists() else nullcontext():
                before = ledger.incidents()
                rows = observe(ledger, place, now=now)
                ledger.keep_incidents(row for row in rows if row not in before)
                for channel, send in found.sends.items():
                    sent += _deliver(ledger, place, channel, send, rows, now=now, remind=remind)
                _heartbeat(ledger, place, found.heartbeat, now=now)
                if place.postgres is not None and rows != before:
                    _show(place.postgres, ledger)
        except Timeout:
            log.info("another sweep is in progress")
    return sent


def channels(settings: Section) -> Channels:
    """Read the configured channels and register their secrets for redaction."""
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
            what="alerts.command cannot be read",
            why=str(error),
            todo='Write a list of words: ["/usr/bin/notify", "me"]',
        ) from None
    return (lambda message: run_command(words, message.as_json())) if words else None


def _for_slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _deliver(
    ledger: Ledger, place: Place, channel: str, send: Send, rows: list[dict[str, Any]], *, now: datetime, remind: Any
) -> list[tuple[str, Message]]:
    sent = []
    at = now.isoformat(timespec="milliseconds")
    failures: list[str] = []
    for message, group, column in _pending(rows, channel, place, now=now, remind=remind):
        well = False
        if len(failures) < FAILURES:
            try:
                send(message)
                sent.append((channel, message))
                well = True
            except Exception as error:  # noqa: BLE001 - whatever an alert does, it fails no run
                failures.append(summarize(error))
        for row in group:
            seen = told_on(row, column)
            if well or channel not in seen:
                row[column] = json.dumps(seen | {channel: at if well else None})
        ledger.keep_incidents(group)  # at once: a crash in the next delivery must not repeat this one
    if sent or failures:
        _mark(ledger, channel, at=at, error=failures[0] if failures else None)
    return sent


def _mark(ledger: Ledger, channel: str, *, at: str, error: str | None) -> None:
    name = f"channel:{channel}"
    before = ledger.marks(name).get(name, {})
    if error is None:
        ledger.mark(name, {"last_good": at, "failing_since": None, "error": None})
    else:
        since = before.get("failing_since") or at
        ledger.mark(name, {"last_good": before.get("last_good"), "failing_since": since, "error": error})
        log.error("alert by %s failed; the next sweep retries it: %s", channel, error)


def _pending(
    rows: list[dict[str, Any]], channel: str, place: Place, *, now: datetime, remind: Any
) -> Iterator[tuple[Message, list[dict[str, Any]], str]]:
    """Pending messages of a channel, each with its incidents and the column that stores the delivery."""
    chosen: dict[str, list[dict[str, Any]]] = {"opened": [], "noticed": [], "reminder": [], "recovered": []}
    for row in rows:
        sent, recovery = told_on(row, "told"), told_on(row, "recovery_told")
        last = sent.get(channel)
        is_news = row["closed_at"] is None or datetime.fromisoformat(row["closed_at"]) >= now - NEWS
        if is_event(row):
            if last is None and is_news:
                chosen["noticed"].append(row)
        elif row["closed_at"] is None:
            if last is None:
                chosen["opened"].append(row)
            elif remind is not None and datetime.fromisoformat(last) <= now - remind:
                chosen["reminder"].append(row)
        elif channel in sent and recovery.get(channel) is None and is_news:
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
    """Ping once per successful run, unless a table is stale."""
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
    """Write the incidents to Postgres at once: the next run may be on another machine."""
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
    except NightloadError as error:  # the run has reported the unreachable database
        log.info("incidents not written to the warehouse: %s", error)
    except Exception as error:  # noqa: BLE001 - the file has it all; libpq's errors are of many kinds
        log.error("writing the incidents to the warehouse failed: %s", summarize(error))
