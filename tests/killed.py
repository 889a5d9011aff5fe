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

from pipelines.cli import main as cli
from pipelines.config import dlt_setup
from pipelines.config.project import Place

Step = tuple[str, str, int, str]
"""Module and name of a function; before or after it; which call; a text in its arguments."""

# Where a night can be met, each named once.
TO_PARQUET = "sources.extract.extractor:to_parquet"
KEEP_STATE = "dlt.common.storages.load_package:PackageStorage.save_pipeline_state"
COMMIT_EXTRACT = "dlt.extract.extract:Extract.commit_packages"
NORMALIZE = "dlt.normalize.normalize:Normalize.run"
COMMIT_NORMALIZED = "dlt.common.storages.load_storage:LoadStorage.commit_new_load_package"
START_JOBS = "dlt.load.load:Load.start_new_jobs"
COMPLETE_JOB = "dlt.common.storages.load_package:PackageStorage.complete_job"
MERGE = "dlt.destinations.sql_jobs:SqlMergeFollowupJob.generate_sql"
COMPLETE_LOAD = "dlt.load.load:Load.complete_package"
COMPLETED = "dlt.common.storages.load_storage:LoadStorage.complete_load_package"
LOAD = "pipelines.run.load:_load"
MARK_DELETED = "pipelines.run.load:mark_deleted"
COUNT = "pipelines.run.load:_count"
CLOSE_RUN = "pipelines.ledger.store:Ledger.close_run"
LEDGER_KNOWS = "pipelines.ledger.store:Ledger.published"
DUCKDB_COMMIT = "dlt.destinations.impl.duckdb.sql_client:DuckDbSqlClient.commit_transaction"
CHECKPOINT = "pipelines.catalog.system_tables:write_ledger"
SWAP = "os:replace"
COPY = "pipelines.warehouse.postgres.dlt_destination:BinaryCopyJob.run"
COMMIT = "pipelines.warehouse.postgres.warehouse:Postgres._commit"

STEPS: dict[str, dict[str, Step]] = {
    "both": {
        "between two tables": (TO_PARQUET, "before", 2, ""),
        "before the extract is committed": (COMMIT_EXTRACT, "before", 1, ""),
        "after the extract is committed": (COMMIT_EXTRACT, "after", 1, ""),
        "before anything is normalized": (NORMALIZE, "before", 1, ""),
        "before the normalized files are committed": (COMMIT_NORMALIZED, "before", 1, ""),
        "before the extracted package is deleted": (COMMIT_NORMALIZED, "after", 1, ""),
        "before the first job": (START_JOBS, "before", 1, ""),
        "a job is committed and not marked": (COMPLETE_JOB, "before", 1, ""),
        "a job is committed and marked": (COMPLETE_JOB, "after", 1, ""),
        "at the start of a merge": (MERGE, "before", 1, ""),
        "before the load is completed": (COMPLETE_LOAD, "before", 1, ""),
        "completed there, not here": (COMPLETED, "before", 1, ""),
        "loaded, and deletions not marked": (MARK_DELETED, "before", 1, ""),
        "before the counts": (COUNT, "before", 1, ""),
        "before the run is closed": (CLOSE_RUN, "before", 1, "'status': 'ok'"),
        "published, before the ledger knows": (LEDGER_KNOWS, "before", 1, ""),
    },
    "duckdb": {
        "before the checkpoint": (CHECKPOINT, "after", 1, ""),
        "before it is published": (SWAP, "before", 1, "warehouse.duckdb"),
        "once published": (SWAP, "after", 1, "warehouse.duckdb"),
    },
    "postgres": {
        "a file is copied": (COPY, "after", 1, ""),
        "before it is published": (COMMIT, "before", 1, ""),
        "once published": (COMMIT, "after", 1, ""),
    },
}
"""The step boundaries of a night, whatever it loads; and those of one database."""
PUBLISHED = ("published, before the ledger knows", "once published")
"""Steps after which a night's work is the warehouse."""


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
    prepare = dlt_setup.prepare

    def prepare_and_arm(place: Place) -> None:
        prepare(place)
        arm(target, when, int(nth), text)

    dlt_setup.prepare = prepare_and_arm
    sys.argv = ["nightload", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
