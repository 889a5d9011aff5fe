"""What TONalytica (a Redash) has: tables, keys, column types, and what the configuration may say.

Each fact is from the vendor's behaviour as observed on a real server (README.md beside this file).
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from dlt.common.configuration import configspec
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.typing import TSecretStrValue

from sources.convert.types import Column, Kind
from sources.core.config import check_ranges, check_rate, check_zone
from sources.core.errors import ConfigurationError
from sources.extract.table import Mode, Table

VENDOR = "tonalytica"
MAX_PROBED = 5_000
"""So many ids that no list shows are asked for in one run: at 10 requests a second, some eight minutes."""
DATASET = "tonalytica"
RESULTS = "tonalytica_results"

PAGE_SIZE = 250
"""The most that a list gives; 251 is refused."""

ORDERS = ("name", "created_at", "-created_at", "-name")
"""Lists sorted by a column with ties lose rows between pages; by name they stayed whole. So: by name
first, then as many other orders as it takes until the distinct ids are as many as the vendor counts."""

MORE_ORDERS = {
    "queries": ("executed_at", "-executed_at", "runtime", "-runtime", "created_by", "-created_by", "schedule"),
    "users": ("active_at", "-active_at", "groups", "-groups"),
    "dashboards": ("starred_at", "-starred_at"),
}
"""The other orders of each list; one that a list does not have falls back to -created_at without a word."""

MORE_PAGE_SIZES = (230, 170)
"""Other page sizes end their pages between other rows."""

CONCURRENCY = 2
"""A server has four workers by default, and one big result blocks one of them."""

LIVE_KEYS = re.compile(r"api_?key|secret|password|token", re.IGNORECASE)
"""Every query, shared dashboard and user comes with its key in the clear: such fields are never kept."""

AUTO_LIMIT = re.compile(r"\bLIMIT\s+1000\s*;?\s*$", re.IGNORECASE)
"""How a result shows that the server cut it: only in the text that it ran."""


@configspec
class Settings(BaseConfiguration):
    """`[sources.tonalytica]`; what each means stands in README.md."""

    base_url: str = "https://tonalytica.redoubt.online/"
    api_key: TSecretStrValue | None = None
    query_keys: dict[str, Any] | None = None
    probe_hidden: bool = False
    zone: str = "UTC"
    results: dict[str, Any] | None = None
    executions: list[Any] | None = None
    exclude: list[str] | None = None
    execution_timeout: int = 600
    result_timeout: int = 600
    requests_per_second: float = 20.0

    secrets: ClassVar[tuple[str, ...]] = ("api_key", "query_keys")


def check(settings: Settings) -> None:
    """Raises `ConfigurationError` for a value out of its range."""
    check_rate(VENDOR, settings.requests_per_second)
    check_ranges(VENDOR, settings, {"result_timeout": (1, 86_400), "execution_timeout": (0, 86_400)})
    check_zone(VENDOR, settings.zone)
    for query_id in settings.query_keys or {}:
        if not str(query_id).isdecimal():
            raise ConfigurationError(
                what=f"query_keys names {query_id}, which is no id",
                where=f"sources.{VENDOR}",
                todo='Write {57 = "the key of query 57"}',
            )


def _id(label: str = "id") -> Column:
    return Column(label=label, kind=Kind.BIGINT)


def _texts(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label=label, kind=Kind.TEXT) for label in labels)


def _flags(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label=label, kind=Kind.BOOL) for label in labels)


def _json(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label=label, kind=Kind.JSON) for label in labels)


def _times(*labels: str) -> tuple[Column, ...]:
    return tuple(Column(label=label, kind=Kind.TIMESTAMP) for label in labels)


QUERIES = Table(
    name="queries",
    mode=Mode.FULL,
    key=("id",),
    about="every query that the key can see: published, drafts, archived; hidden ones with probe_hidden",
    columns=(
        _id(),
        *_texts("name", "description", "query", "query_hash"),
        *_json("schedule", "options", "tags"),
        *_flags("is_archived", "is_draft", "is_safe", "is_favorite"),
        *map(_id, ("data_source_id", "version", "user_id", "last_modified_by_id", "latest_query_data_id")),
        Column(label="runtime", kind=Kind.DOUBLE),
        *_times("retrieved_at", "created_at", "updated_at"),
        *_texts("found_in"),
    ),
)

QUERY_VERSIONS = Table(
    name="query_versions",
    mode=Mode.HISTORY,
    key=("query_id",),
    about="each SQL text that a query ever had, from when to when (as seen at night)",
    columns=(_id("query_id"), _id("data_source_id"), *_texts("query_hash", "query")),
)

VISUALIZATIONS = Table(
    name="visualizations",
    mode=Mode.FULL,
    key=("id",),
    about="charts, counters and tables of the queries",
    columns=(
        _id(),
        _id("query_id"),
        *_texts("type", "name", "description"),
        *_json("options"),
        *_times("created_at", "updated_at"),
    ),
)

DASHBOARDS = Table(
    name="dashboards",
    mode=Mode.FULL,
    key=("id",),
    about="dashboards; the slug is made from the name and is no key",
    columns=(
        _id(),
        *_texts("slug", "name"),
        _id("user_id"),
        *_json("layout", "options", "tags"),
        *_flags("dashboard_filters_enabled", "is_archived", "is_draft", "is_favorite"),
        _id("version"),
        *_times("created_at", "updated_at"),
        *_texts("found_in"),
    ),
)

WIDGETS = Table(
    name="widgets",
    mode=Mode.FULL,
    key=("id",),
    about="what stands on a dashboard: a visualization, or a text",
    columns=(
        _id(),
        *map(_id, ("dashboard_id", "visualization_id", "query_id", "width")),
        *_texts("text"),
        *_json("options"),
        *_flags("restricted"),
        *_times("created_at", "updated_at"),
    ),
)

DATA_SOURCES = Table(
    name="data_sources",
    mode=Mode.FULL,
    key=("id",),
    about="the databases behind the queries",
    columns=(
        _id(),
        *_texts("name", "type", "syntax", "pause_reason"),
        *_flags("paused", "supports_auto_limit", "view_only"),
    ),
)

USERS = Table(
    name="users",
    mode=Mode.FULL,
    key=("id",),
    about="enabled, disabled and invited users",
    dropped=("api_key", "profile_image_url"),
    columns=(
        _id(),
        *_texts("name", "email", "auth_type"),
        *_json("groups"),
        *_flags("is_disabled", "is_invitation_pending", "is_email_verified"),
        *_times("active_at", "disabled_at", "created_at", "updated_at"),
    ),
)

ALERTS = Table(
    name="alerts",
    mode=Mode.FULL,
    key=("id",),
    about="alerts and their state",
    columns=(
        _id(),
        *_texts("name", "state"),
        *_json("options"),
        *map(_id, ("rearm", "query_id", "user_id")),
        *_times("last_triggered_at", "created_at", "updated_at"),
    ),
)

QUERY_SNIPPETS = Table(
    name="query_snippets",
    mode=Mode.FULL,
    key=("id",),
    about="text blocks for queries",
    columns=(_id(), *_texts("trigger", "description", "snippet"), _id("user_id"), *_times("created_at", "updated_at")),
)

QUERY_RESULTS = Table(
    name="query_results",
    mode=Mode.KEPT,
    key=("query_id", "result_id", "parameters"),
    asks_vendor=False,
    about="one row per result that was loaded: when it was computed, how long it took, which table holds it",
    columns=(
        _id("query_id"),
        _id("result_id"),
        *_texts("parameters"),
        *_times("retrieved_at"),
        Column(label="runtime", kind=Kind.DOUBLE),
        *map(_id, ("row_count", "data_source_id")),
        *_json("columns"),
        *_texts("query_hash"),
        *_flags("auto_limited", "is_of_older_text"),
        *_texts("table_name"),
    ),
)

TABLES = (
    QUERIES,
    QUERY_VERSIONS,
    VISUALIZATIONS,
    DASHBOARDS,
    WIDGETS,
    DATA_SOURCES,
    USERS,
    ALERTS,
    QUERY_SNIPPETS,
    QUERY_RESULTS,
)

KIND_OF_TYPE = {
    "integer": Kind.BIGINT,
    "float": Kind.DOUBLE,
    "boolean": Kind.BOOL,
    "string": Kind.TEXT,
    "datetime": Kind.TIMESTAMP,
    "date": Kind.DATE,
}
"""A result column's type is a hint: null for text, json, uuid, time and more, and not always true."""
