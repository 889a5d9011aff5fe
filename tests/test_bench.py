"""The bench runs and tells every figure; how good they are is told by `make bench` on a quiet machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LOADS = (
    "(a) one document, 14 columns",
    "(b) pages of 1000 records, 12 columns",
    "nightload",
    "the floor: fetch, INSERT FROM read_json",
    "dlt rest_api, tuned to parquet",
    "dlt rest_api, defaults",
    "(a) rows/cpu-s, times the floor",
    "(a) rows/cpu-s, times dlt rest_api, tuned to parquet",
    "(a) rows/cpu-s, times dlt rest_api, defaults",
    "(a) peak memory, MB",
    "(a) no-change run: cpu s beyond `import dlt`",
    "(a) nightload status: cpu s",
    "(b) rows/cpu-s, times the floor",
    "(b) rows/cpu-s, times dlt rest_api, tuned to parquet",
    "(b) rows/cpu-s, times dlt rest_api, defaults",
    "(b) peak memory, MB",
    "(b) no-change run: cpu s beyond `import dlt`",
    "(b) nightload status: cpu s",
    "(c) a segment's CSV, 6 columns",
    "(c) rows/cpu-s, times the floor",
    "(c) peak memory, MB",
    "(d) pages of 10,000 rows of SQL, 12 columns",
    "(d) rows/cpu-s, times the floor",
    "(d) peak memory, MB",
    "(j) one document, 600 columns",
    "(j) rows/cpu-s, times the floor",
    "(j) peak memory, MB",
    "10 charts in 2 windows each, 200 ms an answer",
    "(e) 20 chart series: asking, times the limiter's bound",
    "(e) peak memory, MB",
    "40 pages of 50 ms, 8 wide: times faster",
    "nightload --help: cpu s",
    "`import dlt` alone",
    "(a) with each way's imports counted",
    "(b) with each way's imports counted",
)
WAREHOUSES = (
    "(f) the records of (b) into Postgres",
    "nightload, the whole night",
    "a raw COPY of the same rows as CSV",
    "dlt rest_api, defaults",
    "  its load step",
    "  its load, key index, counts and commit",
    "(f) load step: rows/cpu-s, times a raw COPY",
    "(f) peak memory, MB",
    "(g) 10,000 changed rows, 1,000 of them new, in cpu s",
    "DuckDB, into 12,000 rows",
    "DuckDB, into 120,000 rows",
    "Postgres, into 12,000 rows",
    "Postgres, into 120,000 rows",
    "(g) DuckDB, 120,000 rows: cpu s, times 12,000: merge",
    "(g) DuckDB, 120,000 rows: cpu s, times 12,000: + counts …",
    "(g) Postgres, 120,000 rows: cpu s, times 12,000: merge",
    "(g) Postgres, 120,000 rows: cpu s, times 12,000: + counts …",
    "(h) from the shell",
    "(h) nightload status, DuckDB: wall s",
    "(h) nightload status, Postgres: wall s",
    "(h) nightload status, Postgres, from elsewhere: wall s",
)


def quick(*parts: str) -> list[str]:
    """What the bench tells of these parts."""
    command = [sys.executable, "-m", "bench", "--quick", "--only", *parts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def judged(told: list[str]) -> int:
    return sum(each.endswith(("reached", "MISSED")) for each in told)


def missing(lines: tuple[str, ...], told: list[str]) -> list[str]:
    return [line for line in lines if not any(each.startswith(line) for each in told)]


def test_quick_bench_tells_every_figure_of_the_loads() -> None:
    told = quick("document", "records", "segment", "sql", "wide", "charts", "paging", "start")
    assert not missing(LOADS, told), "\n".join(told)
    assert judged(told) == 22


def test_quick_bench_tells_every_figure_of_the_databases() -> None:
    told = quick("postgres", "merge", "shell")
    assert not missing(WAREHOUSES, told), "\n".join(told)
    sql = sum(each.startswith('(h) nightload sql "select 1"') for each in told)
    assert judged(told) == 9 + sql
