"""A look at a vendor's table without loading it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pendulum

from pipelines.request import refuse_unknown_table, vendor_of
from sources.errors import ConfigurationError
from sources.extraction import Extraction
from sources.quoting import literal
from sources.vendor import package


def read(name: str, *, limit: int) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Columns (name, type, vendor's label) and rows of `dataset.table`, straight from the vendor.

    Raises `ConfigurationError` if no vendor has such a table.
    """
    refuse_unknown_table(name)
    dataset = name.partition(".")[0]
    owner = vendor_of(dataset)
    vendor = package(owner).connect()
    with tempfile.TemporaryDirectory(prefix="nightload-") as folder, vendor.http:
        extraction = Extraction(
            vendor=owner, spool_dir=Path(folder), until=pendulum.now("UTC"), tables=frozenset({name})
        )
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
