"""A vendor whose users write names that would be SQL, HTML, markup or commands of a terminal: they stay mere texts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import Database, Night
from test_recorded import KEY, TYPES, Redash, a_page, queries, recorded

LABELS = [
    'a"; DROP TABLE x; --',
    "b'); DROP TABLE x; --",
    "c`; DROP TABLE x",
    "<script>alert(1)</script>",
    "[red]e[/red] [/]",
    "\x1b[2J\x1b]0;owned\x07f",
    "=cmd|' /C calc'!A0",
    "h\u202eevil",
    "{{ i }} {% j %} ${k}",
    "\\'; DROP TABLE x; --",
]
NAME = "\x1b[31m[bold red]x[/] <script>alert(2)</script> '; DROP TABLE x; --"


class Hostile(Redash):
    def _answer(self, path: str, params: dict[str, list[str]]) -> Any:
        if path == "queries":
            return a_page([row | {"name": NAME} for row in queries()])
        if path == f"query_results/{TYPES}.json":
            answer = json.loads(json.dumps(recorded("08_query_result_types")))
            columns = [{"name": label, "friendly_name": label, "type": "string"} for label in LABELS]
            answer["query_result"]["data"] = {"columns": columns, "rows": [{label: label for label in LABELS}]}
            return answer
        return super()._answer(path, params)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, kept_database: Database) -> Iterator[Night]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path_factory.mktemp("o") / 'o"b; [b]'
    home.mkdir()
    night = Night(home=home, database=kept_database)
    night.set(
        base_url=f"http://127.0.0.1:{server.server_port}/",
        api_key=KEY,
        requests_per_second=1000,
        results={"include": {"ids": [TYPES]}},
    )
    ran = night.main("run", "--table", "tonalytica.queries", "--table", f"tonalytica_results.query_{TYPES}")
    assert ran.code == 0, ran.out + ran.err
    yield night
    server.shutdown()


def assert_plain(text: str) -> None:
    """Nothing that a terminal obeys."""
    assert [sign for sign in text if not sign.isprintable() and sign not in "\n\r\t"] == []


def test_hostile_columns_land_under_their_labels(hostile: Night) -> None:
    table = f"query_{TYPES}"
    told = dict(hostile.rows("SELECT label, column_name FROM nightload.columns WHERE table_name = ?", table))
    assert set(LABELS) <= set(told)
    names = ", ".join(f'"{told[label]}"' for label in LABELS)
    assert hostile.rows(f"SELECT {names} FROM tonalytica_results.{table}") == [tuple(LABELS)]
    assert (NAME,) in hostile.rows("SELECT name FROM tonalytica.queries")


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", f"SELECT * FROM tonalytica_results.query_{TYPES}"),
        ("sql", "SELECT name FROM tonalytica.queries"),
        ("preview", f"tonalytica_results.query_{TYPES}"),
        ("preview", "tonalytica.queries"),
        ("status",),
        ("tables",),
        ("find-tables", "users"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_terminal_obeys_a_vendor(arguments: tuple[str, ...], hostile: Night) -> None:
    ran = hostile.main(*arguments)
    assert ran.code in (0, 1), ran.err
    assert_plain(ran.out + ran.err)
    if "sql" in arguments:
        assert "DROP TABLE x" in ran.out
        assert "[bold red]x[/]" in ran.out or "[red]e[/red]" in ran.out, "markup is text"


def test_a_warehouse_that_dlt_cannot_load_into_is_refused_at_once(tmp_path: Path) -> None:
    home = tmp_path / "o'brien"
    home.mkdir()
    ran = Night(home=home).main("run")
    assert (ran.code, "an apostrophe in its path" in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


class Page(HTMLParser):
    """Which elements and handlers a page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.policy = ""
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs).get("content") or ""

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


def test_pages_hold_no_markup_of_a_vendor(hostile: Night, tmp_path: Path) -> None:
    import base64
    import hashlib

    assert hostile.main("report", "--out", str(tmp_path / "report.html")).code == 0
    assert hostile.main("docs", "--dir", str(tmp_path / "docs")).code == 0
    report = Page((tmp_path / "report.html").read_text())
    assert ("script" in report.tags, report.handlers) == (False, [])
    assert report.policy.startswith("default-src 'none'")
    (file,) = (tmp_path / "docs").glob("*.html")
    text = file.read_text()
    docs = Page(text)
    assert (docs.tags.count("script"), docs.handlers) == (1, [])
    assert "DROP TABLE x" in text
    digest = base64.b64encode(hashlib.sha256(docs.scripts[0].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in docs.policy, "the page's own script runs, and no other"
    assert "default-src 'none'" in docs.policy
