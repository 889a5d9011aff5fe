"""The seeded project: events of the last days, users, cohorts, a dimension, and the definitions. Same seed, same rows.

Days are counted from today, because a night loads up to yesterday. Keys and whatever is secret hold a canary text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.core.nasty import LONG_CHINESE, TEXTS
from sandbox.core.wire import now

Row = dict[str, Any]

PROJECT = 7
PROJECT_TOKEN = "CANARYteprojecttoken000000000000000000000000000000000000000000"  # noqa: S105
ROOT_TOKEN = "CANARYteroottoken00000000000000000000000000000000000000000000000"  # noqa: S105
LOGIN = "analyst@te.invalid"
DAYS = 6
EVENT_NAMES = ("login", "purchase", "ta_app_start", "商品浏览", "it's {odd}")

COLUMNS: dict[str, dict[str, str]] = {
    "v_event": {
        "$part_date": "VARCHAR",
        "$part_event": "VARCHAR",
        "#event_name": "VARCHAR",
        "#event_time": "TIMESTAMP",
        "#server_time": "TIMESTAMP",
        "#zone_offset": "DOUBLE",
        "#user_id": "BIGINT",
        "#account_id": "VARCHAR",
        "#distinct_id": "VARCHAR",
        "#uuid": "VARCHAR",
        "#country": "VARCHAR",
        "country": "VARCHAR",
        "amount": "DOUBLE",
        "level": "BIGINT",
        "flag": "BOOLEAN",
        "商品": "VARCHAR",
        "note": "VARCHAR",
        "cart": "JSON",
    },
    "v_user": {
        "#user_id": "BIGINT",
        "#account_id": "VARCHAR",
        "#distinct_id": "VARCHAR",
        "#update_time": "TIMESTAMP",
        "#active_time": "TIMESTAMP",
        "#event_date": "BIGINT",
        "vip": "BOOLEAN",
        "昵称": "VARCHAR",
        "balance": "DOUBLE",
    },
    "user_result_cluster": {
        "cluster_name": "VARCHAR",
        "#user_id": "BIGINT",
        "#varchar_id": "VARCHAR",
        "tag_value": "VARCHAR",
        "tag_value_tm": "TIMESTAMP",
        "tag_value_num": "DOUBLE",
    },
    "dim": {"#account_id@cps_group": "VARCHAR", "cps@name": "VARCHAR", "cps@cost": "DOUBLE"},
}
"""Tables that SQL reads, with their columns and types."""


@dataclass
class World:
    """What the server has and how it behaves. `tables`: what SQL reads; `lists`: what the other endpoints give."""

    tables: dict[str, list[Row]]
    lists: dict[str, list[Row]]
    columns: dict[str, dict[str, str]]
    version: int = 0
    tasks: dict[str, Any] = field(default_factory=dict)
    keys_expired: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def seeded(seed: int, scale: float) -> World:
    rng = random.Random(f"{seed}|thinkingengine")
    users = _users(rng, max(1200, round(5000 * scale)))
    return World(
        tables={
            "v_event": _events(rng, users, max(400, round(20000 * scale))),
            "v_user": users,
            "user_result_cluster": _members(rng, users),
            "dim": _dimension(rng),
        },
        lists=_lists(rng),
        columns={name: dict(columns) for name, columns in COLUMNS.items()},
    )


def _users(rng: random.Random, count: int) -> list[Row]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = []
    for number in range(count):
        updated = start + timedelta(minutes=number * 7, milliseconds=rng.randrange(1000))
        rows.append(
            {
                "#user_id": [2**53 + 1, 2**63 - 1][number] if number < 2 else (10**9 + number * 977) * 4194304 + number,
                "#account_id": rng.choice(["007", "0042", f"acc{number}", None]),
                "#distinct_id": f"d-{number}",
                "#update_time": None if number % 97 == 5 else _time(updated),
                "#active_time": _time(updated - timedelta(days=3)),
                "#event_date": int(updated.strftime("%Y%m%d")),
                "vip": rng.choice([True, False, None]),
                "昵称": TEXTS[number % len(TEXTS)].replace("\0", "") if number < 90 else f"用户{number}",
                "balance": rng.choice([None, 0.0, 1.5, rng.randrange(10**6) / 100]),
            }
        )
    return rows


def _events(rng: random.Random, users: list[Row], count: int) -> list[Row]:
    today = now().replace(hour=0, minute=0, second=0, microsecond=0)
    rows = []
    for number in range(count):
        name = EVENT_NAMES[number % len(EVENT_NAMES)]
        at = today - timedelta(days=number % (DAYS + 1)) + timedelta(milliseconds=rng.randrange(86_400_000))
        user = users[rng.randrange(len(users))]
        rows.append(
            {
                "$part_date": at.strftime("%Y-%m-%d"),
                "$part_event": name,
                "#event_name": name,
                "#event_time": _time(at),
                "#server_time": _time(at - timedelta(hours=8)),
                "#zone_offset": rng.choice([8.0, 0.0, -5.5, None, 99.0]),
                "#user_id": user["#user_id"],
                "#account_id": user["#account_id"],
                "#distinct_id": user["#distinct_id"],
                "#uuid": None if number % 23 == 7 else f"uuid-{number:06d}",
                "#country": rng.choice(["中国", "Россия", "United States", None]),
                "country": rng.choice(["CN", "RU", ""]),
                "amount": rng.choice([None, 0.1, 6.0, 648.0, 1e-7]),
                "level": rng.choice([None, 0, 1, 2**53 + 1, -(2**63)]),
                "flag": rng.choice([True, False, None]),
                "商品": rng.choice(["月卡", "同名", "同名", LONG_CHINESE, "a,b\tc"]),
                "note": TEXTS[number % len(TEXTS)].replace("\0", "") if number < 300 else None,
                "cart": rng.choice([None, '{"k":[1,2.5,"中"]}', "[]"]),
            }
        )
    return rows


def _members(rng: random.Random, users: list[Row]) -> list[Row]:
    rows = []
    for cluster in ("vip_users", "流失用户", "tag_level"):
        for user in rng.sample(users, 60):
            is_tag = cluster == "tag_level"
            by_text = rng.random() < 0.1 and not is_tag
            rows.append(
                {
                    "cluster_name": cluster,
                    "#user_id": None if by_text else user["#user_id"],
                    "#varchar_id": f"v-{user['#distinct_id']}" if by_text else None,
                    "tag_value": rng.choice(["高", "low", "007"]) if is_tag else None,
                    "tag_value_tm": user["#active_time"] if is_tag else None,
                    "tag_value_num": rng.randrange(1000) / 10 if is_tag else None,
                }
            )
    return rows


def _dimension(rng: random.Random) -> list[Row]:
    return [
        {
            "#account_id@cps_group": f"{number:03d}",
            "cps@name": f"渠道 {number}",
            "cps@cost": rng.choice([None, number / 4]),
        }
        for number in range(40)
    ]


def _lists(rng: random.Random) -> dict[str, list[Row]]:
    events = [
        {"eventName": name, "eventDesc": f"事件 {name}", "remark": None, "isHidden": position == 2}
        for position, name in enumerate(EVENT_NAMES)
    ]
    virtual = {
        "eventName": "ta@paid",
        "eventDesc": "付费",
        "remark": "",
        "rule": {"events": [{"eventName": "purchase", "eventDesc": "", "filter": None}], "filter": {"filts": []}},
    }
    events.append({"eventName": "ta@paid", "eventDesc": "付费", "remark": "", "isHidden": False})
    props = [
        {"tableType": table, "columnName": name, "columnDesc": f"属性 {name}", "columnRemark": None, "selectType": kind}
        for table, source in (("event", "v_event"), ("user", "v_user"))
        for name, kind in (
            (name, {"VARCHAR": "string", "BIGINT": "number", "DOUBLE": "number"}.get(kind, kind.lower()))
            for name, kind in COLUMNS[source].items()
        )
    ]
    clusters = [
        {
            "clusterName": name,
            "displayName": f"{name} 显示",
            "clusterCatalog": "catalog_tag" if name.startswith("tag") else "catalog_cluster",
            "clusterType": "cluster_by_dynamic_condition",
            "qp": {"events": [], "relation": "and"},
            "clusterId": 900 + position,
        }
        for position, name in enumerate(("vip_users", "流失用户", "tag_level"))
    ]
    dashboards = [
        {"dashbord_id": 40 + number, "dashbord_name": ("同名", "同名", "活跃 🚀")[number]} for number in range(3)
    ]
    reports = [
        {
            "reportId": 500 + number,
            "reportName": ("同名", "留存", "", LONG_CHINESE)[number % 4],
            "reportDesc": None,
            "reportModel": number % 7,
            "createType": ("MANUAL_CREATE", "IMPORTED", "COPIED")[number % 3],
            "dashboardIds": rng.sample([40, 41, 42], number % 4),
            "updateTime": f"2026-10-{number + 1:02d} 12:00:0{number % 10}",
        }
        for number in range(9)
    ]
    metrics = [
        {
            "metricId": 70 + number,
            "projectId": PROJECT,
            "metricName": ("dau", "付费率", "dau")[number],
            "metricDesc": None,
            "metricRemark": "",
            "metricMode": "EVENT",
            "createUser": "root",
            "updateUser": "root",
            "createTime": "2026-01-01 00:00:00",
            "updateTime": "2026-01-02 08:00:00",
            "timeParticles": ["day", "week"],
            "format": "FORMAT_FLOAT",
        }
        for number in range(3)
    ]
    projects = [
        {
            "companyId": 1,
            "projectId": PROJECT + number,
            "projectName": f"项目{number}",
            "projectType": number,
            "remark": None,
            "roleName": "admin",
        }
        for number in range(2)
    ]
    users = [
        {
            "userId": 11 + number,
            "loginName": name,
            "companyRole": "supervisor" if number else None,
            "projectRoles": None if number else [{"projectId": PROJECT, "role": "analyst", "token": "CANARYnested"}],
            "apiSecret": f"CANARYusersecret{number}",
        }
        for number, name in enumerate((LOGIN, "root"))
    ]
    return {
        "event_meta": events,
        "property_meta": props,
        "virtual_events": [virtual],
        "user_clusters": clusters,
        "reports": reports,
        "dashboards": dashboards,
        "metrics": metrics,
        "projects": projects,
        "users_of_company": users,
    }


def has_property(event: str, column: str) -> bool:
    """Does an event have a property? Those of the system always."""
    return not column.isidentifier() or (len(event) + len(column)) % 2 == 0


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"
