"""Which results are loaded, and what is executed: `[sources.tonalytica] results` and `executions`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from sources.core.errors import ConfigurationError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Queries by id, tag or data source."""

    ids: frozenset[int] = frozenset()
    tags: frozenset[str] = frozenset()
    data_sources: frozenset[int] = frozenset()

    @property
    def is_empty(self) -> bool:
        return not (self.ids or self.tags or self.data_sources)

    def holds(self, query: Mapping[str, Any]) -> bool:
        return (
            query["id"] in self.ids
            or bool(self.tags.intersection(query.get("tags") or ()))
            or query.get("data_source_id") in self.data_sources
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """`results = {include = {…}, exclude = {…}, keep_history = [ids]}`; without include, all."""

    include: Filter = field(default_factory=Filter)
    exclude: Filter = field(default_factory=Filter)
    keep_history: frozenset[int] = frozenset()

    @classmethod
    def read(cls, given: Mapping[str, Any] | None) -> Self:
        where = "sources.tonalytica.results"
        given = given or {}
        refuse_unknown(given, ("include", "exclude", "keep_history"), where)
        return cls(
            include=_filter(given.get("include"), f"{where}.include"),
            exclude=_filter(given.get("exclude"), f"{where}.exclude"),
            keep_history=_ids(given.get("keep_history"), f"{where}.keep_history"),
        )

    def wants(self, query: Mapping[str, Any]) -> bool:
        return (self.include.is_empty or self.include.holds(query)) and not self.exclude.holds(query)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One query to execute with one set of parameters. `max_age`: seconds a cached result may have; 0 runs it anew."""

    query: int
    parameters: Mapping[str, Any]
    max_age: int = 0

    @property
    def given(self) -> str:
        """The parameters as the configuration has them, as text."""
        return json.dumps(self.parameters, ensure_ascii=False, sort_keys=True, default=str)


def read_executions(given: Iterable[Any] | None) -> list[Execution]:
    """`[[sources.tonalytica.executions]] query, parameters, max_age`."""
    where = "sources.tonalytica.executions"
    found: list[Execution] = []
    for item in given or ():
        if not isinstance(item, Mapping) or not isinstance(item.get("query"), int):
            raise ConfigurationError(
                what="an execution needs the id of its query", where=where, todo="Write query = 57"
            )
        refuse_unknown(item, ("query", "parameters", "max_age"), where)
        parameters, max_age = item.get("parameters") or {}, item.get("max_age", 0)
        if not isinstance(parameters, Mapping) or not isinstance(max_age, int) or max_age < -1:
            raise ConfigurationError(
                what=f"the execution of query {item['query']} cannot be read",
                where=where,
                todo="Write parameters = {name = value} and max_age = seconds (0: always run, -1: any cached result)",
            )
        execution = Execution(query=item["query"], parameters=dict(parameters), max_age=max_age)
        if execution in found:
            raise ConfigurationError(
                what=f"query {execution.query} is executed twice with the same parameters", where=where
            )
        found.append(execution)
    return found


def refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in known:
            todo = did_you_mean(name, known, f"It has: {', '.join(known)}")
            raise ConfigurationError(what=f"{where} has no {name}", todo=todo)


def _filter(given: Any, where: str) -> Filter:
    given = given or {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            what=f"{where} is no table", todo='Write {ids = [1], tags = ["kpi"], data_sources = [2]}'
        )
    refuse_unknown(given, ("ids", "tags", "data_sources"), where)
    return Filter(
        ids=_ids(given.get("ids"), f"{where}.ids"),
        tags=frozenset(map(str, given.get("tags") or ())),
        data_sources=_ids(given.get("data_sources"), f"{where}.data_sources"),
    )


def _ids(given: Any, where: str) -> frozenset[int]:
    if given is None:
        return frozenset()
    if not isinstance(given, list) or not all(isinstance(each, int) for each in given):
        raise ConfigurationError(what=f"{where} is no list of ids", todo="Write [12, 34]")
    return frozenset(given)
