"""Whatever is wrong outside: one clear line, the right exit code, and the warehouse as it was."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from conftest import Night, one_database, settle
from redash import LABELS
from reference import truth
from sandbox_process import SandboxProcess
from sources.core.errors import no_room

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>CANARY sign in</body></html>"
METADATA = [name for name in LABELS if name != "query_results"]


class BadVendor(BaseHTTPRequestHandler):
    """Each path prefix is another kind of broken server."""

    def do_GET(self) -> None:
        match self.path.split("/")[1]:
            case "html":
                self._send(200, "text/html", HTML)
            case "cut":
                self._send(200, "application/json", b'{"count": 1, "results": [{"id": 1, ', length=5000)
            case "error":
                self._send(500, "application/json", b'{"message": "Internal Server Error"}')
            case "later":
                self._send(429, "application/json", b'{"message": "slow down"}', retry_after="3600")
            case "elsewhere":
                self._send(302, "text/plain", b"", location="http://other.invalid/login")
            case "list":
                self._send(200, "application/json", b"[]")

    def _send(self, status: int, kind: str, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Case:
    """What the user did, and what must come of it."""

    code: int
    words: tuple[str, ...]
    args: tuple[str, ...] = ("run", "tonalytica")
    settings: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


CONFIGURATION = {
    "no key at all": Case(
        2,
        ("no vendor has a key", ".dlt/secrets.toml", "tonalytica", "tune"),
        ("run",),
        {"api_key": None, "tune": None},
    ),
    "no key for the vendor named": Case(
        2, ("TONalytica has no key", "SOURCES__TONALYTICA__API_KEY"), settings={"api_key": None}
    ),
    "an empty key": Case(2, ("TONalytica has no key",), settings={"api_key": ""}),
    "a key with a line break in it": Case(
        2, ("header Authorization cannot be sent",), settings={"api_key": "CANARYbroken\nkey"}
    ),
    "a key with letters that no header carries": Case(2, ("cannot be sent",), settings={"api_key": "CANARYключ"}),
    "a wrong key": Case(
        1, ("the key is not accepted", "sources.tonalytica.api_key"), settings={"api_key": "CANARYwrong"}
    ),
    "a wrong query key": Case(
        1, ("the key is not accepted", "query_keys"), settings={"api_key": None, "query_keys": {"4": "CANARYwrong"}}
    ),
    "a base URL without a scheme": Case(
        2, ("sources.tonalytica.base_url", "https://tonalytica.example/"), settings={"base_url": "tonalytica.example"}
    ),
    "a base URL that ends in /api": Case(2, ("it ends in /api",), settings={"base_url": "http://127.0.0.1:9/api/"}),
    "a base URL with a password": Case(2, ("user name or password",), settings={"base_url": "http://u:CANARYpw@h/"}),
    "an empty base URL": Case(2, ("base_url",), settings={"base_url": ""}),
    "a host that is not there": Case(
        1, ("cannot reach", "its name is not known", "base_url"), settings={"base_url": "http://nobody.invalid/"}
    ),
    "a port where nobody listens": Case(
        1, ("connection refused", "base_url"), settings={"base_url": f"http://127.0.0.1:{closed_port()}/"}
    ),
    "HTML": Case(1, ("a web page came", "base_url"), settings={"bad": "html"}),
    "a body that is cut": Case(1, ("the answer was cut",), settings={"bad": "cut"}),
    "a vendor that is down": Case(1, ("the vendor answered 500", "Internal Server Error"), settings={"bad": "error"}),
    "a vendor that asks for an hour": Case(1, ("3600 s", "Come back later"), settings={"bad": "later"}),
    "a redirect to elsewhere": Case(
        1, ("redirect to http://other.invalid", "not followed"), settings={"bad": "elsewhere"}
    ),
    "JSON of another shape": Case(
        1, ("api/queries has not the shape of a Redash's", "base_url"), settings={"bad": "list"}
    ),
    "an unknown vendor": Case(2, ("there is no vendor tonalytika", "tonalytica"), ("run", "tonalytika")),
    "an unknown dataset": Case(
        2, ("there is no table tonalitica.queries", "tonalytica"), ("run", "--table", "tonalitica.queries")
    ),
    "an unknown table": Case(2, ("Did you mean tonalytica.queries",), ("run", "--table", "tonalytica.querys")),
    "a table without dataset": Case(2, ("DATASET.TABLE",), ("run", "--table", "queries")),
    "an unknown table to allow empty": Case(2, ("there is no table",), ("run", "--allow-empty", "nothing.here")),
    "a result that no query has": Case(
        1, ("tonalytica_results.query_99999",), ("run", "--table", "tonalytica_results.query_99999")
    ),
    "an unknown option": Case(2, ("--tabel",), ("run", "--tabel", "x")),
    "an unknown setting": Case(
        2,
        ("sources.tonalytica.api_keyy", "Did you mean api_key"),
        files={".dlt/config.toml": b'[sources.tonalytica]\napi_keyy = "x"\n'},
    ),
    "a number that is none": Case(
        2,
        ("sources.tonalytica", "requests_per_second"),
        files={".dlt/config.toml": b'[sources.tonalytica]\nrequests_per_second = "fast"\n'},
        settings={"requests_per_second": None},
    ),
    "no request per second": Case(2, ("requests_per_second",), settings={"requests_per_second": 0}),
    "a zone that is none": Case(2, ("zone", "Mars/Base"), settings={"zone": "Mars/Base", "executions": [{"query": 4}]}),
    "an unknown choice of results": Case(
        2, ("has no inclde", "Did you mean include"), settings={"results": {"inclde": {}}}
    ),
    "a choice of results by text": Case(2, ("no list of ids",), settings={"results": {"include": {"ids": "4"}}}),
    "an execution without a query": Case(
        2, ("needs the id of its query",), settings={"executions": [{"parameters": {}}]}
    ),
    "an excluded table that is none": Case(2, ("exclude names querries",), settings={"exclude": ["querries"]}),
    "a query key that has no id": Case(
        2, ("query_keys",), settings={"api_key": None, "query_keys": {"daily": "CANARYkey"}}
    ),
    "a broken config.toml": Case(
        2,
        ("config.toml is not valid TOML", "line 2"),
        files={".dlt/config.toml": b"[sources.tonalytica]\napi_key = CANARYbroken\n"},
    ),
    "a broken secrets.toml": Case(
        2, ("secrets.toml is not valid TOML", "line 1"), files={".dlt/secrets.toml": b'api_key "CANARYbroken"\n'}
    ),
    "a secrets.toml of bytes": Case(
        2, ("secrets.toml cannot be read",), files={".dlt/secrets.toml": b"\xff\xfe\x00CANARYbroken"}
    ),
    "a home that is not there": Case(2, ("is not a folder",), env={"NIGHTLOAD_HOME": "/nowhere/at/all"}),
    "another kind of database": Case(
        2, ("the warehouse URL cannot be used", "duckdb:///"), env={"NIGHTLOAD_WAREHOUSE": "mysql://u:CANARYpw@h/db"}
    ),
    "a warehouse without an ending": Case(
        2, ("warehouse.duckdb",), env={"NIGHTLOAD_WAREHOUSE": "duckdb:///data/warehouse"}
    ),
    "a warehouse called as a dataset": Case(
        2, ("cannot be called tonalytica.duckdb",), env={"NIGHTLOAD_WAREHOUSE": "duckdb:///data/tonalytica.duckdb"}
    ),
    "a warehouse that is a text file": Case(
        1,
        ("the warehouse cannot be opened", "data/notes.duckdb"),
        env={"NIGHTLOAD_WAREHOUSE": "duckdb:///data/notes.duckdb"},
        files={"data/notes.duckdb": b"just some notes\n" * 900},
    ),
    "a warehouse that is a folder": Case(
        1,
        ("data/folder.duckdb",),
        env={"NIGHTLOAD_WAREHOUSE": "duckdb:///data/folder.duckdb"},
        files={"data/folder.duckdb/x": b""},
    ),
}


AS_PROCESS = (
    "no key at all",
    "a wrong key",
    "a port where nobody listens",
    "an unknown vendor",
    "a home that is not there",
)
"""The others are played inside this process, through the same entry point."""


@pytest.fixture(scope="module")
def good(sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A home with one good night, of little."""
    for vendor in sandbox_process.ready:
        sandbox_process.control(vendor, "POST", "reset")
    night = settle(Night(home=tmp_path_factory.mktemp("bad") / "good"), sandbox_process)
    night.home.mkdir()
    first = next(row["id"] for row in truth(sandbox_process, "queries") if row["name"] == "Sales Report")
    night.set(results={"include": {"ids": [first]}}, exclude=METADATA)
    assert night.run("tonalytica").code == 0
    return night


def copy(night: Night, name: str) -> Night:
    home = night.home.with_name("".join(char if char.isalnum() else "-" for char in name))
    shutil.copytree(night.home, home)
    return Night(home=home, settings=dict(night.settings))


@pytest.fixture(scope="module")
def bad_vendor() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BadVendor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("name", CONFIGURATION)
def test_is_told_in_one_line_and_changes_nothing(
    name: str, good: Night, bad_vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    night, case = copy(good, name), CONFIGURATION[name]
    settings = dict(case.settings)
    if bad := settings.pop("bad", None):
        settings["base_url"] = f"{bad_vendor}/{bad}"
    if "tune" in settings:
        night.set("tune", api_key=settings.pop("tune"))
    night.set(**settings)
    for file, content in case.files.items():
        night.home.joinpath(file).parent.mkdir(exist_ok=True, parents=True)
        night.home.joinpath(file).write_bytes(content)
    before = night.contents()
    as_process = bool(case.files) or name in AS_PROCESS
    ran = night(*case.args, env=case.env) if as_process else night.main(*case.args, env=case.env)
    as_json = ran if case.files else night.main(*case.args, "--json", env=case.env)

    assert ran.code == case.code, ran.err
    if name == "an unknown option":  # click draws a box around those
        line = ran.err
    else:
        # what is tried again is told, too; what concerns one table alone stands below the counts
        told = [line for line in ran.err.splitlines() if "; again in " not in line]
        (line,) = told or [line for line in ran.out.splitlines() if "✗" in line]
        assert case.files or json.loads(as_json.out)["status"] == "failed"
    for word in case.words:
        assert word in line, line
    told = ran.out + ran.err + as_json.out + as_json.err
    assert "Traceback" not in told
    assert "CANARY" not in told
    assert as_json.code == case.code
    assert night.contents() == before
    assert {file: night.home.joinpath(file).read_bytes() for file in case.files} == case.files
    assert night.files() - set(case.files) == set()


def test_a_trailing_slash_or_none_is_all_the_same(good: Night) -> None:
    for base_url in (good.settings["SOURCES__TONALYTICA__BASE_URL"].rstrip("/") + end for end in ("", "/", "//")):
        night = copy(good, f"slash{len(base_url)}")
        night.set(base_url=base_url)
        assert night.run("tonalytica").code == 0


def test_a_wrong_path_below_the_right_host_is_told(good: Night) -> None:
    night = copy(good, "wrong path")
    night.set(base_url=good.settings["SOURCES__TONALYTICA__BASE_URL"].rstrip("/") + "/nope")
    ran = night("run", "tonalytica")
    told = ran.out + ran.err
    assert (ran.code, "base_url" in told, "Traceback" in told) == (1, True, False), told


# -- the vendor ---------------------------------------------------------------------------------


@one_database
def test_a_vendor_that_does_not_answer_is_given_up(
    night: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sources.http import client as http

    defaults = http.Http.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "timeout", 0.2)
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    sandbox.control("tonalytica", "POST", "options", {"latency": 0.5})
    ran = night.run("tonalytica")
    assert ran.code == 1
    assert any("no answer came" in (table["error"] or "") for table in ran.tables.values())


@one_database
def test_a_slow_vendor_is_waited_for(night: Night, sandbox: SandboxProcess) -> None:
    night.set(exclude=[name for name in LABELS if name not in ("query_snippets", "query_results")] + ["results"])
    sandbox.control("tonalytica", "POST", "options", {"latency": 0.3})
    assert night.run("tonalytica").code == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            {"status": 403, "body": {"message": "You don't have the permission to access"}},
            ("403", "permission", "exclude"),
        ),
        ({"html": True}, ("a web page came",)),
        ({"cut": 100}, ("the answer was cut",)),
        ({"truncated_gzip": True}, ("gzip stream is broken",)),
        ({"drop": True}, ("no answer came",)),
        ({"status": 200, "body": {"not": "a list"}}, ("api/alerts has not the shape of a Redash's",)),
    ],
    ids=["no permission", "html", "cut", "cut gzip", "drop", "other shape"],
)
def test_one_broken_table_fails_alone(
    fault: dict[str, Any],
    words: tuple[str, ...],
    night: Night,
    sandbox: SandboxProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    night.set(exclude=[*(name for name in METADATA if name not in ("alerts", "query_snippets")), "results"])
    assert night.run("tonalytica").code == 0
    before = night.rows("SELECT * FROM tonalytica.alerts ORDER BY id")
    sandbox.control("tonalytica", "POST", "edit", {"table": "alerts", "op": "update", "key": 1, "row": {"name": "x"}})
    sandbox.control(
        "tonalytica", "POST", "edit", {"table": "query_snippets", "op": "update", "key": 1, "row": {"snippet": "x"}}
    )
    sandbox.control("tonalytica", "POST", "faults", [{"match": {"path": "alerts"}, "times": -1, "do": fault}])
    ran = night.run("tonalytica")
    assert (ran.code, ran.json["status"]) == (1, "failed")
    failed = ran.tables["tonalytica.alerts"]
    assert failed["status"] == "failed"
    for word in words:
        assert word in failed["error"], failed["error"]
    assert night.rows("SELECT * FROM tonalytica.alerts ORDER BY id") == before
    assert night.rows("SELECT snippet FROM tonalytica.query_snippets WHERE id = 1") == [("x",)]
    sandbox.control("tonalytica", "DELETE", "faults")
    assert night.run("tonalytica").code == 0
    assert night.rows("SELECT name FROM tonalytica.alerts WHERE id = 1") == [("x",)]


def test_an_empty_list_of_the_vendor_changes_nothing(night: Night, sandbox: SandboxProcess) -> None:
    night.set(exclude=[*(name for name in METADATA if name != "alerts"), "results"])
    assert night.run("tonalytica").code == 0
    sandbox.control("tonalytica", "POST", "faults", [{"match": {"path": "alerts"}, "times": 1, "do": {"empty": True}}])
    ran = night.run("tonalytica")
    assert (ran.code, "--allow-empty tonalytica.alerts" in ran.tables["tonalytica.alerts"]["error"]) == (1, True)
    assert night.rows("SELECT count(*), count(_deleted_at) FROM tonalytica.alerts") == [(8, 0)]


@pytest.mark.parametrize(
    ("edits", "gone"),
    [
        ([{"op": "update", "key": 3, "row": {"name": "AAA first"}}], 0),
        ([{"op": "insert", "row": {"id": 900, "name": "AAA new"}}], 0),
        ([{"op": "delete", "key": 3}], 1),
        ([{"op": "delete", "key": 3}, {"op": "insert", "row": {"id": 900, "name": "AAA new"}}], 1),
    ],
    ids=["edited", "added", "deleted", "deleted and added"],
)
def test_rows_that_move_between_two_pages_are_all_there(
    edits: list[dict[str, Any]],
    gone: int,
    night: Night,
    sandbox: SandboxProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sources.tonalytica import client

    monkeypatch.setattr(client, "PAGE_SIZE", 20)
    night.set(exclude=[*(name for name in METADATA if name != "queries"), "results"])
    after_page_1 = {
        "match": {"path": r"queries\?.*page=2&"},
        "do": {"edit": [{"table": "queries", **each} for each in edits]},
    }
    sandbox.control("tonalytica", "POST", "faults", [after_page_1])
    ran = night.run("tonalytica")
    assert (ran.code, sandbox.control("tonalytica", "GET", "stats")["unexpected"]) == (0, [])
    visible = {row["id"] for row in truth(sandbox, "queries") if row["_where"] in ("list", "archive")}
    live = {row[0] for row in night.rows("SELECT id FROM tonalytica.queries WHERE _deleted_at IS NULL")}
    assert visible - live == set()
    assert live - visible <= ({3} if gone else set())
    assert night.run("tonalytica").code == 0
    assert {row[0] for row in night.rows("SELECT id FROM tonalytica.queries WHERE _deleted_at IS NULL")} == visible


# -- the machine --------------------------------------------------------------------------------


def as_everybody() -> None:
    """Permissions mean nothing to root: without these powers they do."""
    if os.geteuid() == 0:
        for power in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
            ctypes.CDLL(None).prctl(24, power, 0, 0, 0)  # PR_CAPBSET_DROP: what the next exec gets


@pytest.mark.parametrize("with_warehouse", [True, False])
def test_a_home_that_cannot_be_written(with_warehouse: bool, good: Night) -> None:
    night = copy(good, f"read only {with_warehouse}")
    if not with_warehouse:
        shutil.rmtree(night.home / "data")
    before = {path: path.read_bytes() for path in night.home.rglob("*") if path.is_file()}
    for folder in night.home.rglob("*"):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    night.home.chmod(0o555)
    ran = night("run", "tonalytica", preexec_fn=as_everybody)
    assert (ran.code, ran.err.count("\n"), "Traceback" in ran.err) == (2, 1, False), ran.err
    assert "cannot be written" in ran.err
    assert {path: path.read_bytes() for path in night.home.rglob("*") if path.is_file()} == before
    for folder in (night.home, *night.home.rglob("*")):
        folder.chmod(0o755)  # so that pytest can clear it away


@pytest.mark.parametrize("kilobytes", [0, 16, 256, 1024])
def test_a_disk_that_is_full(kilobytes: int, good: Night) -> None:
    """Files cannot grow beyond a limit, which is what a full disk looks like to each of them."""
    night = copy(good, f"full {kilobytes}")
    night.set(exclude=["dashboards", "widgets"])
    before = night.warehouse.read_bytes()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    ran = night("run", "tonalytica", "--json", preexec_fn=limit)
    assert ran.code == 1, ran.err
    told = "the ledger cannot be written" if ran.json["run_id"] is None else "there is no room on the disk"
    assert told in ran.err
    assert "Traceback" not in ran.err + ran.out
    assert night.warehouse.read_bytes() == before
    assert night.files() == set()
    assert night.run("tonalytica").code == 0


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@pytest.mark.parametrize("kilobytes", [0, 36])
def test_a_disk_that_is_full_beside_a_database(kilobytes: int, night: Night) -> None:
    """The rows stand elsewhere: a table whose rows find no room here keeps those that it has."""
    night.set("tune", api_key=None)
    night.set(exclude=[*(name for name in METADATA if name not in ("queries", "query_snippets")), "results"])
    assert night.run("tonalytica").code == 0
    before = night.contents()["tonalytica.queries"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))

    ran = night("run", "tonalytica", "--json", "--full", preexec_fn=limit)
    assert ran.code == 1, ran.err
    assert "Traceback" not in ran.err + ran.out
    assert night.contents()["tonalytica.queries"] == before
    assert night.files() == set()
    assert night.run("tonalytica").code == 0


def test_a_warehouse_that_somebody_writes_to(good: Night) -> None:
    night = copy(good, "writer")
    before = night.warehouse.read_bytes()
    script = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(night.warehouse)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "open\n"
        ran = night("run", "tonalytica")
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
        assert f"process {writer.pid}" in ran.err
        assert "open for writing" in ran.err
        writer.communicate("")
    assert night.warehouse.read_bytes() == before
    assert night("run", "tonalytica").code == 0


def test_a_damaged_warehouse_is_not_overwritten(good: Night) -> None:
    night = copy(good, "damaged")
    damaged = night.warehouse.read_bytes()[:20_000] + b"\0" * 300_000
    night.warehouse.write_bytes(damaged)
    ran = night("run", "tonalytica")
    assert (ran.code, ran.err.count("\n"), "Traceback" in ran.err) == (1, 1, False), ran.err
    assert night.warehouse.read_bytes() == damaged


def test_the_second_run_exits_3_and_the_first_goes_on(good: Night, sandbox_process: SandboxProcess) -> None:
    night, sandbox = copy(good, "locked"), sandbox_process
    sandbox.control("tonalytica", "POST", "faults", [{"match": {"path": "archive"}, "do": {"delay": 4}}])
    asked = sandbox.control("tonalytica", "GET", "stats")["by_path"].get("GET /api/queries/archive", 0)
    first = night.start("run", "tonalytica")
    while sandbox.control("tonalytica", "GET", "stats")["by_path"].get("GET /api/queries/archive", 0) == asked:
        assert first.poll() is None
    second = night("run", "tonalytica")
    assert (second.code, second.out, second.err.count("\n")) == (3, "", 1), second.err
    assert "another run has this warehouse" in second.err
    assert first.poll() is None
    out, err = first.communicate(timeout=60)
    sandbox.control("tonalytica", "DELETE", "faults")
    assert first.returncode == 0, out + err


def test_a_key_that_may_read_nothing_that_is_asked_for_makes_no_green_night(
    night: Night, sandbox: SandboxProcess
) -> None:
    sandbox.control("tune", "POST", "options", {"forbid": ["agency", "languages"]})
    ran = night.run("tune", tables=["tune.agency", "tune.languages"])
    assert (ran.code, ran.json["status"]) == (1, "failed")
    errors = [table["error"] for table in ran.tables.values() if table["error"]]
    assert len(errors) == 1 and "the key may read nothing that is asked for" in errors[0]
    ran = night.run("tune", tables=["tune.agency", "tune.languages", "tune.regions"])
    assert ran.code == 0, "one that is out of sight among others is usual"
    assert ran.tables["tune.agency"]["status"] == "unchanged"


def test_the_search_for_a_full_disk_ends_in_a_chain_of_errors_that_is_a_circle() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert no_room(first) is None
    second.__context__, second.__cause__ = OSError(errno.ENOSPC, "No space left on device"), None
    assert no_room(first) is not None
