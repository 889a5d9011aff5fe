"""What ThinkingEngine has: return codes, paths that may be called, tables, limits, and what the configuration may say.

The deep response tables of the vendor's pages are not public, and some shapes were only seen in code that works with a
real server. What is not known is a setting with a safe default; README.md beside this file says where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, ClassVar

from dlt.common.configuration import configspec
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.typing import TSecretStrValue

from sources.convert.types import Column, Kind
from sources.core.config import check_ranges, check_rate, check_zone
from sources.core.errors import ConfigurationError, did_you_mean
from sources.extract.table import Mode, Table

VENDOR = "thinkingengine"
DATASET = "thinkingengine"

LEAST_PAGE = 1000
"""`pageSize` below it is refused (seen in several clients). The greatest is not documented; 100000 was seen in use."""

MOST_GROUPS = 10000
DEFAULT_GROUPS = 1000
"""A model query gives so many groups when it is not told a `limit`, and never more than the other."""

DEFAULT_ZONE = "UTC"


class Answered(StrEnum):
    """What a return code means for the one who asked."""

    OK = "ok"
    AGAIN = "again"  # the same request may work in a while
    NOT_READY = "not ready"  # the data is being prepared: leave the cursor, come back
    EMPTY = "empty"  # there is nothing, and that is an answer
    FAILED = "failed"  # anything; the message tells
    ACCESS = "access"  # key, account, licence: nothing else will work
    PERMISSION = "permission"  # this key may not do this one thing
    CONFIGURATION = "configuration"  # what was asked for is wrong
    REFUSED = "refused"  # a definite no that no setting explains


RETURN_CODES: Mapping[int, tuple[Answered, str]] = {
    0: (Answered.OK, "Executed successfully"),
    -1: (Answered.FAILED, "Failed to be executed"),
    -1001: (Answered.ACCESS, "Unlogged in"),
    -10012: (Answered.ACCESS, "Failed to log in"),
    -10013: (Answered.ACCESS, "Failed to log out"),
    -1002: (Answered.ACCESS, "Your account has been locked"),
    -1003: (Answered.ACCESS, "User name or password errors"),
    -1004: (Answered.AGAIN, "Something is wrong with the problem. Please try again later"),
    -1005: (Answered.AGAIN, "Requested too frequently"),
    -1006: (Answered.PERMISSION, "You do not have the operation permission"),
    -1007: (Answered.ACCESS, "SSO login failed"),
    -1008: (Answered.CONFIGURATION, "Parameter error"),
    -1009: (Answered.CONFIGURATION, "Username not existed"),
    -1010: (Answered.REFUSED, "Illegal operation"),
    -1011: (Answered.NOT_READY, "Data not prepared"),
    -1012: (Answered.EMPTY, "No data currently"),
    -1013: (Answered.NOT_READY, "Data being prepared"),
    -1014: (Answered.ACCESS, "Invalid access"),
    -1015: (Answered.REFUSED, "Already exist"),
    -1020: (Answered.REFUSED, "The phone number is wrong"),
    -1021: (Answered.REFUSED, "Members in this project already"),
    -1022: (Answered.REFUSED, "Request canceled"),
    -1023: (Answered.CONFIGURATION, "The target object does not exist"),
    -1099: (Answered.CONFIGURATION, "The self-defined event expression is incomplete or illegal"),
    -1100: (Answered.REFUSED, "Exceed the number of objects that could be created"),
    -1999: (Answered.CONFIGURATION, "Invalid user"),
    -2000: (Answered.CONFIGURATION, "Unregistered user, becoming valid after being registered and activated"),
    -2001: (Answered.CONFIGURATION, "Registered user, becoming valid upon the next login after being activated"),
    -2002: (Answered.REFUSED, "The user is in the project"),
    -2003: (Answered.REFUSED, "The permission of the operator shall not be lower than that of the operated"),
    -2004: (Answered.CONFIGURATION, "Parameter lost"),
    -2005: (Answered.PERMISSION, "You do not have the operation permission"),
    -2006: (Answered.REFUSED, "The data has been updated"),
    -3000: (Answered.ACCESS, "License certification failed"),
    -3001: (Answered.ACCESS, "License certification failed. Please contact the TA customer service"),
    -3004: (Answered.CONFIGURATION, "Invalid project"),
    -3005: (Answered.ACCESS, "MFA verification failed"),
    -3006: (Answered.ACCESS, "The enterprise demands a MFA device"),
    -3007: (Answered.ACCESS, "The user has bound the MFA device already"),
    -3008: (Answered.ACCESS, "The user lacks a MFA verification code"),
    -3009: (Answered.CONFIGURATION, "The operator is not supported"),
}
"""The vendor's whole table of return codes, each with its class. HTTP's status says nothing about them."""

QUERY_SQL = "querySql"
SUBMIT, INFO, PAGE = "open/submit-sql", "open/sql-task-info", "open/sql-result-page"
EVENTS_META, PROPS = "open/list-event-meta", "open/list-props"
VIRTUAL_EVENT = "open/get-virtual-event-by-name"
USER_CLUSTERS = "open/user-cluster-list"
MANAGE_REPORTS, PROJECT_REPORTS = "open/manage-reports", "open/list-project-reports"
PROJECTS = "open/project-list"
METRICS, METRIC_DATA = "open/metric-list", "open/metric-data"
USERS_BY_LOGIN, USER_BY_LOGIN = "open/list-auth-users-by-login-names", "open/get-auth-user-info-by-login-name"
GENERATE_SQL = "open/get-sql-for-user-search"

MODELS: Mapping[str, str] = {
    "event": "open/event-analyze",
    "retention": "open/retention-analyze",
    "funnel": "open/funnel-analyze",
    "distribution": "open/distribution-analyze",
    "path": "open/path-analyze",
    "interval": "open/interval-analyze",
    "property": "open/user-prop-analyze",
}
"""Model → path. Attribution has no documented path."""

READS: Mapping[str, str] = {
    QUERY_SQL: "POST",
    SUBMIT: "POST",
    INFO: "GET",
    PAGE: "GET",  # the catalogue says POST, every client that works uses GET
    EVENTS_META: "GET",
    PROPS: "GET",
    VIRTUAL_EVENT: "GET",
    USER_CLUSTERS: "POST",
    MANAGE_REPORTS: "GET",
    PROJECT_REPORTS: "GET",
    PROJECTS: "POST",
    METRICS: "POST",
    METRIC_DATA: "POST",
    USERS_BY_LOGIN: "POST",
    USER_BY_LOGIN: "GET",
    GENERATE_SQL: "POST",
    **dict.fromkeys(MODELS.values(), "POST"),
}
"""Every path that can be called, and how. Nothing else can: one GET of this vendor creates a user."""


@configspec
class Settings(BaseConfiguration):
    """`[sources.thinkingengine]`; what each means stands in README.md."""

    base_url: str = "http://ta2:8992"
    token: TSecretStrValue | None = None
    root_token: TSecretStrValue | None = None
    token_in_form: bool = False
    project_id: int | None = None
    zone: str = DEFAULT_ZONE
    page_size: int = 10000
    concurrency: int = 4
    tasks: int = 2
    requests_per_second: float = 5.0
    task_timeout: int = 1800
    sync: bool = False
    lookback_days: int = 3
    whole_walk_days: int = 7
    queries: list[Any] | None = None
    events: list[str] | None = None
    events_from: str | None = None
    event_columns: list[str] | None = None
    users: bool = False
    user_shards: int = 1
    cluster_members: bool = False
    dimensions: dict[str, Any] | None = None
    virtual_events: list[str] | None = None
    properties_per_event: bool = False
    user_cluster_body: dict[str, Any] | None = None
    reports_from: str = "manage-reports"
    login_name: str | None = None
    login_names: list[str] | None = None
    models: list[Any] | None = None
    metric_values: list[Any] | None = None
    generated_sql: list[Any] | None = None
    exclude: list[str] | None = None

    secrets: ClassVar[tuple[str, ...]] = ("token", "root_token")


def check(settings: Settings) -> None:
    """Raises `ConfigurationError` for a value that cannot work."""
    if settings.page_size < LEAST_PAGE:
        raise wrong(f"page_size is {settings.page_size}", f"The vendor takes {LEAST_PAGE} and more")
    check_ranges(VENDOR, settings, dict.fromkeys(("concurrency", "tasks", "user_shards"), (1, 64)))
    check_rate(VENDOR, settings.requests_per_second)
    if settings.task_timeout < 1 or settings.lookback_days < 0 or settings.whole_walk_days < 0:
        raise wrong("task_timeout, lookback_days or whole_walk_days is negative", "Set it to 0 or more")
    if settings.project_id is not None and settings.project_id < 1:
        raise wrong(f"project_id is {settings.project_id}", "Write the number of the project, which is not its APPID")
    if settings.reports_from not in ("manage-reports", "list-project-reports"):
        raise wrong(f"reports_from is {settings.reports_from!r}", 'Write "manage-reports" or "list-project-reports"')
    check_zone(VENDOR, settings.zone)


def metadata_tables(settings: Settings) -> tuple[Table, ...]:
    """The tables that need nothing but a project, and those that the settings ask for by a name or a login."""
    project, zone = _number("project_id"), settings.zone

    def full(name: str, key: tuple[str, ...], columns: Iterable[Column], about: str) -> Table:
        return Table(name=name, mode=Mode.FULL, key=key, columns=tuple(columns), about=about)

    found = [
        full(
            "event_meta",
            ("project_id", "eventName"),
            [project, *_texts("eventName", "eventDesc", "remark")],
            "events, hidden ones too",
        ),
        full(
            "property_meta",
            ("project_id", "tableType", "eventName", "columnName"),
            [
                project,
                *_texts("tableType", "eventName", "columnName", "columnDesc", "columnRemark", "selectType"),
            ],
            "properties of events and users",
        ),
        full(
            "virtual_events",
            ("project_id", "eventName"),
            [project, *_texts("eventName", "eventDesc", "remark"), _json("rule")],
            "virtual events with their rules",
        ),
        full(
            "user_clusters",
            ("project_id", "clusterName"),
            [project, *_texts("clusterName", "displayName", "clusterCatalog", "clusterType"), _json("qp")],
            "definitions of cohorts and tags",
        ),
        full(
            "reports",
            ("project_id", "reportId"),
            [
                project,
                _number("reportId"),
                *_texts("reportName", "reportDesc"),
                _number("reportModel"),
                *_texts("createType"),
                _json("dashboardIds"),
                _time("updateTime", zone),
            ],
            "saved reports",
        ),
        full(
            "dashboards",
            ("project_id", "dashboard_id"),
            [project, _number("dashboard_id"), *_texts("dashboard_name")],
            "dashboards that hold a report",
        ),
        full(
            "report_dashboards",
            ("project_id", "report_id", "dashboard_id"),
            [project, _number("report_id"), _number("dashboard_id")],
            "which report stands on which dashboard",
        ),
        full(
            "metrics",
            ("project_id", "metricId"),
            [
                project,
                _number("metricId"),
                *_texts("metricName", "metricDesc", "metricRemark", "metricMode", "createUser", "updateUser"),
                _time("createTime", zone),
                _time("updateTime", zone),
                _json("timeParticles"),
                *_texts("format"),
            ],
            "definitions of product metrics",
        ),
    ]
    if settings.login_name:
        columns = [
            _number("companyId"),
            _number("projectId"),
            _texts("projectName")[0],
            _number("projectType"),
            *_texts("remark", "roleName"),
        ]
        found.append(full("projects", ("projectId",), columns, "projects that login_name may see"))
    if settings.login_names:
        columns = [_number("userId"), *_texts("loginName", "companyRole"), _json("projectRoles")]
        found.append(full("users_of_company", ("loginName",), columns, "the users named in login_names"))
    if settings.generated_sql:
        columns = [*_texts("name"), _json("body"), *_texts("sql"), _json("answer")]
        found.append(full("generated_sql", ("name",), columns, "the SQL that the vendor makes of configured filters"))
    if settings.metric_values:
        found.append(
            Table(name="metric_values", mode=Mode.LATEST, columns=LONG, about="values of the configured metrics")
        )
    return tuple(found)


LONG: tuple[Column, ...] = (
    Column(label="name", kind=Kind.TEXT),
    Column(label="day", kind=Kind.DATE),
    Column(label="part", kind=Kind.TEXT),
    Column(label="position", kind=Kind.BIGINT),
    Column(label="metric", kind=Kind.TEXT),
    Column(label="groups", kind=Kind.TEXT),
    Column(label="x", kind=Kind.TEXT),
    Column(label="occurrence", kind=Kind.BIGINT),
    Column(label="value_text", kind=Kind.TEXT),
    Column(label="value", kind=Kind.DOUBLE),
    Column(label="more", kind=Kind.JSON),
)
"""An answer of a model query as a long table. `part` is `y` for the values; any other part of the answer is one row
with the part in `more`. `groups` is a JSON list; `occurrence` counts equal x labels; a value is exact as a text."""

LONG_KEY = ("name", "day", "part", "position", "metric", "groups", "x", "occurrence")


def lookback(days: int) -> timedelta:
    return timedelta(days=days)


def wrong(what: str, todo: str) -> ConfigurationError:
    return ConfigurationError(what=what, where=f"sources.{VENDOR}", todo=todo)


def refuse_unknown(given: Any, known: Iterable[str], where: str) -> Mapping[str, Any]:
    """`given` if it is a table with known names only."""
    names = sorted(known)
    if not isinstance(given, Mapping):
        raise wrong(f"{where} is no table", f"It has: {', '.join(names)}")
    for name in given:
        if name not in names:
            todo = did_you_mean(str(name), names, f"It has: {', '.join(names)}")
            raise wrong(f"{where} has no setting {name}", todo)
    return given


def _number(label: str) -> Column:
    return Column(label=label, kind=Kind.BIGINT)


def _texts(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label=label, kind=Kind.TEXT) for label in labels)


def _json(label: str) -> Column:
    return Column(label=label, kind=Kind.JSON)


def _time(label: str, zone: str) -> Column:
    return Column(label=label, kind=Kind.TIMESTAMP, zone=zone)
