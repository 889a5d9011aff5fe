"""The TUNE sandbox against the vendor's sheet."""

from __future__ import annotations

import json
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.tune.filters import FilterError, parse_filter
from sandbox_process import SandboxProcess, start_sandbox

CAMPAIGNS = "advertiser/campaigns"
ENVELOPE = {"status_code", "response_size", "data"}


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "tune") as running:
        yield running


@pytest.fixture
def sandbox(process: SandboxProcess) -> SandboxProcess:
    process.control("tune", "POST", "reset")
    return process


class Api:
    def __init__(self, sandbox: SandboxProcess) -> None:
        self.sandbox = sandbox
        self.http = httpx.Client(base_url=sandbox.tune["base_url"], timeout=30, verify=False)

    def get(self, path: str, **params: Any) -> httpx.Response:
        return self.http.get(path, params={"api_key": self.sandbox.tune["api_key"], **params})

    def data(self, path: str, **params: Any) -> Any:
        answer = self.get(path, **params)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["status_code"] == 200, body
        return body["data"]

    def find(self, path: str, **params: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.data(f"{path}/find.json", **params)
        return rows

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.sandbox.control("tune", method, path, body)

    def truth(self, path: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.control("GET", f"truth/{path}")["rows"]
        return rows


@pytest.fixture
def api(sandbox: SandboxProcess) -> Iterator[Api]:
    found = Api(sandbox)
    with found.http:
        yield found


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [str(row["id"]) for row in rows]


# Envelope, keys, permissions


def test_envelope(api: Api) -> None:
    body = api.get("countries/find.json").json()
    assert set(body) == ENVELOPE and isinstance(body["status_code"], int) and isinstance(body["response_size"], str)
    assert set(api.get(f"{CAMPAIGNS}/find.json").json()) == ENVELOPE | {"throttle"}
    assert isinstance(api.data(f"{CAMPAIGNS}/count.json"), int)
    assert isinstance(api.data(f"{CAMPAIGNS}/get.json", id=ids(api.find(CAMPAIGNS))[0]), dict)
    assert api.get("countries/find").json() == api.get("countries/find.json").json()


def test_keys_and_sessions(api: Api) -> None:
    for key in ("", "short"):
        refused = api.get("advertiser/find.json", api_key=key)
        assert (refused.status_code, refused.json()) == (
            401,
            {
                "status_code": 401,
                "response_size": "266",
                "data": "",
                "errors": [{"message": "API key is missing or invalid."}],
            },
        )
    unknown = api.get("advertiser/find.json", api_key="0" * 32)
    assert (unknown.status_code, unknown.json()["status_code"]) == (200, 404)
    assert unknown.json()["errors"] == [{"message": "Api key was not found."}]
    assert api.get("countries/find.json", api_key="").json()["status_code"] == 200
    token = api.data("session/authenticate/api_key", api_keys=api.sandbox.tune["api_key"])
    assert len(token) == 40
    assert api.http.get("agency/count", params={"session_token": token}).json()["status_code"] == 200
    rule = {"match": {"path": "agency/count"}, "do": {"expire_token": True}}
    api.control("POST", "faults", [rule])
    for _ in range(2):
        expired = api.http.get("agency/count", params={"session_token": token})
        assert (expired.status_code, expired.json()["status_code"]) == (200, 401)


def test_permission_per_endpoint(api: Api) -> None:
    assert len(api.find("advertiser/agencies")) == 10
    api.control("POST", "options", {"forbid": ["advertiser/agencies"]})
    refused = api.get("advertiser/agencies/find.json")
    assert (refused.status_code, refused.json()["status_code"]) == (403, 403)
    assert api.get("agency/find.json").status_code == 200


# Metadata


def test_define_and_apidoc_cover_each_other_but_for_one(api: Api) -> None:
    tables = api.control("GET", "truth")
    assert len(tables) == 17
    working = {}
    for path in tables:
        defined = api.get(f"{path}/define.json")
        documented = api.get("apidoc/get_controllers", controllers=path, details="modelName,fields")
        working[path] = (defined.status_code == 200, documented.status_code == 200)
        own = set(api.truth(path)[0])
        if defined.status_code == 200:
            body = defined.json()
            assert set(body) ^ ENVELOPE in (set(), {"status_pre", "status_code"})
            assert set(body["data"]) == {"fields", "related_entities", "mod_name", "mod_namespace", "mod_shortname"}
            assert set(body["data"]["fields"]) == own
            assert all("type" in field for field in body["data"]["fields"].values())
        if documented.status_code == 200:
            fields = documented.json()["data"][0]["fields"]
            assert {f["name"] for f in fields if not f["related"]} == own
            shown = {f["name"] for f in fields if f["fieldDefault"]}
            assert shown == set(api.find(path, limit=1)[0])
    assert {path for path, found in working.items() if found == (False, False)} == {"browser_platform"}
    assert {path for path, found in working.items() if found == (False, True)} == {
        "currency_exchange_rates",
        "browsers",
    }
    pre = {path for path in tables if "status_pre" in api.get(f"{path}/define").json()}
    assert pre == {"account", "advertiser/sites"}


def test_some_records_have_modified(api: Api) -> None:
    with_modified = {path for path in api.control("GET", "truth") if "modified" in api.truth(path)[0]}
    assert {CAMPAIGNS, "advertiser/sites", "account/users", "advertiser/publishers"} <= with_modified
    assert not with_modified & {"countries", "regions", "languages", "currency_exchange_rates"}


# Fields, pages, sort, filter


def test_fields(api: Api) -> None:
    default = set(api.find(CAMPAIGNS, limit=1)[0])
    everything = set(api.find(CAMPAIGNS, limit=1, fields="*")[0])
    assert default < everything == set(api.truth(CAMPAIGNS)[0])
    nested = api.find(CAMPAIGNS, **{"fields": "id,advertiser.id,advertiser.name,site.country.name", "sort[id]": "ASC"})
    advertisers = {str(row["id"]): row["name"] for row in api.truth("advertiser")}
    assert nested[0].keys() == {"id", "advertiser", "site"} and set(nested[0]["site"]) == {"country"}
    assert all(row["advertiser"]["name"] == advertisers[str(row["advertiser"]["id"])] for row in nested)
    listed = api.http.get(
        f"{CAMPAIGNS}/find.json",
        params=[("api_key", api.sandbox.tune["api_key"]), ("fields[]", "id"), ("fields[]", "publisher.name")],
    ).json()["data"]
    assert set(listed[0]) == {"id", "publisher"}
    refused = api.get(f"{CAMPAIGNS}/find.json", fields="id,nope")
    assert (refused.status_code, refused.json()["errors"]) == (500, [{"message": "Internal service error."}])


def test_limit_and_page(api: Api) -> None:
    count = api.data(f"{CAMPAIGNS}/count.json")
    assert count == len(api.truth(CAMPAIGNS)) == 6000
    assert len(api.find(CAMPAIGNS)) == 10
    assert Counter(ids(api.find(CAMPAIGNS, limit=0))) == Counter(ids(api.truth(CAMPAIGNS)))
    whole = [row for page in range(1, 4) for row in api.find(CAMPAIGNS, limit=2000, page=page, **{"sort[id]": "ASC"})]
    assert ids(whole) == sorted(ids(api.truth(CAMPAIGNS)), key=int)
    assert api.find(CAMPAIGNS, limit=2000, page=4) == []
    lost = [key for page in range(1, 4) for key in ids(api.find(CAMPAIGNS, limit=2000, page=page))]
    assert len(lost) == 6000 and len(set(lost)) < 6000
    small = [key for page in range(1, 4) for key in ids(api.find("advertiser/sites", limit=40, page=page))]
    assert small == ids(api.truth("advertiser/sites"))
    assert 0 in [row["id"] for row in api.find("countries")]


def test_both_sort_dialects(api: Api) -> None:
    brackets = api.find("advertiser/publishers", limit=0, **{"sort[status]": "DESC", "sort[id]": "ASC"})
    colons = api.find("advertiser/publishers", limit=0, sort="status:desc,id")
    assert brackets == colons
    statuses = [row["status"].lower() for row in brackets]
    assert statuses == sorted(statuses, reverse=True)
    actives = [int(row["id"]) for row in brackets if row["status"].lower() == "active"]
    assert actives == sorted(actives)
    refused = api.get("advertiser/publishers/find.json", sort="nope:desc").json()
    assert refused["status_code"] == 500 and isinstance(refused["errors"], dict)


Row = dict[str, Any]
FILTERS: dict[str, Callable[[Row], bool]] = {
    "status = 'ACTIVE'": lambda r: r["status"].lower() == "active",
    "id >= 5000 AND id < '6000'": lambda r: 5000 <= r["id"] < 6000,
    "publisher_id = 0": lambda r: str(r["publisher_id"]) == "0",
    "(publisher_id IN (0, 524)) OR (status != 'active')": lambda r: (
        str(r["publisher_id"]) in ("0", "524") or r["status"].lower() != "active"
    ),
    "name LIKE 'Campaigns 1%' and not (name like '%活动' or name rlike '0$')": lambda r: (
        r["name"].startswith("Campaigns 1") and not r["name"].endswith(("活动", "0"))
    ),
    "payout IS NULL": lambda r: r["payout"] is None,
    "NOT payout > 100": lambda r: r["payout"] is not None and not float(r["payout"]) > 100,
    "payout is not null and payout between 1 and 2.5": lambda r: (
        r["payout"] is not None and 1 <= float(r["payout"]) <= 2.5
    ),
    "modified >= '2015-01-01 00:00:00' AND modified NOT LIKE '2015-02%'": lambda r: (
        r["modified"] >= "2015" and not r["modified"].startswith("2015-02")
    ),
    "id not in (1,2,3) and created <> '0000-00-00 00:00:00'": lambda r: r["created"] != "0000-00-00 00:00:00",
}


@pytest.mark.parametrize("text", FILTERS)
def test_filters_are_evaluated(api: Api, text: str) -> None:
    expected = [row for row in api.truth(CAMPAIGNS) if FILTERS[text](row)]
    assert 0 < len(expected) < 6000
    found = api.find(CAMPAIGNS, filter=text, limit=0, fields="*")
    assert Counter(ids(found)) == Counter(ids(expected))
    assert api.data(f"{CAMPAIGNS}/count.json", filter=text) == len(expected)


def test_filter_on_a_related_field(api: Api) -> None:
    name = api.truth("advertiser")[3]["name"]
    owners = {str(row["id"]) for row in api.truth("advertiser") if row["name"] == name}
    found = api.find(CAMPAIGNS, filter=f"advertiser.name = '{name}'", limit=0)
    assert found and {str(row["advertiser_id"]) for row in found} == owners


@pytest.mark.parametrize(
    "text", ["(id = 1", "id = 1)", "id =", "id IN ()", "id == 1", "name = 'open", "id = 1 id = 2", "<b>id</b>"]
)
def test_a_broken_filter_is_422(api: Api, text: str) -> None:
    refused = api.get(f"{CAMPAIGNS}/find.json", filter=text)
    assert (refused.status_code, refused.json()["status_code"]) == (422, 422)


def test_an_unknown_field_in_a_filter_is_500(api: Api) -> None:
    for path in (f"{CAMPAIGNS}/find.json", f"{CAMPAIGNS}/count.json", "countries/find.json"):
        assert api.get(path, filter="debug_mode = 0").status_code == 500


@given(
    st.lists(st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(-3, 3)), min_size=1, max_size=5),
    st.sampled_from([None, -2, 0, 1, "2", "-1"]),
    st.booleans(),
)
def test_filter_language_follows_sql(tests: list[tuple[str, int]], value: Any, is_or: bool) -> None:
    compare = {
        "=": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
    text = (" OR " if is_or else " AND ").join(f"(x {op} {other})" for op, other in tests)
    hits = [compare[op](int(value), other) for op, other in tests] if value is not None else []
    expected = (any(hits) if is_or else all(hits)) if value is not None else None
    row = {"x": value}.get
    assert parse_filter(text).keeps(row) is (expected is True)
    # A null compares as neither true nor false: NOT does not let it through.
    assert parse_filter(f"NOT ({text})").keeps(row) is (expected is False)


def test_filter_quotes() -> None:
    for text, value in (("x = 'it''s'", "it's"), ('x = "a\\"b"', 'a"b'), ("x LIKE '50\\%%'", "50%x")):
        assert parse_filter(text).keeps({"x": value}.get), text
    with pytest.raises(FilterError):
        parse_filter("x LIKE")


# Other actions


def test_other_actions(api: Api) -> None:
    users = api.truth("account/users")
    key = users[4]["id"]
    assert api.data("account/users/get.json", id=key, fields="*") == users[4]
    missing = api.get("account/users/get.json", id=1)
    assert (missing.status_code, missing.json()["status_code"]) == (404, 404)
    assert ids(api.data("account/users/find_by_ids.json", ids=f"{key},1,{users[0]['id']}")) == [
        str(key),
        str(users[0]["id"]),
    ]
    assert api.data("countries/choices.json")["0"] == "International (Generic)"
    assert {row["name"] for row in api.data("countries/autocomplete.json", term="aL")} == {"Albania"}
    assert api.data("account/get_current.json")["id"] == api.truth("account")[0]["id"]


def test_csv_is_find_only_and_needs_fields(api: Api) -> None:
    text = api.get(f"{CAMPAIGNS}/find.csv", fields="id,advertiser.name", limit=2, **{"sort[id]": "ASC"}).text
    assert text.startswith("id,advertiser.name\n")
    assert api.get(f"{CAMPAIGNS}/find.csv").status_code == 422
    assert api.get(f"{CAMPAIGNS}/count.csv").status_code == 404


def test_types_flap_and_names_are_nasty(api: Api) -> None:
    rows = api.truth(CAMPAIGNS)
    assert {type(row["publisher_id"]) for row in rows if str(row["publisher_id"]) != "0"} == {int, str}
    assert {type(row["payout"]) for row in rows} >= {str, float, int, type(None)}
    assert max(row["id"] for row in rows) == 2**53 + 1
    assert {row["created"] for row in rows} >= {"0000-00-00 00:00:00"}
    assert {type(row["metrics"]) for row in rows} == {dict, list, type(None)}
    assert {"总锁仓量", "", "NULL", "007"} <= {row["name"] for row in rows}
    assert {type(row["verified_phone"]) for row in api.truth("account")} == {bool, str}
    users = json.dumps(api.truth("account/users"))
    assert users.count("CANARYpii") > 100
    assert "CANARYpii" not in json.dumps(api.find("account/users", limit=0))


# Control


def test_edits(api: Api) -> None:
    key = api.truth(CAMPAIGNS)[5]["id"]
    update = {"table": CAMPAIGNS, "op": "update", "key": key, "row": {"name": "renamed"}}
    api.control("POST", "edit", {**update, "silent": True})
    silent = api.data(f"{CAMPAIGNS}/get", id=key, fields="*")
    api.control("POST", "edit", update)
    loud = api.data(f"{CAMPAIGNS}/get", id=key, fields="*")
    assert silent["name"] == "renamed" and silent["modified"] < "2020" < loud["modified"]
    made = api.control("POST", "edit", {"table": CAMPAIGNS, "op": "insert", "row": {"name": "新"}})["key"]
    assert api.data(f"{CAMPAIGNS}/get", id=made)["name"] == "新"
    api.control("POST", "edit", {"table": CAMPAIGNS, "op": "delete", "key": key})
    assert api.get(f"{CAMPAIGNS}/get", id=key).status_code == 404
    api.control("POST", "reset")
    assert api.data(f"{CAMPAIGNS}/get", id=key)["name"] != "renamed"


def test_faults(api: Api) -> None:
    path = f"{CAMPAIGNS}/find.json"
    edit = {"table": CAMPAIGNS, "op": "delete", "key": 2**53 + 1}
    sorted_page = {"match": {"method": "GET", "path": r"campaigns/find.*sort\[id\]"}, "do": {"edit": edit}}
    api.control("POST", "faults", [sorted_page])
    assert api.find(CAMPAIGNS, limit=1, **{"sort[id]": "DESC"})[0]["id"] == 2**53 + 1
    assert api.find(CAMPAIGNS, limit=1, **{"sort[id]": "DESC"})[0]["id"] != 2**53 + 1
    rules = [{"match": {"path": "/count"}, "do": {"count": -2}}, {"match": {"path": "/find"}, "do": {"empty": True}}]
    api.control("POST", "faults", rules)
    assert api.data(f"{CAMPAIGNS}/count") == 5997
    assert api.data(path) == [] and len(api.data(path)) == 10
    limit = {"errors": [{"message": "Limit is exceeded for org-1, retry after 3418 seconds", "error_code": 7}]}
    api.control("POST", "faults", [{"match": {"path": "find"}, "times": 2, "do": {"status": 429, "body": limit}}])
    assert [api.get(path).status_code for _ in range(3)] == [429, 429, 200]


def test_writes_and_strange_requests_are_recorded(api: Api) -> None:
    api.find(CAMPAIGNS, limit=0, fields="id", **{"sort[id]": "ASC"})
    api.data(f"{CAMPAIGNS}/count.json", filter="id > 0")
    stats = api.control("GET", "stats")
    assert stats["unexpected"] == [] and stats["by_path"] == {
        f"GET /v2/{CAMPAIGNS}/{a}.json": 1 for a in ("find", "count")
    }
    for action in ("save", "delete", "validate"):
        assert api.get(f"{CAMPAIGNS}/{action}.json", id=1).status_code == 500
    assert api.get("advertiser/nothing/find.json").status_code == 404
    api.find("countries", offset=3)
    api.http.post("countries/find.json")
    unexpected = api.control("GET", "stats")["unexpected"]
    assert len(unexpected) == 6
    assert api.sandbox.tune["api_key"] not in json.dumps(unexpected)
