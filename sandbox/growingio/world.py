"""The seeded project: boards, charts with their rows by day, segments with their users, rules.

Rows of a chart are kept by Beijing day; what a window asks for is made of them. Nobody documents what hours, weeks and
months look like: hours share the day's figure, weeks begin on Monday, months are those of the calendar.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from sandbox.core.nasty import LONG_CHINESE, TEXTS
from sandbox.core.wire import now

BEIJING = timezone(timedelta(hours=8))
HOUR, DAY = 3_600_000, 86_400_000
DAYS = 40
PROJECT = "nxog09md"
AI = "2a1b4018cd954ec2bcc69da5138bdb96"
BOUNCE = ("跳出率", "平均访问时长", "每次访问页面浏览量", "访问用户人均访问次数")
NA = "不适用"
TARGETS = ("全部访问用户", "全部登录用户")

Row = dict[str, Any]
"""One row of a chart: `dims` in the order of the chart's dimensions, `values` in that of its metrics."""


@dataclass
class Chart:
    """`kind` is the board's resource_type; `told` False: the board does not say it. `timed`: its rows have a time."""

    id: str
    name: str
    kind: str
    dims: list[str]
    metrics: list[str]
    timed: bool
    rows: dict[date, list[Row]] = field(default_factory=dict)
    told: bool = True
    number: bool = False


@dataclass
class World:
    seed: int
    scale: float
    console_token: str
    client_id: str
    secret: str
    boards: dict[str, dict[str, Any]] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    segments: dict[str, dict[str, Any]] = field(default_factory=dict)
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    minted: str | None = None
    mints: int = 0
    polls: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def midnight(day: date) -> int:
    return int(datetime.combine(day, time(), BEIJING).timestamp()) * 1000


def day_at(milliseconds: int) -> date:
    return datetime.fromtimestamp(milliseconds / 1000, BEIJING).date()


def today() -> date:
    return now().astimezone(BEIJING).date()


CHARTS: tuple[tuple[str, str, str, list[str], list[str], bool], ...] = (
    ("YoX28w7R", "访问趋势", "chart", [], ["访问用户量", "页面浏览量"], True),
    ("hBar0001", "地区分布", "chart", ["城市"], ["访问量"], False),
    ("vBar0001", "每日注册", "chart", [], ["注册", "登录"], True),
    ("taBle001", "城市与浏览器", "chart", ["城市", "浏览器"], ["访问量", "访问量", ""], False),
    ("fuNn1001", "旧漏斗", "chart", [], ["浏览", "下单", "付款"], False),
    ("nuMb1001", "大数字", "chart", [], ["总成交额"], True),
    ("buBb1001", "气泡", "chart", ["渠道"], ["a", "B", "c", "_slice"], False),
    ("biDi1001", "双向", "chart", ["性别"], ["人数"], False),
    ("boUn1001", "质量", "chart", ["渠道"], [*BOUNCE, "访问量"], True),
    ("biGg1001", LONG_CHINESE + "甲", "chart", ["页面"], ["PV 🚀", LONG_CHINESE + "乙"], True),
    (
        "fuNnel01",
        "购买漏斗",
        "funnel",
        [],
        ["总转化率", "第1步人数", "第1步转化率", "第2步人数", "第2步转化率", "备注"],
        True,
    ),
    (
        "reTen001",
        "七日留存",
        "retention",
        ["对比值", "用户行为"],
        ["留存人数", "当日", "当日留存率", "次日", "次日留存率", "2日后", "2日后留存率"],
        True,
    ),
)  # fmt: skip
UNTOLD = ("vBar0001", "fuNnel01")
TRAPS = tuple(text for text in TEXTS if 0 < len(text) < 300)


def seeded(seed: int, scale: float, *, console_token: str, client_id: str, secret: str) -> World:
    world = World(seed=seed, scale=scale, console_token=console_token, client_id=client_id, secret=secret)
    for uid, name, kind, dims, metrics, timed in CHARTS:
        chart = Chart(uid, name, kind, dims, metrics, timed, told=uid not in UNTOLD, number=uid == "nuMb1001")
        world.charts[uid] = chart
        rng = random.Random(f"{seed}|{uid}")
        for back in range(DAYS, -1, -1):
            day = today() - timedelta(days=back)
            chart.rows[day] = _rows_of(chart, rng, scale)
    _seed_boards(world)
    _seed_segments(world, scale)
    for number in range(max(12, round(200 * scale))):
        uid = f"f25{number:05x}"
        name = TRAPS[number % len(TRAPS)].translate(_LINE)
        name = " ".join(name.strip().split()) if number < len(TRAPS) else f"元素_注册按钮,{number}"
        world.rules[uid] = {
            "ruleId": uid,
            "eventName": name,
            "eventType": ("page", "clck", "chng", "sbmt", "imp")[number % 5],
        }
    return world


def _rows_of(chart: Chart, rng: random.Random, scale: float) -> list[Row]:
    size = max(8, round(1000 * scale)) if chart.id == "biGg1001" else 4
    combos: list[list[Any]] = [[]]
    if chart.dims:
        combos = [[_dimension(name, number, rng) for name in chart.dims] for number in range(size)]
        if chart.id == "taBle001":
            combos.append(list(combos[0]))  # a row that is like another in all but its metrics
    rows = []
    for target in TARGETS:
        for combo in combos:
            values = [_metric(name, rng) for name in chart.metrics]
            rows.append({"target": target, "dims": combo, "values": values})
    return rows


def _dimension(name: str, number: int, rng: random.Random) -> Any:
    if name == "页面":
        return TRAPS[number % len(TRAPS)] if number < len(TRAPS) else f"/页面/{number}"
    texts: dict[str, list[Any]] = {
        "城市": ["北京", "上海", NA, "Côte d'Ivoire"],
        "浏览器": ["Chrome", NA, NA, 'IE "11"'],
        "渠道": ["自然", "推广", None, "a,b\tc"],
        "性别": ["男", "女", NA, "未知"],
        "对比值": ["北京", "上海", NA, "广州"],
        "用户行为": ["下单", "访问", NA, "注册"],
    }
    return texts[name][number % 4]


def _metric(name: str, rng: random.Random) -> Any:
    if name.endswith("率"):
        return round(rng.random(), 4)
    if name == "备注":
        return "样本不足"
    if name == "B":
        return rng.choice([None, 1.5, 0.0, NA])
    return float(rng.randrange(100_000)) if rng.random() < 0.9 else 0.0


def _seed_boards(world: World) -> None:
    ids = list(world.charts)
    world.boards["BoardA01"] = _board("BoardA01", "核心看板", "normal", "project", ids[:6])
    world.boards["BoardB02"] = _board("BoardB02", TEXTS[6], "normal", "user", ids[5:])
    world.boards["BoardC03"] = _board("BoardC03", "实时", "realtimeV2", "global", [])


def _board(uid: str, name: str, kind: str, scope: str, charts: list[str]) -> dict[str, Any]:
    times = {"createdAt": "2019-01-01", "updatedAt": "2019-01-02"}
    return {
        "id": uid,
        "name": name,
        "type": kind,
        **times,
        "scope": scope,
        "updater": "李雷",
        "creator": "韩梅梅",
        "charts": charts,
    }


def _seed_segments(world: World, scale: float) -> None:
    number = max(20, round(5000 * scale))
    plain = [
        [f"{n:05d}", TRAPS[n % len(TRAPS)].translate(_FLAT).strip() or "x", f"1380000{n:04d}"] for n in range(number)
    ]
    world.segments["seg00001"] = segment("seg00001", "活跃用户", "cs1", ["cs1_name", "cs2_name", "手机号"], plain)
    odd = [
        ["1", "CANARY.one@example.com", "甲", "乙"],
        ["2"],
        ["0007", "CANARY.two@example.com", "", "丁"],
        ["9", "x", "y"],
    ]
    world.segments["seg00002"] = segment("seg00002", "同名", "u", ["访问用户ID", "联系", "同名", "同名"], odd)
    world.segments["seg00003"] = segment("seg00003", "同名", "u", ["cs1_name"], [])


_LINE = {ord(char): " " for char in "\t\n\r\0"}
_FLAT = {ord(char): " " for char in '\t\n\r\0"'}


def segment(uid: str, name: str, kind: str, header: list[str], users: list[list[str]]) -> dict[str, Any]:
    return {
        "id": uid,
        "name": name,
        "userType": kind,
        "userNum": len(users),
        "updatedAt": "2016-08-03",
        "header": header,
        "users": users,
    }


def answer(chart: Chart, start: int, end: int, interval: int, *, old: bool, extra: dict[str, Any]) -> dict[str, Any]:
    """The chart object of the first generation (`old`) or of the later ones."""
    meta = [] if old else [{"name": "目标用户", "dimension": True}]
    if chart.timed and not old:
        meta.append({"name": "时间", "dimension": True})
    meta += [{"name": name, "dimension": True} for name in chart.dims]
    meta += [{"name": name, "metric": True} for name in chart.metrics]
    data = []
    timed = chart.timed and not (old and chart.number)
    for moment, row in rows_in(chart, start, end, interval, timed=timed):
        if old and row["target"] != TARGETS[0]:
            continue
        head = ([] if old else [row["target"]]) + ([moment] if timed else [])
        data.append([*head, *row["dims"], *row["values"]])
    told: dict[str, Any] = {"id": chart.id, "name": chart.name, **extra, "startTime": start, "endTime": end}
    told |= {"interval": interval, "meta": meta, "data": data}
    if chart.number and not old:
        told["aggregator"] = {"values": [27557, 25409]}
    return told


def rows_in(chart: Chart, start: int, end: int, interval: int, *, timed: bool) -> list[tuple[int, Row]]:
    days = [day for day in chart.rows if midnight(day) <= end and midnight(day) + DAY > start]
    if not timed:
        return [(0, row) for row in _sums([row for day in days for row in chart.rows[day]], several=len(days) > 1)]
    if interval == HOUR:
        return [
            (moment, _hour(chart, row))
            for day in days
            for moment in range(midnight(day), midnight(day) + DAY, HOUR)
            if start <= moment <= end
            for row in chart.rows[day]
        ]
    if interval <= DAY:
        return [(midnight(day), row) for day in days for row in chart.rows[day]]
    buckets: dict[date, list[Row]] = {}
    for day in days:
        first = day - timedelta(days=day.weekday()) if interval == 7 * DAY else day.replace(day=1)
        buckets.setdefault(first, []).extend(chart.rows[day])
    return [(midnight(first), row) for first, rows in buckets.items() for row in _sums(rows, several=True)]


def _hour(chart: Chart, row: Row) -> Row:
    values = [0.0 if name in BOUNCE else value for name, value in zip(chart.metrics, row["values"], strict=True)]
    return {**row, "values": values}


def _sums(rows: list[Row], *, several: bool) -> list[Row]:
    """Rows that are alike in target and dimensions, summed over several days."""
    if not several:
        return rows
    found: dict[str, Row] = {}
    for row in rows:
        key = repr((row["target"], row["dims"]))
        if key not in found:
            found[key] = {**row, "values": list(row["values"])}
            continue
        values = found[key]["values"]
        for place, value in enumerate(row["values"]):
            if isinstance(value, float) and isinstance(values[place], float):
                values[place] += value
    return list(found.values())
