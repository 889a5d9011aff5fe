"""TUNE's reports: what each kind takes, what a configuration may say, and which table it becomes.

What the vendor does not document (the name of a time column, whether a count regards the same groups, the greatest
answer of an export) is a setting with a default; README.md beside this file lists them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from sources import naming
from sources.convert.types import Column, Kind
from sources.extract.table import Mode, Table
from sources.tune.fields import column_of
from sources.tune.periods import UNITS, Calendar
from sources.tune.settings import FIELD, Settings, filter_of, names_of, unknown, wrong

ZONE = "UTC"
"""Asked for in every call and stored: without it the account's own zone applies, and nobody is told."""

WINDOW = "window_start"
"""The column of the first day of the window that a row came in; each load replaces the windows it brings."""

ORDINAL = "ordinal"
"""The place of an interval in its cohort, from 0."""
NO_INTERVAL = -1

ROW_KEY = "row_key"

FIND_ROWS = 2000
LOG_FIND_ROWS = 5000
LOG_EXPORT_ROWS = 200_000
KNOWN_CAPS = frozenset({5_000, 200_000, 2_000_000})
"""Public sources part over the cap of a log's answer: exactly so many rows are taken for a cut answer."""

MONEY_SCALE = 18
"""rpi and epi are quotients, with more digits than money has."""

_IDS = "site_id publisher_id campaign_id country_id region_id ad_network_id advertiser_id agency_id"
_WORDS = {
    # ids come as a number or as a text, and are integers all the same; those of sub-publishers may be any text
    "integer": "ad_impressions ad_impressions_unique ad_clicks ad_clicks_unique installs opens events conversions "
    "paid_installs paid_installs_assists non_installs_assists paid_events paid_events_assists non_events_assists "
    "paid_opens paid_opens_assists non_opens_assists rolling_opens classic_opens classic_events classic_purchases "
    f"{_IDS} install_{_IDS.replace(' ', ' install_')}",
    "money": "payouts revenues revenues_usd payout revenue revenue_usd currency_rate rpi epi cost",
    "datetime": "date_hour datehour created modified",
    "date": "date",
}
_TYPES = {name: kind for kind, names in _WORDS.items() for name in names.split()}
_KINDS_TAKEN = ("integer", "money", "datetime", "date", "boolean", "string", "float", "json")

_NO_DEBUG = ("debug_mode", "(debug_mode=0 OR debug_mode is NULL)")
_NO_TEST = ("test_profile_id", "(test_profile_id=0 OR test_profile_id IS NULL)")

LOGS = ("clicks", "installs", "events", "event_items", "postbacks", "opens", "impressions", "updates")
PERIODS = {"year_day": "day", "year_week": "week", "year_month": "month", "year": "year"}
TIMESTAMPS = {"hour": "day", "datehour": "day", "date": "day", "week": "week", "month": "month", "": "day"}


@dataclass(frozen=True, kw_only=True)
class ReportKind:
    """A kind of report: its paths (the first is the default one), defaults, and the settings that only it has."""

    paths: tuple[str, ...]
    own: tuple[str, ...]
    group: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    lookback_days: int = 7
    traffic: tuple[tuple[str, str], ...] = ()
    """What keeps test traffic out: (field, filter)."""
    poll: str = "download"


_V2 = ("path", "group", "count", "sort", "queue", "poll", "page_size")
KINDS: Mapping[str, ReportKind] = {
    "actuals": ReportKind(
        paths=("advertiser/stats", "advertiser/stats/actuals"),
        own=(*_V2, "timestamp", "time_column"),
        group=("site_id", "publisher_id"),
        fields=(
            *("ad_impressions", "ad_impressions_unique", "ad_clicks", "ad_clicks_unique", "installs", "opens"),
            *("events", "conversions", "payouts", "revenues", "revenues_usd"),
        ),
        traffic=(_NO_DEBUG, _NO_TEST),
    ),
    "ltv": ReportKind(
        paths=("advertiser/stats/ltv",),
        own=(*_V2, "cohort_type", "interval", "aggregation", "time_column", "ordinal_column"),
        group=("site_id", "publisher_id"),
        fields=("rpi", "epi", "revenues_usd"),
        lookback_days=90,
        traffic=(_NO_TEST,),
        poll="status",
    ),
    "retention": ReportKind(
        paths=("advertiser/stats/retention", "advertiser/stats/retention/reduced"),
        own=(*_V2, "cohort_type", "interval", "time_column", "ordinal_column"),
        group=("install_publisher_id",),
        fields=("installs", "opens"),
        lookback_days=90,
        poll="status",
    ),
    "logs": ReportKind(paths=(), own=("log", "advertiser_id", "row_limit", "lines_include_header", "end_inclusive")),
}
_SHARED = (
    *("name", "report", "fields", "filter", "start", "window_days", "lookback_days", "via", "types", "key"),
    *("test_traffic", "week_starts"),
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """One configured report. `count`: is the vendor asked how many rows a window has? `row_limit`: of a log's answer;
    `test_traffic` True: it is loaded too. `queue` and `poll`: how an export is ordered and asked after;
    `ordinal_column`: by which column a cohort's export numbers the intervals."""

    name: str
    kind: str
    path: str = ""
    group: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    fields_are_default: bool = False
    filter: str = ""
    timestamp: str = ""
    time_column: str = ""
    start: date | None = None
    calendar: Calendar = field(default_factory=Calendar)
    lookback_days: int = 7
    via: str = "find"
    ordinal_column: str = ""
    cohort_type: str = ""
    interval: str = ""
    aggregation: str = ""
    test_traffic: bool = False
    count: bool = True
    sort: tuple[str, ...] = ()
    queue: str = "export"
    poll: str = "download"
    page_size: int = FIND_ROWS
    types: Mapping[str, str] = field(default_factory=dict)
    key: tuple[str, ...] | None = None
    log: str = ""
    advertiser_id: str = ""
    row_limit: int = 0
    lines_include_header: bool = False
    end_inclusive: bool = True

    @property
    def table(self) -> str:
        return naming.identifier_for(f"{self.kind}_{self.name}")

    @property
    def is_cohort(self) -> bool:
        return self.kind in ("ltv", "retention")

    @property
    def unnested(self) -> bool:
        """Do its rows come as cohorts with intervals in them? How an export writes them is not documented."""
        return self.is_cohort and self.via == "find"

    @property
    def key_fields(self) -> tuple[str, ...]:
        """The columns that tell its rows apart; none where that is not known."""
        if self.key is not None:
            return self.key
        if self.kind == "logs":
            return ("id",)
        if self.is_cohort and not (self.unnested or self.ordinal_column):
            return ()
        time = (self.time_column,) if self.time_column else ()
        return (*self.group, *time, *((ORDINAL,) if self.is_cohort else ()))

    @property
    def wanted(self) -> tuple[str, ...]:
        """Fields to ask for: those of the groups come along, since what is not asked for may not be sent."""
        extra = ("id", "created") if self.kind == "logs" and self.fields and self.key is None else ()
        return tuple(dict.fromkeys((*extra, *self.group, *self.fields)))

    @property
    def traffic(self) -> tuple[tuple[str, str], ...]:
        if self.test_traffic:
            return ()
        if self.kind == "logs":
            return (_NO_DEBUG, _NO_TEST) if self.log in ("clicks", "installs", "events") else (_NO_TEST,)
        return KINDS[self.kind].traffic

    def fingerprint(self) -> str:
        """Changes when windows that did not change have to be asked for again nevertheless."""
        same = {"name": "", "start": None, "lookback_days": 0, "count": True, "page_size": 0, "row_limit": 0}
        return naming.tag_for(repr(replace(self, **same)))  # type: ignore[arg-type]

    def column(self, label: str) -> Column:
        """The column of a flat label. What is not known to be a number, money or time is text."""
        name = label.rpartition(".")[2]
        usual = _TYPES.get(name) or ("boolean" if name.startswith("is_") else "string")
        told = "integer" if label == ORDINAL else self.types.get(label, usual)
        column = column_of(label, told, zone=ZONE)
        return replace(column, path=(label,), scale=MONEY_SCALE if column.kind == Kind.DECIMAL else column.scale)


def reports_of(settings: Settings) -> tuple[Report, ...]:
    """The configured reports. Raises `ConfigurationError` for whatever could not work."""
    reports = tuple(_report(given, f"reports[{n}]") for n, given in enumerate(settings.reports or (), start=1))
    seen: dict[str, str] = {}
    for report in reports:
        if report.table in seen:
            raise wrong(f"two reports ask for the table {report.table}", "Give each a name of its own")
        seen[report.table] = report.name
    return reports


def table_of_report(report: Report) -> Table:
    what = f"the log of {report.log}" if report.kind == "logs" else f"the report {report.path}"
    key = ("id",) if report.key_fields == ("id",) else (ROW_KEY,) if report.key_fields else ()
    return Table(
        name=report.table,
        mode=Mode.KEPT,
        key=key,
        scope=WINDOW,
        zone=ZONE,
        keeps=("windows", "backfilled", "grid"),
        label=f"{report.kind}/{report.name}",
        about=f"{what}; each {report.calendar.told} is replaced as a whole",
        misfit=f'Load it as text: types = {{"{{column}}" = "string"}} in the report {report.name}',
    )


def _report(given: Any, where: str) -> Report:
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise wrong(f"{where} has no name", 'Write [[sources.tune.reports]] with name = "daily", report = "actuals"')
    if not re.fullmatch("[a-z][a-z0-9_]{0,39}", given["name"]):
        raise wrong(f"{where}.name is {given['name']!r}", "Write it in lower case, like daily or by_country")
    kind = given.get("report", "actuals")
    if kind not in KINDS:
        raise unknown(str(kind), KINDS, what=f"{where}.report is {kind!r}")
    told = KINDS[kind]
    for name in given:
        if name not in (*_SHARED, *told.own):
            raise unknown(str(name), (*_SHARED, *told.own), what=f"{where} ({kind}) has no setting {name}")
    take = _Taken(given, where)
    timestamp = take.one_of("timestamp", TIMESTAMPS, "datehour") if kind == "actuals" else ""
    cohort = kind in ("ltv", "retention")
    interval = take.one_of("interval", PERIODS, "year_day") if cohort else ""
    report = Report(
        name=given["name"],
        kind=kind,
        path=take.one_of("path", told.paths, told.paths[0]) if told.paths else "",
        group=names_of(given["group"], f"{where}.group") if "group" in given else told.group,
        fields=names_of(given.get("fields"), f"{where}.fields") or told.fields,
        fields_are_default=not given.get("fields"),
        filter=filter_of(given.get("filter", ""), where),
        timestamp=timestamp,
        time_column=take.text("time_column", interval or {"datehour": "date_hour"}.get(timestamp, timestamp)),
        start=take.day("start"),
        calendar=take.calendar(TIMESTAMPS[timestamp] if kind == "actuals" else PERIODS.get(interval, "day")),
        lookback_days=take.whole("lookback_days", told.lookback_days, least=0),
        via=take.one_of("via", ("find", "export"), "find"),
        ordinal_column=take.text("ordinal_column", ""),
        cohort_type=take.one_of("cohort_type", ("click", "install"), "install") if cohort else "",
        interval=interval,
        aggregation=take.one_of("aggregation", ("incremental", "cumulative"), "cumulative") if kind == "ltv" else "",
        # which fields the successor of the logs has is not documented, and an unknown one is refused
        test_traffic=take.flag("test_traffic", kind == "logs"),
        count=take.flag("count", True) and kind != "logs",
        sort=names_of(given.get("sort"), f"{where}.sort"),
        queue=take.one_of("queue", ("export", "find_export_queue"), "export"),
        poll=take.one_of("poll", ("download", "status"), told.poll),
        page_size=take.whole("page_size", FIND_ROWS, least=1, most=FIND_ROWS),
        types=take.types(),
        key=names_of(given["key"], f"{where}.key") if "key" in given else None,
    )
    if kind == "logs":
        return _log(report, take)
    if report.ordinal_column and report.via == "find":
        raise wrong(f"{where}.ordinal_column is set", 'Leave it out: it is for via = "export"; pages are numbered here')
    if not report.group:
        raise wrong(f"{where} groups by nothing", 'Write group = ["site_id"]: the vendor asks for one column at least')
    return report


def _log(report: Report, take: _Taken) -> Report:
    advertiser = str(take.given.get("advertiser_id", "")).strip()
    if advertiser and not advertiser.isdecimal():
        raise wrong(f"{take.where}.advertiser_id is no number", "It is the id in the table advertiser")
    most = LOG_FIND_ROWS if report.via == "find" else max(KNOWN_CAPS)
    return replace(
        report,
        log=take.one_of("log", LOGS, None),
        advertiser_id=advertiser,
        row_limit=take.whole("row_limit", min(most, LOG_EXPORT_ROWS), least=1, most=most),
        lines_include_header=take.flag("lines_include_header", False),
        end_inclusive=take.flag("end_inclusive", True),
    )


@dataclass(frozen=True)
class _Taken:
    """The settings of one report, each checked as it is taken."""

    given: Mapping[str, Any]
    where: str

    def one_of(self, name: str, known: Any, default: str | None) -> str:
        value = self.given.get(name, default)
        if value is None:
            raise wrong(f"{self.where} has no {name}", f"Set it to one of: {', '.join(known)}")
        if not isinstance(value, str) or value not in known:
            raise unknown(str(value), known, what=f"{self.where}.{name} is {value!r}")
        return value

    def text(self, name: str, default: str) -> str:
        value = self.given.get(name, default)
        if not isinstance(value, str) or (value and not FIELD.fullmatch(value)):
            raise wrong(f"{self.where}.{name} is {value!r}", "Name a column, such as date_hour")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.given.get(name, default)
        if not isinstance(value, bool):
            raise wrong(f"{self.where}.{name} is {value!r}", "Set it to true or false")
        return value

    def whole(self, name: str, default: int, *, least: int, most: int = 10**6) -> int:
        value: object = self.given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise wrong(f"{self.where}.{name} is {value!r}", f"Set it between {least} and {most}")
        return value

    def day(self, name: str) -> date | None:
        value = self.given.get(name)
        if value is None or type(value) is date:
            return value
        try:
            return date.fromisoformat(str(value))
        except ValueError:
            raise wrong(f"{self.where}.{name} is {value!r}", 'Write it like "2015-01-31"') from None

    def types(self) -> dict[str, str]:
        given = self.given.get("types") or {}
        if not isinstance(given, Mapping):
            raise wrong(f"{self.where}.types is {given!r}", 'Write it like types = {my_metric = "integer"}')
        for name, kind in given.items():
            if kind not in _KINDS_TAKEN:
                raise unknown(str(kind), _KINDS_TAKEN, what=f"{self.where}.types.{name} is {kind!r}")
        return {str(name): str(kind) for name, kind in given.items()}

    def calendar(self, unit: str) -> Calendar:
        """Windows hold whole weeks or months where the rows do: half a week would be told as one."""
        starts = self.one_of("week_starts", ("monday", "sunday"), "monday")
        if unit not in UNITS or unit == "day":
            return Calendar(days=self.whole("window_days", 1, least=1, most=366), week_starts=starts)
        if "window_days" in self.given:
            raise wrong(f"{self.where}.window_days is set", f"Leave it out: its windows are of a {unit}, as its rows")
        return Calendar(unit=unit, week_starts=starts)
