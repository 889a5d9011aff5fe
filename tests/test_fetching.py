"""What several tables need is asked for once a run, also where the vendor cannot give it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from people import VENDORS, home_of
from sandbox_process import SandboxProcess, start_sandbox
from sources.core.concurrency import once
from sources.core.errors import NightloadError, Unavailable


class Lists:
    def __init__(self, *, works: bool) -> None:
        self.works, self.made = works, 0

    @once
    def rows(self) -> list[int]:
        """The rows."""
        self.made += 1
        if not self.works:
            raise Unavailable(what="no list", where="page 1", status=400)
        return [1]


def test_a_property_made_once_is_made_once_per_instance() -> None:
    first, second = Lists(works=True), Lists(works=True)
    assert first.rows is first.rows
    assert first.rows is not second.rows
    assert (first.made, second.made) == (1, 1)


def test_a_property_made_once_that_fails_raises_an_error_of_its_own_to_each_user() -> None:
    lists = Lists(works=False)
    told = []
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            lists.rows  # noqa: B018 - it is a property
        told.append(str(caught.value.at("table a")))
        assert caught.value.status == 400
    assert (lists.made, len(set(told))) == (1, 1)
    assert isinstance(caught.value, NightloadError)


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", VENDORS, "--scale", "0.01") as process:
        yield process


@pytest.mark.parametrize(
    ("vendor", "path", "tables"),
    [
        ("growingio", "/dashboards.json", ["growingio.dashboards", "growingio.dashboard_charts", "growingio.charts"]),
        ("thinkingengine", "/open/list-event-meta", ["thinkingengine.event_meta", "thinkingengine.virtual_events"]),
        ("tonalytica", "/api/queries/archive", ["tonalytica.queries", "tonalytica.query_versions"]),
    ],
)
def test_a_list_that_cannot_be_had_is_asked_for_once_a_run(
    vendor: str, path: str, tables: list[str], process: SandboxProcess, tmp_path: Path
) -> None:
    process.control(vendor, "POST", "reset")
    rule = {"match": {"path": path}, "times": -1, "do": {"status": 400, "body": {"message": "no"}}}
    process.control(vendor, "POST", "faults", [rule])
    home = home_of(process, tmp_path)
    ran = home.run(vendor, tables=tables)
    assert {ran.tables[table]["status"] for table in tables} == {"failed"}
    sent = process.control(vendor, "GET", "stats")["by_path"]
    assert [count for each, count in sent.items() if path in each] == [1]
