"""GrowingIO killed in a second night, after a day of edits: the next night gives what an unbroken one gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import killed
from conftest import Database, Night
from forked import Forks
from sandbox_process import SandboxProcess, start_sandbox
from sources.growingio.settings import Settings
from sources.growingio.windows import newest_day
from test_crash_vendors import PUBLISHED, Point, contents, kill

POINTS: dict[str, Point] = {
    "a token is minted and not used": ("sources.growingio.client:Client._mint", "after", 1, ""),
    "between the two datasets": (killed.COMMIT_EXTRACT, "after", 1, ""),
    "the points are committed and not marked": (killed.COMPLETE_JOB, "before", 1, "chart_points"),
    "a merge begins": (killed.MERGE, "before", 2, ""),
    "one dataset loaded and the other not": (killed.LOAD, "before", 2, ""),
    "days that are empty now are deleted": (killed.MARK_DELETED, "after", 4, ""),
    "before it is published": PUBLISHED,
}


@dataclass
class Yesterday:
    """A warehouse of one good night, what a good second night makes of it, and how to have another one of it."""

    base: Night
    first: dict[str, Any]
    second: dict[str, Any]

    def copy(self, name: str) -> Night:
        return self.base.twin(self.base.home.with_name(name.replace(" ", "-")))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "growingio", "--scale", "0.01") as process:
        yield process


@pytest.fixture(scope="module")
def yesterday(sandbox: SandboxProcess, tmp_path_factory: pytest.TempPathFactory, kept_database: Database) -> Yesterday:
    sandbox.control("growingio", "POST", "reset")
    ready = sandbox.ready["growingio"]
    names = ("base_url", "project_uid", "account_ai", "client_id", "secret")
    base = Night(home=tmp_path_factory.mktemp("crash") / "yesterday", database=kept_database)
    base.home.mkdir()
    base.set("growingio", **{name: ready[name] for name in names}, auth_mode="signed", hash_salt="CANARY-salt")
    base.set("growingio", requests_per_second=10_000, backfill_days=5)
    assert base.run("growingio").code == 0
    sandbox.control("growingio", "POST", "edit", a_day_of_edits())
    found = Yesterday(base=base, first=contents(base), second={})
    unbroken = found.copy("unbroken")
    assert unbroken.run("growingio").code == 0
    found.second = contents(unbroken)
    changed = {table for table, rows in found.second.items() if rows != found.first[table]}
    assert changed >= {
        f"growingio.{name}"
        for name in ("dashboards", "charts", "chart_points", "funnel_steps", "rules", "segmentations")
    } | {"growingio.segmentation_users", "growingio_charts.chart_ta_ble001", "growingio_charts.chart_bu_bb1001"}
    return found


def a_day_of_edits() -> list[dict[str, Any]]:
    """Figures that move, come late, go; days that are empty now; names; boards, rules, segments that come and go."""
    back = [str(newest_day(Settings(), datetime.now(UTC)) - timedelta(days=each)) for each in range(3)]
    late = {"target": "全部登录用户", "dims": ["late"], "values": [1.0, 2.0]}
    return [
        {"table": "chart_rows", "op": "update", "key": ["YoX28w7R", back[0], 0], "row": {"values": [77.5, 2.0]}},
        {"table": "chart_rows", "op": "delete", "key": ["taBle001", back[1], 0]},
        {"table": "chart_rows", "op": "insert", "key": ["biGg1001", back[2]], "row": late},
        {"table": "chart_rows", "op": "delete", "key": ["buBb1001", back[1]]},
        {"table": "chart_rows", "op": "delete", "key": ["fuNnel01", back[1]]},
        {
            "table": "charts",
            "op": "update",
            "key": "vBar0001",
            "row": {"name": "每日注册 2", "metrics": ["注册", "退出"]},
        },
        {"table": "dashboards", "op": "delete", "key": "BoardC03"},
        {"table": "rules", "op": "delete", "key": "f2500003"},
        {"table": "rules", "op": "insert", "row": {"ruleId": "new", "eventName": "a,b,c", "eventType": "clck"}},
        {"table": "segmentations", "op": "delete", "key": "seg00001"},
        {"table": "segmentations", "op": "update", "key": "seg00002", "row": {"users": [["5", "", "x", "y"]]}},
        {
            "table": "segmentations",
            "op": "insert",
            "row": {"id": "seg4", "name": "n", "header": ["id"], "users": [["1"]]},
        },
    ]


@pytest.mark.parametrize("name", POINTS)
def test_killed_in_a_night_of_edits_the_next_one_has_them_all_once(
    name: str, yesterday: Yesterday, forking: Forks
) -> None:
    night = yesterday.copy(name)
    kill(forking, night, "growingio", POINTS[name])
    assert contents(night) == yesterday.first, "a crash leaves yesterday's warehouse as it was"
    assert night.run("growingio").code == 0
    assert contents(night) == yesterday.second
    assert night.rows("SELECT status FROM nightload.runs ORDER BY started_at") == [("ok",), ("crashed",), ("ok",)]
