"""The two databases: a night into Postgres beside a raw COPY, a merge into a large table, the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.bodies import ADDED, UPDATED, Change
from bench.databases import URL, Server
from bench.measure import Results, Taken, child, command_line, empty, home_at

PARTS = ("postgres", "merge", "shell")
DATABASES = ("DuckDB", "Postgres")
COPIES = {
    "nightload": "nightload, the whole night",
    "copy": "a raw COPY of the same rows as CSV",
    "rest_api": "dlt rest_api, defaults",
}
Goal = tuple[str, float, float, bool]


# -- measuring ----------------------------------------------------------------------------------


def measure_postgres(
    server: Server, url: str, *, rows: dict[str, int], csv: Path, home: Path, results: Results
) -> None:
    """The records of (b): `rows` for each way."""
    for way in COPIES:
        with empty(home):
            source = str(csv) if way == "copy" else f"{url}/records/v2"
            database = server.empty("bench_load")
            results.add(way, "postgres", child(way, "records", source, rows[way], home, database))


def measure_merge(
    server: Server, url: str, *, few: int, times: tuple[int, int], night: int, folder: Path, results: Results
) -> None:
    """One more night on tables of `few` rows so many `times`.

    They are made in the first round and kept. The first night after they grew is nobody's: it makes the indexes of a
    large table.
    """
    for database in DATABASES:
        for factor in times:
            home, name = folder / f"merge-{database}-{factor}", f"bench_merge_{factor}"
            extra = server.at(name) if database == "Postgres" else {}

            def changed(night: int, rows: int = few * factor, home: Path = home, extra: Any = extra) -> Taken:
                change = Change(rows, night)
                return child("nightload", "records", f"{url}/{change.name}/v2", change.total, home, extra)

            if night == 1:
                home.mkdir()
                if extra:
                    server.empty(name)
                child("nightload", "records", f"{url}/small/v2", few, home, extra)
                child("multiply", "records", str(factor), few * factor, home, extra)
                if extra:
                    server.settle(name)
                results.add(f"{database} {few * factor}, grown", "merge", changed(1))
            server.rest()
            results.add(f"{database} {few * factor}", "merge", changed(night + 1))


def measure_shell(server: Server, url: str, *, few: int, night: int, folder: Path, results: Results) -> None:
    """Commands from the shell, imports and all; the Postgres is also asked from a home that has no ledger yet."""
    nightload = [sys.executable, "-m", "pipelines.cli"]
    for database in DATABASES:
        home = folder / f"shell-{database}"
        extra = server.at("bench_shell") if database == "Postgres" else {}
        if night == 1:
            home.mkdir()
            if extra:
                server.empty("bench_shell")
            child("nightload", "records", f"{url}/small/v2", few, home, extra)
        at = home_at(home) | ({"NIGHTLOAD_WAREHOUSE": extra[URL]} if extra else {})
        results.add(f"status, {database}", "shell", command_line([*nightload, "status"], at))
        if extra:
            with empty(folder / "elsewhere"):
                away = at | home_at(folder / "elsewhere")
                results.add("status, Postgres, from elsewhere", "shell", command_line([*nightload, "status"], away))
        if _knows_sql(nightload):
            results.add(f'sql "select 1", {database}', "shell", command_line([*nightload, "sql", "select 1"], at))


def _knows_sql(nightload: list[str]) -> bool:
    shown = subprocess.run([*nightload, "sql", "--help"], capture_output=True, check=False)
    return shown.returncode == 0


# -- telling ------------------------------------------------------------------------------------


def tell(results: Results, *, rows: dict[str, int], sizes: tuple[int, int]) -> None:
    _tell_postgres(results, rows)
    _tell_merge(results, sizes)
    _tell_shell(results)


def _tell_postgres(results: Results, rows: dict[str, int]) -> None:
    if (ours := results.median("nightload", "postgres")) is None:
        return
    print(f"\n{'(f) the records of (b) into Postgres':<42}{'rows':>9}{'rows/cpu-s':>12}{'cpu s':>8}{'wall s':>8}")
    for way, name in COPIES.items():
        if taken := results.median(way, "postgres"):
            print(f"{name:<42}{rows[way]:>9,}{rows[way] / taken.cpu:>12,.0f}{taken.cpu:>8.2f}{taken.wall:>8.2f}")
    steps = {"its load step": ours.load, "its load, key index, counts and commit": ours.after}
    for name, cpu in steps.items():
        print(f"{'  ' + name:<42}{rows['nightload']:>9,}{rows['nightload'] / cpu:>12,.0f}{cpu:>8.2f}")


def _tell_merge(results: Results, sizes: tuple[int, int]) -> None:
    if not results.median(f"DuckDB {sizes[0]}", "merge"):
        return
    print(f"\n{f'(g) {UPDATED + ADDED:,} changed rows, {ADDED:,} of them new, in cpu s':<42}", end="")
    print(f"{'merge':>9}{'+ counts …':>12}{'counts':>8}{'file copy':>11}{'the night':>11}")
    for database in DATABASES:
        for size in sizes:
            if taken := results.median(f"{database} {size}", "merge"):
                print(
                    f"{f'{database}, into {size:,} rows':<42}{taken.load:>9.2f}{taken.after:>12.2f}"
                    f"{taken.count:>8.2f}{taken.copy:>11.2f}{taken.cpu:>11.2f}"
                )


def _tell_shell(results: Results) -> None:
    shown = [(f"status, {database}", f'sql "select 1", {database}') for database in DATABASES]
    names = [*(name for pair in shown for name in pair), "status, Postgres, from elsewhere"]
    measured = {name: taken for name in names if (taken := results.median(name, "shell"))}
    if measured:
        print(f"\n{'(h) from the shell':<42}{'cpu s':>9}{'wall s':>12}")
    for name, taken in measured.items():
        print(f"{f'nightload {name}':<42}{taken.cpu:>9.2f}{taken.wall:>12.2f}")


def goals(results: Results, *, rows: dict[str, int], sizes: tuple[int, int]) -> Iterator[Goal]:
    """(what, measured, goal, is more better?) of all that was measured."""
    ours, copy = (results.median(way, "postgres") for way in ("nightload", "copy"))
    if ours and copy:
        yield "(f) load step: rows/cpu-s, times a raw COPY", _rate(rows, "copy", copy.cpu, ours.load), 0.5, True
        yield "(f) peak memory, MB", ours.peak, 300.0, False
    few, many = sizes
    for database in DATABASES:
        small, large = (results.median(f"{database} {size}", "merge") for size in (few, many))
        if small and large:
            what = f"(g) {database}, {many:,} rows: cpu s, times {few:,}"
            yield f"{what}: merge", large.load / small.load, 1.5, False
            yield f"{what}: + counts …", large.after / small.after, 1.5, False
    for database in DATABASES:
        for command in ("status", 'sql "select 1"'):
            if taken := results.median(f"{command}, {database}", "shell"):
                yield f"(h) nightload {command}, {database}: wall s", taken.wall, 1.0, False
    if taken := results.median("status, Postgres, from elsewhere", "shell"):
        yield "(h) nightload status, Postgres, from elsewhere: wall s", taken.wall, 1.0, False


def _rate(rows: dict[str, int], other: str, theirs: float, ours: float) -> float:
    return (rows["nightload"] / ours) / (rows[other] / theirs)
