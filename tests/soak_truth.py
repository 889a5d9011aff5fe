"""What must be so, whatever the nights of a soak have met."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.config import project as places
from pipelines.ledger.store import MISSED
from postgres_server import execute
from soak_clockwork import PATIENCE, START, Clockwork, Wrong


class Truth(Clockwork):
    """What must be so, at once or when all is loaded; raises `Wrong`."""

    def check(self, number: int) -> None:
        """All vendors are loaded by hand without any fault; then all that is promised must be so."""
        started = time.monotonic()
        by_hand = self.command("run", "--json")
        out, err = by_hand.communicate(PATIENCE)
        self.codes[by_hand.pid] = by_hand.returncode
        if by_hand.returncode != 0:
            raise Wrong(f"a night without any fault ended with {by_hand.returncode}: {out[-2000:]} {err[-1000:]}")
        rows = 0
        for part in self.parts:
            try:
                part.rows_there = part.check(self.night, self.now())
                rows += part.rows_there
            except Exception as wrong:
                raise Wrong(f"{part.name} is not as its truth: {str(wrong)[:3000] or 'see the check'}") from wrong
        self.compared += rows
        self.ledger_is_true()
        self.nothing_is_left()
        sys.stdout.write(f"{number:4} all true: {rows} rows, {time.monotonic() - started:.1f} s\n")
        sys.stdout.flush()

    def ledger(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What the ledger's file says now."""
        place = places.at(self.night.database.url or places.DEFAULT, self.night.home)
        with contextlib.closing(sqlite3.connect(f"file:{place.ledger}?mode=ro", uri=True)) as ledger:
            return ledger.execute(sql, parameters).fetchall()

    def tries(self) -> dict[str, list[str]]:
        """Vendor → how its tries ended in the run that began last."""
        found: dict[str, list[str]] = {}
        newest = "SELECT max(run_id) FROM runs WHERE status <> 'missed' AND started_at > ?"
        begun = datetime.fromtimestamp(self.clock.wall, UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(sqlite3.OperationalError):  # the first run of all makes the ledger
            for vendor, status in self.ledger(
                f"SELECT vendor, status FROM run_tries WHERE run_id = ({newest}) ORDER BY attempt", begun
            ):
                found.setdefault(vendor, []).append(status)
        return found

    def ledger_is_true(self) -> None:
        night, place = self.night, places.at(self.night.database.url or places.DEFAULT, self.night.home)
        with contextlib.closing(sqlite3.connect(place.ledger)) as ledger:
            ledger.row_factory = sqlite3.Row
            runs = [dict(row) for row in ledger.execute("SELECT * FROM runs ORDER BY run_id")]
            tables = [dict(row) for row in ledger.execute("SELECT * FROM run_tables")]
        last = max(run["started_at"] for run in runs if run["status"] == "ok")
        shown = night.rows("SELECT run_id, status FROM nightload.runs")
        told = {run["run_id"]: run["status"] for run in runs if run["started_at"] <= last}
        self.same({row[0]: row[1] for row in shown} | told, {**told, **dict(shown)}, "the ledger in the warehouse")
        if missing := set(told) - {row[0] for row in shown}:
            raise Wrong(f"the warehouse does not show the runs {sorted(missing)[:5]}")
        if open_ones := [run["run_id"] for run in runs if run["finished_at"] is None]:
            raise Wrong(f"runs are open: {open_ones}")
        self.same(len(runs), len({run["run_id"] for run in runs}), "runs that are there once")
        for run in runs:
            if run["status"] == MISSED:
                continue
            code = self.codes.get(run["pid"], -1)
            expected = {
                0: {"ok"}, **{each: {"failed"} for each in (1, 2, 130)}, 4: {"mismatch"}, -15: {"failed", "crashed"},
                -9: {"crashed", "ok", "failed", "mismatch"}, None: {"ok", "crashed", "failed", "mismatch"},
            }.get(code, set())  # fmt: skip
            if run["pid"] in self.without_room:
                expected = expected | {"crashed"}  # for want of room, its end could not be written down
            if run["status"] not in expected:
                raise Wrong(f"run {run['run_id']} ended with {code}, and the ledger says {run['status']}")
        self.every_night_is_told(runs)
        good = {row["load_id"] for row in tables if row["load_id"]}
        for dataset, table in night.rows(
            "SELECT schema_name, table_name FROM duckdb_columns() WHERE column_name = '_dlt_load_id' "
            "AND schema_name NOT LIKE '%\\_staging' ESCAPE '\\' AND table_name NOT LIKE '\\_dlt%' ESCAPE '\\'"
        ):
            strange = {
                load for (load,) in night.rows(f'SELECT DISTINCT _dlt_load_id FROM "{dataset}"."{table}"')
            } - good
            if strange:
                raise Wrong(f"{dataset}.{table} has rows of loads that the ledger does not know: {sorted(strange)[:5]}")
        for (dataset,) in night.rows("SELECT schema_name FROM duckdb_tables() WHERE table_name = '_dlt_loads'"):
            twice = night.rows(f'SELECT load_id FROM "{dataset}"._dlt_loads GROUP BY 1 HAVING count(*) > 1')
            self.same(twice, [], f"loads of {dataset} that are there twice")

    def nothing_unproven(self) -> None:
        """Every row that is shown is of a load that the ledger beside it tells of: both came at once, or neither."""
        if not self.night.is_loaded():
            return
        tables = self.night.look(
            "SELECT table_schema, table_name FROM information_schema.columns WHERE column_name = '_dlt_load_id' "
            "AND table_schema NOT LIKE '%\\_staging' ESCAPE '\\' AND table_name NOT LIKE '\\_dlt%' ESCAPE '\\'"
        )
        loads = " UNION ".join(f'SELECT _dlt_load_id FROM "{dataset}"."{table}"' for dataset, table in sorted(tables))
        if loads and (strange := self.night.look(f"({loads}) EXCEPT SELECT load_id FROM nightload.run_tables")):
            raise Wrong(f"the warehouse shows rows of loads that nobody has proven: {strange[:5]}")

    def every_night_is_told(self, runs: Sequence[dict[str, Any]]) -> None:
        # while no scheduler is there, the nights are owed: the next one tells them
        end = self.now() if self.down_until is None else self.down_since
        for schedule in self.schedules.values():
            vendors = json.dumps(list(schedule.vendors))
            own = [run for run in runs if run["vendors"] == vendors]
            missed = {datetime.fromisoformat(run["started_at"]) for run in own if run["status"] == MISSED}
            began = [datetime.fromisoformat(run["started_at"]) for run in own if run["status"] != MISSED]
            for due in schedule.fires(START, end):
                following = schedule.next_fire(due)
                if due not in missed and not any(due <= each < following for each in began):
                    raise Wrong(f"the ledger says nothing of {schedule.name}, due {due}")

    def nothing_is_left(self) -> None:
        usual = {".dlt/config.toml", *(f"data/{self.night.state.name}/schedule.{kind}" for kind in ("json", "lock"))}
        usual |= {f"data/{self.night.state.name}/{name}" for name in ("alerts.lock",)}
        if left := self.night.files() - usual:
            raise Wrong(f"files are left: {sorted(left)[:10]}")
        if left := {path.name for path in self.night.state.iterdir() if path.is_dir()}:
            raise Wrong(f"folders are left: {sorted(left)}")

    def same(self, found: object, expected: object, what: str) -> None:
        if found != expected:
            raise Wrong(f"{what}: {found!r:.500}, not {expected!r:.500}")

    def measure(self, number: int) -> None:
        pid = self.scheduler.pid if self.scheduler else 0
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            peaks = [each["peak"] for each in self.told()[-10:] if "peak" in each]
            url = self.night.database.url
            found = {
                "night": number,
                "rows": sum(part.rows_there for part in self.parts),
                "warehouse MB": _megabytes(
                    execute(url, "SELECT pg_database_size(current_database())")[0][0]
                    if url
                    else self.night.warehouse.stat().st_size
                ),
                "ledger MB": _megabytes((self.night.state / "ledger.sqlite").stat().st_size),
                "home MB": _megabytes(
                    sum(path.stat().st_size for path in self.night.home.rglob("*") if path.is_file())
                ),
                "scheduler MB": int(status.partition("VmRSS:")[2].split()[0]) // 1024,
                "scheduler's files": len(os.listdir(f"/proc/{pid}/fd")),
                "a night's MB": max(peaks, default=0),
                "files": len(self.night.files()),
            }
            self.figures.append(found)
            sys.stdout.write(f"     {found}\n")


def _megabytes(size: float) -> float:
    return round(size / 2**20, 2)
