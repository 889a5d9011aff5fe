"""DataWorks: signatures, then whole nights over real sockets into a real warehouse, compared with what is true."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
import pytest

import sources.dataworks as package
from conftest import Database, Night, one_database
from dataworks_truth import TABLES, Truth, same
from sandbox_process import SandboxProcess, start_sandbox
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    CountMismatch,
    NightloadError,
    NotReady,
    Refused,
    Unavailable,
)
from sources.dataworks import settings as has
from sources.dataworks.client import Calls, Client
from sources.dataworks.definitions import Row
from sources.dataworks.details import Policy, complete
from sources.dataworks.refusals import inspect_for, pause_asked
from sources.dataworks.signature import Signer, _pairs, v3_signature
from sources.extract.extractor import Extraction

FIXTURES = Path(__file__).parent / "fixtures" / "dataworks"
VECTORS: dict[str, Any] = json.loads((FIXTURES / "signature_vectors.json").read_text())
CAPTURES: list[dict[str, Any]] = json.loads((FIXTURES / "capture_newsdk.json").read_text())
MAIN = 10002
APIS, DRAFTS = 61 + 7 + 3, 31 + 4 + 2
Set = Callable[..., None]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "dataworks", "--scale", "0.02") as process:
        yield process


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)


@pytest.fixture
def truth(sandbox: SandboxProcess) -> Truth:
    truth = Truth(sandbox)
    truth.control("POST", "reset")
    return truth


@pytest.fixture
def night(truth: Truth, tmp_path: Path, database: Database) -> Night:
    """A home that knows the played DataWorks; without the tests of single APIs, which are most of the requests."""
    night = Night(home=tmp_path, database=database)
    ready = truth.process.ready["dataworks"]
    told = {name: ready[name] for name in ("base_url", "access_key_id", "access_key_secret")}
    night.set("dataworks", **told, requests_per_second=10000, exclude=["api_tests"])
    return night


def only(*tables: str) -> dict[str, Any]:
    """Of a night: these tables."""
    return {"tables": [f"dataworks.{table}" for table in tables]}


def settings_of(truth: Truth, **given: Any) -> has.Settings:
    settings = has.Settings()
    ready = truth.process.ready["dataworks"]
    for name in ("base_url", "access_key_id", "access_key_secret"):
        setattr(settings, name, ready[name])
    settings.requests_per_second = 10000.0
    for name, value in given.items():
        setattr(settings, name, value)
    return settings


# -- signatures ------------------------------------------------------------------------------------


def _signer(vector: dict[str, Any], form: str, *, date: str, nonce: str) -> Signer:
    return Signer(
        access_key_id=vector["access_key_id"],
        access_key_secret=vector["access_key_secret"],
        form=form,
        now=lambda: datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
        nonce=lambda: nonce,
    )


def _bare(vector: dict[str, Any], headers: dict[str, str]) -> httpx.Request:
    """The request of a vector before it was signed."""
    signing = ("x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256", "authorization", "content-length")
    target = re.sub(r"[?&](Action|Format|Version|Timestamp|Signature\w*|AccessKeyId)=[^&]*", "", vector["target"])
    target = target if "?" in target else target.replace("&", "?", 1)
    kept = {name: value for name, value in headers.items() if name.lower() not in signing}
    return httpx.Request(vector["method"], f"https://{kept['host']}{target}", headers=kept, content=vector["body"])


@pytest.mark.parametrize("name", VECTORS)
def test_the_signer_gives_what_the_official_sdk_gave(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.dataworks.signature.SIGNED", ("accept", "content-type", "host", "user-agent"))
    vector, form = VECTORS[name], name[-2:].lower()
    request = _bare(vector, vector["headers"])
    _signer(vector, form, date="2026-01-02T03:04:05Z", nonce="0123456789abcdef0123456789abcdef")(request)
    if form == "v3":
        assert request.headers["Authorization"] == vector["headers"]["Authorization"]
    else:
        assert request.url.raw_path.decode() == vector["target"]
        again = request.url.raw_path
        _signer(vector, form, date="2026-01-02T03:04:05Z", nonce="0123456789abcdef0123456789abcdef")(request)
        assert request.url.raw_path == again, "signed anew, not twice"


class Recorder(BaseHTTPRequestHandler):
    """Keeps requests as they came over the wire, and answers each with an empty list."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def _keep(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append({"line": self.requestline, "headers": headers, "body": body})
        answer = b'{"Success": true, "Data": {"ApiId": 1}, "PageResult": {}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _keep

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[str]:
    Recorder.seen = []
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("form", ["v3", "v1"])
def test_our_requests_are_those_of_the_official_sdk(form: str, recorder: str, truth: Truth) -> None:
    keys = {"access_key_id": "testAK", "access_key_secret": "testSecret"}
    client = Client(settings_of(truth, base_url=recorder, signature=form, **keys))
    client.page(has.LIST_PUBLISHED, size=50, ProjectId=MAIN, ApiNameKeyword="测试 *~/+")
    client.detail(has.GET_PUBLISHED, project=MAIN, api=10001)
    client.page(has.LIST_PROJECTS, size=100)
    client.page(has.LIST_AUTHORITIES, size=50, ProjectId=MAIN)
    with pytest.raises(BrokenAnswer):  # the recorder's answer is no list of tests
        client.tests(has.LIST_TESTS, api=10001, size=100)
    captured = CAPTURES[:5] if form == "v3" else CAPTURES[6:11]
    for ours, theirs in zip(Recorder.seen, captured, strict=True):
        sent = {name.lower(): value for name, value in theirs["headers"]}
        assert ours["body"] == theirs["body"]
        for name in ("x-acs-action", "x-acs-version", "content-type", "content-length", "x-acs-content-sha256"):
            assert form == "v1" or ours["headers"].get(name) == sent.get(name), name
        # Nonce and date are fresh each time: with the SDK's own, our request gives the SDK's signature.
        if form == "v3":
            assert ours["line"] == theirs["request_line"]
            names = sent["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
            method, target, _ = ours["line"].split()
            signature = v3_signature(
                method=method,
                query=_pairs(urlsplit(target).query.encode()),
                headers={name: sent[name] for name in names},
                payload_hash=ours["headers"]["x-acs-content-sha256"],
                secret="testSecret",
            )
            assert sent["authorization"].endswith(f"Signature={signature}")
        else:
            fresh = r"(Timestamp|SignatureNonce|Signature)=[^& ]*"
            assert re.sub(fresh, r"\1", ours["line"]) == re.sub(fresh, r"\1", theirs["request_line"])
            vector = {**keys, "method": ours["line"].split()[0], "body": ours["body"]}
            query = dict(_pairs(urlsplit(theirs["request_line"].split()[1]).query.encode()))
            request = _bare({**vector, "target": ours["line"].split()[1]}, {**ours["headers"], "host": sent["host"]})
            _signer(vector, "v1", date=query["Timestamp"], nonce=query["SignatureNonce"])(request)
            assert request.url.raw_path.decode() == theirs["request_line"].split()[1]


def test_each_try_is_signed_anew(truth: Truth) -> None:
    client = Client(settings_of(truth))
    truth.fault("ListProjects", {"status": 503, "body": {}}, times=2)
    assert client.page(has.LIST_PROJECTS, size=1).total == 5, "the played vendor refuses a nonce that it has seen"
    truth.says("ListProjects", 400, {"Code": "SignatureNonceUsed", "Message": "used"}, times=1)
    assert client.page(has.LIST_PROJECTS, size=1).total == 5
    truth.says("ListProjects", 400, {"Code": "SignatureNonceUsed", "Message": "used"})
    with pytest.raises(Refused, match="refused two fresh nonces"):
        client.page(has.LIST_PROJECTS, size=1)


@pytest.mark.parametrize("form", ["v3", "v1"])
def test_a_temporary_key_goes_with_its_token(form: str, truth: Truth) -> None:
    truth.options(security_token="CANARYsts-token")
    client = Client(settings_of(truth, signature=form, security_token="CANARYsts-token"))
    assert client.page(has.LIST_PROJECTS, size=1).total == 5
    with pytest.raises(AccessDenied, match="does not accept the key"):
        Client(settings_of(truth, signature=form)).page(has.LIST_PROJECTS, size=1)


def test_nothing_but_listed_reads_can_be_called(truth: Truth) -> None:
    with pytest.raises(ValueError, match="not a read"):
        Client(settings_of(truth)).call(has.Action(name="GetDataServiceApplication"), ProjectId=1, ApplicationId=1)
    assert not [action.name for action in has.ACTIONS if not action.name.startswith(("List", "Get"))]
    assert truth.asked() == 0


# -- nights ----------------------------------------------------------------------------------------


def test_three_nights_by_the_command_line(night: Night, truth: Truth) -> None:
    """First all, then nothing new, then edits, deletions and late rows."""
    night.set("dataworks", exclude=None)
    first = night("run", "dataworks", "--json")
    assert first.code == 0, first.out + first.err
    assert {name: table["status"] for name, table in first.tables.items()} == {f"dataworks.{t}": "ok" for t in TABLES}
    same(night, truth)
    for name, table in first.tables.items():
        assert table["vendor_count"] == table["extracted"] == table["landed"] == table["live"], name
    assert truth.out_of_place() == []
    assert truth.asked("GetDataServicePublishedApi") == 0, "the list told it all"
    assert truth.asked("GetDataServiceApplication") == 0
    requests = truth.asked()
    found = night.rows("SELECT DISTINCT api_mode, api_mode_name FROM dataworks.published_apis ORDER BY 1")
    assert found == [(0, "wizard"), (1, "script"), (2, "registered")]
    ids = {api for (api,) in night.rows("SELECT api_id FROM dataworks.published_apis")}
    assert 2**53 + 1 in ids and len(ids) == APIS

    second = night("run", "dataworks", "--json")
    assert second.code == 0
    assert {table["status"] for table in second.tables.values()} == {"unchanged"}
    twice = 2 * 2  # two lists of the first night have two pages each, and no earlier walk to agree with
    assert truth.asked() == 2 * requests - twice, "no list is read twice whose keys are those of the last night"

    apis, tests = truth.rows("published_apis"), truth.rows("api_tests")
    edited, gone = f"{MAIN}/{apis[0]['ApiId']}", f"{MAIN}/{apis[1]['ApiId']}"
    details = apis[0]["WizardDetails"] | {"WizardErrorCodes": [], "WizardRequestParameters": []}
    running = next(row for row in tests if row["Status"] == "RUNNING")
    truth.edit(
        _update("published_apis", edited, ApiName="改名", WizardDetails=details),
        {"table": "published_apis", "op": "delete", "key": gone},
        {"table": "published_apis", "op": "insert", "row": {"ApiId": 7, "CreatedTime": None}, "first": True},
        {**_update("groups", f"{MAIN}/ab1203", GroupName="silent"), "silent": True},
        _update("api_authorities", f"{MAIN}/{apis[3]['ApiId']}", AuthorizationRecords=[]),
        {"table": "applications", "op": "delete", "key": f"{MAIN}/20001"},
        _update("api_tests", str(running["TestId"]), Status="FINISHED", RetCode=0),
        {"table": "api_tests", "op": "insert", "row": {"TestId": 99, "CreateTime": 1700000000001}},
    )
    third = night("run", "dataworks", "--json")
    assert third.code == 0, third.out + third.err
    assert third.tables["dataworks.folders"]["status"] == "unchanged"
    same(night, truth)
    name = "SELECT api_name FROM dataworks.published_apis WHERE api_id = ? AND _deleted_at IS NOT NULL"
    assert night.rows(name, int(apis[1]["ApiId"])) == [(apis[1]["ApiName"],)]
    versions = (
        "SELECT api_name, valid_to IS NULL FROM dataworks.published_api_versions WHERE api_id = ? ORDER BY valid_from"
    )
    assert night.rows(versions, int(apis[0]["ApiId"])) == [(apis[0]["ApiName"], False), ("改名", True)]
    assert night.rows(versions, int(apis[1]["ApiId"])) == [(apis[1]["ApiName"], False)]

    expired = str(tests[0]["TestId"])
    truth.edit({"table": "api_tests", "op": "delete", "key": expired})
    assert night.run("dataworks", tables=["dataworks.api_tests"]).code == 0
    assert night.rows("SELECT count(*) FROM dataworks.api_tests WHERE test_id = ?", int(expired)) == [(1,)], "kept"
    _no_canary(night)


def _update(table: str, key: str, **row: Any) -> dict[str, Any]:
    return {"table": table, "op": "update", "key": key, "row": row}


def _no_canary(night: Night) -> None:
    for (table,) in night.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'dataworks'"):
        assert "CANARY" not in str(night.rows(f'SELECT * FROM dataworks."{table}"')), table
    for file in night.home.rglob("*"):
        if file.is_file() and file.suffix != ".duckdb":
            assert b"CANARY" not in file.read_bytes(), file


def test_touching_an_api_makes_no_version_of_it(night: Night, truth: Truth) -> None:
    asked = only("published_apis", "published_api_versions")
    assert night.run("dataworks", **asked).code == 0
    api = truth.rows("published_apis")[0]
    truth.edit(_update("published_apis", f"{MAIN}/{api['ApiId']}", OperatorId="5"))
    tables = night.run("dataworks", **asked).tables
    assert tables["dataworks.published_apis"]["status"] == "ok"
    assert tables["dataworks.published_api_versions"]["status"] == "unchanged"
    same(night, truth, "published_apis", "published_api_versions")


def test_details_that_the_list_does_not_tell_are_fetched_once_and_when_they_change(night: Night, truth: Truth) -> None:
    truth.options(list_details="absent")
    tables = ("published_apis", "published_api_request_parameters", "draft_apis", "published_api_versions")
    assert night.run("dataworks", **only(*tables)).code == 0
    same(night, truth, *tables)
    assert (truth.asked("GetDataServicePublishedApi"), truth.asked("GetDataServiceApi")) == (APIS, DRAFTS)
    truth.control("POST", "reset")
    truth.options(list_details="absent")
    api = truth.rows("published_apis")[0]
    details = api["WizardDetails"] | {"SuccessfulResultSample": "new"}
    truth.edit(
        {"table": "published_apis", "op": "update", "key": f"{MAIN}/{api['ApiId']}", "row": {"WizardDetails": details}}
    )
    assert night.run("dataworks", **only(*tables)).code == 0
    assert (truth.asked("GetDataServicePublishedApi"), truth.asked("GetDataServiceApi")) == (1, 0)
    same(night, truth, *tables)
    quiet = night.run("dataworks", **only(*tables))
    assert {table["status"] for table in quiet.tables.values()} == {"unchanged"}
    assert truth.asked("GetDataServicePublishedApi") == 1
    assert night.run("dataworks", full=True, tables=["dataworks.published_apis"]).code == 0
    assert truth.asked("GetDataServicePublishedApi") == 1 + APIS, "--full does not trust what is remembered"


@one_database
def test_details_by_setting(night: Night, truth: Truth) -> None:
    night.set("dataworks", details="always", workspaces=[10003])
    for _ in range(2):
        assert night.run("dataworks", **only("published_apis")).code == 0
    assert truth.asked("GetDataServicePublishedApi") == 7 and truth.asked("ListProjects") == 0
    night.set("dataworks", details="never")
    truth.options(list_details="empty")
    ran = night.run("dataworks", **only("published_apis"))
    assert ran.tables["dataworks.published_apis"]["live"] == 7 and truth.asked("GetDataServicePublishedApi") == 7


@pytest.mark.parametrize("code", ["1031203110005", "Invalid.ApiId"])
def test_an_api_whose_details_are_refused_keeps_its_row_and_gets_no_half_version(
    code: str, night: Night, truth: Truth
) -> None:
    refusal = _no(400, code) if code.startswith("Invalid") else _envelope(code, "private")
    truth.options(list_details="absent")
    night.set("dataworks", workspaces=[10003])
    truth.says("GetDataServicePublishedApi", *refusal, times=1)
    tables = only("published_apis", "published_api_versions")
    ran = night.run("dataworks", **tables)
    assert ran.code == 0 and ran.tables["dataworks.published_apis"]["live"] == 7
    assert "refuses the details of 1 APIs; the first" in str(ran.tables["dataworks.published_apis"]["notes"])
    assert ran.tables["dataworks.published_api_versions"]["live"] == 6
    assert night.run("dataworks", **tables).tables["dataworks.published_api_versions"]["live"] == 7
    assert night.rows("SELECT count(*) FROM dataworks.published_api_versions") == [(7,)]
    truth.says("GetDataServicePublishedApi", *_no(403, "Forbidden.Access"))
    assert night.run("dataworks", full=True, **tables).code == 1, "that is about all of them"


@one_database
def test_an_api_whose_tests_are_refused_fails_alone(night: Night, truth: Truth) -> None:
    """One that is gone since the list was read, say; a key that may ask for none is another matter."""
    night.set("dataworks", exclude=None, workspaces=[10003])
    tables = only("api_tests")
    truth.says("ListDataServiceApiTest", *_envelope("1031203110005", "gone"), times=1)
    status, body = _no(400, "Invalid.ApiId")
    truth.fault("ListDataServiceApiTest", {"status": status, "body": body}, skip=2)
    ran = night.run("dataworks", **tables)
    assert ran.code == 0 and "the tests of 2 APIs; the first" in str(ran.tables["dataworks.api_tests"]["notes"])
    assert "Invalid.ApiId" in str(ran.tables["dataworks.api_tests"]["notes"]), "the second reason is reported too"
    assert ran.tables["dataworks.api_tests"]["live"] > 0
    for told in (_no(403, "Forbidden.Access"), _envelope("1031203110005", "gone")):
        truth.says("ListDataServiceApiTest", *told)
        assert night.run("dataworks", **tables).code == 1, "that is about all of them"


@one_database
def test_calls_that_end_with_a_retry_among_the_tests_lose_none_that_came(night: Night, truth: Truth) -> None:
    """The last call of the day may be throttled, and its repetition is one call too many."""
    night.set("dataworks", exclude=None, workspaces=[10003], calls_per_day=7)
    truth.fault("ListDataServiceApiTest", {"status": 503, "body": "busy"}, skip=4)
    ran = night.run("dataworks", **only("api_tests"))
    table = ran.tables["dataworks.api_tests"]
    assert ran.code == 0 and table["landed"] == table["live"] > 0, ran.out
    assert "were not asked for tests: today's calls are used up" in str(table["notes"]) and truth.asked() == 7
    # the vendor's own limit, of which the settings do not know: what came is loaded, and the table fails
    night.set("dataworks", calls_per_day=None)
    status, body = _no(429, "Throttling.User", "exceeds the daily limit")
    truth.fault("ListDataServiceApiTest", {"status": status, "body": body}, skip=1, times=-1)
    table = night.run("dataworks", **only("api_tests")).tables["dataworks.api_tests"]
    assert table["status"] == "failed" and "calls of today are used up" in table["error"]


@one_database
def test_a_credential_that_an_api_was_tried_with_is_dropped(night: Night, truth: Truth) -> None:
    night.set("dataworks", exclude=None, workspaces=[10003])
    key = next(str(row["TestId"]) for row in truth.rows("api_tests") if row["ApiId"] == _api_of(truth, 10003))
    told = {"ParamMap": '{"id": 1, "token": "CANARY"}', "RetResult": '{"rows": [{"app_key": "CANARY", "n": 2}]}'}
    truth.edit(_update("api_tests", key, **told))
    assert night.run("dataworks", **only("api_tests")).code == 0
    landed = night.rows("SELECT param_map, ret_result FROM dataworks.api_tests WHERE test_id = ?", int(key))
    assert landed == [('{"id": 1}', '{"rows": [{"n": 2}]}')]
    _no_canary(night)


def _api_of(truth: Truth, workspace: int) -> int:
    """The first API of a workspace that was tried."""
    tried = {row["ApiId"] for row in truth.rows("api_tests")}
    apis: list[int] = [row["ApiId"] for row in truth.rows("published_apis") if row["ProjectId"] == workspace]
    return next(api for api in apis if api in tried)


@one_database
def test_details_that_cannot_be_had_are_asked_for_once_a_night(night: Night, truth: Truth) -> None:
    truth.options(list_details="absent")
    night.set("dataworks", workspaces=[10003])
    truth.says("GetDataServicePublishedApi", *_no(503, "ServiceUnavailable"))
    tables = ("published_apis", "published_api_error_codes", "published_api_versions")
    ran = night.run("dataworks", **only(*tables, "groups"))
    assert ran.code == 1 and ran.tables["dataworks.groups"]["status"] == "ok"
    assert all("failed over Get" in ran.tables[f"dataworks.{table}"]["error"] for table in tables)
    assert truth.asked("GetDataServicePublishedApi") == 5, "one call and its repetitions, and not for each table"
    truth.control("DELETE", "faults")
    assert night.run("dataworks", **only(*tables)).code == 0


def _policy(**given: Any) -> Policy:
    now = datetime(2026, 1, 10, tzinfo=UTC)
    return Policy(**{"manner": "missing", "full": False, "now": now, "refresh": timedelta(days=7), **given})


def test_what_is_remembered_is_fetched_again_when_it_is_old_or_changed_and_calls_go_to_the_new_first() -> None:
    rows: list[Row] = [{"ProjectId": 1, "ApiId": api, "ApiName": f"a{api}"} for api in range(4)]
    fetched: list[int] = []

    def get(project: int, api: int) -> Row:
        fetched.append(api)
        return {"ProjectId": project, "ApiId": api, "ScriptDetails": {"Script": f"select {api}"}}

    memory: dict[str, Any] = {}
    complete(rows[:3], get=get, memory=memory, policy=_policy(), left=lambda: None)
    assert fetched == [0, 1, 2]
    later = _policy(now=datetime(2026, 1, 16, tzinfo=UTC))
    changed = [{**rows[0], "ApiName": "changed"}, *rows[1:]]
    left = 2

    def calls() -> int:
        return left - (len(fetched) - 3)

    done = complete(changed, get=get, memory=memory, policy=later, left=calls)
    assert fetched[3:] == [3, 0] and done.notes == []
    assert done.apis[1]["ScriptDetails"] == {"Script": "select 1"}, "remembered"
    week = _policy(now=datetime(2026, 1, 17, tzinfo=UTC))
    left = 3
    done = complete(changed, get=get, memory=memory, policy=week, left=calls)
    assert fetched[5:] == [1], "the oldest first, as far as calls go"
    assert done.notes == [], "unchanged ones lose nothing by waiting"
    left = 3
    rows = [{**row, "ApiName": "all changed"} for row in rows] + [{"ProjectId": 1, "ApiId": 9}]
    done = complete(rows, get=get, memory=memory, policy=week, left=calls)
    assert (done.unread, done.stale) == ({"1/9"}, 4) and len(done.notes) == 2
    assert done.apis[0]["ApiName"] == "all changed" and done.apis[0]["ScriptDetails"], "the list's head, older details"
    complete(rows[:1], get=get, memory=memory, policy=week, left=calls)
    assert list(memory) == ["1/0"], "what is gone is forgotten"


def test_a_day_that_ends_among_the_details_ends_the_calls_and_not_the_table() -> None:
    rows: list[Row] = [{"ProjectId": 1, "ApiId": api} for api in range(4)]
    asked: list[int] = []

    def get(project: int, api: int) -> Row:
        asked.append(api)
        if api == 1:
            raise NotReady(what="the account's calls of today are used up")
        return {"ProjectId": project, "ApiId": api, "ScriptDetails": {"Script": "select"}}

    done = complete(rows, get=get, memory={}, policy=_policy(), left=lambda: None)
    assert asked == [0, 1] and done.waiting == 3 and done.unread == {"1/1", "1/2", "1/3"} and len(done.apis) == 4


# -- how a list is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["absent", "null", "list"])
def test_an_empty_list_may_come_in_any_form(form: str, truth: Truth) -> None:
    truth.options(empty_list=form)
    client = Client(settings_of(truth))
    for action in (has.LIST_PUBLISHED, has.LIST_GROUPS, has.LIST_FOLDERS, has.LIST_AUTHORITIES, has.LIST_AUTHORIZED):
        assert client.walk(action, ProjectId=10004).rows == []
    assert client.walk(has.LIST_APPLICATIONS, ProjectIdList="10004").total == 0


def test_a_vendor_that_gives_smaller_pages_than_asked_loses_no_row(truth: Truth) -> None:
    truth.options(largest_page=20, clamps=True)
    listed = Client(settings_of(truth)).walk(has.LIST_PUBLISHED, ProjectId=MAIN)
    assert listed.rows == [row for row in truth.rows("published_apis") if row["ProjectId"] == MAIN]
    assert truth.asked("ListDataServicePublishedApis") == 2 * 4, "four pages, in two walks that agree"
    truth.options(largest_page=20, clamps=False)
    with pytest.raises(ConfigurationError, match="page_size"):
        Client(settings_of(truth)).walk(has.LIST_PUBLISHED, ProjectId=MAIN)


def test_a_page_that_repeats_once_is_read_again_and_one_that_always_does_is_a_mismatch(
    night: Night, truth: Truth
) -> None:
    truth.options(repeat={"ListDataServicePublishedApis": 1})
    assert night.run("dataworks", **only("published_apis", "groups")).code == 0
    same(night, truth, "published_apis")
    truth.options(repeat={"ListDataServicePublishedApis": 1000})
    ran = night.run("dataworks", **only("published_apis", "groups"))
    told = ran.tables["dataworks.published_apis"]
    assert ran.code == 4 and told["status"] == "mismatch" and "page 2 repeats" in told["error"]
    assert ran.tables["dataworks.groups"]["status"] == "unchanged", "the others go on"
    same(night, truth, "published_apis")


def test_rows_that_move_under_the_walk(night: Night, truth: Truth) -> None:
    edit = {"table": "published_apis", "op": "insert", "row": {"ApiId": 8}, "first": True}
    truth.fault("ListDataServicePublishedApis", {"edit": edit})
    assert night.run("dataworks", **only("published_apis", "published_api_error_codes")).code == 0
    same(night, truth, "published_apis")
    before = truth.asked("ListDataServicePublishedApis")
    truth.fault("ListDataServicePublishedApis", {"count": 1}, times=-1)
    ran = night.run("dataworks", **only("published_apis", "published_api_error_codes"))
    assert ran.code == 4 and "another number of rows than it counts" in ran.tables["dataworks.published_apis"]["error"]
    assert truth.asked("ListDataServicePublishedApis") - before == 9, "walked three times, and not for each table"


@pytest.mark.parametrize("action", ["ListDataServicePublishedApis", "ListDataServiceFolders"])
def test_a_row_gone_and_a_row_come_between_two_pages_is_seen_the_same_night(
    night: Night, truth: Truth, action: str
) -> None:
    """The count stands, each key comes once, and the first row of the second page has moved out of sight."""
    table, label = {"ListDataServicePublishedApis": ("published_apis", "ApiId")}.get(action, ("folders", "FolderId"))

    def swap(*, walk: int) -> None:
        """After the first of the two pages of that walk, counted from now on."""
        row = [row for row in truth.rows(table) if row["ProjectId"] == MAIN][walk]
        edits = [
            {"table": table, "op": "delete", "key": f"{MAIN}/{row[label]}"},
            {"table": table, "op": "insert", "row": {**row, label: int(row[label]) + 10**6}},
        ]
        truth.fault(action, {"edit": edits}, skip=2 * walk)

    for _ in ("with no walk to agree with", "with that of the last night"):
        swap(walk=0)
        assert night.run("dataworks", **only(table)).code == 0
        same(night, truth, table)
    for walk in range(3):
        swap(walk=walk)
    ran = night.run("dataworks", **only(table))
    assert ran.code == 4 and "other rows on each walk" in ran.tables[f"dataworks.{table}"]["error"]
    assert night.run("dataworks", **only(table)).code == 0
    same(night, truth, table)


def test_an_answer_that_lost_its_rows_empties_no_table(night: Night, truth: Truth) -> None:
    tables = ("published_apis", "published_api_versions", "published_api_error_codes")
    assert night.run("dataworks", **only(*tables)).code == 0
    truth.fault("ListDataServicePublishedApis", {"empty": True}, times=-1)
    ran = night.run("dataworks", **only(*tables))
    assert ran.code == 1 and f"which had {APIS}" in ran.tables["dataworks.published_apis"]["error"]
    same(night, truth, *tables)


def test_answers_that_break_on_their_way_are_asked_for_again(night: Night, truth: Truth) -> None:
    broken: list[dict[str, Any]] = [{"cut": 300}, {"truncated_gzip": True}, {"html": True}, {"drop": True}]
    for position, do in enumerate(broken):
        truth.fault("ListDataServiceGroups", do, skip=position, times=1)
    truth.fault("ListDataServiceFolders", {"gzip": True}, times=-1)
    assert night.run("dataworks", **only("groups", "folders")).code == 0
    same(night, truth, "groups", "folders")


def test_more_workspaces_than_one_request_takes(night: Night, truth: Truth) -> None:
    """Fifty ids fit into a request for applications; the list of workspaces has pages too."""
    truth.edit(
        *({"table": "projects", "op": "insert", "row": {"ProjectId": 60000 + number}} for number in range(60)),
        {"table": "applications", "op": "insert", "row": {"ProjectId": 60059, "ApplicationId": 5}},
    )
    assert night.run("dataworks", **only("projects", "applications")).code == 0
    same(night, truth, "projects", "applications")
    assert truth.asked("ListDataServiceApplications") == 2 and truth.out_of_place() == []


def test_what_no_document_tells_lands_too(night: Night, truth: Truth) -> None:
    api = truth.rows("published_apis")[0]
    row = {"ApiMode": 7, "NewField": {"a": [1]}, "Protocols": [0, 5], "ApiSecret": "CANARYnew"}
    truth.edit(
        _update("published_apis", f"{MAIN}/{api['ApiId']}", **row),
        _update("applications", f"{MAIN}/20001", ApplicationSecret="CANARYleaked"),
    )
    ran = night.run("dataworks", **only("published_apis", "published_api_versions", "applications"))
    assert ran.code == 0 and ran.tables["dataworks.published_apis"]["status"] == "warning"
    assert "ApiMode 7, Protocols 5" in str(ran.tables["dataworks.published_apis"]["notes"])
    sql = "SELECT api_mode, api_mode_name, protocols_name, new_field FROM dataworks.published_apis WHERE api_id = ?"
    ((mode, name, protocols, new),) = night.rows(sql, int(api["ApiId"]))
    assert (mode, name, json.loads(protocols), json.loads(new)) == (7, None, ["HTTP", None], {"a": [1]})
    _no_canary(night)


def test_an_empty_text_is_no_number_and_no_time(night: Night, truth: Truth) -> None:
    api, group = truth.rows("published_apis")[0], truth.rows("groups")[0]
    truth.edit(
        _update("published_apis", f"{MAIN}/{api['ApiId']}", Timeout="", ModifiedTime="", Description=""),
        _update("groups", f"{MAIN}/{group['GroupId']}", CreatorId="", CreatedTime=""),
    )
    assert night.run("dataworks", **only("published_apis", "groups")).code == 0
    sql = "SELECT timeout, modified_time, description FROM dataworks.published_apis WHERE api_id = ?"
    assert night.rows(sql, int(api["ApiId"])) == [(None, None, "")]
    sql = "SELECT creator_id, created_time FROM dataworks.groups WHERE project_id = ? AND group_id = ?"
    assert night.rows(sql, MAIN, group["GroupId"]) == [("", None)]


# -- refusals ----------------------------------------------------------------------------------------


def _no(status: int, code: str, message: str = "no") -> tuple[int, dict[str, Any]]:
    return status, {"RequestId": "R-1", "Code": code, "Message": message, "HostId": "h"}


def _envelope(code: str, message: str = "no") -> tuple[int, dict[str, Any]]:
    return 200, {"RequestId": "R-1", "Success": False, "ErrorCode": code, "ErrorMessage": message}


@pytest.mark.parametrize(
    ("answer", "kind", "told", "asked"),
    [
        (_no(429, "Throttling.User"), Unavailable, "throttles", 5),
        (_no(400, "Throttling"), Unavailable, "throttles", 5),
        (_no(503, "Throttling.Api"), Unavailable, "throttles", 5),
        (_envelope("Throttling.System"), Unavailable, "throttles", 5),
        (_no(429, "", ""), Unavailable, "throttles", 5),
        (_no(429, "Throttling.User", "exceeds the daily limit"), NotReady, "calls of today are used up", 1),
        (_no(500, "InternalError.System"), Unavailable, "failed over ListDataServiceGroups of ProjectId 10002", 2),
        (_no(500, "InternalError.UserId.Missing"), Unavailable, "failed over", 2),
        (_envelope("InternalError.System"), Unavailable, "failed over", 5),
        (_no(403, "Forbidden.Access"), Refused, "may not call ListDataServiceGroups.*workspaces", 1),
        (_envelope("Forbidden.Access"), Refused, "may not call", 1),
        (_no(404, "InvalidApi.NotFound"), Refused, "region", 1),
        (_no(404, "InvalidAccessKeyId.NotFound"), AccessDenied, "access_key_id", 1),
        (_no(400, "InvalidAccessKeyId.Inactive"), AccessDenied, "access_key_id", 1),
        (_no(400, "InvalidSecurityToken.Expired"), AccessDenied, "security_token", 1),
        (_no(400, "SignatureDoesNotMatch", "server string to sign is:AK"), AccessDenied, "access_key_secret", 1),
        (_no(400, "InvalidTimeStamp.Expired"), AccessDenied, r"is [01] s (ahead of|behind)", 1),
        (_no(400, "InvalidParameter.Format"), ConfigurationError, "refuses the parameters", 1),
        (_no(400, "MissingProjectId"), ConfigurationError, "refuses the parameters", 1),
        (
            _envelope("1031203110005", "parameters invalid"),
            Refused,
            "1031203110005: parameters invalid; request R-1",
            1,
        ),
        (_no(418, "Brand.New"), Refused, "Brand.New.*not known here", 1),
        ((200, {"RequestId": "R", "Code": "Brand.New", "Message": "m"}), Refused, "Brand.New", 1),
        ((200, []), BrokenAnswer, "no envelope", 1),
        ((200, {"GroupPagingResult": "?"}), BrokenAnswer, "GroupPagingResult is", 1),
        ((200, {"GroupPagingResult": {"Groups": [{}], "TotalCount": 1}}), BrokenAnswer, "no GroupId", 1),
        ((200, {"GroupPagingResult": {"Groups": [{"GroupId": "a"}]}}), BrokenAnswer, "TotalCount is", 1),
        (
            (200, {"GroupPagingResult": {"TotalCount": 4}}),
            CountMismatch,
            "another number of rows than it counts: vendor 4, 0 came",
            3,
        ),
    ],
)
def test_each_refusal_has_its_class(
    truth: Truth, answer: tuple[int, Any], kind: type[NightloadError], told: str, asked: int
) -> None:
    truth.says("ListDataServiceGroups", *answer)
    client = Client(settings_of(truth))
    with pytest.raises(NightloadError) as caught:
        client.walk(has.LIST_GROUPS, ProjectId=MAIN)
    text = str(caught.value)
    assert type(caught.value) is kind and re.search(told, text), text
    assert truth.asked("ListDataServiceGroups") == asked or kind is BrokenAnswer
    assert "CANARY" not in text and "string to sign" not in text


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-acs-retry-after": "700"}, 0.7),
        ({"x-ratelimit-user-api": "Limit:5,Remain:0,TimeLeft:1200"}, 1.2),
        ({"x-ratelimit-user": "TimeLeft:90,Limit:5"}, 0.09),
        ({"x-acs-retry-after": "700", "x-ratelimit-user-api": "TimeLeft:900"}, 0.9),
        ({"x-acs-retry-after": "0"}, None),
        ({"x-acs-retry-after": "soon", "x-ratelimit-user-api": "TimeLeft:"}, None),
    ],
)
def test_the_pause_that_headers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert pause_asked(headers) == seconds


@pytest.mark.parametrize(
    "headers",
    [
        {"x-acs-retry-after": "300"},
        {"x-ratelimit-user-api": "Limit:5,TimeLeft:300"},
        {"Retry-After": "0.3"},
        {"Retry-After": "0.3", "x-acs-retry-after": "0"},
    ],
)
def test_throttling_is_waited_for_as_long_as_it_asks(truth: Truth, headers: dict[str, str]) -> None:
    client = Client(settings_of(truth))
    truth.says("ListDataServiceGroups", *_no(429, "Throttling.User"), times=1, headers=headers)
    started = datetime.now(UTC)
    assert client.walk(has.LIST_GROUPS, ProjectId=MAIN).total == 9
    assert 0.28 < (datetime.now(UTC) - started).total_seconds() < 2
    truth.says("ListDataServiceGroups", *_no(429, "Throttling.User"), times=1, headers={"x-acs-retry-after": "500000"})
    with pytest.raises(Unavailable, match="a pause of 500 s"):
        client.walk(has.LIST_GROUPS, ProjectId=MAIN)


@pytest.mark.parametrize(("clock", "told"), [(1200, "behind"), (-3600, "ahead of")])
def test_a_signature_refused_for_its_time_tells_how_far_the_clocks_are_apart(
    night: Night, truth: Truth, clock: int, told: str
) -> None:
    truth.options(clock=clock)
    ran = night.run("dataworks")
    errors = {str(table["error"]) for table in ran.tables.values()}
    assert ran.code == 1 and len(errors) == 1
    found = re.search(r"this machine's is (\d+) s (.*) the vendor's", errors.pop())
    assert found and abs(int(found[1]) - abs(clock)) <= 2 and found[2] == told
    assert truth.asked() == 2, "the vendor is stopped: one refusal, one look at its clock"


def test_a_success_with_an_error_text_beside_it_is_a_success() -> None:
    inspect = inspect_for(has.LIST_PUBLISHED, {})
    data = {"TotalCount": 0, "Apis": []}
    for code, message in (("0", "正常"), ("Invalid.Tenant.ConnectionNotExists", "The connection does not exist.")):
        assert inspect(200, {"Success": True, "ErrorCode": code, "ErrorMessage": message, "Data": data}) is None
        assert inspect(200, {"Success": None, "ErrorCode": code, "Data": data}) is None
        assert inspect(200, {"Success": "false", "ErrorCode": code, "Data": data}) is not None


def test_a_workspace_that_is_forbidden_fails_its_tables_and_empties_none(night: Night, truth: Truth) -> None:
    assert night.run("dataworks", **only("projects", "groups")).code == 0
    truth.options(forbid=[10003])
    ran = night.run("dataworks", **only("projects", "groups"))
    assert ran.code == 1
    assert "may not call ListDataServiceGroups of ProjectId 10003" in ran.tables["dataworks.groups"]["error"]
    assert ran.tables["dataworks.projects"]["status"] == "unchanged"
    same(night, truth, "projects", "groups")
    night.set("dataworks", workspaces=[MAIN])
    assert night.run("dataworks", **only("groups")).tables["dataworks.groups"]["live"] == 9


@pytest.mark.parametrize(
    ("data", "told"), [([{"ApiId": 1}], "no TestId"), ({"TestId": 1}, "Data is"), (["x"], "Data is")]
)
def test_tests_of_another_shape_are_told(truth: Truth, data: Any, told: str) -> None:
    truth.says("ListDataServiceApiTest", 200, {"RequestId": "R", "Data": data})
    with pytest.raises(BrokenAnswer, match=told):
        Client(settings_of(truth)).tests(has.LIST_TESTS, api=1, size=5)


@one_database
def test_a_key_that_ended_stops_the_vendor_at_its_first_table(night: Night, truth: Truth) -> None:
    truth.fault("ListProjects", {"expire_token": True})
    ran = night.run("dataworks")
    assert ran.code == 1 and truth.asked() == 1
    assert all("does not accept the key" in table["error"] for table in ran.tables.values())


# -- the calls of a day --------------------------------------------------------------------------------


def test_a_days_calls_are_kept_to_over_the_runs_of_the_day_and_the_rest_comes_the_next(
    night: Night, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 50
    night.set("dataworks", exclude=None, calls_per_day=most)
    first = night.run("dataworks", **only("published_apis", "api_tests"))
    assert first.code == 0 and truth.asked() == most
    tests, waiting = first.tables["dataworks.api_tests"], APIS - truth.asked("ListDataServiceApiTest")
    assert tests["status"] == "warning" and f"{waiting} APIs were not asked for tests" in str(tests["notes"])
    same(night, truth, "published_apis")
    second = night.run("dataworks", **only("published_apis", "api_tests"))
    assert second.code == 1 and truth.asked() == most, "not one call more on this day"
    assert all(f"today's {most} calls are used up" in table["error"] for table in second.tables.values())
    monkeypatch.setattr(Calls, "_today", lambda self: "2999-01-01")
    third = night.run("dataworks", **only("published_apis", "api_tests"))
    assert third.code == 0 and truth.asked() == 2 * most
    same(night, truth, "published_apis", "api_tests")


@one_database
def test_short_calls_go_to_lists_before_details(night: Night, truth: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = ("published_apis", "published_api_request_parameters", "draft_apis")
    truth.options(list_details="absent")
    night.set("dataworks", calls_per_day=50)
    first = night.run("dataworks", **only(*tables))
    assert truth.asked() == 50 and first.tables["dataworks.draft_apis"]["live"] == DRAFTS
    notes = str(first.tables["dataworks.published_api_request_parameters"]["notes"])
    unread = re.search(r"the details of (\d+) APIs were not read", notes)
    assert unread and int(unread[1]) == APIS - truth.asked("GetDataServicePublishedApi")
    for day in ("2999-01-01", "2999-01-02"):
        monkeypatch.setattr(Calls, "_today", lambda self, day=day: day)
        ran = night.run("dataworks", **only(*tables))
    assert {table["status"] for table in ran.tables.values()} <= {"ok", "unchanged"}
    same(night, truth, *tables)


def test_retries_count_as_calls(truth: Truth) -> None:
    client = Client(settings_of(truth, calls_per_day=3))
    truth.says("ListProjects", *_no(429, "Throttling.User"))
    with pytest.raises(NotReady, match="today's 3 calls are used up"):
        client.page(has.LIST_PROJECTS, size=1)
    assert truth.asked() == 3


@one_database
def test_the_vendors_own_daily_limit_is_waited_for(night: Night, truth: Truth) -> None:
    truth.options(daily_limit=20)
    ran = night.run("dataworks")
    assert ran.code == 1 and ran.tables["dataworks.groups"]["status"] == "ok"
    assert "Come back tomorrow" in ran.tables["dataworks.published_apis"]["error"]


# -- the command line, settings, secrets ---------------------------------------------------------------


@one_database
def test_check_tells_what_is_in_sight(night: Night, truth: Truth) -> None:
    night.set("dataworks", exclude=None, calls_per_day=50)
    truth.options(forbid=[10003])
    with night.here():
        lines = list(package.connect().check())
    for told in (
        "sees 5 workspaces",
        "the clocks agree",
        "workspace 10002: 61 published APIs, 31 drafts",
        "workspace 10003: the key may not call",
        "a night takes about",
        "more than a day allows",
    ):
        assert told in "\n".join(lines), told
    truth.options(clock=120)
    with night.here():
        assert re.search(r"warning: this machine's clock is 1[12]\d s behind", "\n".join(package.connect().check()))
    night.set("dataworks", access_key_secret="wrong-wrong-wrong")
    wrong = night("check", "dataworks")
    assert wrong.code != 0 and "access_key_secret" in wrong.out + wrong.err and "CANARY" not in wrong.out + wrong.err


@one_database
def test_a_preview_asks_for_little(night: Night, truth: Truth) -> None:
    truth.options(list_details="absent")
    night.set("dataworks", workspaces=[MAIN], exclude=None)
    with night.here():
        made = Extraction(vendor="dataworks", spool_dir=night.home, until=datetime.now(UTC))
        package.connect().resources(made)
        assert made.preview("dataworks.published_api_request_parameters", limit=3).rows == 3
        assert made.preview("dataworks.api_tests", limit=3).rows >= 3
    assert truth.asked("GetDataServicePublishedApi") == 3 and truth.asked("ListDataServiceApiTest") < 9


@one_database
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"access_key_secret": None}, "access_key_secret is not set"),
        ({"base_url": None}, "neither region nor base_url is set"),
        ({"base_url": None, "region": "cn shanghai"}, "region is 'cn shanghai'"),
        ({"workspaces": [0]}, "workspaces names 0"),
        ({"signature": "v2"}, "signature is 'v2'"),
        ({"details": "sometimes"}, "details is 'sometimes'"),
        ({"page_size": 101}, "page_size is 101"),
        ({"requests_per_second": 0}, "requests_per_second is 0"),
        ({"calls_per_day": -1}, "calls_per_day"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"exclude": ["api_test"]}, "Did you mean api_tests"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_at_once(night: Night, setting: dict[str, Any], told: str) -> None:
    night.set("dataworks", **setting)
    with night.here(), pytest.raises(ConfigurationError, match=told):
        package.connect()


def test_the_endpoint_is_made_from_the_region(truth: Truth) -> None:
    client = Client(settings_of(truth, base_url="", region="ap-southeast-1"))
    assert str(client.http._base) == "https://dataworks.ap-southeast-1.aliyuncs.com/"


def test_v1_reads_the_same(truth: Truth) -> None:
    one, three = (Client(settings_of(truth, signature=form)) for form in ("v1", "v3"))
    for action in (has.LIST_PUBLISHED, has.LIST_AUTHORITIES, has.LIST_FOLDERS):
        assert one.walk(action, ProjectId=MAIN) == three.walk(action, ProjectId=MAIN)
    assert one.tests(has.LIST_TESTS, api=100009, size=5) == three.tests(has.LIST_TESTS, api=100009, size=5) != []
    assert truth.out_of_place() == []


@pytest.mark.parametrize("form", ["v3", "v1"])
def test_no_key_is_in_any_log(night: Night, truth: Truth, caplog: pytest.LogCaptureFixture, form: str) -> None:
    night.set("dataworks", signature=form)
    ready = truth.process.ready["dataworks"]
    leaking = f"no such {ready['access_key_id']} {ready['access_key_secret']}"
    truth.says("ListDataServiceGroups", *_no(400, "Brand.New", leaking))
    truth.says("ListDataServiceFolders", 502, f"<html>{ready['access_key_secret']}</html>", times=1)
    with night.here():
        package.connect().close()  # the first one silences httpx: here it is to speak up
    for name in ("", "httpx", "httpcore", "dlt", "sources"):
        caplog.set_level(logging.DEBUG, logger=name)
    ran = night.run("dataworks", tables=["dataworks.groups", "dataworks.folders"])
    assert "HTTP Request" in caplog.text, "the URLs were logged"
    told = caplog.text + ran.out
    assert "CANARY" not in told and "Brand.New" in told
    assert not re.search(r"Signature=(?!\*\*\*)", told)
    _no_canary(night)
