"""Nights against the sandbox: as a process where the command line is the promise, inside this one elsewhere.

What a night promises, it promises on each database: the fixture `database` runs a test once with each.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self
from unittest import mock

import duckdb
import hypothesis
import pytest

from forked import Forks, forks
from mirror import Mirror
from postgres_server import execute, fresh_database, postgres_server, with_database
from sandbox_process import SandboxProcess, start_sandbox

NIGHTLOAD = Path(sys.executable).with_name("nightload")
OURS = ("SOURCES__", "NIGHTLOAD_", "DLT_", "RUNTIME__", "DESTINATION__")

# A busy machine is slow, and that is no mistake. The same examples each time, so that a red night is red again;
# HYPOTHESIS_PROFILE=deep looks for new ones, many of them.
_QUIET = {"deadline": None, "print_blob": True, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("nightload", derandomize=True, database=None, **_QUIET)
hypothesis.settings.register_profile("deep", max_examples=3000, **_QUIET)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "nightload"))

# Files in memory cost a tenth less CPU, and nobody waits for a disk.
_memory = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(_memory, os.W_OK) and shutil.disk_usage(_memory).free > 8 * 2**30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_memory)

# dlt looks for its settings when it is first imported; nothing of this machine's user may be found.
_nowhere = Path(tempfile.mkdtemp(prefix="nightload-tests-"))
os.environ["DLT_PROJECT_DIR"] = str(_nowhere)
os.environ["DLT_DATA_DIR"] = str(_nowhere / "dlt")


OUR_SCHEMAS = "SELECT schema_name FROM information_schema.schemata WHERE schema_name !~ '^(pg_|information_|public)'"
"""Of a Postgres."""

# Postgres copies no database that somebody else copies.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Ran:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        return {table["table"]: table for vendor in self.json["vendors"] for table in vendor["tables"]}


@dataclass(frozen=True)
class Database:
    """Where a night loads to: a DuckDB file below the home, or a Postgres."""

    url: str | None = None
    mirror: Mirror | None = None

    @property
    def kind(self) -> str:
        return "duckdb" if self.url is None else "postgres"

    @property
    def keeps_json_as_written(self) -> bool:
        """jsonb has an order of its own for the keys of an object."""
        return self.url is None

    @classmethod
    def at(cls, url: str) -> Database:
        return cls(url, Mirror(url))


@dataclass
class Night:
    """A home with its warehouse, and the settings of the vendors that it knows (in the environment)."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    database: Database = Database()

    @property
    def warehouse(self) -> Path:
        """The published DuckDB file, or what stands in the Postgres as one: to read."""
        mirror = self.database.mirror
        return self.home / "data" / "warehouse.duckdb" if mirror is None else mirror.file()

    @property
    def state(self) -> Path:
        from pipelines.config import project as places

        return places.at(self.database.url or places.DEFAULT, self.home).state

    def write(self, *statements: str) -> None:
        """What somebody does to the warehouse behind our back."""
        if self.database.url is not None:
            execute(self.database.url, *statements)
            return
        with duckdb.connect(str(self.warehouse)) as connection:
            for statement in statements:
                connection.execute(statement)

    def is_loaded(self) -> bool:
        """Is there anything of a warehouse?"""
        if self.database.url is None:
            return self.warehouse.exists()
        return bool(self.look(OUR_SCHEMAS))

    def twin(self, home: Path) -> Self:
        """Another home with a warehouse that is as this one is now."""
        shutil.copytree(self.home, home)
        if self.database.url is None:
            return replace(self, home=home, settings=dict(self.settings))
        source, name = self.database.url.rpartition("/")[2], f"nightload_{secrets.token_hex(4)}"
        server = with_database(self.database.url, "postgres")
        with _ONE_AT_A_TIME:
            execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
        twin = Database.at(with_database(self.database.url, name))
        night = replace(self, home=home, settings=dict(self.settings), database=twin)
        state = home / "data" / self.state.name
        if state.exists():
            state.rename(night.state)
        return night

    def look(self, sql: str) -> list[tuple[Any, ...]]:
        """A query of somebody who reads the warehouse itself, whatever runs."""
        if self.database.url is not None:
            return execute(self.database.url, sql)
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def lose(self) -> None:
        """Lose the warehouse with all that is in it; what we keep beside it stays."""
        if self.database.url is None:
            self.warehouse.unlink()
            return
        for (schema,) in execute(self.database.url, OUR_SCHEMAS):
            execute(self.database.url, f'DROP SCHEMA "{schema}" CASCADE')

    def set(self, vendor: str = "tonalytica", **settings: Any) -> None:
        """Settings of one vendor; None takes one away."""
        for name, value in settings.items():
            variable = f"SOURCES__{vendor}__{name}".upper()
            if value is None:
                self.settings.pop(variable, None)
            else:
                self.settings[variable] = value if isinstance(value, str) else json.dumps(value)

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        # a user's shell sets no PYTHONUNBUFFERED, and with it a broken pipe shows at another moment
        others = (*OURS, "PYTHONUNBUFFERED")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        where = {"NIGHTLOAD_WAREHOUSE": self.database.url} if self.database.url else {}
        return {
            **inherited,
            "NIGHTLOAD_HOME": str(self.home),
            "COLUMNS": "200",
            **where,
            **self.settings,
            **(env or {}),
        }

    def __call__(self, *args: str, env: Mapping[str, str] | None = None, **options: Any) -> Ran:
        """The command line as a process: the installed one where it needs more than an environment, see `forked.py`."""
        if not options and not (self.home / ".dlt").exists():
            process = commands().start(*args, environment=self.environment(env), cwd=self.home)
            out, err = process.communicate(timeout=120)
            return Ran(process.wait(), out, err)
        done = subprocess.run(
            [str(NIGHTLOAD), *args],
            env=self.environment(env),
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, command: tuple[str, ...] = (str(NIGHTLOAD),), **options: Any) -> subprocess.Popen[str]:
        """The installed command line, not waited for."""
        return subprocess.Popen(
            [*command, *args],
            env=self.environment(),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def main(self, *args: str, env: Mapping[str, str] | None = None) -> Ran:
        """The command line inside this process: quicker, and all its settings come from the environment."""
        from pipelines.cli import main as cli
        from sources.core import redaction

        redaction.clear()  # a process begins without the secrets of another
        out, err, root = io.StringIO(), io.StringIO(), logging.getLogger()
        umask = os.umask(0o022)
        os.umask(umask)
        handlers, handler = root.handlers[:], signal.getsignal(signal.SIGTERM)
        root.handlers[:] = []
        try:
            with (
                mock.patch.dict(os.environ, self.environment(env), clear=True),
                mock.patch.object(sys, "argv", ["nightload", *args]),
                redirect_stdout(out),
                redirect_stderr(err),
                pytest.raises(SystemExit) as ended,
            ):
                cli.main()
        finally:
            os.umask(umask)
            root.handlers[:] = handlers
            signal.signal(signal.SIGTERM, handler)
        return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    @contextmanager
    def here(self) -> Iterator[Any]:
        """This process, set up as the command line would be for this home; yields the place."""
        from pipelines.config import project as places
        from pipelines.config.dlt_setup import prepare

        with mock.patch.dict(os.environ, self.environment(), clear=True):
            os.environ["DLT_PROJECT_DIR"] = str(_nowhere)
            place = places.find()
            prepare(place)
            yield place

    def run(self, *vendors: str, **request: Any) -> Ran:
        """One night in this process."""
        from pipelines.run.request import Request
        from pipelines.run.runner import exit_code, run
        from sources.core import redaction

        redaction.clear()  # a process begins without the secrets of another
        handler = signal.getsignal(signal.SIGTERM)
        request = {name: frozenset(value) if isinstance(value, list) else value for name, value in request.items()}
        try:
            with self.here() as place:
                report = run(Request(place=place, vendors=vendors, **request))
        finally:
            signal.signal(signal.SIGTERM, handler)
        return Ran(exit_code(report), json.dumps(report.as_json(), default=str), "")

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """A query on the published warehouse."""
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(sql, list(parameters)).fetchall()

    def files(self) -> set[str]:
        """Everything below the home but warehouses, ledgers, locks and reports."""
        usual = re.compile(
            r"data/[\w.]+(\.duckdb|\.nightload/(((alerts|backfill|queue)\.)?lock|report\.html|ledger\.sqlite(-wal|-shm)?))"
        )
        found = {str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file()}
        return {name for name in found if not usual.fullmatch(name)}

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of the vendors' datasets, dlt's own columns included."""
        with duckdb.connect(str(self.warehouse), read_only=True) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            tables = connection.execute(
                "SELECT schema_name, table_name FROM duckdb_tables() WHERE schema_name <> 'nightload'"
            ).fetchall()
            return {
                f"{schema}.{table}": sorted(
                    connection.execute(f'SELECT * FROM "{schema}"."{table}"').fetchall(), key=repr
                )
                for schema, table in tables
            }


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "tonalytica,tune", "--scale", "0.05") as process:
        yield process


@pytest.fixture
def sandbox(sandbox_process: SandboxProcess) -> SandboxProcess:
    """Both vendors, small, as seeded."""
    for vendor in sandbox_process.ready:
        sandbox_process.control(vendor, "POST", "reset")
    return sandbox_process


def settle(night: Night, sandbox: SandboxProcess) -> Night:
    """Let the night know both vendors of the sandbox, and be as quick as they are."""
    for vendor, ready in sandbox.ready.items():
        settings = {name: value for name, value in ready.items() if isinstance(value, str) and name != "control_url"}
        night.set(vendor, **settings, requests_per_second=1000)
    return night


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a Postgres, as its superuser."""
    with postgres_server() as url:
        yield url


_until_the_end = ExitStack()


@cache
def commands() -> Forks:
    """Starts commands as processes of their own, quickly."""
    return _until_the_end.enter_context(forks())


@pytest.fixture(scope="session")
def forking() -> Forks:
    return commands()


def pytest_collection_finish() -> None:
    """What is there by now stays: nobody needs to look through it for garbage, time and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    _until_the_end.close()
    shutil.rmtree(_nowhere, ignore_errors=True)
    gc.unfreeze()


LONGEST = """
dbt forget crash_vendors crash tonalytica growingio bench bad_input tune_reports thinkingengine night_of_vendors
schedule schedule_install dataworks soak clone_dashboard secrets crash_thinkingengine private copy export_queries
backfill personal replay crash_growingio state run
"""
"""Of the modules of tests, those that take longest, longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where modules run side by side, the longest begin first: none is left to run alone at the end."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


DATABASES = ("duckdb", "postgres")


@contextmanager
def empty(kind: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database of that kind."""
    if kind == "duckdb":
        yield Database()
        return
    name = f"nightload_{secrets.token_hex(4)}"
    with fresh_database(request.getfixturevalue("postgres"), name) as url:
        yield Database.at(url)


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Each database in turn, empty."""
    with empty(request.param, request) as database:
        yield database


one_database = pytest.mark.parametrize("database", ["duckdb"], indirect=True)
"""For a test of what is the same before any row is loaded: once is enough."""


@pytest.fixture(scope="module", params=DATABASES)
def kept_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Each database in turn, for a whole module."""
    with empty(request.param, request) as database:
        yield database


@pytest.fixture
def night(sandbox: SandboxProcess, tmp_path: Path, database: Database) -> Night:
    """A fresh home that knows both vendors of the sandbox, on each database."""
    return settle(Night(home=tmp_path, database=database), sandbox)


@pytest.fixture
def file_night(sandbox: SandboxProcess, tmp_path: Path) -> Night:
    """The same, for what is promised of a DuckDB file only."""
    return settle(Night(home=tmp_path), sandbox)
