"""Where a run lives: the home with its `.dlt`, the warehouse, and the files that belong to it.

No heavy import here: `status` and `--help` must answer at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sources.errors import ConfigurationError

OWN_DATASET = "nightload"


@dataclass(frozen=True)
class Place:
    """A home and a DuckDB warehouse. Everything we write stands beside the warehouse file, on its disk."""

    home: Path
    warehouse: Path

    @property
    def state(self) -> Path:
        """Ledger, lock, build and working files of this warehouse."""
        return self.warehouse.with_name(f"{self.warehouse.stem}.nightload")

    @property
    def ledger(self) -> Path:
        return self.state / "ledger.sqlite"

    @property
    def lock(self) -> Path:
        return self.state / "lock"

    @property
    def build(self) -> Path:
        # the same file name: DuckDB names the catalog after it, and views hold that name
        return self.state / "build" / self.warehouse.name

    @property
    def work(self) -> Path:
        return self.state / "work"

    @property
    def url(self) -> str:
        return f"duckdb:///{self.warehouse}"


def find(home: str | None = None, warehouse: str | None = None) -> Place:
    """The place that the options, the environment or the defaults name.

    Raises `ConfigurationError` for a home that is no folder or a warehouse URL that cannot be read.
    """
    base = Path(home or os.environ.get("NIGHTLOAD_HOME") or ".").expanduser().resolve()
    if not base.is_dir():
        raise ConfigurationError(what=f"the home {base} is not a folder", todo="Give one with --home or NIGHTLOAD_HOME")
    url = warehouse or os.environ.get("NIGHTLOAD_WAREHOUSE") or "duckdb:///data/warehouse.duckdb"
    return Place(home=base, warehouse=_duckdb_path(url, base))


def _duckdb_path(url: str, home: Path) -> Path:
    parts = urlsplit(url)
    if parts.scheme != "duckdb" or parts.netloc or not parts.path.strip("/"):
        raise ConfigurationError(
            what="the warehouse URL cannot be used",
            why=f"it is {url!r}" if "@" not in url else "it names another kind of database",
            todo="Write duckdb:///data/warehouse.duckdb (below the home) or duckdb:////absolute/path.duckdb",
        )
    path = Path(unquote(parts.path[1:]))
    # resolved: a link to the file is a name of it, and a swap must not put a file in the link's place
    path = (path if path.is_absolute() else home / path).resolve()
    if not path.suffix:
        raise ConfigurationError(
            what=f"the warehouse {path.name} has no ending", todo=f"Name the file {path.name}.duckdb"
        )
    return path
