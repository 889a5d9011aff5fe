"""Killed on a day of edits, ThinkingEngine's warehouse is yesterday's; the next night makes of it what an unbroken one
does, which is the vendor's truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import killed
from conftest import Database, Night, settle
from forked import Forks
from sandbox_process import SandboxProcess, start_sandbox
from test_crash_vendors import PUBLISHED, Point, contents, kill

VENDOR = "thinkingengine"
POINTS: dict[str, Point] = {
    "between two pages": ("sources.thinkingengine.client:read_block", "before", 3, ""),
    "a merge is committed and not marked": (killed.COMPLETE_JOB, "before", 1, "events"),
    "loaded, and deletions not marked yet": (killed.MARK_DELETED, "before", 1, ""),
    "before it is published": PUBLISHED,
    "once published": {kind: (target, "after", *rest) for kind, (target, _, *rest) in PUBLISHED.items()},
}
QUERIES = [
    {
        "name": "daily",
        "sql": 'SELECT "$part_date", "$part_event", count(*) AS n FROM v_event_{project_id} '
        'WHERE "$part_date" BETWEEN {start} AND {end} GROUP BY 1, 2',
        "cursor": "$part_date",
        "window": {"start": str((datetime.now(UTC) - timedelta(days=8)).date())},
    },
    {"name": "no_key", "sql": "SELECT vip, count(*) AS n FROM v_user_{project_id} GROUP BY 1"},
]
MODELS = [
    {
        "name": "by_day",
        "model": "event",
        "window": {"start": str((datetime.now(UTC) - timedelta(days=5)).date())},
        "body": {"eventView": {}, "events": [{"eventName": "login", "analysis": "TOTAL_TIMES"}]},
    }
]


@dataclass
class Yesterday:
    base: Night
    vendor: SandboxProcess
    contents: dict[str, list[Any]]

    def copy(self, name: str) -> Night:
        return self.base.twin(self.base.home.with_name(name.replace(" ", "-").replace(",", "")))

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.vendor.control(VENDOR, "GET", f"truth/{table}")["rows"]
        return rows


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory, kept_database: Database) -> Iterator[Yesterday]:
    home = tmp_path_factory.mktemp("crash") / "yesterday"
    home.mkdir()
    with start_sandbox("--vendors", VENDOR, "--scale", "0.01") as vendor:
        night = settle(Night(home=home, database=kept_database), vendor)
        night.set(VENDOR, page_size=1000, queries=QUERIES, models=MODELS)
        assert night.run(VENDOR).code == 0
        found = Yesterday(night, vendor, contents(night))
        day = str((datetime.now(UTC) - timedelta(days=1)).date())
        old = str((datetime.now(UTC) - timedelta(days=2)).date())
        events = [row for row in found.rows("v_event") if row["$part_date"] == day and row["#uuid"]]
        login = next(row for row in events if row["$part_event"] == "login")
        user, member = found.rows("v_user")[300], found.rows("user_result_cluster")[0]
        vendor.control(
            VENDOR,
            "POST",
            "edit",
            [
                {"table": "v_event", "op": "column", "row": {"name": "新属性", "type": "VARCHAR"}},
                {"table": "v_event", "op": "insert", "row": {**login, "#uuid": "late", "新属性": "值"}},
                {"table": "v_event", "op": "insert", "row": {**login, "#uuid": None, "note": "keyless"}},
                {"table": "v_event", "op": "update", "key": login["#uuid"], "row": {"amount": 7.25}},
                {"table": "v_event", "op": "delete", "key": events[-1]["#uuid"]},
                {"table": "v_event", "op": "clear", "row": {"$part_date": old}},
                {"table": "v_user", "op": "update", "key": user["#user_id"],
                 "row": {"昵称": "新", "#update_time": "2026-11-20 00:00:00.000"}},
                {"table": "user_result_cluster", "op": "delete", "key": member["#user_id"]},
                {"table": "dim", "op": "insert", "row": {"#account_id@cps_group": "new", "cps@name": "渠道"}},
                {"table": "dim", "op": "delete", "key": "003"},
                {"table": "event_meta", "op": "delete", "key": "login"},
                {"table": "metrics", "op": "update", "key": 71, "row": {"metricDesc": "changed"}},
            ],
        )  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def unbroken(yesterday: Yesterday) -> dict[str, list[Any]]:
    """What a night that nobody kills comes to, held against what is true at the vendor's."""
    night = yesterday.copy("unbroken")
    assert night.run(VENDOR).code == 0
    whole = contents(night)
    assert whole != yesterday.contents
    today = str(datetime.now(UTC).date())
    true = [row for row in yesterday.rows("v_event") if row["$part_date"] < today]
    chosen = [row for row in true if row["$part_event"] in ("login", "purchase")]
    assert len(whole["thinkingengine.events"]) == len(chosen)
    assert {key for (key,) in night.rows("SELECT _uuid FROM thinkingengine.events")} == {row["#uuid"] for row in chosen}
    assert night.rows("SELECT sum(n) FROM thinkingengine.daily") == [(len(true),)]
    assert night.rows("SELECT count(*) FROM thinkingengine.users") == [(len(yesterday.rows("v_user")),)]
    assert night.rows("SELECT count(*) FROM thinkingengine.cluster_members WHERE _deleted_at IS NOT NULL") == [(1,)]
    assert len(whole["thinkingengine.dimension_cps"]) == len(yesterday.rows("dim"))
    assert night.rows("SELECT event_name FROM thinkingengine.event_meta WHERE _deleted_at IS NOT NULL") == [("login",)]
    return whole


@pytest.mark.parametrize("name", POINTS)
def test_killed_on_a_day_of_edits_it_is_whole_after_the_next_night(
    name: str, yesterday: Yesterday, unbroken: dict[str, list[Any]], forking: Forks
) -> None:
    night = yesterday.copy(name)
    ended = kill(forking, night, VENDOR, POINTS[name])
    assert "CANARY" not in ended.out + ended.err
    assert [file for file in night.home.rglob("*") if file.is_file() and b"CANARY" in file.read_bytes()] == []
    published = name == "once published"
    assert without_times(contents(night)) == without_times(unbroken if published else yesterday.contents)
    assert night.run(VENDOR).code == 0
    assert without_times(contents(night)) == without_times(unbroken)
    assert night.rows("SELECT status FROM nightload.runs ORDER BY started_at") == [("ok",), ("crashed",), ("ok",)]
    assert [path.name for path in night.state.iterdir() if path.is_dir()] == []


def without_times(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """`_deleted_at` is the moment of the night that saw it: only whether it is there counts. It is the last column."""
    marked = ("event_meta", "cluster_members")
    return {
        name: sorted(((*row[:-1], row[-1] is None) for row in rows), key=repr)
        if name.partition(".")[2] in marked
        else rows
        for name, rows in found.items()
    }
