"""nightload beside other ways to load the same bytes: `python -m bench [--rounds N] [--quick]`.

    (a) one result document of 200,000 rows and 14 columns     (b) 400,000 records of 12 columns, in pages of 1000
    (c) a segment's CSV of 2,000,000 lines and 6 columns    (d) 400,000 rows of SQL, 12 columns, in pages of 10,000
    (e) 300 chart series: 150 charts of 30 days in 2 windows each, as fast as the limiter lets through
    (f) the records of (b) into Postgres, beside a raw COPY    (g) 10,000 changed rows into 0.5M and into 5M
    (h) commands from the shell                                    rows, on both databases
    (i) five vendors side by side: a first and a second night, and the slowest of them alone
    (j) one result document of 20,000 rows and 600 columns

Every way is a fresh process per round, and the ways take turns, so that a noisy moment hits all of them. Medians are
told, and ratios of medians. Rows per CPU-second count the process with its children, after its imports, and the
Postgres with its backends; the process that serves counts for nobody. The slow ways load fewer rows: their rate is what
is compared.

Goals that are missed are told as such; the exit code is 0 all the same, since a busy machine is no error.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import databases, nights, warehouses
from bench.bodies import CHART_POINTS, CHART_RATE, SMALL_PAGE, Change, render
from bench.measure import ROOT, Results, Taken, child, command_line, empty, home_at

WAYS = {
    "nightload": "nightload",
    "floor": "the floor: fetch, INSERT FROM read_json",
    "rest_api_parquet": "dlt rest_api, tuned to parquet",
    "rest_api": "dlt rest_api, defaults",
}
KINDS = {
    "document": "(a) one document, 14 columns",
    "records": "(b) pages of 1000 records, 12 columns",
    "segment": "(c) a segment's CSV, 6 columns",
    "sql": "(d) pages of 10,000 rows of SQL, 12 columns",
    "wide": "(j) one document, 600 columns",
}
PARTS = [*KINDS, "charts", "paging", "start", *warehouses.PARTS, "night"]
ALONE = ("segment", "sql", "wide")
"""Measured beside the floor only: dlt's declarative source reads neither of the first two, and not the third in
minutes."""
FLOORS = {"document": 0.55, "records": 0.55, "segment": 0.55, "sql": 0.5, "wide": 0.3}
LATENCY, CHART_LATENCY = 50, 200


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many rows each way loads, and how many slow pages there are."""

    document: int
    records: int
    tuned: int
    default: int
    slow_pages: int
    segment: int
    wide: int
    charts: int
    merged: tuple[int, int]
    """How many times the slow pages' rows make the tables to merge into."""
    night: float
    """The scale of the five vendors."""

    @property
    def few(self) -> int:
        return self.slow_pages * SMALL_PAGE

    @property
    def copied(self) -> dict[str, int]:
        """The rows that each way loads into Postgres."""
        return {way: self.rows(way, "records") for way in warehouses.COPIES}

    @property
    def tables(self) -> tuple[int, int]:
        """The rows of the tables to merge into."""
        return self.few * self.merged[0], self.few * self.merged[1]

    def rows(self, way: str, kind: str) -> int:
        if kind in ("segment", "wide"):
            return self.segment if kind == "segment" else self.wide
        whole = self.document if kind == "document" else self.records
        return {"rest_api_parquet": min(self.tuned, whole), "rest_api": min(self.default, whole)}.get(way, whole)


FULL = Size(
    document=200_000,
    records=400_000,
    tuned=50_000,
    default=20_000,
    slow_pages=500,
    segment=2_000_000,
    wide=20_000,
    charts=150,
    merged=(10, 100),
    night=0.3,
)
QUICK = Size(
    document=10_000,
    records=20_000,
    tuned=5_000,
    default=2_000,
    slow_pages=40,
    segment=50_000,
    wide=500,
    charts=10,
    merged=(3, 30),
    night=0.02,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=0, help="how often everything is measured (3)")
    parser.add_argument("--quick", action="store_true", help="small data, one round: does it run at all?")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="these parts alone")
    given = parser.parse_args()
    size, rounds = (QUICK, given.rounds or 1) if given.quick else (FULL, given.rounds or 3)
    parts = given.only or PARTS
    folder = Path(tempfile.mkdtemp(prefix="nightload-bench-"))
    results = Results()
    try:
        changes = [Change(rows, night) for rows in size.tables for night in range(1, rounds + 2)]
        documents = {size.rows(way, "document") for way in WAYS}
        render(
            folder,
            documents=documents,
            records=size.records,
            small_pages=size.slow_pages,
            segment=size.segment,
            wide=size.wide,
            changes=changes if "merge" in parts else (),
        )
        with ExitStack() as stack:
            url = stack.enter_context(_served(folder))
            postgres = stack.enter_context(databases.served()) if set(parts) & set(warehouses.PARTS) else None
            _warm_up(url, size, folder)
            for number in range(1, rounds + 1):
                print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
                for part in parts:
                    if part == "night":
                        nights.measure(folder / "home", scale=size.night, results=results)
                    elif part in warehouses.PARTS and postgres is not None:
                        _measure_warehouses(part, postgres, url, size, number, folder, results)
                    else:
                        _measure(part, url, size, folder / "home", results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _tell(results, size, rounds)


# -- measuring ----------------------------------------------------------------------------------


def _measure(part: str, url: str, size: Size, home: Path, results: Results) -> None:
    """One round of one part."""
    if part == "start":
        results.add("--help", part, command_line([sys.executable, "-m", "pipelines.cli", "--help"], {}))
        imports = {"RUNTIME__DLTHUB_TELEMETRY": "false"}
        results.add("import dlt", part, command_line([sys.executable, "-c", "import dlt"], imports))
    elif part == "charts":
        with empty(home):
            base = f"{url}/charts/{size.charts}/{CHART_LATENCY}"
            results.add("nightload", part, child("nightload", part, base, size.charts * CHART_POINTS, home))
    elif part == "paging":
        for way in ("nightload", "one_at_a_time"):
            with empty(home):
                base, rows = f"{url}/small/{LATENCY}/v2", size.few
                results.add(way, part, child(way, "records", base, rows, home))
    else:
        for way in ("nightload", "floor") if part in ALONE else WAYS:
            rows = size.rows(way, part)
            base = {"document": f"{url}/r{rows}", "wide": f"{url}/w{rows}", "records": f"{url}/records/v2"}.get(
                part, f"{url}/{part}"
            )
            with empty(home):
                results.add(way, part, child(way, part, base, rows, home))
                if way == "nightload" and part not in ALONE:
                    again = ["-m", "bench.child", "again", part, base, str(rows), str(home)]
                    results.add("again", part, command_line([sys.executable, *again], {}))
                    results.add(
                        "status", part, command_line([sys.executable, "-m", "pipelines.cli", "status"], home_at(home))
                    )


def _measure_warehouses(
    part: str, postgres: databases.Server, url: str, size: Size, number: int, folder: Path, results: Results
) -> None:
    """One round of a part that needs a Postgres."""
    if part == "postgres":
        csv, rows = folder / "records.csv", size.copied
        warehouses.measure_postgres(postgres, url, rows=rows, csv=csv, home=folder / "home", results=results)
    elif part == "merge":
        warehouses.measure_merge(
            postgres, url, few=size.few, times=size.merged, night=number, folder=folder, results=results
        )
    else:
        warehouses.measure_shell(postgres, url, few=size.few, night=number, folder=folder, results=results)


def _warm_up(url: str, size: Size, folder: Path) -> None:
    """Once through all that is imported, so that no round has to compile it; the compiled files stand in the folder."""
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "pyc")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for way in ("nightload", "rest_api_parquet"):
        with empty(folder / "home"):
            rows = size.default
            child(way, "document", f"{url}/r{rows}", rows, folder / "home")
            if way == "nightload":
                command_line([sys.executable, "-m", "pipelines.cli", "status"], home_at(folder / "home"))


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.server", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()  # it ends with us


# -- telling ------------------------------------------------------------------------------------


def _tell(results: Results, size: Size, rounds: int) -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in ("dlt", "duckdb", "pyarrow"))
    python = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{datetime.now(UTC):%Y-%m-%d}, medians of {rounds}; {python}; {versions}")
    for kind, title in KINDS.items():
        if results.median("nightload", kind) is None:
            continue
        print(f"\n{title:<42}{'rows':>9}{'rows/cpu-s':>12}{'cpu s':>8}{'wall s':>8}{'peak MB':>9}")
        for way, name in WAYS.items():
            name = name.replace("json", "csv") if kind == "segment" else name
            if taken := results.median(way, kind):
                rows = size.rows(way, kind)
                print(
                    f"{name:<42}{rows:>9,}{rows / taken.cpu:>12,.0f}"
                    f"{taken.cpu:>8.2f}{taken.wall:>8.2f}{taken.peak:>9.0f}"
                )
    wide, narrow = results.median("nightload", "paging"), results.median("one_at_a_time", "paging")
    if wide and narrow:
        what = f"{size.slow_pages} pages of {LATENCY} ms"
        print(f"\n{what}: one at a time {narrow.wall:.1f} s, 8 at a time {wide.wall:.1f} s")
    if charts := results.median("nightload", "charts"):
        print(
            f"\n{size.charts} charts in 2 windows each, {CHART_LATENCY} ms an answer: {charts.requests:.0f} requests "
            f"at {CHART_RATE}/s need {_bound(charts):.1f} s, asked in {charts.asked:.1f} s; the whole night, with a "
            f"wide table per chart, {charts.wall:.1f} s ({charts.cpu:.1f} cpu s, peak {charts.peak:.0f} MB)"
        )
    warehouses.tell(results, rows=size.copied, sizes=size.tables)
    nights.tell(results, scale=size.night)
    print(f"\n{'':<58}{'measured':>9}   goal")
    judged = [
        *_goals(results, size),
        *warehouses.goals(results, rows=size.copied, sizes=size.tables),
        *nights.goals(results),
    ]
    for name, measured, goal, high in judged:
        reached = measured >= goal if high else measured <= goal
        sign = "≥" if high else "≤"
        print(f"{name:<58}{measured:>9.2f}   {sign} {goal:<6g} {'reached' if reached else 'MISSED'}")
    _tell_imports(results, size)


def _bound(taken: Taken) -> float:
    """The seconds that the limiter takes for so many requests; the first one goes at once."""
    return (taken.requests - 1) / CHART_RATE


def _goals(results: Results, size: Size) -> Iterator[tuple[str, float, float, bool]]:
    """(what, measured, goal, is more better?) of all that was measured."""
    for kind, title in KINDS.items():
        letter = title.partition(" ")[0]
        ours = results.median("nightload", kind)
        if ours is None:
            continue
        for way, goal in (("floor", FLOORS[kind]), ("rest_api_parquet", 10.0), ("rest_api", 60.0)):
            other = results.median(way, kind)
            if other is not None:
                ratio = (size.rows("nightload", kind) / ours.cpu) / (size.rows(way, kind) / other.cpu)
                yield f"{letter} rows/cpu-s, times {WAYS[way].partition(':')[0]}", ratio, goal, True
        yield f"{letter} peak memory, MB", ours.peak, 300.0, False
    if charts := results.median("nightload", "charts"):
        name = f"(e) {2 * size.charts} chart series: asking, times the limiter's bound"
        yield name, charts.asked / _bound(charts), 1.1, False
        yield "(e) peak memory, MB", charts.peak, 300.0, False
    wide, narrow = results.median("nightload", "paging"), results.median("one_at_a_time", "paging")
    if wide and narrow:
        yield f"{size.slow_pages} pages of {LATENCY} ms, 8 wide: times faster", narrow.wall / wide.wall, 6.0, True
    imported = results.median("import dlt", "start")
    for kind, letter in (("document", "(a)"), ("records", "(b)")):
        again = results.median("again", kind)
        if again and imported:
            yield f"{letter} no-change run: cpu s beyond `import dlt`", again.cpu - imported.cpu, 1.0, False
        if status := results.median("status", kind):
            yield f"{letter} nightload status: cpu s", status.cpu, 0.5, False
    if shown := results.median("--help", "start"):
        yield "nightload --help: cpu s", shown.cpu, 0.5, False


def _tell_imports(results: Results, size: Size) -> None:
    """The same ratios with the imports counted, which the goals leave out on both sides."""
    if imported := results.median("import dlt", "start"):
        print(f"\n`import dlt` alone: {imported.cpu:.2f} cpu s")
    for kind, letter in (("document", "(a)"), ("records", "(b)")):
        rates = {
            way: size.rows(way, kind) / (taken.cpu + taken.imports)
            for way in WAYS
            if (taken := results.median(way, kind)) is not None
        }
        if len(rates) == len(WAYS):
            told = ", ".join(f"{rates['nightload'] / rates[way]:.2f} × {way}" for way in WAYS if way != "nightload")
            print(f"{letter} with each way's imports counted: {told}")


if __name__ == "__main__":
    main()
