"""What GrowingIO has: tables, keys, limits, and what the configuration may say.

Where a fact is the vendor's own it is told here; what nobody documents is a setting with a safe default (README.md).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, ClassVar

from dlt.common.configuration import configspec
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.typing import TSecretStrValue

from sources.convert.types import Column, Kind
from sources.core.config import check_ranges, check_zone
from sources.core.errors import ConfigurationError
from sources.extract.table import Mode, Table
from sources.http.download_links import HOST

VENDOR = "growingio"
DATASET = "growingio"
CHARTS = "growingio_charts"

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
INTERVALS = {"hour": HOUR_MS, "day": DAY_MS, "week": 7 * DAY_MS, "month": 30 * DAY_MS}
"""The codes of the parameter `interval`; the month's is a constant of thirty days."""

MOST_ROWS = 200_000
"""What one answer carries at most: one that is full may be cut."""

TIME_LABELS = frozenset({"时间", "timestamp"})
PADDED_TIME = "时间"
"""The label of the time that charts of the first generation have in their rows, but not in their meta."""

HOURLY_ZEROS = ("跳出率", "平均访问时长", "每次访问页面浏览量", "访问用户人均访问次数")
"""Metrics whose value is 0 whenever they are asked for by the hour; so are the metrics that are built on them."""

KINDS = ("chart", "funnel", "retention")
RANGES = ("day", "week", "month")
POLICIES = ("keep", "hash", "drop")
_UID = re.compile(r"[A-Za-z0-9_-]+")
LINK_HOSTS = ("*.growingio.com", "*.growingio.cn")
"""Where the files of exports come from, as far as the vendor tells; no document names the host of its storage."""


@configspec
class Settings(BaseConfiguration):
    """`[sources.growingio]`; what each means stands in README.md."""

    base_url: str = "https://www.growingio.com"
    project_uid: str | None = None
    auth_mode: str = "console_token"
    console_token: TSecretStrValue | None = None
    client_id: str | None = None
    account_ai: str | None = None
    secret: TSecretStrValue | None = None
    auth_scheme: str = "Token "
    clock_skew_seconds: int = 0

    charts_api: str = "v2"
    segmentations_api: str = "v1"
    poll_seconds: float = 2.0
    poll_timeout: int = 600
    link_minutes: int = 60
    link_hosts: list[str] | None = None

    dashboards: list[str] | None = None
    charts: list[str] | None = None
    exclude_charts: list[str] | None = None
    exclude: list[str] | None = None
    types: dict[str, Any] | None = None
    intervals: list[str] | None = None
    chart_intervals: dict[str, Any] | None = None
    conversion_window: int = 1
    retention_range: str = "day"
    hourly_zeros: str = "null"
    hourly_zero_metrics: list[str] | None = None
    not_applicable: list[str] | None = None

    zone: str = "Asia/Shanghai"
    week_starts: str = "monday"
    start: str | None = None
    end: str | None = None
    backfill_days: int = 30
    lookback_days: int = 3
    retention_periods: int = 30
    ready_hour: int = 6
    window_days: int = 31
    most_rows: int = MOST_ROWS

    segmentation_users: list[str] | None = None
    user_columns: dict[str, Any] | None = None
    hash_salt: TSecretStrValue | None = None
    user_num: str = "exact"
    separator: str = "auto"

    requests_per_second: float = 1.6
    concurrency: int = 4

    secrets: ClassVar[tuple[str, ...]] = ("console_token", "secret", "hash_salt")


def _texts(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label=label, kind=Kind.TEXT) for label in labels)


def _whole(label: str) -> Column:
    return Column(label=label, kind=Kind.BIGINT)


def _real(label: str) -> Column:
    return Column(label=label, kind=Kind.DOUBLE)


def _day_hint(label: str) -> Column:
    # date-only in the vendor's samples; whatever else comes stays as text
    return Column(label=label, kind=Kind.DATE, declared=False)


_FRAME = (
    Column(label="window_start", kind=Kind.TIMESTAMP),
    Column(label="window_end", kind=Kind.TIMESTAMP),
    Column(label="point_time", kind=Kind.TIMESTAMP),
    Column(label="event_date", kind=Kind.DATE),
)
_SERIES = (Column(label="dimensions", kind=Kind.JSON), *_texts("dimensions_hash"), _whole("occurrence"))

DASHBOARDS = Table(
    name="dashboards",
    mode=Mode.FULL,
    key=("project_uid", "id"),
    about="the boards that the token can see",
    columns=(
        *_texts("project_uid", "id", "name", "type"),
        *map(_day_hint, ("createdAt", "updatedAt")),
        *_texts("scope", "updater", "creator"),
    ),
)

DASHBOARD_CHARTS = Table(
    name="dashboard_charts",
    mode=Mode.FULL,
    key=("project_uid", "dashboard_id", "chart_id"),
    about="which chart stands on which board",
    columns=(
        *_texts("project_uid", "dashboard_id", "chart_id", "name", "creator", "createdAt", "resource_type"),
        _whole("position"),
    ),
)

CHART_LIST = Table(
    name="charts",
    mode=Mode.HISTORY,
    key=("project_uid", "chart_id"),
    keeps=("metas",),
    about="each chart, funnel and retention with its columns (meta), from when to when (as seen at night)",
    columns=(
        *_texts("project_uid", "chart_id", "name", "resource_type", "meta_hash"),
        Column(label="meta", kind=Kind.JSON),
    ),
)

CHART_POINTS = Table(
    name="chart_points",
    mode=Mode.KEPT,
    key=("slice", "point_time", "dimensions_hash", "occurrence", "metric_position"),
    scope="slice",
    zone=Settings.zone,
    cursor="point_time",
    about="every value of every chart: a row per point, dimensions and metric",
    columns=(
        *_texts("project_uid", "chart_id", "interval", "slice"),
        *_FRAME,
        *_SERIES,
        *_texts("meta_hash"),
        _whole("metric_position"),
        *_texts("metric"),
        _real("value"),
        *_texts("value_text", "quality"),
    ),
)

FUNNEL_STEPS = Table(
    name="funnel_steps",
    mode=Mode.KEPT,
    key=("slice", "point_time", "dimensions_hash", "occurrence", "step"),
    scope="slice",
    zone=Settings.zone,
    cursor="point_time",
    about="funnels, a row per step; step 0 is the funnel as a whole",
    columns=(
        *_texts("project_uid", "funnel_id", "slice"),
        _whole("conversion_window"),
        *_FRAME,
        *_SERIES,
        *_texts("meta_hash"),
        _whole("step"),
        *_texts("label"),
        _real("users"),
        _real("rate"),
        Column(label="other", kind=Kind.JSON),
    ),
)

RETENTION = Table(
    name="retention",
    mode=Mode.KEPT,
    key=("slice", "point_time", "dimensions_hash", "occurrence", "n"),
    scope="slice",
    zone=Settings.zone,
    cursor="point_time",
    about="retentions, a row per cohort and period: n periods after the first; n -1 is the cohort as a whole",
    columns=(
        *_texts("project_uid", "retention_id", "range", "slice"),
        *_FRAME,
        *_SERIES,
        *_texts("meta_hash"),
        _whole("n"),
        *_texts("label"),
        _real("users"),
        _real("rate"),
        Column(label="other", kind=Kind.JSON),
    ),
)

SEGMENTATIONS = Table(
    name="segmentations",
    mode=Mode.FULL,
    key=("project_uid", "id"),
    about="user segments; userType u is visitors, cs1 is users who logged in",
    columns=(*_texts("project_uid", "id", "name", "userType"), _whole("userNum"), _day_hint("updatedAt")),
)

SEGMENTATION_USERS = Table(
    name="segmentation_users",
    mode=Mode.KEPT,
    scope="segmentation_id",
    keeps=("segments", "hashed", "met"),
    about="the users of each segment with the attributes that the project uploaded, as of the segment's last change",
    columns=_texts("project_uid", "segmentation_id"),
)

RULES = Table(
    name="rules",
    mode=Mode.FULL,
    key=("project_uid", "ruleId"),
    about="the rules by which events are recognised; names are not unique",
    columns=_texts("project_uid", "ruleId", "eventName", "eventType"),
)

TABLES = (
    DASHBOARDS,
    DASHBOARD_CHARTS,
    CHART_LIST,
    CHART_POINTS,
    FUNNEL_STEPS,
    RETENTION,
    SEGMENTATIONS,
    SEGMENTATION_USERS,
    RULES,
)


_NUMBERS: Mapping[str, tuple[float, float]] = {
    "backfill_days": (1, 3660),
    "lookback_days": (1, 366),
    "retention_periods": (1, 366),
    "conversion_window": (1, 366),
    "window_days": (1, 366),
    "ready_hour": (0, 23),
    "most_rows": (1, MOST_ROWS),
    "concurrency": (1, 16),
    "link_minutes": (1, 7 * 24 * 60),
    "poll_timeout": (1, 86_400),
    "poll_seconds": (0.01, 600),
    "requests_per_second": (0.001, 100_000),
}


def check(settings: Settings) -> None:
    """Raises `ConfigurationError` for a value that cannot work."""
    _one_of("auth_mode", settings.auth_mode, ("console_token", "signed"))
    _one_of("auth_scheme", settings.auth_scheme, ("Token ", ""))
    _one_of("charts_api", settings.charts_api, ("v1", "v2", "v3"))
    _one_of("segmentations_api", settings.segmentations_api, ("v1", "v3"))
    _one_of("retention_range", settings.retention_range, RANGES)
    _one_of("hourly_zeros", settings.hourly_zeros, ("null", "refuse"))
    _one_of("week_starts", settings.week_starts, ("monday", "sunday"))
    _one_of("user_num", settings.user_num, ("exact", "told"))
    _one_of("separator", settings.separator, ("auto", "tab", "comma"))
    for interval in settings.intervals or ():
        _one_of("intervals", interval, tuple(INTERVALS))
    for chart, intervals in (settings.chart_intervals or {}).items():
        for interval in _listed(intervals):
            _one_of(f"chart_intervals.{chart}", interval, tuple(INTERVALS))
    for chart, kind in (settings.types or {}).items():
        _one_of(f"types.{chart}", kind, KINDS)
    for column, policy in (settings.user_columns or {}).items():
        _one_of(f"user_columns.{column}", policy, POLICIES)
    for name in settings.exclude or ():
        _one_of("exclude", name, (*(table.name for table in TABLES), CHARTS))
    for name in ("project_uid", "account_ai"):
        _uid(name, getattr(settings, name))
    for name in ("dashboards", "charts", "exclude_charts", "segmentation_users"):
        for given in getattr(settings, name) or ():
            _uid(name, given)
    for host in settings.link_hosts or ():
        if not HOST.fullmatch(host):
            raise wrong(
                f"link_hosts holds {host[:40]!r}, which is no host", 'Write "files.example.com", without https://'
            )
    check_ranges(VENDOR, settings, _NUMBERS)
    check_zone(VENDOR, settings.zone, todo="GrowingIO's days are Asia/Shanghai")
    first, last = day_of("start", settings.start), day_of("end", settings.end)
    if first and last and last < first:
        raise wrong(f"end ({last}) is before start ({first})", "Swap them, or leave one out")


def day_of(name: str, text: str | None) -> date | None:
    """A configured day. Raises `ConfigurationError` for what is none."""
    try:
        return date.fromisoformat(str(text)) if text else None
    except ValueError:
        raise wrong(f"{name} is {text!r}", 'Write a day like "2026-01-31"') from None


def intervals_of(settings: Settings, chart: str) -> tuple[str, ...]:
    """The intervals by which one chart is asked."""
    own = (settings.chart_intervals or {}).get(chart)
    return tuple(dict.fromkeys(_listed(own) if own else settings.intervals or ["day"]))


def wrong(what: str, todo: str) -> ConfigurationError:
    return ConfigurationError(what=what, where=f"sources.{VENDOR}", todo=todo)


def _listed(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else [str(each) for each in given or ()]


def _one_of(name: str, given: Any, known: Iterable[str]) -> None:
    known = tuple(known)
    if given not in known:
        near = difflib.get_close_matches(str(given), known, n=1)
        told = f"Did you mean {near[0]!r}?" if near and near[0] else f"It may be: {', '.join(map(repr, known))}"
        raise wrong(f"{name} is {given!r}", told)


def _uid(name: str, given: Any) -> None:
    if given is not None and not _UID.fullmatch(str(given)):
        raise wrong(f"{name} holds {str(given)[:40]!r}, which is no id", "Copy it from the address of the console page")
