"""What the vendor says of an endpoint's fields, what to request of it, and which column each field becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sources.convert.types import Column, Kind
from sources.core.config import unmatched
from sources.core.errors import ConfigurationError
from sources.tune.settings import CREDENTIAL, FIELD, PERSONAL, VENDOR, Endpoint, Settings, filter_fields, unknown, wrong

_KINDS: dict[Kind, str] = {
    # a reference is the id of another record; ids come as 1899 or as "0", and both are integers
    Kind.BIGINT: "integer int bigint smallint mediumint tinyint long id reference",
    Kind.BOOL: "boolean bool",
    Kind.DECIMAL: "money decimal",
    Kind.DOUBLE: "float double real number numeric",
    Kind.TIMESTAMP: "datetime timestamp",
    Kind.DATE: "date",
    Kind.JSON: "json object array list hash",
    Kind.TEXT: "string text varchar char choice enum email url ip",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_MONEY = re.compile(r"(^|_)(payouts?|revenues?|costs?|rates?|prices?|budgets?|amounts?|spend|balance)(_|$)")


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Field → type name. `related` holds dotted names; of `relations` the vendor names no fields."""

    fields: Mapping[str, str]
    related: Mapping[str, str] = field(default_factory=dict)
    relations: frozenset[str] = frozenset()

    def has(self, name: str) -> bool:
        relation, dot, _ = name.partition(".")
        return name in self.fields or name in self.related or (bool(dot) and relation in self.relations)

    def dump(self) -> dict[str, Any]:
        """For the state of the table."""
        return {"fields": dict(self.fields), "related": dict(self.related), "relations": sorted(self.relations)}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Metadata:
        return cls(fields=state["fields"], related=state["related"], relations=frozenset(state["relations"]))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to request of an endpoint. `fields` empty: its default ones. `columns` None: the rows will tell."""

    fields: tuple[str, ...]
    columns: tuple[Column, ...] | None
    cursor: str | None

    def fingerprint(self, endpoint: Endpoint) -> str:
        """Changes when rows that did not change have to be loaded again nevertheless."""
        return json.dumps([sorted(self.fields), endpoint.filter, endpoint.key, self.cursor])


def plan(endpoint: Endpoint, metadata: Metadata | None, settings: Settings) -> Plan:
    """Raises `ConfigurationError` for fields that the endpoint does not have, or that are never loaded."""
    kept = frozenset(settings.keep_personal or ())
    for name in (*endpoint.key, *endpoint.fields, *endpoint.related):
        if is_dropped(endpoint.path, name, kept):
            keep = f'It is personal: set keep_personal = ["{endpoint.path}.{name}"], or take it out of fields'
            todo = "Credentials never are: take it out of fields" if CREDENTIAL.search(name) else keep
            raise wrong(f"{endpoint.path}.{name} is not loaded", todo)
    if metadata is None:
        if endpoint.related and not endpoint.fields:
            raise wrong(
                f"related fields of {endpoint.path} are asked for, but the vendor tells no fields of it",
                "Name the endpoint's own fields in fields as well",
            )
        named = (*endpoint.key, *endpoint.fields, *endpoint.related) if endpoint.fields else ()
        return Plan(fields=tuple(dict.fromkeys(named)), columns=None, cursor=None)
    cursor = _cursor(endpoint, metadata)
    wanted = (*endpoint.key, *(endpoint.fields or metadata.fields), *endpoint.related, *([cursor] if cursor else []))
    fields = tuple(name for name in dict.fromkeys(wanted) if not is_dropped(endpoint.path, name, kept))
    _refuse_unknown(endpoint, metadata, fields)
    types = {**metadata.related, **metadata.fields}
    columns = tuple(column_of(name, types.get(name, ""), zone=settings.zone) for name in fields)
    return Plan(fields=fields, columns=columns, cursor=cursor)


def unknown_kept(endpoint: Endpoint, asked: Plan, settings: Settings) -> Iterator[ConfigurationError]:
    """An error for what `keep_personal` names of this endpoint and none of its requests asks for."""
    entries = [entry for entry in settings.keep_personal or () if entry.partition(".")[0] == endpoint.path]
    if asked.columns is not None:
        known = [f"{endpoint.path}.{name}" for name in asked.fields]
        yield from unmatched(VENDOR, "keep_personal", entries, known, what="field that is loaded")


def is_dropped(path: str, name: str, kept: frozenset[str]) -> bool:
    if CREDENTIAL.search(name):
        return True
    return name.rpartition(".")[2] in PERSONAL and f"{path}.{name}" not in kept


def column_of(label: str, type_name: str, *, zone: str) -> Column:
    """The column of a field; a type name that is not known leaves it to the values."""
    base = re.match(r"[a-z]*", type_name.strip().lower())
    kind = _KIND_OF.get(base[0] if base else "")
    name = label.rpartition(".")[2]
    if kind == Kind.DOUBLE and _MONEY.search(name):
        kind = Kind.DECIMAL
    nulls: tuple[str, ...] = ("NULL",) if kind in (Kind.TEXT, None) else ("NULL", "")
    if name == "name" or name.endswith("_name"):
        nulls = ()  # a campaign may be called NULL
    return Column(label=label, kind=kind, nulls=nulls, zone=zone, path=tuple(label.split(".")) if "." in label else ())


def types_of(raw: Any) -> dict[str, str]:
    """Field → type, from any shape that metadata has been seen in: {name: {type}}, {name: type}, [{name, type}]."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(raw, Mapping):
        pairs = list(raw.items())
    elif isinstance(raw, list):
        pairs = [(each.get("name"), each) for each in raw if isinstance(each, Mapping)]
    return {
        name: str(told.get("type") or "") if isinstance(told, Mapping) else told if isinstance(told, str) else ""
        for name, told in pairs
        if isinstance(name, str) and FIELD.fullmatch(name)
    }


def _refuse_unknown(endpoint: Endpoint, metadata: Metadata, fields: tuple[str, ...]) -> None:
    known = {*metadata.fields, *metadata.related}
    for name in fields:
        if metadata.has(name):
            continue
        if name in endpoint.key and not endpoint.configured:
            names = ", ".join(sorted(metadata.fields))
            raise wrong(
                f"{endpoint.path} has no field {name}, by which its rows would be told apart",
                f'Write [[sources.tune.endpoints]] with path = "{endpoint.path}", and as key one or more of: {names}',
            )
        raise unknown(name, known, what=f"{endpoint.path} has no field {name}")
    for name in filter_fields(endpoint.filter):
        if not metadata.has(name):
            raise unknown(name, known, what=f"the filter of {endpoint.path} names {name}, which is no field of it")


def _cursor(endpoint: Endpoint, metadata: Metadata) -> str | None:
    """The cursor, if the endpoint has it. One that the user named must be there, and be a time."""
    name, usual = endpoint.cursor, endpoint.cursor == "modified"
    if not name:
        return None
    if name not in metadata.fields:
        if usual:
            return None
        raise unknown(name, metadata.fields, what=f"the cursor {name} is no field of {endpoint.path}")
    kind = column_of(name, metadata.fields[name], zone="UTC").kind
    if kind in (Kind.TIMESTAMP, Kind.DATE, Kind.TEXT, None):
        return name
    if usual:
        return None
    raise wrong(f"the cursor {endpoint.path}.{name} is a {kind}", 'Name a time, or "" for none')
