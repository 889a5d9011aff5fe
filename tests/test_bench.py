"""The bench runs and tells every figure; how good they are is told by `make bench` on a quiet machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LINES = (
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
    "10 charts in 2 windows each, 200 ms an answer",
    "(e) 20 chart series: asking, times the limiter's bound",
    "(e) peak memory, MB",
    "40 pages of 50 ms, 8 wide: times faster",
    "nightload --help: cpu s",
    "`import dlt` alone",
    "(a) with each way's imports counted",
    "(b) with each way's imports counted",
)


def test_quick_bench_tells_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    for line in LINES:
        assert any(each.startswith(line) for each in told), f"{line!r} is not in\n{done.stdout}"
    judged = [each for each in told if each.endswith(("reached", "MISSED"))]
    assert len(judged) == 20
