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

from conftest import Night
from sandbox_process import SandboxProcess

VENDORS = "thinkingengine,tonalytica,tune,dataworks,growingio"
EMAIL = "Zoe.Canary@Person.example"
"""As most of the vendors write it; some in lower case."""
TRACE = b"zoe.canary@person.example"


class Home(Night):
    """A home that knows all five vendors; `url`: its warehouse is that Postgres."""

    url: str | None = None

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        if self.url is None:
            return self.rows(sql)
        connection = psycopg2.connect(self.url)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            connection.close()

    def tables(self) -> list[str]:
        return [
            f'"{schema}"."{table}"'
            for schema, table in self.query(
                "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
                "AND table_schema NOT IN ('pg_catalog', 'information_schema')"
            )
        ]

    def everything(self) -> dict[str, list[str]]:
        """Every row of every table as one text, but for dlt's own columns."""
        found = {}
        for table in self.tables():
            if "_dlt_" in table or table.startswith('"nightload"'):
                continue
            columns = [
                f'"{name}"::VARCHAR'
                for (name,) in self.query(
                    "SELECT column_name FROM information_schema.columns WHERE '\"' || table_schema || '\".\"' || "
                    f"table_name || '\"' = '{table}' AND column_name NOT IN ('_dlt_load_id', 'row_version', 'valid_from', "
                    "'valid_to', '_deleted_at') ORDER BY column_name"
                )
            ]
            found[table] = sorted(repr(row) for row in self.query(f"SELECT {', '.join(columns)} FROM {table}"))
        return found

    def traces(self, needle: bytes = TRACE) -> list[str]:
        """Where the person stands: files below the home by their bytes, and all rows of the warehouse."""
        found = [
            str(path.relative_to(self.home))
            for path in self.home.rglob("*")
            if path.is_file() and needle in path.read_bytes().lower()
        ]
        for table in self.tables():
            if any(needle in repr(row).lower().encode() for row in self.query(f"SELECT * FROM {table}")):
                found.append(table)
        return found


def home_of(process: SandboxProcess, folder: Path, url: str | None = None) -> Home:
    home = Home(home=folder)
    home.url = url
    if url is not None:
        home.settings["NIGHTLOAD_WAREHOUSE"] = url
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
    told = {name: value for name, value in ready["dataworks"].items() if isinstance(value, str) and name != "control_url"}
    home.set("dataworks", **told, **quick)
    names = ("base_url", "console_token", "project_uid")
    home.set("growingio", **{name: ready["growingio"][name] for name in names}, backfill_days=2, poll_seconds=0.01, **quick)
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
    other = {"#uuid": "not-zoe", "#account_id": "acc1", "note": f"called {low} back", "cart": json.dumps({"for": EMAIL})}
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
    edit("growingio", table="segmentations", op="update", key="seg00002", row={"header": ["id", "邮箱", "城市"], "users": users})
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


def read(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()
