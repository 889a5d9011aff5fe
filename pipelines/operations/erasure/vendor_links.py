"""What mentions a person at the vendor's, and where to edit it: the next night would only bring it again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pipelines.operations.erasure.locate import Trace, Wanted, in_parts
from pipelines.warehouse.base import Session
from pipelines.warehouse.reader import Reader
from sources import VENDORS
from sources.core.config import raw
from sources.core.sql import quote
from sources.naming import identifier_for

DATAWORKS = "https://dataworks.console.aliyun.com/"
_RESULT = re.compile(r"tonalytica_results\.query_(?P<query_id>[0-9]+)")
"""The table of a query's result. Its rows are removed here, and the vendor has them all the same."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of thing that has texts: `labels` tell it apart; `url` is made of them, with {base} the vendor's."""

    what: str
    labels: tuple[str, ...]
    url: str
    name: str | None = None


KINDS: Mapping[str, Kind] = {
    "tonalytica.queries": Kind(what="query", labels=("id",), url="{base}/queries/{id}", name="name"),
    "tonalytica.visualizations": Kind(what="visualization", labels=("id", "query_id"), url="{base}/queries/{query_id}"),
    "tonalytica.dashboards": Kind(what="dashboard", labels=("id",), url="{base}/dashboards/{id}", name="name"),
    "tonalytica.widgets": Kind(what="widget", labels=("id", "dashboard_id"), url="{base}/dashboards/{dashboard_id}"),
    "tonalytica.alerts": Kind(what="alert", labels=("id",), url="{base}/alerts/{id}", name="name"),
    "tonalytica.query_snippets": Kind(what="snippet", labels=("id",), url="{base}/query_snippets/{id}"),
    "tonalytica.query_results": Kind(what="query result", labels=("query_id",), url="{base}/queries/{query_id}"),
    "tonalytica.data_sources": Kind(what="data source", labels=("id",), url="{base}/data_sources/{id}", name="name"),
    "growingio.dashboards": Kind(
        what="dashboard", labels=("project_uid", "id"), url="{base}/projects/{project_uid}", name="name"
    ),
    "growingio.charts": Kind(
        what="chart", labels=("project_uid", "chart_id"), url="{base}/projects/{project_uid}", name="name"
    ),
    "growingio.dashboard_charts": Kind(
        what="chart", labels=("project_uid", "chart_id"), url="{base}/projects/{project_uid}", name="name"
    ),
    "thinkingengine.reports": Kind(what="report", labels=("project_id", "reportId"), url="{base}", name="reportName"),
    "dataworks.published_apis": Kind(
        what="published API", labels=("ProjectId", "ApiId"), url=DATAWORKS, name="ApiName"
    ),
    "dataworks.draft_apis": Kind(what="draft API", labels=("ProjectId", "ApiId"), url=DATAWORKS, name="ApiName"),
}
"""Where no address of the thing itself is documented, the console's, and the ids beside it."""


@dataclass(frozen=True, kw_only=True, order=True)
class Link:
    vendor: str
    what: str
    ids: str
    name: str
    url: str

    def as_json(self) -> dict[str, Any]:
        return {"vendor": self.vendor, "what": self.what, "ids": self.ids, "name": self.name, "url": self.url}


def links_of(database: Reader | Session, traces: Sequence[Trace], wanted: Wanted) -> list[Link]:
    """The things of which a text mentions the person, each once."""
    return sorted({link for trace in traces for link in _links(database, trace, wanted)})


def _links(database: Reader | Session, trace: Trace, wanted: Wanted) -> Iterator[Link]:
    place = trace.place
    if result := _RESULT.fullmatch(place.where):
        of, query_id = KINDS["tonalytica.query_results"], result["query_id"]
        url = of.url.format(base=_base("tonalytica"), query_id=query_id)
        yield Link(vendor="tonalytica", what=of.what, ids=f"query_id {query_id}", name="", url=url)
    kind = KINDS.get(place.where)
    if kind is None or trace.action not in ("mask the words", "blank the value") or place.kind == "bigint":
        return
    labels = [*kind.labels, *([kind.name] if kind.name else [])]
    names = ", ".join(f"{quote(identifier_for(label))}::VARCHAR" for label in labels)
    vendor = next(each for each in VENDORS if place.dataset.startswith(each))
    for some in in_parts(list(trace.values)):
        marks = ", ".join("?" for _ in some)
        sql = f"SELECT {names} FROM {quote(place.dataset, place.table)} WHERE {place.as_text} IN ({marks})"  # noqa: S608
        for row in database.query(sql, some):
            ids = {label: str(value) for label, value in zip(kind.labels, row, strict=False)}
            yield Link(
                vendor=vendor,
                what=kind.what,
                ids=", ".join(f"{label} {value}" for label, value in ids.items()),
                name=wanted.sought.masked(str(row[-1] or "")) if kind.name else "",
                url=kind.url.format(base=_base(vendor), **ids),
            )


def _base(vendor: str) -> str:
    default = import_module(f"sources.{vendor}.settings").Settings.base_url
    return str(raw(f"sources.{vendor}", "base_url") or default).rstrip("/")
