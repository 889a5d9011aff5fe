"""TUNE's reports: nights by the command line over real sockets into a real DuckDB file, against the vendor's facts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import sources.tune as package
from conftest import Database, Night, Ran, one_database
from sandbox_process import SandboxProcess, start_sandbox
from sources.core.errors import BrokenAnswer, ConfigurationError
from sources.tune.delimited import to_array
from sources.tune.exports import Downloads
from sources.tune.periods import Calendar
from sources.tune.settings import Settings
from tune_facts import (
    COHORTS,
    DAILY,
    FACTS,
    FIRST,
    RETENTION,
    TODAY,
    Vendor,
    clicks,
    expected_actuals,
    found_actuals,
    same_log,
    same_retention,
)


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "tune", "--scale", "0.02") as running:
        yield running


@pytest.fixture
def vendor(process: SandboxProcess) -> Vendor:
    vendor = Vendor(process)
    vendor.control("POST", "reset")
    return vendor


Go = Callable[..., Ran]


@pytest.fixture
def night(vendor: Vendor, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    night = Night(home=tmp_path, database=database)
    night.set("tune", base_url=vendor.process.tune["base_url"], api_key=vendor.key, requests_per_second=10000)
    night.set("tune", poll_seconds="0.001", polls_per_hour=10**8)
    return night


@pytest.fixture
def go(night: Night) -> Go:
    """One night of these reports only."""

    def go(*reports: dict[str, Any], **request: Any) -> Ran:
        night.set("tune", reports=list(reports))
        tables = [f"tune.{each.get('report', 'actuals')}_{each['name']}" for each in reports]
        return night.run("tune", tables=tables, **request)

    return go


def table_of(ran: Ran) -> dict[str, Any]:
    (table,) = ran.tables.values()
    return table


def test_actuals_are_the_facts_and_the_second_night_changes_nothing(night: Night, go: Go, vendor: Vendor) -> None:
    ran = go(DAILY)
    assert ran.code == 0 and table_of(ran)["status"] == "ok", ran.out
    truth = expected_actuals(vendor)
    assert found_actuals(night) == truth
    assert table_of(ran)["vendor_count"] == table_of(ran)["landed"] == table_of(ran)["live"] == len(truth)
    types = dict(night.rows("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'actuals_daily'"))
    assert types["payouts"] == "DECIMAL(38,18)" and types["installs"] == "BIGINT" and types["site_id"] == "BIGINT"
    assert types["publisher_sub_ad_id"] == "VARCHAR" and types["date_hour"] == "TIMESTAMP WITH TIME ZONE"
    assert vendor.asked("stats/find") == 13 and vendor.asked("stats/count") == 13
    assert vendor.out_of_place() == []
    before, contents = vendor.asked("stats/find"), night.contents()["tune.actuals_daily"]
    ran = go(DAILY)
    assert ran.code == 0 and table_of(ran)["status"] == "unchanged", ran.out
    assert vendor.asked("stats/find") - before == 4, "the running day and three before it"
    assert night.contents()["tune.actuals_daily"] == contents


def test_late_corrected_and_vanished_figures_arrive_and_older_ones_stay(night: Night, go: Go, vendor: Vendor) -> None:
    go(DAILY)
    facts = vendor.facts(FACTS)
    counted = [fact for fact in facts if not fact["debug_mode"] and not fact["test_profile_id"]]

    def on(days: int) -> list[dict[str, Any]]:
        return [fact for fact in counted if fact["date_hour"].startswith((TODAY - timedelta(days=days)).isoformat())]

    emptied = [fact for fact in facts if fact["date_hour"].startswith((TODAY - timedelta(days=3)).isoformat())]
    vendor.edit(
        {"table": FACTS, "op": "update", "key": on(1)[0]["id"], "row": {"installs": 9999}},
        {"table": FACTS, "op": "insert", "key": on(2)[1]["id"], "row": {"publisher_sub_ad_id": "late"}},
        {"table": FACTS, "op": "delete", "key": on(2)[0]["id"]},
        *({"table": FACTS, "op": "delete", "key": fact["id"]} for fact in emptied),
    )
    ran = go(DAILY)
    table = table_of(ran)
    assert ran.code == 0 and table["error"] is None, ran.out
    truth = expected_actuals(vendor)
    assert found_actuals(night) == truth and table["live"] == len(truth)
    assert table["landed"] == sum(
        row["window_start"] in {(TODAY - timedelta(days=days)).isoformat() for days in (1, 2)} for row in truth.values()
    ), "a day that did not change was loaded again"
    assert any("now without rows" in note for note in table["notes"])
    # beyond the re-read days only --full sees it
    vendor.edit({"table": FACTS, "op": "update", "key": on(9)[0]["id"], "row": {"installs": 7777}})
    assert table_of(go(DAILY))["status"] == "unchanged"
    assert found_actuals(night) != expected_actuals(vendor)
    assert go(DAILY, full=True).code == 0
    assert found_actuals(night) == expected_actuals(vendor)


def test_a_day_that_ran_empty_alone_is_emptied(night: Night, go: Go, vendor: Vendor) -> None:
    go(DAILY)
    day = (TODAY - timedelta(days=1)).isoformat()
    gone = [fact["id"] for fact in vendor.facts(FACTS) if fact["date_hour"].startswith(day)]
    vendor.edit(*({"table": FACTS, "op": "delete", "key": key} for key in gone))
    ran = go(DAILY)
    assert ran.code == 0 and found_actuals(night) == expected_actuals(vendor), ran.out
    assert table_of(go(DAILY))["status"] == "unchanged"


def test_a_vendor_that_lost_sight_of_all_rows_empties_nothing(night: Night, go: Go, vendor: Vendor) -> None:
    go(DAILY)
    before = found_actuals(night)
    vendor.fault("stats/(find|count)", {"empty": True}, times=-1)
    ran = go(DAILY)
    assert ran.code == 1 and "no rows of these windows came for table" in table_of(ran)["error"], ran.out
    assert found_actuals(night) == before
    ran = go(DAILY, allow_empty=["tune.actuals_daily"])
    assert ran.code == 0, ran.out
    assert {row["window_start"] for row in found_actuals(night).values()} == {
        row["window_start"] for row in before.values() if row["window_start"] < (TODAY - timedelta(days=3)).isoformat()
    }


def test_test_traffic_is_left_out_unless_it_is_asked_for(night: Night, go: Go, vendor: Vendor) -> None:
    go(DAILY)
    without = len(found_actuals(night))
    ran = go({**DAILY, "test_traffic": True})
    assert any("the report was changed" in note for note in table_of(ran)["notes"])
    assert found_actuals(night) == expected_actuals(vendor, test_traffic=True) and len(found_actuals(night)) > without


def test_pages_that_disagree_with_the_count_are_not_loaded(night: Night, go: Go, vendor: Vendor) -> None:
    small = {**DAILY, "page_size": 5}
    vendor.fault("stats/count", {"count": 1}, times=1)
    assert go(small).code == 0, "once is a race, and asked again"
    assert found_actuals(night) == expected_actuals(vendor)
    vendor.fault(f"stats/count.*{(TODAY - timedelta(days=1)).isoformat()}", {"count": 1}, times=-1)
    before = found_actuals(night)
    ran = go(small, full=True)
    assert ran.code == 4 and "the vendor counts" in table_of(ran)["error"] and "count = false" in table_of(ran)["error"]
    assert found_actuals(night) == before
    assert go({**small, "count": False}, full=True).code == 0
    assert found_actuals(night) == before


@one_database
@pytest.mark.parametrize("settings", [{}, {"count": False}, {"key": []}])
def test_a_row_gone_and_a_row_come_between_two_pages_are_seen(
    night: Night, go: Go, vendor: Vendor, settings: dict[str, Any]
) -> None:
    """The count stands, no key comes twice, and the first row of the second page has moved out of sight."""
    small, day = {**DAILY, "page_size": 5, **settings}, (TODAY - timedelta(days=2)).isoformat()

    def swap(late: str, *, walk: int = 0) -> None:
        """After the first page of that walk of one day."""
        facts = [f for f in vendor.facts(FACTS) if f["date_hour"].startswith(day)]
        facts = [f for f in facts if not f["debug_mode"] and not f["test_profile_id"]]
        order = ("site_id", "publisher_id", "publisher_sub_ad_id", "date_hour")  # as the pages are sorted
        facts.sort(key=lambda fact: [str(fact[name]) for name in order])
        edits = [
            {"table": FACTS, "op": "delete", "key": facts[walk]["id"]},
            {"table": FACTS, "op": "insert", "key": facts[-1]["id"], "row": {"publisher_sub_ad_id": late}},
        ]
        path = f"stats/find.*start_date={day}.*page=1(&|$)"
        vendor.fault(path, {"edit": edits}, skip=walk)

    for late in ("~1", "~2"):
        swap(late)
        ran = go(small)
        assert ran.code == 0, ran.out
        assert found_actuals(night) == expected_actuals(vendor)
    before = vendor.asked("stats/find")
    assert table_of(go(small))["status"] == "unchanged"
    quiet = vendor.asked("stats/find") - before
    for walk in range(3):
        swap(f"~{walk + 3}", walk=walk)
    ran = go(small)
    assert ran.code == 4 and f"window {day} has other rows on each walk" in table_of(ran)["error"]
    vendor.control("DELETE", "faults")
    before = vendor.asked("stats/find")
    assert go(small).code == 0 and found_actuals(night) == expected_actuals(vendor)
    assert quiet < vendor.asked("stats/find") - before, "the day that moved was walked twice"


@one_database
def test_pages_without_a_count_are_read_until_one_is_empty(night: Night, go: Go, vendor: Vendor) -> None:
    """How many rows a page may have at most is not known: a short page need not be the last one."""
    vendor.exports(largest_page=4)
    assert go({**DAILY, "count": False}).code == 0
    assert found_actuals(night) == expected_actuals(vendor)
    ran = go({**DAILY, "name": "counted"})
    assert ran.code == 4 and "the vendor counts" in table_of(ran)["error"], "told, where there is a count"
    vendor.exports(largest_page=4, same_page=True)
    ran = go({**DAILY, "count": False}, full=True)
    assert ran.code == 1 and "a page came twice" in table_of(ran)["error"]
    assert found_actuals(night) == expected_actuals(vendor)


@one_database
def test_a_start_that_is_still_to_come_is_told(night: Night, go: Go) -> None:
    ran = go({**DAILY, "start": (TODAY + timedelta(days=2)).isoformat()})
    assert ran.code == 1 and "which is still to come" in table_of(ran)["error"]
    go(DAILY)
    before = found_actuals(night)
    ran = go({**DAILY, "start": "2999-01-01"})
    assert ran.code == 1 and "starts on 2999-01-01" in table_of(ran)["error"]
    assert found_actuals(night) == before


def test_a_window_that_fails_is_told_and_read_the_next_night(night: Night, go: Go, vendor: Vendor) -> None:
    broken = (TODAY - timedelta(days=5)).isoformat()
    refused = {"status_code": 500, "errors": {"message": "Internal service error."}}
    vendor.fault(f"stats/find.*start_date={broken}", {"status": 500, "body": refused}, times=-1)
    ran = go(DAILY)
    assert ran.code == 1 and "failed over this query" in table_of(ran)["error"] and broken in table_of(ran)["error"]
    truth = expected_actuals(vendor)
    assert found_actuals(night) == {key: row for key, row in truth.items() if row["window_start"] < broken}
    vendor.control("DELETE", "faults")
    assert go(DAILY).code == 0 and found_actuals(night) == truth


@pytest.mark.parametrize(
    ("starts", "day", "first", "following"),
    [
        ("monday", "2015-03-01", "2015-02-23", "2015-03-02"),
        ("sunday", "2015-03-01", "2015-03-01", "2015-03-08"),
        ("sunday", "1969-12-31", "1969-12-28", "1970-01-04"),
    ],
)
def test_a_week_begins_when_it_is_set_to(starts: str, day: str, first: str, following: str) -> None:
    calendar = Calendar(unit="week", week_starts=starts)
    found = calendar.first(date.fromisoformat(day))
    assert (found.isoformat(), calendar.following(found).isoformat()) == (first, following)


@pytest.mark.parametrize("timestamp", ["week", "month", "hour", ""])
def test_windows_hold_whole_periods_and_add_up(night: Night, go: Go, vendor: Vendor, timestamp: str) -> None:
    report = {**DAILY, "timestamp": timestamp, "fields": ["installs"], "group": ["site_id"]}
    ran = go(report)
    assert ran.code == 0, ran.out
    facts = [f for f in vendor.facts(FACTS) if not f["debug_mode"] and not f["test_profile_id"]]
    assert night.rows("SELECT sum(installs) FROM tune.actuals_daily") == [(sum(f["installs"] for f in facts),)]
    if timestamp in ("week", "month"):
        calendar = Calendar(unit=timestamp)
        starts = {calendar.first(date.fromisoformat(f["date_hour"][:10])).isoformat() for f in facts}
        assert {row[0] for row in night.rows("SELECT window_start FROM tune.actuals_daily")} == starts
        rows, keys = night.rows(f'SELECT count(*), count(DISTINCT (site_id, "{timestamp}")) FROM tune.actuals_daily')[0]
        assert rows == keys


@one_database
@pytest.mark.parametrize("via", ["find", "export"])
def test_a_vendor_that_tells_no_fields_is_asked_all_the_same(night: Night, go: Go, vendor: Vendor, via: str) -> None:
    for path in ("stats/define", "get_controllers"):
        vendor.fault(path, {"status": 404, "body": {"status_code": 404, "errors": {"message": "no"}}}, times=-1)
    ran = go({**DAILY, "via": via})
    assert ran.code == 0 and "tells no fields of advertiser/stats" in str(table_of(ran)["notes"]), ran.out
    truth = expected_actuals(vendor)
    for row in truth.values():
        row["site_name"] = row["site_name"] or None if via == "export" else row["site_name"]
    assert found_actuals(night) == truth
    ran = go({**DAILY, "via": via, "fields": [*DAILY["fields"], "nope"]})
    if via == "find":
        assert ran.code == 1 and "for a field that it does not have" in table_of(ran)["error"], ran.out
    else:
        assert ran.code == 0 and "asked for, but not sent: nope" in str(table_of(ran)["notes"]), ran.out
    assert found_actuals(night) == truth


def test_an_earlier_start_brings_what_was_before(night: Night, go: Go, vendor: Vendor) -> None:
    go({**DAILY, "start": (TODAY - timedelta(days=2)).isoformat()})
    assert 0 < len(found_actuals(night)) < len(expected_actuals(vendor))
    assert go(DAILY).code == 0
    assert found_actuals(night) == expected_actuals(vendor)


def test_larger_windows_replace_the_smaller_ones(night: Night, go: Go, vendor: Vendor) -> None:
    go(DAILY)
    ran = go({**DAILY, "window_days": 5})
    assert ran.code == 0, ran.out
    found, truth = found_actuals(night), expected_actuals(vendor)
    for row in (*found.values(), *truth.values()):
        row.pop("window_start")
    assert found == truth


# -- cohorts --------------------------------------------------------------------------------------


def test_cohorts_are_unnested_with_their_ordinal(night: Night, go: Go, vendor: Vendor) -> None:
    ran = go(RETENTION)
    assert ran.code == 0, ran.out
    assert table_of(ran)["vendor_count"] == table_of(ran)["live"] == same_retention(night, vendor)
    assert table_of(go(RETENTION))["status"] == "unchanged"
    facts = vendor.facts(COHORTS)
    publishers = {fact["publisher_id"] for fact in facts}
    another = next(int(row["id"]) for row in vendor.facts("advertiser/publishers") if int(row["id"]) not in publishers)
    vendor.edit(
        {"table": COHORTS, "op": "update", "key": facts[4]["id"], "row": {"opens": [*facts[4]["opens"], 77]}},
        {"table": COHORTS, "op": "update", "key": facts[5]["id"], "row": {"opens": facts[5]["opens"][:-2]}},
        {"table": COHORTS, "op": "insert", "key": facts[8]["id"], "row": {"publisher_id": another}},
        {"table": COHORTS, "op": "delete", "key": facts[12]["id"]},
    )
    assert go(RETENTION).code == 0
    same_retention(night, vendor)
    assert vendor.out_of_place() == []


@pytest.mark.parametrize("aggregation", ["cumulative", "incremental"])
def test_ltv_is_exact(night: Night, go: Go, vendor: Vendor, aggregation: str) -> None:
    ran = go({"name": "x", "report": "ltv", "aggregation": aggregation, "start": FIRST.isoformat()})
    assert ran.code == 0, ran.out
    truth = set()
    for fact in vendor.facts(COHORTS):
        if fact["test_profile_id"]:
            continue
        earned = Decimal(0)
        for place, revenue in enumerate(fact["revenue"]):
            earned = Decimal(revenue) + (earned if aggregation == "cumulative" else 0)
            rpi = Decimal(f"{earned / 100000 / fact['installs']:.12f}")
            truth.add((fact["day"], fact["site_id"], fact["publisher_id"], place, rpi, earned / 100000))
    sql = "SELECT window_start, site_id, publisher_id, ordinal, rpi, revenues_usd FROM tune.ltv_x WHERE ordinal >= 0"
    assert set(night.rows(sql)) == truth


# -- exports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"queue": "find_export_queue"}, {"backslashes": True}),
        ({"poll": "status", "path": "advertiser/stats/actuals"}, {"gzip": True, "crlf": True}),
        ({"count": False}, {"bom": True, "gzip": True}),
    ],
)
def test_an_export_is_the_same_as_pages(
    night: Night, go: Go, vendor: Vendor, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    vendor.exports(**options)
    ran = go({**DAILY, "via": "export", **settings})
    assert ran.code == 0 and table_of(ran)["status"] == "ok", ran.out
    truth = expected_actuals(vendor)
    for row in truth.values():
        row["site_name"] = row["site_name"] or None  # its CSV tells an empty text from nothing no more than ours
    assert found_actuals(night) == truth
    assert vendor.asked("stats/find.json") == vendor.asked("actuals/find.json") == 0
    assert vendor.out_of_place() == []
    assert not [name for name in night.files() if "csv" in name]


def test_the_same_rows_come_by_either_way(night: Night, go: Go, vendor: Vendor) -> None:
    group = [name for name in DAILY["group"] if name != "publisher_sub_ad_id"]
    for name, via in (("a", "find"), ("b", "export")):
        assert go({**DAILY, "name": name, "via": via, "fields": ["installs", "payouts"], "group": group}).code == 0
    sql = "SELECT site_id, publisher_id, date_hour, installs, payouts, window_start, row_key FROM tune.actuals_"
    assert night.rows(f"{sql}a ORDER BY ALL") == night.rows(f"{sql}b ORDER BY ALL")


def test_a_cohort_export_asks_after_its_own_status(night: Night, go: Go, vendor: Vendor) -> None:
    ran = go({**RETENTION, "via": "export"})
    assert ran.code == 0, ran.out
    intervals = sum(len(fact["opens"]) for fact in vendor.facts(COHORTS))
    assert night.rows("SELECT count(*), sum(opens) FROM tune.retention_daily") == [
        (intervals, sum(sum(fact["opens"]) for fact in vendor.facts(COHORTS)))
    ]
    assert vendor.asked("retention/status") >= 4 * 13 and vendor.asked("export/download") == 0


def test_a_cohort_export_whose_intervals_are_numbered_is_the_same_as_pages(
    night: Night, go: Go, vendor: Vendor
) -> None:
    assert go(RETENTION).code == 0
    ran = go({**RETENTION, "name": "export", "via": "export", "ordinal_column": "interval"})
    assert ran.code == 0, ran.out
    sql = "SELECT window_start, install_publisher_id, year_day, ordinal, opens, row_key FROM tune.retention_"
    found = night.rows(f"{sql}export ORDER BY ALL")
    assert found == night.rows(f"{sql}daily WHERE ordinal >= 0 ORDER BY ALL") and found
    ran = go({**RETENTION, "name": "other", "via": "export", "ordinal_column": "place"})
    assert ran.code == 1 and "have no ordinal to tell them apart by" in table_of(ran)["error"]


ONE = {**DAILY, "via": "export", "start": TODAY.isoformat()}


@one_database
def test_a_link_that_ended_is_asked_for_anew(night: Night, go: Go, vendor: Vendor) -> None:
    vendor.fault("/downloads/", {"status": 403, "body": "<Error>expired</Error>"}, times=2)
    assert go(ONE).code == 0
    assert vendor.asked("/downloads/") == 3 and vendor.asked("stats/export") == 1
    vendor.fault("/downloads/", {"status": 403, "body": "<Error>expired</Error>"}, times=-1)
    before = vendor.asked("export/download")
    ran = go(ONE, full=True)
    assert vendor.asked("export/download") - before == 4 + 2, "the job, and a fresh link after each of two refusals"
    assert ran.code == 1 and "refused 3 times" in table_of(ran)["error"]
    assert "stopped" not in ran.out and "does not accept the key" not in ran.out


@one_database
def test_a_job_that_fails_or_never_ends_is_told(night: Night, go: Go, vendor: Vendor) -> None:
    night.set("tune", poll_tries=5)
    vendor.exports(never=True)
    ran = go(ONE)
    assert ran.code == 1 and "not ready" in table_of(ran)["error"] and "99 percent" in table_of(ran)["error"]
    assert vendor.asked("export/download") == 5
    vendor.exports(never=False, fails=True)
    assert "export failed" in table_of(go(ONE))["error"]


def test_polls_wait_as_the_sheet_has_it(vendor: Vendor) -> None:
    from sources.core.errors import NotReady
    from sources.tune.exports import wait_for

    waits: list[float] = []
    with pytest.raises(NotReady):
        wait_for(lambda: {"status": "pending"}, Settings(), where="a test", sleep=waits.append)
    assert waits == [10, 20, 30, 40, 50] + [60] * 55


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("http://example.com", "only https"),
        ("https://user:pass@example.com", "a user"),
        ("https://10.0.0.8", "not public"),
        ("https://169.254.169.254", "not public"),
        ("https://[::1]", "not public"),
        ("https://127.0.0.1", "not public"),
        ("https://[::ffff:10.0.0.1]", "not public"),
        ("file:///etc/passwd", "no host"),
        ("ftp://example.com", "only https"),
    ],
)
def test_links_that_lead_elsewhere_are_not_followed(link: str, why: str) -> None:
    settings = Settings()
    with pytest.raises(BrokenAnswer, match="is not followed") as caught:
        Downloads(settings)._checked(f"{link}/x.csv?Signature=CANARY", where="a test")
    assert why in str(caught.value) and "CANARY" not in str(caught.value)


@pytest.mark.parametrize("slash", ["/", "\\", "\\/", "\\\\"])
def test_a_link_keeps_its_signature_to_the_letter(slash: str) -> None:
    settings = Settings()
    settings.base_url = "http://127.0.0.1:1/v2"
    link = "http://127.0.0.1:1/a/b.csv".replace("/", slash)
    parts = Downloads(settings)._checked(f"{link}?S=a%2Fb%2B/c=", where="a test")
    assert parts.geturl() == "http://127.0.0.1:1/a/b.csv?S=a%2Fb%2B/c="
    with pytest.raises(BrokenAnswer):
        Downloads(settings)._checked("http://127.0.0.1:2/b.csv", where="another port of this machine")


@one_database
def test_a_download_is_bounded(night: Night, go: Go, vendor: Vendor) -> None:
    night.set("tune", download_megabytes=1)
    vendor.fault("/downloads/", {"status": 200, "body": "x" * (2**20 + 1)}, times=-1)
    ran = go(ONE)
    assert ran.code == 1 and "too large" in table_of(ran)["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'a,b\n1,2\n"3,4\n', "end of data"),
        (b"a,b\n1,2,3\n", "3 cells"),
        (b"a,b\n1\n", "1 cells"),
        (b"a,a\n1,2\n", "told apart"),
        (b"a,\n1,2\n", "told apart"),
        (b"a,b\n1,\xff\n", "UTF-8"),
    ],
)
def test_a_csv_that_is_cut_or_crooked_is_refused(tmp_path: Path, body: bytes, told: str) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(body)
    with pytest.raises(BrokenAnswer, match=told):
        to_array(file, tmp_path / "x.json", constants={"w": "1"}, label_of=str, where="a test")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_the_dialect_is_read_whatever_its_line_ends(tmp_path: Path, end: str, bom: bytes) -> None:
    lines = ['id,"site.name",Id', '1,"a, ""b""\nc",', "NULL,中,x", ",,"]
    file, out = tmp_path / "x.csv", tmp_path / "x.json"
    file.write_bytes(bom + end.join(lines).encode())
    read = to_array(file, out, constants={"w": "1"}, label_of=str, where="a test")
    assert read.labels == ("w", "id", "site.name", "Id") and read.rows == 3
    assert json.loads(out.read_bytes()) == [
        {"w": "1", "id": "1", "site.name": 'a, "b"\nc', "Id": None},
        {"w": "1", "id": "NULL", "site.name": "中", "Id": "x"},
        {"w": "1", "id": None, "site.name": None, "Id": None},
    ]


@pytest.mark.parametrize("labels", ["id,text", "id,ID"])
def test_a_cell_of_a_megabyte_is_read(tmp_path: Path, labels: str) -> None:
    """By DuckDB, and where it takes two labels for one, by the other reader."""
    cell = 'x中"",\n' * (2**20 // 8)
    file, out = tmp_path / "x.csv", tmp_path / "x.json"
    file.write_text(f'{labels}\n1,"{cell}"\n2,\n')
    assert to_array(file, out, constants={}, label_of=str, where="a test").rows == 2
    first, second = json.loads(out.read_bytes())
    assert first[labels[3:]] == cell.replace('""', '"') and second == {"id": "2", labels[3:]: None}


@one_database
def test_neither_key_nor_link_is_told_anywhere(
    night: Night, go: Go, vendor: Vendor, caplog: pytest.LogCaptureFixture
) -> None:
    go(ONE)
    for name in ("", "httpx", "httpcore", "dlt", "sources"):
        caplog.set_level("DEBUG", logger=name)
    vendor.fault("/downloads/", {"status": 502, "body": "x"}, times=1)
    vendor.fault("/downloads/", {"status": 403, "body": "x"}, times=1)
    ran = go(ONE, {**ONE, "name": "other", "fields": ["nope"]}, full=True)
    told = caplog.text + ran.out
    assert "/downloads/" in told and "api_key" in told, "the URLs were logged"
    assert vendor.key not in told and "CANARY" not in told and "Signature=" not in told.replace("Signature=***", "")
    assert vendor.out_of_place() == []
    for name, rows in night.contents().items():
        assert "CANARY" not in str(rows), name


# -- logs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", ["find", "export"])
def test_logs_are_split_where_an_answer_is_full(night: Night, go: Go, vendor: Vendor, via: str) -> None:
    report = clicks(vendor, via=via, row_limit=4 if via == "find" else 6)
    ran = go(report)
    assert ran.code == 0, ran.out
    same_log(night, vendor, export=via == "export")
    asked = vendor.asked("/clicks")
    assert asked >= 6 * 3, "nine rows a day, four or six an answer"
    assert table_of(go(report))["status"] == "unchanged"
    key = vendor.facts("logs/clicks")[-5]["id"]
    vendor.edit(
        {"table": "logs/clicks", "op": "insert", "key": key},
        {"table": "logs/clicks", "op": "delete", "key": vendor.facts("logs/clicks")[-4]["id"]},
    )
    assert go(report).code == 0
    same_log(night, vendor, export=via == "export")
    assert vendor.out_of_place() == []


@one_database
def test_a_session_that_ends_among_the_logs_is_renewed(night: Night, go: Go, vendor: Vendor) -> None:
    night.set("tune", session=True)
    vendor.fault("/v3/logs/", {"expire_token": True}, skip=3)
    assert go(clicks(vendor, row_limit=4)).code == 0
    same_log(night, vendor, export=False)
    assert vendor.asked("session/authenticate") == 2 and vendor.out_of_place() == []


@one_database
def test_more_in_a_second_than_an_answer_holds_fails(night: Night, go: Go, vendor: Vendor) -> None:
    ran = go(clicks(vendor, row_limit=1))
    assert ran.code == 1 and "one second has 1 rows" in table_of(ran)["error"], ran.out


@one_database
def test_the_lines_of_an_export_are_counted(night: Night, go: Go, vendor: Vendor) -> None:
    vendor.exports(lines_include_header=True, gzip=True, bom=True, crlf=True)
    ran = go(clicks(vendor, via="export"))
    assert ran.code == 4 and "lines_include_header = true" in table_of(ran)["error"]
    assert go(clicks(vendor, via="export", lines_include_header=True)).code == 0
    same_log(night, vendor, export=True)


def test_an_empty_log_without_a_count_empties_nothing(night: Night, go: Go, vendor: Vendor) -> None:
    go(clicks(vendor))
    day = (TODAY - timedelta(days=1)).isoformat()
    gone = [row["id"] for row in vendor.facts("logs/clicks") if row["created"].startswith(day)]
    vendor.edit(*({"table": "logs/clicks", "op": "delete", "key": key} for key in gone))
    ran = go(clicks(vendor))
    assert ran.code == 1 and "no count to prove it" in table_of(ran)["error"]
    assert go(clicks(vendor), allow_empty=["tune.logs_clicks"]).code == 0
    same_log(night, vendor, export=False)


@one_database
def test_the_only_advertiser_is_found_and_of_several_one_is_to_be_named(night: Night, go: Go, vendor: Vendor) -> None:
    report = {name: value for name, value in clicks(vendor).items() if name != "advertiser_id"}
    ran = go(report)
    assert ran.code == 1 and "sees 10 advertisers" in table_of(ran)["error"]
    others = [row["id"] for row in vendor.facts("advertiser")[1:]]
    vendor.edit(*({"table": "advertiser", "op": "delete", "key": str(key)} for key in others))
    assert go(report).code == 0
    same_log(night, vendor, export=False)


# -- what cannot work is told ---------------------------------------------------------------------


@one_database
@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({"report": "actuals"}, "has no name"),
        ({"name": "A b"}, "lower case"),
        ({"name": "a", "report": "actual"}, "Did you mean actuals"),
        ({"name": "a", "feilds": ["x"]}, "no setting feilds.*Did you mean fields"),
        ({"name": "a", "interval": "year"}, "has no setting interval"),
        ({"name": "a", "group": []}, "groups by nothing"),
        ({"name": "a", "timestamp": "daily"}, "timestamp is 'daily'"),
        ({"name": "a", "start": "yesterday"}, "start is 'yesterday'"),
        ({"name": "a", "window_days": 0}, "window_days is 0"),
        ({"name": "a", "window_days": True}, "window_days is True"),
        ({"name": "a", "timestamp": "month", "window_days": 2}, "Leave it out"),
        ({"name": "a", "filter": "(x = 'a'"}, "parentheses"),
        ({"name": "a", "report": "logs"}, "has no log"),
        ({"name": "a", "report": "logs", "log": "clicks", "row_limit": 6000}, "row_limit is 6000"),
        ({"name": "a", "report": "logs", "log": "clicks", "advertiser_id": "../x"}, "advertiser_id is no number"),
        ({"name": "a", "types": {"x": "number"}}, "types.x is 'number'"),
        ({"name": "a", "report": "ltv", "aggregation": "sum"}, "aggregation is 'sum'"),
        ({"name": "a", "report": "ltv", "ordinal_column": "interval"}, "ordinal_column is set"),
        ({"name": "a", "ordinal_column": "interval"}, "no setting ordinal_column"),
        ({"name": "a", "test_traffic": "no"}, "test_traffic is 'no'"),
    ],
)
def test_a_mistake_in_a_report_is_told_at_once(
    night: Night, monkeypatch: pytest.MonkeyPatch, report: dict[str, Any], told: str
) -> None:
    for name, value in {**night.settings, "SOURCES__TUNE__REPORTS": json.dumps([report])}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=told):
        package.connect()


@one_database
@pytest.mark.parametrize(
    ("report", "told"),
    [
        ({**DAILY, "fields": ["instals"]}, "has no field instals.*Did you mean"),
        ({**DAILY, "filter": "(platfrom = 'ios')"}, "has no field platfrom"),
        ({**DAILY, "fields": ["installs", "site.api_key"]}, "which is not loaded"),
        ({**DAILY, "time_column": "at"}, "have no at to tell them apart by"),
    ],
)
def test_a_field_that_is_not_there_fails_before_or_at_the_first_row(
    go: Go, vendor: Vendor, report: dict[str, Any], told: str
) -> None:
    ran = go(report)
    assert ran.code == 1, ran.out
    assert re.search(told, table_of(ran)["error"]), ran.out


def test_the_whole_command_line(night: Night, vendor: Vendor) -> None:
    report = {**ONE, "start": (TODAY - timedelta(days=1)).isoformat()}
    night.set("tune", reports=[report])
    ran = night("run", "tune", "--table", "tune.actuals_daily", "--json")
    assert ran.code == 0 and table_of(ran)["status"] == "ok", ran.out + ran.err
    assert vendor.key not in ran.out + ran.err
    ran = night.main("preview", "tune.actuals_daily")
    assert ran.code == 0 and "installs" in ran.out, ran.out + ran.err
    ran = night.main("check", "tune")
    assert ran.code == 0 and "report daily" in ran.out, ran.out + ran.err
