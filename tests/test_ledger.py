"""The ledger: every run is recorded, also the one that could not open the warehouse or did not come to its end."""

from __future__ import annotations

import errno
import json
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from unittest import mock

import pytest

from conftest import Night, one_database
from pipelines.config import project as places
from pipelines.ledger.schema import TABLES
from pipelines.ledger.store import Ledger
from pipelines.scheduling import scheduler
from pipelines.warehouse import lock as warehouse
from pipelines.warehouse.postgres.connection import connect
from pipelines.warehouse.postgres.warehouse import RUN_LOCK
from redash import LABELS
from sandbox_process import SandboxProcess
from sources.core.errors import ConfigurationError, NightloadError, NoRoom

METADATA = [name for name in LABELS if name != "query_results"]


@pytest.fixture
def small(night: Night) -> Night:
    return few_tables(night)


def few_tables(night: Night) -> Night:
    night.set(exclude=[*(name for name in METADATA if name not in ("alerts", "query_snippets")), "results"])
    night.set("tune", api_key=None)
    return night


def ledger(night: Night, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(night.state / "ledger.sqlite") as connection:
        return connection.execute(sql).fetchall()


def test_a_run_is_recorded_in_the_file_and_in_the_warehouse_alike(small: Night) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    ran = small.run()
    for table in TABLES:
        names = ", ".join(TABLES[table])
        there = small.rows(f"SELECT {names} FROM nightload.{table}")
        assert [_plain(row) for row in there] == [_plain(row) for row in ledger(small, f"SELECT {names} FROM {table}")]
    ((run_id, started, finished, status, vendors, error),) = small.rows(
        "SELECT run_id, started_at, finished_at, status, vendors, error FROM nightload.runs"
    )
    assert (run_id, status, json.loads(vendors), error) == (ran.json["run_id"], "ok", ["tonalytica"], None)
    assert before < started < finished < datetime.now(UTC) + timedelta(seconds=1)
    rows = small.rows(
        "SELECT dataset || '.' || table_name, vendor_count, extracted, landed, live, status FROM nightload.run_tables"
    )
    assert {row[0]: row[1:] for row in rows} == {
        name: tuple(table[key] for key in ("vendor_count", "extracted", "landed", "live", "status"))
        for name, table in ran.tables.items()
    }
    assert small.rows("SELECT vendor, status, requests FROM nightload.run_vendors") == [
        ("tonalytica", "ok", ran.json["vendors"][0]["requests"])
    ]


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.timestamp() if isinstance(value, datetime) else datetime.fromisoformat(value).timestamp()
        if isinstance(value, str) and value[10:11] == "T" and value[4:5] == "-"
        else value
        for value in row
    )  # fmt: skip


def test_new_tables_and_columns_are_schema_changes(small: Night) -> None:
    assert small.run().code == 0
    told = small.rows("SELECT table_name, change FROM nightload.schema_changes WHERE dataset = 'tonalytica'")
    assert sorted(told) == [("alerts", "new table"), ("query_snippets", "new table")]
    assert small.run().code == 0
    assert len(small.rows("SELECT 1 FROM nightload.schema_changes")) == 2


def test_the_directory_of_columns_tells_label_type_and_key(small: Night) -> None:
    assert small.run().code == 0
    rows = small.rows(
        "SELECT column_name, label, data_type, is_key FROM nightload.columns WHERE table_name = 'query_snippets'"
    )
    assert ("id", "id", "bigint", True) in rows
    assert ("snippet", "snippet", "text", False) in rows
    types = small.rows(
        "SELECT column_name FROM duckdb_columns() WHERE schema_name = 'tonalytica' AND table_name = 'query_snippets'"
    )
    assert {name for (name,) in types} == {row[0] for row in rows} | {"_dlt_load_id", "_deleted_at"}


def test_a_failed_run_is_recorded_with_its_reason(small: Night, sandbox: SandboxProcess) -> None:
    assert small.run().code == 0
    small.set(api_key="CANARYwrong")
    assert small.run().code == 1
    (good, bad) = small.rows("SELECT run_id, status FROM nightload.runs ORDER BY started_at")
    assert (good[1], bad[1]) == ("ok", "failed")
    errors = small.rows("SELECT error FROM nightload.run_tables WHERE run_id = ? AND status = 'failed'", bad[0])
    assert len(errors) >= 2
    assert all("the key is not accepted" in error for (error,) in errors)


def test_a_run_that_cannot_open_the_warehouse_is_recorded_and_shown_by_the_next_good_one(
    file_night: Night,
) -> None:
    small = few_tables(file_night)
    assert small.run().code == 0
    kept = small.warehouse.read_bytes()
    small.warehouse.write_bytes(b"this is no database" * 1000)
    assert small.run().code == 1
    assert [row[0] for row in ledger(small, "SELECT status FROM runs ORDER BY started_at")] == ["ok", "failed"]
    small.warehouse.write_bytes(kept)
    assert small.run().code == 0
    assert small.rows("SELECT status FROM nightload.runs ORDER BY started_at") == [("ok",), ("failed",), ("ok",)]


def test_a_lost_warehouse_is_built_again_and_shows_the_new_run(small: Night) -> None:
    assert small.run().code == 0
    small.lose()
    ran = small.run()
    assert (ran.code, ran.tables["tonalytica.alerts"]["landed"]) == (0, 8)
    assert (ran.json["run_id"],) in small.rows("SELECT run_id FROM nightload.runs")


def test_a_crashed_run_is_closed_by_the_next(small: Night) -> None:
    assert small.run().code == 0
    book = Ledger(small.state / "ledger.sqlite")
    left_open = book.open_run(["tonalytica"], version="0")
    book.close()
    ran = small.run()
    assert ran.code == 0
    rows = dict(small.rows("SELECT run_id, status FROM nightload.runs"))
    assert rows[left_open] == "crashed"
    assert sorted(rows.values()) == ["crashed", "ok", "ok"]
    assert ledger(small, "SELECT count(*) FROM runs WHERE status = 'running'") == [(0,)]


def test_a_refused_try_is_no_run(small: Night) -> None:
    """Whether this machine's lock refuses it or, on a Postgres, another machine's."""
    assert small.run().code == 0
    told = [ledger(small, f"SELECT * FROM {table}") for table in (*TABLES, "unpublished", "incidents")]
    locks = [warehouse.lock(places.at(small.database.url or places.DEFAULT, small.home))]
    if small.database.url is not None:
        locks.append(held(small.database.url))
    for lock in locks:
        with lock:
            ran = small.main("run")
        assert (ran.code, ran.err.count("\n"), "another run has this warehouse" in ran.err) == (3, 1, True), ran.err
        assert told == [ledger(small, f"SELECT * FROM {table}") for table in (*TABLES, "unpublished", "incidents")]


@contextmanager
def held(url: str) -> Iterator[None]:
    """The lock of a run on another machine."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (RUN_LOCK,))
        yield


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_run_of_another_machine_that_is_under_way_has_not_crashed(small: Night, tmp_path: Path) -> None:
    """A machine that is new here reads of it in the database; only the lock says whether it is still at work."""
    assert small.run().code == 0
    ((run_id,),) = small.rows("SELECT run_id FROM nightload.runs")
    small.write("UPDATE nightload.runs SET status = 'running', finished_at = NULL")
    other = replace(small, home=tmp_path / "other")
    other.home.mkdir()
    with held(str(small.database.url)):
        for command in (("run",), ("state", "reset", "tonalytica", "--yes")):
            assert other.main(*command).code == 3
            assert ledger(other, "SELECT * FROM runs") == []
    assert other.main("run").code == 0
    assert ledger(other, "SELECT run_id, status FROM runs ORDER BY 1")[0] == (run_id, "crashed")
    assert [status for (status,) in small.rows("SELECT status FROM nightload.runs ORDER BY run_id")] == [
        "crashed",
        "ok",
    ]


def test_a_ledger_that_cannot_be_written_to_fails_no_run(small: Night, caplog: pytest.LogCaptureFixture) -> None:
    """Recording never fails a run: here every write of a row does."""
    assert small.run().code == 0
    with sqlite3.connect(small.state / "ledger.sqlite") as connection:
        for table in ("run_tables", "run_vendors", "schema_changes"):
            connection.execute(
                f"CREATE TRIGGER no_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(FAIL, 'full'); END"
            )
    ran = small.run()
    assert (ran.code, ran.json["status"]) == (0, "ok")
    assert "the ledger could not be written" in caplog.text


def test_a_ledger_that_is_no_database_is_told(small: Night) -> None:
    small.state.mkdir(parents=True)
    (small.state / "ledger.sqlite").write_text("notes, not a ledger\n" * 100)
    ran = small.main("run")
    assert (ran.code, "the ledger cannot be written" in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err
    assert "move ledger.sqlite* away" in ran.err


@one_database
def test_a_ledger_that_is_damaged_is_told_and_made_anew_from_the_warehouse(small: Night) -> None:
    """Its first page is whole, and the others are not: it opens, and cannot be read."""
    assert small.run().code == 0
    file = small.state / "ledger.sqlite"
    file.write_bytes(file.read_bytes()[:4096] + b"U" * (file.stat().st_size - 4096))
    for command in ("run", "status", "runs", "report", "alert", "tables"):
        ran = small.main(command)
        told = [line for line in ran.err.splitlines() if line.startswith("nightload: ")]
        assert (ran.code, len(told), "move ledger.sqlite* away" in ran.err) == (2, 1, True), ran.err
    for each in small.state.glob("ledger.sqlite*"):
        each.unlink()
    assert small.run().code == 0
    assert ledger(small, "SELECT status FROM runs") == [("ok",)] * 2


def test_a_ledger_without_room_is_no_mistake_of_the_settings(small: Night) -> None:
    """A disk is full, which no file may grow stands for: exit 1, and not 2, which nobody would try again."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    ran = small("run", preexec_fn=full)
    assert (ran.code, "the ledger cannot be written" in ran.err, ran.err.count("\n")) == (1, True, 1), ran.err
    assert small.run().code == 0


@one_database
def test_a_copy_that_finds_no_room_leaves_the_ledger_what_there_is(
    small: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.run().code == 0

    def full(reader: IO[bytes], writer: IO[bytes], *_: int) -> None:
        writer.write(reader.read(100_000))
        raise OSError(errno.ENOSPC, "No space left on device")

    build, record, taken = small.state / "build" / "warehouse.duckdb", Ledger.record, list[int]()

    def recording(self: Ledger, *told: Any) -> None:
        taken.append(build.stat().st_size)
        record(self, *told)

    monkeypatch.setattr("shutil.copyfileobj", full)
    monkeypatch.setattr("fcntl.ioctl", mock.Mock(side_effect=OSError))
    monkeypatch.setattr(Ledger, "record", recording)
    assert small.run().code == 1
    assert taken and not any(taken)


def test_a_night_that_had_no_room_to_be_recorded_is_recorded_when_its_work_is_swept(
    small: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full while the night works; its `work` folder is what it swept then."""
    work, insert, close = small.state / "work", Ledger._insert, Ledger.close_run

    def no_row(self: Ledger, table: str, row: dict[str, Any]) -> None:
        if table != "runs" and work.exists():
            raise sqlite3.OperationalError("database or disk is full")
        insert(self, table, row)

    def not_closed(self: Ledger, run_id: str, **told: Any) -> None:
        if not work.exists():
            close(self, run_id, **told)

    monkeypatch.setattr(Ledger, "_insert", no_row)
    monkeypatch.setattr(Ledger, "close_run", not_closed)
    ran = small.run()
    assert (ran.code, not work.exists()) == (0, True)
    assert ledger(small, "SELECT status, finished_at IS NOT NULL FROM runs") == [("ok", 1)]
    tables = ledger(small, "SELECT dataset || '.' || table_name, landed FROM run_tables")
    assert dict(tables) == {name: table["landed"] for name, table in ran.tables.items()}
    assert dict(tables)["tonalytica.alerts"] == 8
    monkeypatch.undo()
    assert small.run().code == 0
    assert sorted(small.rows("SELECT status FROM nightload.runs")) == [("ok",), ("ok",)]


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoRoom), (errno.EACCES, ConfigurationError)])
def test_a_lock_for_which_there_is_no_room_is_no_mistake_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[NightloadError]
) -> None:
    """As the system says it when the folder for the lock is made."""
    refused = mock.Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr("pipelines.warehouse.lock.state_folder", refused)
    monkeypatch.setattr("pipelines.scheduling.scheduler.state_folder", refused)
    place = places.at(places.DEFAULT, tmp_path)
    for lock in (warehouse.lock(place), scheduler._only_one(place)):
        with pytest.raises(kind) as told, lock:
            pass
        assert type(told.value) is kind


def test_run_ids_sort_by_time(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger.sqlite")
    ids = []
    for _ in range(5):
        ids.append(book.open_run([], version="0"))
        time.sleep(0.002)  # a run takes longer than that
    assert ids == sorted(set(ids))
    book.close()


def test_what_is_recorded_at_once_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "ledger.sqlite")
    run_id = book.open_run(["x"], version="0")
    with pytest.raises(ZeroDivisionError), book.at_once():
        book.close_run(run_id, status="ok")
        raise ZeroDivisionError
    assert book.query("SELECT status FROM runs") == [{"status": "running"}]
    with book.at_once():
        book.close_run(run_id, status="ok")
        with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
            assert other.execute("SELECT status FROM runs").fetchall() == [("running",)]
    assert book.query("SELECT status FROM runs") == [{"status": "ok"}]
    book.close()


def test_the_status_can_be_read_while_a_run_is_closed(tmp_path: Path) -> None:
    """Another process opens the ledger while the last swap is under way."""
    book = Ledger(tmp_path / "ledger.sqlite")
    run_id = book.open_run(["x"], version="0")
    read: list[Any] = []

    def reader() -> None:
        other = Ledger(tmp_path / "ledger.sqlite")
        read.extend(other.query("SELECT status FROM runs"))
        other.close()

    with book.at_once():
        book.close_run(run_id, status="ok")
        thread = threading.Thread(target=reader)
        thread.start()
        thread.join(5)
        assert read == [{"status": "running"}]
    book.close()


def test_status_and_tables_tell_the_last_run(small: Night, sandbox: SandboxProcess) -> None:
    assert small.main("status", "--json").json["vendors"] == []
    ran = small.run()
    told = small.main("status", "--json").json
    assert told["last_run"]["run_id"] == ran.json["run_id"]
    (vendor,) = told["vendors"]
    assert (vendor["vendor"], vendor["status"], vendor["error"]) == ("tonalytica", "ok", None)
    assert {table["table"]: table["live"] for table in vendor["tables"]}["tonalytica.alerts"] == 8
    small.set(api_key="CANARYwrong")
    small.run()
    (vendor,) = small.main("status", "--json").json["vendors"]
    assert (vendor["status"], vendor["last_good"]) == ("failed", told["vendors"][0]["last_good"])
    tables = {row["table"]: row for row in small.main("tables", "--json").json["tables"]}
    assert tables["tonalytica.alerts"]["key"] == ["id"]
    assert tables["tonalytica.alerts"]["live"] == 8


@one_database
@pytest.mark.parametrize("refuses", ["folder", "file"])
def test_a_ledger_that_cannot_be_written_is_read_with_what_is_in_its_log(
    refuses: str, small: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.run().code == 0
    connect = sqlite3.connect
    with closing(connect(small.state / "ledger.sqlite", isolation_level=None)) as writer:
        writer.execute("UPDATE runs SET error = 'in the log'")  # in the log until the last who has it open closes it
        assert (small.state / "ledger.sqlite-wal").stat().st_size > 0

        def read_only(path: Any, **options: Any) -> sqlite3.Connection:
            if Path(path).parent == small.state:
                error = sqlite3.OperationalError("attempt to write a readonly database")
                error.sqlite_errorcode = sqlite3.SQLITE_READONLY
                raise error
            return connect(path, **options)

        if refuses == "file":
            monkeypatch.setattr("pipelines.ledger.store.sqlite3.connect", read_only)
        else:
            refused = mock.Mock(side_effect=OSError(errno.EROFS, os.strerror(errno.EROFS)))
            monkeypatch.setattr("pipelines.ledger.store.state_folder", refused)
        assert small.main("status", "--json").json["last_run"]["status"] == "ok"
        (run,) = small.main("runs", "--json").json["runs"]
        assert run["error"] == "in the log"
        assert run["run_id"] in small.main("run-info", run["run_id"], "--json").out
        ran = small.main("run")
        assert (ran.code, "the ledger cannot be written" in ran.err) == (2, True), ran.err
        assert ("Read-only file system" if refuses == "folder" else "readonly database") in ran.err
