"""dbt downstream: its sources written from the warehouse, its project built on both databases, after a green load."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import pytest
import yaml

from conftest import Night, Ran, one_database, settle
from pipelines.catalog.dbt_sources import State, read, render, wanted, write
from pipelines.config.project import Place, at
from pipelines.operations.copy import copy
from pipelines.run.dbt import postgres as postgres_variables
from postgres_server import execute, fresh_database
from sandbox_process import SandboxProcess, start_sandbox

PROJECT = Path(__file__).resolve().parent.parent / "dbt"
DBT = Path(sys.executable).with_name("dbt")
LABEL = 'a "{{ nobody }}" {% if %} {# 城市 #} \\x7b\t\x85 %'
MARTS = ("metric_catalogue", "ownership", "stale_assets", "chart_series", "run_health", "table_health")
AXES = {"globalSeriesType": "column", "columnMapping": {"day": "x", "tx_count": "y", "no such": "y"}}


def copy_project(target: Path) -> Path:
    shutil.copytree(PROJECT, target, ignore=shutil.ignore_patterns("target", "logs", ".user.yml"))
    return target


@dataclass
class Loaded:
    night: Night
    ran: Ran
    chart: int
    chart_query: int
    deleted_campaign: int

    @property
    def project(self) -> Path:
        return self.night.home / "dbt"


@pytest.fixture(scope="module")
def five() -> Iterator[SandboxProcess]:
    with start_sandbox("--scale", "0.02") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def loaded(five: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Two nights of all five vendors, the second followed by dbt. Between them a chart was given axes that its query
    has, and a campaign was deleted."""
    night = settle(Night(home=tmp_path_factory.mktemp("five")), five)
    copy_project(night.home / "dbt")
    assert night.run().code == 0
    ((chart, query),) = night.rows(
        "SELECT v.id, v.query_id FROM tonalytica.visualizations v JOIN duckdb_columns() d ON d.column_name = 'day' "
        "AND d.schema_name = 'tonalytica_results' AND d.table_name = 'query_' || v.query_id JOIN duckdb_columns() c "
        "ON c.column_name = 'tx_count' AND c.schema_name = d.schema_name AND c.table_name = d.table_name "
        "WHERE v.type = 'CHART' ORDER BY 1 LIMIT 1"
    )
    ((campaign,),) = night.rows("SELECT min(id) FROM tune.advertiser_campaigns")
    edit = {"table": "visualizations", "op": "update", "key": chart, "row": {"options": AXES}}
    five.control("tonalytica", "POST", "edit", [edit])
    five.control("tune", "POST", "edit", [{"table": "advertiser/campaigns", "op": "delete", "key": campaign}])
    # a deletion is seen by a whole walk, which is due only now and then
    assert night.run("tune", full=True).code == 0
    ran = night.run("tonalytica", "tune", then_dbt=True)
    return Loaded(night, ran, chart, query, campaign)


def test_dbt_builds_after_a_green_load(loaded: Loaded) -> None:
    dbt = loaded.ran.json["dbt"]
    assert (loaded.ran.code, dbt["status"], dbt["failures"]) == (0, "ok", []), dbt
    assert dbt["passed"] > 150
    assert loaded.night.rows("SELECT status, passed, failed FROM nightload.dbt_runs") == [("ok", dbt["passed"], 0)]
    assert loaded.night.main("status", "--json").json["dbt"]["status"] == "ok"
    # nothing is left in the project, nothing in the build
    assert not (loaded.project / "target").exists()
    assert not (loaded.night.state / "build").exists()


def test_every_vendor_is_in_the_metric_catalogue(loaded: Loaded) -> None:
    rows = loaded.night.rows
    kinds = Counter(
        dict(rows("SELECT vendor || ' ' || metric_kind, count(*) FROM analytics.metric_catalogue GROUP BY 1"))
    )
    growingio = rows("SELECT meta FROM growingio.charts WHERE valid_to IS NULL")
    expected = {
        "thinkingengine metric": rows("SELECT count(*) FROM thinkingengine.metrics")[0][0],
        "thinkingengine event": rows("SELECT count(*) FROM thinkingengine.event_meta WHERE NOT is_hidden")[0][0],
        "growingio chart metric": sum(
            bool(column.get("metric")) for (meta,) in growingio for column in json.loads(meta)
        ),
        "dataworks api field": rows(
            "SELECT count(*) FROM dataworks.published_api_response_parameters "
            "WHERE parameter_data_type_name IN ('Int', 'Long', 'Float', 'Double')"
        )[0][0],
        "tune app event": rows("SELECT count(*) FROM tune.advertiser_site_events WHERE _deleted_at IS NULL")[0][0],
    }
    charts = rows("SELECT options FROM tonalytica.visualizations WHERE type = 'CHART' AND _deleted_at IS NULL")
    roles = [list(json.loads(options).get("columnMapping", {}).values()) for (options,) in charts]
    expected["tonalytica chart column"] = sum(each.count("y") for each in roles)
    assert all(expected.values())
    assert kinds == expected


def test_a_charts_points_stand_beside_the_query_that_feeds_them(loaded: Loaded) -> None:
    points = loaded.night.rows(
        "SELECT metric_name, x, metric_value, definition FROM analytics.chart_series WHERE chart_key = ?",
        f"tonalytica:chart:{loaded.chart}",
    )
    result = loaded.night.rows(
        "SELECT 'tx_count', day::VARCHAR, tx_count::DOUBLE, q.query "
        f"FROM tonalytica_results.query_{loaded.chart_query}, tonalytica.queries q WHERE q.id = {loaded.chart_query}"
    )
    assert len(points) > 3
    assert Counter(points) == Counter(result)
    ((series, raw),) = loaded.night.rows(
        "SELECT (SELECT count(*) FROM analytics.chart_series WHERE vendor = 'growingio'), "
        "(SELECT count(*) FROM growingio.chart_points)"
    )
    assert series == raw > 1000


def test_what_is_gone_at_the_vendor_is_owned_by_nobody(loaded: Loaded) -> None:
    gone = loaded.night.rows("SELECT id FROM tune.advertiser_campaigns WHERE _deleted_at IS NOT NULL")
    assert gone == [(loaded.deleted_campaign,)]
    owned = {
        key for (key,) in loaded.night.rows("SELECT asset_key FROM analytics.ownership WHERE asset_kind = 'campaign'")
    }
    live = loaded.night.rows("SELECT id FROM tune.advertiser_campaigns WHERE _deleted_at IS NULL")
    assert owned == {f"tune:campaign:{key}" for (key,) in live}


def test_sources_are_the_warehouse(loaded: Loaded) -> None:
    target = loaded.project / "models" / "sources"
    assert loaded.night.main("dbt", "sources", "--check").code == 1
    assert "yml.new" not in str(list(target.iterdir()))
    first = loaded.night.main("dbt", "sources")
    assert first.code == 0, first.err
    there = {
        (source["name"], table["name"]): table
        for path in target.glob("*.yml")
        for source in yaml.safe_load(path.read_text(encoding="utf-8"))["sources"]
        for table in source["tables"]
    }
    labels = loaded.night.rows("SELECT dataset, table_name, column_name, label FROM nightload.columns")
    columns = loaded.night.rows(
        "SELECT schema_name, table_name, column_name FROM duckdb_columns() WHERE NOT starts_with(table_name, '_dlt') "
        "AND NOT starts_with(schema_name, 'analytics') AND NOT internal"
    )
    assert {(d, t, c["name"]) for (d, t), table in there.items() for c in table.get("columns", ())} == set(columns)
    descriptions = {
        (d, t, c["name"]): c.get("description") for (d, t), table in there.items() for c in table.get("columns", ())
    }
    in_warehouse = set(columns)
    for dataset, table, column, label in labels:
        if (dataset, table, column) in in_warehouse:
            assert descriptions[dataset, table, column] == label
    campaigns = {column["name"]: column for column in there["tune", "advertiser_campaigns"]["columns"]}
    assert campaigns["id"]["data_tests"] == ["not_null", "unique"]
    together = there["dataworks", "published_apis"]["data_tests"][0]["unique_together"]
    assert together["arguments"]["columns"] == ["project_id", "api_id"]
    # a history has one present row per key, and former ones
    assert (
        there["tonalytica", "query_versions"]["columns"][0]["data_tests"][1]["unique"]["config"]["where"]
        == "valid_to is null"
    )

    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.iterdir()}
    assert loaded.night.main("dbt", "sources").code == 0
    assert loaded.night.main("dbt", "sources", "--check").code == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.iterdir()} == before


@pytest.fixture(scope="module")
def on_postgres(
    loaded: Loaded, tmp_path_factory: pytest.TempPathFactory, postgres: str
) -> Iterator[tuple[Place, Path]]:
    """The same warehouse in Postgres, a project with its sources, built there; one label is a trap for dbt's Jinja."""
    folder = tmp_path_factory.mktemp("postgres")
    project = copy_project(folder / "dbt")
    shutil.copy(loaded.night.warehouse, folder / "warehouse.duckdb")
    trap = "UPDATE nightload.columns SET label = {} WHERE table_name = 'countries' AND column_name = 'code'"
    with duckdb.connect(str(folder / "warehouse.duckdb")) as connection:
        connection.execute(trap.format("?"), [LABEL])
    with fresh_database(postgres, "nightload_dbt") as url, loaded.night.here():
        source, place = at("duckdb:///warehouse.duckdb", folder), at(url, folder)
        copy(source, place)
        files = render(read(place), wanted(project))
        assert files == render(read(source), wanted(project))
        write(project / "models" / "sources", files)
        yield place, project


def dbt(project: Path, place: Place, *command: str) -> subprocess.CompletedProcess[str]:
    assert place.postgres is not None
    env = {
        **os.environ,
        **postgres_variables(place.postgres),
        "NIGHTLOAD_DBT_TARGET": "postgres",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
    return subprocess.run(
        [DBT, *command, "--no-use-colors"], cwd=project, env=env, capture_output=True, text=True, check=False
    )


def test_the_project_builds_on_postgres_and_gives_the_same(loaded: Loaded, on_postgres: tuple[Place, Path]) -> None:
    place, project = on_postgres
    url = place.postgres or ""
    part = dbt(project, place, "build", "--select", "+metric_catalogue")
    assert part.returncode == 0, part.stdout
    built = dbt(project, place, "build")
    assert built.returncode == 0, built.stdout
    results = json.loads((project / "target" / "run_results.json").read_text())["results"]
    assert {result["status"] for result in results} == {"success", "pass"}
    keys = [result["unique_id"] for result in results if ".source_" in result["unique_id"]]
    assert len(keys) > 50, "the keys of the sources were not tested"
    for mart in MARTS:
        columns = ", ".join(
            name
            for (name,) in loaded.night.rows(
                "SELECT column_name FROM duckdb_columns() WHERE schema_name = 'analytics' AND table_name = ?", mart
            )
        )
        here = loaded.night.rows(f"SELECT {columns} FROM analytics.{mart}")
        there = execute(url, f"SELECT {columns} FROM analytics.{mart}")
        assert here
        assert Counter(map(plain, here)) == Counter(map(plain, there)), mart
    manifest = json.loads((project / "target" / "manifest.json").read_text())
    countries = manifest["sources"]["source.nightload.tune.countries"]
    assert countries["columns"]["code"]["description"] == LABEL
    assert postgres_variables(url)["PGCLIENTENCODING"] == "UTF8"  # whatever the environment or the role says
    secret = postgres_variables(url)["DBT_ENV_SECRET_PGPASSWORD"]
    told = [path for path in project.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert told == []

    fresh = dbt(project, place, "source", "freshness", "--select", "source:tune")
    assert fresh.returncode == 0, fresh.stdout
    told_fresh = json.loads((project / "target" / "sources.json").read_text())["results"]
    loaded_at = {each["unique_id"].split(".")[-1]: datetime.fromisoformat(each["max_loaded_at"]) for each in told_fresh}
    proven = loaded.night.rows(
        "SELECT table_name, max(started_at) FROM nightload.run_tables JOIN nightload.runs USING (run_id) "
        "WHERE dataset = 'tune' GROUP BY 1"
    )
    assert loaded_at == dict(proven)


def plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row as both databases give it: numbers as numbers, JSON as what it says."""
    return tuple(
        json.dumps(json.loads(value), sort_keys=True)
        if isinstance(value, str) and value[:1] in "[{" and value
        else float(value)
        if isinstance(value, int | Decimal) and not isinstance(value, bool)
        else value
        for value in row
    )


def test_a_team_with_two_vendors_has_a_green_project(five: SandboxProcess, tmp_path: Path) -> None:
    """The project as it is shipped, on a first night; what the team has not is empty, with its types."""
    night = settle(Night(home=tmp_path), five)
    copy_project(tmp_path / "dbt")
    for vendor in ("thinkingengine", "dataworks", "growingio"):
        settings = [name for name in night.settings if name.startswith(f"SOURCES__{vendor}__".upper())]
        for name in settings:
            del night.settings[name]
    ran = night.main("run", "--then", "dbt")
    assert ran.code == 0, ran.out + ran.err
    assert "dbt:  ok" in ran.out
    assert set(night.rows("SELECT DISTINCT vendor FROM analytics.ownership")) == {("tonalytica",), ("tune",)}
    assert night.rows("SELECT count(*) FROM analytics_staging.stg_growingio__chart_points") == [(0,)]
    kinds = (
        "SELECT data_type FROM duckdb_columns() WHERE table_name = 'stg_growingio__chart_points' ORDER BY column_index"
    )
    assert [kind for (kind,) in night.rows(kinds)][6:9] == ["TIMESTAMP WITH TIME ZONE", "DATE", "JSON"]


def test_the_shipped_sources_are_those_of_an_empty_warehouse(tmp_path: Path) -> None:
    night = Night(home=tmp_path)
    copy_project(tmp_path / "dbt")
    checked = night.main("dbt", "sources", "--check")
    assert (checked.code, checked.err) == (0, ""), checked.out


def test_an_edited_file_is_kept_and_what_is_new_stands_beside_it(tmp_path: Path) -> None:
    old = {"tune.yml": render({})["tune.yml"], "growingio.yml": render({})["growingio.yml"]}
    new = {"tune.yml": render({}, {("tune", "countries")})["tune.yml"], "growingio.yml": old["growingio.yml"]}
    write(tmp_path, old)
    file, beside = tmp_path / "tune.yml", tmp_path / "tune.yml.new"
    edited = file.read_text() + "# ours\n"
    file.write_text(edited)
    assert write(tmp_path, old)["tune.yml"] == State.KEPT
    assert not beside.exists()
    assert write(tmp_path, new, check=True)["tune.yml"] == State.REFUSED
    assert not beside.exists()
    assert write(tmp_path, new) == {"tune.yml": State.REFUSED, "growingio.yml": State.SAME}
    assert (file.read_text(), beside.read_text()) == (edited, new["tune.yml"])
    # a file that is not ours at all is no less somebody's
    (tmp_path / "growingio.yml").write_text("version: 2\n")
    assert write(tmp_path, new)["growingio.yml"] == State.REFUSED
    # who moves it over is done
    os.replace(beside, file)
    (tmp_path / "growingio.yml").unlink()
    assert write(tmp_path, new) == {"tune.yml": State.SAME, "growingio.yml": State.WRITTEN}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["growingio.yml", "tune.yml"]


def test_an_edited_file_ends_the_command_with_what_to_do(loaded: Loaded, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "dbt")
    file = project / "models" / "sources" / "tune.yml"
    file.write_text(file.read_text() + "# ours\n")
    ran = loaded.night.main("dbt", "sources", "--dir", str(project))
    assert ran.code == 2
    assert "tune.yml would change, but was edited by hand" in ran.err
    assert ".new" in ran.err
    assert file.read_text().endswith("# ours\n")
    assert (project / "models" / "sources" / "tune.yml.new").exists()


@pytest.fixture
def quick(night: Night) -> Night:
    """A home with a warehouse of one table, and a project of one model that builds."""
    project = night.home / "dbt"
    (project / "models").mkdir(parents=True)
    (project / "dbt_project.yml").write_text("name: small\nversion: '1.0'\nprofile: nightload\n")
    shutil.copy(PROJECT / "profiles.yml", project)
    (project / "models" / "countries.sql").write_text(
        "{{ config(materialized='table') }} select count(*) as n from tune.countries"
    )
    return night


def countries(night: Night) -> Ran:
    return night.main("run", "tune", "--table", "tune.countries", "--then", "dbt", "--json")


def test_a_failure_of_dbt_is_told_as_its_own(quick: Night, sandbox: SandboxProcess) -> None:
    assert countries(quick).code == 0
    ((before,),) = quick.rows("SELECT n FROM analytics.countries")
    added = {"table": "countries", "op": "insert", "row": {"id": 990_001, "name": "Ruritania", "code": "RU"}}
    sandbox.control("tune", "POST", "edit", [added])
    (quick.home / "dbt" / "models" / "broken.sql").write_text("select no_such_column from {{ ref('countries') }}")
    ran = countries(quick)
    assert ran.code == 1
    assert ran.json["status"] == "ok", "the load is what it is"
    assert ran.json["dbt"]["status"] == "failed"
    assert [failure["name"] for failure in ran.json["dbt"]["failures"]] == ["broken"]
    assert "no_such_column" in ran.json["dbt"]["failures"][0]["message"]
    # the rows are published; what dbt makes of them is that of the last good build, where dbt has a copy to build in
    swaps = quick.database.url is None
    assert quick.rows("SELECT count(*) FROM tune.countries") == [(before + 1,)]
    assert quick.rows("SELECT n FROM analytics.countries") == [(before if swaps else before + 1,)]
    runs = quick.rows(
        "SELECT r.status, d.status, d.error FROM nightload.runs r JOIN nightload.dbt_runs d USING (run_id) "
        "ORDER BY run_id"
    )
    assert runs == [("ok", "ok", None), ("ok", "failed", "broken")]


@one_database
def test_what_dbt_cannot_parse_is_told_in_its_words(quick: Night) -> None:
    (quick.home / "dbt" / "models" / "broken.sql").write_text("select * from {{ ref('nothing') }}")
    ran = quick("run", "tune", "--table", "tune.countries", "--then", "dbt")
    assert ran.code == 1
    assert "depends on a node named 'nothing' which was not found" in " ".join(ran.out.split())


def test_dbt_ends_with_the_run_that_started_it(quick: Night) -> None:
    """Killed while dbt builds: the load stays, dbt writes no more, and the next run says so."""
    endless = "range(1000000000000) t(n)" if quick.database.url is None else "generate_series(1, 1000000000000) t(n)"
    (quick.home / "dbt" / "models" / "countries.sql").write_text(
        f"{{{{ config(materialized='table') }}}} select sum((n * n + 1) % 7) as n from {endless}"
    )
    running = quick.start("run", "tune", "--table", "tune.countries", "--then", "dbt")
    log = quick.state / "dbt" / "logs" / "dbt.log"
    until = time.monotonic() + 60
    while not (log.exists() and "START sql" in log.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    assert "START sql" in log.read_text()
    assert children(running.pid), "dbt does not run"
    born = children(running.pid)
    running.kill()
    running.communicate()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in born) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in born)
    assert quick.rows("SELECT count(*) > 0 FROM tune.countries") == [(True,)]
    assert quick.run("tune", tables=["tune.countries"]).code == 0
    assert quick.rows("SELECT status FROM nightload.dbt_runs") == [("crashed",)]
    assert quick.rows("SELECT status FROM nightload.runs ORDER BY run_id") == [("ok",), ("ok",)]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def test_after_a_load_that_is_not_green_dbt_does_not_run(quick: Night) -> None:
    quick.set("tune", base_url="http://127.0.0.1:9")
    ran = countries(quick)
    assert ran.json["status"] == "failed"
    assert ran.json["dbt"]["status"] == "skipped"
    assert sqlite3.connect(quick.state / "ledger.sqlite").execute("SELECT count(*) FROM dbt_runs").fetchone() == (0,)


def test_without_dbt_or_a_project_no_load_begins(quick: Night, tmp_path: Path) -> None:
    with mock.patch.object(sys, "executable", str(tmp_path / "bin" / "python")):
        ran = quick.main("run", "tune", "--then", "dbt")
    assert (ran.code, "pip install 'nightload[dbt]'" in ran.err) == (2, True), ran.err
    ran = quick.main("run", "tune", "--then", "dbt", env={"NIGHTLOAD_DBT": "nowhere"})
    assert (ran.code, "there is no dbt project" in ran.err) == (2, True), ran.err
    assert not quick.state.exists()
