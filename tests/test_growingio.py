"""GrowingIO: over real sockets, by the real run into a real DuckDB file; compared with the vendor's truth."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

os.environ.setdefault("SCHEMA__NAMING", "sources.naming")
os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")

import duckdb
import pendulum
import pyarrow.parquet as pq
import pytest

import sources.growingio as package
from conftest import Database, Night, one_database
from sandbox_process import SandboxProcess, start_sandbox
from sources.convert.parquet import to_parquet
from sources.convert.spool import Part, Spool
from sources.convert.types import Column, Kind
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    NotReady,
    Refused,
    Unreachable,
)
from sources.extract.extractor import Extraction
from sources.growingio import delimited, rules, shapes
from sources.growingio.charts import Chart, Question, Reader
from sources.growingio.client import TimedOut, signature
from sources.growingio.settings import Settings
from sources.growingio.windows import Calendar, Window, newest_day
from sources.naming import columns_for
from sources.privacy.masking import screen
from sources.privacy.matching import Forgotten
from sources.privacy.policy import HASH

Set = Callable[..., None]
BEIJING = ZoneInfo("Asia/Shanghai")
DAYS = 5
BOUNCE = ("跳出率", "平均访问时长", "每次访问页面浏览量", "访问用户人均访问次数")


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "growingio", "--scale", "0.01") as process:
        yield process


class Vendor:
    """The sandbox's GrowingIO: what is true there, and how it is changed."""

    def __init__(self, process: SandboxProcess) -> None:
        self.process = process
        self.ready = process.ready["growingio"]

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.process.control("growingio", method, path, body)

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.control("GET", f"truth/{table}")["rows"]
        return rows

    def edit(self, *edits: dict[str, Any]) -> None:
        self.control("POST", "edit", list(edits))

    def fault(self, path: str, do: dict[str, Any], *, skip: int = 0, times: int = 1) -> None:
        self.control("POST", "faults", {"match": {"path": path}, "do": do, "skip": skip, "times": times})

    def options(self, **options: Any) -> None:
        self.control("POST", "options", options)

    def asked(self, path: str) -> int:
        counts = self.control("GET", "stats")["by_path"]
        return sum(count for target, count in counts.items() if path in target)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)


@pytest.fixture
def vendor(process: SandboxProcess) -> Iterator[Vendor]:
    vendor = Vendor(process)
    vendor.control("POST", "reset")
    yield vendor
    assert vendor.control("GET", "stats")["unexpected"] == []


def basics(vendor: Vendor) -> dict[str, Any]:
    names = ("base_url", "console_token", "project_uid")
    return {name: vendor.ready[name] for name in names} | {
        "requests_per_second": 10_000,
        "backfill_days": DAYS,
        "poll_seconds": 0.01,
    }


@pytest.fixture
def configure(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets `sources.growingio.*` as the environment does."""

    def configure(**settings: Any) -> None:
        for name, value in settings.items():
            variable = f"SOURCES__GROWINGIO__{name.upper()}"
            if value is None:
                monkeypatch.delenv(variable, raising=False)
            else:
                monkeypatch.setenv(variable, value if isinstance(value, str) else json.dumps(value))

    configure(**basics(vendor))
    return configure


@pytest.fixture
def home(vendor: Vendor, tmp_path: Path, database: Database) -> Night:
    night = Night(home=tmp_path, database=database)
    night.set("growingio", **basics(vendor))
    return night


@pytest.fixture
def reader(configure: Set, tmp_path: Path) -> Callable[..., Reader]:
    """A reader over a connection of its own."""

    def reader(**settings: Any) -> Reader:
        configure(**settings)
        connected = package.connect()
        return Reader(connected.client, connected.settings, tmp_path)

    return reader


def yesterday() -> date:
    """The newest day that is ready."""
    return newest_day(Settings(), datetime.now(UTC))


def question(uid: str, interval: str = "day", kind: str = "chart") -> Question:
    return Question(chart=Chart(id=uid, name="", kind=kind), kind=kind, interval=interval)


# -- what should be there, told independently of how it is loaded ----------------------------------


def na(cell: Any) -> Any:
    return None if cell == "不适用" else cell


def points(vendor: Vendor, days: set[date], *, only_first: bool = False) -> Counter[tuple[Any, ...]]:
    charts = {chart["id"]: chart for chart in vendor.rows("charts")}
    found: Counter[tuple[Any, ...]] = Counter()
    for row in vendor.rows("chart_rows"):
        chart, day = charts[row["chart"]], date.fromisoformat(row["day"])
        if chart["kind"] != "chart" or day not in days or (only_first and row["target"] != "全部访问用户"):
            continue
        dims = [] if only_first else [("目标用户", row["target"])]
        dims += [(name, na(cell)) for name, cell in zip(chart["dims"], row["dims"], strict=True)]
        for place, (metric, value) in enumerate(zip(chart["metrics"], row["values"], strict=True), start=1):
            found[row["chart"], day, json.dumps(sorted(dims)), place, metric, na(value)] += 1
    return found


def points_there(night: Night) -> Counter[tuple[Any, ...]]:
    rows = night.rows(
        "SELECT chart_id, event_date, dimensions, metric_position, metric, value, point_time, window_end "
        "FROM growingio.chart_points"
    )
    for row in rows:
        assert row[6].astimezone(BEIJING) == datetime.combine(row[1], datetime.min.time(), BEIJING)
        assert row[7] - row[6] == timedelta(days=1) - timedelta(milliseconds=1)
    return Counter((*row[:2], json.dumps(sorted(json.loads(row[2]).items())), *row[3:6]) for row in rows)


def same_as_truth(night: Night, vendor: Vendor, days: set[date]) -> None:
    assert points_there(night) == points(vendor, days)
    charts = {chart["id"]: chart for chart in vendor.rows("charts")}
    if night.database.keeps_json_as_written:
        for uid, dimensions in night.rows("SELECT DISTINCT chart_id, dimensions FROM growingio.chart_points"):
            assert list(json.loads(dimensions)) == ["目标用户", *charts[uid]["dims"]]
    wide = {uid: [row for row in vendor.rows("chart_rows") if row["chart"] == uid] for uid in ("taBle001", "biGg1001")}
    labels = dict(night.rows("SELECT label, column_name FROM nightload.columns WHERE table_name = 'chart_bi_gg1001'"))
    for uid, columns in (
        ("taBle001", ["城市", "浏览器", "访问量", "访问量_5", "_6"]),
        ("biGg1001", [labels[name] for name in ("页面", *charts["biGg1001"]["metrics"])]),
    ):
        table = {"taBle001": "chart_ta_ble001", "biGg1001": "chart_bi_gg1001"}[uid]
        selected = ", ".join(f'"{column}"' for column in columns)
        there = night.rows(f'SELECT _event_date, "目标用户", {selected} FROM growingio_charts.{table}')
        truth = [
            (date.fromisoformat(row["day"]), row["target"], *map(na, (*row["dims"], *row["values"])))
            for row in wide[uid]
            if date.fromisoformat(row["day"]) in days
        ]
        assert Counter(there) == Counter(truth), uid


def others_are_true(night: Night, vendor: Vendor, days: set[date]) -> None:
    live = "WHERE _deleted_at IS NULL"
    boards = vendor.rows("dashboards")
    assert sorted(night.rows(f"SELECT id, name, type, created_at, scope FROM growingio.dashboards {live}")) == sorted(
        (row["id"], row["name"], row["type"], date(2019, 1, 1), row["scope"]) for row in boards
    )
    charts = {chart["id"]: chart for chart in vendor.rows("charts")}
    assert sorted(
        night.rows(f"SELECT dashboard_id, chart_id, position, creator FROM growingio.dashboard_charts {live}")
    ) == sorted(
        (row["id"], uid, position, "韩梅梅") for row in boards for position, uid in enumerate(row["charts"], start=1)
    )
    shown = {uid for row in boards for uid in row["charts"]}
    metas = night.rows("SELECT chart_id, name, resource_type, meta FROM growingio.charts WHERE valid_to IS NULL")
    assert {row[:3] for row in metas} == {(uid, charts[uid]["name"], charts[uid]["kind"]) for uid in shown}
    for uid, _, _, meta in metas:
        assert [each["name"] for each in json.loads(meta) if each.get("metric")] == charts[uid]["metrics"]
    segments = vendor.rows("segmentations")
    assert sorted(
        night.rows(f"SELECT id, name, user_type, user_num, updated_at FROM growingio.segmentations {live}")
    ) == sorted(
        (row["id"], row["name"], row["userType"], row["userNum"], date.fromisoformat(row["updatedAt"]))
        for row in segments
    )
    assert sorted(night.rows(f"SELECT rule_id, event_name, event_type FROM growingio.rules {live}")) == sorted(
        (row["ruleId"], row["eventName"], row["eventType"]) for row in vendor.rows("rules")
    )
    rows = [row for row in vendor.rows("chart_rows") if date.fromisoformat(row["day"]) in days]
    funnel = night.rows(
        "SELECT event_date, dimensions->>'目标用户', step, users, rate, other FROM growingio.funnel_steps"
    )
    funnel = [(*row[:5], tuple(json.loads(row[5] or "{}").items())) for row in funnel]
    truth = []
    for row in (row for row in rows if row["chart"] == "fuNnel01"):
        total, users1, rate1, users2, rate2, note = row["values"]
        head = (date.fromisoformat(row["day"]), row["target"])
        truth += [
            (*head, 0, None, total, (("备注", note),)),
            (*head, 1, users1, rate1, ()),
            (*head, 2, users2, rate2, ()),
        ]
    assert Counter(funnel) == Counter(truth)
    retention = night.rows(
        "SELECT event_date, dimensions->>'目标用户', dimensions->>'对比值', n, users, rate FROM growingio.retention"
    )
    truth = []
    for row in (row for row in rows if row["chart"] == "reTen001"):
        head = (date.fromisoformat(row["day"]), row["target"], na(row["dims"][0]))
        values = row["values"]
        truth.append((*head, -1, values[0], None))
        truth += [(*head, n, values[1 + 2 * n], values[2 + 2 * n]) for n in range(3)]
    assert Counter(retention) == Counter(truth)


def users_there(night: Night, uid: str, *columns: str) -> list[tuple[Any, ...]]:
    selected = ", ".join(f'"{column}"' for column in columns)
    return sorted(
        night.rows(f"SELECT {selected} FROM growingio.segmentation_users WHERE segmentation_id = ?", uid),
        key=lambda row: str(row[0]),
    )


def salted(vendor: Vendor, cell: str, salt: str | None = None) -> str:
    made = hashlib.sha256(f"growingio users {salt or vendor.ready['console_token']}".encode()).hexdigest()
    return hashlib.sha256(f"{made}{cell}".encode()).hexdigest()


def users_are_true(night: Night, vendor: Vendor) -> None:
    segments = {row["id"]: row for row in vendor.rows("segmentations")}
    if "seg00001" in segments:
        there = users_there(night, "seg00001", "cs1_name", "cs2_name", "手机号")
        truth = [(one, two, salted(vendor, phone)) for one, two, phone in segments["seg00001"]["users"]]
        assert there == sorted(truth)
    there = users_there(night, "seg00002", "访问用户id", "联系", "同名", "同名_4")
    truth = []
    for given in segments["seg00002"]["users"]:
        cells = [cell or None for cell in given] + [None] * (4 - len(given))
        truth.append((cells[0], salted(vendor, cells[1]) if cells[1] else None, *cells[2:]))
    assert there == sorted(truth)
    ids = {uid for (uid,) in night.rows("SELECT DISTINCT segmentation_id FROM growingio.segmentation_users")}
    assert ids == {uid for uid, row in segments.items() if row["users"]}


def nothing_private(night: Night, *texts: str) -> None:
    with duckdb.connect(str(night.warehouse), read_only=True) as connection:
        names = connection.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall()
        for schema, name in names:
            texts += (str(connection.execute(f'SELECT * FROM "{schema}"."{name}"').fetchall()),)
    for text in texts:
        assert "CANARY" not in text and "1380000" not in text


# -- nights ----------------------------------------------------------------------------------------


def test_every_table_is_what_the_vendor_has_night_after_night(home: Night, vendor: Vendor) -> None:
    days = {yesterday() - timedelta(days=back) for back in range(DAYS)}
    ran = home("run", "growingio", "--json")
    assert ran.code == 0, ran.out + ran.err
    told = str(ran.tables["growingio.segmentation_users"]["notes"])
    assert "hashed, because they look like e-mail or phone: 手机号" in told and "phone: 联系" in told
    for name, table in ran.tables.items():
        assert table["vendor_count"] == table["extracted"] == table["landed"] == table["live"], name
    same_as_truth(home, vendor, days)
    others_are_true(home, vendor, days)
    users_are_true(home, vendor)
    nothing_private(home, ran.out, ran.err)
    # one request for a chart with a time beside that for its newest day, one per day for one without
    assert vendor.asked("v2/projects/nxog09md/charts/YoX28w7R") == 2
    assert vendor.asked("v2/projects/nxog09md/charts/hBar0001") == DAYS

    before = vendor.asked("users.csv")
    ran = home.run("growingio")
    assert ran.code == 0
    assert vendor.asked("users.csv") == before, "no segment moved"
    assert vendor.asked("charts/hBar0001") == DAYS + 3, "the last three days are read again"
    assert {ran.tables[f"growingio.{name}"]["status"] for name in ("dashboards", "charts", "rules", "retention")} == {
        "unchanged"
    }
    same_as_truth(home, vendor, days)
    others_are_true(home, vendor, days)

    back = [str(yesterday() - timedelta(days=each)) for each in range(DAYS)]
    vendor.edit(
        {"table": "chart_rows", "op": "update", "key": ["hBar0001", back[0], 0], "row": {"values": [77.5]}},
        {"table": "chart_rows", "op": "delete", "key": ["taBle001", back[1], 0]},
        {"table": "chart_rows", "op": "insert", "key": ["biGg1001", back[2]], "row": _late()},
        {"table": "chart_rows", "op": "delete", "key": ["buBb1001", back[1]]},
        {"table": "charts", "op": "update", "key": "vBar0001", "row": {"name": "每日注册 2"}},
        {"table": "dashboards", "op": "delete", "key": "BoardC03"},
        {"table": "rules", "op": "delete", "key": "f2500003"},
        {"table": "rules", "op": "insert", "row": {"ruleId": "new", "eventName": "a,b,c", "eventType": "clck"}},
        {"table": "segmentations", "op": "delete", "key": "seg00001"},
        {"table": "segmentations", "op": "update", "key": "seg00002", "row": {"users": [["5", "", "x", "y"]]}},
        {
            "table": "segmentations",
            "op": "insert",
            "row": {"id": "seg4", "name": "n", "header": ["id"], "users": [["1"], ["2"]]},
        },
    )
    ran = home.run("growingio")
    assert ran.code == 0, ran.out
    same_as_truth(home, vendor, days)
    others_are_true(home, vendor, days)
    users_are_true(home, vendor)
    assert home.rows("SELECT name, valid_to IS NULL FROM growingio.charts WHERE chart_id = 'vBar0001' ORDER BY 2") == [
        ("每日注册", False),
        ("每日注册 2", True),
    ]
    vendor.edit({"table": "segmentations", "op": "update", "key": "seg00002", "row": {"users": []}})
    vendor.edit({"table": "chart_rows", "op": "update", "key": ["YoX28w7R", back[4], 0], "row": {"values": [1.0, 2.0]}})
    ran = home.run("growingio", tables=["growingio.chart_points", "growingio.segmentation_users"])
    assert ran.code == 0, ran.out
    assert home.rows("SELECT DISTINCT segmentation_id FROM growingio.segmentation_users") == [("seg4",)]
    assert points_there(home) != points(vendor, days), "too late for the lookback"
    ran = home.run("growingio", full=True, tables=["growingio.chart_points"])
    assert ran.code == 0, ran.out
    assert points_there(home) == points(vendor, days)


def _late() -> dict[str, Any]:
    return {"target": "全部登录用户", "dims": ["late"], "values": [1.0, 2.0]}


@pytest.mark.parametrize("generation", ["v1", "v3"])
def test_the_other_generations_of_the_interface(home: Night, vendor: Vendor, generation: str) -> None:
    users = "v1" if generation == "v1" else "v3"
    home.set("growingio", charts_api=generation, segmentations_api=users)
    days = {yesterday() - timedelta(days=back) for back in range(DAYS)}
    for night in ("first", "second"):
        ran = home.run("growingio")
        assert ran.code == 0, ran.out
        assert points_there(home) == points(vendor, days, only_first=generation == "v1"), night
        others_are_true(home, vendor, days)
        users_are_true(home, vendor)
        nothing_private(home, ran.out)
        if generation == "v1":
            table, there = ("fuNn1001", "chart_fu_nn1001"), vendor.rows("chart_rows")
            truth = [
                (date.fromisoformat(row["day"]), *row["values"])
                for row in there
                if row["chart"] == table[0]
                and row["target"] == "全部访问用户"
                and date.fromisoformat(row["day"]) in days
            ]
            wide = home.rows(f'SELECT _event_date, "浏览", "下单", "付款" FROM growingio_charts.{table[1]}')
            assert Counter(wide) == Counter(truth)
        else:
            same_as_truth(home, vendor, days)
        back = [str(yesterday() - timedelta(days=each)) for each in range(3)]
        vendor.edit(
            {"table": "chart_rows", "op": "update", "key": ["nuMb1001", back[0], 0], "row": {"values": [77.5]}},
            {"table": "chart_rows", "op": "delete", "key": ["taBle001", back[1], 0]},
            {
                "table": "chart_rows",
                "op": "update",
                "key": ["fuNn1001", back[2], 0],
                "row": {"values": [3.0, 2.0, 1.0]},
            },
        )
    assert vendor.asked("downloads/") == (0 if generation == "v1" else 3)


def test_an_answer_without_rows_leaves_what_is_there(home: Night, vendor: Vendor) -> None:
    home.set("growingio", charts=["YoX28w7R"], dashboards=["BoardC03"])
    only = {"tables": ["growingio.chart_points"]}
    assert home.run("growingio", **only).code == 0
    before = points_there(home)
    vendor.fault("charts/YoX28w7R", {"empty": True}, times=-1)
    ran = home.run("growingio", **only)
    assert "nothing came for" in str(ran.tables["growingio.chart_points"]["notes"])
    assert points_there(home) == before
    vendor.control("DELETE", "faults")
    vendor.fault("segmentations.json|rules.csv", {"status": 200, "body": []}, times=-1)
    ran = home.run("growingio", tables=["growingio.segmentations", "growingio.rules"])
    assert ran.tables["growingio.segmentations"]["live"] == 0, "a first night may find nothing"


def test_a_window_that_cannot_be_had_is_named_and_had_later(home: Night, vendor: Vendor) -> None:
    home.set("growingio", charts=["YoX28w7R", "hBar0001"], dashboards=["BoardC03"])
    start = day_start(yesterday() - timedelta(days=2))
    vendor.fault(f"charts/YoX28w7R.*startTime={start}&", _timeout(), times=-1)
    vendor.options(slow={"YoX28w7R": 24})
    home.set("growingio", exclude=["segmentation_users", "segmentations", "rules", "dashboards", "retention"])
    ran = home.run("growingio")
    points_of = ran.tables["growingio.chart_points"]
    assert ran.code == 1 and points_of["status"] == "failed"
    assert f"chart YoX28w7R, by day, {yesterday() - timedelta(days=2)}" in points_of["error"]
    assert points_of["landed"] == points_of["extracted"] == 8 * 2 + 8 * DAYS, "all the others are there"
    assert ran.tables["growingio_charts.chart_h_bar0001"]["status"] == "ok"
    vendor.control("DELETE", "faults")
    assert home.run("growingio").code == 0
    days = {yesterday() - timedelta(days=back) for back in range(DAYS)}
    truth = {key: count for key, count in points(vendor, days).items() if key[0] in ("YoX28w7R", "hBar0001")}
    assert points_there(home) == Counter(truth)


def _timeout() -> dict[str, Any]:
    text = "Request timeout in 5000 milliseconds"
    body = {"message": "Request timeout", "errors": [{"code": "request_timeout", "message": text}]}
    return {"status": 500, "body": body}


# -- windows and limits ----------------------------------------------------------------------------


@pytest.mark.parametrize(("uid", "hours", "asked"), [("YoX28w7R", 24, 8), ("YoX28w7R", 48, 4), ("YoX28w7R", 9999, 2)])
def test_a_window_that_takes_too_long_is_halved(
    reader: Callable[..., Reader], vendor: Vendor, uid: str, hours: int, asked: int
) -> None:
    vendor.options(slow={uid: hours})
    reading = reader().read(question(uid), yesterday() - timedelta(days=4), yesterday())
    assert not reading.missed and reading.rows == 10
    assert vendor.asked(f"charts/{uid}") == asked


def test_hours_of_figures_without_a_time_do_not_make_a_day(reader: Callable[..., Reader], vendor: Vendor) -> None:
    """Unique users of two half days are not those of the day: it is asked for as a whole, or named."""
    vendor.options(slow={"hBar0001": 12})
    reading = reader().read(question("hBar0001", "hour"), yesterday() - timedelta(days=1), yesterday())
    assert reading.rows == 0
    assert {bucket.first for bucket, _ in reading.missed if bucket} == {yesterday() - timedelta(days=1), yesterday()}
    vendor.options(slow={"hBar0001": 24})
    reading = reader().read(question("hBar0001", "hour"), yesterday() - timedelta(days=1), yesterday())
    assert reading.rows == 16 and not reading.missed


def test_what_was_had_at_the_second_try_is_not_missed(reader: Callable[..., Reader], vendor: Vendor) -> None:
    """A chart whose newest day is too slow is taken for one with a time, until an answer shows that it has none."""
    days = [day_start(yesterday() - timedelta(days=back)) for back in range(5)]
    vendor.fault(f"hBar0001.*startTime={days[0]}&", _timeout())
    vendor.fault(f"hBar0001.*startTime={days[4]}&endTime={days[0] - 1}&", _timeout())
    vendor.fault(f"hBar0001.*startTime={days[2]}&", _timeout(), times=2)
    reading = reader().read(question("hBar0001"), yesterday() - timedelta(days=4), yesterday())
    assert [bucket.first for bucket, _ in reading.missed if bucket] == [yesterday()]
    assert reading.rows == 8 * 4 and all(len(answer.buckets) == 1 for answer in reading.answers)


def test_a_day_that_lacks_hours_tonight_stays_as_it_was_whole(home: Night, vendor: Vendor) -> None:
    home.set("growingio", charts=["YoX28w7R"], dashboards=["BoardC03"], intervals=["hour"])
    home.set("growingio", exclude=["segmentation_users", "segmentations", "rules", "dashboards", "retention"])
    vendor.options(slow={"YoX28w7R": 12})
    day = yesterday() - timedelta(days=1)
    five = day_start(day) + 5 * 3600_000
    ran = home.run("growingio")
    assert ran.code == 0 and ran.tables["growingio.charts"]["status"] == "ok", ran.out
    hours = "SELECT event_date, count(*) FROM growingio.chart_points GROUP BY 1 ORDER BY 1"
    before = home.rows(hours)
    assert [count for _, count in before] == [24 * 2 * 2] * DAYS
    vendor.edit(
        {"table": "chart_rows", "op": "update", "key": ["YoX28w7R", str(day), 0], "row": {"values": [7.0, 8.0]}}
    )
    vendor.options(slow={"YoX28w7R": 1})
    vendor.fault(f"charts/YoX28w7R.*startTime={five}&", _timeout(), times=-1)
    ran = home.run("growingio")
    assert ran.code == 1 and f"{day} 05:00 to {day} 05:59" in ran.tables["growingio.chart_points"]["error"]
    assert home.rows(hours) == before, "half a day does not replace a whole one"
    vendor.control("DELETE", "faults")
    assert home.run("growingio").code == 0
    assert home.rows(hours) == before
    new = home.rows("SELECT count(*) FROM growingio.chart_points WHERE event_date = ? AND value = 7.0", day)
    assert new == [(24,)]


def test_of_a_day_that_was_never_whole_its_hours_are_loaded(home: Night, vendor: Vendor) -> None:
    home.set("growingio", charts=["YoX28w7R"], dashboards=["BoardC03"], intervals=["hour"], backfill_days=1)
    vendor.options(slow={"YoX28w7R": 1})
    vendor.fault(f"charts/YoX28w7R.*startTime={day_start(yesterday()) + 5 * 3600_000}&", _timeout(), times=-1)
    ran = home.run("growingio", tables=["growingio.chart_points"])
    assert ran.code == 1 and ran.tables["growingio.chart_points"]["landed"] == 23 * 2 * 2


def day_start(day: date) -> int:
    return int(datetime.combine(day, datetime.min.time(), BEIJING).timestamp() * 1000)


def test_an_hour_is_the_least_that_is_asked_for(reader: Callable[..., Reader], vendor: Vendor) -> None:
    vendor.options(slow={"YoX28w7R": 6})
    reading = reader().read(question("YoX28w7R", "hour"), yesterday(), yesterday())
    assert not reading.missed and reading.rows == 48
    vendor.options(slow={"YoX28w7R": 0})
    reading = reader().read(question("YoX28w7R", "hour"), yesterday(), yesterday())
    assert len(reading.missed) == 24 and isinstance(reading.missed[0][1], TimedOut)
    assert "charts_api" in str(reading.missed[0][1])


def test_a_full_answer_is_not_believed(reader: Callable[..., Reader], vendor: Vendor) -> None:
    vendor.options(cap=6)
    reading = reader(most_rows=6).read(question("YoX28w7R"), yesterday() - timedelta(days=4), yesterday())
    assert not reading.missed and reading.rows == 10
    reading = reader(most_rows=6).read(question("hBar0001"), yesterday() - timedelta(days=1), yesterday())
    assert [str(bucket.first) for bucket, _ in reading.missed if bucket] == [
        str(yesterday()),
        str(yesterday() - timedelta(days=1)),
    ]
    assert "is full (6 rows)" in str(reading.missed[0][1])


def test_a_meta_that_changes_between_two_windows(reader: Callable[..., Reader], vendor: Vendor) -> None:
    rename = {"table": "charts", "op": "update", "key": "hBar0001", "row": {"metrics": ["改名"]}}
    vendor.fault("charts/hBar0001", {"edit": rename}, skip=2)
    reading = reader().read(question("hBar0001"), yesterday() - timedelta(days=4), yesterday())
    assert not reading.missed and {answer.shape.metrics[0].name for answer in reading.answers} == {"改名"}
    for number in range(20):
        rename = {"table": "charts", "op": "update", "key": "hBar0001", "row": {"metrics": [f"改名 {number}"]}}
        vendor.fault("charts/hBar0001", {"edit": rename}, skip=number)
    reading = reader().read(question("hBar0001"), yesterday() - timedelta(days=4), yesterday())
    assert "changed while" in str(reading.missed[0][1]) and not reading.answers


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body | {"startTime": 1546873200000, "endTime": 1546873200000}, "about another window"),
        (lambda body: body | {"startTime": body["endTime"], "endTime": body["startTime"]}, "about another window"),
        (lambda body: body | {"startTime": 10**20}, "about another window"),
        (lambda body: body | {"data": [["全部访问用户", 1546873200000, 1.0, 2.0]]}, "not of the window"),
        (lambda body: body | {"data": [[*row, 3.0] for row in body["data"]]}, "has 5 cells, and the meta 4"),
        (lambda body: body | {"data": [*body["data"], body["data"][0][:3]]}, "does not fit the meta"),
        (lambda body: body | {"data": [*body["data"], ["x", "y", 1, 2]]}, "does not fit|has 4 cells"),
        (lambda body: body | {"data": [1, 2]}, "a row is no list"),
        (lambda body: body | {"meta": [*body["meta"][:3], {"name": "x"}]}, "neither dimension nor metric"),
        (lambda body: {"message": "没有权限", "errors": []}, "没有权限"),
        (lambda body: {**body, "meta": None}, "meta and data"),
        (lambda body: [], "no list under"),
        (lambda body: "<html>sign in</html>", "web page"),
    ],
)
def test_an_answer_that_is_not_one_is_refused(
    reader: Callable[..., Reader], vendor: Vendor, change: Callable[[Any], Any], told: str
) -> None:
    first = reader().newest(question("YoX28w7R"), yesterday())
    body = change(json.loads(first.series.file.read_bytes()))
    vendor.fault("charts/YoX28w7R", {"status": 200, "body": body}, times=-1)
    with pytest.raises(NightloadError, match=told) as caught:
        reader().newest(question("YoX28w7R"), yesterday())
    assert "YoX28w7R" in str(caught.value)


def test_the_edge_that_is_told_may_be_the_next_midnight(reader: Callable[..., Reader], vendor: Vendor) -> None:
    body = json.loads(reader().newest(question("YoX28w7R"), yesterday()).series.file.read_bytes())
    vendor.fault("charts/YoX28w7R", {"status": 200, "body": body | {"endTime": body["endTime"] + 1}}, times=-1)
    assert reader().newest(question("YoX28w7R"), yesterday()).rows == 2


def test_a_page_that_repeats_is_seen(reader: Callable[..., Reader], vendor: Vendor) -> None:
    body = json.loads(reader().newest(question("YoX28w7R"), yesterday()).series.file.read_bytes())
    del body["startTime"], body["endTime"]  # not even the echo tells
    vendor.fault("charts/YoX28w7R", {"status": 200, "body": body}, times=-1)
    reading = reader().read(question("YoX28w7R"), yesterday() - timedelta(days=4), yesterday())
    assert "not of the window" in str(reading.missed[0][1])


def test_by_the_hour_zeros_that_mean_nothing_are_null(home: Night, vendor: Vendor) -> None:
    home.set("growingio", charts=["boUn1001"], dashboards=["BoardC03"], intervals=["hour", "week"], backfill_days=15)
    home.set("growingio", exclude=["growingio_charts", "charts"])
    home.set("growingio", start=str(yesterday() - timedelta(days=8)))
    assert home.run("growingio", tables=["growingio.chart_points"]).code == 0
    rows = home.rows(
        "SELECT metric, count(*), count(value), count(quality), any_value(quality) FROM growingio.chart_points "
        "WHERE interval = 'hour' GROUP BY ALL"
    )
    assert {row[0]: row[2:] for row in rows if row[0] in BOUNCE} == dict.fromkeys(
        BOUNCE, (0, 9 * 24 * 8, "hourly_zero")
    )
    assert {row[0]: row[3] for row in rows if row[0] not in BOUNCE} == {"访问量": 0}
    weeks = home.rows("SELECT DISTINCT point_time, window_end FROM growingio.chart_points WHERE interval = 'week'")
    assert all(row[0].astimezone(BEIJING).weekday() == 0 for row in weeks) and len(weeks) in (1, 2)
    home.set("growingio", hourly_zeros="refuse")
    ran = home.run("growingio", full=True, tables=["growingio.chart_points"])
    assert "跳出率 is always 0 then" in ran.tables["growingio.chart_points"]["error"]


def test_windows_are_whole_days_of_beijing() -> None:
    calendar = Calendar.of(Settings())
    day = calendar.buckets("day", date(2019, 10, 15), date(2019, 10, 28))
    window = calendar.window(day)
    assert (window.start, window.end) == (1571068800000, 1572278399999)
    assert [(str(b.first), str(b.last)) for b in calendar.buckets("month", date(2024, 1, 15), date(2024, 3, 30))] == [
        ("2024-01-01", "2024-01-31"),
        ("2024-02-01", "2024-02-29"),
    ]
    assert [str(b.first) for b in calendar.buckets("week", date(2024, 1, 3), date(2024, 1, 14))] == [
        "2024-01-01",
        "2024-01-08",
    ]
    first, second = Window(start=0, end=5 * 3600_000 - 1).halves() or (None, None)
    assert first and second and first.end + 1 == second.start == 2 * 3600_000
    assert Window(start=0, end=3600_000 - 1).halves() is None
    # 05:59 in Beijing: yesterday is not ready yet
    assert newest_day(Settings(), datetime(2024, 1, 9, 21, 59, tzinfo=UTC)) == date(2024, 1, 8)
    assert newest_day(Settings(), datetime(2024, 1, 9, 22, 0, tzinfo=UTC)) == date(2024, 1, 9)
    assert newest_day(Settings(), pendulum.datetime(2024, 1, 9, 22, 0)) == date(2024, 1, 9)


# -- shapes ----------------------------------------------------------------------------------------

T = 1546873200000


@pytest.mark.parametrize(
    ("meta", "row", "time", "dimensions", "metrics"),
    [
        ("M M", [T, 1, 2], 0, [], [1, 2]),  # line and vertical bar of the first generation
        ("D M", ["北京", 1], None, ["北京"], [1]),  # horizontal and bidirectional bar
        ("D D M M", ["a", "b", 1, 2], None, ["a", "b"], [1, 2]),  # table
        ("M M M", [3, 2, 1], None, [], [3, 2, 1]),  # funnel
        ("M", [1], None, [], [1]),  # number
        ("D M M M M", ["a", 1, 2, 3, 4], None, ["a"], [1, 2, 3, 4]),  # bubble
        ("D D M M", ["全部", T, 1, 2], 1, ["全部"], [1, 2]),  # line of the later ones
        ("D D M M", [T, "全部", 1, 2], 0, ["全部"], [1, 2]),  # ... wherever the time stands
        ("D D D M", ["全部", "不适用", "不适用", 8817.0], None, ["全部", None, None], [8817.0]),
        ("D M", ["13812345678", 1], None, ["13812345678"], [1]),  # a text of digits is no time
        ("D M", [1546873200123, 1], None, ["1546873200123"], [1]),  # nor is a number that is no quarter of an hour
        ("M D", [1, "a"], None, ["a"], [1]),
    ],
)
def test_cells_mean_what_the_meta_says(
    meta: str, row: list[Any], time: int | None, dimensions: list[Any], metrics: list[Any]
) -> None:
    entries = [
        {"name": f"n{place}", "dimension" if sign == "D" else "metric": True} for place, sign in enumerate(meta.split())
    ]
    shape = shapes.shape_of(entries, [row], where="a test")
    assert (shape.time.position if shape.time else None) == time
    point = shapes.point_of(row, shape, not_applicable=frozenset({"不适用"}), where="a test")
    assert (list(point.dimensions.values()), list(point.cells)) == (dimensions, metrics)
    assert point.moment == (None if time is None else T)


def test_numbers_are_exact_or_told_as_text() -> None:
    assert shapes.number(2**53 + 1) == (float(2**53), str(2**53 + 1))
    assert shapes.number(2**60) == (float(2**60), None)
    assert shapes.number("12%") == (None, "12%")
    assert shapes.number(float("nan")) == (None, None) and shapes.number(None) == (None, None)
    assert shapes.unique(["a", "A", "", "a"], taken=["b"]) == ["a", "A [2]", "[3]", "a [4]"]


def test_cells_of_funnels_and_retentions_that_no_step_explains_are_kept() -> None:
    """Whatever stands where a number was due: a list, an object, a text."""
    na = frozenset({"不适用"})
    for unpivot, names, cells, wanted in (
        (
            shapes.steps,
            ["总转化率", "第1步人数", "第2步人数", "x"],
            ["不适用", [1], 3.0, {"a": 1}],
            {0: None, 1: None, 2: 3.0},
        ),
        (
            shapes.periods,
            ["留存人数", "当日", "次周", "7日后"],
            [5.0, {"a": 1}, 3.0, "不适用"],
            {-1: 5.0, 0: None, 1: 3.0, 7: None},
        ),
    ):
        shape = shapes.shape_of([{"name": name, "metric": True} for name in names], [cells], where="a test")
        point = shapes.point_of(cells, shape, not_applicable=na, where="a test")
        rows = list(unpivot(shape, point, na))
        place = "step" if unpivot is shapes.steps else "n"
        assert {row[place]: row.get("users") for row in rows} == wanted
        assert any(isinstance(cell, list | dict) for cell in rows[0]["other"].values())
        blank = shapes.Point(moment=None, dimensions={}, cells=(None,) * len(cells))
        assert len(rows) == len(list(unpivot(shape, blank, na))), "as many rows as the meta says"


# -- the token -------------------------------------------------------------------------------------


def test_the_signature_is_the_vendors() -> None:
    text = "project=nxog09md&ai=2a1b4018cd954ec2bcc69da5138bdb96&tm=1465020309123"
    assert signature("secret", text) == "71c04aef8b50bd0d7d72868dece6724b33795138e05f37f272e56394c92d1e9f"


def signed(vendor: Vendor) -> dict[str, Any]:
    names = ("account_ai", "client_id", "secret")
    return {name: vendor.ready[name] for name in names} | {"auth_mode": "signed", "console_token": None}


def test_one_token_is_minted_for_all_workers(vendor: Vendor, configure: Set) -> None:
    configure(**signed(vendor))
    vendor.control("POST", "options", {"latency": 0.02})
    client = package.connect().client
    workers = ThreadPoolExecutor(6)

    def ask_at_once() -> list[Any]:
        return [each.result() for each in [workers.submit(client.segmentations) for _ in range(6)]]

    ask_at_once()
    assert vendor.asked("auth/token") == 1 and vendor.asked("segmentations.json") == 6
    # another job mints: all workers meet a 401, one of them mints again
    vendor.fault("segmentations.json", {"expire_token": True})
    assert len(ask_at_once()) == 6
    assert vendor.asked("auth/token") == 2
    vendor.fault("segmentations.json", {"expire_token": True})
    with pytest.raises(AccessDenied, match="another job mints"):
        client.segmentations()
    assert vendor.asked("auth/token") == 2, "once a run"


@pytest.mark.parametrize("scheme", ["Token ", ""])
def test_the_form_of_the_header_is_found_out_once(vendor: Vendor, configure: Set, scheme: str) -> None:
    vendor.options(scheme=scheme)
    client = package.connect().client
    client.segmentations()
    client.segmentations()
    assert vendor.asked("segmentations.json") == (2 if scheme else 3)


def test_the_form_of_the_header_is_remembered_between_runs(home: Night, vendor: Vendor) -> None:
    vendor.options(scheme="")
    only: dict[str, Any] = {"tables": ["growingio.dashboards", "growingio.segmentations"]}
    assert home.run("growingio", **only).code == 0
    assert vendor.asked("dashboards.json") == 2, "the first one was refused"
    assert home.run("growingio", **only).code == 0
    assert vendor.asked("dashboards.json") == 3 and vendor.asked("segmentations.json") == 2
    # the vendor changes its mind, and changes it back
    for scheme in ("Token ", ""):
        vendor.options(scheme=scheme)
        before = vendor.asked("dashboards.json")
        assert home.run("growingio", **only).code == 0
        assert vendor.asked("dashboards.json") == before + 2
        assert home.run("growingio", **only).code == 0
        assert vendor.asked("dashboards.json") == before + 3
    with duckdb.connect(str(home.warehouse), read_only=True) as connection:
        assert "CANARY" not in str(connection.execute("FROM growingio._dlt_pipeline_state").fetchall())


def test_a_token_that_another_job_ended_before_its_first_use(vendor: Vendor, configure: Set) -> None:
    configure(**signed(vendor))
    vendor.fault("segmentations.json", {"expire_token": True})
    assert len(package.connect().client.segmentations()) == 3
    assert vendor.asked("auth/token") == 2, "both forms of the header were refused, so a new one was minted"


def test_clocks_that_are_apart_are_told_and_can_be_set_off(vendor: Vendor, configure: Set) -> None:
    configure(**signed(vendor))
    vendor.options(clock=3600)
    with pytest.raises(AccessDenied, match="this machine's clock"):
        package.connect().client.segmentations()
    configure(clock_skew_seconds=3600)
    assert len(package.connect().client.segmentations()) == 3


@one_database
def test_a_token_that_nobody_takes_stops_the_vendor(home: Night, vendor: Vendor) -> None:
    home.set("growingio", console_token="CANARY-wrong-token-00000000000000")
    ran = home.run("growingio")
    assert ran.code == 1 and "does not accept the token" in ran.out and "console_token" in ran.out
    assert vendor.control("GET", "stats")["requests"] == 2, "both forms of the header, once"
    assert "CANARY" not in ran.out
    for setting in ({"secret": "CANARYwrong0000"}, {"client_id": "other"}):
        night = Night(home=home.home / "other")
        night.set("growingio", **basics(vendor) | signed(vendor) | setting)
        night.home.mkdir(exist_ok=True)
        ran = night.run("growingio")
        assert ran.code == 1 and "minted no token" in ran.out and "CANARY" not in ran.out


@one_database
def test_a_token_that_ends_in_mid_run(home: Night, vendor: Vendor) -> None:
    home.set("growingio", **signed(vendor))
    vendor.fault("charts/hBar0001", {"expire_token": True}, skip=1)
    ran = home.run("growingio", tables=["growingio.chart_points"])
    assert ran.code == 0, ran.out
    assert points_there(home) == points(vendor, {yesterday() - timedelta(days=back) for back in range(DAYS)})
    assert vendor.asked("auth/token") == 2


@pytest.mark.parametrize(
    ("status", "body", "kind", "asked"),
    [
        (401, {"message": "Unauthorized", "errors": []}, AccessDenied, 2),
        (403, {"message": "Forbidden", "errors": []}, AccessDenied, 1),
        (403, {"message": "访问过于频繁", "errors": []}, NightloadError, 5),
        (429, {"message": "Too many requests"}, NightloadError, 5),
        (503, "", NightloadError, 5),
        (500, {"message": "Request timeout", "errors": [{"code": "request_timeout"}]}, NightloadError, 2),
        (400, {"message": "x", "errors": [{"code": "bad_request", "message": "时间"}]}, Refused, 1),
        (404, {"message": "Not Found"}, Refused, 1),
        (200, {"message": "later", "errors": []}, BrokenAnswer, 1),
        (200, [{"name": "no id"}], BrokenAnswer, 1),
        (200, "not json", BrokenAnswer, 5),
    ],
)
def test_each_refusal_has_its_class(
    vendor: Vendor, configure: Set, status: int, body: Any, kind: type[NightloadError], asked: int
) -> None:
    vendor.fault("segmentations.json", {"status": status, "body": body}, times=-1)
    with pytest.raises(kind) as caught:
        package.connect().client.segmentations()
    assert vendor.asked("segmentations.json") == asked
    assert "CANARY" not in str(caught.value)


def test_an_export_that_never_ends_or_fails(
    reader: Callable[..., Reader], vendor: Vendor, configure: Set, tmp_path: Path
) -> None:
    made = reader(charts_api="v3", segmentations_api="v3", poll_timeout=1, poll_seconds=0.3)
    vendor.fault("v3/", {"status": 200, "body": {"id": "x", "status": "doing"}}, times=-1)
    with pytest.raises(NotReady, match="not ready within 1 s"):
        made.newest(question("YoX28w7R"), yesterday())
    vendor.control("DELETE", "faults")
    failed = {"id": "x", "status": "failed", "errorMsg": "下载错误，请重试"}
    vendor.fault("v3/", {"status": 200, "body": failed}, times=-1)
    with pytest.raises(Refused, match="下载错误"):
        package.connect().client.segmentation_users("seg00001", tmp_path / "x.csv")
    vendor.control("DELETE", "faults")
    evil = {"id": "x", "status": "done", "downloadLinks": ["http://192.0.2.1/x.csv?sign=CANARYsign"]}
    vendor.fault("v3/", {"status": 200, "body": evil}, times=-1)
    with pytest.raises(BrokenAnswer, match="only https") as caught:
        package.connect().client.segmentation_users("seg00001", tmp_path / "x.csv")
    assert "CANARY" not in str(caught.value)


def export_of(vendor: Vendor, *links: str) -> None:
    told = {"id": "x", "status": "done", "downloadLinks": list(links), "errorMsg": ""}
    vendor.fault("v3/", {"status": 200, "body": told}, times=-1)


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("https://10.0.0.8/x.csv?sign=CANARYsign", "not public"),
        ("https://169.254.169.254/latest/meta-data?sign=CANARYsign", "not public"),
        ("https://127.0.0.1:9/x.csv?sign=CANARYsign", "not public"),
        ("https://user:CANARYpass@example.com/x.csv", "a user"),
        ("http://example.com/x.csv?sign=CANARYsign", "only https"),
        ("file:///etc/passwd?CANARY", "no host"),
    ],
)
def test_a_link_that_leads_elsewhere_is_not_followed(
    vendor: Vendor, configure: Set, tmp_path: Path, link: str, why: str
) -> None:
    # the sandbox's own host is this machine; that of a vendor is not
    configure(segmentations_api="v3")
    client = package.connect().client
    export_of(vendor, link)
    client._settings.base_url = "https://www.growingio.com"
    with pytest.raises(BrokenAnswer, match="is not followed") as caught:
        client.segmentation_users("seg00001", tmp_path / "x.csv")
    assert why in str(caught.value) and "CANARY" not in str(caught.value)


def test_a_private_host_is_asked_only_if_it_is_named(vendor: Vendor, configure: Set, tmp_path: Path) -> None:
    configure(segmentations_api="v3", link_hosts=["127.0.0.2"])
    client = package.connect().client
    export_of(vendor, "https://127.0.0.2:9/x.csv?sign=CANARYsign")
    with pytest.raises(NightloadError, match=r"cannot reach 127\.0\.0\.2:9") as caught:
        client.segmentation_users("seg00001", tmp_path / "x.csv")
    assert not isinstance(caught.value, Unreachable), "the vendor itself can be reached"


def test_a_link_that_ended_is_asked_for_anew(vendor: Vendor, configure: Set, tmp_path: Path) -> None:
    configure(segmentations_api="v3")
    client = package.connect().client
    vendor.fault("downloads/", {"status": 403, "body": {"message": "Expired"}})
    client.segmentation_users("seg00002", tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes().startswith("访问用户ID".encode())
    vendor.fault("downloads/", {"status": 403, "body": {"message": "Expired"}}, times=-1)
    with pytest.raises(Refused, match="refused twice"):
        client.segmentation_users("seg00002", tmp_path / "x.csv")
    assert len(client.segmentations()) == 3, "the token is as good as before"


def test_the_files_of_one_export_are_joined(vendor: Vendor, configure: Set, tmp_path: Path) -> None:
    configure(segmentations_api="v3")
    client, base, file = package.connect().client, vendor.ready["base_url"], tmp_path / "x.csv"
    export_of(vendor, f"{base}/downloads/a.csv?sign=1", f"{base}/downloads/b.csv?sign=1")
    vendor.fault("downloads/a", {"status": 200, "body": "id\tname\n1\tx"}, times=-1)
    vendor.fault("downloads/b", {"status": 200, "body": "\ufeffid\tname\r\n2\ty\n"})
    client.segmentation_users("seg00001", file)
    assert file.read_text() == "id\tname\n1\tx\n2\ty\n"
    vendor.fault("downloads/b", {"status": 200, "body": "name\tid\n2\ty\n"})
    with pytest.raises(BrokenAnswer, match="different headers"):
        client.segmentation_users("seg00001", file)
    vendor.control("DELETE", "faults")
    export_of(vendor, f"{base}/downloads/a.csv?sign=1")
    vendor.fault("downloads/a", {"status": 200, "body": {"message": "没有权限"}}, times=-1)
    with pytest.raises(BrokenAnswer, match=r"error came where CSV was due.*没有权限"):
        client.segmentation_users("seg00001", file)


@one_database
def test_no_credential_is_logged(
    home: Night, vendor: Vendor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.set("growingio", **signed(vendor), segmentations_api="v3")
    package_logger = logging.getLogger("httpx")
    level = package_logger.level
    caplog.set_level(logging.DEBUG)
    try:
        for name in ("httpx", "httpcore", "sources", "pipelines"):
            caplog.set_level(logging.DEBUG, logger=name)
        token = vendor.ready["secret"]
        vendor.fault("rules.csv", {"status": 500, "body": f"<html>{token}</html>"}, times=1)
        ran = home.run("growingio", tables=["growingio.segmentation_users", "growingio.rules"])
    finally:
        package_logger.setLevel(level)
    assert ran.code == 0 and "auth/token" in caplog.text
    assert "CANARY" not in caplog.text and "CANARY" not in ran.out


# -- what boards tell ------------------------------------------------------------------------------


@one_database
def test_boards_by_name_where_there_is_no_list(home: Night, vendor: Vendor) -> None:
    vendor.options(without_list=True)
    tables = ["growingio.dashboards", "growingio.dashboard_charts"]
    ran = home.run("growingio", tables=tables)
    assert ran.code == 1 and "has no list of boards. Set dashboards" in ran.out
    home.set("growingio", dashboards=["BoardA01"])
    ran = home.run("growingio", tables=tables)
    assert ran.code == 0, ran.out
    assert home.rows("SELECT id, name FROM growingio.dashboards") == [("BoardA01", "核心看板")]


@one_database
def test_a_board_of_another_type_may_refuse(home: Night, vendor: Vendor) -> None:
    vendor.fault("dashboards/BoardC03", {"status": 404, "body": {"message": "Not Found"}}, times=-1)
    assert home.run("growingio", tables=["growingio.dashboard_charts"]).code == 0
    vendor.fault("dashboards/BoardB02", {"status": 404, "body": {"message": "Not Found"}}, times=-1)
    assert home.run("growingio", tables=["growingio.dashboard_charts"]).code == 1


def test_a_chart_that_is_gone_fails_alone(home: Night, vendor: Vendor) -> None:
    home.set("growingio", charts=["YoX28w7R", "gone0001"], dashboards=["BoardC03"])
    home.set("growingio", exclude=["segmentation_users", "segmentations", "rules", "dashboards", "retention"])
    ran = home.run("growingio")
    assert ran.code == 1
    assert "gone0001" in ran.tables["growingio.chart_points"]["error"]
    assert "gone0001" in ran.tables["growingio.charts"]["error"]
    assert ran.tables["growingio.chart_points"]["landed"] == DAYS * 4
    assert ran.tables["growingio_charts.chart_yo_x28w7_r"]["status"] == "ok"
    assert ran.tables["growingio_charts.chart_gone0001"]["status"] == "failed"


# -- CSV -------------------------------------------------------------------------------------------


def read(tmp_path: Path, content: bytes, separator: str = "auto") -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    file, out = tmp_path / "users.csv", tmp_path / "users.parquet"
    file.write_bytes(content)
    body = delimited.as_utf8(file, where="a test")
    dialect = delimited.dialect_of(file, separator=separator, taken=("segmentation_id",), where="a test")
    assert dialect is not None
    landing = delimited.Landing(out=out, named=columns_for, load_id="1", constants={"segmentation_id": "s'1"})
    part = delimited.to_part(body, dialect, landing, where="a test")
    labels = [label for label in part.columns if label != "segmentation_id"]
    with duckdb.connect() as connection:
        selected = ", ".join(part.columns[label] for label in labels)
        rows = connection.execute(f"SELECT {selected} FROM '{out}'").fetchall()
    assert part.rows == len(rows)
    return tuple(labels), rows


@pytest.mark.parametrize(
    ("content", "labels", "rows"),
    [
        (b"cs1_name\tcs2_name    \n12249\tGrowingIO\n", ("cs1_name", "cs2_name"), [("12249", "GrowingIO")]),
        (b"\xef\xbb\xbfid\tname\r\n007\tx\r\n", ("id", "name"), [("007", "x")]),
        (b"\n\n id , name \n1,2\n", ("id", "name"), [("1", "2")]),
        (b"a,b\tc,d\n1,2\t3,4\n", ("a,b", "c,d"), [("1,2", "3,4")]),
        (b"id\tname\n1\n2\tx\n", ("id", "name"), [("1", None), ("2", "x")]),
        (b"id\tname\n1\tx\t\t\n", ("id", "name"), [("1", "x")]),
        (b"id\n1\n\n2\n\n", ("id",), [("1",), ("2",)]),
        (b"id\n1\tx\ty\n2\n", ("id", "_beyond_header"), [("1", "x\ty"), ("2", None)]),
        (b"id\tid\t\tID\n1\t2\t3\t4\n", ("id", "id [2]", "[3]", "ID [4]"), [("1", "2", "3", "4")]),
        (b"id\tsegmentation_id\n1\t2\n", ("id", "segmentation_id [2]"), [("1", "2")]),
        (b'id\tname\n1\t"a\tb"\n2\t"c""d"\n', ("id", "name"), [("1", "a\tb"), ("2", 'c"d')]),
        (b'id\tname\n1\t"a\n2\tb\n', ("id", "name"), [("1", '"a'), ("2", "b")]),
        (b"id\tname\r\n1\ta\n2\tb\r\n", ("id", "name"), [("1", "a"), ("2", "b")]),
        (b"id\tname\n1\ta\0b", ("id", "name"), [("1", "a\ufffdb")]),
        ("id\t城市\n1\t北京\n".encode("gb18030"), ("id", "城市"), [("1", "北京")]),
        (b"id\tname\n1\t" + b"x" * 2**20 + b"\n", ("id", "name"), [("1", "x" * 2**20)]),
        (b"id\n1\n" + b"2" * 5 * 2**20 + b"\t3\n", ("id", "_beyond_header"), [("1", None), ("2" * 5 * 2**20, "3")]),
        (b"id\tname\n" * 3 + b"1\t2\t\t \n", ("id", "name"), [("id", "name")] * 2 + [("1", "2")]),
        (b"id\tname\n", ("id", "name"), []),
    ],
)
def test_whatever_dialect_the_csv_has(
    tmp_path: Path, content: bytes, labels: tuple[str, ...], rows: list[tuple[Any, ...]]
) -> None:
    assert read(tmp_path, content) == (labels, rows)


def test_the_file_of_a_segment_is_loaded_as_it_is(tmp_path: Path) -> None:
    """DuckDB writes a column without NULL as NOT NULL if it can tell, and dlt then rewrites the file in Python."""
    read(tmp_path, b"id\tmail\n1\ta@b.com\n2\tc@d.org\n")
    out = tmp_path / "users.parquet"
    part = Part(path=out, columns={"s": "segmentation_id", "id": "id", "mail": "mail"}, rows=2, digest="")

    def required() -> list[str]:
        return [field.name for field in pq.read_schema(out) if not field.nullable]

    assert required() == ["_dlt_load_id"]
    spools = []
    for number in (1, 2):
        copy = tmp_path / f"{number}.parquet"
        copy.write_bytes(out.read_bytes())
        spool = Spool(tmp_path / f"{number}.json")
        spool.part(replace(part, path=copy))
        spools.append(spool)
    columns = [Column(label=label, name=name, kind=Kind.TEXT, path=(name,)) for label, name in part.columns.items()]
    whole = to_parquet(spools[0], out=out, columns=columns, load_id="1", where="a test")
    assert whole.rows == 2 and required() == ["_dlt_load_id"]
    inode = (tmp_path / "2.parquet").stat().st_ino
    to_parquet(spools[1], out=out, columns=columns, load_id="1", where="a test")
    assert out.stat().st_ino == inode, "a file that is as it is due is not written again"
    spools[1].part(replace(part, path=tmp_path / "3.parquet"))
    (tmp_path / "2.parquet").write_bytes(out.read_bytes())
    (tmp_path / "3.parquet").write_bytes(out.read_bytes())
    both = to_parquet(spools[1], out=out, columns=columns, load_id="1", where="a test")
    assert both.rows == 4 and required() == ["_dlt_load_id"]
    hashed = screen(
        both,
        dataset="growingio",
        table="segmentation_users",
        policies={"mail": HASH},
        prefixes={"mail": "s"},
        forgotten=Forgotten(),
    )
    assert hashed.converted.digest != both.digest and required() == ["_dlt_load_id"]


@pytest.mark.parametrize(
    ("cells", "is_personal"),
    [
        (["+49 30 901820", "x"], True),
        (["  13812345678 "], True),
        (["86-13812345678", "8613812345678"], True),
        (["2026-01-01", "12", "1381234567", "86"], False),
        (["a@b.com", *["x"] * 3], True),
        (["a@b.com", *["x"] * 9], False),
        (["@b.com", "a@b"], False),
        ([], False),
    ],
)
def test_what_looks_like_a_person_is_seen_by_its_cells(tmp_path: Path, cells: list[str], is_personal: bool) -> None:
    file = tmp_path / "users.csv"
    file.write_text("\n".join(["a\tb", *(f"{cell}\tq" for cell in cells)]) + "\n")
    body = delimited.as_utf8(file, where="a test")
    dialect = delimited.dialect_of(file, separator="auto", where="a test")
    assert dialect is not None
    landing = delimited.Landing(out=tmp_path / "users.parquet", named=columns_for, load_id="1")
    part = delimited.to_part(body, dialect, landing, where="a test")
    assert delimited.personal(part, ["a", "b"], has_at=body.has_at) == (["a"] if is_personal else [])


@pytest.mark.parametrize("sign", [",", "\t"])
@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["r1,注册,clck", "r2,登录,page"], ["注册", "登录"]),
        (['r1,"注册,clck', "r2,登录,page", 'r3,a"b,imp'], ['"注册', "登录", 'a"b']),  # quotes that do not close
        (['r1,"注册,clck', 'r2,登录",page'], ['"注册', '登录"']),  # ... and two that look as if they did
        (['r1,"注册",clck', 'r2,"a ""b""",page', 'r3,"a"b",page'], ["注册", 'a "b"', '"a"b"']),
        (['r1,"two', 'lines",clck', "r2,x,page"], ["two\nlines", "x"]),
        (["r1,注册", "r2,,page", "", "r3,x,page,,"], ["注册", None, "x"]),
    ],
)
def test_a_quote_in_the_name_of_a_rule_swallows_no_other_rule(
    tmp_path: Path, sign: str, lines: list[str], names: list[str | None]
) -> None:
    assert [row["eventName"] for row in rules_read(tmp_path, ["ruleId,eventName,eventType", *lines], sign)] == names


def rules_read(tmp_path: Path, lines: list[str], sign: str) -> list[dict[str, Any]]:
    file = tmp_path / "rules.csv"
    file.write_text("\n".join(lines).replace(",", sign), encoding="utf-8-sig")
    dialect = delimited.dialect_of(file, separator="auto", where="a test")
    assert dialect is not None
    return rules.rules_of(file, dialect, where="a test")


def test_commas_in_the_name_of_a_rule(tmp_path: Path) -> None:
    lines = ["ruleId,eventName,eventType", "r1,a,b,c,clck", 'r2,"x,y",page']
    assert [row["eventName"] for row in rules_read(tmp_path, lines, ",")] == ["a,b,c", "x,y"]
    with pytest.raises(BrokenAnswer, match="rule r1 has 5 cells of 3"):
        rules_read(tmp_path, lines, "\t")


def test_headers_that_change_between_two_nights(home: Night, vendor: Vendor) -> None:
    only: dict[str, Any] = {"tables": ["growingio.segmentation_users"]}
    assert home.run("growingio", **only).code == 0
    changed = {"header": ["城市", "访问用户ID", "新"], "users": [["北京", "1", "a"], ["上海", "2", ""]]}
    vendor.edit({"table": "segmentations", "op": "update", "key": "seg00002", "row": changed})
    assert home.run("growingio", **only).code == 0
    there = users_there(home, "seg00002", "访问用户id", "城市", "新", "联系")
    assert there == [("1", "北京", "a", None), ("2", "上海", None, None)]
    assert len(users_there(home, "seg00001", "cs1_name")) == len(vendor.rows("segmentations")[0]["users"])


def test_a_row_far_beyond_the_header_is_told_without_its_cells(tmp_path: Path) -> None:
    with pytest.raises(BrokenAnswer, match="more cells than the header") as caught:
        read(tmp_path, b"id\n" + b"\t".join([b"CANARY"] * 20) + b"\n")
    assert "CANARY" not in str(caught.value) and caught.value.__suppress_context__


def test_bytes_of_no_encoding_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenAnswer, match="neither UTF-8 nor GB18030"):
        read(tmp_path, b"id\n\xff\xff\xff\n")


def test_an_error_where_csv_was_due(home: Night, vendor: Vendor) -> None:
    tables = ["growingio.segmentation_users", "growingio.rules"]
    vendor.fault("csv", {"status": 200, "body": {"message": "没有权限", "errors": []}}, times=-1)
    ran = home.run("growingio", tables=tables)
    assert ran.code == 1
    assert all("error came where CSV was due" in ran.tables[name]["error"] for name in tables)
    assert all("没有权限" in ran.tables[name]["error"] for name in tables)
    vendor.control("DELETE", "faults")
    vendor.options(rules="tab", csv={"encoding": "gb18030", "separator": "comma", "newline": "\r\n"})
    assert home.run("growingio", tables=tables).code == 0
    users_are_true(home, vendor)
    assert home.rows("SELECT count(*) FROM growingio.rules") == [(len(vendor.rows("rules")),)]


def test_users_are_as_many_as_the_vendor_counts_or_nothing_is_loaded(home: Night, vendor: Vendor) -> None:
    only: dict[str, Any] = {"tables": ["growingio.segmentation_users"]}
    vendor.edit({"table": "segmentations", "op": "update", "key": "seg00002", "row": {"userNum": 5}})
    ran = home.run("growingio", **only)
    assert ran.code == 4 and "has 5 users by its userNum, and 4 lines came" in ran.out
    assert vendor.asked("seg00002/users.csv") == 2
    home.set("growingio", user_num="told")
    ran = home.run("growingio", **only)
    assert ran.code == 0 and "4 lines came" in str(ran.tables["growingio.segmentation_users"]["notes"])
    # a segment that moved between its list and its download is read once more
    vendor.control("POST", "reset")
    home.set("growingio", user_num="exact")
    more = {"table": "segmentations", "op": "update", "key": "seg00002", "row": {"users": [["1", "", "a", "b"]]}}
    vendor.fault("segmentations.json", {"edit": more})
    assert home.run("growingio", full=True, **only).code == 0
    users_are_true(home, vendor)


@one_database
def test_what_changed_on_the_day_of_its_load_is_loaded_the_next_time(home: Night, vendor: Vendor) -> None:
    """`updatedAt` is a day without an hour: users that change after the load, and stay as many, move nothing."""
    only: dict[str, Any] = {"tables": ["growingio.segmentation_users"]}
    change = {"table": "segmentations", "op": "update", "key": "seg00002"}
    vendor.edit({**change, "row": {"users": [["1", "", "a", "b"]]}})
    assert home.run("growingio", **only).code == 0
    vendor.edit({**change, "row": {"users": [["2", "", "c", "d"]]}, "silent": True})
    before = vendor.asked("seg00001/users.csv")
    assert home.run("growingio", **only).code == 0
    users_are_true(home, vendor)
    assert vendor.asked("seg00001/users.csv") == before, "this one changed long ago"


@one_database
def test_a_vendor_that_lost_sight_of_its_segments_empties_nothing(home: Night, vendor: Vendor) -> None:
    only: dict[str, Any] = {"tables": ["growingio.segmentation_users"]}
    assert home.run("growingio", **only).code == 0
    vendor.fault("segmentations.json", {"status": 200, "body": []}, times=-1)
    ran = home.run("growingio", **only)
    assert ran.code == 1 and "lost sight" in ran.tables["growingio.segmentation_users"]["error"]
    users_are_true(home, vendor)
    vendor.control("DELETE", "faults")
    for key in ("seg00001", "seg00002"):
        vendor.edit({"table": "segmentations", "op": "update", "key": key, "row": {"users": []}})
    assert home.run("growingio", **only).code == 1
    assert users_there(home, "seg00002", "联系"), "no users at all are no answer either"
    assert home.run("growingio", **only, allow_empty=["growingio.segmentation_users"]).code == 0
    users_are_true(home, vendor)


@one_database
def test_a_full_file_of_a_segment_is_not_believed(home: Night, vendor: Vendor) -> None:
    home.set("growingio", most_rows=50, user_num="told")
    vendor.edit({"table": "segmentations", "op": "update", "key": "seg00001", "row": {"userNum": 60}})
    ran = home.run("growingio", tables=["growingio.segmentation_users"])
    assert ran.code == 1 and "has 50 lines, as many as an answer carries" in ran.out
    assert users_there(home, "seg00002", "联系") and not users_there(home, "seg00001", "联系")


def test_a_segment_fails_alone(home: Night, vendor: Vendor) -> None:
    """A wrong count, a file that cannot be had, a segment that is gone: the others land, and it is due again."""
    only: dict[str, Any] = {"tables": ["growingio.segmentation_users"]}
    assert home.run("growingio", **only).code == 0
    before = users_there(home, "seg00002", "联系")
    for row in ({"userNum": 5}, {"users": [["9", "x", "y"]], "userNum": 1}):
        key = "seg00002" if "users" not in row else "seg00001"
        vendor.edit({"table": "segmentations", "op": "update", "key": key, "row": row})
    ran = home.run("growingio", **only)
    table = ran.tables["growingio.segmentation_users"]
    assert (ran.code, table["status"], table["extracted"], table["landed"]) == (4, "mismatch", 1, 1)
    assert users_there(home, "seg00002", "联系") == before
    assert len(users_there(home, "seg00001", "cs1_name")) == 1
    vendor.edit({"table": "segmentations", "op": "update", "key": "seg00002", "row": {"userNum": len(before)}})
    assert home.run("growingio", **only).code == 0
    users_are_true(home, vendor)

    home.set("growingio", segmentation_users=["seg00001", "gone"])
    vendor.edit(
        {
            "table": "segmentations",
            "op": "update",
            "key": "seg00001",
            "row": {"users": [["8", "x", "y"], ["7", "x", "y"]], "userNum": 2},
        }
    )
    ran = home.run("growingio", **only)
    assert "names gone, which the vendor does not list" in ran.tables["growingio.segmentation_users"]["error"]
    assert (ran.code, ran.tables["growingio.segmentation_users"]["landed"]) == (1, 2)


@one_database
def test_of_several_segments_that_fail_each_reason_is_reported(home: Night, vendor: Vendor) -> None:
    home.set("growingio", segmentation_users=["seg00001", "seg00002", "gone"])
    for key in ("seg00001", "seg00002"):
        vendor.edit({"table": "segmentations", "op": "update", "key": key, "row": {"userNum": 5}})
    table = home.run("growingio", tables=["growingio.segmentation_users"]).tables["growingio.segmentation_users"]
    reported = f"{table['error']} {table['notes']}"
    for reason in ("names gone", "segment seg00001 has 5 users", "segment seg00002 has 5 users"):
        assert reason in reported, reported


@one_database
def test_a_segment_whose_id_is_no_id_fails_alone(home: Night, vendor: Vendor) -> None:
    listed = vendor.control("GET", "truth/segmentations")["rows"]
    strange = [{**row, "id": "../2"} if row["id"] == "seg00002" else row for row in listed]
    vendor.fault("segmentations.json", {"status": 200, "body": strange}, times=-1)
    ran = home.run("growingio", tables=["growingio.segmentation_users"])
    assert (ran.code, "'../2' is no id" in ran.out) == (1, True), ran.out
    assert users_there(home, "seg00001", "cs1_name")


def test_personal_columns_by_configuration(home: Night, vendor: Vendor) -> None:
    only: dict[str, Any] = {"tables": ["growingio.segmentation_users"]}
    home.set("growingio", user_columns={"手机号": "drop", "联系": "keep", "cs1_name": "hash"}, hash_salt="CANARY-salt")
    ran = home.run("growingio", **only)
    assert ran.code == 0, ran.out
    columns = {
        name for (name,) in home.rows("SELECT column_name FROM nightload.columns WHERE table_name LIKE '%users'")
    }
    assert "手机号" not in columns and "联系" in columns
    first = vendor.rows("segmentations")[0]["users"]
    assert {row[0] for row in users_there(home, "seg00001", "cs1_name")} == {
        salted(vendor, row[0], "CANARY-salt") for row in first
    }
    assert ("CANARY.one@example.com",) in users_there(home, "seg00002", "联系")
    asked = vendor.asked("users.csv")
    home.set("growingio", user_columns={"手机号": "drop", "联系": "drop"})
    assert home.run("growingio", **only).code == 0
    assert vendor.asked("users.csv") == asked + 3, "another policy loads all anew"
    nothing_private(home)
    home.set("growingio", segmentation_users=["nobody"])
    assert "which the vendor does not list" in home.run("growingio", **only).out


# -- settings --------------------------------------------------------------------------------------


def test_a_start_that_is_still_to_come_asks_for_nothing(home: Night, vendor: Vendor) -> None:
    home.set("growingio", start=str(yesterday() + timedelta(days=2)), charts=["hBar0001"], dashboards=["BoardC03"])
    ran = home.run("growingio", tables=["growingio.chart_points"])
    assert ran.code == 0 and ran.tables["growingio.chart_points"]["landed"] == 0, ran.out
    home.set("growingio", start=str(yesterday()))
    assert home.run("growingio", tables=["growingio.chart_points"]).code == 0
    assert home.rows("SELECT DISTINCT event_date FROM growingio.chart_points") == [(yesterday(),)]


def test_settings_reach_the_requests_and_the_rows(home: Night, vendor: Vendor) -> None:
    no = {"status": 404, "body": {"message": "Not Found"}}
    vendor.fault(r"funnels/.*conversionWindow=(?!7\b)", no, times=-1)
    vendor.fault(r"retentions/.*range=(?!week\b)", no, times=-1)
    vendor.fault(r"segmentations/.*expire=(?!90\b)", no, times=-1)
    vendor.fault(r"charts/boUn1001.*interval=(?!3600000\b)", no, times=-1)
    home.set("growingio", conversion_window=7, retention_range="week", retention_periods=2, backfill_days=15)
    home.set("growingio", exclude_charts=["biGg1001"], not_applicable=["上海"], types={"vBar0001": "chart"})
    home.set("growingio", chart_intervals={"boUn1001": ["hour"]}, hourly_zero_metrics=["访问量"], window_days=4)
    home.set("growingio", end=str(yesterday() - timedelta(days=1)), segmentations_api="v3", link_minutes=90)
    tables = [f"growingio.{name}" for name in ("chart_points", "funnel_steps", "retention", "segmentation_users")]
    ran = home.run("growingio", tables=tables)
    assert ran.code == 0, ran.out
    assert vendor.asked("charts/biGg1001") == 0 and vendor.asked("funnels/vBar0001") == 0
    assert vendor.asked("charts/YoX28w7R") == 1 + 4, "the newest day, and fourteen by four"
    assert home.rows("SELECT max(event_date) FROM growingio.chart_points") == [(yesterday() - timedelta(days=1),)]
    cities = home.rows("SELECT DISTINCT dimensions->>'城市' FROM growingio.chart_points WHERE chart_id = 'hBar0001'")
    assert {city for (city,) in cities} == {"北京", None, "不适用", "Côte d'Ivoire"}
    weeks = home.rows("SELECT DISTINCT event_date, window_end, range FROM growingio.retention")
    days = [yesterday() - timedelta(days=1 + number) for number in range(15)]
    mondays = {day - timedelta(days=6) for day in days if day.weekday() == 6}  # of the weeks that end in these days
    assert {(day, each) for day, _, each in weeks} == {(day, "week") for day in mondays}
    assert home.rows("SELECT DISTINCT conversion_window FROM growingio.funnel_steps") == [(7,)]
    zeros = "SELECT count(*) FROM growingio.chart_points WHERE chart_id = 'boUn1001' AND value = 0"
    assert home.rows(zeros) == [(0,)]
    assert home.rows(f"{zeros.replace('value = 0', 'quality IS NOT NULL')} AND metric = '访问量'") > [(0,)]
    home.set("growingio", week_starts="sunday")
    ran = home.run("growingio", full=True, tables=["growingio.retention"])
    assert ran.code == 1 and "set week_starts to the other day" in ran.out


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"console_token": None}, "console_token is not set"),
        ({"project_uid": None, "console_token": None}, "project_uid, sources.growingio.console_token is not set"),
        ({"auth_mode": "signed"}, "account_ai, sources.growingio.client_id, sources.growingio.secret is not set"),
        ({"auth_mode": "sined"}, "Did you mean 'signed'"),
        ({"auth_scheme": "Bearer "}, "auth_scheme is 'Bearer '"),
        ({"zone": "Asia/Pekin"}, "no time zone"),
        ({"start": "2024-02-30"}, "Write a day"),
        ({"start": "2024-02-02", "end": "2024-02-01"}, "is before start"),
        ({"charts_api": "v4"}, "charts_api is 'v4'"),
        ({"intervals": ["days"]}, "Did you mean 'day'"),
        ({"types": {"x": "funel"}}, "Did you mean 'funnel'"),
        ({"chart_intervals": {"x": "minute"}}, "chart_intervals.x is 'minute'"),
        ({"user_columns": {"x": "mask"}}, "user_columns.x is 'mask'"),
        ({"exclude": ["rule"]}, "Did you mean 'rules'"),
        ({"project_uid": "a/../b"}, "is no id"),
        ({"charts": ["a b"]}, "is no id"),
        ({"lookback_days": 0}, "lookback_days is 0"),
        ({"link_hosts": ["https://files.example.com"]}, "which is no host"),
        ({"most_rows": 300_000}, "most_rows"),
        ({"requests_per_second": 0}, "requests_per_second"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_at_once(configure: Set, setting: dict[str, Any], told: str) -> None:
    configure(**setting)
    with pytest.raises(ConfigurationError, match=told):
        package.connect()


def test_without_a_token_the_tables_are_known_all_the_same(configure: Set) -> None:
    configure(console_token=None)
    assert not package.configured()
    assert package.tables()["growingio_charts"] == ()
    assert {table.name for table in package.tables()["growingio"]} >= {"chart_points", "segmentation_users", "rules"}


def test_check_tells_what_is_in_sight(vendor: Vendor, configure: Set) -> None:
    lines = list(package.connect().check())
    assert "3 segments" in lines[0] and "3 boards" in lines[1] and str(yesterday()) in lines[2]
    assert lines[3] == "the clocks agree"
    vendor.control("POST", "reset")


@pytest.mark.parametrize(
    ("table", "rows"), [("chart_points", 3), ("segmentation_users", 4), ("charts", 3), ("rules", 3)]
)
def test_a_preview_asks_for_little(vendor: Vendor, configure: Set, tmp_path: Path, table: str, rows: int) -> None:
    made = Extraction(vendor="growingio", spool_dir=tmp_path, until=pendulum.now("UTC"))
    connected = package.connect()
    list(connected.fixed(made))
    assert made.preview(f"growingio.{table}", limit=3).rows == rows
    assert vendor.asked("charts/") <= 5
