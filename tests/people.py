"""A person whom all five vendors of a sandbox know, and homes that load them into either database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg2

from conftest import Database, Night
from sandbox_process import SandboxProcess

VENDORS = "thinkingengine,tonalytica,tune,dataworks,growingio"
EMAIL = "Zoe.Canary@Person.example"
"""As most of the vendors write it; some in lower case."""
TRACE = b"zoe.canary@person.example"


class Home(Night):
    """A home that knows all five vendors; `url`: its warehouse is that Postgres."""

    @property
    def url(self) -> str | None:
        return self.database.url

    def all_rows(self) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
        """Every table of the warehouse: its columns and its rows as texts."""
        connection = (
            duckdb.connect(str(self.warehouse), read_only=True) if self.url is None else psycopg2.connect(self.url)
        )
        try:
            cursor = connection.cursor()
            cursor.execute(
                "SELECT c.table_schema, c.table_name, c.column_name FROM information_schema.columns c "
                "JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name "
                "WHERE t.table_type = 'BASE TABLE' AND c.table_schema NOT IN ('pg_catalog', 'information_schema') "
                "ORDER BY 1, 2, c.column_name"
            )
            columns: dict[tuple[str, str], list[str]] = {}
            for schema, table, name in cursor.fetchall():
                columns.setdefault((schema, table), []).append(name)
            found = {}
            for (schema, table), names in columns.items():
                told = ", ".join(f'"{name}"::VARCHAR' for name in names)
                cursor.execute(f'SELECT {told} FROM "{schema}"."{table}"')
                found[f"{schema}.{table}"] = names, cursor.fetchall()
            return found
        finally:
            connection.close()

    def everything(self) -> dict[str, list[str]]:
        """What the vendors said: every row of every table as one text, but for the columns that say when it came."""
        own = {"_dlt_load_id", "row_version", "valid_from", "valid_to", "_deleted_at"}
        return {
            table: sorted(
                repr([cell for name, cell in zip(names, row, strict=True) if name not in own]) for row in told
            )
            for table, (names, told) in self.all_rows().items()
            if "_dlt_" not in table and not table.startswith("nightload.")
        }

    def traces(self, needle: bytes = TRACE) -> list[str]:
        """Where the person stands: files below the home by their bytes, and all rows of the warehouse."""
        found = [
            str(path.relative_to(self.home))
            for path in self.home.rglob("*")
            if path.is_file() and needle in path.read_bytes().lower()
        ]
        rows = self.all_rows().items()
        found += [table for table, (_, told) in rows if any(needle in repr(row).lower().encode() for row in told)]
        return found


def home_of(process: SandboxProcess, folder: Path, url: str | None = None) -> Home:
    home = Home(home=folder, database=Database() if url is None else Database.at(url))
    ready = process.ready
    quick = {"requests_per_second": 10_000}
    home.set("tonalytica", base_url=ready["tonalytica"]["base_url"], api_key=ready["tonalytica"]["api_key"], **quick)
    home.set("tune", base_url=ready["tune"]["base_url"], api_key=ready["tune"]["api_key"], **quick)
    first = (datetime.now(UTC) - timedelta(days=3)).date().isoformat()
    home.set(
        "thinkingengine",
        base_url=ready["thinkingengine"]["base_url"],
        token=ready["thinkingengine"]["token"],
        project_id=7,
        page_size=1000,
        users=True,
        events=["login"],
        events_from=first,
        **quick,
    )
    told = {
        name: value for name, value in ready["dataworks"].items() if isinstance(value, str) and name != "control_url"
    }
    home.set("dataworks", **told, **quick)
    names = ("base_url", "console_token", "project_uid")
    home.set(
        "growingio", **{name: ready["growingio"][name] for name in names}, backfill_days=2, poll_seconds=0.01, **quick
    )
    return home


def plant(process: SandboxProcess) -> None:
    """Let every vendor know the person."""

    def edit(vendor: str, **given: Any) -> Any:
        return process.control(vendor, "POST", "edit", given)

    def rows(vendor: str, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = process.control(vendor, "GET", f"truth/{table}")["rows"]
        return found

    low = EMAIL.lower()
    edit("tonalytica", table="users", op="insert", row={"name": "Zoe Canary", "email": EMAIL})
    text = f"select * from orders where mail = '{low}' and day > 5"
    query = edit("tonalytica", table="queries", op="insert", row={"name": f"Orders of {EMAIL}", "query": text})["key"]
    result = [{"mail": EMAIL, "n": 1}, {"mail": "other@person.example", "n": 2}]
    edit("tonalytica", table="queries", op="execute", key=query, row={"rows": result})
    board = edit("tonalytica", table="dashboards", op="insert", row={"name": "People"})["key"]
    edit("tonalytica", table="widgets", op="insert", row={"dashboard_id": board, "text": f"ask {low}, she knows"})
    user = process.control("tune", "GET", "truth/account/users")["rows"][0]
    edit("tune", table="account/users", op="update", key=user["id"], row={"email": EMAIL})
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    event = rows("thinkingengine", "v_event")[0]
    told = {"#event_name": "login", "$part_event": "login", "$part_date": yesterday, "#uuid": "zoe-1"}
    moment = {"#event_time": f"{yesterday} 10:00:00.000", "#server_time": f"{yesterday} 10:00:00.000"}
    edit("thinkingengine", table="v_event", op="insert", row={**event, **told, **moment, "#account_id": EMAIL})
    other = {
        "#uuid": "not-zoe",
        "#account_id": "acc1",
        "note": f"called {low} back",
        "cart": json.dumps({"for": EMAIL}),
    }
    edit("thinkingengine", table="v_event", op="insert", row={**event, **told, **moment, **other})
    member = rows("thinkingengine", "v_user")[5]
    edit(
        "thinkingengine",
        table="v_user",
        op="insert",
        row={**member, "#user_id": 4_194_304_123, "#account_id": EMAIL, "#distinct_id": "zoe", "昵称": "Zoe"},
    )
    report = rows("thinkingengine", "reports")[0]["reportId"]
    edit("thinkingengine", table="reports", op="update", key=report, row={"reportDesc": f"for {low}"})
    api = rows("dataworks", "published_apis")[0]
    key = f"{api['ProjectId']}/{api['ApiId']}"
    edit("dataworks", table="published_apis", op="update", key=key, row={"Description": f"asked for by {EMAIL}"})
    edit("growingio", table="dashboards", op="update", key="BoardA01", row={"creator": EMAIL})
    users = [["00001", EMAIL, "北京"], ["00002", "ann@person.example", "上海"]]
    edit(
        "growingio",
        table="segmentations",
        op="update",
        key="seg00002",
        row={"header": ["id", "邮箱", "城市"], "users": users},
    )
    note = [["00009", f"friend of {low}", "13800009999"]]
    segment = next(each for each in rows("growingio", "segmentations") if each["id"] == "seg00001")
    edit("growingio", table="segmentations", op="update", key="seg00001", row={"users": [*segment["users"], *note]})


@contextmanager
def fresh(process: SandboxProcess) -> Iterator[SandboxProcess]:
    """The sandbox as seeded, but that everybody knows the person."""
    for vendor in process.ready:
        process.control(vendor, "POST", "reset")
    plant(process)
    yield process
