"""Killed at any moment, a night leaves yesterday's warehouse; the next one loads everything, once.

`python tests/crash_matrix.py` shows whose night is killed where, on which database, with which kinds of tables.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

import killed
from conftest import DATABASES, Database, Night, empty, settle
from forked import Forks
from redash import Row, assert_warehouse_is_the_truth
from reference import truth
from sandbox_process import SandboxProcess

MERGED, REPLACED = "query_snippets.", "query_"

POINTS: dict[str, killed.Step] = {
    **killed.STEPS["both"],
    "between two tables": (killed.TO_PARQUET, "before", 3, ""),
    "before a table's state is kept": (killed.KEEP_STATE, "before", 1, ""),
    "between the two datasets": (killed.COMMIT_EXTRACT, "after", 2, ""),
    "a job that replaces is committed and not marked": (killed.COMPLETE_JOB, "before", 1, REPLACED),
    "a job that replaces is committed and marked": (killed.COMPLETE_JOB, "after", 1, REPLACED),
    "a merge's staging job is committed and not marked": (killed.COMPLETE_JOB, "before", 1, MERGED),
    "one dataset loaded, the other not": (killed.LOAD, "before", 2, ""),
}
OF_ONE: dict[str, dict[str, killed.Step]] = {
    "duckdb": {
        **killed.STEPS["duckdb"],
        "inside an open transaction": (killed.DUCKDB_COMMIT, "before", 4, ""),
    },
    "postgres": {
        **killed.STEPS["postgres"],
        "a file is copied": (killed.COPY, "after", 4, ""),
    },
}
"""Points that only one of the databases has."""
RANDOM_KILLS = 6
TABLES = ("queries", "query_versions", "query_snippets", "query_results")


@dataclass
class Killed:
    night: Night
    code: int
    before: dict[str, Any]
    after: dict[str, Any]
    reads: int
    unreadable: list[str] = field(default_factory=list)


@dataclass
class Yesterday:
    """A warehouse of one good night, and a vendor that moved on since."""

    home: Path
    base: Night
    contents: dict[str, Any]
    sandbox: SandboxProcess
    forking: Forks
    results: Callable[[Row], bool]

    def copy(self, name: str) -> Night:
        return self.base.twin(self.home.with_name(name.replace(" ", "-").replace("'", "")))

    @property
    def kind(self) -> str:
        return "duckdb" if self.base.database.url is None else "postgres"

    @property
    def points(self) -> dict[str, tuple[str, str, int, str]]:
        return POINTS | OF_ONE[self.kind]


def contents(warehouse: Path) -> dict[str, Any]:
    """Everything a vendor said, without what differs from one load to the next."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        tables = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() "
            "WHERE schema_name LIKE 'tonalytica%' AND table_name NOT LIKE '\\_dlt%' ESCAPE '\\'"
        ).fetchall()
        found: dict[str, Any] = {}
        for schema, table in tables:
            names = [row[0] for row in connection.execute(f'DESCRIBE "{schema}"."{table}"').fetchall()]
            picked = [
                f'"{name}" IS NULL' if name in ("_deleted_at", "valid_to") else f'"{name}"::VARCHAR'
                for name in names
                if name not in ("_dlt_load_id", "_dlt_id", "valid_from")
            ]
            rows = connection.execute(f'SELECT {", ".join(picked)} FROM "{schema}"."{table}"').fetchall()
            found[f"{schema}.{table}"] = sorted(rows, key=repr)
        return found


def image(night: Night) -> object:
    """The warehouse as it is, to the byte where it is a file."""
    return night.warehouse.read_bytes() if night.database.url is None else night.contents()


@dataclass
class Played:
    """All that was killed on one database, and the night that nobody killed."""

    yesterday: Yesterday
    whole: dict[str, Any]
    kills: dict[str, Killed]


@pytest.fixture(scope="module")
def on(
    sandbox_process: SandboxProcess,
    forking: Forks,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[[str], Played]]:
    """Of each kind of database; played when first asked for."""
    with contextlib.ExitStack() as stack:

        @cache
        def play(kind: str) -> Played:
            database = stack.enter_context(empty(kind, request))
            yesterday = play_yesterday(sandbox_process, forking, tmp_path_factory.mktemp("crash"), database)
            whole, took = play_unbroken(yesterday)
            return Played(yesterday, whole, play_kills(yesterday, took))

        yield play


def play_yesterday(sandbox_process: SandboxProcess, forking: Forks, folder: Path, database: Database) -> Yesterday:
    sandbox_process.control("tonalytica", "POST", "reset")
    home = folder / "yesterday"
    home.mkdir()
    base = settle(Night(home=home, database=database), sandbox_process)
    queries = [row for row in truth(sandbox_process, "queries") if row["_where"] == "list"]
    loaded = [row["id"] for row in queries if row["latest_query_data_id"] and not row["is_archived"]][:3]
    kept = loaded[2]
    base.set(
        results={"include": {"ids": loaded}, "keep_history": [kept]},
        exclude=["visualizations", "dashboards", "widgets", "data_sources", "users", "alerts"],
    )
    assert base.run("tonalytica").code == 0
    edits: list[dict[str, Any]] = [
        {
            "table": "queries",
            "op": "execute",
            "key": key,
            "row": {"rows": [{"n": n, "t": f"text {n}"} for n in range(9)]},
        }
        for key in loaded
    ]
    edits += [
        {"table": "query_snippets", "op": "insert", "row": {"id": 77, "trigger": "fresh"}},
        {"table": "query_snippets", "op": "delete", "key": 2},
        {"table": "queries", "op": "update", "key": queries[-1]["id"], "row": {"query": "select 'other'"}},
    ]
    sandbox_process.control("tonalytica", "POST", "edit", edits)
    return Yesterday(home, base, contents(base.warehouse), sandbox_process, forking, lambda row: row["id"] in loaded)


def play_unbroken(yesterday: Yesterday) -> tuple[dict[str, Any], float]:
    """What a night that nobody kills comes to, and how long it takes."""
    night = yesterday.copy("unbroken")
    started = time.monotonic()
    ran = yesterday.forking.night(night, "run", "tonalytica", "--json")
    assert ran.wait(60) == 0, ran.communicate()
    took = time.monotonic() - started
    assert modes_loaded(night) == {"full", "history", "kept", "latest"}, "else the matrix has a hole"
    assert_warehouse_is_the_truth(night, yesterday.sandbox, results=yesterday.results, tables=TABLES)
    return contents(night.warehouse), took


def modes_loaded(night: Night) -> set[str]:
    """The kinds of tables into which the last night brought rows."""
    last = "run_id = (SELECT max(run_id) FROM nightload.runs)"
    return {mode for (mode,) in night.rows(f"SELECT mode FROM nightload.run_tables WHERE {last} AND status = 'ok'")}


def play_kills(yesterday: Yesterday, took: float) -> dict[str, Killed]:
    """All of them, two at a time."""
    seed = random.SystemRandom().randrange(10**6)
    dice = random.Random(seed)
    sys.stdout.write(f"seed of the random kills: {seed}\n")
    moments = {f"random {n}": dice.uniform(0, 1.05) * took for n in range(RANDOM_KILLS)}
    with ThreadPoolExecutor(2) as pool:
        named = {name: pool.submit(kill, yesterday, name, point=point) for name, point in yesterday.points.items()}
        named |= {name: pool.submit(kill, yesterday, name, after=moment) for name, moment in moments.items()}
        return {name: future.result() for name, future in named.items()}


def kill(yesterday: Yesterday, name: str, *, point: Any = None, after: float = 0) -> Killed:
    night = yesterday.copy(name)
    process = yesterday.forking.night(night, "run", "tonalytica", "--json", arm=point or ())
    started, reads, unreadable = time.monotonic(), 0, []
    while process.poll() is None:
        if not point and time.monotonic() - started > after:
            process.send_signal(signal.SIGKILL)
        try:
            assert night.look("SELECT count(*) FROM tonalytica.query_snippets") in ([(6,)], [(7,)])
            reads += 1
        except (duckdb.Error, psycopg2.Error, AssertionError) as error:
            unreadable.append(str(error))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.25)
    process.communicate()
    for file in night.home.rglob("*"):
        assert not (file.is_file() and b"CANARY" in file.read_bytes()), f"{file} holds a key"
    return Killed(night, process.returncode, yesterday.contents, contents(night.warehouse), reads, unreadable)


RANDOM = [f"random {n}" for n in range(RANDOM_KILLS)]


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in DATABASES for name in [*POINTS, *OF_ONE[kind], *RANDOM]]
)
def test_killed_night_changes_nothing_and_the_next_one_is_whole(
    kind: str, name: str, on: Callable[[str], Played]
) -> None:
    found, whole = on(kind).kills[name], on(kind).whole
    night = found.night
    is_random = name.startswith("random")
    assert found.code == -signal.SIGKILL or (is_random and found.code == 0)
    assert (found.unreadable, found.reads > 0) == ([], True)
    done = name in killed.PUBLISHED
    if not is_random:
        assert found.after == (whole if done else found.before)
    assert found.after in (found.before, whole)

    ran = night.run("tonalytica")
    assert (ran.code, ran.json["status"]) == (0, "ok")
    assert contents(night.warehouse) == whole
    assert night.files() == set()
    assert sorted(path.name for path in night.state.iterdir() if path.is_dir()) == []
    with sqlite3.connect(night.state / "ledger.sqlite") as ledger:
        states = [row[0] for row in ledger.execute("SELECT status FROM runs ORDER BY started_at")]
    begun = len(states) == 3  # a random kill may come before the run has begun, and after it has come to its end
    ended = is_random and found.after == whole and "crashed" not in states
    assert states == (["ok", "crashed", "ok"] if found.code and begun and not ended else ["ok"] * len(states))
    assert begun or is_random
    assert night.rows("SELECT status FROM nightload.runs ORDER BY started_at") == [(state,) for state in states]
    assert night.rows(
        "SELECT count(*) FROM (SELECT load_id FROM tonalytica._dlt_loads GROUP BY 1 HAVING count(*) > 1)"
    ) == [(0,)]


@pytest.mark.parametrize("kind", DATABASES)
def test_sigterm_while_waiting_for_the_vendor_ends_the_run_at_once(kind: str, on: Callable[[str], Played]) -> None:
    yesterday = on(kind).yesterday
    night, sandbox = yesterday.copy("sigterm waiting"), yesterday.sandbox
    before = image(night)
    sandbox.control("tonalytica", "POST", "faults", [{"match": {"path": "query_snippets"}, "do": {"delay": 20}}])
    asked = sandbox.control("tonalytica", "GET", "stats")["by_path"].get("GET /api/query_snippets", 0)
    process = yesterday.forking.night(night, "run", "tonalytica", "--json")
    while sandbox.control("tonalytica", "GET", "stats")["by_path"].get("GET /api/query_snippets", 0) == asked:
        assert process.poll() is None
        time.sleep(0.05)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=15)
    sandbox.control("tonalytica", "DELETE", "faults")
    assert time.monotonic() - sent < 10
    assert_ended_cleanly(night, process.returncode, err, before)


@pytest.mark.parametrize(
    "target",
    [
        killed.TO_PARQUET,
        killed.NORMALIZE,
        killed.START_JOBS,
        "pipelines.catalog.system_tables:replace_rows",
    ],
)
@pytest.mark.parametrize("kind", DATABASES)
def test_sigterm_anywhere_leaves_the_old_warehouse(kind: str, target: str, on: Callable[[str], Played]) -> None:
    yesterday = on(kind).yesterday
    night = yesterday.copy(f"sigterm at {target.replace(':', '-')}")
    before = image(night)
    process = yesterday.forking.night(night, "run", "--json", arm=(target, "term", 1, ""))
    _, err = process.communicate(timeout=60)
    assert_ended_cleanly(night, process.returncode, err, before)


def assert_ended_cleanly(night: Night, code: int, err: str, before: object) -> None:
    assert (code, err.strip().splitlines()[-1]) == (130, "interrupted; nothing half done was published")
    assert "Traceback" not in err
    assert image(night) == before
    assert night.files() == set()
    with sqlite3.connect(night.state / "ledger.sqlite") as ledger:
        rows = ledger.execute("SELECT status, error FROM runs ORDER BY started_at").fetchall()
    assert rows[-1] == ("failed", "interrupted")
