"""The ledger: every run, what each table came to, and every change of a schema.

It lives in a SQLite file beside the warehouse, since a run that cannot open the warehouse must be
recorded too, and is copied into the dataset `nightload` whenever a warehouse is published. The row
of a run is opened before the work; one that is still open when the lock is free has crashed.

Recording never fails a run: what cannot be written is logged, and the run goes on.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import secrets
import socket
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config.permissions import state_folder
from pipelines.ledger.schema import INCIDENTS, INDEXES, TABLES, key_of
from sources.core.errors import ConfigurationError, NightloadError, NoRoom, no_room

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

MISSED = "missed"
"""The status of a run that was due and never began."""

_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

MEMORY = Path(":memory:")
"""SQLite's name for a ledger that is kept nowhere."""
CRASHED = "it ended without a word (killed, power lost, or no room for its last words)"


class Ledger:
    """One ledger file; to read it (`reads`), it need not be writable."""

    def __init__(self, path: Path, *, reads: bool = False) -> None:
        self._path = path
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            if not reads or _is_damage(error) or not path.exists():
                raise _unusable(error, "written", path) from None
            try:
                self._open(_copied(path))
            except (OSError, sqlite3.Error) as second:
                raise _unusable(second, "read", path) from None

    def _open(self, copy: sqlite3.Connection | None = None) -> None:
        if copy is None and self._path != MEMORY:
            state_folder(self._path.parent)
        self._db = copy or sqlite3.connect(self._path, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        for table, columns in {**TABLES, "incidents": INCIDENTS}.items():
            spec = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {table} ({spec})")
        self._db.execute("CREATE TABLE IF NOT EXISTS unpublished (run_id TEXT PRIMARY KEY)")
        self._db.execute("CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value TEXT)")
        for index in INDEXES:
            self._db.execute(index)

    def close(self) -> None:
        self._db.close()

    def open_run(self, vendors: Sequence[str], *, version: str) -> str:
        """Record that a run begins; its id sorts by time."""
        run_id = run_id_of(datetime.now(UTC), secrets.token_hex(3))
        row = {
            "run_id": run_id,
            "started_at": _now(),
            "status": "running",
            "vendors": json.dumps(vendors),
            "version": version,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        with self._recording():
            self._insert("runs", row)
        return run_id

    def close_run(self, run_id: str, *, status: str, error: str | None = None, at: str | None = None) -> None:
        """Record how a run ended, now or `at` (UTC, as it is kept)."""
        with self._recording():
            self._db.execute(
                "UPDATE runs SET status = ?, error = ?, finished_at = ? WHERE run_id = ?",
                (status, error, at or _now(), run_id),
            )
            self._touch(run_id)

    def withdraw_run(self, run_id: str) -> None:
        """It was refused before it began, and is no run."""
        with self._recording():
            for table in ("runs", "unpublished"):
                self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))  # noqa: S608

    def reopen_run(self, run_id: str) -> None:
        """It has not ended after all."""
        with self._recording():
            self._db.execute(
                "UPDATE runs SET status = 'running', error = NULL, finished_at = NULL WHERE run_id = ?", (run_id,)
            )

    def has_missed(self, due: datetime, *, schedule: str) -> bool:
        """Is it recorded that this run was missed?"""
        return bool(self.query("SELECT 1 FROM runs WHERE run_id = ?", (_id_of_missed(due, schedule),)))

    def missed(self, due: datetime, *, schedule: str, vendors: Sequence[str], version: str, why: str) -> None:
        """Record a run that was due and never began: its `started_at` and `finished_at` are when it was due.

        Said again, it is the same row.
        """
        run_id = _id_of_missed(due, schedule)
        row = {
            "run_id": run_id,
            "started_at": _iso(due),
            "finished_at": _iso(due),
            "status": MISSED,
            "vendors": json.dumps(vendors),
            "error": f"schedule {schedule}: {why}",
            "version": version,
            "host": socket.gethostname(),
        }
        with self._recording():
            if not self._db.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone():
                self._insert("runs", row)

    def is_new(self) -> bool:
        """Has nothing been recorded here at all, but for what a scheduler missed?"""
        return not self.query(
            "SELECT 1 FROM runs WHERE status <> ? UNION ALL SELECT 1 FROM backfills UNION ALL "
            "SELECT 1 FROM interventions LIMIT 1",
            (MISSED,),
        )

    def is_closed(self, run_id: str) -> bool:
        return bool(self.query("SELECT 1 FROM runs WHERE run_id = ? AND finished_at IS NOT NULL", (run_id,)))

    def close_crashed(self, *, but: Collection[str] = ()) -> list[str]:
        """Close the runs that were left open, `but` these. Call it only while holding the warehouse's lock.

        They ended when they were last heard of, and not when that is noticed: what they brought is no fresher.
        """
        crashed: list[str] = []
        with self._recording():
            heard_of = (
                "SELECT run_id, coalesce((SELECT max(t.finished_at) FROM run_tries t WHERE t.run_id = r.run_id), "
                "started_at) FROM runs r WHERE status = 'running'"
            )
            for run_id, at in self._db.execute(heard_of).fetchall():
                if run_id not in but:
                    crashed.append(run_id)
                    self.close_run(run_id, status="crashed", error=CRASHED, at=at)
            for row in self._db.execute("SELECT run_id FROM dbt_runs WHERE status = 'running'").fetchall():
                self.close_dbt(row["run_id"], {"status": "crashed", "error": CRASHED})
        return crashed

    def put(self, table: str, row: Mapping[str, Any]) -> None:
        """Record a row of one of `TABLES`, in place of those that have its id."""
        key = key_of(table)
        with self._recording(), nullcontext() if self._db.in_transaction else self.at_once():
            self._db.execute(f"DELETE FROM {table} WHERE {key} = ?", (row[key],))  # noqa: S608
            self._insert(table, row)

    def void_backfills(self, dataset: str, table: str) -> None:
        """The table is made anew: of what was backfilled, nothing counts as done."""
        for row in self.query("SELECT * FROM backfills WHERE dataset = ? AND table_name = ?", (dataset, table)):
            self.put("backfills", {**row, "status": "void", "error": "the table was made anew since"})

    def open_dbt(self, run_id: str) -> None:
        """Record that dbt begins."""
        with self._recording():
            self._insert("dbt_runs", {"run_id": run_id, "started_at": _now(), "status": "running"})

    def close_dbt(self, run_id: str, outcome: Mapping[str, Any]) -> None:
        names = [name for name in TABLES["dbt_runs"] if name in outcome]
        with self._recording():
            self._db.execute(
                f"UPDATE dbt_runs SET {', '.join(f'{name} = ?' for name in names)}, finished_at = ? WHERE run_id = ?",  # noqa: S608
                (*(outcome[name] for name in names), _now(), run_id),
            )
            self._touch(run_id)

    def record(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to one of `TABLES`, at once; each has its id."""
        with self._recording(), nullcontext() if self._db.in_transaction else self.at_once():
            for row in rows:
                self._insert(table, row)

    def forget_vendor(self, run_id: str, vendor: str) -> None:
        """Drop what one run said of one vendor, before it says it anew."""
        with self._recording():
            for table in ("run_vendors", "run_tries", "run_tables", "schema_changes"):
                self._db.execute(f"DELETE FROM {table} WHERE run_id = ? AND vendor = ?", (run_id, vendor))  # noqa: S608

    def adopt(self, rows_of: Callable[[str, Sequence[str]], Iterable[Sequence[Any]]]) -> None:
        """Copy the rows of runs that this ledger does not know; `rows_of` takes a table and its columns."""
        own = set(self.unpublished())
        with self.at_once():
            for table, columns in TABLES.items():
                rows = (dict(zip(columns, map(_plain, row), strict=True)) for row in rows_of(table, tuple(columns)))
                self.record(table, (row for row in rows if row[key_of(table)] not in own))
            incidents = rows_of("incidents", tuple(INCIDENTS))
            self.keep_incidents(dict(zip(INCIDENTS, map(_plain, row), strict=True)) for row in incidents)
            self.published(set(self.unpublished()) - own)

    def incidents(self) -> list[dict[str, Any]]:
        """All of them, the oldest first."""
        return self.query(f"SELECT {', '.join(INCIDENTS)} FROM incidents ORDER BY opened_at, incident_id")  # noqa: S608

    def keep_incidents(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Put these in place of what was said under the same id."""
        marks = ", ".join("?" for _ in INCIDENTS)
        with self._recording():
            for row in rows:
                values = [row.get(name) for name in INCIDENTS]
                self._db.execute(f"INSERT OR REPLACE INTO incidents VALUES ({marks})", values)  # noqa: S608

    def marks(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """What those who tell of the runs remember of themselves: name → what."""
        rows = self.query("SELECT name, value FROM marks ORDER BY name")
        return {row["name"]: json.loads(row["value"]) for row in rows if row["name"].startswith(prefix)}

    def mark(self, name: str, value: Mapping[str, Any]) -> None:
        with self._recording():
            self._db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, json.dumps(value)))

    def unpublished(self) -> list[str]:
        """The runs that the warehouse does not show, or not as they ended."""
        return [row["run_id"] for row in self.query("SELECT run_id FROM unpublished ORDER BY run_id")]

    def published(self, run_ids: Iterable[str]) -> None:
        with self._recording():
            self._db.executemany("DELETE FROM unpublished WHERE run_id = ?", [(run_id,) for run_id in run_ids])

    def rows(self, table: str, run_ids: Sequence[str]) -> list[dict[str, Any]]:
        """All that `table` says of these runs, or whatever its rows tell of."""
        names = ", ".join(TABLES[table])
        found: list[dict[str, Any]] = []
        for run_id in run_ids:
            query = f"SELECT {names} FROM {table} WHERE {key_of(table)} = ?"  # noqa: S608
            found += self.query(query, (run_id,))
        return found

    def mask(self, masked: Callable[[str], str]) -> None:
        """Put `masked` in place of every text, and leave no byte of what stood there. Raises `NightloadError`."""
        try:
            self._db.execute("PRAGMA secure_delete = ON")
            for table, columns in TABLES.items():
                key = key_of(table)
                for name in (name for name, kind in columns.items() if kind == "TEXT" and name != key):
                    query = f"SELECT rowid, {key} AS id, {name} AS told FROM {table} WHERE {name} IS NOT NULL"  # noqa: S608
                    for row in self._db.execute(query).fetchall():
                        if (fresh := masked(row["told"])) != row["told"]:
                            self._db.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (fresh, row["rowid"]))  # noqa: S608
                            self._touch(row["id"])
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise NightloadError(
                what="the ledger could not be cleaned", why=str(error), todo="Run nightload forget again"
            ) from None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Raises `NightloadError` for a file that cannot be read."""
        try:
            return [dict(row) for row in self._db.execute(sql, parameters)]
        except sqlite3.DatabaseError as error:
            if _is_damage(error) or _may_pass(error):
                raise _unusable(error, "read", self._path) from None
            raise

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        names = [name for name in TABLES[table] if name in row]
        marks = ", ".join("?" for _ in names)
        self._db.execute(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})",  # noqa: S608
            [row[name] for name in names],
        )
        self._touch(row[key_of(table)])

    def _touch(self, run_id: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO unpublished VALUES (?)", (run_id,))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is recorded inside is kept when the block ends; if it does not come to its end, none of it is."""
        with self._recording():
            self._db.execute("BEGIN")
        try:
            yield
        except BaseException:
            with self._recording():
                self._db.execute("ROLLBACK")
            raise
        with self._recording():
            self._db.execute("COMMIT")

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            log.error("the ledger could not be written: %s", error)


def _unusable(error: OSError | sqlite3.Error, how: str, path: Path) -> NightloadError:
    todo = "Give the warehouse a folder that can be written, with room on its disk"
    if _is_damage(error):
        todo = f"It is damaged: move {path.name}* away, and the next run takes over what the warehouse tells of runs"
    kind = NoRoom if _may_pass(error) else ConfigurationError
    return kind(what=f"the ledger cannot be {how}", where=str(path), why=str(error), todo=todo)


def _copied(path: Path) -> sqlite3.Connection:
    """The ledger in memory: of a file whose last rows are in its log SQLite reads nothing where it cannot write."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="nightload-") as folder:
        for file in (path, path.with_name(f"{path.name}-wal")):
            if file.exists():
                shutil.copyfile(file, Path(folder, file.name))
        with closing(sqlite3.connect(Path(folder, path.name))) as source:
            copy = sqlite3.connect(MEMORY, isolation_level=None)
            source.backup(copy)
            return copy


def _is_damage(error: OSError | sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _may_pass(error: OSError | sqlite3.Error) -> bool:
    """Is it a disk that is full or fails, or somebody who holds the ledger, and no mistake of the settings?"""
    if isinstance(error, OSError):
        return no_room(error) is not None
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _PASSING


def run_id_of(at: datetime, tag: str) -> str:
    """The id of a run: it sorts by time, and `tag` tells apart what began in the same millisecond."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%S%f}"[:18] + f"-{tag}"


def _id_of_missed(due: datetime, schedule: str) -> str:
    return run_id_of(due, hashlib.sha256(schedule.encode()).hexdigest()[:6])


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _iso(value)
    return value.isoformat() if isinstance(value, date) else value


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def _now() -> str:
    return _iso(datetime.now(UTC))


def user() -> str:
    """The name of the operating system's user, for the ledger."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"
