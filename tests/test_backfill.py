"""Days of the past, a chunk at a time: the vendor's truth, whatever is killed and whatever night comes in between."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import DATABASES, Database, Night, one_database
from pipelines.config import project as places
from pipelines.warehouse.lock import lock
from pipelines.warehouse.open import open_warehouse, turn
from sandbox_process import SandboxProcess, start_sandbox
from sources.core.dates import Days
from sources.core.errors import Locked
from sources.growingio.settings import Settings
from sources.growingio.windows import newest_day
from sources.http.rate_limit import Rate
from sources.tune.client import Client
from sources.tune.periods import Calendar
from sources.tune.settings import Settings as TuneSettings
from test_growingio import Vendor as Growingio
from test_growingio import basics as growingio_basics
from test_growingio import points, points_there
from tune_facts import DAILY, FACTS, FIRST, TODAY, Vendor, expected_actuals, found_actuals

TABLE = "tune.actuals_daily"
BEGIN = TODAY - timedelta(days=4)
"""Where the nights begin; what is older comes by a backfill."""
OLD = ("--from", str(FIRST), "--to", str(BEGIN - timedelta(days=1)), "--chunk", "3d")
CHUNKS = [f"{FIRST + timedelta(days=n)}..{FIRST + timedelta(days=min(n + 2, 7))}" for n in (0, 3, 6)]
GOOD = {"ok", "unchanged", "warning"}


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "tune,growingio,thinkingengine", "--scale", "0.01") as running:
        yield running


@pytest.fixture
def vendor(process: SandboxProcess) -> Vendor:
    vendor = Vendor(process)
    vendor.control("POST", "reset")
    return vendor


@pytest.fixture
def night(vendor: Vendor, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    (home := tmp_path / "home").mkdir()
    night = Night(home=home, database=database)
    night.set("tune", base_url=vendor.process.tune["base_url"], api_key=vendor.key, requests_per_second=10000)
    night.set("tune", reports=[{**DAILY, "start": str(BEGIN)}])
    return night


def chunks(night: Night) -> list[tuple[Any, ...]]:
    """What the warehouse tells of them, but for times and counts of calls."""
    return night.rows(
        "SELECT first_day || '..' || last_day, status, vendor_count = extracted AND extracted = landed "
        "FROM nightload.backfills ORDER BY chunk_id"
    )


def cursors(night: Night) -> dict[str, Any]:
    found = night.main("state", "show", TABLE, "--json")
    return dict(found.json["tables"][0]["state"]) if found.code == 0 else {}


def test_what_is_older_than_the_nights_is_true_and_they_go_on_as_before(night: Night, vendor: Vendor) -> None:
    told = night.main("backfill", TABLE, *OLD, "--dry-run", "--json")
    assert told.code == 0 and [each["done"] for each in told.json["chunks"]] == [False] * 3
    assert not night.is_loaded() and vendor.asked("stats") == 0, "a dry run asks nobody"

    ran = night.main("backfill", TABLE, *OLD, "--workers", "3")
    assert ran.code == 0, ran.err
    assert chunks(night) == [(days, "ok", True) for days in CHUNKS]
    assert told.json["calls"] <= vendor.asked("stats"), "the bound holds"
    assert night.main("status", "--json").json["vendors"] == [], "a backfill is no night"
    truth = expected_actuals(vendor)
    older = {key: row for key, row in truth.items() if row["window_start"] < str(BEGIN)}
    assert found_actuals(night) == older and len(older) < len(truth)

    first = night.run("tune", tables=[TABLE])
    assert first.code == 0 and first.tables[TABLE]["live"] == len(truth), first.out
    assert first.tables[TABLE]["notes"] == [], "the first night does not take itself for a change"
    assert found_actuals(night) == truth
    before = cursors(night)
    assert min(before["windows"]) == str(BEGIN) and min(before["backfilled"]) == str(FIRST)

    asked = vendor.asked("stats")
    again = night.main("backfill", TABLE, *OLD, "--json")
    assert (again.code, len(again.json["skipped"]), vendor.asked("stats")) == (0, 3, asked)

    facts = [fact for fact in vendor.facts(FACTS) if not fact["debug_mode"] and not fact["test_profile_id"]]
    old = next(fact for fact in facts if fact["date_hour"].startswith(str(FIRST + timedelta(days=1))))
    live = next(fact for fact in facts if fact["date_hour"].startswith(str(BEGIN)))
    gone = [fact["id"] for fact in vendor.facts(FACTS) if fact["date_hour"].startswith(str(FIRST))]
    vendor.edit(
        {"table": FACTS, "op": "update", "key": old["id"], "row": {"installs": 7777}},
        {"table": FACTS, "op": "update", "key": live["id"], "row": {"installs": 8888}},
        *({"table": FACTS, "op": "delete", "key": key} for key in gone),
    )
    both = ("--from", str(FIRST), "--to", str(BEGIN), "--chunk", "2w", "--again")
    assert night.main("backfill", TABLE, *both).code == 0
    assert found_actuals(night) == expected_actuals(vendor)
    after = cursors(night)
    rows = {"windows": 0, "backfilled": 0, "window": 0}
    assert {**after, **rows} == {**before, **rows}
    assert set(after["windows"]) == set(before["windows"]), "what the nights ask for again is what it was"
    second = night.run("tune", tables=[TABLE])
    assert second.code == 0 and second.tables[TABLE]["live"] == len(expected_actuals(vendor)), second.out
    assert second.tables[TABLE]["status"] == "unchanged"
    assert night.rows("SELECT count(*) FROM nightload.runs") == [(2,)]
    assert night.rows("SELECT count(*) FROM nightload.incidents") == [(0,)] if "incidents" in ours(night) else True
    assert night.files() == set() and not [path for path in night.state.iterdir() if path.is_dir()]


def ours(night: Night) -> set[str]:
    return {name for (name,) in night.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'nightload'")}


POINTS = {
    "inside the second chunk": ("pipelines.run.load:_load", "before", 2, "", 1),
    "while it fetches the third": ("sources.extract.extractor:Extraction.fetch_ahead", "before", 3, "", None),
    "between two chunks": ("pipelines.ledger.store:Ledger.published", "before", 1, "backfill tune", 1),
}


@pytest.mark.parametrize(
    ("name", "database"),
    [(name, kind) for name in POINTS for kind in DATABASES if kind == "duckdb" or "fetches" not in name],
    indirect=["database"],
)
def test_killed_it_leaves_whole_chunks_and_the_same_command_does_the_rest(
    name: str, night: Night, vendor: Vendor, tmp_path: Path
) -> None:
    *point, whole = POINTS[name]
    night.set("tune", reports=[DAILY])  # a table that knows no later days
    killer = (sys.executable, str(Path(__file__).with_name("killed.py")), *map(str, point))
    process = night.start("backfill", TABLE, *OLD, command=killer)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    truth = {key: row for key, row in expected_actuals(vendor).items() if row["window_start"] < str(BEGIN)}
    there = found_actuals(night) if night.is_loaded() else {}
    days = {row["window_start"] for row in there.values()}
    last = max(days, default=str(FIRST - timedelta(days=1)))
    assert there == {key: row for key, row in truth.items() if row["window_start"] <= last}
    if whole is not None:
        assert days == {str(FIRST + timedelta(days=n)) for n in range(3 * whole)}
    asked = vendor.asked("stats/find")
    ran = night.main("backfill", TABLE, *OLD, "--json")
    assert ran.code == 0 and found_actuals(night) == truth, ran.err
    assert vendor.asked("stats/find") - asked <= 8 - len(days), "a chunk that was loaded was asked for again"
    assert [status for _, status, _ in chunks(night)] == ["ok"] * 3
    assert night.files() == set() and not [path for path in night.state.iterdir() if path.is_dir()]


@contextmanager
def backfilling(night: Night, days: Days, **options: Any) -> Iterator[Callable[..., list[Any]]]:
    """A backfill in this process, to be begun by the one who asks."""
    from pipelines.operations.backfill import backfill
    from pipelines.operations.backfill_plan import planned

    with night.here() as place, planned(place, TABLE, days, chunk=3, **options) as (plan, connected):
        yield lambda **more: backfill(place, plan, connected, **more)


def test_a_night_between_two_chunks_takes_its_turn_and_no_old_answer_takes_the_place_of_a_newer(
    night: Night, vendor: Vendor
) -> None:
    ran: list[int] = []
    facts = [fact for fact in vendor.facts(FACTS) if not fact["debug_mode"] and not fact["test_profile_id"]]
    last = next(fact for fact in facts if fact["date_hour"].startswith(str(BEGIN)))

    def a_night(_: Any) -> None:
        if not ran:
            while vendor.asked("stats/find") < len(Days(FIRST, BEGIN)):
                time.sleep(0.01)  # until all chunks are fetched: this comes too late for them
            vendor.edit({"table": FACTS, "op": "update", "key": last["id"], "row": {"installs": 4321}})
            ran.append(night.run("tune", tables=[TABLE]).code)

    with backfilling(night, Days(FIRST, BEGIN)) as begin:
        done = begin(on_done=a_night, workers=3)
    assert ran == [0] and [each.table.status in GOOD for each in done] == [True] * 3
    assert found_actuals(night) == expected_actuals(vendor)
    assert night.run("tune", tables=[TABLE]).tables[TABLE]["status"] == "unchanged"


def test_so_it_is_when_the_night_had_published_another_vendor_before_the_chunk_was_fetched(
    night: Night, vendor: Vendor
) -> None:
    """A night is one run, and shows its vendors one after the other."""
    assert night.run("tune", tables=[TABLE]).code == 0
    calls: list[int] = []

    def the_same_run(_: Any) -> None:
        if not calls:
            while vendor.asked("stats/find") < before + len(Days(FIRST, BEGIN)):
                time.sleep(0.01)
            calls.append(vendor.asked("stats/find"))
            night.write("UPDATE nightload.run_tables SET load_id = '9' || load_id")

    before = vendor.asked("stats/find")
    with backfilling(night, Days(FIRST, BEGIN)) as begin:
        done = begin(on_done=the_same_run, workers=3)
    assert [each.table.status in GOOD for each in done] == [True] * 3
    assert vendor.asked("stats/find") > calls[0]


@one_database
def test_a_chunk_that_fails_stops_no_other_and_is_what_the_same_command_does_next(night: Night, vendor: Vendor) -> None:
    with backfilling(night, Days(FIRST, BEGIN - timedelta(days=1))) as begin:
        no = {"status": 404, "body": {"status_code": 404, "errors": {"message": "no"}}}
        vendor.fault(f"stats/find.*start_date={FIRST}", no, times=-1)
        done = begin()
        vendor.control("DELETE", "faults")
    assert [each.good for each in done] == [False, True, True]
    assert [each[1] for each in chunks(night)] == ["failed", "ok", "ok"]
    assert night.main("backfill", TABLE, *OLD, "--json").json["skipped"] == [each.chunk.id for each in done[1:]]
    assert [each[:2] for each in chunks(night)] == [(days, "ok") for days in CHUNKS]
    assert night.rows("SELECT attempts FROM nightload.backfills ORDER BY chunk_id") == [(2,), (1,), (1,)]
    vendor.fault("stats", {"status": 401, "body": {"status_code": 401, "errors": {"message": "no"}}}, times=-1)
    told = night.main("backfill", TABLE, *OLD, "--again")
    assert told.code == 1 and "were not tried" in told.out, "the others fare no better"
    older = {key for key, row in expected_actuals(vendor).items() if row["window_start"] < str(BEGIN)}
    assert found_actuals(night).keys() == older, "what failed took nothing away"


@one_database
def test_growingio_and_thinkingengine_are_true_too(
    night: Night, process: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.thinkingengine.client.FIRST_PAUSE", 0.005)
    vendor = Growingio(process)
    vendor.control("POST", "reset")
    night.set("growingio", **growingio_basics(vendor) | {"backfill_days": 2}, window_days=2)
    newest = newest_day(Settings(), datetime.now(UTC))
    names = ("growingio.chart_points", "growingio_charts.chart_ta_ble001", "growingio.funnel_steps")
    users = "growingio.segmentation_users"
    assert night.run("growingio", tables=[*names, users]).code == 0
    before = night.main("state", "show", "growingio", "--json").json
    days = [newest - timedelta(days=n) for n in range(7)]
    for name in names:
        options = ("--from", str(days[6]), "--to", str(days[1]), "--chunk", "4d", "--workers", "2")
        told = night.main("backfill", name, *options, "--json")
        assert told.code == 0 and [each["status"] for each in told.json["chunks"]] == ["ok", "ok"], told.out
        assert all(each["vendor_count"] == each["extracted"] == each["landed"] for each in told.json["chunks"])
    assert points_there(night) == points(vendor, set(days))
    for table, kind in (("growingio_charts.chart_ta_ble001", "taBle001"), ("growingio.funnel_steps", "fuNnel01")):
        column = "_event_date" if "charts." in table else "event_date"
        rows = [row for row in vendor.rows("chart_rows") if row["chart"] == kind]
        there = {day for (day,) in night.rows(f"SELECT DISTINCT {column} FROM {table}")}
        assert there == {date.fromisoformat(row["day"]) for row in rows} & set(days)

    def kept(document: dict[str, Any]) -> Any:
        return [{**each["state"], "window": 0, "digest": 0} for each in document["tables"]]

    assert kept(night.main("state", "show", "growingio", "--json").json) == kept(before)
    assert night.main("state", "reset", users, "--yes").code == 0
    table = night.run("growingio", tables=[users]).tables[users]
    assert table["landed"] == table["extracted"] > 0 and table["status"] != "unchanged", "all segments are read anew"

    ready, began = process.ready["thinkingengine"], datetime.now(UTC).date() - timedelta(days=2)
    process.control("thinkingengine", "POST", "reset")
    settings = {"base_url": ready["base_url"], "token": ready["token"], "project_id": 7, "requests_per_second": 10000}
    night.set("thinkingengine", **settings, events=["login", "purchase"], events_from=str(began), lookback_days=0)
    name, first = "thinkingengine.events", began - timedelta(days=6)
    assert night.run("thinkingengine", tables=[name]).code == 0
    at = night.main("state", "show", name, "--json").json["tables"][0]["state"]["day"]
    assert night.main("backfill", name, "--from", str(first), "--to", str(began)).code == 0
    state = night.main("state", "show", name, "--json").json["tables"][0]["state"]
    assert (state["day"], state["backfilled"]) == (at, True)
    events = process.control("thinkingengine", "GET", "truth/v_event")["rows"]
    truth = Counter(
        row["$part_date"]
        for row in events
        if row["#event_name"] in ("login", "purchase") and str(first) <= row["$part_date"] <= at
    )
    found = 'SELECT "$part_date"::VARCHAR, count(*) FROM thinkingengine.events GROUP BY 1'
    found = found.replace(
        "$part_date",
        night.rows("SELECT column_name FROM nightload.columns WHERE table_name = 'events' AND label = '$part_date'")[0][
            0
        ],
    )
    assert dict(night.rows(found)) == truth and min(truth) < str(began)
    # all that the settings name is walked again: what they do not name is not taken away
    assert night.run("thinkingengine", tables=[name], full=True).code == 0
    assert dict(night.rows(found)) == truth


def test_whoever_meets_a_chunk_goes_before_the_next_one(night: Night) -> None:
    order: list[str] = []
    waits = threading.Event()

    def a_night() -> None:
        with lock(place), open_warehouse(place, datasets=[]):
            order.append("night")

    with night.here() as place:
        with turn(place, datasets=[], on_wait=lambda: None):
            thread = threading.Thread(target=a_night)
            thread.start()
            while thread.is_alive() and not _held(place.queue):
                pass
            order.append("chunk")
        with turn(place, datasets=[], on_wait=waits.set):
            order.append("next chunk")
        thread.join(20)
        assert order == ["chunk", "night", "next chunk"]
        with lock(place), pytest.raises(Locked), lock(place):
            pass
        if place.postgres is not None:  # from another machine there is no file to meet at
            other = places.at(place.postgres, place.home / "..")
            with turn(place, datasets=[], on_wait=lambda: None):
                met = threading.Thread(target=lambda: open_warehouse(other, datasets=[]).__enter__().close())
                met.start()
                met.join(0.3)
                assert met.is_alive(), "it waits for the chunk"
            met.join(20)
            assert not met.is_alive()
            with open_warehouse(place, datasets=[]), pytest.raises(Locked), open_warehouse(other, datasets=[]):
                pass


def _held(path: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        FileLock(path).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    return False


@one_database
def test_what_cannot_be_is_told_in_a_line_and_asks_nobody(
    night: Night, vendor: Vendor, process: SandboxProcess
) -> None:
    night.set("growingio", **growingio_basics(Growingio(process)))
    today = datetime.now(UTC).date()
    days = ("--from", str(FIRST), "--to", str(FIRST))
    wrong: list[tuple[tuple[str, ...], str]] = [
        ((TABLE, "--from", "2026-02-03", "--to", "2026-02-02"), "--to (2026-02-02) is before --from"),
        ((TABLE, "--from", "2026-02-30", "--to", "2026-03-02"), "'2026-02-30', which is no day"),
        ((TABLE, "--from", "yesterday", "--to", "2026-03-02"), "--from is 'yesterday', which is no day"),
        ((TABLE, "--from", str(FIRST), "--to", str(today)), f"{today} is not over: by the vendor's days (UTC)"),
        ((TABLE, "--from", str(today), "--to", "2199-01-01"), "2199-01-01 is not over"),
        (("growingio.chart_points", "--from", "2020-01-01", "--to", "2199-01-01"), "(Asia/Shanghai)"),
        ((TABLE, *days, "--chunk", "0d"), "--chunk '0d' is no number of days"),
        ((TABLE, *days, "--chunk", "soon"), "--chunk 'soon' is no number of days"),
        (("tune.actuals_dayly", *days), "Did you mean tune.actuals_daily?"),
        (("tune.nothing", *days), "there is no table tune.nothing"),
        (("tune", *days), "there is no table tune"),
        (("tune.advertiser", *days), "cannot be backfilled: it is loaded by what changed, not by days"),
        (("growingio.charts", *days), "nightload run --full --table growingio.charts"),
        (("growingio_charts.chart_nothing", *days), "the vendor has no table growingio_charts.chart_nothing"),
        (("thinkingengine.metrics", *days), "thinkingengine.metrics"),
        (("dataworks.projects", *days), "cannot be backfilled"),
    ]
    for arguments, said in wrong:
        ran = night.main("backfill", *arguments)
        assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1, (arguments, ran.err)
    night.set("tune", api_key=None)
    ran = night.main("backfill", TABLE, *days, "--dry-run")
    assert ran.code == 2 and "sources.tune.api_key is not set" in ran.err
    assert vendor.asked("stats") == 0 and not night.is_loaded()


@one_database
def test_another_backfill_is_told_and_nothing_is_asked(night: Night, vendor: Vendor) -> None:
    from pipelines.operations.backfill import _only_one

    with night.here() as place, _only_one(place):
        ran = night.main("backfill", TABLE, *OLD)
        assert ran.code == 3 and "another backfill" in ran.err
    assert vendor.asked("stats") == 0


def test_a_window_belongs_to_the_days_that_hold_its_last_one() -> None:
    now = datetime(2026, 5, 20, 12, tzinfo=UTC)

    def starts(calendar: Calendar, first: str, last: str) -> list[str]:
        days = Days(date.fromisoformat(first), date.fromisoformat(last))
        return [window.label for window in calendar.within(days, now)]

    months = Calendar(unit="month")
    assert starts(months, "2026-01-15", "2026-01-30") == []
    assert starts(months, "2026-01-31", "2026-03-30") == ["2026-01-01", "2026-02-01"]
    assert starts(months, "2026-04-30", "2026-05-19") == ["2026-04-01"], "the running one is the nights'"
    assert starts(Calendar(), "2026-05-01", "2026-05-03") == ["2026-05-01", "2026-05-02", "2026-05-03"]
    split = [str(part) for part in Days(date(2026, 1, 1), date(2026, 1, 5)).split(2)]
    assert split == ["2026-01-01..2026-01-02", "2026-01-03..2026-01-04", "2026-01-05..2026-01-05"]


def test_all_that_ask_one_base_keep_its_rate_together() -> None:
    client = Client(TuneSettings(api_key="k", base_url="http://127.0.0.1:1/v2"))
    first, second = (client.beside("http://127.0.0.1:1/v3", rates={"default": Rate(per_second=1)}) for _ in range(2))
    assert first._limiters["default"] is second._limiters["default"]
    for http in (first, second, client.http):
        http.close()


def test_the_estimate_is_by_what_was_done_and_says_nothing_before() -> None:
    from pipelines.cli.render_operations import Chunks
    from pipelines.operations.backfill_plan import Chunk, Plan

    plan = Plan(table="t.t", vendor="t", zone="UTC", chunks=[Chunk(table="t.t", days=Days(FIRST, FIRST))] * 4)
    told = Chunks(plan, enabled=False)
    assert told.estimate(4) == ""
    told._took = [1.0, 10.0, 300.0]
    assert told.estimate(6) == "about 0:01:00 left, by 3 done"
    assert json.loads(json.dumps(plan.as_json()))["calls"] is None
