"""OpenLineage: for each run and vendor a START and a COMPLETE or FAIL event, to a file (a line each) or to a URL.

The events are told when the run has ended, with the times at which it began and ended; those that could not be told
are told after the next run. https://openlineage.io/docs/spec/object-model
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import __version__
from pipelines.config.project import Place
from pipelines.config.sections import SECTIONS, section, text
from pipelines.ledger.store import Ledger
from pipelines.monitoring.notifiers import post
from sources.core.errors import NightloadError
from sources.core.redaction import register_secret

PRODUCER = f"https://pypi.org/project/nightload/{__version__}"
SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
STATISTICS = "https://openlineage.io/spec/facets/1-0-2/OutputStatisticsOutputDatasetFacet.json"
ERROR = "https://openlineage.io/spec/facets/1-0-1/ErrorMessageRunFacet.json"
MARK = "lineage"


def emit(place: Place, ledger: Ledger) -> int:
    """Tell of the runs that ended since the last telling; how many events. Raises `NightloadError`, OSError.

    The file and the URL have each their own telling: what one could not be told is not told the other again.
    """
    settings = section(place.home, "lineage", known=SECTIONS["lineage"])
    file, url = text(settings, "file", where="lineage"), text(settings, "url", where="lineage")
    if file is None and url is None:
        return 0
    token = text(settings, "token", where="lineage")
    for secret in (url, token):
        register_secret(secret or "")
    namespace = text(settings, "namespace", where="lineage") or "nightload"
    channels: dict[str, Callable[[Sequence[Mapping[str, Any]]], None]] = {}
    if file is not None:
        channels["file"] = partial(_append, place.home / Path(file).expanduser())
    if url is not None:
        channels["url"] = partial(_send, url, {"Authorization": f"Bearer {token}"} if token else None)
    told: set[tuple[str, str]] = set()
    failed: list[Exception] = []
    for name, tell in channels.items():
        try:
            for run in _untold(ledger, f"{MARK}:{name}"):
                events = list(_events(ledger, place, run, namespace))
                tell(events)
                ledger.mark(f"{MARK}:{name}", {"run_id": run["run_id"]})
                told |= {(event["run"]["runId"], event["eventType"]) for event in events}
        except (NightloadError, OSError) as error:  # the other one is told all the same, and this one later
            failed.append(error)
    if failed:
        raise failed[0]
    return len(told)


def _send(url: str, headers: Mapping[str, str] | None, events: Sequence[Mapping[str, Any]]) -> None:
    for event in events:
        post(url, event, headers=headers)


def _append(path: Path, events: Sequence[Mapping[str, Any]]) -> None:
    """A line each, or none of them: half a line would spoil the next one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events).encode(errors="replace")
        try:
            while lines:
                lines = lines[file.write(lines) :]
        except OSError:
            file.truncate(before)
            raise


def _untold(ledger: Ledger, mark: str) -> list[dict[str, Any]]:
    """The runs that ended after the one told of last; the first time, the last run."""
    marks = ledger.marks(MARK)
    last = marks.get(mark, marks.get(MARK, {})).get("run_id")  # file and URL had one mark once
    found = ledger.query(
        "SELECT * FROM runs WHERE finished_at IS NOT NULL AND run_id > ? ORDER BY run_id", (last or "",)
    )
    return found if last else found[-1:]


def _events(ledger: Ledger, place: Place, run: dict[str, Any], namespace: str) -> Iterator[dict[str, Any]]:
    ids = [run["run_id"]]
    vendors = ledger.rows("run_vendors", ids)
    tables = ledger.rows("run_tables", ids)
    for vendor in vendors or [{"vendor": None, "status": run["status"], "error": run["error"]}]:
        name = vendor["vendor"] or "run"
        job = {"namespace": namespace, "name": f"nightload.{name}", "facets": {}}
        # the same for the same run, however often it is told
        run_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"nightload:{place.shown}:{run['run_id']}:{name}"))
        own = [table for table in tables if table["vendor"] == vendor["vendor"]]
        start: dict[str, Any] = {
            "eventType": "START",
            "eventTime": run["started_at"],
            "run": {"runId": run_id, "facets": {}},
            "job": job,
            "inputs": [],
            "outputs": [],
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
        }
        yield start
        good = vendor["status"] in ("ok", "replayed")
        why = vendor["error"] or next((table["error"] for table in own if table["error"]), None) or vendor["status"]
        facets = {} if good else {"errorMessage": _facet(ERROR, message=why, programmingLanguage="Python")}
        yield start | {
            "eventType": "COMPLETE" if good else "FAIL",
            "eventTime": run["finished_at"],
            "run": {"runId": run_id, "facets": facets},
            "inputs": [_dataset(f"{namespace}.vendor.{name}", table) for table in own],
            "outputs": [_dataset(place.shown, table, counted=True) for table in own],
        }


def _dataset(namespace: str, table: dict[str, Any], *, counted: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {"namespace": namespace, "name": f"{table['dataset']}.{table['table_name']}", "facets": {}}
    if counted and table["landed"] is not None:
        told["outputFacets"] = {"outputStatistics": _facet(STATISTICS, rowCount=table["landed"])}
    return told


def _facet(schema: str, **content: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": schema, **content}
