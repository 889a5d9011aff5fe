"""Five vendors that live on for a year: what happens at each of them in a day, and whether a warehouse holds it all.

Figures of a day come on that day; some come late, are corrected or vanish, but only as far back as nightload promises
to look. What is true is read from the sandbox and told apart from how it is loaded.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb

import dataworks_truth
import redash
import test_growingio as growingio
import tune_facts
from conftest import Night
from reference import differences, truth
from sandbox_process import SandboxProcess
from sources.growingio.settings import Settings
from sources.growingio.windows import newest_day

Row = dict[str, Any]
KEPT = 3
"""So many rows of ours live in a list before the oldest go: soon, that a few nights see it."""


class Part:
    """One vendor in the course of a year."""

    name = ""

    def __init__(self, box: SandboxProcess) -> None:
        self.box = box
        self._ours: dict[str, list[Any]] = {}
        self._number = 0
        self.rows_there = 0

    def rows(self, table: str) -> list[Row]:
        found: list[Row] = self.box.control(self.name, "GET", f"truth/{table}")["rows"]
        return found

    def edit(self, edits: Iterable[Row]) -> None:
        if edits := list(edits):
            self.box.control(self.name, "POST", "edit", edits)

    def settle(self, night: Night, today: date) -> None:
        """The settings of this vendor, and a world that is small enough."""
        ready = self.box.ready[self.name]
        told = {name: value for name, value in ready.items() if isinstance(value, str) and name != "control_url"}
        night.set(self.name, **told, requests_per_second=100_000)

    def day(self, dice: random.Random, today: date) -> None:
        """What happens there on a day."""

    def check(self, night: Night, now: datetime) -> int:
        """How many rows a warehouse holds that was loaded now. Raises AssertionError if they are not what is true."""
        raise NotImplementedError

    def number(self) -> int:
        self._number += 1
        return self._number

    def come_and_go(self, table: str, row: Row, key: Any = None) -> list[Row]:
        """One row comes and, when there are many, the oldest of ours goes."""
        ours = self._ours.setdefault(table, [])
        gone = [{"table": table, "op": "delete", "key": ours.pop(0)}] if len(ours) >= KEPT else []
        if key is None:
            key = self.box.control(self.name, "POST", "edit", {"table": table, "op": "insert", "row": row})["key"]
            ours.append(key)
            return gone
        ours.append(key)
        return [*gone, {"table": table, "op": "insert", "row": row}]

    def one_of_ours(self, dice: random.Random, table: str) -> Any:
        return dice.choice(self._ours[table]) if self._ours.get(table) else None


def counted(night: Night, vendor: str) -> int:
    """The live rows of one vendor, as its last run counted them."""
    ((rows,),) = night.rows(
        "SELECT sum(live) FROM nightload.run_tables t WHERE vendor = ? AND run_id = "
        "(SELECT max(run_id) FROM nightload.run_vendors v WHERE v.vendor = t.vendor)",
        vendor,
    )
    return int(rows or 0)


class Tonalytica(Part):
    name = "tonalytica"

    def settle(self, night: Night, today: date) -> None:
        super().settle(night, today)
        queries = [row for row in self.rows("queries") if row["_where"] == "list" and row["latest_query_data_id"]]
        self.loaded = [row["id"] for row in queries if not row["is_archived"]][:3]
        night.set(self.name, results={"include": {"ids": self.loaded}, "keep_history": self.loaded[-1:]})
        self.edit(self._executed(random.Random(1), key) for key in self.loaded)

    def _executed(self, dice: random.Random, key: int) -> Row:
        more = {f"列 {dice.randrange(4)}": dice.randrange(9)} if dice.random() < 0.1 else {}
        rows = [{"n": n, "t": f"text {dice.randrange(99)}", **more} for n in range(dice.randrange(1, 9))]
        return {"table": "queries", "op": "execute", "key": key, "row": {"rows": rows}}

    def day(self, dice: random.Random, today: date) -> None:
        number, edits = self.number(), [self._executed(dice, dice.choice(self.loaded))]
        if dice.random() < 0.5:
            edits += self.come_and_go("query_snippets", {"trigger": f"t{number}", "snippet": "select 'x'"})
        if dice.random() < 0.3:
            edits += self.come_and_go("queries", {"name": f"查询 {number}", "query": f"select {number} as n"})
        if dice.random() < 0.3 and (key := self.one_of_ours(dice, "queries")) is not None:
            edits.append({"table": "queries", "op": "update", "key": key, "row": {"query": f"select {-number} as n"}})
        if dice.random() < 0.2:
            edits += self.come_and_go("dashboards", {"name": f"Board {number}"})
        if dice.random() < 0.2:
            edits += self.come_and_go("alerts", {"name": f"Alert {number}"})
        if dice.random() < 0.3 and (key := self.one_of_ours(dice, "dashboards")) is not None:
            edits.append({"table": "widgets", "op": "insert", "row": {"dashboard_id": key, "text": f"w{number}"}})
        self.edit(edits)

    def check(self, night: Night, now: datetime) -> int:
        redash.assert_warehouse_is_the_truth(night, self.box, results=lambda row: row["id"] in self.loaded)
        return counted(night, self.name)


class Dataworks(Part):
    name = "dataworks"
    main = 10002

    def day(self, dice: random.Random, today: date) -> None:
        number = 900_000 + self.number()
        edits: list[Row] = []
        if dice.random() < 0.5:
            row = {"ApiId": number, "ApiName": f"接口 {number}", "ProjectId": self.main}
            edits += self.come_and_go("published_apis", row, f"{self.main}/{number}")
        if (key := self.one_of_ours(dice, "published_apis")) is not None and dice.random() < 0.7:
            change = {"Description": f"changed {number}"}
            edits.append({"table": "published_apis", "op": "update", "key": key, "row": change})
        if dice.random() < 0.5:
            group = dice.choice(self.rows("groups"))
            key, change = f"{group['ProjectId']}/{group['GroupId']}", {"GroupName": f"组 {number}"}
            edits.append({"table": "groups", "op": "update", "key": key, "row": change, "silent": True})
        if dice.random() < 0.5:
            at = int(datetime(today.year, today.month, today.day, tzinfo=UTC).timestamp() * 1000)
            edits.append({"table": "api_tests", "op": "insert", "row": {"TestId": number, "CreateTime": at}})
        self.edit(edits)

    def check(self, night: Night, now: datetime) -> int:
        dataworks_truth.same(night, dataworks_truth.Truth(self.box))
        return counted(night, self.name)


class Tune(Part):
    name = "tune"
    records = ("advertiser/campaigns", "advertiser/sites", "advertiser/publishers")
    left_out = (
        "account account/users advertiser/accounts advertiser/agencies agency advertiser/publishers/sub/campaigns "
        "advertiser/site/events countries regions languages browsers browser_platform currency_exchange_rates"
    )

    def settle(self, night: Night, today: date) -> None:
        super().settle(night, today)
        self.vendor, self.began = tune_facts.Vendor(self.box), today
        first = (today - timedelta(days=12)).isoformat()
        reports = [
            {**tune_facts.DAILY, "start": first},
            {**tune_facts.RETENTION, "start": first, "lookback_days": 5},
            tune_facts.clicks(self.vendor, via="export", start=(today - timedelta(days=6)).isoformat()),
        ]
        quick = {"poll_seconds": "0.001", "polls_per_hour": 10**8}
        night.set(self.name, reports=reports, exclude=self.left_out.split(), **quick)
        facts = self.rows(tune_facts.FACTS)
        self.like = [fact["id"] for fact in facts if not fact["debug_mode"] and not fact["test_profile_id"]]
        self.cohort = [fact["id"] for fact in self.rows(tune_facts.COHORTS)][:4]
        self.click = self.rows("logs/clicks")[0]["id"]
        self.recent: dict[str, dict[date, list[Any]]] = {"facts": {}, "cohorts": {}, "clicks": {}}

    def day(self, dice: random.Random, today: date) -> None:
        yesterday = today - timedelta(days=1)
        for _ in range(4):
            self._fact(dice, today, f"{dice.randrange(12):02d}")
        for publisher in (0, 1) if today > self.began else ():  # the first day has its cohorts
            row = {"day": f"{today}", "opens": [], "revenue": []}
            self._keep("cohorts", today, tune_facts.COHORTS, self.cohort[publisher], row)
        for _ in range(3):
            self._click(dice, today)
        edits: list[Row] = []
        if facts := self.recent["facts"].get(yesterday):
            edits.append({"table": tune_facts.FACTS, "op": "update", "key": facts[0], "row": {"installs": 9000}})
            if dice.random() < 0.4:
                edits.append({"table": tune_facts.FACTS, "op": "delete", "key": facts.pop()})
            if dice.random() < 0.4:
                self._fact(dice, yesterday, "23")
        for back in (1, 2, 3):
            for key in self.recent["cohorts"].get(today - timedelta(days=back), ()):
                opens = [dice.randrange(99) for _ in range(back)]
                row = {"opens": opens, "revenue": opens}
                edits.append({"table": tune_facts.COHORTS, "op": "update", "key": key, "row": row})
        if (clicks := self.recent["clicks"].get(yesterday)) and dice.random() < 0.3:
            edits.append({"table": "logs/clicks", "op": "delete", "key": clicks.pop()})
        number = self.number()
        if dice.random() < 0.4:
            edits += self.come_and_go("advertiser/campaigns", {"name": f"Кампания {number}"})
        if dice.random() < 0.3 and (key := self.one_of_ours(dice, "advertiser/campaigns")) is not None:
            row = {"name": f"renamed {number}"}
            edits.append({"table": "advertiser/campaigns", "op": "update", "key": str(key), "row": row})
        self.edit(edits)
        for kept in self.recent.values():
            for day in [day for day in kept if day < today - timedelta(days=4)]:
                del kept[day]

    def _keep(self, kind: str, day: date, table: str, like: Any, row: Row) -> None:
        edit = {"table": table, "op": "insert", "key": str(like), "row": row}
        key = self.box.control(self.name, "POST", "edit", edit)["key"]
        self.recent[kind].setdefault(day, []).append(key)

    def _fact(self, dice: random.Random, day: date, hour: str) -> None:
        row = {"date_hour": f"{day} {hour}:00:00", "installs": dice.randrange(500)}
        self._keep("facts", day, tune_facts.FACTS, dice.choice(self.like), row)

    def _click(self, dice: random.Random, day: date) -> None:
        moment = timedelta(seconds=dice.randrange(43_000))
        row = {"id": f"{dice.getrandbits(72):018x}-{day:%Y%m%d}-877", "created": f"{day}T{str(moment).zfill(8)}Z"}
        self._keep("clicks", day, "logs/clicks", self.click, row)

    def check(self, night: Night, now: datetime) -> int:
        there, true = tune_facts.found_actuals(night), tune_facts.expected_actuals(self.vendor)
        apart = [(key, there.get(key), true.get(key)) for key in there | true if there.get(key) != true.get(key)]
        assert not apart, f"actuals, {len(apart)} apart, there and true: {apart[:2]}"
        tune_facts.same_retention(night, self.vendor)
        tune_facts.same_log(night, self.vendor, export=True)
        with duckdb.connect(str(night.warehouse), read_only=True) as connection:
            for path in self.records:
                records, table = truth(self.box, path, vendor="tune"), path.replace("/", "_")
                wrong = differences(
                    connection, "tune", table, records, labels=("id", "name"), where="_deleted_at IS NULL"
                )
                assert not wrong, wrong
        return counted(night, self.name)


class Thinkingengine(Part):
    name = "thinkingengine"
    chosen = ("login", "purchase")
    ours = ("event_key", "event_time_utc", "member")

    def settle(self, night: Night, today: date) -> None:
        super().settle(night, today)
        daily = (
            'SELECT "$part_date", "$part_event", count(*) AS n FROM v_event_{project_id} '
            'WHERE "$part_date" BETWEEN {start} AND {end} GROUP BY 1, 2'
        )
        start = {"start": str(today - timedelta(days=6))}
        night.set(
            self.name,
            page_size=1000,
            queries=[
                {"name": "daily", "sql": daily, "cursor": "$part_date", "window": start},
                {"name": "no_key", "sql": "SELECT vip, count(*) AS n FROM v_user_{project_id} GROUP BY 1"},
            ],
        )
        self.like = [row for row in self.rows("v_event") if row["$part_event"] in self.chosen]
        self.recent: dict[date, list[str]] = {}
        self.columns = 0

    def day(self, dice: random.Random, today: date) -> None:
        yesterday, number = today - timedelta(days=1), self.number()
        edits = [self._event(dice, today, f"{number}-{each}") for each in range(8)]
        if ids := self.recent.get(yesterday):
            edits.append(self._event(dice, yesterday, f"{number}-late"))
            edits.append({"table": "v_event", "op": "update", "key": ids[0], "row": {"amount": dice.randrange(99) / 4}})
            if dice.random() < 0.3:
                edits.append({"table": "v_event", "op": "delete", "key": ids.pop()})
            if dice.random() < 0.2:
                edits.append(self._event(dice, yesterday, None))
        if self.columns < 5 and dice.random() < 0.03:
            self.columns += 1
            new = {"name": f"新属性 {self.columns}", "type": "VARCHAR"}
            edits.append({"table": "v_event", "op": "column", "row": new})
        users = self.rows("v_user")
        user = {**dice.choice(users[10:]), "#update_time": f"{today} 11:00:0{number % 10}.000"}
        edits.append(
            {"table": "v_user", "op": "update", "key": user["#user_id"], "row": {**user, "昵称": f"新 {number}"}}
        )
        if dice.random() < 0.3:
            edits.append({"table": "v_user", "op": "insert", "row": {**user, "#user_id": 5_000_000_000 + number}})
        if dice.random() < 0.3:
            member = {**self.rows("user_result_cluster")[0], "#user_id": 7_000_000 + number, "#varchar_id": None}
            edits += self.come_and_go("user_result_cluster", member, 7_000_000 + number)
        if dice.random() < 0.3:
            edits += self.come_and_go("dim", {"#account_id@cps_group": f"n{number}", "cps@cost": 0.25}, f"n{number}")
        if dice.random() < 0.3:
            edits.append({"table": "metrics", "op": "update", "key": 71, "row": {"metricDesc": f"{number}"}})
        self.edit(edits)
        for day in [day for day in self.recent if day < today - timedelta(days=3)]:
            del self.recent[day]

    def _event(self, dice: random.Random, day: date, key: str | None) -> Row:
        like, moment = dice.choice(self.like), f"{day} {dice.randrange(24):02d}:00:00.{dice.randrange(1000):03d}"
        row = {**like, "$part_date": str(day), "#event_time": moment, "#server_time": moment, "#uuid": key}
        if key is not None:
            self.recent.setdefault(day, []).append(key)
        return {"table": "v_event", "op": "insert", "row": {**row, "note": f"note {dice.random()}"}}

    def check(self, night: Night, now: datetime) -> int:
        true = [row for row in self._true("v_event") if row["$part_date"] < str(now.astimezone(UTC).date())]
        events = [row for row in true if row["$part_event"] in self.chosen]
        expected = {
            "events": (events, "#uuid $part_event amount level note 商品", "true"),
            "users": (self._true("v_user"), "#user_id #account_id 昵称 vip balance", "_deleted_at IS NULL"),
            "cluster_members": (self._true("user_result_cluster"), "#user_id tag_value", "_deleted_at IS NULL"),
            "dimension_cps": (self._true("dim"), "#account_id@cps_group cps@name cps@cost", "true"),
            "metrics": (self._true("metrics"), "metricId metricDesc", "_deleted_at IS NULL"),
        }
        with duckdb.connect(str(night.warehouse), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for table, (rows, labels, live) in expected.items():
                wrong = differences(
                    connection, self.name, table, rows, labels=labels.split(), where=live, ours=self.ours
                )
                assert not wrong, wrong
        daily = night.rows("SELECT _part_date::VARCHAR, _part_event, n FROM thinkingengine.daily")
        counts = Counter((row["$part_date"], row["$part_event"]) for row in true)
        assert Counter({row[:2]: row[2] for row in daily}) == counts and len(daily) == len(counts)
        return counted(night, self.name)

    def _true(self, table: str) -> list[Row]:
        return truth(self.box, table, vendor=self.name)


class Growingio(Part):
    name = "growingio"
    days = 5

    def settle(self, night: Night, today: date) -> None:
        self.vendor = growingio.Vendor(self.box)
        night.set(self.name, **{**growingio.basics(self.vendor), "backfill_days": self.days})
        self.like: dict[str, list[Row]] = {}
        for row in self.rows("chart_rows"):
            if row["day"] == str(today):
                self.like.setdefault(row["chart"], []).append(row)
        self.first: date | None = None

    def day(self, dice: random.Random, today: date) -> None:
        yesterday, number = today - timedelta(days=1), self.number()
        there = {row["chart"] for row in self.rows("chart_rows") if row["day"] == str(today)}
        edits = [
            {"table": "chart_rows", "op": "insert", "key": [chart, str(today)], "row": self._like(dice, row)}
            for chart, rows in self.like.items()
            if chart not in there
            for row in rows
        ]
        moved = {"values": [float(dice.randrange(999)), float(number)]}
        edits.append({"table": "chart_rows", "op": "update", "key": ["YoX28w7R", str(yesterday), 0], "row": moved})
        if dice.random() < 0.3:
            edits.append({"table": "chart_rows", "op": "delete", "key": ["biGg1001", str(yesterday), 0]})
        if dice.random() < 0.3:
            late = {"target": "全部登录用户", "dims": [f"late {number}"], "values": [1.0, float(number)]}
            edits.append({"table": "chart_rows", "op": "insert", "key": ["biGg1001", str(yesterday)], "row": late})
        if dice.random() < 0.1:
            edits.append({"table": "charts", "op": "update", "key": "vBar0001", "row": {"name": f"每日注册 {number}"}})
        if dice.random() < 0.2:
            rule = {"ruleId": f"r{number}", "eventName": f"a,b {number}", "eventType": "clck"}
            edits += self.come_and_go("rules", rule, rule["ruleId"])
        if dice.random() < 0.3:
            users = [[f"{each}", "", f"x{number}", "y"] for each in range(dice.randrange(1, 6))]
            edits.append({"table": "segmentations", "op": "update", "key": "seg00002", "row": {"users": users}})
        self.edit(edits)

    def _like(self, dice: random.Random, row: Row) -> Row:
        values = [
            float(dice.randrange(10**5)) if isinstance(each, float) and each > 1 else each for each in row["values"]
        ]
        return {"target": row["target"], "dims": row["dims"], "values": values}

    def check(self, night: Night, now: datetime) -> int:
        newest = newest_day(Settings(), now)
        first = self.first
        if first is None:
            ((first,),) = night.rows("SELECT min(event_date) FROM growingio.chart_points")
            self.first = first
        assert first is not None
        days = {first + timedelta(days=each) for each in range((newest - first).days + 1)}
        growingio.same_as_truth(night, self.vendor, days)
        growingio.others_are_true(night, self.vendor, days)
        growingio.users_are_true(night, self.vendor)
        return counted(night, self.name)


PARTS: dict[str, Callable[[SandboxProcess], Part]] = {
    part.name: part for part in (Tonalytica, Dataworks, Tune, Thinkingengine, Growingio)
}
