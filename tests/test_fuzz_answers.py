"""A vendor's answers with one thing wrong in them: what comes is right, or an error; never less in silence.

A relay stands between us and the sandbox, and damages what one request is answered with, each time.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import dlt
import duckdb
import pendulum
import pytest

from conftest import Night
from fuzzing import DEEP
from sandbox_process import SandboxProcess, start_sandbox
from sources import VENDORS
from sources.core.errors import NightloadError
from sources.extract.connector import package
from sources.extract.extractor import Extraction
from sources.extract.sync import Outcome
from sources.http import retry

SEEDS = range(int(os.environ.get("NIGHTLOAD_TEST_SEEDS", "300" if DEEP else "8")))
UNTIL = pendulum.datetime(2026, 11, 22, 2)
Damage = Callable[[bytes], bytes]


@dataclass
class Relay:
    """A server in front of another; `damage` is done to the body of each answer to the request numbered `at`."""

    target: str
    at: int | None = None
    damage: Damage | None = None
    seen: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def begin(self, at: int | None, damage: Damage | None) -> None:
        self.at, self.damage = at, damage
        self.seen.clear()

    def changed(self, request: str, body: bytes) -> bytes:
        number = self.seen.setdefault(request, len(self.seen))
        return self.damage(body) if self.damage and number == self.at else body

    @contextmanager
    def serve(self) -> Iterator[Relay]:
        relay, parts = self, urlsplit(self.target)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length)
                upstream = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "accept-encoding"}
                upstream.request(self.command, self.path, sent, headers)
                answer = upstream.getresponse()
                asked = " ".join(
                    (self.command, self.path, sent.decode("latin-1"), self.headers.get("x-acs-action", ""))
                )
                body = relay.changed(asked, answer.read())
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                upstream.close()

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}{parts.path}"
        yield self
        server.shutdown()
        server.server_close()


Rows = list[tuple[str, ...]]


@dataclass
class Driven:
    """A vendor behind a relay."""

    vendor: str
    relay: Relay
    night: Night

    def table(self, name: str) -> Rows:
        """The rows of one table as texts. Raises what a run would tell of."""
        with tempfile.TemporaryDirectory() as folder, self.night.here():
            connected = package(self.vendor).connect()
            extraction = Extraction(vendor=self.vendor, spool_dir=Path(folder), until=UNTIL, tables=frozenset({name}))
            with connected.http:
                for part in connected.parts(extraction):
                    if part.dataset == name.partition(".")[0]:
                        _ = part.source().resources
                table, fetch = extraction._fetches[name]
                dataset = name.partition(".")[0]
                outcome = Outcome(dataset=dataset, table=table.name, label=table.label, mode=table.mode)
                with (
                    mock.patch.object(dlt.current, "load_package_state", return_value={"load_id": "1.5"}),
                    mock.patch.object(dlt.current, "source_state", return_value={}),
                ):
                    extraction._fetch(table, fetch, outcome, {}, {})
                if outcome.missed is not None:
                    raise outcome.missed
            file = Path(folder) / f"{name}.parquet"
            with duckdb.connect() as connection:
                rows = connection.execute(f"SELECT * EXCLUDE (_dlt_load_id) FROM '{file}'").fetchall()
        return sorted(tuple(map(str, row)) for row in rows)


TABLES = {
    "tonalytica": ["queries", "widgets", "data_sources", "users"],
    "tune": ["advertiser_campaigns", "countries"],
    "thinkingengine": ["cluster_members", "metrics", "dimension_cps"],
    "dataworks": ["projects", "groups", "published_apis"],
    "growingio": ["dashboards", "charts", "segmentation_users"],
}
MORE = {
    "tonalytica": ["visualizations", "dashboards", "alerts"],
    "tune": ["advertiser_sites", "account_users"],
    "thinkingengine": ["events", "users"],
    "dataworks": ["api_authorities"],
    "growingio": ["segmentations"],
}
UNCOUNTED = {"tonalytica.data_sources", "tonalytica.alerts", "tonalytica.widgets", "tonalytica.visualizations",
             "thinkingengine.metrics", "growingio.dashboards", "growingio.charts", "growingio.segmentations",
             "growingio.segmentation_users"}  # fmt: skip
"""Of these the vendor tells no number but by listing them: a row that it leaves out, nobody can miss."""


@pytest.fixture(scope="module")
def all_vendors() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", ",".join(VENDORS), "--scale", "0.02") as process:
        yield process


@pytest.fixture(scope="module", params=TABLES)
def driven(
    request: pytest.FixtureRequest, all_vendors: SandboxProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driven]:
    vendor = request.param
    ready = all_vendors.ready[vendor]
    night = Night(home=tmp_path_factory.mktemp(vendor))
    with Relay(target=ready["base_url"]).serve() as relay:
        told = {name: value for name, value in ready.items() if isinstance(value, str) and name != "control_url"}
        night.set(vendor, **told | {"base_url": relay.url}, requests_per_second=1000)
        with mock.patch.object(retry, "_BACKOFF_BASE", 0.001):
            yield Driven(vendor, relay, night)


@pytest.fixture(scope="module")
def truth(driven: Driven) -> dict[str, tuple[Rows, int]]:
    """Per table its rows, and in how many requests they come."""
    found = {}
    for name in TABLES[driven.vendor] + (MORE[driven.vendor] if DEEP else []):
        driven.relay.begin(None, None)
        found[f"{driven.vendor}.{name}"] = driven.table(f"{driven.vendor}.{name}"), len(driven.relay.seen)
    return found


def wound(body: bytes, dice: random.Random, *, counted: bool) -> bytes:
    """The body with one thing done to it: to its bytes, or to one place in its JSON."""
    way = dice.choice(["bytes", "half", "missing", "other", "other", *(["out", "emptied"] if counted else [])])
    at = dice.randrange(max(len(body), 1))
    if way == "half":
        return body[:at]
    try:
        document = json.loads(body)
    except ValueError:
        way = "bytes"
    if way == "bytes" or not (places := list(_places(document))):
        return body[:at] + dice.choice([b"", b"x", b"0", b"}", b"]", b'"', b"\0", b"\xff", b",,"]) + body[at + 1 :]
    holder, name = dice.choice(places)
    if way == "emptied" and isinstance(holder, list):
        holder.clear()
    elif way == ("missing" if isinstance(holder, dict) else "out"):
        del holder[name]
    else:
        holder[name] = dice.choice([None, True, 5, -1, "x", "", [], {}, "9" * 40, [[]], {"id": None}])
    return json.dumps(document).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield value, name
        yield from _places(inner)


def test_a_damaged_answer_loses_no_row_in_silence(driven: Driven, truth: dict[str, tuple[Rows, int]]) -> None:
    wrong = []
    for seed in SEEDS:
        dice = random.Random(f"{driven.vendor} {seed}")
        name = dice.choice(sorted(truth))
        rows, requests = truth[name]
        damage = partial(_always, {}, dice, name not in UNCOUNTED)
        driven.relay.begin(dice.randrange(requests), damage)
        try:
            found = driven.table(name)
        except NightloadError as error:
            assert str(error).isprintable()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told with its seed
            wrong.append((seed, name, damage.args[0], traceback.format_exception(error)[-6:]))
        else:
            if len(found) != len(rows):
                wrong.append((seed, name, damage.args[0], f"{len(found)} rows of {len(rows)}"))
    assert wrong == []


def _always(done: dict[bytes, bytes], dice: random.Random, counted: bool, body: bytes) -> bytes:
    """Asked again, it is answered alike."""
    if body not in done:
        done[body] = wound(body, dice, counted=counted)
    return done[body]
