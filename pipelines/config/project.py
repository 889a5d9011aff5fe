"""Where a run lives: the home with its `.dlt`, the warehouse, and the files that belong to it.

No heavy import here: `status` and `--help` must answer at once.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from pipelines.config.permissions import owner_of
from sources.core.errors import ConfigurationError
from sources.core.redaction import register_secret

OWN_DATASET = "nightload"
DEFAULT = "duckdb:///data/warehouse.duckdb"


@dataclass(frozen=True)
class Place:
    """A home and a warehouse. What we write on this disk stands beside the DuckDB file, or in `data` of the home.

    `warehouse` is the DuckDB file; of a Postgres, the path that its files here are named after.
    """

    home: Path
    warehouse: Path
    postgres: str | None = field(default=None, repr=False)
    """The URL of a Postgres with its password, for libpq; None: the warehouse is a DuckDB file."""

    @property
    def state(self) -> Path:
        """Ledger, lock, build and working files of this warehouse."""
        return self.warehouse.with_name(f"{self.warehouse.stem}.nightload")

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.sqlite"

    @property
    def has_ledger(self) -> bool:
        """Was anything recorded here? Raises `ConfigurationError` in a folder that is not for this user."""
        try:
            return self.ledger.exists()
        except PermissionError:
            raise ConfigurationError(
                what=f"the folder {self.state} is not for this user",
                why=f"it belongs to {owner_of(self.state)}",
                todo="Run as the user whose nights these are",
            ) from None

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def chunk(self) -> Path:
        """Stands there while a chunk of a backfill has the lock."""
        return self.state / "chunk"

    @property
    def queue(self) -> Path:
        """The lock of whoever waits for a chunk to end."""
        return self.state / "queue.lock"

    @property
    def backfilling(self) -> Path:
        """The lock of a backfill, as long as it lasts."""
        return self.state / "backfill.lock"

    @property
    def ahead(self) -> Path:
        """What a backfill fetched and has not loaded yet."""
        return self.state / "backfill"

    @property
    def report(self) -> Path:
        """The page that is written after each run."""
        return self.state / "report.html"

    @property
    def pages(self) -> Path:
        """What vendors answered in the last runs, if that is kept."""
        return self.state / "pages"

    @property
    def build(self) -> Path:
        # the same file name: DuckDB names the catalog after it, and views hold that name
        return self.state / "build" / self.warehouse.name

    @property
    def work(self) -> Path:
        return self.state / "work"

    @property
    def kind(self) -> Literal["duckdb", "postgres"]:
        return "duckdb" if self.postgres is None else "postgres"

    @property
    def shown(self) -> str:
        """What people are told: the file, or the database without user and password."""
        return str(self.warehouse) if self.postgres is None else _without_credentials(self.postgres)


def find(home: str | None = None, warehouse: str | None = None) -> Place:
    """The place that the options, the environment, `.dlt` (`[nightload] warehouse`) or the defaults name.

    Raises `ConfigurationError` for a home that is no folder or a warehouse URL that cannot be read.
    """
    base = Path(home or os.environ.get("NIGHTLOAD_HOME") or ".").expanduser().resolve()
    if not base.is_dir():
        raise ConfigurationError(what=f"the home {base} is not a folder", todo="Give one with --home or NIGHTLOAD_HOME")
    names = ("NIGHTLOAD_WAREHOUSE", f"{OWN_DATASET}__WAREHOUSE".upper())  # the second is dlt's name of the setting
    url = warehouse or next(filter(None, map(os.environ.get, names)), None) or _configured(base) or DEFAULT
    return at(url, base)


def at(url: str, home: Path) -> Place:
    """The place of one warehouse URL. Raises `ConfigurationError`."""
    if urlsplit(url).scheme in ("postgresql", "postgres"):
        return Place(home=home, warehouse=_files_of(url, home), postgres=url)
    return Place(home=home, warehouse=_duckdb_path(url, home))


def _configured(home: Path) -> str | None:
    for name in ("secrets.toml", "config.toml"):
        file = home / ".dlt" / name
        try:
            told = tomllib.loads(file.read_text(encoding="utf-8")).get(OWN_DATASET, {})
        except (OSError, ValueError):
            continue  # a broken file is told of when dlt is set up
        if isinstance(told, dict) and isinstance(url := told.get("warehouse"), str):
            return url
    return None


def _files_of(url: str, home: Path) -> Path:
    """The path that the files of a Postgres are named after; its password becomes a known secret."""
    parts = urlsplit(url)
    try:
        password, database, port = parts.password, unquote(parts.path.strip("/")), parts.port
    except ValueError:
        password, database, port = None, "", None
    told = [password or "", unquote(password or ""), os.environ.get("PGPASSWORD", "")]
    for secret in (*told, *parse_qs(parts.query).get("password", ())):
        register_secret(secret)
    if not database or "/" in database:
        raise ConfigurationError(
            what="the warehouse URL names no database",
            where=_without_credentials(url),
            todo="Write postgresql://user:password@host:5432/database (the password may also stand in PGPASSWORD or "
            "~/.pgpass)",
        )
    host = parts.hostname or parse_qs(parts.query).get("host", ["local"])[0]
    name = re.sub(r"[^\w.-]+", "_", f"{host}_{port or 5432}_{database}").strip("_")
    return home / "data" / f"{name}.postgres"


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _duckdb_path(url: str, home: Path) -> Path:
    parts = urlsplit(url)
    if parts.scheme != "duckdb" or parts.netloc or not parts.path.strip("/"):
        raise ConfigurationError(
            what="the warehouse URL cannot be used",
            why=f"it is {url!r}" if "@" not in url else "it names another kind of database",
            todo="Write duckdb:///data/warehouse.duckdb (below the home), duckdb:////absolute/path.duckdb or "
            "postgresql://user:password@host:5432/database",
        )
    path = Path(unquote(parts.path[1:]))
    # resolved: a link to the file is a name of it, and a swap must not put a file in the link's place
    path = (path if path.is_absolute() else home / path).resolve()
    if "'" in str(path):
        raise ConfigurationError(
            what=f"the warehouse {path} has an apostrophe in its path",
            why="dlt writes the paths of its files into SQL as they are",
            todo="Name another folder with --home or --warehouse",
        )
    if not path.suffix:
        raise ConfigurationError(
            what=f"the warehouse {path.name} has no ending", todo=f"Name the file {path.name}.duckdb"
        )
    return path
