"""The users of segments: which segments moved, what of their users may be kept, and whether all of them came."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from sources import naming
from sources.convert.spool import Part
from sources.convert.types import Column, Kind
from sources.core.config import unmatched
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    CountMismatch,
    NightloadError,
    Unreachable,
)
from sources.core.redaction import register_secret
from sources.extract.checks import guard_floor
from sources.extract.sync import Walk
from sources.growingio import delimited
from sources.growingio.client import Client, TooMany, path_id
from sources.growingio.settings import DATASET, SEGMENTATION_USERS, VENDOR, Settings, wrong
from sources.naming import identifier_for
from sources.privacy.policy import HASH, Policy, read_policy

log = logging.getLogger(__name__)

Segment = dict[str, Any]
_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")


def fetch(client: Client, settings: Settings, walk: Walk, *, allow_empty: Collection[str] = ()) -> None:
    """Load the users of the segments that moved since they were loaded; delete those of segments that are gone.

    Raises `EmptyAnswer` where hardly a segment, or no user, would be left, unless `allow_empty` names the table.
    """
    listed = {str(row["id"]): row for row in client.segmentations()}
    wanted, gone = _wanted(listed, settings)
    missed = [gone] if gone else []
    policy = _policy(settings)
    before: dict[str, Any] = walk.state.get("segments", {})
    where, had = f"{DATASET}.{walk.table.name}", sum(each["rows"] for each in before.values())
    left = len(wanted.keys() | (before.keys() & listed.keys()))
    guard_floor(left, had and len(before), where=where, allowed=allow_empty, of="segments")
    known = dict(before)
    today = f"{walk.until.astimezone(ZoneInfo(settings.zone)):%Y-%m-%d}"
    due = [row for uid, row in wanted.items() if walk.full or _is_due(row, known.get(uid, {}), policy)]
    if walk.limit is not None:
        due = sorted(wanted.values(), key=lambda row: int(row.get("userNum") or 10**9))[:1]
    secret_labels = set(walk.state.get("hashed", ()))
    columns: dict[str, str] = {}
    told = 0
    emptied = {uid for uid in known if uid not in listed}
    for row in due:
        try:
            part, row = _load(client, settings, walk, row, secret_labels, columns)
        except (AccessDenied, Unreachable, ConfigurationError):
            raise  # the others fare no better
        except NightloadError as error:
            missed.append(error)  # its rows of the last time stay, and it is due again
            continue
        uid, rows = str(row["id"]), part.rows if part else 0
        known[uid] = {"moved": _moved(row, policy), "rows": rows, "on": today}
        told += rows if settings.user_num == "told" or walk.limit else int(row.get("userNum") or 0)
        if part is None or not rows:
            emptied.add(uid)
            continue
        walk.spool.part(part)
        columns |= part.columns
    after = {uid: each for uid, each in known.items() if uid in listed}
    if not any(each["rows"] for each in after.values()):
        guard_floor(0, had, where=where, allowed=allow_empty)
    walk.state["segments"] = after
    walk.state["hashed"] = sorted(secret_labels)
    walk.emptied = frozenset(emptied)
    walk.miss(missed)
    _note_unmatched(settings, columns, walk)
    if not columns:
        walk.unchanged(sum(each["rows"] for each in walk.state["segments"].values()))
        return
    own = [column.label for column in walk.table.columns]
    labels = [*own, *(label for label in columns if label not in own)]
    walk.columns = [Column(label=label, kind=Kind.TEXT, path=(columns[label],)) for label in labels]
    walk.vendor_count = None if walk.limit else told


def _note_unmatched(settings: Settings, columns: Iterable[str], walk: Walk) -> None:
    """Say which `user_columns` no segment ever had: what they should hash or drop would land as it came.

    Another `user_columns` loads every segment again, so what was met then is all that there is.
    """
    configured = settings.user_columns or {}
    if walk.limit is None and (columns or "met" in walk.state):
        met = {*walk.state.get("met", ()), *columns}.intersection(configured)
        walk.state["met"] = sorted(met)
        walk.notes += map(str, unmatched(VENDOR, "user_columns", configured, met, what="column of a segment"))


def _is_due(row: Segment, known: Mapping[str, Any], policy: str) -> bool:
    """Did it move since it was loaded? A day without an hour was not over when it was loaded on that day or before."""
    updated, on = str(row.get("updatedAt")), known.get("on")
    return known.get("moved") != _moved(row, policy) or bool(on and _DAY.fullmatch(updated) and updated >= on)


def _wanted(listed: Mapping[str, Segment], settings: Settings) -> tuple[dict[str, Segment], NightloadError | None]:
    """The segments to load, and what is wrong if one that the settings name is not listed (any more)."""
    if settings.segmentation_users is None:
        return dict(listed), None
    gone = [uid for uid in settings.segmentation_users if uid not in listed]
    missed = wrong(
        f"segmentation_users names {', '.join(gone)}, which the vendor does not list",
        f"It lists: {', '.join(list(listed)[:20])}",
    )
    return {uid: listed[uid] for uid in settings.segmentation_users if uid in listed}, missed if gone else None


def _load(
    client: Client,
    settings: Settings,
    walk: Walk,
    row: Segment,
    secret_labels: set[str],
    names: Mapping[str, str],
) -> tuple[Part | None, Segment]:
    """One segment, fetched once more if its lines are not as many as its users: it may have moved meanwhile."""
    for attempt in range(2):
        part = _fetched(client, settings, walk, str(row["id"]), secret_labels, names)
        lines, users = part.rows if part else 0, row.get("userNum")
        if lines == users or users is None or settings.user_num == "told":
            if users is not None and lines != users:
                walk.notes.append(f"segment {row['id']} has {users} users by its userNum, and {lines} lines came")
            if lines == settings.most_rows != users and settings.segmentations_api == "v1":
                raise TooMany(
                    what=f"segment {row['id']} has {lines} lines, as many as an answer carries: it may be cut",
                    where=VENDOR,
                    todo=f'Set segmentations_api = "v3" under sources.{VENDOR}',
                )
            return part, row
        if not attempt:
            again = next((each for each in client.segmentations() if each["id"] == row["id"]), None)
            row = again or row
    raise CountMismatch(
        table=f"{DATASET}.{walk.table.name}",
        what=f"segment {row['id']} has {users} users by its userNum, and {lines} lines came",
        counts={"vendor": int(users or 0), "extracted": lines},
        todo=f'Run again; if that number is known not to be exact, set user_num = "told" under sources.{VENDOR}',
    )


def _fetched(
    client: Client, settings: Settings, walk: Walk, uid: str, secret_labels: set[str], names: Mapping[str, str]
) -> Part | None:
    """The users of one segment as a parquet file beside the spool; None if there is not even a header."""
    where = f"{VENDOR}, segment {uid}"
    file = walk.spool.path.with_suffix(f".{path_id(uid)}.csv")
    constants = {"project_uid": str(settings.project_uid), "segmentation_id": uid}
    try:
        client.segmentation_users(uid, file)
        body = delimited.as_utf8(file, where=where)
        dialect = delimited.dialect_of(file, separator=settings.separator, taken=tuple(constants), where=where)
        if dialect is None:
            return None
        if not dialect.header:
            raise BrokenAnswer(what="the CSV has no header", where=where, todo="Run again")
        landing = delimited.Landing(
            out=walk.spool.path.with_suffix(f".{uid}.parquet"),
            named=lambda labels: _named(labels, walk, names),
            load_id=walk.load_id,
            constants=constants,
        )
        part = delimited.to_part(body, dialect, landing, where=where)
    finally:
        file.unlink(missing_ok=True)
    labels = [label for label in part.columns if label not in constants]
    _decide(part, labels, settings, secret_labels, walk, has_at=body.has_at)
    return part


def _decide(
    part: Part, labels: Sequence[str], settings: Settings, secret_labels: set[str], walk: Walk, *, has_at: bool
) -> None:
    """Columns kept, hashed or dropped: as configured here, else left to `[personal]` where that names them, else hashed
    where they look like e-mail or phone."""
    configured = settings.user_columns or {}
    elsewhere = _elsewhere(settings, labels)
    undecided = [label for label in labels if label not in configured and label not in elsewhere]
    found = {label for label in undecided if label in secret_labels or delimited.looks_personal(label)}
    found |= set(delimited.personal(part, [label for label in undecided if label not in found], has_at=has_at))
    if new := sorted(found - secret_labels):
        told = f"hashed, because they look like e-mail or phone: {', '.join(new)} (user_columns decides otherwise)"
        log.warning("%s, segment %s: %s", VENDOR, part.path.name.split(".")[-2], told)
        walk.notes.append(told)
        secret_labels |= set(new)  # once hashed, a column is hashed in every segment
    hashed = {label: HASH for label in labels if configured.get(label) == HASH or label in found}
    walk.decided = {**walk.decided, **{label: configured[label] for label in labels if label in configured}, **hashed}
    walk.prefix = _salt(settings)


def _named(labels: Sequence[str], walk: Walk, names: Mapping[str, str]) -> Mapping[str, str]:
    """Label → column, as the warehouse has it and as the segments before have it."""
    known = {**names, **{column.label: column.name for column in walk.stored}}
    return naming.columns_for(labels, known=known, reserved=naming.RESERVED.union(walk.extra))


def _elsewhere(settings: Settings, labels: Iterable[str]) -> set[str]:
    """The labels about which `[personal]` decides, by name, and not these settings."""
    policy, table, own = read_policy(), SEGMENTATION_USERS.name, settings.user_columns or {}
    return {each for each in labels if each not in own and policy.named(DATASET, table, each, identifier_for(each))}


def hashed(value: str, settings: Settings) -> str:
    """What a cell with this value lands as, where it is hashed here."""
    return hashlib.sha256(f"{_salt(settings)}{value}".encode()).hexdigest()


def _salt(settings: Settings) -> str:
    """What goes before a cell into its hash: of a salt of one's own, of that of all vendors, or of the credential."""
    if not settings.hash_salt and (shared := read_policy().prefix):
        return shared
    own = str(settings.hash_salt or settings.console_token or settings.secret)
    salt = hashlib.sha256(f"{VENDOR} users {own}".encode()).hexdigest()
    register_secret(salt)
    return salt


def _policy(settings: Settings) -> str:
    """What decides how cells land; another policy loads every segment anew."""
    policy = read_policy()
    told = [sorted((settings.user_columns or {}).items()), _salt(settings), settings.separator]
    if policy != Policy():
        told += [policy.default, sorted(map(str, policy.columns.items()))]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _moved(row: Segment, policy: str) -> Sequence[Any]:
    return [row.get("updatedAt"), row.get("userNum"), policy]
