"""A whole night with nothing to configure: the sandbox vendors on this machine, the real run, what landed.

Two nights, with edits at the vendors' between them, so that one sees what a second night does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import duckdb
import httpx
from rich.console import Console
from rich.text import Text

from pipelines.config.project import Place, find
from sources.core.errors import ConfigurationError

console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)

QUESTIONS = {
    "every run is a row": "SELECT run_id, status, finished_at - started_at AS took FROM nightload.runs ORDER BY 1",
    "the proof, per table of the last run": (
        "SELECT dataset || '.' || table_name AS \"table\", vendor_count, extracted, landed, live, status "
        "FROM nightload.run_tables WHERE run_id = (SELECT max(run_id) FROM nightload.runs) "
        "AND dataset <> 'tonalytica_results' ORDER BY 1 LIMIT 12"
    ),
    "no name is lost: columns and the vendor's own labels": (
        "SELECT table_name, column_name, label, data_type FROM nightload.columns "
        "WHERE column_name <> label ORDER BY 1, 2 LIMIT 8"
    ),
    "each text that a query ever had": (
        "SELECT query_id, left(query, 40) AS query, valid_from, valid_to FROM tonalytica.query_versions "
        "WHERE query_id IN (SELECT query_id FROM tonalytica.query_versions WHERE valid_to IS NOT NULL) ORDER BY 1, 3"
    ),
    "what is gone is marked, not dropped": (
        "SELECT id, name, status, _deleted_at FROM tune.advertiser_campaigns WHERE _deleted_at IS NOT NULL"
    ),
    "campaigns by status": (
        "SELECT status, count(*) AS campaigns, max(id) AS greatest_id FROM tune.advertiser_campaigns "
        "WHERE _deleted_at IS NULL GROUP BY 1 ORDER BY 2 DESC"
    ),
}


def play(*, scale: float, folder: str | None) -> int:
    """Run the demo; the exit code is the worst of its nights."""
    home = Path(folder or "demo").resolve()
    shutil.rmtree(home / "data", ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    sandbox = _start_sandbox(scale)
    try:
        ready = json.loads(cast(Any, sandbox.stdout).readline() or "{}")
        if not ready:
            raise ConfigurationError(
                what="the sandbox vendors did not start", todo="Start the demo in the project's folder, with: make demo"
            )
        environment = _environment(ready, home)
        for vendor, told in ready.items():
            console.print(f"[bold]{vendor}[/] plays on {told['base_url']}")
        code = _night("the first night", environment)
        _edit(ready)
        code = max(code, _night("the second night", environment))
    finally:
        sandbox.terminate()
        sandbox.wait(timeout=10)
    place = find(str(home))
    _show(place)
    console.print(f"\nThe warehouse is {place.warehouse}; open it with: duckdb -readonly {place.warehouse}")
    return code


def _edit(ready: dict[str, dict[str, Any]]) -> None:
    """What people do at the vendors' between two nights."""
    queries = [row for row in _rows(ready, "tonalytica", "queries") if row["_where"] == "list"]
    with_result = sorted(row["id"] for row in queries if row["latest_query_data_id"] is not None)
    campaigns = sorted(row["id"] for row in _rows(ready, "tune", "advertiser/campaigns"))
    edits: dict[str, list[dict[str, Any]]] = {
        "tonalytica": [
            {"table": "queries", "op": "update", "key": with_result[0], "row": {"query": "select 2 as edited"}},
            {"table": "queries", "op": "execute", "key": with_result[1]},
        ],
        "tune": [
            {"table": "advertiser/campaigns", "op": "update", "key": campaigns[0], "row": {"name": "夏日活动"}},
            {"table": "advertiser/campaigns", "op": "delete", "key": campaigns[1]},
        ],
    }
    for vendor, its in edits.items():
        httpx.post(f"{ready[vendor]['control_url']}/edit", json=its, timeout=30).raise_for_status()
    console.print(
        "\n[dim]… at the vendors' a query is edited, another executed, a campaign renamed, another deleted …[/]"
    )


def _rows(ready: dict[str, dict[str, Any]], vendor: str, table: str) -> list[dict[str, Any]]:
    truth = httpx.get(f"{ready[vendor]['control_url']}/truth/{table}", timeout=30).raise_for_status()
    return list(truth.json()["rows"])


def _start_sandbox(scale: float) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", "sandbox", "--scale", str(scale)], cwd=root, stdout=subprocess.PIPE, text=True
    )


def _environment(ready: dict[str, dict[str, Any]], home: Path) -> dict[str, str]:
    settings = {
        f"SOURCES__{vendor}__{name}".upper(): told
        for vendor in ready
        for name, told in ready[vendor].items()
        if isinstance(told, str) and name != "control_url"
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SOURCES__", "NIGHTLOAD_"))}
    quick = {f"SOURCES__{vendor}__REQUESTS_PER_SECOND".upper(): "500" for vendor in ready}
    return {**others, **settings, **quick, "NIGHTLOAD_HOME": str(home)}


def _night(title: str, environment: dict[str, str]) -> int:
    console.rule(f"[bold]{title}[/]: nightload run", align="left")
    return subprocess.run([sys.executable, "-m", "pipelines.cli", "run"], env=environment, check=False).returncode


def _show(place: Place) -> None:
    with duckdb.connect(str(place.warehouse), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for title, sql in QUESTIONS.items():
            console.rule(f"[bold]{title}[/]", align="left")
            console.print(Text(sql, style="dim"))
            console.print(Text(str(connection.sql(sql))))
