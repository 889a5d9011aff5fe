"""Killed in its first night or in one of edits, each vendor's next night gives what an unbroken one gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

import dataworks_truth
import killed
import tune_facts
from conftest import DATABASES, Database, Night, Ran, settle
from forked import Forks
from sandbox_process import SandboxProcess, start_sandbox
from test_crash import modes_loaded

Point = killed.Step | dict[str, killed.Step]
"""Where it is killed; by database, if they differ."""
PUBLISHED: dict[str, killed.Step] = {kind: killed.STEPS[kind]["before it is published"] for kind in DATABASES}
"""What makes a night's work the warehouse."""
POINTS: dict[str, Point] = {
    "a job is committed and not marked": (killed.COMPLETE_JOB, "before", 2, ""),
    "before it is published": PUBLISHED,
}
SECOND_NIGHT: dict[str, Point] = {
    "between two tables": (killed.TO_PARQUET, "before", 2, ""),
    "at the start of a merge": (killed.MERGE, "before", 1, ""),
    "published, before the ledger knows": (killed.LEDGER_KNOWS, "before", 1, ""),
    **POINTS,
}


@pytest.fixture(scope="module")
def five() -> Iterator[SandboxProcess]:
    with start_sandbox("--scale", "0.02") as sandbox:
        yield sandbox


def contents(night: Night) -> dict[str, list[Any]]:
    """What the vendors said, without what differs from one load to the next."""
    own = ("_dlt_load_id", "_dlt_id", "valid_from")
    found = {}
    with duckdb.connect(str(night.warehouse), read_only=True) as connection:
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() "
            "WHERE schema_name <> 'nightload' AND table_name NOT LIKE '\\_dlt%' ESCAPE '\\'"
        ).fetchall()
        for schema, table in tables:
            columns = [row[0] for row in connection.execute(f'DESCRIBE "{schema}"."{table}"').fetchall()]
            kept = ", ".join(
                f'"{column}" IS NULL' if column in ("_deleted_at", "valid_to") else f'"{column}"::VARCHAR'
                for column in columns
                if column not in own
            )
            rows = connection.execute(f'SELECT {kept} FROM "{schema}"."{table}"').fetchall()
            found[f"{schema}.{table}"] = sorted(rows, key=repr)
    return found


def kill(forking: Forks, night: Night, vendor: str, point: Point, *, tables: Sequence[str] = ()) -> Ran:
    if isinstance(point, dict):
        point = point[night.database.kind]
    chosen = [argument for table in tables for argument in ("--table", table)]
    process = forking.night(night, "run", vendor, "--json", *chosen, arm=point)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -9, f"the run was not killed: {point}"
    return Ran(-9, out, err)


@pytest.mark.parametrize("vendor", ["thinkingengine", "tune", "dataworks", "growingio"])
def test_a_vendor_killed_in_its_first_night_is_whole_after_the_next(
    vendor: str, five: SandboxProcess, tmp_path: Path, database: Database, forking: Forks
) -> None:
    (tmp_path / "nothing yet").mkdir()
    nothing_yet = settle(Night(home=tmp_path / "nothing yet", database=database), five)
    unbroken = nothing_yet.twin(tmp_path / "unbroken")
    assert unbroken.run(vendor).code == 0
    expected = contents(unbroken)
    assert sum(map(len, expected.values())) > 50
    for name, point in POINTS.items():
        night = nothing_yet.twin(tmp_path / name.replace(" ", "-"))
        kill(forking, night, vendor, point)
        assert not night.is_loaded(), name
        assert night.run(vendor).code == 0
        assert contents(night) == expected, name
        assert night.rows("SELECT status FROM nightload.runs ORDER BY started_at") == [("crashed",), ("ok",)]


Settle = Callable[[Night, SandboxProcess], None]


def dataworks_day(five: SandboxProcess) -> None:
    """One API changes and one goes, one comes; a grant ends, a group is renamed, a test run comes late."""
    truth = dataworks_truth.Truth(five)
    apis, main = truth.rows("published_apis"), 10002
    details = apis[0]["WizardDetails"] | {"WizardErrorCodes": [], "WizardRequestParameters": []}
    truth.edit(
        {
            "table": "published_apis",
            "op": "update",
            "key": f"{main}/{apis[0]['ApiId']}",
            "row": {"ApiName": "改名", "WizardDetails": details},
        },
        {"table": "published_apis", "op": "delete", "key": f"{main}/{apis[1]['ApiId']}"},
        {"table": "published_apis", "op": "insert", "row": {"ApiId": 7, "CreatedTime": None}, "first": True},
        {"table": "groups", "op": "update", "key": f"{main}/ab1203", "row": {"GroupName": "other"}, "silent": True},
        {
            "table": "api_authorities",
            "op": "update",
            "key": f"{main}/{apis[3]['ApiId']}",
            "row": {"AuthorizationRecords": []},
        },
        {"table": "applications", "op": "delete", "key": f"{main}/20001"},
        {"table": "api_tests", "op": "insert", "row": {"TestId": 99, "CreateTime": 1700000000001}},
    )


def dataworks_is_true(night: Night, five: SandboxProcess) -> None:
    dataworks_truth.same(night, dataworks_truth.Truth(five))


def tune_settled(night: Night, five: SandboxProcess) -> None:
    vendor = tune_facts.Vendor(five)
    ltv = {"name": "x", "report": "ltv", "start": tune_facts.FIRST.isoformat()}
    reports = [tune_facts.DAILY, tune_facts.RETENTION, ltv, tune_facts.clicks(vendor, via="export")]
    night.set("tune", reports=reports, poll_seconds="0.001", polls_per_hour=10**8)


def tune_day(five: SandboxProcess) -> None:
    """Figures are corrected, come late and vanish, a whole day of them too; so do cohorts, clicks and a campaign."""
    vendor, facts, cohorts, log = tune_facts.Vendor(five), tune_facts.FACTS, tune_facts.COHORTS, "logs/clicks"
    counted = [each for each in vendor.facts(facts) if not each["debug_mode"] and not each["test_profile_id"]]

    def on(days: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        day = (tune_facts.TODAY - timedelta(days=days)).isoformat()
        return [row for row in rows if str(row.get("date_hour", row.get("created"))).startswith(day)]

    told, campaign = vendor.facts(cohorts), vendor.facts("advertiser/campaigns")[0]["id"]
    clicks = on(1, vendor.facts(log))
    vendor.edit(
        {"table": facts, "op": "update", "key": on(1, counted)[0]["id"], "row": {"installs": 9999}},
        {"table": facts, "op": "insert", "key": on(2, counted)[1]["id"], "row": {"publisher_sub_ad_id": "late"}},
        {"table": facts, "op": "delete", "key": on(2, counted)[0]["id"]},
        *({"table": facts, "op": "delete", "key": fact["id"]} for fact in on(3, vendor.facts(facts))),
        {"table": cohorts, "op": "update", "key": told[4]["id"], "row": {"opens": [*told[4]["opens"], 77]}},
        {"table": cohorts, "op": "delete", "key": told[12]["id"]},
        {"table": log, "op": "insert", "key": clicks[0]["id"]},
        {"table": log, "op": "delete", "key": clicks[1]["id"]},
        {"table": "advertiser/campaigns", "op": "delete", "key": campaign},
    )


def tune_is_true(night: Night, five: SandboxProcess) -> None:
    vendor = tune_facts.Vendor(five)
    assert tune_facts.found_actuals(night) == tune_facts.expected_actuals(vendor)
    tune_facts.same_retention(night, vendor)
    tune_facts.same_log(night, vendor, export=True)


TUNE = ("actuals_daily", "retention_daily", "ltv_x", "logs_clicks", "advertiser_campaigns")


@pytest.mark.parametrize(
    ("vendor", "tables", "settled", "day", "is_true"),
    [
        ("dataworks", dataworks_truth.TABLES, lambda night, five: None, dataworks_day, dataworks_is_true),
        ("tune", TUNE, tune_settled, tune_day, tune_is_true),
    ],
    ids=["dataworks", "tune"],
)
def test_a_vendor_killed_in_a_night_of_edits_is_whole_after_the_next(
    vendor: str,
    tables: Sequence[str],
    settled: Settle,
    day: Callable[[SandboxProcess], None],
    is_true: Settle,
    five: SandboxProcess,
    tmp_path: Path,
    database: Database,
    forking: Forks,
) -> None:
    five.control(vendor, "POST", "reset")
    (home := tmp_path / "yesterday").mkdir()
    base, chosen = settle(Night(home=home, database=database), five), [f"{vendor}.{table}" for table in tables]
    settled(base, five)
    assert base.run(vendor, tables=chosen).code == 0
    is_true(base, five)
    before = contents(base)
    day(five)
    unbroken = base.twin(tmp_path / "unbroken")
    assert unbroken.run(vendor, tables=chosen).code == 0
    is_true(unbroken, five)
    expected = contents(unbroken)
    assert expected != before
    assert vendor != "tune" or "incremental" in modes_loaded(unbroken), "else the matrix has a hole"
    for name, point in SECOND_NIGHT.items():
        night = base.twin(tmp_path / name.replace(" ", "-").replace(",", ""))
        kill(forking, night, vendor, point, tables=chosen)
        published = name in killed.PUBLISHED
        assert contents(night) == (expected if published else before), name
        assert night.run(vendor, tables=chosen).code == 0, name
        assert contents(night) == expected, name
        statuses = night.rows("SELECT status FROM nightload.runs ORDER BY started_at")
        assert statuses == [("ok",), ("crashed",), ("ok",)], name
