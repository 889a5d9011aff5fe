"""A look at a vendor's table without loading it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pendulum
from filelock import FileLock, Timeout

from pipelines.config.permissions import state_folder
from pipelines.config.project import Place
from pipelines.run.request import refuse_unknown_table, vendor_of
from sources.convert.duckdb_session import spilling_into
from sources.core.errors import ConfigurationError
from sources.core.sql import literal
from sources.extract.connector import package
from sources.extract.extractor import Extraction


@contextmanager
def previews(place: Place) -> Iterator[Path]:
    """A folder beside the warehouse for what one preview brings; what killed ones left goes first.

    Its lock ends with the process, so a folder whose lock is free belongs to nobody.
    """
    state_folder(place.state)
    above = place.state / "previews"
    above.mkdir(exist_ok=True, mode=0o700)
    with FileLock(above / "lock"):
        for left in above.glob("*.lock"):
            with suppress(Timeout), FileLock(left).acquire(timeout=0):
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink()
        folder = Path(tempfile.mkdtemp(dir=above))
        held = FileLock(folder.with_suffix(".lock"))
        held.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)
        held.release()


def read(name: str, *, limit: int, place: Place) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Columns (name, type, vendor's label) and rows of `dataset.table`, straight from the vendor.

    Raises `ConfigurationError` if no vendor has such a table.
    """
    refuse_unknown_table(name)
    dataset = name.partition(".")[0]
    owner = vendor_of(dataset)
    vendor = package(owner).connect()
    with previews(place) as folder, spilling_into(folder / "spilled"), vendor.http:
        extraction = Extraction(vendor=owner, spool_dir=folder, until=pendulum.now("UTC"), tables=frozenset({name}))
        for part in vendor.parts(extraction):
            if part.dataset == dataset:
                _ = part.source().resources
        if not extraction.knows(name):
            raise ConfigurationError(
                what=f"the vendor has no table {name}", todo="nightload tables lists what there is"
            )
        converted = extraction.preview(name, limit=limit)
        if not converted.columns:
            return [], []
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found = connection.execute(
                f"SELECT * EXCLUDE (_dlt_load_id) FROM {literal(converted.path)} LIMIT {limit}"  # noqa: S608
            )
            names = [column[0] for column in found.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    columns = [{"name": c.name, "type": str(c.kind), "label": c.label} for c in converted.columns]
    return columns, rows
