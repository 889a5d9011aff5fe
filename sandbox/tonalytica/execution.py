"""Executing queries and asking for results (sections 5 and 6)."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from sandbox.core.wire import dumps
from sandbox.tonalytica import shapes
from sandbox.tonalytica.call import Call, Reply, Shared, reply
from sandbox.tonalytica.display import result_csv, rows_of
from sandbox.tonalytica.records import PLACEHOLDER, Query, Result, User, limited, render
from sandbox.tonalytica.refusal import NO_RESULT, Refusal, job_error, not_found, server_error
from sandbox.tonalytica.world import Job, World, rendered_value

DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?")
IMMUTABLE = {"Cache-Control": "private,max-age=31557600"}
UNSAFE_SHARED = (
    "This query contains potentially unsafe parameters and cannot be executed on a shared dashboard "
    "or an embedded visualization."
)


def post_results(call: Call) -> Reply:
    asked, query = call.json(), call.query()
    _note_strange(call, asked, {"max_age", "parameters", "apply_auto_limit"})
    if isinstance(call.asker, Shared) and not query.is_safe:
        raise job_error(403, UNSAFE_SHARED)
    limit = asked.get("apply_auto_limit", query.is_auto_limited if call.world.version == "current" else False)
    return execute(call, query, asked.get("parameters") or {}, _max_age(asked), limit=bool(limit))


def refresh(call: Call) -> Reply:
    """Takes its parameters from `?p_x=`, unlike POST results (section 6)."""
    query = call.query()
    if isinstance(call.asker, Shared):
        raise Refusal(403, {"message": "Please use a user API key."})
    parameters = {name[2:]: value for name, value in call.args.items() if name.startswith("p_")}
    return execute(call, query, parameters, 0, limit=query.is_auto_limited)


def post_query_results(call: Call) -> Reply:
    """Ad hoc SQL. The answer depends on the text alone."""
    asked = call.json()
    call.note("ad hoc SQL")
    if not asked.get("data_source_id"):
        raise job_error(401, "Please select data source to run this query.")
    if "query" not in asked or asked["data_source_id"] not in call.world.data_sources:
        raise server_error()
    if not call.world.may_see(call.user, asked["data_source_id"]):
        raise job_error(403, "You do not have permission to run queries with this data source.")
    known = next((q for q in call.world.queries.values() if q.query == asked["query"]), None)
    return _run(
        call, asked["query"], asked["data_source_id"], known.recipe if known else "parameterised", _max_age(asked)
    )


def execute(call: Call, query: Query, parameters: dict[str, Any], max_age: int, *, limit: bool) -> Reply:
    world = call.world
    source = world.data_sources.get(query.data_source_id) if query.data_source_id is not None else None
    if source is None:
        raise job_error(401, "Target data source not available.")
    if source.paused:
        why = f" ({source.pause_reason})" if source.pause_reason else ""
        raise job_error(400, f"{source.name} is paused{why}. Please try later.")
    wrong = [name for name, value in parameters.items() if not _is_valid(world, query, name, value)]
    if wrong:
        names = ", ".join(wrong)
        message = f"The following parameter values are incompatible with their definitions: {names}"
        raise Refusal(400, {"message": message})
    needed = dict.fromkeys(found.split(".")[0] for found in PLACEHOLDER.findall(query.query))
    missing = [name for name in needed if name not in parameters]
    if missing:
        # The defaults stored in the query are not applied (section 6).
        raise job_error(400, f"Missing parameter value for: {', '.join(missing)}")
    defined = {p["name"]: p for p in query.parameters}
    values = {name: rendered_value(defined.get(name, {}), value) for name, value in parameters.items()}
    text = render(query.query, values) if values else query.query
    return _run(call, limited(text) if limit else text, source.id, query.recipe, max_age)


def _run(call: Call, text: str, data_source_id: int, recipe: str, max_age: int) -> Reply:
    found = call.world.cached(text, data_source_id, max_age)
    if found is not None:
        return Reply(shapes.result_json(call.world, found, only_data=isinstance(call.asker, Shared)))
    return reply(shapes.job(call.world.enqueue(text, data_source_id, recipe)))


def _max_age(asked: dict[str, Any]) -> int:
    given = asked.get("max_age", -1)
    if given is None:
        return -1
    try:
        return int(given)
    except (TypeError, ValueError) as error:
        raise server_error("max_age is not a number") from error


def _note_strange(call: Call, asked: dict[str, Any], known: set[str]) -> None:
    strange = sorted(set(asked) - known)
    if strange:
        call.note(f"unknown members of the body: {', '.join(strange)}")


def _is_valid(world: World, query: Query, name: str, value: Any) -> bool:
    if not query.parameters:
        return True
    parameter = next((p for p in query.parameters if p["name"] == name), None)
    if parameter is None:
        return False
    match parameter["type"]:
        case "text":
            return isinstance(value, str)
        case "number":
            return _is_number(value)
        case "enum":
            return _is_among(value, parameter.get("enumOptions", "").split("\n"), parameter)
        case "query":
            return _is_among(value, _dropdown(world, parameter), parameter)
        case "date-range" | "datetime-range" | "datetime-range-with-seconds":
            # A dynamic token such as d_last_30_days is refused: the caller computes the dates (section 6).
            return isinstance(value, dict) and all(_is_date(value.get(end)) for end in ("start", "end"))
        case _:
            return _is_date(value)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_date(value: Any) -> bool:
    return isinstance(value, str) and DATE.fullmatch(value) is not None


def _is_among(value: Any, allowed: list[str], parameter: dict[str, Any]) -> bool:
    if isinstance(value, list):
        return bool(parameter.get("multiValuesOptions")) and all(item in allowed for item in value)
    return value in allowed


def _dropdown(world: World, parameter: dict[str, Any]) -> list[str]:
    from_query = world.queries.get(parameter.get("queryId", 0))
    result = world.latest_result(from_query) if from_query else None
    return [] if result is None else [str(row.get("value")) for row in rows_of(result)]


# Results


def get_query_result(call: Call) -> Reply:
    """The cached result of a query; never executes."""
    query = call.query()
    found = call.world.latest_result(query)
    _need_current(call, query, found)
    if found is None:
        raise Refusal(404, {"message": NO_RESULT})
    _record(call, query)
    return _send(call, found, shapes.file_name(query.name), {})


def get_query_result_by_id(call: Call) -> Reply:
    """With a user key nothing checks that the result is the query's own (section 5)."""
    query = call.query()
    found = call.world.results.get(call.number("result_id"))
    if found is None:
        raise not_found()
    _need_current(call, query, found)
    return _send(call, found, shapes.file_name(query.name), IMMUTABLE)


def get_result(call: Call) -> Reply:
    user, found = call.user, call.world.results.get(call.number("result_id"))
    if found is None:
        raise not_found()
    if not call.world.may_see(user, found.data_source_id):
        call.need_access(found.data_source_id)
    return _send(call, found, f"{found.id}{shapes.file_name('')}", IMMUTABLE)


def _need_current(call: Call, query: Query, found: Result | None) -> None:
    """A query key gets no result of a text the query no longer has; a user key does (section 2)."""
    if isinstance(call.asker, Shared) and found is not None and found.query_hash != call.world.hash_of(query):
        raise Refusal(404, {"message": NO_RESULT})


def _record(call: Call, query: Query) -> None:
    if isinstance(call.asker, User):
        call.world.record(call.asker, "view_results", "query", query.id)


def _send(call: Call, found: Result, name: str, headers: dict[str, str]) -> Reply:
    kind = call.path.get("filetype", "json")
    plain = re.sub(r"[^\x20-\x7e]", "", name)
    shown = plain if re.fullmatch(r"[\w.-]+", plain) else f'"{plain}.{kind}"'
    disposition = f"attachment; filename={shown if shown.endswith(chr(34)) else f'{plain}.{kind}'}"
    if plain != name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}.{kind}"
    headers = {**headers, "Content-Disposition": disposition}
    if kind == "json":
        return Reply(shapes.result_json(call.world, found), headers=headers)
    if kind == "csv":
        return Reply(result_csv(found), headers=headers, content_type="text/csv; charset=UTF-8")
    raise server_error(f"results as .{kind}")


# Jobs


def get_job(call: Call) -> Reply:
    return reply(shapes.job(_job(call)))


def delete_job(call: Call) -> Reply:
    call.world.cancel(_job(call))
    return Reply(dumps(None))


def _job(call: Call) -> Job:
    if "query_id" not in call.path:
        _ = call.user
    found = call.world.jobs.get(call.path["job_id"])
    if found is None:
        # Unknown or expired: 500 and not 404 (section 6). A sound client meets it when a job is lost.
        raise server_error()
    if found.unwritten:
        # The status is written before the error, which no answer can hold until then (section 6).
        found.unwritten -= 1
        raise server_error()
    return found
