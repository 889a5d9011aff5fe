"""Protections that can be switched off, to see that the soak finds what they protect from: `soak.py --broken NAME`.

Each is found by `--seed N --calm C --nights K --every 9`, N, C and K being
swap 1 0.9 1, leftovers 1 0.9 1, deletions 1 0.9 5, crashed 57 0.2 1, lock 6 0.1 1, missed 6 0.1 6; on
`--warehouse postgres` transaction 23 0.1 1, cursor 294 0.3 2.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from dlt.pipeline.state_sync import state_doc

from pipelines.ledger.store import Ledger
from pipelines.run import load as passes
from pipelines.run import runner
from pipelines.run.context import Night
from pipelines.scheduling import run_history
from pipelines.warehouse.duckdb import warehouse
from pipelines.warehouse.postgres.connection import connect
from pipelines.warehouse.postgres.warehouse import Postgres


def swap() -> None:
    """A night that is proven is not published."""
    replace = os.replace

    def kept(source: Any, target: Any) -> None:
        if not str(target).endswith("warehouse.duckdb"):
            replace(source, target)

    warehouse.os.replace = kept  # type: ignore[assignment]


def deletions() -> None:
    """What is gone at the vendor's stays live."""
    passes.mark_deleted = lambda *_, **__: None


def crashed() -> None:
    """A run that was killed stays open in the ledger."""
    Ledger.close_crashed = lambda self, *, but=(): []  # type: ignore[method-assign]


def missed() -> None:
    """A night that never began is not told."""
    run_history.Nights.missed = lambda *_: None  # type: ignore[method-assign]


def lock() -> None:
    """Two runs may write at once."""

    @contextlib.contextmanager
    def open_to_all(place: Any) -> Iterator[None]:
        place.state.mkdir(parents=True, exist_ok=True)
        yield

    runner.lock = open_to_all


def leftovers() -> None:
    """What a run worked with stays."""
    runner.shutil.rmtree = lambda *_, **__: None  # type: ignore[assignment]


def transaction() -> None:
    """Postgres shows what is loaded before it is proven."""
    count = passes._count

    def committed(night: Night, *arguments: Any) -> None:
        if isinstance(night.warehouse, Postgres) and night.warehouse._shared and night.warehouse._shared.writing:
            night.warehouse._shared.end(commit=True)
        count(night, *arguments)

    passes._count = committed


def cursor() -> None:
    """Postgres keeps the cursors of a night before its rows: a night that then dies loses them."""
    load = passes._load

    def early(night: Night, pipeline: Any, *arguments: Any) -> bool:
        assert isinstance(night.warehouse, Postgres)
        told, dataset = state_doc(pipeline.state), pipeline.dataset_name
        kept = (f'"{dataset}"._dlt_pipeline_state', "_dlt_load_id"), (f'"{dataset}"._dlt_loads', "load_id")
        with closing(connect(night.warehouse._url)) as other, other.cursor() as asked:
            asked.execute("SELECT to_regclass(%s)", (kept[0][0],))
            if not pipeline.has_pending_data or asked.fetchone() == (None,):
                return load(night, pipeline, *arguments)
            new = f"{float(pipeline.list_extracted_load_packages()[-1]) - 0.001:.7f}"
            asked.execute(
                "INSERT INTO {0} (version, engine_version, pipeline_name, state, created_at, version_hash, "  # noqa: UP032
                "_dlt_load_id, _dlt_id) SELECT %s, engine_version, pipeline_name, %s, now(), %s, %s, %s "
                "FROM {0} LIMIT 1".format(kept[0][0]),
                (told["version"], told["state"], told["version_hash"], new, new),
            )
            asked.execute(
                "INSERT INTO {0} (load_id, schema_name, status, inserted_at, schema_version_hash) SELECT %s, "  # noqa: UP032
                "schema_name, 0, now(), schema_version_hash FROM {0} LIMIT 1".format(kept[1][0]),
                (new,),
            )
        loaded = load(night, pipeline, *arguments)
        with night.warehouse.write() as session:
            for table, column in kept:
                session.change(f"DELETE FROM {table} WHERE {column} = ?", [new])
        return loaded

    passes._load = early


def nothing() -> None:
    """All is as it should be."""


PROTECTIONS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (nothing, swap, deletions, crashed, missed, lock, leftovers, transaction, cursor)
}
