"""ThinkingEngine: over real sockets, through real nights, into a real DuckDB file; compared with the vendor's truth."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pendulum
import pytest

import sources.thinkingengine as package
from conftest import Database, Night, one_database
from sandbox.thinkingengine.data import COLUMNS, EVENT_NAMES, has_property
from sandbox_process import SandboxProcess, start_sandbox
from sources.convert.parquet import to_parquet
from sources.convert.spool import Spool, iter_rows, spooled_rows
from sources.convert.types import Column, Kind
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    CountMismatch,
    NightloadError,
    NotReady,
    Recovery,
    Refused,
    TypeFlip,
    Unavailable,
    VendorError,
)
from sources.extract.extractor import Extraction
from sources.thinkingengine import settings as has
from sources.thinkingengine.client import Client, checked
from sources.thinkingengine.lines import elements, read_block
from sources.thinkingengine.models import long_rows, over_limit
from sources.thinkingengine.queries import day_windows, read_queries, ready_made, render
from sources.thinkingengine.reading import check_sql, limited
from sources.thinkingengine.refusals import LostTask, NoPermission, NoSuchPage, StillRunning, refusal

VENDOR = "thinkingengine"
FIRST = (datetime.now(UTC) - timedelta(days=8)).date()
Set = Callable[..., None]


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", VENDOR, "--scale", "0.01") as process:
        yield process


class Vendor:
    """The sandbox's server: what is true there, and how it is changed."""

    def __init__(self, process: SandboxProcess) -> None:
        self.process = process
        self.ready = process.ready[VENDOR]

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.process.control(VENDOR, method, path, body)

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.control("GET", f"truth/{table}")["rows"]
        return rows

    def edit(self, *edits: dict[str, Any]) -> None:
        self.control("POST", "edit", list(edits))

    def behave(self, **options: Any) -> None:
        self.control("POST", "options", options)

    def fault(self, path: str, do: dict[str, Any], *, skip: int = 0, times: int = 1) -> None:
        self.control("POST", "faults", {"match": {"path": path}, "do": do, "skip": skip, "times": times})

    def says(self, path: str, code: Any, message: str = "", *, times: int = -1, **more: Any) -> None:
        body = {"return_code": code, "return_message": message, **more}
        self.fault(path, {"status": 200, "body": body}, times=times)

    def asked(self, path: str) -> int:
        counts = self.control("GET", "stats")["by_path"]
        return sum(count for target, count in counts.items() if path in target)

    @property
    def out_of_place(self) -> list[dict[str, str]]:
        stats: list[dict[str, str]] = self.control("GET", "stats")["unexpected"]
        return stats


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    monkeypatch.setattr("sources.thinkingengine.client.FIRST_PAUSE", 0.005)


@pytest.fixture
def vendor(process: SandboxProcess) -> Vendor:
    vendor = Vendor(process)
    vendor.control("POST", "reset")
    return vendor


def basics(vendor: Vendor) -> dict[str, Any]:
    return {
        "base_url": vendor.ready["base_url"],
        "token": vendor.ready["token"],
        "project_id": 7,
        "requests_per_second": 10000,
        "page_size": 1000,
    }


@pytest.fixture
def home(vendor: Vendor, tmp_path: Path, database: Database) -> Night:
    night = Night(home=tmp_path, database=database)
    night.set(VENDOR, **basics(vendor))
    return night


@pytest.fixture
def configure(vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets `sources.thinkingengine.*` as the environment does, for what is called in this process."""
    told = Night(home=tmp_path)

    def configure(**settings: Any) -> None:
        told.set(VENDOR, **settings)
        for name, value in told.settings.items():
            monkeypatch.setenv(name, value)

    configure(**basics(vendor))
    return configure


@pytest.fixture
def client(configure: Set) -> Client:
    return package.connect().client


DAILY = {
    "name": "daily",
    "sql": 'SELECT "$part_date", "$part_event", count(*) AS n, sum("amount") AS s FROM v_event_{project_id} '
    'WHERE "$part_date" BETWEEN {start} AND {end} GROUP BY 1, 2',
    "cursor": "$part_date",
    "window": {"start": str(FIRST)},
}


def utc(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


def wanted(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """What the warehouse should hold of one row of SQL, told independently of how it is loaded."""
    told: dict[str, Any] = {}
    for label, value in row.items():
        if label in ("#server_time", "#update_time", "#active_time", "tag_value_tm"):
            told[label] = utc(value)
        elif label == "$part_date":
            told[label] = date.fromisoformat(value)
        elif label == "cart":
            told[label] = None if value is None else json.loads(value)
        else:
            told[label] = value
    return told


def columns_of(night: Night, table: str) -> dict[str, str]:
    """Label → column, as the warehouse itself tells."""
    sql = "SELECT label, column_name FROM nightload.columns WHERE dataset = ? AND table_name = ?"
    return dict(night.rows(sql, VENDOR, table))


def there(night: Night, table: str, *, where: str = "true") -> list[dict[str, Any]]:
    columns = columns_of(night, table)
    chosen = ", ".join(f'"{name}"' for name in columns.values())
    found = night.rows(f'SELECT {chosen} FROM {VENDOR}."{table}" WHERE {where}')
    rows = [dict(zip(columns, row, strict=True)) for row in found]
    for row in rows:
        if row.get("cart") is not None:
            row["cart"] = json.loads(row["cart"])
    return rows


def alike(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True, default=str, ensure_ascii=False) for row in rows)


def events_due(vendor: Vendor, *names: str) -> list[dict[str, Any]]:
    today = str(datetime.now(UTC).date())
    rows = [row for row in vendor.rows("v_event") if row["$part_event"] in names and row["$part_date"] < today]
    return [wanted("v_event", row) for row in rows]


# -- whole nights --------------------------------------------------------------------------------


def test_every_table_is_what_the_vendor_has_in_nights_of_the_command_line(home: Night, vendor: Vendor) -> None:
    names = ["login", "it's {odd}", "商品浏览"]
    home.set(
        VENDOR,
        root_token=vendor.ready["root_token"],
        login_name=vendor.ready["login_name"],
        login_names=["root", vendor.ready["login_name"]],
        events=names,
        events_from=str(FIRST),
        users=True,
        user_shards=3,
        cluster_members=True,
        dimensions={"cps": "dim_7_0_12"},
        queries=[DAILY],
        generated_sql=[{"name": "paid", "body": {"filter": {"filterType": "SIMPLE"}, "selectColumns": ["vip"]}}],
    )
    ran = home("run", "--json")
    assert ran.code == 0, ran.out + ran.err
    tables = {name.partition(".")[2]: table for name, table in ran.tables.items()}
    for name, table in tables.items():
        assert table["extracted"] == table["landed"] == table["live"] == table["vendor_count"], name
    assert vendor.out_of_place == []

    assert alike(there(home, "events")) == alike(events_due(vendor, *names))
    assert alike(there(home, "users")) == alike([wanted("v_user", row) for row in vendor.rows("v_user")])
    assert len(vendor.rows("v_user")) > 1000, "several pages"
    members = [wanted("", row) for row in vendor.rows("user_result_cluster")]
    assert alike(there(home, "cluster_members")) == alike(members)
    assert alike(there(home, "dimension_cps")) == alike(vendor.rows("dim"))
    assert any(row["#user_id"] == 2**53 + 1 for row in there(home, "users"))
    assert {row["#account_id"] for row in there(home, "users")} >= {"007", "0042", None}

    keys = home.rows(f"SELECT event_key, _uuid FROM {VENDOR}.events")
    assert len({key for key, _ in keys}) == len(keys)
    assert all(key == uuid or (uuid is None and key.startswith("row:")) for key, uuid in keys)
    assert any(uuid is None for _, uuid in keys)
    for text, offset, moment in home.rows(f"SELECT _event_time, _zone_offset, event_time_utc FROM {VENDOR}.events"):
        plain = offset is not None and -12 <= offset <= 14
        assert moment == (utc(text) - timedelta(hours=offset) if plain else None)  # type: ignore[operator]

    same = {
        "event_meta": "event_meta",
        "virtual_events": "virtual_events",
        "user_clusters": "user_clusters",
        "metrics": "metrics",
    }
    for table, truth in same.items():
        told = [{label: row.get(label) for label in columns_of(home, table)} for row in vendor.rows(truth)]
        got = there(home, table)
        for row in (*told, *got):
            row.pop("project_id", None)
            for label, value in row.items():
                if isinstance(value, datetime):
                    row[label] = f"{value:%Y-%m-%d %H:%M:%S}"
                elif label in ("rule", "qp", "timeParticles") and isinstance(value, str):
                    row[label] = json.loads(value)
        assert alike(got) == alike(told), table
    assert {row["dashboard_id"]: row["dashboard_name"] for row in there(home, "dashboards")} == {
        row["dashbord_id"]: row["dashbord_name"] for row in vendor.rows("dashboards")
    }
    assert {(row["report_id"], row["dashboard_id"]) for row in there(home, "report_dashboards")} == {
        (row["reportId"], dashboard) for row in vendor.rows("reports") for dashboard in row["dashboardIds"]
    }
    assert {(row["reportId"], row["reportName"], row["reportModel"]) for row in there(home, "reports")} == {
        (row["reportId"], row["reportName"], row["reportModel"]) for row in vendor.rows("reports")
    }
    assert {(row["tableType"], row["columnName"]) for row in there(home, "property_meta")} == {
        (row["tableType"], row["columnName"]) for row in vendor.rows("property_meta")
    }
    assert {row["loginName"]: row["userId"] for row in there(home, "users_of_company")} == {
        row["loginName"]: row["userId"] for row in vendor.rows("users_of_company")
    }
    assert [row["projectId"] for row in there(home, "projects")] == [7, 8]
    assert there(home, "generated_sql")[0]["sql"].startswith('SELECT "#user_id", "vip" FROM v_user_7')
    assert "CANARY" not in str(home.contents()) + ran.out + ran.err

    # nothing was edited: the lookback comes again and nothing changes
    first = home.rows("SELECT * EXCLUDE _dlt_load_id FROM thinkingengine.events ORDER BY event_key")
    requests = ran.json["vendors"][0]["requests"]
    ran = home("run", "--json")
    assert ran.code == 0 and ran.json["vendors"][0]["requests"] < requests
    assert home.rows("SELECT * EXCLUDE _dlt_load_id FROM thinkingengine.events ORDER BY event_key") == first
    assert {name: table["deleted"] for name, table in ran.tables.items() if table["deleted"]} == {}

    # late, changed and deleted rows, and a new column
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    event = next(row for row in vendor.rows("v_event") if row["$part_date"] == yesterday and row["#uuid"])
    user = vendor.rows("v_user")[400]
    vendor.edit(
        {"table": "v_event", "op": "column", "row": {"name": "新属性", "type": "VARCHAR"}},
        {"table": "v_event", "op": "insert", "row": {**event, "$part_event": "login", "#uuid": "late", "新属性": "值"}},
        {"table": "v_event", "op": "delete", "key": event["#uuid"]},
        {"table": "v_user", "op": "update", "key": user["#user_id"],
         "row": {"昵称": "新", "#update_time": "2026-11-20 00:00:00.000"}},
        {"table": "event_meta", "op": "delete", "key": "login"},
    )  # fmt: skip
    ran = home("run", "--json")
    assert ran.code == 0, ran.out
    assert "CANARY" not in ran.out + ran.err
    assert [file for file in home.home.rglob("*") if file.is_file() and b"CANARY" in file.read_bytes()] == []
    assert "新属性" in columns_of(home, "events")
    expected = [{"新属性": None, **row} for row in events_due(vendor, *names)]
    assert alike(there(home, "events")) == alike(expected)
    assert alike(there(home, "users")) == alike([wanted("v_user", row) for row in vendor.rows("v_user")])
    assert home.rows(f"SELECT event_name FROM {VENDOR}.event_meta WHERE _deleted_at IS NOT NULL") == [("login",)]
    assert ran.tables["thinkingengine.users"]["extracted"] < 700, "only what changed, and who has no update time"


def test_a_deleted_user_is_marked_by_the_whole_walk(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, users=True)
    assert home.run(tables=["thinkingengine.users"]).code == 0
    gone = vendor.rows("v_user")[7]["#user_id"]
    vendor.edit({"table": "v_user", "op": "delete", "key": gone})
    ran = home.run(tables=["thinkingengine.users"], full=True)
    assert ran.tables["thinkingengine.users"]["deleted"] == 1
    assert home.rows(f"SELECT _user_id FROM {VENDOR}.users WHERE _deleted_at IS NOT NULL") == [(gone,)]


def test_what_is_gone_from_a_day_inside_the_lookback_goes(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, events=["login", "purchase"], events_from=str(FIRST))
    only = {"tables": ["thinkingengine.events"]}
    assert home.run(**only).code == 0
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    gone = next(r for r in vendor.rows("v_event") if r["$part_date"] == yesterday and r["$part_event"] == "login")
    vendor.edit({"table": "v_event", "op": "delete", "key": gone["#uuid"]})
    assert home.run(**only).code == 0
    assert alike(there(home, "events")) == alike(events_due(vendor, "login", "purchase"))
    # a day that loses all its rows
    deleted(vendor, yesterday)
    assert home.run(**only).code == 0
    assert home.rows(f"SELECT count(*) FROM {VENDOR}.events WHERE _part_date = ?", yesterday) == [(0,)]
    assert alike(there(home, "events")) == alike(events_due(vendor, "login", "purchase"))
    # every day of the lookback: that may as well be a fault of the vendor's, until all days are read again
    before = home.rows(f"SELECT * FROM {VENDOR}.events ORDER BY ALL")
    for back in (2, 3, 4):
        deleted(vendor, str(datetime.now(UTC).date() - timedelta(days=back)))
    ran = home.run(**only)
    assert ran.code == 0 and "what was loaded of it stays" in str(ran.tables["thinkingengine.events"]["notes"])
    assert home.rows(f"SELECT * FROM {VENDOR}.events ORDER BY ALL") == before
    assert home.run(**only, full=True).code == 0
    assert alike(there(home, "events")) == alike(events_due(vendor, "login", "purchase"))


def deleted(vendor: Vendor, day: str) -> None:
    """Every event of a day goes; the keyless ones by what they are."""
    vendor.control("POST", "edit", [{"table": "v_event", "op": "clear", "row": {"$part_date": day}}])


def test_a_day_of_which_the_vendor_has_no_data_currently_keeps_its_rows(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, queries=[DAILY], tasks=1)
    only = {"tables": ["thinkingengine.daily"]}
    assert home.run(**only).code == 0
    before = {row["$part_date"] for row in there(home, "daily")}
    vendor.says("submit-sql", -1012, "No data currently", times=1)
    vendor.edit({"table": "v_event", "op": "insert", "row": {**vendor.rows("v_event")[0], "#uuid": "more"}})
    assert home.run(**only).code == 0
    assert {row["$part_date"] for row in there(home, "daily")} == before


OF_OTHER_DAYS = (
    'SELECT CASE WHEN "$part_event" = \'login\' THEN {odd} ELSE "$part_date" END AS day, "#uuid" '
    'FROM v_event_{{project_id}} WHERE "$part_date" BETWEEN {{start}} AND {{end}}'
)


@one_database
@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ("""CAST(CAST(date_add('day', 1, CAST("$part_date" AS date)) AS date) AS varchar)""", "and was asked for"),
        ("NULL", "have no day"),
    ],
    ids=["another", "none"],
)
def test_rows_of_a_day_that_was_not_asked_for_take_no_place(home: Night, vendor: Vendor, odd: str, told: str) -> None:
    """They would take that of the whole day; and rows of no day would come beside themselves, each night anew."""
    query = {**DAILY, "sql": OF_OTHER_DAYS.format(odd='"$part_date"'), "cursor": "day"}
    only = {"tables": ["thinkingengine.daily"]}
    home.set(VENDOR, queries=[query])
    assert home.run(**only).code == 0
    before = home.rows(f"SELECT * FROM {VENDOR}.daily ORDER BY ALL")
    home.set(VENDOR, queries=[{**query, "sql": OF_OTHER_DAYS.format(odd=odd)}])
    ran = home.run(**only)
    assert ran.code == 1 and told in ran.tables["thinkingengine.daily"]["error"], ran.out
    assert home.rows(f"SELECT * FROM {VENDOR}.daily ORDER BY ALL") == before


@one_database
def test_another_cursor_does_not_double_what_is_loaded(home: Night, vendor: Vendor) -> None:
    """The rows that are there have nothing in its column by which they could be replaced."""
    only = {"tables": ["thinkingengine.daily"]}
    home.set(VENDOR, queries=[DAILY])
    assert home.run(**only).code == 0
    before = home.rows(f"SELECT * FROM {VENDOR}.daily ORDER BY ALL")
    sql = DAILY["sql"].replace("count(*) AS n", '"$part_date" AS day, count(*) AS n')
    home.set(VENDOR, queries=[{**DAILY, "sql": sql, "cursor": "day"}])
    ran = home.run(**only)
    assert ran.code == 1 and "nightload run --full" in ran.tables["thinkingengine.daily"]["error"], ran.out
    assert home.rows(f"SELECT * FROM {VENDOR}.daily ORDER BY ALL") == before
    assert home.run(**only, full=True).code == 0
    there = home.rows(f"SELECT _part_date, _part_event, day FROM {VENDOR}.daily")
    assert len(there) == len(before) and all(str(row[0]) == str(row[2]) for row in there)
    assert home.run(**only).code == 0


def test_days_of_one_long_window_are_emptied_one_by_one(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, queries=[{**DAILY, "window": {"start": str(FIRST), "days": 30}, "lookback": 9}])
    only = {"tables": ["thinkingengine.daily"]}
    assert home.run(**only).code == 0
    deleted(vendor, str(datetime.now(UTC).date() - timedelta(days=2)))
    assert home.run(**only).code == 0
    days = {row["$part_date"] for row in vendor.rows("v_event")} - {str(datetime.now(UTC).date())}
    assert {str(row["$part_date"]) for row in there(home, "daily")} == days


def test_a_secret_that_the_vendor_shows_is_dropped(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, root_token=vendor.ready["root_token"], login_names=["root", vendor.ready["login_name"]])
    assert home.run(tables=["thinkingengine.users_of_company"]).code == 0
    assert "apiSecret" in vendor.rows("users_of_company")[0]
    assert "CANARY" in str([row["projectRoles"] for row in vendor.rows("users_of_company")]), "deeper too"
    assert "CANARY" not in str(home.contents()) and "apiSecret" not in columns_of(home, "users_of_company")


@one_database
def test_properties_can_be_asked_for_by_event(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, properties_per_event=True)
    assert home.run(tables=["thinkingengine.property_meta"]).code == 0
    events = [*EVENT_NAMES, "ta@paid"]
    expected = {
        ("event", event, column) for event in events for column in COLUMNS["v_event"] if has_property(event, column)
    }
    expected |= {("user", "", column) for column in COLUMNS["v_user"]}
    rows = there(home, "property_meta")
    assert {(row["tableType"], row["eventName"], row["columnName"]) for row in rows} == expected
    assert len(rows) == len(expected) > len(COLUMNS["v_event"]) + len(COLUMNS["v_user"])


@one_database
def test_reports_can_come_from_the_projects_own_list(home: Night, vendor: Vendor) -> None:
    only = {"tables": ["thinkingengine.reports"]}
    assert home.run(**only).code == 0
    managed = there(home, "reports")
    home.set(VENDOR, reports_from="list-project-reports")
    assert home.run(**only, full=True).code == 0
    assert vendor.asked("list-project-reports") == 1 and alike(there(home, "reports")) == alike(managed)


@one_database
@pytest.mark.parametrize("data", [{"reports": []}, {"dashboards": []}, [{"reportId": 1}], {"list": []}])
def test_a_list_that_is_not_there_is_not_an_empty_one(home: Night, vendor: Vendor, data: Any) -> None:
    vendor.says("manage-reports", 0, data=data)
    ran = home.run(tables=["thinkingengine.reports", "thinkingengine.dashboards"])
    assert ran.code == 1 and "in the answer" in str(ran.tables)


@one_database
def test_a_login_that_nobody_has_is_told(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, root_token=vendor.ready["root_token"], login_names=["root", "nobody@te.invalid"])
    table = home.run(tables=["thinkingengine.users_of_company"]).tables["thinkingengine.users_of_company"]
    assert table["landed"] == 1 and "nobody@te.invalid" in str(table["notes"])


@one_database
def test_a_body_for_user_clusters_reaches_the_request(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, user_cluster_body={"projectId": 8})
    ran = home.run(tables=["thinkingengine.user_clusters"])
    assert "-3004" in ran.tables["thinkingengine.user_clusters"]["error"], "the sandbox knows no project 8"


def test_a_key_that_ends_in_mid_run_stops_the_vendor_and_moves_nothing(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, queries=[DAILY], tasks=1)
    assert home.run().code == 0
    before = home.contents()
    vendor.edit({"table": "v_event", "op": "insert", "row": {**vendor.rows("v_event")[1], "#uuid": "meanwhile"}})
    vendor.fault("submit-sql", {"expire_token": True}, skip=1)
    ran = home.run()
    assert ran.code == 1 and home.contents() == before
    assert {"does not accept the key" in table["error"] for table in ran.tables.values()} == {True}
    requests = ran.json["vendors"][0]["requests"]
    assert requests <= 10, "nobody knocks for every table"
    vendor.control("POST", "reset")
    vendor.edit({"table": "v_event", "op": "insert", "row": {**vendor.rows("v_event")[1], "#uuid": "meanwhile"}})
    assert home.run().code == 0
    assert sum(row["n"] for row in there(home, "daily")) == len(events_due(vendor, *EVENT_NAMES))


def test_a_query_that_fails_at_the_vendor_fails_alone(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, queries=[DAILY], dimensions={"cps": "dim_7_0_12"})
    vendor.behave(fail="v_event")
    ran = home.run(tables=["thinkingengine.daily", "thinkingengine.dimension_cps"])
    assert ran.code == 1 and "'nope' cannot be resolved" in ran.tables["thinkingengine.daily"]["error"]
    assert ran.tables["thinkingengine.dimension_cps"]["landed"] == 40
    vendor.behave(fail="")
    assert home.run(tables=["thinkingengine.daily"]).code == 0


def test_data_that_is_not_ready_leaves_the_cursor(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, queries=[DAILY])
    only = {"tables": ["thinkingengine.daily"]}
    assert home.run(**only).code == 0
    before = home.rows(f"SELECT * FROM {VENDOR}.daily ORDER BY ALL")
    vendor.says("submit-sql", -1013, "Data being prepared", times=1)
    ran = home.run(**only)
    table = ran.tables["thinkingengine.daily"]
    assert ran.code == 1 and "not ready" in table["error"] and "-1013" in table["error"]
    assert home.rows(f"SELECT * FROM {VENDOR}.daily ORDER BY ALL") == before
    submitted = vendor.asked("submit-sql")
    assert home.run(**only).code == 0
    assert vendor.asked("submit-sql") - submitted == 3, "the same days as it would have been: the lookback's"


@pytest.mark.parametrize("form", ["arrays", "objects"])
def test_headers_that_change_between_two_days_are_told_and_no_value_is_lost(
    home: Night, vendor: Vendor, form: str
) -> None:
    vendor.behave(page_form=form)
    sql = 'SELECT * FROM v_event_{project_id} WHERE "$part_date" BETWEEN {start} AND {end}'
    home.set(VENDOR, tasks=1, queries=[{**DAILY, "name": "all_days", "sql": sql}])
    # not as the last column: the places of the others move
    new = {"table": "v_event", "op": "column", "row": {"name": "late@col", "type": "BIGINT", "first": True}}
    row = {**next(r for r in vendor.rows("v_event") if r["$part_date"] == str(FIRST + timedelta(days=6)))}
    put = {"table": "v_event", "op": "insert", "row": {**row, "#uuid": "x", "late@col": 2**53 + 1}}
    vendor.fault("submit-sql", {"edit": [new, put]}, skip=3)
    ran = home.run(tables=["thinkingengine.all_days"])
    table = ran.tables["thinkingengine.all_days"]
    assert ran.code == 0 and table["status"] == "warning" and "late@col" in str(table["notes"])
    today = str(datetime.now(UTC).date())
    told = [{"late@col": None, **wanted("", r)} for r in vendor.rows("v_event") if r["$part_date"] < today]
    assert alike(there(home, "all_days")) == alike(told)


@one_database
def test_a_wrong_key_stops_the_vendor_and_is_never_seen(
    home: Night, vendor: Vendor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "CANARYnotthekeyofthisproject0000"
    home.set(VENDOR, token=wrong)
    ran = home.run()
    assert ran.code == 1
    assert all("does not accept the key" in table["error"] for table in ran.tables.values())
    assert vendor.asked("/open/") == 1
    assert "CANARY" not in ran.out + caplog.text, "the vendor's own message repeats the key"


@one_database
def test_a_project_key_skips_what_only_root_may_read(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, login_name=vendor.ready["login_name"])
    ran = home.run(tables=["thinkingengine.projects"])
    assert ran.code == 0 and "root_token" in str(ran.tables["thinkingengine.projects"]["notes"])
    home.set(VENDOR, root_token=vendor.ready["root_token"])
    assert home.run(tables=["thinkingengine.projects"]).tables["thinkingengine.projects"]["landed"] == 2
    home.set(VENDOR, root_token=None)
    assert "root_token" in home.run(tables=["thinkingengine.projects"]).tables["thinkingengine.projects"]["error"]


def test_a_latest_table_is_not_emptied_by_an_empty_answer(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, dimensions={"cps": "dim_7_0_12"})
    only = {"tables": ["thinkingengine.dimension_cps"]}
    assert home.run(**only).code == 0
    for row in vendor.rows("dim"):
        vendor.edit({"table": "dim", "op": "delete", "key": row["#account_id@cps_group"]})
    ran = home.run(**only)
    assert ran.code == 1 and "which had 40" in ran.tables["thinkingengine.dimension_cps"]["error"]
    assert len(there(home, "dimension_cps")) == 40


@one_database
def test_check_and_preview(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, users=True, queries=[DAILY], root_token=vendor.ready["root_token"])
    home.set(VENDOR, login_name=vendor.ready["login_name"])
    with home.here() as place:
        connected = package.connect()
        told = "; ".join(connected.check())
        assert "6 events in project 7" in told and "SQL works" in told and "clocks" in told and "projects: 2" in told
        extraction = Extraction(vendor=VENDOR, spool_dir=place.home, until=pendulum.now("UTC"))
        connected.resources(extraction)
        assert extraction.preview("thinkingengine.users", limit=3).rows == 3
        assert extraction.preview("thinkingengine.daily", limit=3).rows == 3
        assert extraction.preview("thinkingengine.reports", limit=3).rows == 3


def test_no_data_at_all_is_told_and_empties_nothing(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, dimensions={"cps": "dim_7_0_12"})
    only = {"tables": ["thinkingengine.dimension_cps"]}
    vendor.says("submit-sql", -1012, "No data currently", times=1)
    ran = home.run(**only)
    assert ran.code == 0 and "no row came" in str(ran.tables["thinkingengine.dimension_cps"]["notes"])
    assert home.run(**only).tables["thinkingengine.dimension_cps"]["landed"] == 40
    vendor.says("submit-sql", -1012, "No data currently", times=2)
    ran = home.run(**only)
    assert ran.code == 1 and "which had 40" in ran.tables["thinkingengine.dimension_cps"]["error"]
    assert home.run(**only, allow_empty=["thinkingengine.dimension_cps"]).code == 0
    assert there(home, "dimension_cps") == []


def test_a_latest_table_that_did_not_change_is_not_written_again(home: Night, vendor: Vendor) -> None:
    week = {"eventView": {"recentDay": "1-7"}, "events": [{"eventName": "purchase", "analysis": "TOTAL_TIMES"}]}
    home.set(
        VENDOR,
        dimensions={"cps": "dim_7_0_12"},
        queries=[{"name": "no_key", "sql": 'SELECT country, count(*) AS n FROM v_event_{project_id} GROUP BY 1',
                  "allow_full_scan": True}],
        models=[{"name": "spread", "model": "distribution", "body": week}],
        metric_values=[{"name": "dau", "body": week}],
    )  # fmt: skip
    only = {"tables": [f"thinkingengine.{name}" for name in ("dimension_cps", "no_key", "spread", "metric_values")]}
    assert home.run(**only).code == 0
    before = home.contents()
    ran = home.run(**only)
    assert ran.code == 0 and {table["status"] for table in ran.tables.values()} == {"unchanged"}
    for name, table in ran.tables.items():
        assert table["vendor_count"] == table["extracted"] == table["landed"] == table["live"] > 0, name
    assert home.contents() == before, "not even the load ids"
    # rows that somebody took out of the warehouse are noticed, and come again
    home.write("DELETE FROM thinkingengine.dimension_cps WHERE _account_id_cps_group < '010'")
    assert home.run(**only).tables["thinkingengine.dimension_cps"]["landed"] == 40
    vendor.edit({"table": "dim", "op": "update", "key": "007", "row": {"cps@name": "anders"}})
    ran = home.run(**only)
    assert ran.tables["thinkingengine.dimension_cps"]["status"] == "ok"
    assert ran.tables["thinkingengine.no_key"]["status"] == "unchanged"
    assert alike(there(home, "dimension_cps")) == alike(vendor.rows("dim"))


def test_what_changed_since_is_asked_for_by_configured_sql(home: Night, vendor: Vendor) -> None:
    sql = 'SELECT "#user_id", "#update_time", "昵称" FROM v_user_{project_id} WHERE "#update_time" >= {since}'
    query = {"name": "nicks", "sql": sql, "key": "#user_id", "cursor": "#update_time", "lookback": 0}
    home.set(VENDOR, queries=[query])
    only = {"tables": ["thinkingengine.nicks"]}
    assert home.run(**only).code == 0
    far, near = vendor.rows("v_user")[10], vendor.rows("v_user")[11]

    def change(user: dict[str, Any], **row: Any) -> dict[str, Any]:
        return {"table": "v_user", "op": "update", "key": user["#user_id"], "row": row}

    vendor.edit(
        change(far, **{"#update_time": "2999-01-01 00:00:00.000"}),
        change(near, **{"#update_time": "2026-11-01 00:00:00.000"}),
    )
    assert 2 <= (home.run(**only).tables["thinkingengine.nicks"]["extracted"] or 0) < 10
    vendor.edit(change(near, **{"昵称": "再", "#update_time": "2026-11-02 00:00:00.000"}))
    assert (home.run(**only).tables["thinkingengine.nicks"]["extracted"] or 0) <= 3, "a row of 2999 froze nothing"
    told = [wanted("", row) for row in vendor.rows("v_user") if row["#update_time"]]
    shown = ("#user_id", "#update_time", "昵称")
    assert alike(there(home, "nicks")) == alike([{label: row[label] for label in shown} for row in told])


def test_events_with_an_empty_uuid_are_told_apart_like_those_without(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, events=["login"], events_from=str(FIRST))
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    rows = [r for r in vendor.rows("v_event") if r["$part_event"] == "login" and r["$part_date"] == yesterday][:2]
    for number, row in enumerate(rows):
        vendor.edit({"table": "v_event", "op": "insert", "row": {**row, "#uuid": "", "note": f"{number}"}})
    assert home.run(tables=["thinkingengine.events"]).code == 0
    assert alike(there(home, "events")) == alike(events_due(vendor, "login"))


def test_rows_that_repeat_a_key_are_loaded_once_and_told(home: Night, vendor: Vendor) -> None:
    home.set(VENDOR, events=["login"], events_from=str(FIRST))
    row = next(r for r in events_due(vendor, "login") if r["#uuid"])
    twin = next(r for r in vendor.rows("v_event") if r["#uuid"] == row["#uuid"])
    vendor.edit({"table": "v_event", "op": "insert", "row": twin})
    table = home.run(tables=["thinkingengine.events"]).tables["thinkingengine.events"]
    assert table["status"] == "warning" and "1 rows repeat a key" in str(table["notes"])
    assert table["vendor_count"] == table["landed"] == len(events_due(vendor, "login")) - 1


# -- return codes --------------------------------------------------------------------------------

CLASSES: dict[int, tuple[type[NightloadError], Recovery]] = {
    **dict.fromkeys((-1004, -1005), (Unavailable, Recovery.RETRY)),
    **dict.fromkeys((-1011, -1013), (NotReady, Recovery.WAIT)),
    **dict.fromkeys(
        (-1001, -1002, -1003, -1007, -1014, -3000, -3001, -3005, -3006, -3007, -3008, -10012, -10013),
        (AccessDenied, Recovery.STOP),
    ),
    **dict.fromkeys((-1006, -2005), (NoPermission, Recovery.STOP)),
    **dict.fromkeys(
        (-1008, -1009, -1023, -1099, -1999, -2000, -2001, -2004, -3004, -3009), (ConfigurationError, Recovery.CONFIGURE)
    ),
    **dict.fromkeys(
        (-1, -1010, -1015, -1020, -1021, -1022, -1100, -2002, -2003, -2006), (Refused, Recovery.STOP)
    ),
}  # fmt: skip


def test_every_return_code_of_the_vendor_has_a_class() -> None:
    assert set(has.RETURN_CODES) == {0, -1012, *CLASSES}


@pytest.mark.parametrize("code", sorted(CLASSES))
def test_a_return_code_is_an_error_under_http_200(client: Client, vendor: Vendor, code: int) -> None:
    kind, recovery = CLASSES[code]
    vendor.says("list-event-meta", code, "words of the vendor")
    with pytest.raises(NightloadError, match="words of the vendor") as caught:
        client.data(has.EVENTS_META, params={"projectId": 7})
    assert type(caught.value) is kind and caught.value.recovery is recovery
    assert vendor.asked("list-event-meta") == (5 if recovery is Recovery.RETRY else 1)
    assert "CANARY" not in str(caught.value)


def test_no_data_is_an_answer_and_an_unknown_code_is_told(client: Client, vendor: Vendor) -> None:
    vendor.says("list-event-meta", -1012, times=1)
    assert client.data(has.EVENTS_META, params={"projectId": 7}) is None
    vendor.says("list-event-meta", -4711, "新的错误", times=1)
    with pytest.raises(Refused, match=r"not in its own table.*-4711, 新的错误"):
        client.data(has.EVENTS_META, params={"projectId": 7})
    vendor.says("list-event-meta", "0", data={"events": []}, times=1)
    assert client.data(has.EVENTS_META, params={"projectId": 7}) == {"events": []}
    vendor.fault("list-event-meta", {"status": 200, "body": {"data": []}}, times=-1)
    with pytest.raises(BrokenAnswer, match="no return_code"):
        client.data(has.EVENTS_META, params={"projectId": 7})


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (-1, "The task is running", StillRunning),
        (-1, "task ab12 not found or expired", LostTask),
        (-1, "任务 ab12 不存在", LostTask),
        (-1, "task ab12 不存在", LostTask),
        (-1, "任务已过期", LostTask),
        (-1008, "the page data does not exist", NoSuchPage),
        (-1, "task ab12: the page data does not exist", NoSuchPage),
        (-1008, "token is empty", AccessDenied),
        (-1008, "line 1:8: token recognition error at: '`'", ConfigurationError),
        (-1, "task failed: line 1:15: Table 'hive.ta.v_event_9' does not exist", Refused),
        (-1, "Query expired: the task ran too long", Refused),
    ],
)
def test_messages_tell_what_codes_do_not(code: int, message: str, kind: type[VendorError]) -> None:
    assert type(refusal("open/x", {"return_code": code, "return_message": message}, 200)) is kind


def test_a_refusal_that_no_strict_parser_reads_is_a_refusal(configure: Set, vendor: Vendor, tmp_path: Path) -> None:
    """A lone surrogate in the message: the envelope must not be taken for a row of an SQL's answer."""
    vendor.says("querySql", -1, "column \ud83d cannot be resolved")
    with pytest.raises(Refused, match="cannot be resolved"):
        package.connect().client.stream(NASTY, Spool(tmp_path / "rows.json"), tmp_path / "stream")
    told = b'{"data":{"headers":["n"]},"return_code":0}\n[1]\n{"return_code":-1005,"return_message":"later"}'
    with pytest.raises(Unavailable, match="later"):
        read_block(told, None, where="thinkingengine, querySql")
    rows = read_block(b'{"return_code":1}\n{"return_code":0}', ("return_code",), where="")
    assert rows.rows == 2, "a column may be named so"


@pytest.mark.parametrize(("status", "code", "kind"), [(500, -1013, NotReady), (401, -1014, AccessDenied)])
def test_a_code_tells_more_than_the_status_that_comes_with_it(
    client: Client, vendor: Vendor, tmp_path: Path, status: int, code: int, kind: type[VendorError]
) -> None:
    vendor.fault("sql-result-page", {"status": status, "body": {"return_code": code, "return_message": "x"}}, times=-1)
    with pytest.raises(kind):
        taken(client, tmp_path)


def test_a_gateway_page_is_tried_again(client: Client, vendor: Vendor) -> None:
    vendor.fault("list-event-meta", {"status": 504, "body": "<html>504 Gateway</html>"}, times=2)
    assert len(client.data(has.EVENTS_META, params={"projectId": 7})["events"]) == 6


# -- only reads ----------------------------------------------------------------------------------

WRITES = re.split(
    r"\s+",
    """open/user-cluster-add open/user-cluster-update-by-name open/user-cluster-refresh-by-name
    open/delete-user-cluster-by-name open/tag-date-batch-refresh open/import-id-cluster-add
    open/import-id-cluster-modify-by-name open/import open/user-cluster-refresh open/dict-create
    open/datatable/uploadFile open/datatable/createDatatable open/datatable/updateDatatable
    open/datatable/bindAssociatedProperty open/datatable/unbindAssociatedProperty open/delete-dict-props
    open/update-event-info open/update-prop-info open/create-virtual-event open/delete-virtual-event-by-name
    open/create-sql-prop open/delete-sql-prop-by-name open/report-batch-del open/import-dashboards open/update-space
    open/delete-space open/delete-dashboard-from-space open/batch-create-auth-user-and-set-roles
    open/create-project-role open/update-project-role open/delete-project-role open/create-user-group
    open/update-user-group open/delete-user-group open/delete-auth-user-from-project
    open/delete-auth-user-from-system open/member-lock open/member-unlock open/unbind-auth-user-mfa
    open/create/ssoUser open/project/update-project-info open/project/generate-project-app-id open/cancel-sql-task
    open/share""",
)


def test_no_write_can_be_called(client: Client, vendor: Vendor) -> None:
    for path in WRITES:
        with pytest.raises(ValueError, match="is not a read"):
            client.data(path)
        assert path not in has.READS
        for method in ("GET", "POST"):
            with pytest.raises(ValueError, match="is not a read"):
                client.http.body(method, path)
    for method, path in (("POST", has.EVENTS_META), ("GET", has.SUBMIT), ("GET", "open/list-event-meta/x")):
        with pytest.raises(ValueError, match="is not a read"):
            client.http.body(method, path)
    vendor.fault("list-event-meta", {"status": 302, "headers": {"Location": "/open/create/ssoUser"}})
    with pytest.raises(ValueError, match="open/create/ssoUser is not a read"):
        client.data(has.EVENTS_META, params={"projectId": 7})
    assert vendor.asked("/") == 1 == vendor.asked("list-event-meta"), "nothing else reached the vendor"
    assert all(checked(path) == path for path in has.READS)


def test_reads_work_under_a_path_prefix(configure: Set, vendor: Vendor) -> None:
    configure(base_url=f"{vendor.ready['base_url']}/te/")
    vendor.says("/te/open/list-event-meta", 0, data={"events": []})
    client = package.connect().client
    assert client.data(has.EVENTS_META) == {"events": []}
    with pytest.raises(ValueError, match="is not a read"):
        client.http.body("GET", "open/create/ssoUser")


# -- SQL: forms of pages, counts, tasks ----------------------------------------------------------

NASTY = 'SELECT "#user_id", "#account_id", "昵称", "balance", "vip" FROM v_user_7'


def taken(client: Client, tmp_path: Path, sql: str = NASTY) -> list[dict[str, Any]]:
    spool = Spool(tmp_path / "rows.json")
    try:
        told = client.take(sql, client.finish(sql), spool)
        spool.close()
        rows = list(spooled_rows(spool))
        assert told.rows == len(rows) and told.told in (None, len(rows))
        return [{label: float(v) if label == "balance" and v else v for label, v in row.items()} for row in rows]
    finally:
        spool.close()


def truth(vendor: Vendor) -> list[dict[str, Any]]:
    return [
        {label: row[label] for label in ("#user_id", "#account_id", "昵称", "balance", "vip")}
        for row in vendor.rows("v_user")
    ]


@pytest.mark.parametrize(
    "behaviour",
    [
        {},
        {"page_form": "objects"},
        {"page_envelope": True},
        {"crlf": True, "page_envelope": True},
        {"headers": False},
        {"headers": False, "page_form": "objects"},
        {"row_count": False},
        {"row_count": False, "page_zero": 0, "page_running": 2},
        {"page_zero": 2},
        {"page_running": 3},
        {"expire": 1},
        {"cut_pages": 1},
        {"running_polls": 4},
    ],
    ids=str,
)
def test_every_form_of_a_result_gives_the_same_rows(
    client: Client, vendor: Vendor, tmp_path: Path, behaviour: dict[str, Any]
) -> None:
    vendor.behave(**behaviour)
    assert alike(taken(client, tmp_path)) == alike(truth(vendor))
    assert vendor.asked("submit-sql") == (2 if behaviour.keys() & {"expire", "cut_pages"} else 1)
    assert vendor.out_of_place == []


def test_a_task_that_expires_each_time_is_given_up(client: Client, vendor: Vendor, tmp_path: Path) -> None:
    vendor.behave(expire=100)
    with pytest.raises(LostTask, match="does not know the SQL task"):
        taken(client, tmp_path)
    assert vendor.asked("submit-sql") == 3


@pytest.mark.parametrize("field", ["errorMsg", "return_reason", "somewhere"])
def test_a_task_that_fails_says_why_and_is_not_submitted_again(
    client: Client, vendor: Vendor, tmp_path: Path, field: str
) -> None:
    vendor.behave(fail="v_user", fail_field=field)
    told = "no reason is told" if field == "somewhere" else "Column 'nope' cannot be resolved"
    with pytest.raises(Refused, match=f"the SQL failed at the vendor.*{told}"):
        taken(client, tmp_path)
    assert vendor.asked("submit-sql") == 1


def test_a_task_that_does_not_end_is_not_ready(configure: Set, vendor: Vendor) -> None:
    configure(task_timeout=1)
    vendor.behave(running_polls=10**6)
    with pytest.raises(NotReady, match=r"did not end within 1 s.*its status is RUNNING"):
        package.connect().client.finish("SELECT 1")


def test_a_page_that_repeats_is_no_result(client: Client, vendor: Vendor, tmp_path: Path) -> None:
    vendor.behave(repeat_pages=True)
    sql = f"SELECT * FROM ({NASTY} UNION ALL {NASTY}) AS t ORDER BY 1 LIMIT 2000"
    with pytest.raises(BrokenAnswer, match="page 1 repeats page 0"):
        taken(client, tmp_path, sql)
    assert (tmp_path / "rows.json").read_bytes() == b"[]", "nothing of it stays in the spool"
    vendor.behave(repeat_pages=False)
    constant = "SELECT 'x' AS one FROM (SELECT 1 FROM v_user_7 UNION ALL SELECT 2 FROM v_user_7) AS t"
    for envelope in (False, True):
        vendor.behave(page_envelope=envelope)
        assert len(taken(client, tmp_path, constant)) == 2400, "pages may be alike where all rows are"


@pytest.mark.parametrize("by", [-1, 1, 1000])
def test_a_count_that_does_not_agree_is_a_mismatch(client: Client, vendor: Vendor, tmp_path: Path, by: int) -> None:
    vendor.fault("sql-task-info", {"count": by}, times=-1)
    with pytest.raises(CountMismatch, match=f"counts {1200 + by} rows, and its pages held 1200"):
        taken(client, tmp_path)


def test_page_zero_that_never_comes_is_not_an_empty_result(client: Client, vendor: Vendor, tmp_path: Path) -> None:
    vendor.behave(page_zero=10**6)
    with pytest.raises(BrokenAnswer, match=r"page 0 does not exist.*1200 rows"):
        taken(client, tmp_path)
    vendor.behave(row_count=False)
    with pytest.raises(BrokenAnswer, match="page 0 does not exist"):
        taken(client, tmp_path)


def test_an_empty_result_is_empty(client: Client, vendor: Vendor, tmp_path: Path) -> None:
    assert taken(client, tmp_path, f"{NASTY} WHERE 1 = 0") == []
    assert vendor.asked("sql-result-page") == 0


def test_pages_throttled_under_200_or_broken_on_their_way_are_fetched_again(
    client: Client, vendor: Vendor, tmp_path: Path
) -> None:
    vendor.says("sql-result-page", -1005, "Requested too frequently", times=2)
    for do in ({"cut": 900}, {"truncated_gzip": True}, {"html": True}, {"drop": True}):
        vendor.fault("sql-result-page.*pageId=1", do)
    assert alike(taken(client, tmp_path)) == alike(truth(vendor))
    assert vendor.asked("submit-sql") == 1


def test_one_stream_instead_of_pages(configure: Set, vendor: Vendor, tmp_path: Path) -> None:
    configure(sync=True, token_in_form=True)
    client = package.connect().client
    spool = Spool(tmp_path / "rows.json")
    told = client.stream(NASTY, spool, tmp_path / "stream")
    spool.close()
    assert told.told is None and told.rows == 1200 == sum(1 for _ in iter_rows(spool.path))
    rows = [{k: float(v) if k == "balance" and v else v for k, v in row.items()} for row in spooled_rows(spool)]
    assert alike(rows) == alike(truth(vendor))
    vendor.says("querySql", -1, "line 1:8: Column cannot be resolved", times=1)
    with pytest.raises(Refused, match="cannot be resolved"):
        client.stream(NASTY, Spool(tmp_path / "rows.json"), tmp_path / "stream")
    assert not (tmp_path / "stream").exists() and vendor.out_of_place == []


def test_odd_lines_keep_every_digit() -> None:
    objects = b'{"a":1.50,"b":18446744073709551617}\n\n{"b":"],\\n[","a":null}\n'
    block = read_block(objects, ("b", "a"), where="")
    assert block.rows == 2 and block.array == b'[[18446744073709551617,1.50],\n["],\\n[",null]]'
    assert elements('{ "k" : [1, {"x":"}"}] , "l":2 }') == (['[1, {"x":"}"}]', "2"], ["k", "l"])
    assert read_block(b"\xef\xbb\xbf[1]\r\n[2]", ("a",), where="").array == b"[[1],\n[2]]"
    assert read_block(b"", ("a",), where="").rows == 0
    told = read_block(b'{"data":{"headers":["a","a"]},"return_code":0}\n[1,2]', None, where="")
    assert told.labels == ("a", "a (2)") and told.rows == 1
    for broken in (b'[1]\n["x', b"[1]\nhello]", b'[1]\n["]', b'{"a":1,"a":2}', b"[1] [2]", b"[1]\n[2,]"):
        with pytest.raises(BrokenAnswer):
            read_block(broken, ("a",), where="")
    with pytest.raises(BrokenAnswer, match="which no header tells"):
        read_block(b'{"a":1,"z":2}', ("a",), where="")


def test_rows_of_arrays_become_parquet_with_the_same_proofs_as_objects(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "rows.json")
    spool.lists(["id", "text", "real", "nest", "flag"])
    rows = r'[[9007199254740993,"007",1.50,{"k":[1]},true],[-9223372036854775808,"\u0000é",-0.5,null,null]]'
    spool.array(rows.encode())
    spool.lists(["id", "text", "real", "nest", "flag", "new"])
    spool.array(b'[[1,"x",2,[],false,18446744073709551617]]')
    columns = [Column(label=label, name=label, declared=False) for label in spool.labels or ()]
    made = to_parquet(spool, out=tmp_path / "rows.parquet", columns=columns, load_id="l", where="w")
    kinds = {column.label: column.kind for column in made.columns}
    assert kinds == {"id": "bigint", "text": "text", "real": "double", "nest": "json", "flag": "bool", "new": "decimal"}
    found = duckdb.sql(f"SELECT * EXCLUDE _dlt_load_id FROM '{made.path}' ORDER BY id").fetchall()
    assert found == [
        (-(2**63), "\ufffdé", -0.5, None, None, None),
        (1, "x", 2.0, "[]", False, Decimal(18446744073709551617)),
        (9007199254740993, "007", 1.5, '{"k":[1]}', True, None),
    ]
    for bad in (b'[[1,"x",2,[],false,5],[1,2]]', b'[{"id":1}]', b'[[1,"x",2,[],false,5,6]]'):
        broken = Spool(tmp_path / "broken.json")
        broken.lists(spool.labels or ())
        broken.array(bad)
        with pytest.raises(BrokenAnswer, match="arrays of one length"):
            to_parquet(broken, out=tmp_path / "x.parquet", columns=columns, load_id="l", where="w")
    flip = Spool(tmp_path / "flip.json")
    flip.lists(["id"])
    flip.array(b'[[1],["007"]]')
    number = Column(label="id", name="id", kind=Kind.BIGINT)
    with pytest.raises(TypeFlip, match="007"):
        to_parquet(flip, out=tmp_path / "x.parquet", columns=[number], load_id="l", where="w")
    for labels in (["b"], [], ["id", "id"]):
        with pytest.raises(ValueError, match="cannot change their meaning"):
            flip.lists(labels)


# -- configured SQL ------------------------------------------------------------------------------

EVENTS = 'SELECT count(*) AS n FROM v_event_{project_id} WHERE "$part_date" = {start}'


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"queries": [{"sql": "SELECT 1"}]}, "has no name"),
        ({"queries": [{"name": "a", "sql": " "}]}, "has no sql"),
        ({"queries": [{"name": "a", "sql": "SELECT 1", "kee": "x"}]}, "no setting kee.*Did you mean key"),
        ({"queries": [{"name": "a", "sql": "SELECT 1"}, {"name": "a", "sql": "SELECT 2"}]}, "two queries named a"),
        ({"queries": [{"name": "event_meta", "sql": "SELECT 1"}]}, "two tables are named event_meta"),
        ({"queries": [{"name": "a", "sql": "SELECT {day}"}]}, r"there is no \{day\}"),
        ({"queries": [{"name": "a", "sql": "SELECT '{zone}'"}]}, "would be quoted twice"),
        ({"queries": [{"name": "a", "sql": "SELECT 'in {zone}, now'"}]}, "would be quoted twice"),
        ({"queries": [{"name": "a", "sql": "SELECT {shard}"}]}, r"there is no \{shard\}"),
        ({"queries": [{**DAILY, "window": {"start": "2026-02-02", "end": "2026-02-01"}}]}, "2026-02-01, before"),
        ({"queries": [{**DAILY, "window": {"start": "2026-02-30"}}]}, "2026-02-30.*no day"),
        ({"queries": [{**DAILY, "window": {"start": "2026-02-01'--"}}]}, "no day"),
        ({"queries": [{**DAILY, "window": {"start": "2026-02-01", "days": 0}}]}, "window.days is 0"),
        ({"queries": [{**DAILY, "window": None}]}, "has no window"),
        ({"queries": [{**DAILY, "cursor": None}]}, "nothing tells its rows or days apart"),
        ({"queries": [{**DAILY, "lookback": -1}]}, "lookback is -1"),
        ({"queries": [{**DAILY, "types": {"n": "int"}}]}, "types: n is 'int'"),
        ({"queries": [{"name": "a", "sql": "SELECT 1 WHERE x > {since}"}]}, "Name the cursor"),
        ({"queries": [{"name": "a", "sql": 'SELECT * FROM v_event_7 WHERE "#event_time" > 1'}]}, "without a filter"),
        ({"queries": [{"name": "a", "sql": "DELETE FROM v_user_7"}]}, "does not only read"),
        ({"queries": [{"name": "a", "sql": "SELECT 1; DROP TABLE x"}]}, "more than one statement"),
        ({"queries": [{"name": "a", "sql": "SELECT 1", "project_id": "7 OR 1"}]}, "no project_id"),
        ({"zone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"page_size": 999}, "page_size is 999"),
        ({"project_id": None}, "project_id is not set"),
        ({"events": ["login"]}, "events_from is not set"),
        ({"dimensions": {"x": "v_user_7; drop"}}, "is no dimension"),
        ({"reports_from": "list"}, "reports_from is 'list'"),
        ({"exclude": ["metric"]}, "exclude names metric"),
        ({"models": [{"name": "m", "model": "attribution", "body": {}}]}, "no model 'attribution'"),
        ({"models": [{"name": "m", "model": "event", "body": {"limit": 10001}}]}, "10000 groups at most"),
        ({"models": [{"name": "m", "model": "event", "body": {}, "lookback": "3"}]}, "lookback is '3'"),
        ({"generated_sql": [{"name": "x", "body": {}}]}, "no name or no filter"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_configuration_is_told_at_once(
    configure: Set, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], told: str
) -> None:
    configure(**settings)
    if "project_id" in settings:
        monkeypatch.delenv("SOURCES__THINKINGENGINE__PROJECT_ID")
    with pytest.raises(ConfigurationError, match=told):
        package.connect()


@pytest.mark.parametrize(
    ("sql", "filtered"),
    [
        ("SELECT * FROM v_event_7 WHERE \"$part_date\" = '2026-01-01'", True),
        ("SELECT * FROM ta.v_event_7 e WHERE e.\"$part_date\" BETWEEN 'a' AND 'b' AND x = 1", True),
        ("WITH d AS (SELECT * FROM v_event_7 WHERE \"$part_date\" > 'a') SELECT * FROM d JOIN d AS o ON true", True),
        ("SELECT * FROM v_user_7 u JOIN v_event_7 e ON e.\"$part_date\" = 'a' AND u.x = e.x", True),
        ('SELECT "$part_date" FROM v_event_7', False),
        ('SELECT * FROM v_event_7 -- "$part_date" = 1', False),
        ("SELECT * FROM v_event_7 WHERE note = '\"$part_date\" = 1'", False),
        ("SELECT * FROM (SELECT * FROM v_event_7) t WHERE \"$part_date\" = 'a'", False),
        ("SELECT * FROM v_event_7 WHERE \"$part_date\" = 'a' UNION ALL SELECT * FROM v_event_7", False),
        ('SELECT * FROM v_user_7 WHERE "#user_id" IN (SELECT "#user_id" FROM v_event_7)', False),
        ("SELECT * FROM v_event_7 WHERE \"$part_date\" = 'a' OR amount > 1", False),
        ("SELECT * FROM v_event_7 WHERE (\"$part_date\" = 'a' OR \"$part_date\" = 'b') AND amount > 1", True),
        ("SELECT * FROM v_event_7 WHERE NOT \"$part_date\" = 'a'", False),
        ("SELECT * FROM v_event_7 WHERE \"$part_date\" <> 'a'", False),
        ('SELECT * FROM v_event_7 WHERE "$part_date" IN (SELECT day FROM days)', True),
        ("SELECT * FROM v_event_7 WHERE x IN (SELECT y FROM z WHERE \"$part_date\" = 'a')", False),
        ("SELECT * FROM v_event_7 a, v_event_7 b WHERE a.\"$part_date\" = 'a'", False),
        ('SELECT * FROM v_event_7 a JOIN v_event_7 b ON a."$part_date" = b."$part_date"', False),
        (
            'SELECT * FROM v_event_7 a JOIN v_event_7 b ON a."$part_date" = b."$part_date" '
            "WHERE a.\"$part_date\" BETWEEN 'a' AND 'b'",
            True,
        ),
        ("SELECT * FROM v_user_7 u LEFT JOIN v_event_7 e ON e.\"$part_date\" = 'a'", True),
        ("SELECT * FROM v_event_7 e LEFT JOIN v_user_7 u ON e.\"$part_date\" = 'a'", False),
        ("SELECT * FROM v_event_7 e FULL JOIN v_user_7 u ON e.\"$part_date\" = 'a'", False),
        ("SELECT * FROM v_event_7 o WHERE EXISTS (SELECT 1 FROM v_user_7 i WHERE o.\"$part_date\" = 'a')", False),
        (
            "SELECT * FROM v_event_7 o WHERE o.\"$part_date\" = 'a' "
            "AND EXISTS (SELECT 1 FROM v_event_7 i WHERE o.\"$part_date\" = 'a')",
            False,
        ),
        ('SELECT * FROM "V_EVENT_7" /* WHERE "$part_date" = 1 */', False),
        ("SELECT /* ; */ ';' FROM v_user_7 -- v_event_7", True),
        ("SELECT * FROM v_user_7", True),
        ("SHOW COLUMNS FROM v_event_7", True),
    ],
)
def test_a_scan_of_all_days_is_refused_unless_forced(sql: str, filtered: bool) -> None:
    if filtered:
        check_sql(sql, where="q", forced=False)
    else:
        with pytest.raises(ConfigurationError, match=r'(?i)v_event_7 without a filter on "\$part_date"'):
            check_sql(sql, where="q", forced=False)
        check_sql(sql, where="q", forced=True)


@pytest.mark.parametrize("sql", ["SELECT * FROM v_event_7 WHERE (((", "SELECT * FROM TABLE(f(TABLE(v_event_7)))"])
def test_sql_in_which_no_filter_can_be_seen_is_refused_unless_forced(sql: str) -> None:
    with pytest.raises(ConfigurationError, match="v_event_7 in a way that cannot be parsed"):
        check_sql(sql, where="q", forced=False)
    check_sql(sql, where="q", forced=True)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM v_user_7",
        "(INSERT INTO x SELECT 1)",
        "CREATE TABLE x AS SELECT 1",
        "WITH a AS (SELECT 1) INSERT INTO x SELECT * FROM a",
        "SELECT 1 INTO x",
        "CALL system.flush()",
        "EXPLAIN ANALYZE DELETE FROM x",
        "-- SELECT\nDROP TABLE x",
        "SELECT 1; DROP TABLE x",
        "SELECT 1 -- ;\n; DROP TABLE x",
        "SELECT 'never closed",
    ],
)
def test_sql_that_does_not_only_read_is_never_sent_even_if_forced(sql: str) -> None:
    with pytest.raises(ConfigurationError, match=r"does not only read|more than one statement|cannot be read"):
        check_sql(sql, where="q", forced=True)


@one_database
def test_sql_that_ends_in_a_comment_is_still_cut_to_some_rows(home: Night, vendor: Vendor) -> None:
    assert limited("SHOW COLUMNS FROM v_user_7", 5) == "SHOW COLUMNS FROM v_user_7"
    home.set(VENDOR, queries=[{"name": "noted", "sql": f"-- all\n{NASTY} -- of them"}])
    vendor.behave(headers=False)
    with home.here() as place:
        extraction = Extraction(vendor=VENDOR, spool_dir=place.home, until=pendulum.now("UTC"))
        package.connect().resources(extraction)
        assert extraction.preview("thinkingengine.noted", limit=3).rows == 3
    assert home.run(tables=["thinkingengine.noted"]).tables["thinkingengine.noted"]["landed"] == 1200


def test_values_are_quoted_and_never_pasted(configure: Set) -> None:
    sql = "SELECT '{{}}', {zone}, {project_id} FROM v_event_{project_id} WHERE \"$part_date\" BETWEEN {start} AND {end}"
    configure(queries=[{**DAILY, "sql": sql}], events=["it's {start}"], events_from="2026-01-01")
    settings = package.connect().settings
    day = date(2026, 1, 2)
    text = render(read_queries(settings)[0], start=day, end=day, zone="Asia/Shanghai")
    assert text == (
        "SELECT '{}', 'Asia/Shanghai', 7 FROM v_event_7 WHERE \"$part_date\" BETWEEN '2026-01-02' AND '2026-01-02'"
    )
    events = render(ready_made(settings)[0], start=day, end=day, zone="UTC")
    assert "\"$part_event\" IN ('it''s {start}')" in events and "BETWEEN '2026-01-02' AND" in events


def test_windows_go_on_from_the_newest_day_and_a_day_in_the_future_freezes_nothing(configure: Set) -> None:
    window = {"start": "2026-01-01", "end": "2026-01-10", "days": 4}
    configure(queries=[{**DAILY, "window": window, "lookback": 2}])
    query = read_queries(package.connect().settings)[0]
    until = pendulum.datetime(2026, 3, 1)

    def days(state: dict[str, Any], **options: Any) -> list[tuple[int, int]]:
        due = day_windows(query, state, until=until, zone="UTC", full=options.get("full", False))
        return [(start.day, end.day) for start, end in due]

    from sources.thinkingengine.queries import fingerprint

    asked = fingerprint(query)
    assert days({}) == [(1, 4), (5, 8), (9, 10)]
    assert days({"day": "2026-01-05", "asked": asked}) == [(4, 7), (8, 10)]
    assert days({"day": "2999-01-01", "asked": asked}) == [(9, 10)]
    assert days({"day": "2026-01-05", "asked": "of another SQL"}) == [(1, 4), (5, 8), (9, 10)]
    assert days({"day": "2026-01-05", "asked": asked}, full=True) == [(1, 4), (5, 8), (9, 10)]
    # the windows of a model are what its rows are known by
    query = replace(query, aligned=True)
    assert days({"day": "2026-01-05", "asked": asked}) == [(1, 4), (5, 8), (9, 10)]
    assert days({"day": "2026-01-07", "asked": asked}) == [(5, 8), (9, 10)]
    # yesterday is the vendor's yesterday
    open_end = read_queries_of(configure, {**DAILY, "window": {"start": "2026-02-01"}})
    late = datetime(2026, 2, 2, 17, 0, tzinfo=UTC)
    for zone, last in (("UTC", 1), ("Asia/Shanghai", 2)):
        assert day_windows(open_end, {}, until=late, zone=zone, full=False)[-1][1].day == last
        assert late.astimezone(ZoneInfo(zone)).day == last + 1


def read_queries_of(configure: Set, query: dict[str, Any]) -> Any:
    configure(queries=[query])
    return read_queries(package.connect().settings)[0]


# -- models --------------------------------------------------------------------------------------


def test_models_become_long_tables_and_unknown_parts_stay(home: Night, vendor: Vendor) -> None:
    event = {
        "eventView": {"groupBy": [{"columnName": "country", "tableType": "event"}], "timeParticleSize": "day"},
        "events": [{"eventName": "login", "analysis": "TOTAL_TIMES"}],
    }
    week = {"eventView": {"recentDay": "1-7"}, "events": [{"eventName": "purchase", "analysis": "TOTAL_TIMES"}]}
    home.set(
        VENDOR,
        models=[
            {"name": "by_day", "model": "event", "body": event, "window": {"start": str(FIRST)}},
            {"name": "spread", "model": "distribution", "body": week},
            *({"name": f"m_{model}", "model": model, "body": week} for model in ("retention", "funnel", "interval")),
            {"name": "m_path", "model": "path", "body": {"from_date": "2026-01-01"}},
            {"name": "m_property", "model": "property", "body": {"eventView": {}}},
        ],
        metric_values=[{"name": "dau", "body": week}],
        exclude=[table.name for table in has.metadata_tables(has.Settings())],
    )
    assert home.run().code == 0
    counts: dict[tuple[date, str], int] = {}
    for row in events_due(vendor, "login"):
        key = (row["$part_date"], json.dumps([str(row["country"])], ensure_ascii=False))
        counts[key] = counts.get(key, 0) + 1
    sql = f"SELECT day, groups, value, value_text, metric FROM {VENDOR}.by_day WHERE part = 'y' AND value IS NOT NULL"
    assert {(day, groups): value for day, groups, value, _, _ in home.rows(sql)} == counts
    assert {metric for *_, metric in home.rows(sql)} == {"login.TOTAL_TIMES"}
    parts = home.rows(f"SELECT DISTINCT part FROM {VENDOR}.by_day")
    assert set(parts) == {("y",), ("undocumented",)}
    spread = home.rows(f"SELECT x, metric, value FROM {VENDOR}.spread WHERE part = 'y'")
    assert {metric for _, metric, _ in spread} == {"[1,2)", "[2,+∞)"} and len(spread) == 14
    assert home.rows(f"SELECT json_extract_string(more, '$.users') FROM {VENDOR}.m_funnel WHERE part = 'total'") == [
        (str(2**53 + 1),)
    ]
    assert ("session_count", str(2**53 + 1)) in home.rows(f"SELECT part, more::VARCHAR FROM {VENDOR}.m_path")
    assert home.rows(f"SELECT count(*) FROM {VENDOR}.metric_values WHERE name = 'dau' AND part = 'y'")[0][0] >= 7
    # the newest days again, and nothing doubled
    before = home.rows(f"SELECT * EXCLUDE _dlt_load_id FROM {VENDOR}.by_day ORDER BY ALL")
    assert home.run(tables=["thinkingengine.by_day"]).code == 0
    assert home.rows(f"SELECT * EXCLUDE _dlt_load_id FROM {VENDOR}.by_day ORDER BY ALL") == before
    assert vendor.out_of_place == []


def test_values_of_a_model_are_exact_and_the_limit_is_told() -> None:
    groups = [{"group_cols": [str(n)], "values": ["-", str(2**53 + 1), "1.5"]} for n in range(3)]
    data = {"x": ["d", "d", "e"], "y": [{"a.SUM": groups}]}
    rows, count = long_rows("m", None, data)
    assert count == len(rows) == 9
    assert [(row["x"], row["occurrence"], row["value_text"], row["value"]) for row in rows[:3]] == [
        ("d", 0, "-", None),
        ("d", 1, str(2**53 + 1), None),
        ("e", 0, "1.5", 1.5),
    ]
    assert "limit" in str(over_limit({"limit": 3}, rows)) and over_limit({}, rows) is None


def test_a_group_without_values_is_still_a_row() -> None:
    groups = [{"group_cols": ["CN"], "values": [], "stageValue": {"sum": "0"}}]
    (row,), count = long_rows("m", None, {"x": [], "y": [{"a.SUM": groups}]})
    assert count == 1 and (row["groups"], row["metric"], row["more"]) == (
        '["CN"]',
        "a.SUM",
        {"stageValue": {"sum": "0"}},
    )
    (row,), _ = long_rows("m", None, {"x": ["d"], "y": {"d": [{"groupCols": ["CN"], "values": [], "total": 3}]}})
    assert (row["groups"], row["x"], row["more"]) == ('["CN"]', "d", {"total": 3})


def test_windows_of_a_model_do_not_overlap_from_night_to_night(home: Night, vendor: Vendor) -> None:
    body = {"eventView": {}, "events": [{"eventName": "login", "analysis": "TOTAL_TIMES"}]}
    only = {"tables": ["thinkingengine.by_days"]}
    for end in (FIRST + timedelta(days=4), FIRST + timedelta(days=7)):
        window = {"start": str(FIRST), "end": str(end), "days": 3}
        home.set(VENDOR, models=[{"name": "by_days", "model": "event", "body": body, "window": window, "lookback": 1}])
        assert home.run(**only).code == 0
    days = home.rows(f"SELECT x, count(*) FROM {VENDOR}.by_days WHERE part = 'y' GROUP BY x ORDER BY x")
    assert days == [(str(FIRST + timedelta(days=n)), 1) for n in range(8)]


@one_database
def test_other_windows_of_a_model_tell_no_figure_twice(home: Night, vendor: Vendor) -> None:
    body = {"eventView": {}, "events": [{"eventName": "login", "analysis": "TOTAL_TIMES"}]}
    only, told = {"tables": ["thinkingengine.by_days"]}, {"name": "by_days", "model": "event", "body": body}
    window = {"start": str(FIRST), "end": str(FIRST + timedelta(days=5))}
    days = f"SELECT x, count(*) FROM {VENDOR}.by_days WHERE part = 'y' GROUP BY x ORDER BY x"
    home.set(VENDOR, models=[{**told, "window": window}])
    assert home.run(**only).code == 0
    before = home.rows(days)
    assert {count for _, count in before} == {1}
    home.set(VENDOR, models=[{**told, "window": {**window, "days": 3}}])
    ran = home.run(**only)
    assert ran.code == 1 and "nightload run --full" in ran.tables["thinkingengine.by_days"]["error"], ran.out
    assert home.rows(days) == before
    assert home.run(**only, full=True).code == 0
    assert {*before} <= {*home.rows(days)} and {count for _, count in home.rows(days)} == {1}


@one_database
def test_a_day_of_which_a_model_has_no_value_any_more_is_emptied(home: Night, vendor: Vendor) -> None:
    body = {"eventView": {}, "events": [{"eventName": "login", "analysis": "TOTAL_TIMES"}]}
    end = FIRST + timedelta(days=3)
    window = {"start": str(FIRST), "end": str(end)}
    home.set(VENDOR, tasks=1, models=[{"name": "by_day", "model": "event", "body": body, "window": window}])
    only = {"tables": ["thinkingengine.by_day"]}
    assert home.run(**only).code == 0
    days = f"SELECT DISTINCT day FROM {VENDOR}.by_day ORDER BY 1"
    before = home.rows(days)
    assert len(before) == 4
    vendor.says("event-analyze", 0, data={"x": [], "y": []}, times=1)
    assert home.run(**only).code == 0
    assert home.rows(days) == [day for day in before if day != (end - timedelta(days=2),)]
    # all of them at once may as well be a fault of the vendor's
    vendor.says("event-analyze", 0, data={"x": [], "y": []}, times=3)
    ran = home.run(**only)
    assert "what was loaded of it stays" in str(ran.tables["thinkingengine.by_day"]["notes"])
    assert len(home.rows(days)) == 3


def test_the_sandbox_has_what_the_tests_stand_on(vendor: Vendor) -> None:
    assert set(vendor.rows("v_user")[0]) == set(COLUMNS["v_user"])
