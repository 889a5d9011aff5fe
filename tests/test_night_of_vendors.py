"""A night of several vendors: read side by side, loaded in turn, each failing alone, tried again in time."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import dlt
import duckdb
import pytest

from conftest import Night, one_database
from pipelines.catalog import system_tables
from pipelines.catalog.system_tables import publish
from pipelines.config import project as places
from pipelines.ledger.store import Ledger
from pipelines.run import load as passes
from pipelines.run import recovery, runner
from pipelines.run.attempts import Try
from pipelines.run.workers import SideBySide
from pipelines.warehouse.duckdb.warehouse import DuckDbFile
from reference import truth
from sandbox_process import SandboxProcess
from sources.core.errors import NoRoom, Unavailable, WarehouseBusy
from sources.http.client import Http
from sources.tune.settings import ENDPOINTS
from test_run import METADATA

KILLED = (sys.executable, str(Path(__file__).with_name("killed.py")))
WAREHOUSE = {
    "duckdb": "pipelines.warehouse.duckdb.warehouse:DuckDbFile",
    "postgres": "pipelines.warehouse.postgres.warehouse:Postgres",
}
TOO_LONG = {"status": 503, "headers": {"Retry-After": "500"}}
"""The vendor is busy, and not worth another request for now."""


@pytest.fixture
def small(night: Night) -> Night:
    return few_tables(night)


@pytest.fixture
def file(file_night: Night) -> Night:
    return few_tables(file_night)


def few_tables(night: Night) -> Night:
    """Three tables of two vendors."""
    night.set(exclude=[*(name for name in METADATA if name not in ("alerts", "query_snippets")), "results"])
    night.set("tune", exclude=[endpoint.path for endpoint in ENDPOINTS if endpoint.path != "advertiser"])
    return night


def pace(night: Night, **settings: Any) -> Night:
    for name, value in settings.items():
        night.settings[f"NIGHTLOAD__{name}".upper()] = value if isinstance(value, str) else json.dumps(value)
    return night


def patiently(night: Night, *pauses: str, until: str = "30m") -> Night:
    return pace(night, pauses=list(pauses or ("0s",)), until=until)


def ledger(night: Night, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(night.state / "ledger.sqlite") as connection:
        return connection.execute(sql).fetchall()


def asked(sandbox: SandboxProcess, vendor: str, path: str) -> int:
    by_path: dict[str, int] = sandbox.control(vendor, "GET", "stats")["by_path"]
    return by_path.get(path, 0)


def has(night: Night) -> dict[str, int | None]:
    """How many rows of each vendor stand in the warehouse; None, if it has no such table."""
    found: dict[str, int | None] = {}
    for table in ("tonalytica.query_snippets", "tune.advertiser"):
        try:
            ((found[table.split(".")[0]],),) = night.look(f"SELECT count(*) FROM {table}")
        except Exception:  # noqa: BLE001 - each database has an error of its own
            found[table.split(".")[0]] = None
    return found


def true(sandbox: SandboxProcess) -> dict[str, int | None]:
    return {
        "tonalytica": len(truth(sandbox, "query_snippets")),
        "tune": len(truth(sandbox, "advertiser", "tune")),
    }


# -- side by side --------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many vendors were at a request at the same time; each waits for another one, for a while, at its first."""
    most, inside, lock, met = [0], set[str](), threading.Condition(), set[str]()
    attempt = Http._attempt

    def together(self: Http, *told: Any, **options: Any) -> Any:
        with lock:
            inside.add(self.vendor)
            most[0] = max(most[0], len(inside))
            lock.notify_all()
            if self.vendor not in met:
                met.add(self.vendor)
                lock.wait_for(lambda: most[0] > 1, timeout=0.3 if os.environ.get("NIGHTLOAD__SIDE_BY_SIDE") else 60)
        try:
            return attempt(self, *told, **options)
        finally:
            with lock:
                inside.discard(self.vendor)

    monkeypatch.setattr(Http, "_attempt", together)
    yield most


def test_vendors_are_asked_at_the_same_time_and_nothing_is_lost(
    small: Night, at_once: list[int], sandbox: SandboxProcess
) -> None:
    """None could go on before the other one is asked, too: the night is as long as the slowest, not as all."""
    ran = small.run()
    assert (ran.code, at_once) == (0, [2])
    assert has(small) == true(sandbox)
    assert [vendor["vendor"] for vendor in ran.json["vendors"]] == ["tonalytica", "tune"]


@one_database
def test_one_after_the_other_where_that_is_wanted(small: Night, at_once: list[int], sandbox: SandboxProcess) -> None:
    assert pace(small, side_by_side=1).run().code == 0
    assert (at_once, has(small)) == ([1], true(sandbox))


def test_no_thread_but_the_main_one_speaks_with_the_warehouse(small: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Postgres is one connection, a DuckDB file is swapped under whoever reads it: a vendor's thread has neither."""
    seen: set[str] = set()
    connect = duckdb.connect
    from pipelines.warehouse.postgres.connection import Shared

    step = Shared.step

    def noted(*told: Any, **named: Any) -> Any:
        if told or "database" in named:  # else the one in memory, which converts
            seen.add(threading.current_thread().name)
        return connect(*told, **named)

    def noted_step(self: Shared) -> Any:
        seen.add(threading.current_thread().name)
        return step(self)

    monkeypatch.setattr(duckdb, "connect", noted)
    monkeypatch.setattr(Shared, "step", noted_step)
    assert small.run().code == 0
    assert "MainThread" in seen
    assert not [name for name in seen if name.startswith(("tune", "tonalytica"))]


def test_dlt_keeps_apart_what_two_threads_are_at(tmp_path: Path) -> None:
    """What the night relies on: made here, extracted in threads of which each waits for the other, loaded here."""
    turns = threading.Barrier(2, timeout=60)
    seen: dict[str, list[Any]] = {"one": [], "two": []}

    def source(name: str) -> Any:
        @dlt.resource(name="numbers")
        def numbers() -> Iterator[Any]:
            for number in range(3):
                turns.wait()
                state = dlt.current.resource_state()
                state[name] = number
                seen[name].append((dlt.current.pipeline().pipeline_name, dlt.current.load_package_state()["load_id"]))
                turns.wait()
                yield {"number": number, "of": name}

        return dlt.source(lambda: numbers, name=name)()

    destination = dlt.destinations.duckdb(str(tmp_path / "both.duckdb"))
    pipelines = {
        name: dlt.pipeline(name, pipelines_dir=str(tmp_path), destination=destination, dataset_name=name)
        for name in seen
    }
    with SideBySide[str](2) as side:
        for name in seen:
            side.start(name, lambda name: pipelines[name].extract(source(name)) and None, name=name)
        for _ in seen:
            done = side.next(60)
            assert done is not None and done[1] is None
            pipelines[done[0]].normalize()
            pipelines[done[0]].load(raise_on_failed_jobs=True)
    for name, pipeline in pipelines.items():
        assert [told for told, _ in seen[name]] == [name] * 3
        assert len({load_id for _, load_id in seen[name]}) == 1
        assert pipeline.state["sources"][name]["resources"]["numbers"] == {name: 2}
        with duckdb.connect(str(tmp_path / "both.duckdb"), read_only=True) as connection:
            rows = connection.execute(f'SELECT number, "of" FROM {name}.numbers ORDER BY 1').fetchall()
        assert rows == [(0, name), (1, name), (2, name)]


# -- each fails alone ----------------------------------------------------------------------------------


def failing_once(monkeypatch: pytest.MonkeyPatch, dataset: str, error: Callable[[], BaseException]) -> None:
    """A vendor whose rows are in the build already fails before it is counted."""
    load, failed = passes._load, []

    def fails(night: Any, pipeline: Any, *others: Any) -> bool:
        done = load(night, pipeline, *others)
        if pipeline.dataset_name == dataset and not failed:
            failed.append(1)
            raise error()
        return done

    monkeypatch.setattr(passes, "_load", fails)


@pytest.mark.parametrize("publish", ["vendor", "night"])
def test_a_vendor_that_fails_in_mid_load_takes_no_row_of_another_along(
    publish: str, small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_once(monkeypatch, "tune", lambda: ZeroDivisionError("in mid-load"))
    ran = pace(small, side_by_side=1, publish=publish).run()
    assert (ran.code, [vendor["status"] for vendor in ran.json["vendors"]]) == (1, ["ok", "failed"])
    assert has(small) == {**true(sandbox), "tune": None}
    assert small.files() == set()


def test_readers_see_all_of_a_night_at_once_where_that_is_wanted(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.warehouse.postgres.warehouse import Postgres

    seen = []
    owner: Any = DuckDbFile if small.database.url is None else Postgres
    publishes = owner.publish

    def noted(self: Any, book: Any) -> None:
        publishes(self, book)
        seen.append(has(small))

    monkeypatch.setattr(owner, "publish", noted)
    assert pace(small, publish="night").run().code == 0
    assert seen == [true(sandbox)]
    assert small.rows("SELECT status FROM nightload.runs") == [("ok",)]


def test_a_file_is_built_in_steps_of_which_the_last_may_fail(tmp_path: Path) -> None:
    place = places.at(places.DEFAULT, tmp_path)
    place.warehouse.parent.mkdir()
    with duckdb.connect(str(place.warehouse)) as connection:
        connection.execute("CREATE SCHEMA before")
    place.warehouse.chmod(0o640)
    warehouse, book = DuckDbFile(place, datasets=[]), Ledger(place.ledger)

    def make(schema: str) -> None:
        warehouse.begin()
        with warehouse.write() as session:
            session.change(f"CREATE SCHEMA {schema}")

    for schema in ("one", "two"):
        make(schema)
        warehouse.keep()
    make("three")
    warehouse.discard()
    assert warehouse.kept
    warehouse.begin()
    publish(warehouse, book)
    assert not warehouse.kept
    book.close()
    with duckdb.connect(str(place.warehouse), read_only=True) as connection:
        ours = connection.execute("SELECT schema_name FROM duckdb_schemas() WHERE NOT internal ORDER BY 1").fetchall()
    assert [name for (name,) in ours] == ["before", "nightload", "one", "two"]
    assert stat.S_IMODE(place.warehouse.stat().st_mode) == 0o640
    make("four")
    warehouse.keep()
    warehouse.discard(kept=True)
    assert not place.build.parent.exists()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_connection_lost_when_all_are_extracted_is_made_anew_for_each(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pipelines were made on the old one."""
    ended, cut = threading.Semaphore(0), []
    extract, load = runner._extract_first, runner._load_vendor

    def extracting(*told: Any) -> None:
        extract(*told)
        ended.release()

    def loading(night: Any, attempt: Any) -> None:
        if not cut:
            cut.append(1)
            assert all(ended.acquire(timeout=60) for _ in range(2))
            night.warehouse._shared.connection.close()
        load(night, attempt)

    monkeypatch.setattr(runner, "_extract_first", extracting)
    monkeypatch.setattr(runner, "_load_vendor", loading)
    assert small.run().code == 0
    assert (cut, has(small)) == ([1], true(sandbox))


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_vendor_kept_for_the_end_that_is_lost_with_the_connection_is_said_and_loaded_again(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.warehouse.postgres.warehouse import Postgres

    count, cut = passes._count, []

    def cutting(night: Any, pipeline: Any, *told: Any) -> None:
        if pipeline.dataset_name == "tune" and not cut:
            cut.append(1)
            assert isinstance(night.warehouse, Postgres) and night.warehouse._shared is not None
            night.warehouse._shared.connection.close()
        count(night, pipeline, *told)

    monkeypatch.setattr(passes, "_count", cutting)
    ran = pace(patiently(small), side_by_side=1, publish="night").run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (0, [2, 2])
    assert has(small) == true(sandbox)
    errors = ledger(small, "SELECT vendor, error FROM run_tries WHERE error IS NOT NULL ORDER BY vendor")
    assert [vendor for vendor, _ in errors] == ["tonalytica", "tune"]
    assert "lost with the connection" in errors[0][1]


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_what_was_kept_for_the_end_is_not_lost_in_silence_with_a_connection_that_is_made_anew(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next vendor loads well over the new one, and would take the others' word with it."""
    load, cut = runner._load_vendor, []

    def cutting(night: Any, attempt: Any) -> None:
        load(night, attempt)
        if not cut:
            cut.append(attempt.vendor)
            night.warehouse._shared.connection.close()

    monkeypatch.setattr(runner, "_load_vendor", cutting)
    ran = pace(patiently(small), side_by_side=1, publish="night").run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (0, [2, 1])
    assert has(small) == true(sandbox)
    cut.clear()
    small.settings.pop("NIGHTLOAD__UNTIL")
    ran = small.run(full=True)
    assert (ran.code, [vendor["status"] for vendor in ran.json["vendors"]]) == (1, ["failed", "ok"])
    assert "lost with the connection" in ran.json["vendors"][0]["error"]


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_table_that_is_tried_again_takes_along_no_cursor_of_what_was_lost_meanwhile(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on from a state that the connection took with it, and its vendor is begun anew when it is over."""
    fault(sandbox, "alerts", TOO_LONG)
    extract, under_way, cut = runner._extract_first, [], []

    def cutting(night: Any, attempt: Any) -> None:
        under_way.append((attempt.vendor, attempt.number))
        assert len({vendor for vendor, _ in under_way}) == len(under_way)
        extract(night, attempt)
        if attempt.tables and not cut:
            cut.append(1)
            night.warehouse._shared.connection.close()
        under_way.remove((attempt.vendor, attempt.number))

    monkeypatch.setattr(runner, "_extract_first", cutting)
    ran = pace(patiently(small), publish="night").run("tonalytica")
    assert (cut, ran.code, ran.json["vendors"][0]["tries"]) == ([1], 0, 3)
    assert has(small)["tonalytica"] == true(sandbox)["tonalytica"]
    tries = ledger(small, "SELECT tables, status FROM run_tries ORDER BY attempt")
    assert tries == [(None, "failed"), ('["tonalytica.alerts"]', "failed"), (None, "ok")]


@pytest.mark.parametrize(
    ("database", "publish"),
    [("duckdb", "vendor"), ("duckdb", "night"), ("postgres", "vendor")],
    indirect=["database"],
)
def test_killed_between_two_vendors_what_was_shown_is_whole_and_the_next_night_completes_it(
    publish: str, small: Night, sandbox: SandboxProcess
) -> None:
    point = {
        "vendor": ("pipelines.ledger.store:Ledger.published", "after", "1", "['20"),
        "night": ("pipelines.warehouse.duckdb.warehouse:DuckDbFile.keep", "after", "1", ""),
    }[publish]
    pace(small, side_by_side=1, publish=publish)
    killed = small.start("run", "--json", command=(*KILLED, *point))
    assert killed.wait(120) == -signal.SIGKILL
    killed.communicate()
    assert has(small) == {"tonalytica": true(sandbox)["tonalytica"] if publish == "vendor" else None, "tune": None}
    assert small.run().code == 0
    assert has(small) == true(sandbox)
    assert small.rows("SELECT status FROM nightload.runs ORDER BY run_id") == [("crashed",), ("ok",)]
    assert (small.files(), [path.name for path in small.state.iterdir() if path.is_dir()]) == (set(), [])


def said(night: Night) -> dict[str, tuple[str, set[str], bool]]:
    """What the ledger says of each vendor's last run, of its tables, and whether it was good since."""
    return {
        vendor["vendor"]: (
            vendor["status"],
            {table["status"] for table in vendor["tables"]},
            vendor["last_good"] is not None,
        )
        for vendor in night.main("status", "--json").json["vendors"]
    }


@pytest.mark.parametrize("publish", ["vendor", "night"])
@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_what_was_loaded_and_not_published_when_a_run_is_cut_short_is_told_of_as_such(
    how: str, publish: str, small: Night, sandbox: SandboxProcess
) -> None:
    """It was well until then, and its rows are nowhere; what was published before stays good."""
    step = {"vendor": "publish", "night": "keep"}[publish]
    point = (f"{WAREHOUSE[small.database.kind]}.{step}", "before" if how == "killed" else "term", "2", "")
    pace(small, side_by_side=1, publish=publish)
    cut = small.start("run", command=(*KILLED, *point))
    assert cut.wait(120) == (-signal.SIGKILL if how == "killed" else 130)
    cut.communicate()
    ended, (there, rows) = datetime.now(UTC), (has(small), true(sandbox))
    assert there == {"tonalytica": rows["tonalytica"] if publish == "vendor" else None, "tune": None}
    fault(sandbox, "", TOO_LONG, times=-1)
    fault(sandbox, "", TOO_LONG, times=-1, vendor="tune")
    assert small.run("tune").code == 1  # which closes the one that crashed
    told = said(small)
    lost = ("failed", {"discarded", "unchanged"}, False)
    assert told["tonalytica"] == (("ok", {"ok", "unchanged"}, True) if publish == "vendor" else lost)
    assert told["tune"][2] is False
    runs = ledger(small, "SELECT status FROM runs ORDER BY run_id LIMIT 1")
    assert runs == [("crashed" if how == "killed" else "failed",)]
    for vendor in small.main("status", "--json").json["vendors"]:  # a crash is no fresher for being noticed later
        assert vendor["last_good"] is None or datetime.fromisoformat(vendor["last_good"]) < ended
    assert ledger(small, "SELECT count(*) FROM schema_changes WHERE vendor = 'tune'") == [(0,)]


def test_what_a_warehouse_that_cannot_be_looked_at_has_of_a_crashed_run_is_decided_when_it_can(
    small: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = (f"{WAREHOUSE[small.database.kind]}.publish", "before", "2", "")
    cut = pace(small, side_by_side=1).start("run", command=(*KILLED, *point))
    assert cut.wait(120) == -signal.SIGKILL
    cut.communicate()
    busy = mock.Mock(side_effect=Unavailable(what="somebody writes to it"))
    with small.here() as place, closing(Ledger(place.ledger)) as book, monkeypatch.context() as patched:
        patched.setattr(recovery, "open_reader", busy)
        before = book.query("SELECT * FROM run_tables ORDER BY 1, 2, 3, 4")
        assert recovery.close_crashed(place, book) == []
        assert book.query("SELECT * FROM run_tables ORDER BY 1, 2, 3, 4") == before
        assert book.query("SELECT status FROM runs") == [{"status": "running"}]
        patched.undo()
        assert len(recovery.close_crashed(place, book)) == 1
        statuses = dict(book._db.execute("SELECT vendor, min(status) FROM run_tables GROUP BY vendor").fetchall())
    assert statuses == {"tonalytica": "ok", "tune": "discarded"}


# -- tried again ---------------------------------------------------------------------------------------


def fault(
    sandbox: SandboxProcess, path: str, do: dict[str, Any], *, times: int = 1, vendor: str = "tonalytica"
) -> None:
    sandbox.control(vendor, "POST", "faults", [{"match": {"path": path}, "times": times, "do": do}])


def test_a_table_that_was_not_to_be_had_is_tried_again_alone(small: Night, sandbox: SandboxProcess) -> None:
    fault(sandbox, "alerts", TOO_LONG)
    ran = patiently(small).run()
    assert (ran.code, ran.json["status"]) == (0, "ok")
    assert [vendor["tries"] for vendor in ran.json["vendors"]] == [2, 1]
    assert ran.tables["tonalytica.alerts"]["live"] == len(truth(sandbox, "alerts"))
    counts = [asked(sandbox, "tonalytica", f"GET /api/{path}") for path in ("alerts", "query_snippets")]
    assert counts == [2, 1]
    tries = ledger(small, "SELECT attempt, tables, status, requests FROM run_tries WHERE vendor = 'tonalytica'")
    assert [row[:3] for row in tries] == [(1, None, "failed"), (2, '["tonalytica.alerts"]', "ok")]
    requests = small.rows("SELECT requests FROM nightload.run_vendors WHERE vendor = 'tonalytica'")
    assert requests == [(sum(row[3] for row in tries),)]
    told = small.main("run-info", ran.json["run_id"]).out
    assert "tried 2 times" in told
    assert "try 1" in told and "503" in told
    assert small.rows("SELECT count(*) FROM nightload.run_tries") == [(3,)]


def test_a_vendor_that_could_not_be_loaded_is_tried_again_whole(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_once(monkeypatch, "tonalytica", lambda: WarehouseBusy(what="somebody has the table"))
    ran = patiently(small).run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (0, [2, 1])
    assert has(small) == true(sandbox)
    assert ledger(small, "SELECT attempt, tables, error FROM run_tries WHERE vendor = 'tonalytica'") == [
        (1, None, "somebody has the table"),
        (2, None, None),
    ]


@one_database
def test_a_pause_that_is_over_while_the_warehouse_is_let_go_ends_no_night(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lasts until the copy is given up, and by then it is over."""
    fault(sandbox, "alerts", TOO_LONG)
    discard, passed = DuckDbFile.discard, [0.0]

    def slow(self: DuckDbFile, **told: bool) -> None:
        discard(self, **told)
        passed[0] = 7200.0

    monkeypatch.setattr(DuckDbFile, "discard", slow)
    monkeypatch.setattr(Try, "wait", property(lambda self: self.not_before - time.monotonic() - passed[0]))
    ran = patiently(small, "1h", until="3h").run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (0, [2, 1])


@pytest.mark.parametrize(("publish", "tries"), [("vendor", [1, 2]), ("night", [2, 2])])
def test_what_could_not_be_shown_at_the_end_is_tried_again(
    publish: str, tries: list[int], small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.warehouse.postgres.warehouse import Postgres

    owner: Any = DuckDbFile if small.database.url is None else Postgres
    publishes, times, last = owner.publish, [], {"vendor": 2, "night": 1}[publish]

    def failing(self: Any, book: Any) -> None:
        times.append(1)
        if len(times) == last:
            raise Unavailable(what="the connection to the database was lost")
        publishes(self, book)

    monkeypatch.setattr(owner, "publish", failing)
    ran = pace(patiently(small), side_by_side=1, publish=publish).run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (0, tries)
    assert has(small) == true(sandbox)
    assert small.rows("SELECT status, error, finished_at IS NOT NULL FROM nightload.runs") == [("ok", None, True)]
    told = ledger(small, "SELECT status, error FROM run_tries WHERE vendor = 'tune' ORDER BY attempt")
    assert [status for status, _ in told] == ["failed", "ok"] and "could not be published" in told[0][1]


@one_database
def test_a_file_that_cannot_be_written_to_its_end_fails_the_vendor_that_it_was_of_and_is_tried_again(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, times = system_tables.write_ledger, []

    def full(*told: Any) -> None:
        times.append(1)
        if len(times) == 1:
            raise duckdb.IOException("Could not write all bytes to file: No space left on device")
        write(*told)

    monkeypatch.setattr(system_tables, "write_ledger", full)
    ran = pace(patiently(small), side_by_side=1).run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (0, [2, 1])
    assert has(small) == true(sandbox)
    ((error,),) = ledger(small, "SELECT error FROM run_tries WHERE error IS NOT NULL")
    assert "No space left" in error and "room" in error


@one_database
def test_at_the_deadline_it_is_given_up_and_what_came_is_kept(
    small: Night, sandbox: SandboxProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """The third pause would end after it."""
    caplog.set_level(logging.WARNING)
    fault(sandbox, "alerts", TOO_LONG, times=-1)
    ran = patiently(small, "0s", "0s", "1h").run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (1, [3, 1])
    assert has(small) == true(sandbox)
    told = [record.message for record in caplog.records if "tried again" in record.message]
    assert ["not tried again" in each for each in told] == [False, False, True]
    assert told[-1].startswith("tonalytica (tonalytica.alerts): not tried again")
    table = ran.tables["tonalytica.alerts"]
    assert (table["status"], "503" in table["error"]) == ("failed", True)
    assert ran.tables["tonalytica.query_snippets"]["status"] == "ok"


@one_database
@pytest.mark.parametrize("why", ["no time is given", "nobody but a person can help"])
def test_what_waiting_does_not_help_is_not_tried_again(why: str, small: Night, sandbox: SandboxProcess) -> None:
    if why == "no time is given":
        fault(sandbox, "alerts", TOO_LONG)
        pace(small, pauses=["0s"])
    else:
        patiently(small).set(api_key="CANARYwrong")
    ran = small.run()
    assert (ran.code, [vendor["tries"] for vendor in ran.json["vendors"]]) == (1, [1, 1])


@one_database
def test_a_table_that_is_refused_again_leaves_what_the_first_try_published(
    small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try fails as a whole, which is no word on the tables that the first one brought."""
    fault(sandbox, "alerts", TOO_LONG)
    load, loads = passes._load, []

    def second_fails(night: Any, pipeline: Any, *others: Any) -> bool:
        loads.append(pipeline.dataset_name)
        if loads.count("tonalytica") == 2:
            raise ZeroDivisionError("in mid-load")
        return load(night, pipeline, *others)

    monkeypatch.setattr(passes, "_load", second_fails)
    ran = patiently(small).run()
    assert (ran.code, [vendor["status"] for vendor in ran.json["vendors"]]) == (1, ["failed", "ok"])
    assert (ran.json["vendors"][0]["error"], has(small)) == (None, true(sandbox))
    statuses = {name.split(".")[1]: table["status"] for name, table in ran.tables.items()}
    assert (statuses["query_snippets"], statuses["alerts"]) == ("ok", "failed")
    assert "in mid-load" in ran.tables["tonalytica.alerts"]["error"]


@one_database
def test_a_run_that_cannot_begin_is_begun_again_until_it_can(small: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room or no database, at first: without an end of the night somebody looks on, and is told at once."""
    opening, asked = runner.open_warehouse, []

    def open_later(*told: Any, **named: Any) -> Any:
        asked.append(told)
        if len(asked) < 3:
            raise Unavailable(what="the database cannot be reached") if len(asked) == 1 else NoRoom(what="no room")
        return opening(*told, **named)

    monkeypatch.setattr(runner, "open_warehouse", open_later)
    ran = small.main("run")
    assert (ran.code, len(asked), ran.err.count("\n")) == (1, 1, 1), ran.err
    asked.clear()
    ran = patiently(small).main("run")
    assert (ran.code, len(asked), ran.err.count("the run cannot begin")) == (0, 3, 2), ran.err
    assert ledger(small, "SELECT status FROM runs ORDER BY run_id") == [("failed",)] * 3 + [("ok",)]
    assert small.main("status").code == 0


@one_database
def test_a_run_that_waits_to_begin_ends_when_it_is_told_to(small: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*told: Any, **named: Any) -> Any:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        raise NoRoom(what="no room")

    monkeypatch.setattr(runner, "open_warehouse", none)
    ran = small.main("run", "--until", "1h")
    assert (ran.code, "tried again at" in ran.err) == (130, True), ran.err
    assert ledger(small, "SELECT status FROM runs") == [("failed",)]


# -- told to end ---------------------------------------------------------------------------------------


def ended(process: subprocess.Popen[str], night: Night) -> None:
    """SIGTERM ends it at once, cleanly."""
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 10
    assert (process.returncode, err.strip().splitlines()[-1]) == (130, "interrupted; nothing half done was published")
    assert "Traceback" not in err
    assert (night.files(), [path.name for path in night.state.iterdir() if path.is_dir()]) == (set(), [])
    assert ledger(night, "SELECT status, error FROM runs") == [("failed", "interrupted")]


@one_database
def test_a_signal_in_the_midst_of_a_query_of_the_warehouse_ends_the_run_and_no_vendor(
    small: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB makes an error of its own of it, which is no failure of a vendor."""
    count = passes._count

    def long(night: Any, *told: Any) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with night.warehouse.write() as session:
            session.query("SELECT count(*) FROM range(1000000000000) WHERE range = -1")
        count(night, *told)

    monkeypatch.setattr(passes, "_count", long)
    ran = small.main("run")
    assert (ran.code, ran.err.strip().splitlines()[-1]) == (130, "interrupted; nothing half done was published")
    assert ledger(small, "SELECT status, error FROM runs") == [("failed", "interrupted")]
    assert not small.is_loaded()


def until(process: subprocess.Popen[str], met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not met():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@one_database
def test_sigterm_ends_all_vendors_that_are_waited_for(small: Night, sandbox: SandboxProcess) -> None:
    for vendor in sandbox.ready:
        fault(sandbox, "", {"delay": 25}, times=-1, vendor=vendor)
    process = small.start("run", "--json")
    until(process, lambda: all(sandbox.control(vendor, "GET", "stats")["requests"] for vendor in sandbox.ready))
    ended(process, small)
    assert has(small) == {"tonalytica": None, "tune": None}


def test_sigterm_ends_the_wait_for_another_try_in_which_nothing_is_held(small: Night, sandbox: SandboxProcess) -> None:
    fault(sandbox, "", TOO_LONG, times=-1)
    process = patiently(small, "1h", until="2h").start("run", "--json")
    until(process, lambda: has(small)["tune"] is not None)
    of_warehouse = 0 if small.database.url is None else 2
    until(process, lambda: len(sockets(process.pid)) == of_warehouse)
    assert ledger(small, "SELECT vendor, status FROM run_vendors ORDER BY 1") == [
        ("tonalytica", "failed"),
        ("tune", "ok"),
    ]
    ended(process, small)
    assert has(small) == {**true(sandbox), "tonalytica": None}


def sockets(pid: int) -> list[str]:
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed while we look
            found.append(os.readlink(path))
    return [each for each in found if each.startswith("socket:")]
