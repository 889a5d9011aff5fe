"""What a Redash stores, one class per table, and the few things it computes from them.

The shapes the API shows are made elsewhere: one record is shown in three or four shapes.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
PLACEHOLDER = re.compile(r"\{\{\s*([^}]+?)\s*\}\}")


@dataclass
class User:
    id: int
    name: str
    email: str
    api_key: str
    groups: list[int]
    created_at: str
    updated_at: str
    disabled_at: str | None = None
    active_at: str | None = None
    is_invitation_pending: bool = False

    @property
    def is_admin(self) -> bool:
        return 1 in self.groups


@dataclass
class DataSource:
    id: int
    name: str
    type: str
    groups: dict[int, bool]
    paused: int = 0
    pause_reason: str | None = None
    supports_auto_limit: bool = True
    schema: list[dict[str, Any]] | None = None
    """None: not cached, so asking for it queues a job."""


@dataclass
class Visualization:
    id: int
    type: str
    name: str
    query_id: int
    options: dict[str, Any]
    created_at: str
    updated_at: str
    description: str = ""


@dataclass
class Query:
    id: int
    name: str
    query: str
    api_key: str
    user_id: int
    last_modified_by_id: int
    data_source_id: int | None
    created_at: str
    updated_at: str
    recipe: str
    description: str | None = None
    options: dict[str, Any] = field(default_factory=lambda: {"parameters": []})
    schedule: dict[str, Any] | None = None
    tags: list[str] = field(default_factory=list)
    version: int = 1
    is_archived: bool = False
    is_draft: bool = False
    latest_query_data_id: int | None = None
    starred_at: str | None = None
    visualizations: list[Visualization] = field(default_factory=list)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.options.get("parameters") or []
        return found

    @property
    def is_safe(self) -> bool:
        return all(parameter["type"] != "text" for parameter in self.parameters)

    @property
    def is_auto_limited(self) -> bool:
        return bool(self.options.get("apply_auto_limit"))


@dataclass
class Result:
    id: int
    query_hash: str
    query: str
    data_source_id: int
    columns: list[dict[str, Any]]
    row_count: int
    write_rows: Callable[[], bytes]
    runtime: float
    retrieved_at: str
    extra: dict[str, Any] = field(default_factory=dict)
    rows_first: bool = False
    _rows: bytes | None = None

    def rows_json(self) -> bytes:
        """The rows as a JSON array. Written when first asked for: one result is large enough to matter."""
        if self._rows is None:
            self._rows = self.write_rows()
        return self._rows


@dataclass
class Widget:
    id: int
    dashboard_id: int
    text: str
    visualization_id: int | None
    options: dict[str, Any]
    created_at: str
    updated_at: str


@dataclass
class Dashboard:
    id: int
    name: str
    stored_slug: str
    user_id: int
    created_at: str
    updated_at: str
    tags: list[str] = field(default_factory=list)
    is_archived: bool = False
    is_draft: bool = False
    version: int = 2
    starred_at: str | None = None
    public_token: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dashboard_filters_enabled: bool = False


@dataclass
class Alert:
    id: int
    name: str
    query_id: int
    user_id: int
    options: dict[str, Any]
    state: str
    created_at: str
    updated_at: str
    rearm: int | None = None
    last_triggered_at: str | None = None


@dataclass
class Snippet:
    id: int
    trigger: str
    description: str
    snippet: str
    user_id: int
    created_at: str
    updated_at: str


@functools.lru_cache(maxsize=8192)
def query_hash(text: str) -> str:
    """White space and block comments do not count: queries alike but for those share a result (section 4)."""
    return hashlib.md5("".join(COMMENT.sub("", text).split()).encode(), usedforsecurity=False).hexdigest()


def limited(text: str) -> str:
    return f"{text.rstrip().rstrip(';')} LIMIT 1000"


def slugify(name: str) -> str:
    """Of the current name, so not unique; what is not ASCII is dropped and a Chinese name leaves "-" (section 7)."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower().encode("ascii", "ignore").decode()).strip("-")
    return words or "-"


def render(text: str, values: dict[str, Any]) -> str:
    """Mustache without quoting; `{{ period.start }}` reaches into a range."""

    def value_of(match: re.Match[str]) -> str:
        value: Any = values
        for part in match[1].split("."):
            value = value.get(part, "") if isinstance(value, dict) else ""
        return str(value)

    return PLACEHOLDER.sub(value_of, text)
