"""A DuckDB file as the warehouse: build a copy, load into it, swap it in.

A run never touches the published file. It copies it to `build/`, loads and counts there, writes
the file to disk and renames it over the published one. Killed at any moment, it leaves yesterday's
warehouse as it was; readers keep the file that they opened and never block a night. (A *writer* on
the published file would lose its work with the swap, so one that is open refuses the run.)
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import dlt
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from dlt.common.destination import AnyDestination
from dlt.common.schema import Schema
from dlt.destinations.impl.duckdb.configuration import DuckDbCredentials
from dlt.destinations.impl.duckdb.duck import DuckDbClient

from pipelines.config.permissions import published_mode
from pipelines.config.project import OWN_DATASET, Place
from pipelines.warehouse.base import LEAVE_OUT, Rows, Session, cause_of, comment_statements, is_of_machine
from pipelines.warehouse.dlt_capabilities import Capable
from pipelines.warehouse.table_by_table import DuckDbFileJob, TableByTable
from pipelines.warehouse.types import ColumnType
from sources.core.errors import (
    ConfigurationError,
    NightloadError,
    Unavailable,
    WarehouseBusy,
    no_room,
    of_duckdb,
    summarize,
)
from sources.core.sql import literal, quote

log = logging.getLogger(__name__)

_USUAL, _USUAL_COLUMNS = 80, 100
_COLUMN = 128 * 2**10
"""Bytes of a column beyond these: a page that is read and a block that is written, which cannot be spilled."""
_VALUE = 16 * 2**20
"""Where a file's column has more bytes in a row group, one value may be the reason, and all of it is in memory."""

# The load step sets the peak memory of a run, side by side with what converts for other vendors; the order of rows in a
# table means nothing. Below 80 MB a wide table of 400,000 rows takes a tenth more CPU and more, at 80 a fiftieth.
DUCKDB_SETTINGS: dict[str, str | int | float | list[str]] = {
    "preserve_insertion_order": False,
    "memory_limit": f"{_USUAL}MB",
    "threads": 1,
}
_BLOCK_BYTES = 65536
"""Of a new file. Each table has blocks of its own, and of DuckDB's 256 KB a small one leaves most empty: hundreds of
result tables were 60 MB of a file that every night copies, and of the memory that counts them and writes them out."""
_COMMENTED_AT_ONCE = 50
"""A transaction keeps a copy of the table for each comment that it has written: of a table of 250 columns, 200 of them
were 25 MB."""
_FICLONE = 0x40049409
_OF_THE_FILE = (duckdb.IOException, duckdb.FatalException, duckdb.InternalException, duckdb.ConnectionException)
"""What is wrong with the file or the engine, and not with the rows of one table."""


def memory_for(columns: int, largest: int = 0, texts: int = 0) -> int:
    """MB that a table of so many columns needs, whose largest column has so many bytes in a group of rows.

    A text has blocks of its own beside its column's: where there are more columns than usual, each of `texts` counts.
    """
    wide = (columns - _USUAL_COLUMNS + texts) * _COLUMN if columns > _USUAL_COLUMNS else 0
    return _USUAL + (wide + (12 * largest if largest > _VALUE else 0)) // 2**20


class RoomyFileJob(DuckDbFileJob):
    """dlt's copy of a parquet file, with as much memory as the file needs, which what follows needs too."""

    def run(self) -> None:
        file = pq.ParquetFile(self._file_path).metadata
        groups = [file.row_group(number) for number in range(file.num_row_groups)]
        # a group of all columns bounds each of them, and only few groups are so large
        largest = max(
            (
                group.column(place).total_uncompressed_size
                for group in groups
                if group.total_byte_size > _VALUE
                for place in range(file.num_columns)
            ),
            default=0,
        )
        texts = sum(file.schema.column(place).physical_type == "BYTE_ARRAY" for place in range(file.num_columns))
        cast(OwnDuckDbClient, self._job_client).allow(memory_for(file.num_columns, largest, texts))
        super().run()


class OwnDuckDb(Capable, dlt.destinations.duckdb):
    def __init__(self, credentials: Any, *, allow: Callable[[int], None] = lambda _: None, **settings: Any) -> None:
        super().__init__(credentials, **settings)
        self._allow = allow

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        client = super().client(schema, initial_config)
        client.allow = self._allow
        return client

    @property
    def destination_type(self) -> str:
        """As a warehouse has it that dlt made with its own."""
        return "dlt.destinations.duckdb"

    @property
    def client_class(self) -> type[DuckDbClient]:
        return OwnDuckDbClient


class OwnDuckDbClient(TableByTable, DuckDbClient):
    copy_job = RoomyFileJob
    allow: Callable[[int], None]


class DuckDbFile:
    """One DuckDB warehouse while a run holds its lock."""

    def __init__(self, place: Place, *, datasets: Sequence[str]) -> None:
        if place.warehouse.stem.casefold() in {*datasets, *(f"{name}_staging" for name in datasets), OWN_DATASET}:
            raise ConfigurationError(
                what=f"the warehouse file cannot be called {place.warehouse.name}",
                why="DuckDB names the catalog after the file, and a dataset has that name",
                todo="Choose another file name, such as warehouse.duckdb",
            )
        self.place = place
        self._built = self._purges = self.kept = self._kept_purges = False
        self._held: duckdb.DuckDBPyConnection | None = None
        self._memory = _USUAL
        self._reader: duckdb.DuckDBPyConnection | None = None
        """Open on the published file from the copy to the swap: while it is, nobody can write there."""

    def begin(self) -> None:
        """Copy the published file, or what was kept, to `build/`, unless a clean copy stands there."""
        if self._built:
            return
        build, published = self.place.build, self.place.warehouse
        if self.kept:
            self._remove_build()
            _copy(self._kept, build)
            shutil.copymode(self._kept, build)
            self._built = True
            return
        shutil.rmtree(build.parent, ignore_errors=True)
        build.parent.mkdir(parents=True)
        if published.exists():
            self._read_published()
            before = published.stat()
            _copy(published, build)
            # closing its own handle, the copy dropped the lock that the reader had: read again, and look
            self._read_published()
            after = published.stat()
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise _busy(published, "")
        else:
            with duckdb.connect() as connection:
                connection.execute(_attach_new(build, name="made"))
        self._built = True

    def keep(self) -> None:
        """Put the copy aside; the next `begin` goes on from it."""
        with self.write() as session:
            session.change("CHECKPOINT")
        self._let_go()
        self._refuse_log()
        self._kept.parent.mkdir(exist_ok=True)
        os.replace(self.place.build, self._kept)
        self._built, self.kept, self._kept_purges = False, True, self._purges

    def discard(self, *, kept: bool = False) -> None:
        """Forget the copy; the published file stays as it is."""
        self._built = False
        self._let_go()
        if self.kept and not kept:
            self._purges = self._kept_purges
            self._remove_build()
            return
        self.kept = self._purges = self._kept_purges = False
        self._stop_reading()
        shutil.rmtree(self.place.build.parent, ignore_errors=True)

    def publish(self, before_commit: Callable[[Session], None]) -> None:
        """Finish the copy and swap it in."""
        self._take_up_kept()
        try:
            with self.write() as session:
                before_commit(session)
                session.change("CHECKPOINT")
                if self._purges:
                    self._write_anew(session)
        except duckdb.OutOfMemoryException as error:
            raise self.explain(error) from None
        except duckdb.Error as error:
            log.debug("the warehouse is not written", exc_info=True)
            raise Unavailable(
                what="the warehouse could not be written to the end",
                where=str(self.place.build),
                why=type(error).__name__,
                todo="Nothing was changed. See that its disk has room for a second copy, then run again",
            ) from None
        self._let_go()
        build = self.place.build
        if self._purges:
            os.replace(self._anew, build)
            self._purges = False
        self._refuse_log()
        with build.open("rb") as file:
            os.fsync(file.fileno())
        published = self.place.warehouse
        build.chmod(published.stat().st_mode & 0o777 if published.exists() else published_mode())
        os.replace(build, self.place.warehouse)
        self._built = False
        self._stop_reading()
        with contextlib.suppress(OSError):
            folder = os.open(self.place.warehouse.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def purge(self) -> None:
        """DuckDB leaves deleted rows in blocks that it will use again; a copy of what is there has none of them."""
        self._purges = True

    def destination(self) -> AnyDestination:
        self._hold()
        credentials = DuckDbCredentials(str(self.place.build))
        # dlt sets them at each connection, and would lower the limit that a table has raised
        credentials.global_config = {name: value for name, value in DUCKDB_SETTINGS.items() if name != "memory_limit"}
        return OwnDuckDb(credentials, allow=self._allow, preferred_loader_file_format="parquet")

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session in the copy."""
        with self._hold().cursor() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            yield DuckDbSession(connection)

    def clear_staging(self, dataset: str) -> None:
        with self.write() as session:
            session.change(f"DROP SCHEMA IF EXISTS {quote(f'{dataset}_staging')} CASCADE")

    def index(self, dataset: str, table: str, columns: Sequence[str]) -> None:
        """None: DuckDB scans faster than its indexes are kept."""

    def index_live(self, dataset: str, table: str, live: str) -> None:
        """None: a count reads one column, not the rows."""

    def making_anew(self, tables: Sequence[tuple[str, str]]) -> AbstractContextManager[None]:
        """A view knows its table by name: nothing to do."""
        return nullcontext()

    def explain(self, error: BaseException) -> BaseException:
        return of_duckdb(error) or error

    def refusal(self, error: BaseException, *, where: str) -> NightloadError | None:
        found = cause_of(error, duckdb.Error)
        if no_room(error) or isinstance(found, _OF_THE_FILE) or (found is None and is_of_machine(error)):
            return None
        why = "" if isinstance(found, duckdb.OutOfMemoryException) else summarize(found or error)
        return NightloadError(
            what=f"DuckDB {'refuses these rows' if why else 'has too little memory for these rows'}",
            where=where,
            why=why,
            todo="The table is as it was. " + LEAVE_OUT,
        )

    @property
    def _kept(self) -> Path:
        return self.place.build.parent / "kept" / self.place.build.name

    def _take_up_kept(self) -> None:
        """Go on with what was kept in its place; a copy of it that stands there has nothing more."""
        if not self.kept:
            return
        if not self._built:
            self._remove_build()
            os.replace(self._kept, self.place.build)
        self._built, self.kept, self._kept_purges = True, False, False

    def _remove_build(self) -> None:
        build = self.place.build
        for file in (build, build.with_name(f"{build.name}.wal")):
            file.unlink(missing_ok=True)

    def _refuse_log(self) -> None:
        leftover = self.place.build.with_name(f"{self.place.build.name}.wal")
        if leftover.exists():
            raise Unavailable(what="the built warehouse was not written to the end", where=str(leftover))

    @property
    def _anew(self) -> Path:
        return self.place.build.parent / "anew" / self.place.build.name

    def _write_anew(self, session: Session) -> None:
        self._anew.parent.mkdir(exist_ok=True)
        self._anew.unlink(missing_ok=True)
        ((catalog,),) = session.query("SELECT current_database()")
        session.change(_attach_new(self._anew, name="written_anew"))
        try:
            session.change(f"COPY FROM DATABASE {quote(catalog)} TO written_anew")
            session.change("CHECKPOINT written_anew")
        finally:
            session.change("DETACH written_anew")

    def _hold(self) -> duckdb.DuckDBPyConnection:
        """Open the copy until it is published or discarded, for dlt as well: opened and closed each time, it costs
        a checkpoint each time."""
        if self._held is None:
            # without a config, since dlt gives none: one process cannot open a file in two manners
            self._held = duckdb.connect(str(self.place.build))
            for name, value in DUCKDB_SETTINGS.items():
                self._held.execute(f"SET GLOBAL {name} = {value!r}")
            ((widest,),) = self._held.execute("SELECT max(column_count) FROM duckdb_tables()").fetchall()
            self._memory = _USUAL
            self._allow(memory_for(widest or 0))
        return self._held

    def _allow(self, memory: int) -> None:
        """Let the copy take so many MB, until it is closed."""
        if self._held is not None and memory > self._memory:
            self._held.execute(f"SET GLOBAL memory_limit = '{memory}MB'")
            self._memory = memory

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _read_published(self) -> None:
        """Open the published file for reading, which nobody can while another one writes to it."""
        self._stop_reading()
        published = self.place.warehouse
        wal = published.with_name(f"{published.name}.wal")
        try:
            if wal.exists():  # a writer was killed; what it committed belongs into the file
                with duckdb.connect(str(published)) as connection:
                    connection.execute("CHECKPOINT")
            self._reader = duckdb.connect(str(published), read_only=True)
        except duckdb.Error as error:
            text = str(error)
            if not isinstance(error, duckdb.IOException) or "lock" not in text:
                raise NightloadError(
                    what="the warehouse cannot be opened",
                    where=str(published),
                    why=text.splitlines()[0],
                    todo="If it was written by a newer DuckDB, upgrade; if it is damaged, restore it from a backup",
                ) from None
            holder = re.search(r"\(PID (\d+)\)", text)
            raise _busy(published, f"process {holder[1]}" if holder else "") from None

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class DuckDbSession:
    """Statements in the copy."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self._connection.execute(sql, list(parameters)).fetchall()

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        told = self._connection.execute(sql, list(parameters)).fetchall()
        return int(told[0][0]) if told and isinstance(told[0][0], int) else 0

    def insert(self, table: str, types: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
        arrow = {"BIGINT": pa.int64(), "DOUBLE PRECISION": pa.float64(), "BOOLEAN": pa.bool_()}
        fresh = pa.table(
            {
                name: pa.array([row.get(name) for row in rows], arrow.get(kind, pa.string()))
                for name, kind in types.items()
            }
        )
        names = ", ".join(map(quote, types))
        casts = ", ".join(f"{quote(name)}::{kind}" for name, kind in types.items())
        self._connection.register("fresh", fresh)
        self._connection.execute(f"INSERT INTO {table} ({names}) SELECT {casts} FROM fresh")  # noqa: S608
        self._connection.unregister("fresh")

    def tables(self, dataset: str) -> set[str]:
        names = self.query("SELECT table_name FROM duckdb_tables() WHERE schema_name = ?", [dataset])
        return {name for (name,) in names}

    def create_table(self, dataset: str, table: str, columns: Sequence[ColumnType]) -> None:
        self.create_dataset(dataset)
        spec = ", ".join(f"{quote(c.name)} {c.kind}{'' if c.nullable else ' NOT NULL'}" for c in columns)
        self.change(f"CREATE TABLE {quote(dataset, table)} ({spec})")

    def load(self, dataset: str, table: str, columns: Sequence[ColumnType], parquet: Path) -> None:
        self.change(f"INSERT INTO {quote(dataset, table)} BY NAME FROM {literal(parquet)}")

    def create_dataset(self, dataset: str) -> None:
        self.change(f"CREATE SCHEMA IF NOT EXISTS {quote(dataset)}")

    def comments(self, dataset: str) -> dict[tuple[str, str], str | None]:
        rows = self.query(
            "SELECT table_name, '', comment FROM duckdb_tables() WHERE schema_name = $1 UNION ALL "
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE schema_name = $1",
            [dataset],
        )
        return {(table, column): text for table, column, text in rows}

    def comment(self, dataset: str, comments: Mapping[tuple[str, str], str]) -> None:
        places = list(comments)
        for at in range(0, len(places), _COMMENTED_AT_ONCE):
            some = {place: comments[place] for place in places[at : at + _COMMENTED_AT_ONCE]}
            self.change(f"BEGIN;\n{comment_statements(dataset, some)};\nCOMMIT")


def _attach_new(file: Path, *, name: str) -> str:
    """SQL: make a database file."""
    return f"ATTACH {literal(file)} AS {name} (BLOCK_SIZE {_BLOCK_BYTES})"


def _busy(published: Path, holder: str) -> WarehouseBusy:
    return WarehouseBusy(
        what="somebody has the warehouse open for writing",
        where=str(published),
        why=holder,
        todo="Close it there, and open it read-only: a night swaps the file",
    )


def _copy(source: Path, target: Path) -> None:
    """Copy a file; on a file system that can share blocks, at once. What finds no room gives back what it took: the
    ledger needs it, to say so."""
    # one open: closing any handle of the file would drop the lock that DuckDB holds on it for us
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            try:
                shutil.copyfileobj(reader, writer, 16 * 2**20)
            except OSError:
                writer.truncate(0)
                raise
