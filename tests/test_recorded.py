"""What a real Redash once answered, word for word, is loaded end to end; the values are checked one by one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from conftest import Database, Night

RECORDED = Path(__file__).with_name("fixtures") / "tonalytica"
KEY = "recorded-user-key"
TYPES, NAMES = 39, 35


def recorded(name: str) -> Any:
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["body"]


def as_written(name: str) -> bytes:
    """The recorded body as its own text: parsing it here might round what must not be rounded."""
    text = (RECORDED / f"{name}.json").read_text(encoding="utf-8")
    start = text.index("{", text.index('"body":'))
    _, end = json.JSONDecoder().raw_decode(text, start)
    return text[start:end].encode()


def a_page(rows: list[Any]) -> Any:
    """What was recorded is one page of a longer list: here it is the whole of it."""
    return {"count": len(rows), "page": 1, "page_size": 250, "results": rows}


def queries() -> list[Any]:
    rows = recorded("01_queries_page1")["results"]
    # the queries of the recorded results stand on a page that was not recorded
    return [
        *rows,
        *(rows[-1] | {"id": each, "name": f"Result {each}", "latest_query_data_id": each} for each in (TYPES, NAMES)),
    ]


class Redash(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if self.headers["Authorization"] != f"Key {KEY}":
            return self._send(404, json.dumps(recorded("12_error_bad_key")).encode())
        answer = self._answer(parts.path.removeprefix("/api/"), parse_qs(parts.query))
        if answer is None:
            return self._send(404, json.dumps(recorded("11b_error_404_no_query")).encode())
        return self._send(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def _answer(self, path: str, params: dict[str, list[str]]) -> Any:
        match path.split("/"):
            case ["queries"]:
                return a_page(queries())
            case ["queries", "archive"]:
                return a_page(recorded("19_queries_archive")["results"])
            case ["queries", "1"]:
                return recorded("02_query")
            case ["queries", number]:
                return next((row | {"visualizations": []} for row in queries() if str(row["id"]) == number), None)
            case ["dashboards"]:
                return a_page(recorded("04_dashboards_page1")["results"])
            case ["dashboards", "32"]:
                return recorded("05_dashboard_mixed_widgets")
            case ["dashboards", number]:
                rows = recorded("04_dashboards_page1")["results"]
                return next((row | {"widgets": []} for row in rows if str(row["id"]) == number), None)
            case ["users"]:
                return a_page([] if "disabled" in params else recorded("14_users")["results"])
            case ["data_sources"]:
                return recorded("10_data_sources")
            case ["alerts"]:
                return recorded("13_alerts")
            case ["query_snippets"]:
                return recorded("15_query_snippets")
            case ["query_results", "39.json"]:
                return as_written("08_query_result_types")
            case ["query_results", "35.json"]:
                return as_written("08b_query_result_by_query_names")
        return None

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, kept_database: Database) -> Iterator[Night]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Redash)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    night = Night(home=tmp_path_factory.mktemp("recorded"), database=kept_database)
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


def columns(night: Night, table: str) -> dict[str, tuple[str, str]]:
    rows = night.rows("SELECT label, column_name, data_type FROM nightload.columns WHERE table_name = ?", table)
    return {label: (name, kind) for label, name, kind in rows}


def test_a_recorded_result_of_every_type(loaded: Night) -> None:
    expected: dict[str, tuple[str, Any]] = {
        "i2": ("bigint", 1),
        "i4": ("bigint", 2147483647),
        "i8": ("bigint", 9007199254740993),
        "num38": ("double", 1.2345678901234567e19),
        "f4": ("double", 1.1),
        "f8": ("double", 0.30000000000000004),
        "nan": ("double", None),
        "inf": ("double", None),
        "b": ("bool", True),
        "bn": ("bool", None),
        "d": ("date", date(2024, 2, 29)),
        "ts": ("timestamp", datetime(2024, 2, 29, 23, 59, 59, 999000, tzinfo=UTC)),
        "tstz": ("timestamp", datetime(2024, 2, 29, 18, 29, 59, 123000, tzinfo=UTC)),
        "tstz_whole": ("timestamp", datetime(2024, 2, 29, 12, tzinfo=UTC)),
        "t": ("text", "12:34:56.789"),
        "iv": ("text", "1 day, 2:03:04.500000"),
        "txt": ("text", "text"),
        "vc": ("text", "vc"),
        "ch": ("text", "ch   "),
        "bin": ("text", "deadbeef"),
        "js": ("json", {"a": [1, 2, {"b": None}]}),
        "arr": ("json", [1, 2, None]),
        "has_uuid": ("bool", True),
        "u": ("text", "550e8400-e29b-41d4-a716-446655440000"),
        "rng": ("text", "[1, 10)"),
        "ip": ("text", "10.0.0.1"),
        "inf_date": ("bool", False),
        "cash": ("text", "$12.50"),
        "pt": ("text", "(1,2)"),
        "c1": ("text", "a"),
    }
    known = columns(loaded, f"query_{TYPES}")
    assert set(known) == {*expected, "tarr"}
    for label, (kind, value) in expected.items():
        column, held = known[label]
        ((landed,),) = loaded.rows(f'SELECT "{column}" FROM tonalytica_results.query_{TYPES}')
        assert held == kind, label
        assert (json.loads(landed) if kind == "json" else landed) == value, label
    # typed string, and an array all the same
    ((tarr,),) = loaded.rows(f"SELECT tarr FROM tonalytica_results.query_{TYPES}")
    assert json.loads(tarr) == ["x", "y,z"]


def test_a_recorded_result_with_names_of_every_kind(loaded: Night) -> None:
    known = columns(loaded, f"query_{NAMES}")
    assert {label: name for label, (name, _) in known.items()} == {
        "id": "id",
        "Pool Name": "pool_name",
        "总锁仓量": "总锁仓量",
        "VolumeUSD": "volume_usd",
        "24h change %": "_24h_change",
        "a.b": "a_b",
        "select": "select",
        "Created At": "created_at",
        "never_set": "never_set",
    }
    rows = recorded("08b_query_result_by_query_names")["query_result"]["data"]["rows"]
    landed = loaded.rows(
        'SELECT id, pool_name, "总锁仓量", volume_usd, _24h_change, a_b, "select", created_at, never_set '
        f"FROM tonalytica_results.query_{NAMES} ORDER BY id"
    )
    assert len(landed) == 300
    assert landed == [(*list(row.values())[:7], datetime.fromisoformat(row["Created At"]), None) for row in rows]


def test_recorded_lists_land_row_by_row_and_without_keys(loaded: Night) -> None:
    listed = queries()
    archived = recorded("19_queries_archive")["results"]
    rows = loaded.rows(
        "SELECT id, name, query, query_hash, version, user_id, created_at, found_in FROM tonalytica.queries"
    )
    assert sorted(rows) == sorted(
        (
            row["id"],
            row["name"],
            row["query"],
            row["query_hash"],
            row["version"],
            row["user"]["id"],
            datetime.fromisoformat(row["created_at"]),
            where,
        )
        for where, page in (("list", listed), ("archive", archived))
        for row in page
    )
    tags = dict(loaded.rows("SELECT id, tags FROM tonalytica.queries"))
    assert {key: json.loads(value) for key, value in tags.items()} == {
        row["id"]: row["tags"] for row in [*listed, *archived]
    }
    for key in {row["api_key"] for row in [*listed, *archived]}:
        assert key.encode() not in loaded.warehouse.read_bytes()
    for table in ("queries", "dashboards", "alerts", "users", "query_snippets", "widgets"):
        assert not {"api_key", "profile_image_url", "public_url"} & set(columns(loaded, table))


def test_recorded_dashboards_widgets_and_the_rest_land(loaded: Night) -> None:
    boards = recorded("04_dashboards_page1")["results"]
    assert sorted(loaded.rows("SELECT id, name FROM tonalytica.dashboards")) == sorted(
        (b["id"], b["name"]) for b in boards
    )
    told = "SELECT id, dashboard_id, visualization_id, query_id, text, restricted FROM tonalytica.widgets ORDER BY id"
    assert loaded.rows(told) == [
        (115, 32, 87, 1, "", False),
        (116, 32, 80, 80, "", False),
        (117, 32, None, None, "text", False),
    ]
    widgets = {widget["id"]: widget["options"] for widget in recorded("05_dashboard_mixed_widgets")["widgets"]}
    landed = dict(loaded.rows("SELECT id, options FROM tonalytica.widgets"))
    assert {key: json.loads(options) for key, options in landed.items()} == widgets
    sources = recorded("10_data_sources")
    assert sorted(loaded.rows("SELECT id, name, type, paused, view_only FROM tonalytica.data_sources")) == sorted(
        (each["id"], each["name"], each["type"], bool(each["paused"]), each["view_only"]) for each in sources
    )
    alerts = recorded("13_alerts")
    assert sorted(loaded.rows("SELECT id, state, query_id, rearm FROM tonalytica.alerts")) == sorted(
        (each["id"], each["state"], each["query"]["id"], each["rearm"]) for each in alerts
    )
    snippets = recorded("15_query_snippets")
    assert sorted(loaded.rows("SELECT id, trigger, snippet FROM tonalytica.query_snippets")) == sorted(
        (each["id"], each["trigger"], each["snippet"]) for each in snippets
    )
    users = recorded("14_users")["results"]
    assert sorted(loaded.rows("SELECT id, name, email FROM tonalytica.users")) == sorted(
        (each["id"], each["name"], each["email"]) for each in users
    )


def test_the_recorded_answer_to_a_wrong_key_is_understood(loaded: Night, tmp_path: Path) -> None:
    stranger = Night(home=tmp_path, settings=dict(loaded.settings))
    stranger.set(api_key="wrong-key-of-somebody")
    ran = stranger.run("tonalytica")
    assert (ran.code, "the key is not accepted" in ran.json["vendors"][0]["error"]) == (1, True)
