"""dlt, set up as nightload needs it. Import this before anything that imports dlt.

dlt reads its settings when it is first imported, so they are set by name in the environment. A
value that the user set stays.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.memory import share_one_heap
from pipelines.place import Place
from sources.errors import ConfigurationError, summarize

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
    os.environ["DLT_DATA_DIR"] = str(place.work)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    _refuse_broken_files(place.home / ".dlt")
    share_one_heap()
    import dlt  # noqa: F401


def _refuse_broken_files(folder: Path) -> None:
    import tomllib

    for name in ("config.toml", "secrets.toml"):
        file = folder / name
        try:
            if file.exists():
                tomllib.loads(file.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            # the parser's text names line and column, never the content
            raise ConfigurationError(
                what=f"{file} is not valid TOML", why=str(error), todo="Mend that line; texts stand in quotes"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(what=f"{file} cannot be read", why=summarize(error)) from None
