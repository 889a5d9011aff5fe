"""Metrics in Prometheus' text form, written whole to a file that a node exporter's textfile collector reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.config.files import replace
from pipelines.config.project import Place
from pipelines.config.sections import SECTIONS, section, text
from pipelines.ledger.store import Ledger
from pipelines.monitoring.status import standing

Sample = tuple[dict[str, str], float]
STATUSES = ("ok", "mismatch", "failed", "crashed", "running", "replayed", "missed")


def write(place: Place, ledger: Ledger, *, now: datetime | None = None) -> Path | None:
    """Write the file of `[metrics] file`; None if there is no such setting. Raises OSError, `ConfigurationError`."""
    told = text(section(place.home, "metrics", known=SECTIONS["metrics"]), "file", where="metrics")
    if told is None:
        return None
    path = place.home / Path(told).expanduser()
    replace(path, render(ledger, place, now=now or datetime.now(UTC)), mode=0o644)  # the collector is another user
    return path


def render(ledger: Ledger, place: Place, *, now: datetime) -> str:
    vendors = standing(ledger, place, now=now)
    return "".join(
        line for name, kind, about, samples in _metrics(ledger, vendors) for line in _lines(name, kind, about, samples)
    )


def _metrics(ledger: Ledger, vendors: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, list[Sample]]]:
    last = ledger.query("SELECT * FROM runs ORDER BY run_id DESC LIMIT 1")
    for run in last:
        state = [({"status": status}, float(run["status"] == status)) for status in STATUSES]
        yield "nightload_last_run_status", "gauge", "1 for the status that the last run has.", state
        begun: list[Sample] = [({}, _seconds(run["started_at"]))]
        yield "nightload_last_run_started_timestamp_seconds", "gauge", "When the last run began.", begun
        ended: list[Sample] = [({}, _seconds(run["finished_at"]))] if run["finished_at"] else []
        yield "nightload_last_run_finished_timestamp_seconds", "gauge", "When the last run ended.", ended
    of_vendor: list[tuple[str, str, str]] = [
        ("ok", "1 if the vendor's last run was green.", "ok"),
        ("fresh", "1 if its last good run is as recent as it must be.", "fresh"),
        ("last_good_timestamp_seconds", "When its last good run ended.", "last_good"),
        ("run_seconds", "How long its last run took.", "seconds"),
        ("requests", "Requests of its last run.", "requests"),
    ]
    for name, about, key in of_vendor:
        samples = [({"vendor": vendor["vendor"]}, _number(vendor, key)) for vendor in vendors]
        yield f"nightload_vendor_{name}", "gauge", about, _known(samples)
    tables = [(vendor["vendor"], table) for vendor in vendors for table in vendor["tables"] if not table["left_out"]]
    of_table = [
        ("ok", "1 if the table's last run was good.", "ok"),
        ("fresh", "1 if its last good load is as recent as it must be.", "fresh"),
        ("last_good_timestamp_seconds", "When it was last good.", "last_good"),
        ("vendor_rows", "Rows that the vendor counted in the last run.", "vendor_count"),
        ("extracted_rows", "Rows extracted in the last run.", "extracted"),
        ("landed_rows", "Rows found in the warehouse after the last run.", "landed"),
        ("live_rows", "Rows that are live in the warehouse.", "live"),
    ]
    for name, about, key in of_table:
        of_tables = [({"vendor": vendor, "table": table["table"]}, _number(table, key)) for vendor, table in tables]
        yield f"nightload_table_{name}", "gauge", about, _known(of_tables)
    counted = ledger.query("SELECT kind, count(*) AS n FROM incidents WHERE closed_at IS NULL GROUP BY kind")
    opened = {row["kind"]: row["n"] for row in counted}
    kinds = sorted({"run", "vendor", "table", "counts", "stale", *opened})
    incidents: list[Sample] = [({"kind": kind}, float(opened.get(kind, 0))) for kind in kinds]
    yield "nightload_incidents_open", "gauge", "Incidents that are not over.", incidents
    failing: list[Sample] = [
        ({"channel": name.partition(":")[2]}, float(bool(told.get("error"))))
        for name, told in ledger.marks("channel:").items()
    ]
    yield (
        "nightload_alert_channel_failing",
        "gauge",
        "1 if the last alert by this channel was not taken.",
        failing,
    )


def _number(row: Mapping[str, Any], key: str) -> float | None:
    if key == "ok":
        return float(row["status"] in ("ok", "unchanged", "warning", "replayed"))
    value = row[key]
    if value is None:
        return None
    return _seconds(value) if isinstance(value, str) else float(value)


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


def _known(samples: Iterable[tuple[dict[str, str], float | None]]) -> list[Sample]:
    return [(labels, value) for labels, value in samples if value is not None]


def _lines(name: str, kind: str, about: str, samples: list[Sample]) -> Iterator[str]:
    if not samples:
        return
    yield f"# HELP {name} {about}\n# TYPE {name} {kind}\n"
    for labels, value in samples:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{name}{{{told}}} {value:.17g}\n" if told else f"{name} {value:.17g}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
