"""The reading actions of a record endpoint, and its metadata (section 5)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from sandbox.tune.data import Record, Tables
from sandbox.tune.envelope import Refusal, Reply, enveloped
from sandbox.tune.models import MODELS, Model
from sandbox.tune.records import by_id, filtered, ordered, page_of, project, sort_keys, value_at, wanted_fields


@dataclass(frozen=True)
class Call:
    tables: Tables
    model: Model
    args: QueryParams
    seed: int
    is_csv: bool = False


def _answer(call: Call, data: Any) -> Reply:
    return enveloped(data, throttle=call.model.throttle)


def find(call: Call) -> Reply:
    model, tables = call.model, call.tables
    if call.is_csv and not (call.args.get("fields") or call.args.get("fields[]")):
        raise Refusal(422, "fields is required for csv.", unexpected="csv without fields")
    names = wanted_fields(model, call.args)
    rows = filtered(tables, model, call.args)
    ties = f"{call.seed}|{call.args.get('page', '1')}|{call.args.get('limit', '')}"
    rows = page_of(ordered(tables, model, rows, sort_keys(call.args), ties=ties), call.args)
    if call.is_csv:
        return _csv(call, rows, names)
    return _answer(call, [project(tables, model, row, names) for row in rows])


def _csv(call: Call, rows: list[Record], names: list[str]) -> Reply:
    """Header as the fields were asked for, dots included; null and the empty text alike are empty (section 11)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = [value_at(call.tables, call.model, row, name) for name in names]
        writer.writerow(["" if value is None else value for value in values])
    return Reply(out.getvalue().encode("utf-8", "replace"), content_type="text/csv; charset=utf-8")


def count(call: Call) -> Reply:
    return _answer(call, len(filtered(call.tables, call.model, call.args)))


def get(call: Call) -> Reply:
    names = wanted_fields(call.model, call.args)
    record = by_id(call.tables, call.model.path, call.args.get("id", ""))
    if record is None:
        raise Refusal(404, "Record was not found.", single=True)
    return _answer(call, project(call.tables, call.model, record, names))


def find_by_ids(call: Call) -> Reply:
    if call.model.key != ("id",):
        raise Refusal(500, "Internal service error.", unexpected="find_by_ids where there is no id")
    names = wanted_fields(call.model, call.args)
    given = [
        key.strip() for value in (*call.args.getlist("ids"), *call.args.getlist("ids[]")) for key in value.split(",")
    ]
    found = [record for key in dict.fromkeys(given) if (record := by_id(call.tables, call.model.path, key)) is not None]
    return _answer(call, [project(call.tables, call.model, record, names) for record in found])


def choices(call: Call) -> Reply:
    model = call.model
    key, display = call.args.get("key") or model.key[0], call.args.get("display") or _label(model)
    if key not in model.fields or display not in model.fields:
        raise Refusal(500, "Internal service error.", unexpected="choices of an unknown field")
    rows = ordered(
        call.tables, model, filtered(call.tables, model, call.args), sort_keys(call.args), ties=str(call.seed)
    )
    return _answer(call, {str(row[key]): row[display] for row in rows})


def autocomplete(call: Call) -> Reply:
    """Prefix of name, email or value, in any case."""
    model, term = call.model, call.args.get("term", "").casefold()
    names = [name for name in ("name", "email", "value") if name in model.fields]
    shown = [*model.key, *names]
    rows = ordered(call.tables, model, list(call.tables[model.path].values()), [], ties=str(call.seed))
    hits = [row for row in rows if any(str(row[name] or "").casefold().startswith(term) for name in names)]
    return _answer(call, [project(call.tables, model, row, shown) for row in hits])


def define(call: Call) -> Reply:
    model = call.model
    if not model.define:
        raise Refusal(500, "Internal service error.")
    fields = {
        name: {"type": found.type, "default": found.is_default, "nullable": name not in model.key}
        for name, found in model.fields.items()
    }
    related = {
        name: {"model": MODELS[to.path].name, "path": to.path, "field": to.via} for name, to in model.related.items()
    }
    data = {
        "fields": fields,
        "related_entities": related,
        "mod_name": f"Records\\Model\\{model.name}",
        "mod_namespace": "Records\\Model",
        "mod_shortname": model.name,
    }
    return enveloped(data, status_pre=model.status_pre)


def get_current(call: Call) -> Reply:
    if call.model.path not in ("account", "account/users", "advertiser"):
        raise Refusal(404, "Action was not found.", unexpected="get_current where there is none")
    first = next(iter(call.tables[call.model.path].values()))
    return _answer(call, project(call.tables, call.model, first, wanted_fields(call.model, call.args)))


def _label(model: Model) -> str:
    return "name" if "name" in model.fields else model.key[-1]


ACTIONS: dict[str, tuple[Callable[[Call], Reply], frozenset[str]]] = {
    "find": (
        find,
        frozenset({"fields", "fields[]", "extra_fields", "filter", "sort", "limit", "page", "related_entities"}),
    ),
    "count": (count, frozenset({"filter"})),
    "get": (get, frozenset({"id", "fields", "fields[]"})),
    "find_by_ids": (find_by_ids, frozenset({"ids", "ids[]", "fields", "fields[]"})),
    "choices": (choices, frozenset({"filter", "sort", "key", "display"})),
    "autocomplete": (autocomplete, frozenset({"term"})),
    "define": (define, frozenset()),
    "get_current": (get_current, frozenset({"fields", "fields[]"})),
}
"""Each action with the parameters it knows."""

WRITES = frozenset({"save", "delete", "validate", "create", "update"})


def get_controllers(args: QueryParams) -> Reply:
    """Field metadata for the paths that have it; related fields are listed as `relation.field` (section 5)."""
    data = []
    for path in args.get("controllers", "").split(","):
        model = MODELS.get(path.strip("/ "))
        if model is None or not model.apidoc:
            raise Refusal(500, "Internal service error.")
        own = [_doc(found.name, found.type, related=0, is_default=found.is_default) for found in model.fields.values()]
        related = [
            _doc(f"{name}.{found.name}", found.type, related=1, is_default=False)
            for name, to in model.related.items()
            for found in MODELS[to.path].fields.values()
        ]
        bare = [_doc(name, "object", related=1, is_default=False) for name in model.related]
        data.append({"modelName": model.name, "fields": [*own, *bare, *related]})
    return enveloped(data)


def _doc(name: str, kind: str, *, related: int, is_default: bool) -> dict[str, Any]:
    return {"name": name, "type": kind, "related": related, "fieldDefault": is_default}
