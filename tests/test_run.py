"""A night as its operator sees it: counts that are proven, vendors that fail alone, exit codes, readers undisturbed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from conftest import Night
from redash import LABELS
from reference import truth
from sandbox_process import SandboxProcess

METADATA = [name for name in LABELS if name != "query_results"]
TABLE_KEYS = {"table", "vendor_count", "extracted", "landed", "live", "status", "deleted", "error", "notes"}


def edit(sandbox: SandboxProcess, table: str, key: int, vendor: str = "tonalytica", **row: Any) -> None:
    sandbox.control(vendor, "POST", "edit", {"table": table, "op": "update", "key": key, "row": row})


@pytest.fixture
def small(night: Night) -> Night:
    """Two vendors, a few tables of each."""
    return few_tables(night)


@pytest.fixture
def file(file_night: Night) -> Night:
    """The same, loading to a DuckDB file: for what is promised of the file."""
    return few_tables(file_night)


def few_tables(night: Night) -> Night:
    night.set(exclude=[*(name for name in METADATA if name not in ("alerts", "query_snippets")), "results"])
    kept = {"advertiser", "advertiser/campaigns", "countries"}
    from sources.tune.settings import ENDPOINTS

    night.set("tune", exclude=[endpoint.path for endpoint in ENDPOINTS if endpoint.path not in kept])
    return night


def test_both_vendors_by_the_command_line_and_the_document_it_prints(small: Night, sandbox: SandboxProcess) -> None:
    ran = small("run", "--json")
    assert (ran.code, ran.err) == (0, "")
    document = ran.json
    assert set(document) >= {"run_id", "status", "vendors"}
    assert document["status"] == "ok"
    assert not {"tonalytica", "tune"} & set(document["skipped"])
    assert [vendor["vendor"] for vendor in document["vendors"]] == ["tonalytica", "tune"]
    for vendor in document["vendors"]:
        assert set(vendor) == {"vendor", "status", "error", "requests", "tries", "tables"}
        assert (vendor["status"], vendor["error"]) == ("ok", None)
        assert vendor["requests"] == sandbox.control(vendor["vendor"], "GET", "stats")["requests"]
        assert sandbox.control(vendor["vendor"], "GET", "stats")["unexpected"] == []
        for table in vendor["tables"]:
            assert set(table) == TABLE_KEYS
            assert table["vendor_count"] == table["extracted"] == table["landed"] == table["live"] or (
                table["table"] == "tonalytica.query_results"
            )
    assert ran.tables["tonalytica.alerts"]["live"] == len(truth(sandbox, "alerts"))
    assert ran.tables["tune.advertiser"]["live"] == len(truth(sandbox, "advertiser", "tune"))
    assert small.rows("SELECT count(*) FROM tune.advertiser") == [(len(truth(sandbox, "advertiser", "tune")),)]
    assert small.files() == set()


def test_people_see_the_counts_and_what_to_do(small: Night, sandbox: SandboxProcess) -> None:
    sandbox.control("tonalytica", "POST", "faults", [{"match": {"path": "alerts"}, "times": -1, "do": {"status": 403}}])
    ran = small.main("run")
    assert ran.code == 1
    assert "tonalytica.query_snippets" in ran.out
    assert "tonalytica.alerts" in ran.out
    assert "403" in ran.out


def test_one_broken_vendor_leaves_the_other_landed_and_the_run_red(small: Night, sandbox: SandboxProcess) -> None:
    small.set(api_key="CANARYwrong")
    ran = small.main("run", "--json")
    assert (ran.code, ran.json["status"]) == (1, "failed")
    first, second = ran.json["vendors"]
    assert first["status"] == "failed"
    assert all("the key is not accepted" in table["error"] for table in first["tables"] if table["status"] == "failed")
    assert (second["status"], second["error"]) == ("ok", None)
    assert small.rows("SELECT count(*) FROM tune.advertiser") == [(len(truth(sandbox, "advertiser", "tune")),)]
    small.set(api_key=sandbox.tonalytica["api_key"])
    small.set("tune", api_key="CANARYwrong")
    edit(sandbox, "query_snippets", 1, snippet="landed")
    ran = small.main("run", "--json")
    assert [vendor["status"] for vendor in ran.json["vendors"]] == ["ok", "failed"]
    assert small.rows("SELECT snippet FROM tonalytica.query_snippets WHERE id = 1") == [("landed",)]


def test_a_vendor_without_a_key_is_skipped_and_said(small: Night) -> None:
    small.set("tune", api_key=None)
    ran = small.main("run", "--json")
    assert ran.code == 0
    assert "tune" in ran.json["skipped"]
    assert "tonalytica" not in ran.json["skipped"]
    assert "tune: skipped" in small.main("run").out


def test_exit_2_if_only_the_configuration_is_wrong(small: Night) -> None:
    small.set(base_url="no-scheme")
    small.set("tune", base_url="no-scheme")
    assert small.main("run").code == 2


def test_a_count_that_lies_is_a_mismatch_and_exit_4(small: Night, sandbox: SandboxProcess) -> None:
    small.set(exclude=[*(name for name in METADATA if name != "queries"), "results"])
    faults = [{"match": {"path": "/api/queries[?]"}, "times": -1, "do": {"count": 3}}]
    sandbox.control("tonalytica", "POST", "faults", faults)
    ran = small.main("run", "tonalytica", "--json")
    assert (ran.code, ran.json["status"]) == (4, "mismatch")
    table = ran.tables["tonalytica.queries"]
    assert (table["status"], table["vendor_count"] - table["extracted"]) == ("mismatch", 3)
    for part in ("tonalytica.queries", f"vendor {table['vendor_count']}", f"extracted {table['extracted']}"):
        assert part in table["error"]
    sandbox.control("tonalytica", "DELETE", "faults")
    assert small.main("run", "tonalytica", "--json").code == 0


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM tonalytica.query_snippets WHERE id = 1",
        "INSERT INTO tonalytica.query_snippets SELECT * FROM tonalytica.query_snippets WHERE id = 1",
        "UPDATE tonalytica.query_snippets SET _dlt_load_id = 'x' WHERE id = 1",
    ],
    ids=["a row is lost", "a row is doubled", "a row is of another load"],
)
def test_what_landed_is_counted_in_the_warehouse_and_a_difference_publishes_nothing(
    damage: str, small: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.run import load as passes

    assert small.run().code == 0
    before = small.contents()
    edit(sandbox, "query_snippets", 1, snippet="changed")
    edit(sandbox, "alerts", 1, name="changed")
    load = passes._load

    def damaged(night: Any, pipeline: Any, *others: Any) -> bool:
        done = load(night, pipeline, *others)
        if pipeline.dataset_name == "tonalytica":
            with night.warehouse.write() as session:
                session.change(damage)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(passes, "_load", damaged)
        ran = small.run()
    assert (ran.code, ran.json["status"]) == (4, "mismatch")
    table = ran.tables["tonalytica.query_snippets"]
    assert (table["status"], table["landed"] != table["extracted"]) == ("mismatch", True)
    assert "nothing of this vendor was published" in ran.json["vendors"][0]["error"]
    after = small.contents()
    assert {name: rows for name, rows in after.items() if name.startswith("tonalytica.")} == {
        name: rows for name, rows in before.items() if name.startswith("tonalytica.")
    }
    assert small.run().code == 0
    assert small.rows("SELECT snippet FROM tonalytica.query_snippets WHERE id = 1") == [("changed",)]
    assert small.rows("SELECT count(*) FROM tonalytica.query_snippets") == [(6,)]


def test_rows_that_vanished_from_the_warehouse_are_noticed_and_fetched_again(small: Night) -> None:
    """The vendor's answer did not change, so nothing would be loaded: but its rows are not there any more."""
    assert small.run().code == 0
    small.write("DELETE FROM tonalytica.query_snippets WHERE id <= 3")
    ran = small.run()
    assert ran.code == 0
    assert small.rows("SELECT count(*) FROM tonalytica.query_snippets") == [(6,)]


def test_only_the_tables_named_are_touched(small: Night, sandbox: SandboxProcess) -> None:
    assert small.run().code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    edit(sandbox, "alerts", 1, name="changed")
    ran = small.run(tables=["tonalytica.alerts"])
    assert (ran.code, set(ran.tables)) == (0, {"tonalytica.alerts"})
    assert small.rows("SELECT count(*) FROM tonalytica.query_snippets WHERE snippet = 'changed'") == [(0,)]
    assert small.rows("SELECT name FROM tonalytica.alerts WHERE id = 1") == [("changed",)]


def test_full_loads_what_did_not_change(small: Night) -> None:
    assert small.run().code == 0
    first = small.rows("SELECT DISTINCT _dlt_load_id FROM tonalytica.alerts")
    ran = small.run(tables=["tonalytica.alerts"], full=True)
    assert (ran.code, ran.tables["tonalytica.alerts"]["status"]) == (0, "ok")
    assert small.rows("SELECT DISTINCT _dlt_load_id FROM tonalytica.alerts") != first


READER = """
import duckdb, sys
held = duckdb.connect(sys.argv[1], read_only=True)
text = "SELECT count(*), count(_deleted_at), min(snippet) FROM tonalytica.query_snippets"
print(held.execute(text).fetchall(), flush=True)
for _ in sys.stdin:
    # what was opened stays as it was; what is opened now is whole
    with duckdb.connect(sys.argv[1] + "", read_only=True) as again:
        print(held.execute(text).fetchall(), flush=True)
"""


def test_a_reader_keeps_what_it_opened_and_blocks_no_night(file: Night, sandbox: SandboxProcess) -> None:
    assert file.run("tonalytica").code == 0
    whole = file.warehouse.read_bytes()
    with (
        file.warehouse.open("rb") as held,
        subprocess.Popen(
            [sys.executable, "-c", READER, str(file.warehouse)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as reader,
    ):
        assert reader.stdin is not None and reader.stdout is not None
        opened = reader.stdout.readline()
        edit(sandbox, "query_snippets", 1, snippet="! changed")
        assert file.run("tonalytica").code == 0
        reader.stdin.write("again\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == opened
        reader.stdin.close()
        # what the reader has not read yet is still there, too: the file was replaced and not written over
        assert held.read() == whole
    assert (reader.returncode, "! changed" in opened) == (0, False)
    assert file.rows("SELECT min(snippet) FROM tonalytica.query_snippets") == [("! changed",)]


def test_what_a_killed_writer_left_in_its_log_is_kept(file: Night) -> None:
    assert file.run("tonalytica").code == 0
    script = (
        "import duckdb, os, signal, sys; c = duckdb.connect(sys.argv[1]); "
        "c.execute('CREATE TABLE notes AS SELECT 42 AS n'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(file.warehouse)], check=False)
    assert file.warehouse.with_name("warehouse.duckdb.wal").exists()
    assert file.run("tonalytica").code == 0
    assert file.rows("SELECT n FROM notes") == [(42,)]
    assert file.files() == set()


def test_a_table_of_the_analysts_own_survives_the_nights(small: Night, sandbox: SandboxProcess) -> None:
    assert small.run("tonalytica").code == 0
    small.write(
        "CREATE SCHEMA marts",
        "CREATE VIEW marts.live AS SELECT * FROM tonalytica.alerts",
        "CREATE TABLE marts.seen AS SELECT name FROM marts.live WHERE id = 1",
    )
    edit(sandbox, "alerts", 1, name="changed")
    assert small.run("tonalytica").code == 0
    small.write("INSERT INTO marts.seen SELECT name FROM marts.live WHERE id = 1")
    assert [name for (name,) in small.rows("SELECT name FROM marts.seen")][1:] == ["changed"]
