"""Labels that are no text (a number, null, NUL, half a surrogate pair) become one, and no value is lost."""

from __future__ import annotations

import json
import threading
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
import pytest

from conftest import Database, Night, settle
from pipelines.catalog.introspect import COLUMNS as COLUMNS_THERE
from pipelines.catalog.introspect import TABLES
from sandbox_process import start_sandbox
from test_recorded import KEY, NAMES, TYPES, Redash, a_page, queries, recorded

COLUMNS: list[Any] = [
    {"name": 404, "friendly_name": 404, "type": 7},
    {"name": None, "friendly_name": None, "type": None},
    {"name": True, "friendly_name": ["x"], "type": ["string"]},
    {"name": "nul\0", "friendly_name": "nul\0", "type": "string"},
    {"name": "half \ud800", "friendly_name": "half \udfff", "type": "\ud800"},
    {"name": "half \udfff", "friendly_name": {}, "type": "integer"},
    {"name": "plain", "type": "integer"},
    {"name": "plain", "type": "integer"},
    {"friendly_name": "no name at all"},
]
ROW = {
    "404": 1,
    "null": "two",
    "true": True,
    "nul\0": "a\0b",
    "half \ud800": "c\ud800d",
    "half \udfff": 6,  # noqa: F601 - ruff takes it for the key above
    "plain": 7,
    "stray\0": 8,
    "stray\udc00": 9,
}


class Odd(Redash):
    """A Redash whose data sources name columns as they like."""

    def _answer(self, path: str, params: dict[str, list[str]]) -> Any:
        if path == "queries":
            names = {TYPES: 404, NAMES: "nul\0 half \ud800"}
            return a_page([row | {"name": names.get(row["id"], row["name"]), "odd\0": 1} for row in queries()])
        if path == f"query_results/{TYPES}.json":
            answer = json.loads(json.dumps(recorded("08_query_result_types")))
            answer["query_result"]["data"] = {"columns": COLUMNS, "rows": [ROW]}
            return answer
        return super()._answer(path, params)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, kept_database: Database) -> Iterator[Night]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    night = Night(home=tmp_path_factory.mktemp("odd"), database=kept_database)
    night.set(
        base_url=f"http://127.0.0.1:{server.server_port}/",
        api_key=KEY,
        requests_per_second=1000,
        results={"include": {"ids": [TYPES, NAMES]}},
    )
    ran = night.run("tonalytica")
    assert (ran.code, ran.json["status"]) == (0, "ok"), ran.out
    yield night
    server.shutdown()


def test_result_whose_labels_are_no_text_lands_with_all_values(odd: Night) -> None:
    table = f"query_{TYPES}"
    rows = odd.rows("SELECT label, column_name FROM nightload.columns WHERE table_name = ?", table)
    names = dict(rows)
    assert len(names) == len(rows) == len(ROW), "each label once"
    assert {"404", "null", "true", "nul\ufffd", "half \ufffd", "plain", "stray\ufffd"} < set(names)
    selected = ", ".join(f'"{name}"' for name in names.values())
    (row,) = odd.rows(f"SELECT {selected} FROM tonalytica_results.{table}")
    landed = dict(zip(names, row, strict=True))
    assert {label: landed[label] for label in ("404", "null", "true", "nul\ufffd", "plain")} == {
        "404": 1, "null": "two", "true": True, "nul\ufffd": "a\ufffdb", "plain": 7,
    }  # fmt: skip
    assert sorted((value for label, value in landed.items() if label.startswith("half")), key=str) == [6, "c\ufffdd"]
    assert sorted(value for label, value in landed.items() if label.startswith("stray")) == [8, 9]


def test_table_whose_name_is_no_text_has_a_label_and_a_comment(odd: Night) -> None:
    labels = dict(odd.rows("SELECT DISTINCT table_name, table_label FROM nightload.columns"))
    assert labels[f"query_{TYPES}"] == "404"
    assert labels[f"query_{NAMES}"] == "nul\ufffd half \ufffd"
    assert dict(odd.rows("SELECT id, name FROM tonalytica.queries WHERE id = ?", TYPES)) == {TYPES: "404"}
    assert [name for (name,) in odd.rows("SELECT label FROM nightload.columns WHERE label LIKE 'odd%'")] == [
        "odd\ufffd"
    ]
    comments = {name: comment for _, name, comment in odd.look(TABLES[odd.database.kind])}
    assert comments[f"query_{TYPES}"] == "result of “404”"
    assert comments[f"query_{NAMES}"] == "result of “nul\ufffd half \ufffd”"
    columns = odd.look(COLUMNS_THERE[odd.database.kind])
    assert {"404", "nul\ufffd"} < {comment for _, table, *_, comment in columns if table == f"query_{TYPES}"}


def test_labels_that_are_no_text_are_the_same_on_the_next_run(odd: Night) -> None:
    before = odd.rows("SELECT * FROM nightload.columns ORDER BY ALL")
    ran = odd.run("tonalytica", full=True)
    assert (ran.code, ran.json["status"]) == (0, "ok"), ran.out
    assert odd.rows("SELECT * FROM nightload.columns ORDER BY ALL") == before
    assert odd.rows("SELECT count(*) FROM nightload.schema_changes WHERE change NOT LIKE 'new table'") == [(0,)]


# -- every vendor -------------------------------------------------------------------------------

EXTRA = {"nul\0": 1, "half \ud800": "x\ud800"}
IN_ROWS = {"growingio": "resource_type", "thinkingengine": "eventName", "dataworks": "Description", "tune": "id"}
"""Vendor → a label of rows to which `EXTRA` is added."""
SETTINGS: dict[str, dict[str, Any]] = {
    "growingio": {"backfill_days": 2},
    "thinkingengine": {"project_id": 7},
    "dataworks": {},
    "tune": {},
}
TABLES_OF = {
    "growingio": ["growingio.dashboard_charts", "growingio.charts", "growingio_charts.chart_yo_x28w7_r"],
    "thinkingengine": ["thinkingengine.event_meta"],
    "dataworks": ["dataworks.groups"],
    "tune": ["tune.advertiser_campaigns"],
}


def odd_labels(value: Any, beside: str) -> Any:
    """A JSON value with odd labels beside that label, and odd names in the meta of a chart."""
    if isinstance(value, list):
        return [odd_labels(each, beside) for each in value]
    if not isinstance(value, dict):
        return value
    value = {name: odd_labels(each, beside) for name, each in value.items()}
    if value.get("metric") is True or value.get("dimension") is True:
        value["name"] = f"{value['name']}\0\ud800"
    return value | (EXTRA if beside in value else {})


class Between(BaseHTTPRequestHandler):
    """Stands before a vendor of the sandbox; its JSON comes with a byte order mark and odd labels."""

    beside: ClassVar[str]
    url: ClassVar[str]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "accept-encoding"}
        came = httpx.request(self.command, f"{self.url}{self.path}", headers=headers, content=body)
        content = came.content
        with suppress(ValueError):
            content = json.dumps(odd_labels(json.loads(content), self.beside)).encode()
        self.send_response(came.status_code)
        for name in ("content-type", "date"):
            self.send_header(name, came.headers.get(name, ""))
        self.send_header("content-length", str(len(content) + 3))
        self.end_headers()
        self.wfile.write(BOM_UTF8 + content)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("vendor", IN_ROWS)
def test_vendor_whose_labels_are_no_text_lands_with_all_values(vendor: str, tmp_path: Path, database: Database) -> None:
    with start_sandbox("--vendors", vendor, "--scale", "0.01") as sandbox:
        ready = sandbox.ready[vendor]
        parts = urlsplit(ready["base_url"])
        between = type("", (Between,), {"beside": IN_ROWS[vendor], "url": f"http://{parts.netloc}"})
        server = ThreadingHTTPServer(("127.0.0.1", 0), between)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        night = settle(Night(home=tmp_path, database=database), sandbox)
        night.set(vendor, base_url=f"http://127.0.0.1:{server.server_port}{parts.path}", **SETTINGS[vendor])
        if vendor == "tune":  # so that the rows tell the columns
            for path in ("/define", "get_controllers"):
                fault = {"match": {"path": path}, "do": {"status": 404, "body": {}}, "times": -1}
                sandbox.control(vendor, "POST", "faults", fault)
        ran = night.run(vendor, tables=TABLES_OF[vendor])
        server.shutdown()
        assert (ran.code, ran.json["status"]) == (0, "ok"), ran.out
    labels = {label for (label,) in night.rows("SELECT label FROM nightload.columns")}
    assert {"nul\ufffd", "half \ufffd"} < labels
    assert not [label for label in labels if "\0" in label]
    table = TABLES_OF[vendor][0]
    sql = "SELECT label, column_name FROM nightload.columns WHERE dataset || '.' || table_name = ?"
    names = dict(night.rows(sql, table))
    nul, half = names["nul\ufffd"], names["half \ufffd"]
    landed = set(night.rows(f'SELECT "{nul}", "{half}" FROM {table}'))
    assert landed - {(None, None)} == {(1, "x\ufffd")}, "rows without them have NULL"
    if vendor == "growingio":
        assert {label for label in labels if label.endswith("\ufffd\ufffd")}, "the meta's names"
