"""Answers that take a vendor long to make: waited for, asked for once more at most, and then left to the next run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Database
from people import VENDORS, Home, home_of
from sandbox_process import SandboxProcess, start_sandbox

SLOW = {"delay": 1.6}
GATEWAY = {"status": 504, "body": "<html>504 Gateway Time-out</html>"}


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", VENDORS, "--scale", "0.01") as process:
        yield process


@pytest.fixture
def home(process: SandboxProcess, tmp_path: Path, database: Database) -> Home:
    for vendor in process.ready:
        process.control(vendor, "POST", "reset")
    return home_of(process, tmp_path, database.url)


def asked(process: SandboxProcess, vendor: str, part: str) -> int:
    paths: dict[str, int] = process.control(vendor, "GET", "stats")["by_path"]
    return sum(count for path, count in paths.items() if part in path)


def test_a_slow_result_is_asked_for_twice_and_left_to_the_next_run(home: Home, process: SandboxProcess) -> None:
    queries = process.control("tonalytica", "GET", "truth/queries")["rows"]
    slow, quick = [row for row in queries if row["name"] in ("Every type", "Ids above 2^53")]
    result = f"/query_results/{slow['latest_query_data_id']}.json"
    rule = {"match": {"path": result}, "times": -1, "do": SLOW}
    process.control("tonalytica", "POST", "faults", [rule])
    home.set("tonalytica", results={"include": {"ids": [slow["id"], quick["id"]]}}, result_timeout=1)
    night = home.run("tonalytica", tables=[f"tonalytica_results.query_{each['id']}" for each in (slow, quick)])
    failed = night.tables[f"tonalytica_results.query_{slow['id']}"]
    assert (failed["status"], night.tables[f"tonalytica_results.query_{quick['id']}"]["status"]) == ("failed", "ok")
    assert "nothing for 1 s (tried 2 times)" in failed["error"]
    assert "raise sources.tonalytica.result_timeout" in failed["error"]
    assert asked(process, "tonalytica", result) == 2

    home.set("tonalytica", result_timeout=30)
    assert home.run("tonalytica", tables=[f"tonalytica_results.query_{slow['id']}"]).code == 0
    assert asked(process, "tonalytica", result) == 3


@pytest.mark.parametrize(
    ("vendor", "path", "do", "settings", "table", "names"),
    [
        ("thinkingengine", "/querySql", GATEWAY, {"sync": True}, "thinkingengine.users", "task_timeout"),
        ("tune", "/countries/find.json", SLOW, {"answer_timeout": 1}, "tune.countries", "answer_timeout"),
        (
            "growingio", "/segmentations/seg00002/users.csv", SLOW,
            {"poll_timeout": 1, "segmentation_users": ["seg00002"]}, "growingio.segmentation_users", "poll_timeout",
        ),
    ],
)  # fmt: skip
def test_a_slow_query_or_export_is_asked_for_twice_and_names_its_setting(
    home: Home, process: SandboxProcess, vendor: str, path: str, do: Any, settings: Any, table: str, names: str
) -> None:
    process.control(vendor, "POST", "faults", [{"match": {"path": path}, "times": -1, "do": do}])
    home.set(vendor, **settings)
    failed = home.run(vendor, tables=[table]).tables[table]
    assert failed["status"] == "failed"
    assert "tried 2 times" in failed["error"]
    assert f"sources.{vendor}.{names}" in failed["error"]
    assert asked(process, vendor, path) == 2
