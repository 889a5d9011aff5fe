"""Five vendors in one night: the first, the second, and the slowest of them alone; the sandbox plays the vendors."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.measure import ROOT, Results, command_line, empty, home_at

LATENCY = 0.05
"""Seconds before each answer."""
RATE = 500
ROWS = {"first": "the first night", "second": "the second", "alone": "the slowest vendor, its first night alone"}
Goal = tuple[str, float, float, bool]


def measure(home: Path, *, scale: float, results: Results) -> None:
    """One round: two nights of five vendors in one home, then the first night of whichever took longest."""
    with _sandbox(scale) as vendors:
        _begin_anew(vendors)
        with empty(home):
            results.add("first", "night", command_line(_run(), _environment(vendors, home)))
            slowest = _slowest(home)
            results.add("second", "night", command_line(_run(), _environment(vendors, home)))
        _begin_anew(vendors)
        with empty(home):
            results.add("alone", "night", command_line(_run(slowest), _environment(vendors, home)))


def tell(results: Results, *, scale: float) -> None:
    if results.median("first", "night") is None:
        return
    title = f"(i) five vendors side by side, scale {scale:g}, {1000 * LATENCY:.0f} ms an answer"
    print(f"\n{title:<58}{'cpu s':>9}{'wall s':>8}{'peak MB':>9}")
    for name, shown in ROWS.items():
        if taken := results.median(name, "night"):
            print(f"{shown:<58}{taken.cpu:>9.2f}{taken.wall:>8.2f}{taken.peak:>9.0f}")


def goals(results: Results) -> Iterator[Goal]:
    """(what, measured, goal, is more better?) of all that was measured."""
    first, second, alone = (results.median(name, "night") for name in ROWS)
    if first and second and alone:
        yield "(i) five vendors: peak memory of the first night, MB", first.peak, 300.0, False
        yield "(i) five vendors: peak memory of the second night, MB", second.peak, 300.0, False
        yield "(i) five vendors: wall, times the slowest alone", first.wall / alone.wall, 1.5, False


def _run(*vendors: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", "run", *vendors]


def _environment(vendors: Mapping[str, Mapping[str, Any]], home: Path) -> dict[str, str]:
    told = {
        f"SOURCES__{vendor}__{name}".upper(): value
        for vendor, its in vendors.items()
        for name, value in its.items()
        if isinstance(value, str) and name != "control_url"
    }
    return home_at(home) | told | {f"SOURCES__{vendor}__REQUESTS_PER_SECOND".upper(): str(RATE) for vendor in vendors}


def _slowest(home: Path) -> str:
    """The vendor that the ledger of the only night there says took longest."""
    with closing(sqlite3.connect(home / "data" / "warehouse.nightload" / "ledger.sqlite")) as ledger:
        ((vendor,),) = ledger.execute("SELECT vendor FROM run_vendors ORDER BY seconds DESC LIMIT 1")
    return str(vendor)


def _begin_anew(vendors: Mapping[str, Mapping[str, Any]]) -> None:
    """Each vendor as it was at first, and as far away as we say."""
    for its in vendors.values():
        for path, body in (("reset", {}), ("options", {"latency": LATENCY})):
            asked = urllib.request.Request(f"{its['control_url']}/{path}", json.dumps(body).encode(), method="POST")
            urllib.request.urlopen(asked, timeout=60).close()


@contextmanager
def _sandbox(scale: float) -> Iterator[dict[str, dict[str, Any]]]:
    command = [sys.executable, "-m", "sandbox", "--exit-with-parent", "--scale", str(scale)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sandbox:
        assert sandbox.stdout is not None and sandbox.stdin is not None
        try:
            yield json.loads(sandbox.stdout.readline())
        finally:
            sandbox.stdin.close()  # it ends with us
