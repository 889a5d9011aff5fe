"""What is remembered: shown, forgotten, and gone with its table; on both databases, at once or not at all."""

from __future__ import annotations

import resource
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import Database, Night, one_database
from pipelines.warehouse.lock import lock
from sandbox_process import SandboxProcess
from tune_facts import DAILY, TODAY, Vendor

CAMPAIGNS, REPORT = "tune.advertiser_campaigns", "tune.actuals_daily"
BOTH = [CAMPAIGNS, REPORT]


@pytest.fixture
def loaded(night: Night, sandbox: SandboxProcess) -> Night:
    """One night of a table with a cursor, and of a report whose state tells of its rows."""
    night.set("tune", reports=[DAILY])
    assert night.run("tune", tables=BOTH).code == 0
    return night


def remembered(night: Night, name: str = "tune") -> dict[str, dict[str, Any]]:
    return {each["table"]: each["state"] for each in night.main("state", "show", name, "--json").json["tables"]}


def rows(night: Night, table: str) -> list[tuple[Any, ...]]:
    kept = [
        f'"{column}"'
        for (column,) in night.rows(
            "SELECT column_name FROM duckdb_columns() WHERE schema_name || '.' || table_name = ? ORDER BY 1", table
        )
        if not column.startswith("_dlt")
    ]
    return sorted(night.rows(f"SELECT {', '.join(kept)} FROM {table}"), key=repr)


def test_what_was_reset_is_loaded_anew_by_the_next_night_and_its_rows_stay_till_then(
    loaded: Night, sandbox: SandboxProcess
) -> None:
    night, vendor = loaded, Vendor(sandbox)
    before, there = remembered(night), {table: rows(night, table) for table in BOTH}
    assert before[CAMPAIGNS]["cursor"] and "whole_at" in before[CAMPAIGNS]
    shown = night.main("state", "show", CAMPAIGNS)
    assert shown.code == 0 and f"cursor: {before[CAMPAIGNS]['cursor']}" in shown.out and str(TODAY) in shown.out
    told = night.main("state", "reset", "tune", "--dry-run", "--json").json["would_forget"]
    assert "cursor" in told[CAMPAIGNS] and "through" in told[REPORT] and not {"windows", "grid"} & set(told[REPORT])
    unasked = night.main("state", "reset", CAMPAIGNS)
    assert unasked.code == 2 and "Give --yes" in unasked.err
    assert remembered(night) == before

    done = night.main("state", "reset", "tune", "--yes", "--json")
    assert done.code == 0 and set(done.json["forgot"]) == set(BOTH)
    assert {table: rows(night, table) for table in BOTH} == there
    assert night.rows("SELECT action, dataset || '.' || table_name, rows FROM nightload.interventions ORDER BY 2") == [
        ("reset", table, len(there[table])) for table in sorted(BOTH, reverse=False)
    ]
    after = remembered(night)
    assert after[CAMPAIGNS] == {"rows": len(there[CAMPAIGNS]), "reset": True}
    assert after[REPORT]["windows"] == before[REPORT]["windows"] and "through" not in after[REPORT]
    assert night.main("state", "reset", "tune", "--yes").code == 2, "there is nothing left to forget"

    asked = vendor.asked("stats/find")
    night.set("tune", reports=[{**DAILY, "start": str(TODAY - timedelta(days=2))}])
    ran = night.run("tune", tables=BOTH)
    assert ran.code == 0, ran.out
    assert ran.tables[CAMPAIGNS]["extracted"] == len(there[CAMPAIGNS]), "walked whole"
    assert vendor.asked("stats/find") - asked == 3, "all windows from the start on, and not those that it looks back"
    assert ran.tables[REPORT]["live"] == len(there[REPORT]), "older rows stay and are still accounted for"
    assert {table: rows(night, table) for table in BOTH} == there
    assert all("reset" not in state for state in remembered(night).values())
    assert remembered(night)[CAMPAIGNS]["cursor"] == before[CAMPAIGNS]["cursor"]


def test_a_dropped_table_is_gone_with_all_that_is_its_own_and_comes_again(
    loaded: Night,
) -> None:
    night = loaded
    there = {table: rows(night, table) for table in BOTH}
    night.write(
        "CREATE TABLE tune.advertiser_campaigns_before_20260101_000000 AS SELECT 1::BIGINT AS id",
        "CREATE TABLE tune.mine AS SELECT 2::BIGINT AS id",
    )
    before = night.contents()
    looked = night.main("drop", CAMPAIGNS, "--dry-run", "--json")
    assert looked.code == 0, looked.err
    told = looked.json["would_drop"]
    assert [each["rows"] for each in told] == [len(there[CAMPAIGNS])]
    assert told[0]["asides"] == {"tune.advertiser_campaigns_before_20260101_000000": 1}
    assert night.main("drop", CAMPAIGNS).code == 2 and night.contents() == before

    assert night.main("drop", CAMPAIGNS, "--yes").code == 0
    left = night.contents()
    assert {name for name in before if name not in left} == {
        CAMPAIGNS,
        "tune.advertiser_campaigns_before_20260101_000000",
    }
    assert left[REPORT] == before[REPORT] and set(remembered(night)) == {REPORT}
    assert night.rows("SELECT DISTINCT table_name FROM nightload.columns") == [("actuals_daily",)]
    assert night.rows("SELECT action, table_name, rows FROM nightload.interventions") == [
        ("drop", "advertiser_campaigns", len(there[CAMPAIGNS]))
    ]
    assert night.main("drop", CAMPAIGNS, "--yes").code == 2
    ran = night.run("tune", tables=BOTH)
    assert ran.code == 0 and ran.tables[CAMPAIGNS]["landed"] == len(there[CAMPAIGNS]), ran.out
    assert ran.tables[REPORT]["status"] == "unchanged"
    assert {table: rows(night, table) for table in BOTH} == there
    night.main("alert")
    assert night.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 'incidents'") == [], "it is no news"

    assert night.main("drop", "tune", "--yes").code == 0
    assert {name for name in night.contents() if "_dlt" not in name} == {"tune.mine"}, "it was not nightload's"
    ran = night.run("tune", tables=BOTH)
    assert ran.code == 0 and {table: rows(night, table) for table in BOTH} == there, ran.out


def test_a_table_that_a_view_stands_on_is_not_dropped_where_the_view_would_go_along(loaded: Night) -> None:
    night = loaded
    night.write("CREATE SCHEMA mart", f"CREATE VIEW mart.campaigns AS SELECT id FROM {CAMPAIGNS}")
    ran = night.main("drop", CAMPAIGNS, "--yes")
    if night.database.url is not None:
        assert ran.code == 2 and "views stand on it: mart.campaigns" in ran.err and "Nothing was changed" in ran.err
        assert rows(night, CAMPAIGNS)
        return
    assert ran.code == 0 and "mart.campaigns" in ran.out
    assert night.run("tune", tables=[CAMPAIGNS]).code == 0
    assert night.rows("SELECT count(*) FROM mart.campaigns") == [(len(rows(night, CAMPAIGNS)),)]


@pytest.mark.parametrize("command", [("state", "reset"), ("drop",)], ids=["reset", "drop"])
def test_killed_before_it_is_published_it_has_changed_nothing(command: tuple[str, ...], loaded: Night) -> None:
    before = loaded.contents()
    killer = (
        sys.executable,
        str(Path(__file__).with_name("killed.py")),
        "pipelines.ledger.store:Ledger.put",
        "before",
        "1",
        "",
    )
    process = loaded.start(*command, CAMPAIGNS, "--yes", command=killer)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    assert loaded.contents() == before
    assert loaded.main(*command, CAMPAIGNS, "--yes").code == 0
    assert loaded.run("tune", tables=BOTH).code == 0
    assert rows(loaded, CAMPAIGNS) and loaded.files() == set()


def test_a_run_that_is_under_way_is_told(loaded: Night) -> None:
    with loaded.here() as place, lock(place):
        for command in (("state", "reset"), ("drop",)):
            ran = loaded.main(*command, CAMPAIGNS, "--yes")
            assert ran.code == 3 and "another run has this warehouse" in ran.err
        assert loaded.main("state", "show").code == 0


@one_database
def test_a_full_disk_is_told_as_such_by_whatever_meets_it(loaded: Night, database: Database) -> None:
    """A file may not grow beyond what the ledger has, and not to the size of a second copy of the warehouse."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    before = loaded.contents()
    for command in (("state", "reset"), ("drop",)):
        ran = loaded(*command, CAMPAIGNS, "--yes", preexec_fn=limit)
        told = "nightload: there is no room on the disk"
        assert (ran.code, ran.err.count("\n"), ran.err.startswith(told)) == (1, 1, True), ran.err
    assert loaded.contents() == before and loaded.files() == set()


@one_database
def test_every_command_refuses_a_table_that_nobody_has(loaded: Night, database: Database) -> None:
    """A mistake of the user, however far it is from any table. One that is there and not loaded is another matter."""
    for command in (("state", "reset"), ("drop",), ("state", "show"), ("preview",), ("run", "--full", "--table")):
        for name, todo in (("tune.nope", "nightload tables lists"), ("tune.contries", "Did you mean tune.countries?")):
            ran = loaded.main(*command, name)
            assert ran.code == 2 and ran.err.startswith(f"nightload: there is no table {name}. {todo}"), ran.err
            assert len(ran.err.splitlines()) == 1
    assert "nothing is remembered of tune.countries" in loaded.main("state", "show", "tune.countries").err
    assert "there is nothing of tune.countries" in loaded.main("drop", "tune.countries").err
    assert "there is no table tune.*" in loaded.main("run", "--table", "tune.*").err


@one_database
def test_names_that_are_none_and_warehouses_that_are_not_there(night: Night, database: Database) -> None:
    for command in (("state", "reset"), ("drop",), ("state", "show")):
        assert "there is no warehouse yet" in night.main(*command, "tune").err
        for name, said in (
            ("tune.advertiser_campains", "Did you mean tune.advertiser_campaigns?"),
            ("toon", "there is no vendor or table toon"),
        ):
            ran = night.main(*command, name)
            assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1, ran.err


@one_database
def test_results_that_are_kept_are_not_given_up_by_a_reset(night: Night, sandbox: SandboxProcess) -> None:
    night.set(results={"include": {"ids": [1]}, "keep_history": [1]})
    table = "tonalytica_results.query_1"
    if night.run("tonalytica", tables=[table]).code:
        pytest.fail("query 1 has no result")
    assert night.main("state", "reset", table, "--yes").code == 0
    night.set(results={"include": {"ids": [1]}})
    ran = night.run("tonalytica", tables=[table])
    assert ran.code == 1 and "keeps results that the vendor has no more" in ran.out
