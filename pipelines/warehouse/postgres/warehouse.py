"""A Postgres as the warehouse: everything that a vendor brings is one transaction.

dlt commits each of its jobs. A run that is killed between two of them leaves half a load, and dlt
then doubles rows or refuses every later night. Here dlt, the marks of deleted rows, the counts and
the ledger all speak over one connection, and dlt's transactions are savepoints in ours (see
`postgres_dlt`): `publish` is the only commit. Killed at any moment, the database is as it was;
readers see the old rows until then, and are never blocked but by a change of a table's columns.

Nothing is kept on this disk but the ledger, and what it has to say stands in the database too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import errors
from psycopg2.extras import execute_values

from pipelines.warehouse.base import LEAVE_OUT, Rows, Session, cause_of, comment_statements, is_of_machine
from pipelines.warehouse.postgres.connection import (
    LOCK_WAIT,
    READ_ONLY,
    Shared,
    connect,
    is_of_server,
    one,
    refuse_read_only,
    to_pyformat,
)
from pipelines.warehouse.postgres.views import kept
from pipelines.warehouse.types import ColumnType
from sources.core.errors import Locked, NightloadError, Unavailable, WarehouseBusy, WarehouseRefused, summarize
from sources.core.sql import quote

if TYPE_CHECKING:
    from dlt.common.destination import AnyDestination

log = logging.getLogger(__name__)

LARGE = 64 * 2**20
"""Bytes of a table from which on an index of its live rows pays: below, reading it all takes a tenth of a second."""
OLDEST = 140000
# Two keys: the run's own, refused at once; the load's, waited for, since the server may still be ending the statement
# of a run that was killed.
RUN_LOCK, LOAD_LOCK = 0x6E69676874, 0x6E69676875

CHUNK = "nightload backfill"
"""The name of the connection by which a chunk of a backfill holds the run's lock."""
HELD_BY_CHUNK = """
SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database()
AND l.classid::bigint << 32 | l.objid::bigint = %s AND a.application_name = %s
"""

EXPLAINED: tuple[tuple[type[psycopg2.Error], type[NightloadError], str, str], ...] = (
    (
        errors.LockNotAvailable,
        WarehouseBusy,
        f"a table stayed locked for {LOCK_WAIT} s",
        "Let who has it end, then run again",
    ),
    (errors.DiskFull, Unavailable, "the database server has no room left", "Give it room, then run again"),
    (
        errors.InsufficientPrivilege,
        WarehouseRefused,
        "the database refuses a right that nightload needs",
        "Grant it (docs/warehouse.md), then run again",
    ),
    (
        errors.DependentObjectsStillExist,
        NightloadError,
        "something in the database depends on a table that must be made anew",
        "Drop it, run again, and make it again",
    ),
    (errors.ReadOnlySqlTransaction, Unavailable, *READ_ONLY),
)
"""What a user can do something about, in words."""
REFUSED = (
    ("index row", "a key is longer than its index holds", "Drop that index; the next run makes one that holds it"),
    ("row is too big", "a row is wider than a page of Postgres", LEAVE_OUT),
    ("columns", "a table of Postgres has at most 1,600 columns", LEAVE_OUT),
    ("memory|buffer|jsonb|too long|maximum", "a value is larger than Postgres holds", LEAVE_OUT),
    ("", "Postgres refuses these rows", LEAVE_OUT),
)
"""What the server's words mean of one table, and what to do; the first that is found there."""


class Postgres:
    """One Postgres database while a run holds its locks."""

    def __init__(self, url: str, *, shown: str, chunk: bool = False) -> None:
        self._url, self._shown, self._chunk = url, shown, chunk
        self._lock = connect(url)
        self._shared: Shared | None = None
        self.kept = False
        try:
            self._refuse_unfit()
            self._take()
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        self.discard(kept=True)
        self._hang_up()
        self._lock.close()

    def begin(self) -> None:
        """Forget a transaction in which nothing was loaded, and see that the connection lives."""
        self.discard()
        try:
            if self._shared is not None:  # it may have had nothing to do for an hour
                with suppress(psycopg2.Error):
                    one(self._shared.connection, "SELECT 1")
                if self._shared.connection.closed:
                    self._hang_up()
            if self._shared is None:
                self._shared = Shared(self._url)
                with self._shared.step() as cursor:
                    cursor.execute("SELECT pg_advisory_lock(%s)", (LOAD_LOCK,))
            try:
                one(self._lock, "SELECT 1")
            except psycopg2.Error:  # the server was started anew, say: the vendors that are left go on
                self._lock.close()
                self._lock = connect(self._url)
                self._take()
        except psycopg2.Error as error:
            self._hang_up()
            raise self.explain(error) from None

    def keep(self) -> None:
        with self._loading().turn, self._loading().connection.cursor() as cursor:
            if self.kept:
                cursor.execute("RELEASE SAVEPOINT kept")
            cursor.execute("SAVEPOINT kept")
        self.kept = True

    def discard(self, *, kept: bool = False) -> None:
        if self._shared is None:
            return
        try:
            if self.kept and not kept:
                self._shared.back_to("kept")
            elif self._shared.writing:
                self.kept = False
                self._shared.end(commit=False)
        except psycopg2.Error:
            log.debug("the connection is lost, and so is what was not published", exc_info=True)
        if self._shared.connection.closed:
            self._hang_up()

    def publish(self, before_commit: Callable[[Session], None]) -> None:
        try:
            with self.write() as session:
                before_commit(session)
                ((transaction,),) = session.query("SELECT pg_current_xact_id()::text")
            self._commit(transaction)
        except psycopg2.Error as error:
            raise self.explain(error) from None
        self.kept = False

    def purge(self) -> None:
        """None: no transaction can; VACUUM does, and autovacuum by and by."""

    def destination(self) -> AnyDestination:
        from pipelines.warehouse.postgres.dlt_destination import destination_on

        return destination_on(self._loading)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session in the transaction that `publish` commits."""
        self._loading().begin()
        yield PostgresSession(self._loading())

    def clear_staging(self, dataset: str) -> None:
        staging = f"{dataset}_staging"
        with self.write() as session:
            for table in sorted(session.tables(staging)):
                session.change(f"DROP TABLE {quote(staging, table)} CASCADE")
            # where the schema was made for us, we could not make it again
            owned = session.query(
                "SELECT 1 FROM pg_namespace WHERE nspname = ? AND pg_has_role(nspowner, 'USAGE') "
                "AND has_database_privilege(current_database(), 'CREATE')",
                [staging],
            )
            if owned:
                session.change(f"DROP SCHEMA {quote(staging)}")

    def index(self, dataset: str, table: str, columns: Sequence[str]) -> None:
        """dlt makes no index for a key, and each merge would then read the whole table."""
        with self.write() as session:
            if _indexed(session, dataset, table, columns):
                return
            on = f"ON {quote(dataset, table)}"
            try:
                session.change(f"CREATE INDEX {on} ({', '.join(map(quote, columns))})")
            except (errors.ProgramLimitExceeded, errors.TooManyColumns):  # longer texts, or more, than a B-tree holds
                session.change(f"CREATE INDEX {on} USING hash ({quote(columns[0])})")

    def index_live(self, dataset: str, table: str, live: str) -> None:
        """A load id stands there once for all its rows, so that the index is a thirtieth of the table."""
        with self.write() as session:
            ((size,),) = session.query("SELECT pg_relation_size(?::regclass)", [quote(dataset, table)])
            if size >= LARGE and not _indexed(session, dataset, table, ["_dlt_load_id"]):
                session.change(f"CREATE INDEX ON {quote(dataset, table)} (_dlt_load_id) WHERE {live}")

    @contextmanager
    def making_anew(self, tables: Sequence[tuple[str, str]]) -> Iterator[None]:
        with self.write() as session, kept(session, tables):
            yield

    def explain(self, error: BaseException) -> BaseException:
        """What Postgres says, with what to do about it."""
        found = cause_of(error, psycopg2.Error)
        if found is None:
            return error
        for kind, raises, what, todo in EXPLAINED:
            if isinstance(found, kind):
                holders = self._holders() if raises is WarehouseBusy else ""
                todo = f"Nothing was changed. {holders}{todo}"
                return raises(what=what, where=self._shown, why=_first_line(found), todo=todo)
        if is_of_server(found):
            lost = (
                isinstance(found, psycopg2.InterfaceError) or found.pgcode is None or found.pgcode[:2] in ("08", "57")
            )
            what = "the connection to the database was lost" if lost else "the database server cannot go on"
            todo = "Nothing was changed. See that the server is up, then run again"
            return Unavailable(what=what, where=self._shown, why=_first_line(found), todo=todo)
        return error if (found.pgcode or "42").startswith("42") else self.refusal(error, where=self._shown) or error

    def refusal(self, error: BaseException, *, where: str) -> NightloadError | None:
        found = cause_of(error, psycopg2.Error)
        if is_of_machine(error) if found is None else is_of_server(found):
            return None
        why = _first_line(found) if found else summarize(error)
        what, todo = next((what, todo) for words, what, todo in REFUSED if re.search(words, why))
        return NightloadError(what=what, where=where, why=why, todo=f"The table is as it was. {todo}")

    def _loading(self) -> Shared:
        if self._shared is None:
            raise Unavailable(what="the connection to the database was lost", where=self._shown, todo="Run again")
        return self._shared

    def _take(self) -> None:
        """Have the run's lock, or raise `Locked`. Who meets a chunk of a backfill there goes before the next."""
        if self._chunk:
            one(self._lock, "SELECT set_config('application_name', %s, false)", CHUNK)
        tries = 0 if self._chunk else 180
        while not one(self._lock, "SELECT pg_try_advisory_lock(%s)", RUN_LOCK):
            if tries and one(self._lock, HELD_BY_CHUNK, RUN_LOCK, CHUNK):
                tries -= 1
                with self._lock.cursor() as cursor, suppress(errors.LockNotAvailable):
                    cursor.execute("SET lock_timeout = '5s'")  # a signal is heard in between
                    cursor.execute("SELECT pg_advisory_lock(%s)", (RUN_LOCK,))
                    return
                continue
            todo = "Wait for it to end, then run again"
            raise Locked(what="another run has this warehouse", where=self._shown, todo=todo)

    def _hang_up(self) -> None:
        """The load's connection is of no use any more; the next `begin` makes another."""
        if self._shared is not None:
            with suppress(psycopg2.Error):
                self._shared.connection.close()
            self._shared, self.kept = None, False

    def _commit(self, transaction: str) -> None:
        """Commit; if the connection dies with the answer on its way, ask the server what became of it."""
        try:
            self._loading().end(commit=True)
        except psycopg2.OperationalError:
            self._hang_up()
            try:
                with closing(connect(self._url)) as again:
                    done = one(again, "SELECT pg_xact_status(%s::xid8)", transaction) == "committed"
            except (psycopg2.Error, NightloadError):
                done = False
            if not done:
                raise

    def _refuse_unfit(self) -> None:
        version = self._lock.server_version
        encoding = one(self._lock, "SHOW server_encoding")
        if version < OLDEST or encoding != "UTF8":
            raise WarehouseRefused(
                what="this Postgres cannot be the warehouse",
                where=self._shown,
                why=f"it is version {version // 10000} with encoding {encoding}",
                todo=f"nightload needs version {OLDEST // 10000} or newer and a database made with ENCODING 'UTF8'",
            )
        refuse_read_only(self._lock, where=self._shown)

    def _holders(self) -> str:
        """Who has locks here, for the one who is woken."""
        try:
            with closing(connect(self._url)) as looking, looking.cursor() as cursor:
                cursor.execute(
                    "SELECT DISTINCT a.pid, a.usename, a.application_name FROM pg_locks l JOIN pg_stat_activity a "
                    "USING (pid) WHERE l.locktype = 'relation' AND l.granted AND a.datname = current_database() "
                    "AND l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock', "
                    "'AccessShareLock') AND a.application_name <> 'nightload' AND a.pid <> pg_backend_pid() LIMIT 5"
                )
                told = [f"{user} (pid {pid}{', ' + name if name else ''})" for pid, user, name in cursor.fetchall()]
        except (psycopg2.Error, NightloadError):
            return ""
        return f"Locks are held by {', '.join(told)}. " if told else ""


class PostgresSession:
    """Statements in the run's transaction; one that fails undoes itself only."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        with self._shared.step() as cursor:
            cursor.execute(to_pyformat(sql), list(parameters))
            return list(cursor.fetchall())

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        with self._shared.step() as cursor:
            cursor.execute(to_pyformat(sql), list(parameters))
            changed: int = cursor.rowcount
            return max(0, changed)

    def insert(self, table: str, types: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
        names = ", ".join(map(quote, types))
        values = [[row.get(name) for name in types] for row in rows]
        template = ", ".join(f"%s::{kind}" for kind in types.values())
        with self._shared.step() as cursor:
            statement = f"INSERT INTO {table} ({names}) VALUES %s"  # noqa: S608
            execute_values(cursor, statement, values, template=f"({template})")

    def tables(self, dataset: str) -> set[str]:
        rows = self.query(
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname = ? AND relkind IN ('r', 'p')",
            [dataset],
        )
        return {name for (name,) in rows}

    def create_table(self, dataset: str, table: str, columns: Sequence[ColumnType]) -> None:
        self.create_dataset(dataset)
        spec = ", ".join(f"{quote(c.name)} {c.postgres}{'' if c.nullable else ' NOT NULL'}" for c in columns)
        self.change(f"CREATE TABLE {quote(dataset, table)} ({spec})")

    def load(self, dataset: str, table: str, columns: Sequence[ColumnType], parquet: Path) -> None:
        from pipelines.warehouse.postgres.dlt_destination import copy_file

        json = {column.name for column in columns if column.kind == "JSON"}
        copy_file(self._shared, quote(dataset, table), parquet, json=json)

    def create_dataset(self, dataset: str) -> None:
        # IF NOT EXISTS would ask for the right to make it even where it is there
        if not self.query("SELECT 1 FROM pg_namespace WHERE nspname = ?", [dataset]):
            self.change(f"CREATE SCHEMA {quote(dataset)}")

    def comments(self, dataset: str) -> dict[tuple[str, str], str | None]:
        rows = self.query(
            "SELECT c.relname, coalesce(a.attname, ''), d.description FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "CROSS JOIN LATERAL (SELECT 0 AS attnum, NULL AS attname UNION ALL "
            " SELECT attnum, attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a "
            "LEFT JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass "
            " AND d.objsubid = a.attnum "
            # only an owner may: tables that were made for us are described by whoever made them
            "WHERE n.nspname = ? AND c.relkind IN ('r', 'p') AND pg_has_role(c.relowner, 'USAGE')",
            [dataset],
        )
        return {(table, column): text for table, column, text in rows}

    def comment(self, dataset: str, comments: Mapping[tuple[str, str], str]) -> None:
        with self._shared.step() as cursor:
            cursor.execute(comment_statements(dataset, comments))


def _indexed(session: Session, dataset: str, table: str, columns: Sequence[str]) -> bool:
    found = session.query(
        "SELECT 1 FROM pg_index WHERE indrelid = ?::regclass AND "
        "(SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute "
        " WHERE attrelid = indrelid AND attnum = ANY (indkey)) = ?::text[]",
        [quote(dataset, table), sorted(columns)],
    )
    return bool(found)


def _first_line(error: psycopg2.Error) -> str:
    return str(error.diag.message_primary or error).strip().splitlines()[0]
