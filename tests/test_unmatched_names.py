"""Names in the settings that match nothing at the vendor: a run says so and loses nothing else, `check` finds all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Database, Ran, one_database
from people import VENDORS, Home, home_of
from sandbox_process import SandboxProcess, start_sandbox


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", VENDORS, "--scale", "0.01") as process:
        yield process


@pytest.fixture
def home(process: SandboxProcess, tmp_path: Path, database: Database) -> Home:
    for vendor in process.ready:
        process.control(vendor, "POST", "reset")
    return home_of(process, tmp_path, database.url)


def id_of(process: SandboxProcess, name: str) -> int:
    rows = process.control("tonalytica", "GET", "truth/queries")["rows"]
    return next(int(row["id"]) for row in rows if row["name"] == name)


def bad(ran: Ran) -> set[str]:
    return {name for name, table in ran.tables.items() if table["status"] in ("failed", "mismatch", "discarded")}


def test_a_query_that_no_list_shows_is_read_by_its_id_and_an_unknown_one_fails_alone(
    home: Home, process: SandboxProcess
) -> None:
    listed, hidden = id_of(process, "Every type"), id_of(process, "Partners query 0")
    home.set(
        "tonalytica",
        results={"include": {"ids": [listed, hidden, 9999], "tags": ["nosuch"]}, "exclude": {"ids": [8888]}},
        executions=[{"query": 7777}],
        exclude=["dashboards", "widgets", "users"],
    )
    ran = home.run("tonalytica")
    results = {f"tonalytica_results.query_{each}" for each in (listed, hidden, 9999, 7777)}
    assert {name for name in ran.tables if name.startswith("tonalytica_results")} == results
    assert (ran.code, bad(ran)) == (1, {"tonalytica_results.query_9999", "tonalytica_results.query_7777"})
    errors = [str(ran.tables[f"tonalytica_results.query_{each}"]["error"]) for each in (9999, 7777)]
    assert "results.include.ids names 9999, which is no query that the key sees" in errors[0]
    assert "executions names 7777, which is no query that the key sees" in errors[1]
    notes = "\n".join(ran.tables["tonalytica.query_results"]["notes"])
    assert "results.include.tags names nosuch, which is no tag of a query" in notes
    assert "results.exclude.ids names 8888, which is no query" in notes
    assert len(home.all_rows()[f"tonalytica_results.query_{hidden}"][1]) > 0


def test_names_of_charts_boards_and_columns_that_match_nothing_are_noted_and_the_rest_is_loaded(home: Home) -> None:
    home.set(
        "growingio",
        dashboards=["BoardA01", "noBoard1"],
        exclude_charts=["noChart1"],
        types={"noChart2": "funnel"},
        chart_intervals={"noChart3": ["hour"]},
        hourly_zero_metrics=["noMetric"],
        user_columns={"no such column": "drop"},
    )
    for _ in range(2):  # the second night loads no segment
        ran = home.run("growingio")
        assert (ran.code, bad(ran)) == (1, {"growingio.dashboards"})
        assert "dashboards names noBoard1, which is no board" in ran.tables["growingio.dashboards"]["error"]
        notes = "\n".join(ran.tables["growingio.charts"]["notes"])
        for told in ("exclude_charts names noChart1", "types names noChart2", "chart_intervals names noChart3"):
            assert told in notes
        notes = "\n".join(ran.tables["growingio.chart_points"]["notes"])
        assert "hourly_zero_metrics names noMetric, which is no part of a metric" in notes
        notes = "\n".join(ran.tables["growingio.segmentation_users"]["notes"])
        assert "user_columns names no such column, which is no column of a segment" in notes
    assert len(home.all_rows()["growingio.dashboards"][1]) == 1


def test_an_event_name_that_the_project_does_not_have_is_noted(home: Home) -> None:
    home.set("thinkingengine", events=["login", "lgoin"], virtual_events=["ta@nosuch"])
    ran = home.run("thinkingengine")
    assert (ran.code, bad(ran)) == (1, {"thinkingengine.virtual_events"})
    assert "virtual event ta@nosuch" in ran.tables["thinkingengine.virtual_events"]["error"]
    (note,) = ran.tables["thinkingengine.events"]["notes"]
    assert "events names lgoin, which is no event that the key sees" in note
    assert "Did you mean login?" in note


def test_fields_of_tune_that_match_nothing_are_noted(home: Home) -> None:
    report = {
        "name": "a",
        "report": "actuals",
        "fields": ["installs"],
        "types": {"installs": "string", "instals": "string"},
    }
    home.set("tune", keep_personal=["account/users.phone", "countries.phone"], reports=[report])
    ran = home.run("tune", tables=["tune.account_users", "tune.countries", "tune.actuals_a"])
    assert (ran.code, bad(ran)) == (0, set()), ran.out
    notes = {name: "\n".join(table["notes"]) for name, table in ran.tables.items()}
    assert "keep_personal" not in notes["tune.account_users"]
    assert "keep_personal names countries.phone, which is no field that is loaded" in notes["tune.countries"]
    assert "types of report a names instals, which is no column of its rows" in notes["tune.actuals_a"]
    assert "Did you mean installs?" in notes["tune.actuals_a"]


@one_database
@pytest.mark.parametrize(
    ("vendor", "settings", "told"),
    [
        (
            "tonalytica",
            {
                "results": {
                    "include": {"ids": [9991], "tags": ["t1"], "data_sources": [9992]},
                    "exclude": {"ids": [9993], "tags": ["t2"], "data_sources": [9994]},
                    "keep_history": [9995],
                },
                "executions": [{"query": 9996}],
            },
            ["9991", "t1", "9992", "9993", "t2", "9994", "9995", "9996"],
        ),
        (
            "growingio",
            {
                "dashboards": ["BoardA01", "noBoard1"], "charts": ["noChart0"], "exclude_charts": ["noChart1"],
                "types": {"noChart2": "funnel"}, "chart_intervals": {"noChart3": ["hour"]},
                "segmentation_users": ["noSeg001"], "hourly_zero_metrics": ["noMetric"],
            },
            ["noBoard1", "noChart0", "noChart1", "noChart2", "noChart3", "noSeg001", "noMetric"],
        ),
        (
            "thinkingengine",
            {
                "events": ["lgoin"], "virtual_events": ["ta@nosuch"], "login_names": ["nobody"],
                "events_from": "2026-11-01", "event_columns": ["no_such_column"],
                "dimensions": {"groups": "dim_1_0_99999"},
            },
            ["lgoin", "ta@nosuch", "nobody", "thinkingengine.events", "thinkingengine.dimension_groups"],
        ),
        ("dataworks", {"workspaces": [99_999]}, ["99999"]),
        ("tune", {"keep_personal": ["countries.phone"]}, ["countries.phone"]),
    ],
)  # fmt: skip
def test_check_finds_every_name_that_matches_nothing_and_fails(
    home: Home, process: SandboxProcess, vendor: str, settings: dict[str, Any], told: list[str]
) -> None:
    root = {"root_token": process.ready[vendor]["root_token"]} if vendor == "thinkingengine" else {}
    home.set(vendor, **settings, **root)
    ran = home.main("check", vendor)
    assert ran.code != 0
    lines = [line for line in ran.out.splitlines() if line.startswith("✗")]
    assert [name for name in told if not any(name in line for line in lines)] == [], ran.out
    assert len(lines) == len(told), ran.out


@one_database
def test_names_of_charts_that_match_nothing_are_noted_in_a_run_of_one_table(home: Home) -> None:
    home.set("growingio", exclude_charts=["noChart1"], hourly_zero_metrics=["noMetric"])
    ran = home.run("growingio", tables=["growingio.chart_points"])
    notes = "\n".join(ran.tables["growingio.chart_points"]["notes"])
    assert "exclude_charts names noChart1" in notes
    assert "hourly_zero_metrics names noMetric" in notes


@one_database
def test_an_hourly_zero_metric_that_a_chart_has_is_not_noted(home: Home) -> None:
    home.set("growingio", chart_intervals={"boUn1001": ["hour"]}, hourly_zero_metrics=["访问量"], window_days=4)
    ran = home.run("growingio", tables=["growingio.chart_points"])
    assert not any("hourly_zero_metrics" in note for note in ran.tables["growingio.chart_points"]["notes"])
    assert "hourly_zero_metrics" not in home.main("check", "growingio").out


@one_database
def test_an_event_name_that_the_project_does_not_have_is_noted_in_a_run_of_one_table(home: Home) -> None:
    home.set("thinkingengine", events=["login", "lgoin"])
    ran = home.run("thinkingengine", tables=["thinkingengine.events"])
    assert "events names lgoin" in "\n".join(ran.tables["thinkingengine.events"]["notes"])
