"""Errors classed by what helps: retry, wait and come back, stop this vendor, fix the configuration.

Every error says what happened, where, why and what to do next, in one line without a secret in it. They survive
pickling, because runs are also spread over processes.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Self

from sources.core.redaction import redact

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_TEXTS = tuple(os.strerror(number) for number in _NO_ROOM)


class Recovery(StrEnum):
    RETRY = "retry"  # the same request may work in a while
    WAIT = "wait"  # the data is not ready: leave the cursor where it is and come back
    STOP = "stop"  # nothing more from here until a person has looked
    CONFIGURE = "configure"  # the configuration is wrong


@dataclass(kw_only=True, eq=False, repr=False)
class NightloadError(Exception):
    """What happened, where (vendor, table, page, window), why, and what to do next."""

    recovery: ClassVar[Recovery] = Recovery.STOP

    what: str
    where: str = ""
    why: str = ""
    todo: str = ""

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, str):
                setattr(self, name, one_line(value))

    def at(self, *place: str) -> Self:
        """The same error, its place made more precise: `raise error.at("table queries", "page 3")`."""
        self.where = ", ".join(part for part in (*map(one_line, place), self.where) if part)
        return self

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        # Redacted again: a secret may have been registered after the error was made.
        return one_line(". ".join(part for part in (f"{text}: {self.why}" if self.why else text, self.todo) if part))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (type(self), self.__dict__.copy())


@dataclass(kw_only=True, eq=False, repr=False)
class VendorError(NightloadError):
    """About one answer of a vendor, or the lack of it: the HTTP status if there was one, and the vendor's own words."""

    status: int | None = None
    message: str = ""


@dataclass(kw_only=True, eq=False, repr=False)
class Unavailable(VendorError):
    """The vendor is down, unreachable, too slow or throttling; `retry_after` is the pause in seconds it asked for."""

    recovery = Recovery.RETRY

    retry_after: float | None = None


class Unreachable(Unavailable):
    """No connection at all: nothing else from this vendor will work for now either."""


class BrokenAnswer(VendorError):
    """An answer came that cannot be used: cut, too large, a web page, not JSON, a redirect to elsewhere."""

    recovery = Recovery.RETRY


class NotReady(VendorError):
    """The data does not exist yet: leave the cursor and come back."""

    recovery = Recovery.WAIT


class AccessDenied(VendorError):
    """Authentication, permission or licence: nothing else from this vendor will work either."""

    recovery = Recovery.STOP


class Refused(VendorError):
    """A definite no to this one request. It stops the table, not the vendor; `status` and `message` tell noes apart."""

    recovery = Recovery.STOP


class NoRoom(NightloadError):
    """The disk is full, or fails: it may pass."""

    recovery = Recovery.RETRY


class Locked(NightloadError):
    """Another run holds the lock of the warehouse."""


class WarehouseBusy(Unavailable):
    """Something else keeps the warehouse from being written."""


class ConfigurationError(NightloadError):
    """A setting is missing or wrong; `todo` says what to write where."""

    recovery = Recovery.CONFIGURE


class WarehouseRefused(ConfigurationError):
    """The warehouse cannot be used as it is: permissions, room, encoding."""


@dataclass(kw_only=True, eq=False, repr=False)
class ConfigurationErrors(ConfigurationError):
    """Several of them, found together."""

    errors: tuple[ConfigurationError, ...]


@dataclass(kw_only=True, eq=False, repr=False)
class CountMismatch(NightloadError):
    """The counts of one table disagree, e.g. `counts={"vendor": 76, "extracted": 72, "landed": 72}`."""

    recovery = Recovery.RETRY

    table: str
    counts: Mapping[str, int] = field(default_factory=dict)
    what: str = ""

    def __post_init__(self) -> None:
        told = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        self.what = self.what or f"the counts of table {self.table} disagree: {told}"
        super().__post_init__()


@dataclass(kw_only=True, eq=False, repr=False)
class EmptyAnswer(NightloadError):
    """Zero rows for a table that had rows: what is there stays there."""

    recovery = Recovery.WAIT

    table: str
    had: int
    what: str = ""

    def __post_init__(self) -> None:
        self.what = self.what or f"no rows came for table {self.table}, which had {self.had}"
        self.todo = self.todo or "If it is truly empty now, run again with --allow-empty"
        super().__post_init__()


@dataclass(kw_only=True, eq=False, repr=False)
class TypeFlip(NightloadError):
    """A column came with another type than it has; `widens` if the new type holds the old values.

    `declared`: the vendor or the settings declare the type that it has, so a rebuilt table has it too.
    """

    recovery = Recovery.CONFIGURE

    table: str
    column: str
    known: str
    arrived: str
    widens: bool = False
    declared: bool = False
    what: str = ""

    def __post_init__(self) -> None:
        self.what = self.what or f"column {self.column} of table {self.table} is {self.known}, but {self.arrived} came"
        leave_out = (
            "Leave the table out, or report the value to the vendor; a rebuild with --full fails in the same way"
        )
        rebuild = (
            "If the vendor's change is meant, build the table anew (what only the old one holds is kept beside it): "
            f"nightload run --full --table {self.table}"
        )
        self.todo = self.todo or (leave_out if self.declared else rebuild)
        super().__post_init__()


@dataclass(kw_only=True, eq=False, repr=False)
class RowTooLong(NightloadError):
    """A row has more bytes than are read into memory; `column` is the one that is so long."""

    recovery = Recovery.CONFIGURE

    table: str
    column: str
    key: str
    most: int
    what: str = ""

    def __post_init__(self) -> None:
        row = f" (row {self.key})" if self.key else ""
        self.what = self.what or (
            f"column {self.column} of table {self.table} has a value of more than {self.most // 2**20} MB{row}"
        )
        self.todo = self.todo or "Shorten the value at the vendor, or leave the column out of what is asked for"
        super().__post_init__()


class OutOfMemory(NightloadError):
    """DuckDB may not take as much memory as a table needs."""

    recovery = Recovery.CONFIGURE


class DatabaseError(NightloadError):
    """DuckDB fails in a way that is not foreseen."""


def of_duckdb(error: BaseException, where: str = "") -> NightloadError | None:
    """What DuckDB raised, be it wrapped by dlt, as an error of nightload; None if it raised nothing.

    Its own text is no user's: it has several lines, names files that are gone, and may quote a row.
    """
    seen: BaseException | None = error
    while seen is not None and not (isinstance(seen, Exception) and type(seen).__module__ in ("duckdb", "_duckdb")):
        if isinstance(seen, NightloadError):
            return None  # it says what there is to say, whatever it was raised from
        where = where or str(getattr(seen, "job_id", "")).partition(".")[0]
        wrapped = getattr(seen, "client_exception", None) or seen.__cause__ or seen.__context__
        seen = next((each for each in seen.args if isinstance(each, Exception)), None) or wrapped
    if seen is None:
        return None
    if (full := no_room(seen)) is not None:
        return full
    name = type(seen).__name__
    if name == "OutOfMemoryException" or "Out of Memory" in str(seen) or "failed to pin block" in str(seen):
        return OutOfMemory(
            what="the rows need more memory than a table may take",
            where=where,
            why="they are too wide, or their values too long",
            todo="Leave columns out of what is asked for, or ask for fewer rows at once",
        )
    return DatabaseError(
        what="DuckDB cannot process the rows",
        where=where,
        why=str(seen).splitlines()[0] if name == "IOException" else name,  # the system's reason quotes no row
        todo="Run it with --verbose to see DuckDB's own message",
    )


def no_room(error: BaseException) -> NoRoom | None:
    """What a full disk made of it, if it was one: an OSError, or what DuckDB says of one. dlt wraps both."""
    told: BaseException | None = error
    seen = set[int]()  # a chain may be a circle, where an error is raised while one that it caused is handled
    while told is not None and id(told) not in seen:
        seen.add(id(told))
        of_duckdb = "duckdb" in type(told).__module__ and any(text in str(told) for text in _NO_ROOM_TEXTS)
        if of_duckdb or (isinstance(told, OSError) and told.errno in _NO_ROOM):
            return NoRoom(
                what="there is no room on the disk",
                where=str(getattr(told, "filename", None) or ""),
                why=str(told),
                todo="Make room (a night needs it for a second copy of a DuckDB file) and run again; nothing is lost",
            )
        told = told.__cause__ or told.__context__
    return None


def summarize(exc: BaseException) -> str:
    """Any exception as one redacted line of at most 500 characters."""
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - this is the last resort of every report, so a broken __str__ must not end it
        text = "(it cannot be printed)"
    if not isinstance(exc, NightloadError):
        text = f"{type(exc).__name__}: {text}" if text else type(exc).__name__
    line = one_line(text)
    return line if len(line) <= 500 else f"{line[:499]}…"


def one_line(text: str) -> str:
    """Redacted, and fit for a terminal, a log line and a Postgres text: no newline, NUL, escape or lone surrogate."""
    return " ".join("".join(char if char.isprintable() else " " for char in redact(text)).split())


def _revive(kind: type[NightloadError], state: dict[str, Any]) -> NightloadError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    return error


def refuse_together(errors: Sequence[ConfigurationError]) -> None:
    """Raise the only error as it is, several as `ConfigurationErrors`."""
    if len(errors) > 1:
        raise ConfigurationErrors(
            what=f"the configuration has {len(errors)} mistakes (nightload check lists them)",
            why="; ".join(map(str, errors)),
            errors=tuple(errors),
        )
    for error in errors:
        raise error


def did_you_mean(name: str, known: Iterable[str], otherwise: str, *, most: int = 1) -> str:
    """What to do about a name that is not known: take the nearest (of `most`), or `otherwise`."""
    near = difflib.get_close_matches(name, list(known), n=most)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise
