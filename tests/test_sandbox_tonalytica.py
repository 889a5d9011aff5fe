"""The TONalytica sandbox against the recorded answers, the vendor's sheet, and a client that others wrote."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redash_toolbelt import Redash

from sandbox.tonalytica.seeds import NASTY, NEVER_RUN, PARAMETERISED
from sandbox_process import SandboxProcess, start_sandbox

RECORDED = Path(__file__).parent / "fixtures" / "tonalytica"
LOGIN = {"message": "Couldn't find resource. Please login and try again."}


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "tonalytica") as running:
        yield running


@pytest.fixture
def sandbox(process: SandboxProcess) -> SandboxProcess:
    process.control("tonalytica", "POST", "reset")
    process.control("tonalytica", "POST", "options", {"version": "current", "job_seconds": 0.06, "latency": 0})
    return process


@pytest.fixture
def api(sandbox: SandboxProcess) -> Iterator[httpx.Client]:
    with client(sandbox, sandbox.tonalytica["api_key"]) as http:
        yield http


def client(sandbox: SandboxProcess, key: str | None) -> httpx.Client:
    headers = {} if key is None else {"Authorization": f"Key {key}"}
    return httpx.Client(base_url=sandbox.tonalytica["base_url"], headers=headers, timeout=30, verify=False)


def control(sandbox: SandboxProcess, method: str, path: str, body: Any = None) -> Any:
    return sandbox.control("tonalytica", method, path, body)


def truth(sandbox: SandboxProcess, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = control(sandbox, "GET", f"truth/{table}")["rows"]
    return rows


def named(sandbox: SandboxProcess, name: str, table: str = "queries") -> dict[str, Any]:
    return next(row for row in truth(sandbox, table) if row["name"] == name)


def walk(http: httpx.Client, path: str, **params: Any) -> list[int]:
    ids, page, size = [], 1, params["page_size"]
    while True:
        body = http.get(path, params={**params, "page": page}).json()
        ids += [row["id"] for row in body["results"]]
        if page * size >= body["count"]:
            assert len(ids) == body["count"]
            return ids
        page += 1


def finished(http: httpx.Client, job: dict[str, Any], path: str = "/api/jobs") -> dict[str, Any]:
    for _ in range(200):
        if job["job"]["status"] in (3, 4):
            return job["job"]
        time.sleep(0.01)
        job = http.get(f"{path}/{job['job']['id']}").json()
    raise AssertionError(f"never finished: {job}")


# Shapes

FREE_FORM = {"options", "rows", "schedule", "starred_at", "details", "layout"}


def key_sets(value: Any, path: str = "") -> dict[str, set[frozenset[str]]]:
    """Per place in the body, the key sets of the objects found there."""
    found: dict[str, set[frozenset[str]]] = {}
    items = [(f"{path}[]", item) for item in value] if isinstance(value, list) else []
    if isinstance(value, dict):
        found[path] = {frozenset(value) - FREE_FORM}
        items = [(f"{path}.{key}", inner) for key, inner in value.items() if key not in FREE_FORM]
    for place, inner in items:
        for key, sets in key_sets(inner, place).items():
            found.setdefault(key, set()).update(sets)
    return found


def test_key_sets_tell_shapes_apart() -> None:
    assert key_sets({"a": [{"b": 1}, {"c": 1}]}) == {"": {frozenset("a")}, ".a[]": {frozenset("b"), frozenset("c")}}
    assert key_sets({"a": {"b": 1}}) != key_sets({"a": {"b": 1, "c": 2}})


Requests = dict[str, Callable[[SandboxProcess], tuple[str, str, str, Any]]]


def _query(name: str, tail: str, *, method: str = "GET", key: str = "user", body: Any = None) -> Any:
    return lambda s: (method, f"/api/queries/{named(s, name)['id']}{tail}", key, body)


def _own(name: str, tail: str, *, method: str = "GET", body: Any = None) -> Any:
    def request(s: SandboxProcess) -> tuple[str, str, str, Any]:
        key = named(s, name)["id"]
        return method, f"/api/queries/{key}{tail}", s.tonalytica["query_keys"][str(key)], body

    return request


def _get(path: str, key: str = "user") -> Any:
    return lambda s: ("GET", path, key, None)


def _foreign(s: SandboxProcess, path: str) -> tuple[str, str, str, Any]:
    return "GET", path, s.tonalytica["query_keys"][str(named(s, "Every type")["id"])], None


def _public(s: SandboxProcess) -> tuple[str, str, str, Any]:
    row = named(s, "Shared publicly", "dashboards")
    return "GET", f"/api/dashboards/public/{row['api_key']}", "", None


SIMPLE = "Some thousand rows"
REQUESTS: Requests = {
    "01_queries_page1": _get("/api/queries?page=1&page_size=25"),
    "02_query": _query(SIMPLE, ""),
    "03_query_parameterised": _query("Param: date range", ""),
    "04_dashboards_page1": _get("/api/dashboards?page=1&page_size=25"),
    "05_dashboard_mixed_widgets": lambda s: (
        "GET", f"/api/dashboards/{named(s, 'Has a restricted widget', 'dashboards')['id']}", "user", None,
    ),
    "06_post_results_job": _query(SIMPLE, "/results", method="POST", body={"max_age": 0}),
    "08_query_result_types": lambda s: (
        "GET", f"/api/query_results/{named(s, 'Every type')['latest_query_data_id']}", "user", None,
    ),
    "08b_query_result_by_query_names": _query("Spaces, Capitals, 中文 columns", "/results.json"),
    "09_query_result_csv": _query("Every type", "/results.csv"),
    "10_data_sources": _get("/api/data_sources"),
    "11_error_404_no_cached_result": _query("Never executed", "/results"),
    "11b_error_404_no_query": _get("/api/queries/999999"),
    "11c_error_400_page_out_of_range": _get("/api/queries?page=99"),
    "11d_error_500_slug": _get("/api/dashboards/network-overview-01"),
    "11e_error_400_missing_parameter": _query("Param: number", "/results", method="POST", body={"max_age": 0}),
    "11f_error_400_bad_parameter": _query(
        "Param: number", "/results", method="POST", body={"max_age": 0, "parameters": {"n": "many"}}
    ),
    "11g_error_paused_source": _query("On the paused source", "/results", method="POST", body={"max_age": 0}),
    "12_error_bad_key": _get("/api/queries", "not-a-key"),
    "12b_error_no_key": _get("/api/queries", ""),
    "12c_error_disabled_user": lambda s: ("GET", "/api/queries", s.tonalytica["other_keys"]["disabled"], None),
    "13_alerts": _get("/api/alerts"),
    "14_users": _get("/api/users?page_size=3"),
    "15_query_snippets": _get("/api/query_snippets"),
    "16_events": _get("/api/events?page_size=5"),
    "17_session": _get("/api/session"),
    "18_status_json": _get("/status.json"),
    "19_queries_archive": _get("/api/queries/archive"),
    "20_data_source_schema": _get("/api/data_sources/1/schema"),
    "21_dashboard_public": _public,
    "22_data_source": _get("/api/data_sources/1"),
    "23_querykey_own_results": _own("Every type", "/results.json"),
    "24_querykey_other_query": lambda s: _foreign(s, f"/api/queries/{named(s, SIMPLE)['id']}/results.json"),
    "25_querykey_list": lambda s: _foreign(s, "/api/queries"),
    "26_querykey_post_safe": _own("Param: number", "/results", method="POST", body={"parameters": {"n": 10}}),
    "27_querykey_post_unsafe": _own(
        "Param: text (unsafe)", "/results", method="POST", body={"parameters": {"needle": "a"}}
    ),
    "28_querykey_query_results_by_id": lambda s: _foreign(s, "/api/query_results/1.json"),
    "29_querykey_query_object": _own(SIMPLE, ""),
    "30_error_429_users_post": lambda s: ("POST", "/api/users", "user", {}),
}  # fmt: skip


def test_every_recorded_answer_is_compared() -> None:
    assert {path.stem for path in RECORDED.glob("*.json")} == {*REQUESTS, "07_job_states"}


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_answers_have_the_recorded_shape(sandbox: SandboxProcess, name: str) -> None:
    recorded = json.loads((RECORDED / f"{name}.json").read_bytes())
    method, path, key, body = REQUESTS[name](sandbox)
    key = sandbox.tonalytica["api_key"] if key == "user" else key
    with client(sandbox, key or None) as http:
        answer = http.request(method, path, json=body)
    assert answer.status_code == recorded["status"]
    assert answer.headers["content-type"] == recorded["headers"]["Content-Type"]
    assert answer.headers.get("cache-control") == recorded["headers"].get("Cache-Control")
    assert ("content-disposition" in answer.headers) is ("Content-Disposition" in recorded["headers"])
    assert "etag" not in answer.headers and "content-encoding" not in answer.headers
    assert answer.headers["content-length"] == str(len(answer.content))
    assert len(answer.headers.get_list("set-cookie")) == 2
    expected = recorded["body"]
    if recorded["headers"]["Content-Type"].startswith("text/csv"):
        assert answer.text.split("\r\n")[0].startswith("i2,i8,num38,f8,nan")
        return
    if isinstance(expected, str):
        expected = json.loads(expected)
    if recorded["status"] >= 400:
        same_text = name not in ("11e_error_400_missing_parameter",)
        assert answer.json() == expected if same_text else answer.json()["job"]["error"].endswith(": n")
        return
    ours, theirs = key_sets(answer.json()), key_sets(expected)
    assert set(theirs) == set(ours)
    for place, sets in ours.items():
        assert sets <= theirs[place], place


def test_jobs_have_the_recorded_states(sandbox: SandboxProcess, api: httpx.Client) -> None:
    recorded = json.loads((RECORDED / "07_job_states.json").read_bytes())
    texts = {
        entry["body"]["job"]["error"]
        for entry in recorded
        if isinstance(entry["body"], dict) and "job" in entry["body"]
    }
    shape = set(recorded[0]["body"]["job"])
    for name in ("Fails: no such table", "Fails: division", "Statement without rows"):
        job = finished(api, api.post(f"/api/queries/{named(sandbox, name)['id']}/results", json={"max_age": 0}).json())
        assert job["status"] == 4 and job["error"] in texts and set(job) == shape
    slow = f"/api/queries/{named(sandbox, 'Takes long')['id']}/results"
    job = api.post(slow, json={}).json()["job"]
    assert (job["status"], job["updated_at"], job["result"]) == (1, 0, None)
    assert api.post(slow, json={"max_age": 0}).json()["job"]["id"] == job["id"]
    time.sleep(0.45)
    running = api.get(f"/api/jobs/{job['id']}").json()["job"]
    assert running["status"] == 2 and isinstance(running["updated_at"], str) and not running["updated_at"].endswith("Z")
    gone = api.delete(f"/api/jobs/{job['id']}")
    assert (gone.status_code, gone.json()) == (200, None)
    cancelled = api.get(f"/api/jobs/{job['id']}").json()["job"]
    assert (cancelled["status"], cancelled["error"]) == (4, "Query cancelled by user.")
    lost = api.get("/api/jobs/2c9ff2b0-0000-4000-8000-000000000000")
    assert (lost.status_code, lost.json()) == (500, {"message": "Internal Server Error"})


# Lists


@pytest.mark.parametrize("size", [25, 100, 250])
def test_pages_lose_rows_on_ties_and_the_count_does_not_notice(api: httpx.Client, size: int) -> None:
    first, again = walk(api, "/api/queries", page_size=size), walk(api, "/api/queries", page_size=size)
    assert len(first) > 250
    assert len(set(first)) < len(first)
    assert first == again
    by_name = walk(api, "/api/queries", page_size=size, order="name")
    assert len(set(by_name)) == len(by_name) and set(first) < set(by_name)


def test_small_lists_are_whole_and_dashboards_are_stable(sandbox: SandboxProcess, api: httpx.Client) -> None:
    for path, table, wheres in (
        ("/api/dashboards", "dashboards", {"list"}),
        ("/api/users", "users", {"list"}),
        ("/api/queries/archive", "queries", {"archive"}),
    ):
        expected = {row["id"] for row in truth(sandbox, table) if row["_where"] in wheres}
        assert Counter(walk(api, path, page_size=7)) == Counter(expected)


def test_hidden_queries_are_in_no_list_but_are_there_by_id(sandbox: SandboxProcess, api: httpx.Client) -> None:
    rows = truth(sandbox, "queries")
    listed = set(walk(api, "/api/queries", page_size=250, order="name"))
    archived = set(walk(api, "/api/queries/archive", page_size=250))
    by_where = {where: {r["id"] for r in rows if r["_where"] == where} for where in ("list", "archive", "hidden")}
    assert (listed, archived) == (by_where["list"], by_where["archive"])
    assert len(by_where["hidden"]) >= 5
    for key in by_where["hidden"]:
        assert api.get(f"/api/queries/{key}").status_code == 200
    orphan = named(sandbox, "Source is gone 0")
    assert api.get(f"/api/queries/{orphan['id']}").json()["data_source_id"] is None
    refused = api.post(f"/api/queries/{orphan['id']}/results", json={})
    assert (refused.status_code, refused.json()["job"]["error"]) == (401, "Target data source not available.")
    gaps = set(range(1, max(r["id"] for r in rows))) - {r["id"] for r in rows}
    assert len(gaps) >= 5
    assert all(api.get(f"/api/queries/{key}").status_code == 404 for key in list(gaps)[:3])


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"page_size": 0}, 400, "Page size is out of range (1-250)."),
        ({"page_size": 251}, 400, "Page size is out of range (1-250)."),
        ({"page": 0}, 400, "Page must be positive integer."),
        ({"page": 13}, 400, "Page is out of range."),
        ({"page": "x", "page_size": "y"}, 200, None),
    ],
)
def test_bad_paging(api: httpx.Client, params: dict[str, Any], status: int, message: str | None) -> None:
    answer = api.get("/api/queries", params=params)
    assert answer.status_code == status
    assert answer.json().get("message") == message
    if status == 200:
        assert (answer.json()["page"], answer.json()["page_size"]) == (1, 25)


def test_orders_tags_and_words(sandbox: SandboxProcess, api: httpx.Client) -> None:
    names = [q["name"].lower() for q in api.get("/api/queries?order=name&page_size=250").json()["results"]]
    assert names == sorted(names)
    unknown = api.get("/api/queries?order=-updated_at").json()["results"]
    assert unknown[0]["created_at"] == max(r["created_at"] for r in truth(sandbox, "queries") if r["_where"] == "list")
    tagged = api.get("/api/queries?tags=ton&tags=daily&page_size=250").json()["results"]
    assert tagged and all({"ton", "daily"} <= set(q["tags"]) for q in tagged)
    hits, parts = (api.get("/api/queries", params={"q": word}).json()["count"] for word in ("volumes", "volum"))
    assert hits > 50 and parts == 0
    moved = api.get("/api/queries/search?q=volume")
    assert moved.status_code == 301 and moved.headers["location"].endswith("/api/queries?q=volume")


# Keys


def test_which_key_is_good_where(sandbox: SandboxProcess) -> None:
    good = sandbox.tonalytica["api_key"]
    for header, argument, status in (
        (f"Key {good}", None, 200), (good, None, 200), (f"key {good}", None, 404), (f"Bearer {good}", None, 404),
        (f"Key  {good}", None, 404), (None, good, 200), ("Key wrong", good, 200),
        (f"Key {good}", "wrong", 404), (None, None, 404),
    ):  # fmt: skip
        headers = {} if header is None else {"Authorization": header}
        params = {} if argument is None else {"api_key": argument}
        answer = httpx.get(f"{sandbox.tonalytica['base_url']}/api/session", headers=headers, params=params)
        assert answer.status_code == status, (header, argument)
        if status == 404:
            assert answer.json() == LOGIN


def test_query_key_sees_no_result_of_a_text_that_was_edited(sandbox: SandboxProcess, api: httpx.Client) -> None:
    row = named(sandbox, "Edited, not re-run")
    path = f"/api/queries/{row['id']}/results"
    old = api.get(path)
    assert old.status_code == 200 and old.json()["query_result"]["query"] != row["query"]
    with client(sandbox, row["api_key"]) as shared:
        refused = shared.get(path)
    assert (refused.status_code, refused.json()["message"]) == (404, "No cached result found for this query.")


def test_query_key_executes_polls_on_its_own_path_and_gets_only_data(sandbox: SandboxProcess) -> None:
    row = named(sandbox, SIMPLE)
    with client(sandbox, row["api_key"]) as shared:
        path = f"/api/queries/{row['id']}"
        job = shared.post(f"{path}/results", json={"max_age": 0}).json()
        assert shared.get(f"/api/jobs/{job['job']['id']}").json() == LOGIN
        assert finished(shared, job, f"{path}/jobs")["status"] == 3
        assert set(shared.post(f"{path}/results", json={}).json()["query_result"]) == {"data", "retrieved_at"}
        assert shared.post(f"{path}/refresh").json() == {"message": "Please use a user API key."}
        assert shared.get("/api/session").json() == LOGIN


def test_analyst_sees_less_and_restricted_widgets(sandbox: SandboxProcess, api: httpx.Client) -> None:
    board = named(sandbox, "Has a restricted widget", "dashboards")["id"]
    with client(sandbox, sandbox.tonalytica["other_keys"]["analyst"]) as analyst:
        shapes = {frozenset(w) for w in analyst.get(f"/api/dashboards/{board}").json()["widgets"]}
        assert frozenset({"id", "width", "dashboard_id", "options", "created_at", "updated_at", "restricted"}) in shapes
        assert analyst.get("/api/events").status_code == 403
        assert analyst.get("/status.json").headers["content-type"].startswith("text/html")
        assert len(analyst.get("/api/data_sources").json()) < len(api.get("/api/data_sources").json())


# Results


def test_values_that_break_loaders_arrive_as_the_vendor_sends_them(sandbox: SandboxProcess, api: httpx.Client) -> None:
    def result(name: str) -> Any:
        answer = api.get(f"/api/queries/{named(sandbox, name)['id']}/results")
        return json.loads(answer.content)["query_result"]["data"], answer.content

    names = [c["name"] for c in result("Duplicate column names")[0]["columns"]]
    assert names == ["id", "id1", "name", "name1", "id2", "id11"]
    data, raw = result("A lone surrogate")
    assert data["rows"][1]["txt"] == "half \ud800 pair" and b"\\ud800" in raw
    data, raw = result("NaN as an old Python wrote it")
    assert math.isnan(data["rows"][0]["ratio"]) and b"NaN" in raw
    assert result("Supply beyond 64 bits")[0]["rows"][1]["supply"] > 2**64
    assert {2**53 + 1, 2**63 - 1} <= {row["big"] for row in result("Ids above 2^53")[0]["rows"]}
    texts = {row["txt"] for row in result("Texts that break parsers")[0]["rows"]}
    assert {"", "007", "},{", '"rows": [', "]}", "0000-00-00", "nul \x00 inside"} <= texts
    data, _ = result("No rows at all")
    assert data["rows"] == [] and len(data["columns"]) == 4
    data, raw = result("Rows before columns")
    assert list(data) == ["rows", "columns"]
    columns = {c["name"] for c in result("Spaces, Capitals, 中文 columns")[0]["columns"]}
    assert {"?column?", "a.b", "kind::filter", "总锁仓量", "#", "🚀"} <= columns
    long = sorted(c.encode() for c in columns if len(c.encode()) > 63)
    assert len(long) == 4 and len({name[:63] for name in long}) == 2
    assert result("InfluxDB: keys come and go")[0]["rows"][2] == {}
    for row in truth(sandbox, "query_results"):
        if row["row_count"] < 5000:
            rows = control(sandbox, "GET", f"truth/results/{row['id']}")["rows"]
            assert len(rows) == row["row_count"], row["id"]


def test_small_scale_keeps_every_nasty_kind_and_a_large_result() -> None:
    with (
        start_sandbox("--vendors", "tonalytica", "--scale", "0.05") as small,
        client(small, small.tonalytica["api_key"]) as http,
    ):
        row = named(small, "All transactions")
        data = http.get(f"/api/query_results/{row['latest_query_data_id']}.json").json()["query_result"]["data"]
        assert len(data["columns"]) == 14 and len(data["rows"]) == 10_000
        assert all(len(r) == 14 for r in data["rows"])
        assert len({r["id"] for r in data["rows"]}) == 10_000
        kinds = {row["name"] for row in truth(small, "queries")}
    assert {name for name, *_ in (*NASTY, *PARAMETERISED, *NEVER_RUN)} <= kinds


def test_identical_texts_share_a_result(sandbox: SandboxProcess, api: httpx.Client) -> None:
    rows = [named(sandbox, f"Shared text, {n}") for n in ("one", "two", "three")]
    by_source: dict[int, set[int]] = {}
    for row in rows:
        by_source.setdefault(row["data_source_id"], set()).add(row["latest_query_data_id"])
    assert all(len(ids) == 1 for ids in by_source.values())
    first = next(r for r in rows if [x["data_source_id"] for x in rows].count(r["data_source_id"]) > 1)
    job = finished(api, api.post(f"/api/queries/{first['id']}/results", json={"max_age": 0}).json())
    after = [named(sandbox, row["name"]) for row in rows if row["data_source_id"] == first["data_source_id"]]
    assert len(after) > 1 and {row["latest_query_data_id"] for row in after} == {job["query_result_id"]}


# Execution


def test_a_plain_run_moves_the_result_and_not_updated_at(sandbox: SandboxProcess, api: httpx.Client) -> None:
    before = named(sandbox, "Changes every run")
    path = f"/api/queries/{before['id']}/results"
    assert "query_result" in api.post(path, json={}).json()
    assert "query_result" in api.post(path, json={"max_age": -1}).json()
    assert "query_result" in api.post(path, content=b"not json").json()
    assert api.post(path, json={"max_age": "soon"}).status_code == 500
    job = finished(api, api.post(path, json={"max_age": 60}).json())
    after = named(sandbox, "Changes every run")
    assert after["latest_query_data_id"] == job["query_result_id"] != before["latest_query_data_id"]
    assert after["retrieved_at"] > before["retrieved_at"] and after["updated_at"] == before["updated_at"]
    assert "query_result" in api.post(path, json={"max_age": 60}).json()


def test_parameters_change_the_rows_and_not_the_latest_result(sandbox: SandboxProcess, api: httpx.Client) -> None:
    row = named(sandbox, "Param: date range")
    path = f"/api/queries/{row['id']}/results"
    texts = []
    for month in ("02", "03"):
        period = {"start": f"2024-{month}-01", "end": f"2024-{month}-28"}
        job = finished(api, api.post(path, json={"parameters": {"period": period}}).json())
        texts.append(api.get(f"/api/query_results/{job['query_result_id']}").json()["query_result"])
        assert period["start"] in texts[-1]["query"]
    assert texts[0]["data"]["rows"] != texts[1]["data"]["rows"]
    assert named(sandbox, "Param: date range")["latest_query_data_id"] == row["latest_query_data_id"]
    token = api.post(path, json={"parameters": {"period": "d_last_30_days"}})
    assert token.status_code == 400 and "incompatible" in token.json()["message"]
    several = named(sandbox, "Param: enum, several values")["id"]
    job = finished(
        api,
        api.post(f"/api/queries/{several}/results", json={"max_age": 0, "parameters": {"kinds": ["nft_item"]}}).json(),
    )
    assert "('nft_item')" in api.get(f"/api/query_results/{job['result']}").json()["query_result"]["query"]
    wrong = api.post(f"/api/queries/{several}/results", json={"parameters": {"kinds": ["no such"], "x": 1}})
    assert wrong.json()["message"].endswith(": kinds, x")


def test_auto_limit(sandbox: SandboxProcess, api: httpx.Client) -> None:
    row = named(sandbox, "Auto limit")
    latest = api.get(f"/api/queries/{row['id']}/results").json()["query_result"]
    assert latest["query"].endswith("LIMIT 1000") and len(latest["data"]["rows"]) == 1000
    body = {"max_age": 0, "apply_auto_limit": False}
    job = finished(api, api.post(f"/api/queries/{row['id']}/results", json=body).json())
    assert len(api.get(f"/api/query_results/{job['result']}").json()["query_result"]["data"]["rows"]) == 4000
    assert named(sandbox, "Auto limit")["latest_query_data_id"] == row["latest_query_data_id"]


def test_older_versions_have_their_own_manners(sandbox: SandboxProcess, api: httpx.Client) -> None:
    query = named(sandbox, "Param: number")["id"]
    typed = f"/api/queries/{named(sandbox, 'Every type')['id']}/results"
    board = named(sandbox, "Same name", "dashboards")["id"]

    def manners() -> list[Any]:
        types = {c["name"]: c["type"] for c in api.get(typed).json()["query_result"]["data"]["columns"]}
        return [
            api.get("/api/session").json()["client_config"]["version"][:2],
            types["vc"],
            api.get(f"/api/queries/{query}/results").status_code,
            *(api.get(f"/api/dashboards/{x}").status_code for x in (board, "same-name", "same-name_1?legacy", "my")),
        ]

    assert manners() == ["26", "string", 200, 200, 500, 200, 200]
    control(sandbox, "POST", "options", {"version": "v10"})
    assert manners() == ["10", None, 404, 200, 500, 200, 200]
    control(sandbox, "POST", "options", {"version": "v9"})
    assert manners() == ["9.", None, 404, 404, 200, 200, 404]


# Faults, edits, stats


def faults(sandbox: SandboxProcess, *dos: dict[str, Any], path: str = "^/api/queries\\?", **more: Any) -> None:
    rules = [{"match": {"method": "GET", "path": path}, "do": do, **more} for do in dos]
    control(sandbox, "POST", "faults", rules)


def test_faults_do_what_they_say_and_stop(sandbox: SandboxProcess, api: httpx.Client) -> None:
    path = "/api/queries?page=1"
    whole = api.get(path)
    faults(sandbox, {"status": 429, "headers": {"Retry-After": "1"}, "body": {"message": "slow down"}}, times=2, skip=1)
    answers = [api.get(path) for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 429, 429, 200]
    assert answers[1].headers["retry-after"] == "1" and answers[1].json() == {"message": "slow down"}
    faults(sandbox, {"html": True})
    assert api.get(path).headers["content-type"].startswith("text/html")
    faults(sandbox, {"gzip": True})
    packed = api.get(path)
    assert packed.headers["content-encoding"] == "gzip" and packed.json()["count"] == whole.json()["count"]
    faults(sandbox, {"truncated_gzip": True})
    with pytest.raises((httpx.DecodingError, ValueError)):
        api.get(path).json()
    for do, what in (({"cut": 100}, "received 100 bytes"), ({"drop": True}, "without sending a response")):
        faults(sandbox, do)
        with pytest.raises(httpx.RemoteProtocolError, match=what):
            api.get(path)
        assert api.get(path).content == whole.content
    faults(sandbox, {"empty": True})
    assert api.get(path).json() == {"count": 0, "page": 1, "page_size": 25, "results": []}
    faults(sandbox, {"count": 3})
    assert api.get(path).json()["count"] == whole.json()["count"] + 3
    faults(sandbox, {"delay": 0.2}, {"status": 503})
    started = time.monotonic()
    assert api.get(path).status_code == 503 and time.monotonic() - started >= 0.2
    faults(sandbox, {"expire_token": True})
    assert api.get(path).json() == LOGIN and api.get("/api/session").json() == LOGIN
    control(sandbox, "POST", "reset")
    assert api.get(path).content == whole.content
    faults(sandbox, {"status": 500}, times=-1)
    assert {api.get(path).status_code for _ in range(3)} == {500}
    control(sandbox, "DELETE", "faults")
    assert api.get(path).status_code == 200


def test_edit_between_two_pages(sandbox: SandboxProcess, api: httpx.Client) -> None:
    first = api.get("/api/queries?page=1&order=name").json()
    victim = first["results"][0]["id"]
    edits = [
        {"table": "queries", "op": "delete", "key": victim},
        {"table": "queries", "op": "insert", "row": {"name": "zzz 新"}},
        {"table": "queries", "op": "insert", "row": {"name": "zzz second", "id": 5000}},
    ]
    faults(sandbox, {"edit": edits}, path="page=1&order=name")
    assert api.get("/api/queries?page=1&order=name").json() == first
    assert api.get("/api/queries?page=2&order=name").json()["count"] == first["count"] + 1
    assert api.get(f"/api/queries/{victim}").status_code == 404
    assert api.get("/api/queries/5000").json()["name"] == "zzz second"


def test_edits_move_what_the_real_ones_move(sandbox: SandboxProcess, api: httpx.Client) -> None:
    before = named(sandbox, SIMPLE)
    key = before["id"]
    control(sandbox, "POST", "edit", {"table": "queries", "op": "update", "key": key, "row": {"description": "新"}})
    after = api.get(f"/api/queries/{key}").json()
    assert after["description"] == "新" and after["updated_at"] > before["updated_at"]
    silent = {"table": "queries", "op": "update", "key": key, "row": {"name": "quiet"}, "silent": True}
    control(sandbox, "POST", "edit", silent)
    assert api.get(f"/api/queries/{key}").json()["updated_at"] == after["updated_at"]
    chart = after["visualizations"][0]["id"]
    control(sandbox, "POST", "edit", {"table": "visualizations", "op": "update", "key": chart, "row": {"name": "v"}})
    assert api.get(f"/api/queries/{key}").json()["updated_at"] == after["updated_at"]
    row = {"rows": [{"a": 1, "b": "half \ud800"}, {"a": 2**70, "b": None}], "columns": ["a", "b"]}
    made = control(sandbox, "POST", "edit", {"table": "queries", "op": "execute", "key": key, "row": row})["result_id"]
    moved = api.get(f"/api/queries/{key}").json()
    assert (moved["latest_query_data_id"], moved["updated_at"]) == (made, after["updated_at"])
    assert json.loads(api.get(f"/api/query_results/{made}").content)["query_result"]["data"]["rows"] == row["rows"]
    control(sandbox, "POST", "edit", {"table": "query_results", "op": "delete", "key": made})
    assert api.get(f"/api/query_results/{made}").status_code == 404
    control(sandbox, "POST", "reset")
    assert named(sandbox, SIMPLE) == before


def test_strange_requests_are_recorded_and_sound_ones_are_not(sandbox: SandboxProcess, api: httpx.Client) -> None:
    key = named(sandbox, SIMPLE)["id"]
    for path in (
        "/api/queries?page=1&page_size=250",
        f"/api/queries/{key}/results",
        "/api/users?disabled=true",
        "/api/alerts",
    ):
        assert api.get(path).status_code == 200
    stats = control(sandbox, "GET", "stats")
    assert stats["unexpected"] == [] and stats["by_path"]["GET /api/queries"] == 1 and stats["requests"] == 4
    strange = [
        ("GET", "/api/nope"),
        ("GET", "/api/queries/"),
        ("GET", "/api/queries?updated_after=1"),
        ("GET", "/api/queries?page_size=500"),
        ("POST", "/api/queries"),
        ("DELETE", f"/api/queries/{key}"),
        ("GET", "/api/queries/latest"),
    ]
    for method, path in strange:
        api.request(method, path)
    assert [(u["method"], u["path"]) for u in control(sandbox, "GET", "stats")["unexpected"]] == strange
    page = api.get("/api/nope")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert httpx.get(f"{sandbox.tonalytica['base_url']}/api/nope").json() == LOGIN
    assert httpx.get(f"{sandbox.tonalytica['base_url']}//api/session", headers=api.headers).status_code == 200


def test_reading_events_adds_events(api: httpx.Client) -> None:
    before = api.get("/api/events").json()["count"]
    api.get("/api/queries")
    assert api.get("/api/events").json()["count"] == before + 1


# A client nobody here wrote


def test_redash_toolbelt_walks_it(sandbox: SandboxProcess) -> None:
    redash = Redash(sandbox.tonalytica["base_url"], sandbox.tonalytica["api_key"])
    rows = truth(sandbox, "queries")
    listed = {r["id"] for r in rows if r["_where"] == "list"}
    assert redash.test_credentials()
    assert not Redash(sandbox.tonalytica["base_url"], "wrong").test_credentials()
    found = [q["id"] for q in redash.paginate(redash.queries)]
    # As with the real one: it trusts the count, and ties cost it rows.
    assert len(found) == len(listed) and set(found) < listed
    boards = {r["id"] for r in truth(sandbox, "dashboards") if r["_where"] == "list"}
    assert Counter(d["id"] for d in redash.paginate(redash.dashboards)) == Counter(boards)
    one = redash.get_query(found[0])
    assert one["id"] == found[0] and one["visualizations"][0]["type"] == "TABLE"
    assert {w["dashboard_id"] for w in redash.get_dashboard(min(boards))["widgets"]} <= {min(boards)}
    users = redash.paginate(redash.users) + redash.paginate(redash.users, only_disabled=True)
    assert Counter(u["id"] for u in users) == Counter(r["id"] for r in truth(sandbox, "users"))
    assert len(redash.alerts()) == 8 and len(redash.get_data_sources()) == 4
    assert redash.get_data_source(1)["options"]["password"] == "--------"
    assert all(q["schedule"] for q in redash.scheduled_queries())
    assert control(sandbox, "GET", "stats")["unexpected"] == []
