"""A dashboard's copy is the same dashboard; nothing else is ever written, and what was made is always told."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redash_toolbelt import Redash

from conftest import Night
from reference import truth
from sandbox_process import SandboxProcess
from sources.tonalytica.client import Client
from sources.tonalytica.settings import Settings

VENDOR = "tonalytica"
NEW = "拷贝 of it"
Row = dict[str, Any]


@pytest.fixture
def writable(sandbox: SandboxProcess) -> SandboxProcess:
    sandbox.control(VENDOR, "POST", "options", {"writes": True})
    return sandbox


def control(sandbox: SandboxProcess, path: str, body: Any) -> Any:
    return sandbox.control(VENDOR, "POST", path, body)


def stats(sandbox: SandboxProcess) -> Row:
    found: Row = sandbox.control(VENDOR, "GET", "stats")
    return found


def writes(sandbox: SandboxProcess) -> dict[str, int]:
    return {path: count for path, count in stats(sandbox)["by_path"].items() if not path.startswith("GET ")}


def board_of(sandbox: SandboxProcess, key: int) -> Row:
    return next(row for row in truth(sandbox, "dashboards") if row["id"] == key)


def query_named(sandbox: SandboxProcess, name: str) -> Row:
    return next(row for row in truth(sandbox, "queries") if row["name"] == name)


def a_rich_dashboard(sandbox: SandboxProcess, *, options: bool = True) -> int:
    """Charts of parameterised queries, one of which fills another's dropdown; texts; positions; a schedule."""
    dropdown, filled = query_named(sandbox, "Param: query dropdown"), query_named(sandbox, "Dropdown source: kinds")
    dated, plain = query_named(sandbox, "Param: date range"), query_named(sandbox, "Timestamps of every kind")
    schedule = {"interval": 86400, "time": "03:15", "day_of_week": None, "until": None}
    edit = {"table": "queries", "op": "update", "key": dated["id"], "row": {"schedule": schedule, "is_draft": True}}
    control(sandbox, "edit", edit)
    row = {"name": "原 dashboard", "tags": ["ton", "钱包"], "dashboard_filters_enabled": True}
    row |= {"options": {"globalParamOrder": ["period", "k"]}} if options else {}
    made: int = control(sandbox, "edit", {"table": "dashboards", "op": "insert", "row": row})["key"]
    mapping = {"period": {"name": "period", "type": "dashboard-level", "mapTo": "时间", "value": None, "title": ""}}
    widgets: list[tuple[Row | None, str, Row]] = [
        (dropdown, "", {"k": {"name": "k", "type": "static-value", "value": "nft_item"}}),
        (None, "# 说明 **markdown** 🚀\n\n[link](/queries/1)", {}),
        (dated, "", mapping),
        (filled, "", {}),
        (None, "", {}),
        (plain, "", {}),
        (dated, "", {}),
    ]
    for at, (query, text, mappings) in enumerate(widgets):
        position = {"col": at % 3, "row": 7 - at, "sizeX": 2 + at, "sizeY": 5, "autoHeight": at == 3, "minSizeX": 1}
        chart = query["visualizations"][-1]["id"] if query else None
        row = {"dashboard_id": made, "visualization_id": chart, "text": text}
        row |= {"options": {"isHidden": at == 5, "position": position, "parameterMappings": mappings}}
        control(sandbox, "edit", {"table": "widgets", "op": "insert", "row": row})
    return made


UNLIKE = {"id", "api_key", "created_at", "updated_at", "slug", "version", "dashboard_id", "query_hash"}


def substance(sandbox: SandboxProcess, key: int) -> Row:
    """A dashboard without ids, names, keys and times; ids inside it are told as which one they are."""
    queries = {row["id"]: row for row in truth(sandbox, "queries")}
    board = board_of(sandbox, key)
    on_it = sorted({widget["visualization"]["query"]["id"] for widget in board["widgets"] if "visualization" in widget})
    which = {query: at for at, query in enumerate(on_it)}

    def bare(value: Any, *, named: bool) -> Any:
        match value:
            case dict():
                kept = {name: each for name, each in value.items() if name not in UNLIKE and (named or name != "name")}
                if "queryId" in kept:
                    kept["queryId"] = which.get(kept["queryId"], f"outside: {kept['queryId']}")
                return {name: bare(each, named=True) for name, each in kept.items()}
            case list():
                return [bare(each, named=True) for each in value]
            case _:
                return value

    charts = {chart["id"]: (which[q], at) for q in on_it for at, chart in enumerate(_charts(queries[q]))}
    told = bare({name: value for name, value in board.items() if name != "widgets"}, named=False)
    told["widgets"] = [
        bare({name: value for name, value in widget.items() if name != "visualization"}, named=True)
        | {"shows": charts[widget["visualization"]["id"]] if "visualization" in widget else None}
        for widget in board["widgets"]
    ]
    told["queries"] = [bare(queries[q] | {"visualizations": _charts(queries[q])}, named=False) for q in on_it]
    for row in told["queries"]:
        row.pop("user"), row.pop("last_modified_by"), row.pop("last_modified_by_id"), row.pop("is_favorite")
    return told


def _charts(query: Row) -> list[Row]:
    return sorted(query["visualizations"], key=lambda chart: chart["id"])


def new_board(sandbox: SandboxProcess) -> Row:
    return next(row for row in truth(sandbox, "dashboards") if row["name"] == NEW)


@pytest.mark.parametrize("version", ["v9", "v10", "current"])
def test_a_copy_equals_its_original_in_all_but_ids_and_names(
    writable: SandboxProcess, night: Night, version: str
) -> None:
    control(writable, "options", {"version": version})
    old = a_rich_dashboard(writable, options=version != "v9")
    everything = {table: truth(writable, table) for table in ("queries", "visualizations", "widgets", "dashboards")}
    ran = night.main("clone-dashboard", str(old), "--name", NEW, "--yes", "--schedules")
    assert ran.code == 0, ran.err
    made = new_board(writable)
    assert substance(writable, made["id"]) == substance(writable, old)
    assert made["id"] != old and not made["is_draft"] and made["widgets"]
    # what there was is as it was
    for table, before in everything.items():
        ids = {row["id"] for row in before}
        assert [row for row in truth(writable, table) if row["id"] in ids] == before
        assert len(truth(writable, table)) > len(before)
    names = {row["visualization"]["query"]["name"] for row in made["widgets"] if "visualization" in row}
    assert all(name.startswith(f"{NEW}: ") for name in names) and len(names) == 4
    assert stats(writable)["unexpected"] == []
    assert "CANARY" not in ran.out + ran.err
    # a reader that nobody here wrote sees it as well
    redash = Redash(writable.tonalytica["base_url"], writable.tonalytica["api_key"])
    seen = redash.dashboard(made["slug"]) if version == "v9" else redash.get_dashboard(made["id"])
    assert seen["name"] == NEW and len(seen["widgets"]) == 7
    place = "dashboard/" + made["slug"] if version == "v9" else f"dashboards/{made['id']}"
    assert f"{writable.tonalytica['base_url']}/{place}" in ran.out


def test_a_dropdown_outside_the_dashboard_stays_the_original_one(writable: SandboxProcess, night: Night) -> None:
    dropdown, other = query_named(writable, "Param: query dropdown"), query_named(writable, "Dropdown source: kinds")
    board = control(writable, "edit", {"table": "dashboards", "op": "insert", "row": {"name": "alone"}})["key"]
    row = {"dashboard_id": board, "visualization_id": dropdown["visualizations"][0]["id"]}
    control(writable, "edit", {"table": "widgets", "op": "insert", "row": row})
    ran = night.main("clone-dashboard", str(board), "--name", NEW, "--yes")
    assert ran.code == 0, ran.err
    assert f"query {dropdown['id']}: k goes on taking its values from query {other['id']}" in ran.out
    copied = new_board(writable)["widgets"][0]["visualization"]["query"]
    assert copied["options"]["parameters"][0]["queryId"] == other["id"]


def test_schedules_are_copied_only_when_asked_for(writable: SandboxProcess, night: Night) -> None:
    old = a_rich_dashboard(writable)
    ran = night.main("clone-dashboard", str(old), "--name", NEW, "--yes")
    assert ran.code == 0 and "(--schedules copies them)" in ran.out
    copies = [row for row in truth(writable, "queries") if row["name"].startswith(NEW)]
    assert len(copies) == 4 and not any(row["schedule"] for row in copies)


def test_a_dry_run_tells_what_would_be_made_and_makes_nothing(writable: SandboxProcess, night: Night) -> None:
    old = a_rich_dashboard(writable)
    before = {table: truth(writable, table) for table in ("queries", "widgets", "dashboards")}
    ran = night.main("clone-dashboard", str(old), "--name", NEW, "--dry-run")
    assert ran.code == 0, ran.err
    assert writes(writable) == {}
    assert {table: truth(writable, table) for table in before} == before
    assert f"dashboard '{NEW}' (published)" in ran.out and "7 widgets, 2 of them texts" in ran.out
    assert ran.out.count("query '") == 4 and ran.out.endswith("nothing was made\n")


def test_nobody_to_ask_is_a_refusal_before_any_request(writable: SandboxProcess, night: Night) -> None:
    ran = night("clone-dashboard", "1", "--name", NEW, stdin=subprocess.DEVNULL)
    assert ran.code == 2 and "--yes" in ran.err and len(ran.err.splitlines()) == 1
    assert stats(writable)["requests"] == 0


@pytest.mark.parametrize(("answer", "made"), [("n\n", 0), ("\n", 0), ("y\n", 1)])
def test_it_asks_before_it_writes(writable: SandboxProcess, night: Night, answer: str, made: int) -> None:
    terminal, its = os.openpty()
    try:
        os.write(terminal, answer.encode())
        ran = night("clone-dashboard", "2", "--name", NEW, stdin=its)
    finally:
        os.close(terminal)
        os.close(its)
    assert ran.code == 0, ran.err
    assert "Make this at the vendor's? [y/N]" in ran.out
    assert sum(row["name"] == NEW for row in truth(writable, "dashboards")) == made
    assert bool(writes(writable)) is bool(made)


@pytest.mark.parametrize("version", ["v9", "v10", "current"])
def test_a_dashboard_is_found_by_its_id_its_slug_or_its_address(
    writable: SandboxProcess, night: Night, version: str
) -> None:
    control(writable, "options", {"version": version})
    key = next(row["id"] for row in truth(writable, "dashboards") if row["name"] == "Many widgets")
    hidden = next(row["id"] for row in truth(writable, "dashboards") if row["name"] == "Another's draft")
    for wanted, found in (
        (str(key), key),
        ("many-widgets", key),
        (f"{key}-many-widgets", key),
        ("another-s-draft", hidden),
    ):
        ran = night.main("clone-dashboard", wanted, "--name", NEW, "--dry-run")
        assert ran.code == 0, (wanted, ran.err)
        assert f"from {found} " in ran.out.splitlines()[0]
    for wanted in ("no-such", "999999", "..", "a/b#c", "99999999999999"):
        ran = night.main("clone-dashboard", wanted, "--name", NEW, "--dry-run")
        assert ran.code == 2 and "there is no dashboard" in ran.err, (wanted, ran.err)


def test_a_slug_that_several_have_is_not_guessed(writable: SandboxProcess, night: Night) -> None:
    ids = [row["id"] for row in truth(writable, "dashboards") if row["name"] == "Same name"]
    ran = night.main("clone-dashboard", "same-name", "--name", NEW, "--yes")
    assert ran.code == 2 and all(f"{key} (Same name)" in ran.err for key in ids)
    assert writes(writable) == {}


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines"])
def test_a_name_that_no_dashboard_can_have_is_refused(writable: SandboxProcess, night: Night, name: str) -> None:
    ran = night.main("clone-dashboard", "1", "--name", name, "--yes")
    assert ran.code == 2 and "cannot have that name" in ran.err
    assert writes(writable) == {}


def test_long_names_are_cut_where_the_vendor_would_refuse_them(writable: SandboxProcess, night: Night) -> None:
    key = query_named(writable, "x" * 255)
    board = control(writable, "edit", {"table": "dashboards", "op": "insert", "row": {"name": "long"}})["key"]
    row = {"dashboard_id": board, "visualization_id": key["visualizations"][0]["id"]}
    control(writable, "edit", {"table": "widgets", "op": "insert", "row": row})
    assert night.main("clone-dashboard", str(board), "--name", "名" * 100, "--yes").code == 0
    names = [row["name"] for row in truth(writable, "queries") if row["name"].startswith("名")]
    assert [len(name) for name in names] == [255]


def test_a_taken_name_is_refused_so_that_a_second_try_doubles_nothing(writable: SandboxProcess, night: Night) -> None:
    assert night.main("clone-dashboard", "2", "--name", NEW, "--yes").code == 0
    before = writes(writable)
    ran = night.main("clone-dashboard", "2", "--name", NEW, "--yes")
    assert ran.code == 2 and f"there is already a dashboard named '{NEW}'" in ran.err
    assert writes(writable) == before


FAULTS = {
    "dashboard": "POST /api/dashboards",
    "fork": "POST /api/queries/\\d+/fork",
    "name": "POST /api/queries/\\d+",
    "widget": "POST /api/widgets",
    "state": "POST /api/dashboards/\\d+",
}


@pytest.mark.parametrize("step", FAULTS)
@pytest.mark.parametrize(
    "do", [{"cut": 0}, {"status": 500, "body": {"message": "Internal Server Error"}}, {"drop": True}], ids=str
)
def test_what_fails_half_way_is_told_and_no_write_is_sent_twice(
    writable: SandboxProcess, night: Night, step: str, do: Row
) -> None:
    old = a_rich_dashboard(writable)
    before = {table: {row["id"] for row in truth(writable, table)} for table in ("queries", "dashboards", "widgets")}
    path = FAULTS[step].removeprefix("POST ")
    skip = 1 if step in ("fork", "name", "widget") else 0
    control(writable, "faults", {"match": {"method": "POST", "path": f"^{path}$"}, "skip": skip, "times": 1, "do": do})
    ran = night.main("clone-dashboard", str(old), "--name", NEW, "--yes")
    assert ran.code == 1
    sent = sum(count for asked, count in writes(writable).items() if re.fullmatch(FAULTS[step], asked))
    assert sent == skip + 1
    assert "It is not known whether this was made too: " in ran.err and "choose Archive" in ran.err
    assert "CANARY" not in ran.out + ran.err
    made = {table: {row["id"] for row in truth(writable, table)} - before[table] for table in before}
    # each thing that exists is told, but for the last one where no answer came
    told = {
        kind: set(map(int, re.findall(rf"^  {kind} (\d+) ", ran.err, re.M)))
        for kind in ("query", "dashboard", "widget")
    }
    unsure = 1 if do == {"cut": 0} else 0
    for kind, table in (("query", "queries"), ("dashboard", "dashboards"), ("widget", "widgets")):
        assert told[kind] <= made[table]
        missing = made[table] - told[kind]
        at_step = {"fork": "query", "dashboard": "dashboard", "widget": "widget"}.get(step) == kind
        assert len(missing) == (unsure if at_step else 0)
    if made["dashboards"]:
        draft = board_of(writable, min(made["dashboards"]))
        assert draft["is_draft"] or (step, do) == ("state", {"cut": 0})
        again = night.main("clone-dashboard", str(old), "--name", NEW, "--yes")
        assert again.code == 2 and "earlier try" in again.err


def test_after_the_removal_that_was_told_the_copy_can_be_made(writable: SandboxProcess, night: Night) -> None:
    old = a_rich_dashboard(writable)
    rule = {"match": {"method": "POST", "path": "^/api/widgets$"}, "skip": 2, "times": 1, "do": {"status": 502}}
    control(writable, "faults", rule)
    failed = night.main("clone-dashboard", str(old), "--name", NEW, "--yes", "--schedules")
    assert failed.code == 1
    base, key = writable.tonalytica["base_url"], writable.tonalytica["api_key"]
    for page in re.findall(r"(?:query|dashboard) \d+ .*  http\S+/((?:queries|dashboards)/\d+)$", failed.err, re.M):
        gone = httpx.delete(f"{base}/api/{page}", headers={"Authorization": f"Key {key}"})
        assert gone.status_code == 200
    ran = night.main("clone-dashboard", str(old), "--name", NEW, "--yes", "--schedules")
    assert ran.code == 0, ran.err
    whole = next(row["id"] for row in truth(writable, "dashboards") if row["name"] == NEW and not row["is_archived"])
    assert substance(writable, whole) == substance(writable, old)


def test_an_interrupted_copy_tells_what_it_made(writable: SandboxProcess, night: Night) -> None:
    old = a_rich_dashboard(writable)
    rule = {"match": {"method": "POST", "path": "^/api/widgets$"}, "skip": 1, "times": 1, "do": {"delay": 30}}
    control(writable, "faults", rule)
    process = night.start("clone-dashboard", str(old), "--name", NEW, "--yes")
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if line.startswith("made widget"):
            break
    process.terminate()
    process.wait(20)
    told = process.stderr.read()
    process.stdout.close(), process.stderr.close()
    assert process.returncode == 1 and "interrupted" in told
    assert len(re.findall(r"^  query \d+ ", told, re.M)) == 4 and len(re.findall(r"^  widget \d+ ", told, re.M)) == 1
    control(writable, "reset", None)


def test_a_copy_whose_reader_went_away_tells_what_it_made(writable: SandboxProcess, night: Night) -> None:
    old = a_rich_dashboard(writable)
    rule = {"match": {"method": "POST", "path": "/fork$"}, "times": 1, "do": {"delay": 1}}
    control(writable, "faults", rule)
    process = night.start("clone-dashboard", str(old), "--name", NEW, "--yes")
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if line.startswith("made dashboard"):
            break
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 1
    assert len(re.findall(r"^  dashboard \d+ ", told, re.M)) == 1 and "the copy is not whole" in told, told


def test_an_edit_in_the_meantime_ends_the_copy(writable: SandboxProcess, night: Night) -> None:
    old = a_rich_dashboard(writable)
    chart = query_named(writable, "Timestamps of every kind")["visualizations"][0]["id"]
    edit = {"table": "visualizations", "op": "update", "key": chart, "row": {"options": {"edited": True}}}
    control(writable, "faults", {"match": {"method": "POST", "path": "^/api/dashboards$"}, "do": {"edit": edit}})
    ran = night.main("clone-dashboard", str(old), "--name", NEW, "--yes")
    assert ran.code == 1 and "other visualizations than the query" in ran.err
    assert "It is not known" not in ran.err


@pytest.fixture
def analyst(writable: SandboxProcess, night: Night) -> Iterator[Night]:
    night.set(api_key=writable.tonalytica["other_keys"]["analyst"])
    yield night


def test_what_the_key_may_not_see_is_refused_or_left_out_by_name(writable: SandboxProcess, analyst: Night) -> None:
    key = next(row["id"] for row in truth(writable, "dashboards") if row["name"] == "Has a restricted widget")
    ran = analyst.main("clone-dashboard", str(key), "--name", NEW, "--yes")
    assert ran.code == 1 and "is not shown to this key" in ran.err and "--partial" in ran.err
    assert writes(writable) == {}
    ran = analyst.main("clone-dashboard", str(key), "--name", NEW, "--yes", "--partial")
    assert ran.code == 0, ran.err
    assert "note: left out: widget" in ran.out
    assert len(new_board(writable)["widgets"]) == len(board_of(writable, key)["widgets"]) - 1


def test_a_source_that_may_only_be_viewed_is_told_before_anything_is_made(
    writable: SandboxProcess, analyst: Night
) -> None:
    before = analyst.main("clone-dashboard", "2", "--name", NEW, "--dry-run")
    assert before.code == 0, before.err
    for source in (1, 4):
        row = {"groups": {"2": True, "4": True}}
        control(writable, "edit", {"table": "data_sources", "op": "update", "key": source, "row": row})
    ran = analyst.main("clone-dashboard", "2", "--name", NEW, "--yes")
    assert ran.code == 1 and "may only view the data source of query" in ran.err
    assert writes(writable) == {}


def test_a_query_whose_source_is_gone_is_told_before_anything_is_made(writable: SandboxProcess, night: Night) -> None:
    orphan = query_named(writable, "Source is gone 0")
    board = control(writable, "edit", {"table": "dashboards", "op": "insert", "row": {"name": "orphans"}})["key"]
    row = {"dashboard_id": board, "visualization_id": orphan["visualizations"][0]["id"]}
    control(writable, "edit", {"table": "widgets", "op": "insert", "row": row})
    ran = night.main("clone-dashboard", str(board), "--name", NEW, "--yes")
    assert ran.code == 1 and f"the data source of query {orphan['id']} is gone" in ran.err
    assert writes(writable) == {}


def test_a_query_key_makes_nothing(writable: SandboxProcess, night: Night) -> None:
    night.set(api_key=None, query_keys=writable.tonalytica["query_keys"])
    ran = night.main("clone-dashboard", "2", "--name", NEW, "--yes")
    assert ran.code == 2 and "no user key" in ran.err
    assert stats(writable)["requests"] == 0


@pytest.mark.parametrize(
    "path",
    ["dashboards", "dashboards/1", "queries/1", "queries/1/fork", "widgets", "queries/1/results/../fork", "users"],
)
def test_whatever_is_not_this_command_cannot_write(writable: SandboxProcess, path: str) -> None:
    settings = Settings()
    settings.base_url, settings.api_key = writable.tonalytica["base_url"], writable.tonalytica["api_key"]
    client = Client(settings)
    with pytest.raises(ValueError, match=r"may be sent|goes elsewhere"):
        client.post(path, {"name": NEW})
    for method in ("DELETE", "PUT", "PATCH"):
        with pytest.raises(ValueError, match=r"may be sent|goes elsewhere"):
            client.http.json(method, f"api/{path}")
    client.http.close()
    assert stats(writable)["requests"] == 0


def test_a_night_sends_nothing_but_reads_and_executions(writable: SandboxProcess, night: Night) -> None:
    key = query_named(writable, "Param: number")["id"]
    night.set(executions=[{"query": key, "parameters": {"n": 3}, "max_age": 0}])
    assert night.run(VENDOR).code == 0
    assert writes(writable) == {f"POST /api/queries/{key}/results": 1}
