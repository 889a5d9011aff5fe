"""A key is nowhere but where its owner wrote it: not in an output, a log, the ledger, the warehouse, or any file."""

from __future__ import annotations

import base64
import html
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pytest

from conftest import Night, Ran, one_database
from redash import LABELS
from sandbox_process import SandboxProcess

METADATA = [name for name in LABELS if name != "query_results"]
ODD = "CANARY+odd/key==&%"


class Echo(BaseHTTPRequestHandler):
    """A vendor that repeats the key it was given, in every way a debugging proxy would."""

    def do_GET(self) -> None:
        key = self.headers["Authorization"]
        plain = key.removeprefix("Key ")
        told = {
            "refuse": (403, f'{{"message": "no permission for {key}"}}'),
            "fail": (500, f'{{"message": "{quote(plain)} and {base64.b64encode(plain.encode()).decode()}"}}'),
            "html": (200, f"<!DOCTYPE html><title>{key}</title>"),
            "text": (400, f"Authorization: {key}"),
            "login": (404, f'{{"message": "Please login, {plain} is unknown"}}'),
        }
        status, body = told[self.path.split("/")[1]]
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if body.startswith("<") else "application/json")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def spellings(key: str) -> set[bytes]:
    raw = key.encode()
    return {
        raw,
        quote(key, safe="").encode(),
        base64.b64encode(raw).rstrip(b"="),
        base64.urlsafe_b64encode(raw).rstrip(b"="),
        base64.b64encode(b"user:" + raw).rstrip(b"=")[8:-1],
        json.dumps(key)[1:-1].encode(),
        html.escape(key).encode(),
        quote(key, safe="").lower().encode(),
    }


def assert_nothing_told(night: Night, ran: Ran, *keys: str) -> None:
    needles = {b"CANARY", *(spelling for key in keys for spelling in spellings(key))}
    places = {"stdout": ran.out.encode(), "stderr": ran.err.encode()}
    places |= {str(file): file.read_bytes() for file in night.home.rglob("*") if file.is_file()}
    own = str(night.home / ".dlt" / "secrets.toml")
    found = [place for place, text in places.items() if place != own for needle in needles if needle in text]
    assert found == []
    if not night.warehouse.exists():
        return
    with duckdb.connect(str(night.warehouse), read_only=True) as connection:
        tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables()").fetchall()
        for schema, table in tables:
            for needle in needles:
                rows = connection.execute(
                    f'SELECT 1 FROM "{schema}"."{table}" AS t WHERE contains(t::VARCHAR, ?)', [needle.decode()]
                ).fetchall()
                assert rows == [], f"{schema}.{table}"


def keep(night: Night, **lines: str) -> None:
    """Write the keys where a user does."""
    for vendor in lines:
        night.set(vendor, api_key=None)
    text = "".join(f"[sources.{vendor}]\napi_key = '{key}'\n" for vendor, key in lines.items())
    (night.home / ".dlt").mkdir()
    (night.home / ".dlt" / "secrets.toml").write_text(text)


@pytest.mark.parametrize("arguments", [("-v",), ("--json",)])
def test_a_good_night_tells_no_key(arguments: tuple[str, ...], night: Night, sandbox: SandboxProcess) -> None:
    keep(night, tonalytica=sandbox.tonalytica["api_key"], tune=sandbox.tune["api_key"])
    night.set(probe_hidden="true", results={"exclude": {"data_sources": [1]}})
    ran = night("run", *arguments, env={"RUNTIME__LOG_LEVEL": "DEBUG"})
    assert ran.code == 0, ran.err
    assert_nothing_told(night, ran)


@one_database
def test_checking_the_keys_tells_none(night: Night, sandbox: SandboxProcess) -> None:
    keep(night, tonalytica=sandbox.tonalytica["api_key"], tune=sandbox.tune["api_key"])
    ran = night("check", "-v")
    assert ran.code == 0, ran.err
    assert_nothing_told(night, ran)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 401, "body": {"message": "no"}},
        {"status": 404, "body": {"message": "Couldn't find resource. Please login and try again."}},
        {"html": True},
        {"cut": 10},
        {"drop": True},
        {"status": 500, "body": "oops"},
    ],
    ids=["401", "404", "html", "cut", "drop", "500"],
)
def test_a_night_that_fails_tells_no_key(
    fault: dict[str, Any], night: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    for vendor in sandbox.ready:
        sandbox.control(vendor, "POST", "faults", [{"match": {"path": ""}, "times": -1, "do": fault}])
    ran = night.main("run", "-v", env={"RUNTIME__LOG_LEVEL": "DEBUG"})
    assert ran.code == 1
    assert_nothing_told(night, ran)


@one_database
@pytest.mark.parametrize("manner", ["refuse", "fail", "html", "text", "login"])
def test_a_vendor_that_repeats_the_key_is_not_repeated(
    manner: str, night: Night, echo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    night.set("tune", api_key=None)
    night.set(base_url=f"{echo}/{manner}", api_key=ODD, exclude=METADATA)
    ran = night.main("run", "-v")
    assert ran.code == 1
    assert_nothing_told(night, ran, ODD)


@one_database
def test_a_key_written_into_the_wrong_setting_is_not_told(night: Night, sandbox: SandboxProcess) -> None:
    night.set("tune", api_key=None)
    for setting, value in {
        "base_url": f"http://127.0.0.1:9/?api_key={ODD}",
        "requests_per_second": "CANARYkey-in-a-number",
    }.items():
        night.set(**{setting: value})
        ran = night.main("run", "-v")
        assert ran.code == 2, ran.err
        assert_nothing_told(night, ran, ODD)


def test_query_keys_are_not_told(night: Night, sandbox: SandboxProcess) -> None:
    keys = sandbox.tonalytica["query_keys"]
    some = {number: keys[number] for number in list(keys)[:3]}
    night.set(api_key=None, query_keys=some)
    night.set("tune", api_key=None)
    ran = night.main("run", "-v")
    assert_nothing_told(night, ran, *some.values())
    night.set(query_keys=some | {"4": "CANARYwrong"})
    ran = night.main("run", "-v")
    assert ran.code == 1
    assert_nothing_told(night, ran, *some.values())


WORDS = """
[schedules.nightly]
cron = "30 2 * * *"
[alerts]
command = ["/bin/sh", "-c", "cat >> 'HOME/told.json'"]
[metrics]
file = "nightload.prom"
[lineage]
file = "lineage.ndjson"
"""


@one_database
def test_no_command_and_no_file_tells_a_key(night: Night, sandbox: SandboxProcess) -> None:
    """Each command that there is, after a night in which one vendor's key was refused with a text that repeats it."""
    keys = {"tonalytica": sandbox.tonalytica["api_key"], "tune": f"{sandbox.tune['api_key']}+/=&%"}
    for vendor, key in keys.items():
        night.set(vendor, api_key=key)
    (night.home / ".dlt").mkdir()
    (night.home / ".dlt" / "secrets.toml").write_text('[alerts]\nwebhook = "http://127.0.0.1:9/CANARYhook"\n')
    (night.home / ".dlt" / "config.toml").write_text(WORDS.replace("HOME", str(night.home)))
    repeats = {"status": 401, "body": {"errors": f"the key {keys['tune']} ({quote(keys['tune'], safe='')}) may not"}}
    sandbox.control("tune", "POST", "faults", [{"match": {"path": ""}, "times": -1, "do": repeats}])
    night.set(exclude=[*(name for name in METADATA if name not in ("queries", "users")), "results"])
    last = night.main("run", "-v", env={"RUNTIME__LOG_LEVEL": "DEBUG"})
    assert last.code == 1, last.out
    assert "may not" in last.out, "the vendor's text is told, without the key"
    run_id = night.main("runs", "--json").json["runs"][0]["run_id"]
    for command in (
        ("run", "--json"),
        ("check", "-v"),
        ("status",),
        ("status", "--json"),
        ("runs",),
        ("run-info", run_id),
        ("run-info", run_id, "--json"),
        ("report", "--out", str(night.home / "report.html")),
        ("alert", "--dry-run"),
        ("alert",),
        ("tables", "--json"),
        ("docs", "--dir", str(night.home / "docs")),
        ("dbt", "sources", "--dir", str(night.home / "dbt")),
        ("export-queries", str(night.home / "sql")),
        ("schedule", "--list"),
        ("schedule", "--install", "systemd", "--dry-run"),
        ("schedule", "--install", "cron", "--dry-run"),
        ("preview", "tune.countries"),
        ("forget", "CANARYnobody@example.invalid", "--dry-run"),
    ):
        ran = night.main(*command)
        assert ran.out or ran.err, command
        assert_nothing_told(night, ran, *keys.values())
    assert {"nightload.prom", "lineage.ndjson", "report.html", "told.json"} <= {
        path.name for path in night.home.rglob("*")
    }


@one_database
def test_no_process_of_a_night_has_a_key_in_its_arguments(night: Night, sandbox: SandboxProcess) -> None:
    """Everybody on the machine can list them."""
    keep(night, tonalytica=sandbox.tonalytica["api_key"], tune=sandbox.tune["api_key"])
    seen: set[bytes] = set()
    with night.start("run", "--table", "tune.countries") as process:
        while process.poll() is None:
            for pid in Path("/proc").glob("[0-9]*"):
                try:
                    if f"\nPPid:\t{process.pid}\n" in (pid / "status").read_text() or pid.name == str(process.pid):
                        seen.add((pid / "cmdline").read_bytes())
                except OSError:
                    pass  # it has ended
            time.sleep(0.02)
        process.communicate()
    assert process.returncode == 0
    assert any(b"countries" in line for line in seen)
    assert not any(b"CANARY" in line for line in seen)


@pytest.mark.parametrize("url", ["postgresql://u:CANARY%2Bpw@h/db", "postgresql://u@h/db?password=CANARY%2Bpw"])
def test_the_databases_password_is_known_wherever_it_stands(url: str, tmp_path: Path) -> None:
    from pipelines.config import project as place
    from sources.core import redaction

    redaction.clear()
    place.at(url, tmp_path)
    assert "CANARY" not in redaction.redact("fe_sendauth: CANARY+pw, CANARY%2Bpw and CANARY%2bpw")


def test_the_databases_password_of_the_environment_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.config import project as place
    from sources.core import redaction

    redaction.clear()
    monkeypatch.setenv("PGPASSWORD", "CANARY+pw")
    place.at("postgresql://u@h/db", tmp_path)
    assert "CANARY" not in redaction.redact("fe_sendauth: CANARY+pw")
