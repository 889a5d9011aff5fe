"""dlt's state of a dataset, read and changed outside a load."""

from __future__ import annotations

import secrets
from collections.abc import Collection

import dlt

from pipelines.config.project import Place
from pipelines.warehouse.base import Warehouse


def pipeline_of(place: Place, warehouse: Warehouse, dataset: str) -> dlt.Pipeline:
    """dlt's pipeline of a dataset, as the warehouse knows it."""
    folder = place.work / f"tending-{secrets.token_hex(4)}"
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = dlt.pipeline(
        dataset, pipelines_dir=str(folder), destination=warehouse.destination(), dataset_name=dataset
    )
    pipeline.sync_destination()
    return pipeline


def forget_digests(place: Place, warehouse: Warehouse, dataset: str, tables: Collection[str]) -> None:
    """Let the next night load these tables whatever it is compared with: other rows stand there now."""
    pipeline = pipeline_of(place, warehouse, dataset)
    with pipeline.managed_state(extract_state=True) as state:
        resources = state.get("sources", {}).get(dataset, {}).get("resources", {})
        for table in tables:
            for name in ("digest", "window"):
                resources.get(table, {}).pop(name, None)
    if pipeline.has_pending_data:
        pipeline.normalize()
        with warehouse.write():
            pipeline.load(raise_on_failed_jobs=True)
        warehouse.clear_staging(dataset)
