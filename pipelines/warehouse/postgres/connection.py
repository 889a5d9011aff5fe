"""Connections to a Postgres, set up as a run needs them, and the one that a run loads over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
from psycopg2 import errors, extensions

from sources.core.errors import Unavailable, WarehouseRefused

LOCK_WAIT = 60
"""Seconds to wait for a table that somebody has locked."""
SETTINGS = {
    "application_name": "nightload",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",  # else a backslash in a text of a vendor's could end a literal
    "lock_timeout": f"{LOCK_WAIT}s",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "work_mem": "64MB",  # a history is compared by hashes in memory, else row by row
    "search_path": "pg_catalog",
}

LOCKED_OUT = ("authentication", "does not exist", "no password", "permission denied", "not permitted", "pg_hba.conf")
"""What the server says of a user whom it does not let in."""

READ_ONLY = (
    "the database is read-only",
    "Name the primary server, or set default_transaction_read_only = off for nightload's role, then run again",
)


class Shared:
    """The one connection that a run loads over, for dlt's threads too: who begins a transaction has it to the end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.turn = threading.RLock()
        self.connection = connect(url)
        refuse_read_only(self.connection, where=_where(url))
        self._depth = 0

    @property
    def writing(self) -> bool:
        """Is the transaction open that `publish` will commit?"""
        return not self.connection.autocommit

    def begin(self) -> None:
        """Open the transaction, if none is."""
        with self.turn:
            if not self.writing:
                self.connection.autocommit = False

    def end(self, *, commit: bool) -> None:
        with self.turn:
            try:
                self.connection.commit() if commit else self.connection.rollback()
            finally:
                if not self.connection.closed:
                    self.connection.autocommit = True
                self._depth = 0

    def back_to(self, savepoint: str) -> None:
        """Undo what was done since that savepoint, whatever steps were under way."""
        with self.turn, self.connection.cursor() as cursor:
            cursor.execute(f"ROLLBACK TO SAVEPOINT {savepoint}")
            self._depth = 0

    @contextmanager
    def step(self) -> Iterator[extensions.cursor]:
        """A cursor, and the connection to oneself; what fails inside undoes this step and nothing before it."""
        with self.turn, self.connection.cursor() as cursor:
            if not self.writing:
                yield cursor
                return
            self._depth += 1
            name = f"step_{self._depth}"
            cursor.execute(f"SAVEPOINT {name}")
            try:
                yield cursor
                cursor.execute(f"RELEASE SAVEPOINT {name}")
            except BaseException:
                with suppress(psycopg2.Error):  # a lost connection has nothing to undo
                    cursor.execute(f"ROLLBACK TO SAVEPOINT {name}")
                    cursor.execute(f"RELEASE SAVEPOINT {name}")
                raise
            finally:
                self._depth -= 1


def connect(url: str) -> extensions.connection:
    """A connection that commits each statement, set up as `SETTINGS` says. Raises `Unavailable`, `WarehouseRefused`."""
    try:
        # psycopg2 does not see a SET of the encoding, and PGCLIENTENCODING or the role may say another
        connection = psycopg2.connect(url, client_encoding="UTF8", connect_timeout=20, keepalives_idle=30)
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name, value in SETTINGS.items():
                cursor.execute(f"SET {name} = %s", (value,))
        return connection
    except psycopg2.OperationalError as error:
        lines = str(error).strip().splitlines()
        why = " ".join(lines[-2:] if lines[-1].startswith(("DETAIL", "HINT")) else lines[-1:])
        wrong = any(words in why for words in LOCKED_OUT)
        kind = WarehouseRefused if wrong else Unavailable
        raise kind(
            what="the database cannot be reached" if not wrong else "the database does not let nightload in",
            where=_where(url),
            why=why,
            todo="Grant its role the right: GRANT CONNECT ON DATABASE"
            if "permission denied" in why
            else "See that the warehouse URL (NIGHTLOAD_WAREHOUSE, --warehouse) names the right host, user and password"
            if wrong
            else "See that the server is up and the URL right, then run again",
        ) from None
    except psycopg2.Error as error:
        raise WarehouseRefused(what="the warehouse URL cannot be used", why=str(error).splitlines()[0]) from None


OF_SERVER = ("08", "25", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE: connection, transaction, deadlock, resources, locks, an operator, the system."""


def is_of_server(error: BaseException) -> bool:
    """Is it about the connection, the server or a right, and not about what a statement brought?"""
    if not isinstance(error, psycopg2.Error) or "in .read() call" in str(error):  # this end's, while rows are sent
        return False
    code = error.pgcode or "08"
    return code[:2] in OF_SERVER or isinstance(error, errors.InsufficientPrivilege)


def _where(url: str) -> str:
    """Which server and database a URL means, without who asks."""
    try:
        told = extensions.parse_dsn(url)
    except psycopg2.Error:
        return ""
    return f"{told.get('host', 'this machine')}:{told.get('port', 5432)}/{told.get('dbname', '')}"


def refuse_read_only(connection: extensions.connection, *, where: str) -> None:
    """Raise `Unavailable`, since a standby may be the primary soon."""
    if one(connection, "SHOW transaction_read_only") == "on":
        what, todo = READ_ONLY
        why = "it is a standby" if one(connection, "SELECT pg_is_in_recovery()") else "transaction_read_only is on"
        raise Unavailable(what=what, where=where, why=why, todo=todo)


def one(connection: extensions.connection, sql: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        row = cursor.fetchone()
        return row[0] if row else None


def to_pyformat(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")
