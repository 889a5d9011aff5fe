"""A key is nowhere but where its owner wrote it: not in an output, a log, the ledger, the warehouse, or any file."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
    from sources import http

    monkeypatch.setattr(http, "_BACKOFF_BASE", 0.01)
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
    from sources import http

    monkeypatch.setattr(http, "_BACKOFF_BASE", 0.01)
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
