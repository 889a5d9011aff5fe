"""dlt, set up as nightload needs it. Import this before anything that imports dlt.

dlt reads its settings when it is first imported, so they are set by name in the environment. A
value that the user set stays.
"""

from __future__ import annotations

import os
import sys

from pipelines.config.malloc import share_one_heap
from pipelines.config.project import Place
from pipelines.config.sections import read_toml

SETTINGS = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "CRITICAL",  # what dlt would log as an error, it raises too, and that is told
    "SCHEMA__NAMING": "sources.naming",
    "LOAD__WORKERS": "1",
    "LOAD__START_NEW_JOBS_ON_SIGNAL": "false",
    "NORMALIZE__START_NEW_JOBS_ON_SIGNAL": "false",
}


def prepare(place: Place) -> None:
    """Point dlt at the home's `.dlt` and away from the user's home folder, then load it.

    Raises `ConfigurationError` if a `.dlt` file cannot be read.
    """
    os.environ["DLT_PROJECT_DIR"] = str(place.home)
    os.environ["DLT_CONFIG_FOLDER"] = ".dlt"  # the one that nightload's own sections are read from
    os.environ["DLT_DATA_DIR"] = str(place.work)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("config.toml", "secrets.toml"):
        read_toml(place.home / ".dlt" / name)
    share_one_heap()
    import dlt  # noqa: F401

    _spare_sqlalchemy()


def _spare_sqlalchemy() -> None:
    """Where SQLAlchemy is installed (it comes with Dagster), dlt imports all of it, 18 MB, to tell where a database is;
    where it is not, dlt does with a few lines of its own. Those do here as well."""
    if "sqlalchemy" in sys.modules:
        return
    # Python's way to say that there is no such module
    sys.modules["sqlalchemy"] = None  # type: ignore[assignment]
    try:
        import dlt.common.libs.sql_alchemy_compat  # noqa: F401
    finally:
        del sys.modules["sqlalchemy"]
