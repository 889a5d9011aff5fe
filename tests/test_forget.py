"""A person whom all five vendors know is forgotten: out of every table, in no file, and out of every later night."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from people import EMAIL, VENDORS, Home, fresh, home_of
from postgres_server import fresh_database, postgres_server
from sandbox_process import SandboxProcess, start_sandbox


@pytest.fixture(scope="module")
def process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", VENDORS, "--scale", "0.01") as process:
        yield process


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["duckdb", "postgres"])
def home(request: pytest.FixtureRequest, process: SandboxProcess, tmp_path: Path) -> Iterator[Home]:
    """A home of each database, and vendors that know the person."""
    with fresh(process):
        if request.param == "duckdb":
            yield home_of(process, tmp_path)
        else:
            with fresh_database(request.getfixturevalue("server"), "forget") as url:
                yield home_of(process, tmp_path, url)


def test_forgotten_by_the_command_line_and_kept_out_of_every_later_night(home: Home, process: SandboxProcess) -> None:
    first = home("run", "--json")
    assert first.code == 0, first.out + first.err
    before = home.everything()
    assert home.traces()

    dry = home("forget", EMAIL.lower(), "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert home.everything() == before
    print(json.dumps(dry.json, indent=1, ensure_ascii=False))

    done = home("forget", EMAIL.lower(), "--yes")
    assert done.code == 0, done.out + done.err
    assert EMAIL.lower() not in (done.out + done.err).lower()
    assert home.traces() == []

    for _ in range(2):
        again = home("run", "--json")
        assert again.code == 0, again.out + again.err
        assert home.traces() == []
        print({n: (t["status"], t["vendor_count"], t["extracted"], t["live"], t["notes"], t["error"]) for n, t in again.tables.items() if t["status"] != "unchanged" or t["notes"]})
    assert 0
