"""nightload's command line, made to kill itself (SIGKILL, no goodbye) at one point of a night.

    python killed.py <module:name> <before|after|term> <nth call> <text in its arguments> run …

`term`: a SIGTERM instead, before the call.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

from pipelines import cli, engine
from pipelines.place import Place

Step = tuple[str, str, int, str]
"""Module and name of a function; before or after it; which call; a text in its arguments."""
STORAGE = "dlt.common.storages"
STEPS: dict[str, dict[str, Step]] = {
    "both": {
        "between two tables": ("sources.extraction:to_parquet", "before", 2, ""),
        "before the extract is committed": ("dlt.extract.extract:Extract.commit_packages", "before", 1, ""),
        "after the extract is committed": ("dlt.extract.extract:Extract.commit_packages", "after", 1, ""),
        "before anything is normalized": ("dlt.normalize.normalize:Normalize.run", "before", 1, ""),
        "the normalized files are committed": (
            f"{STORAGE}.load_storage:LoadStorage.commit_new_load_package",
            "after",
            1,
            "",
        ),
        "before the first job": ("dlt.load.load:Load.start_new_jobs", "before", 1, ""),
        "a job is committed and not marked": (f"{STORAGE}.load_package:PackageStorage.complete_job", "before", 1, ""),
        "a job is committed and marked": (f"{STORAGE}.load_package:PackageStorage.complete_job", "after", 1, ""),
        "at the start of a merge": ("dlt.destinations.sql_jobs:SqlMergeFollowupJob.generate_sql", "before", 1, ""),
        "before the load is completed": ("dlt.load.load:Load.complete_package", "before", 1, ""),
        "completed there, not here": (f"{STORAGE}.load_storage:LoadStorage.complete_load_package", "before", 1, ""),
        "loaded, and deletions not marked": ("pipelines.run:mark_deleted", "before", 1, ""),
        "before the counts": ("pipelines.run:_count", "before", 1, ""),
        "before the run is closed": ("pipelines.ledger:Ledger.close_run", "before", 1, "'status': 'ok'"),
        "once published, before the ledger knows": ("pipelines.ledger:Ledger.published", "before", 1, ""),
    },
    "duckdb": {
        "before the checkpoint": ("pipelines.warehouse.duckdb_file:write_ledger", "after", 1, ""),
        "before the swap": ("os:replace", "before", 1, "warehouse.duckdb"),
        "after the swap": ("os:replace", "after", 1, "warehouse.duckdb"),
    },
    "postgres": {
        "a file is copied": ("pipelines.warehouse.postgres_dlt:BinaryCopyJob.run", "after", 1, ""),
        "before the commit": ("pipelines.warehouse.postgres:Postgres._commit", "before", 1, ""),
        "after the commit": ("pipelines.warehouse.postgres:Postgres._commit", "after", 1, ""),
    },
}
"""The step boundaries of a night, whatever it loads; and those of one database."""


def arm(target: str, when: str, nth: int, text: str) -> None:
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    original, calls = getattr(owner, name), 0

    def trap(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if text in repr((args, kwargs)):
            calls += 1
            if calls == nth:
                if when == "after":
                    original(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGTERM if when == "term" else signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, trap)


def main() -> None:
    target, when, nth, text, *arguments = sys.argv[1:]
    prepare = engine.prepare

    def prepare_and_arm(place: Place) -> None:
        prepare(place)
        arm(target, when, int(nth), text)

    engine.prepare = prepare_and_arm
    sys.argv = ["nightload", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
