"""One way to load, in a fresh process: `python -m bench.child WAY KIND URL ROWS FOLDER` prints what it took.

The clock runs from after the imports to the end, since `import dlt` costs more than loading 200,000 rows and is a
matter of its own (the bench tells it as well). CPU is that of this process, its children and the Postgres that the
environment names, memory the highest resident size of this process, imports included.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from bench import databases
from bench.bodies import CHART_DAYS, CHART_RATE, DOCUMENT, KEY, PAGE, RECORDS, SEGMENT, SMALL_PAGE, SQL_PAGE, WIDE

Work = Callable[[], dict[str, float] | None]
"""Does the work; it may tell more figures than all do."""
Way = Callable[[str, str, int, Path], Work]
"""Does the imports."""

VENDORS = {
    "document": "tonalytica",
    "wide": "tonalytica",
    "records": "tune",
    "segment": "growingio",
    "charts": "growingio",
    "sql": "thinkingengine",
}
TABLES = {
    "document": "tonalytica_results.query_1",
    "wide": "tonalytica_results.query_1",
    "records": "tune.advertiser_campaigns",
    "segment": "growingio.segmentation_users",
    "charts": "growingio.chart_points",
    "sql": "thinkingengine.records",
}
TUNE_PATH = "advertiser/campaigns"
TUNE_OTHERS = [
    "account",
    "account/users",
    "advertiser",
    "advertiser/accounts",
    "advertiser/agencies",
    "agency",
    "advertiser/sites",
    "advertiser/publishers",
    "advertiser/publishers/sub/campaigns",
    "advertiser/site/events",
    "countries",
    "regions",
    "languages",
    "browsers",
    "browser_platform",
    "currency_exchange_rates",
]
"""The endpoints that the bench leaves out, written down since reading them off the source would import dlt."""


def nightload(kind: str, url: str, rows: int, folder: Path, *, width: int = 8) -> Work:
    """A whole night: extract, prove, load, count, swap, ledger."""
    from pipelines.config import dlt_setup
    from pipelines.config import project as place

    where = place.find(str(folder), os.environ.get(databases.URL))
    dlt_setup.prepare(where)
    os.environ.update(settings(kind, url, width=width))
    # what dlt and httpx import only when they are first used
    import dlt.common.libs.pyarrow
    import dlt.destinations.impl.duckdb.duck
    import dlt.sources.helpers.requests
    import httpcore
    import pyarrow.parquet

    from pipelines.run.request import Request
    from pipelines.run.runner import run
    from sources import VENDORS as all_vendors
    from sources.extract.connector import package

    assert dlt and httpcore and pyarrow
    vendor = VENDORS[kind]
    for name in all_vendors:
        package(name)

    steps = _clocked_steps()

    def work() -> dict[str, float]:
        only = frozenset({TABLES[kind]} if kind in ("segment", "sql") else ())
        report = run(Request(place=where, vendors=(vendor,), tables=only))
        if report.status != "ok":
            raise SystemExit(json.dumps(report.as_json(), indent=1))
        if kind != "charts":
            return steps()
        with urlopen(f"{url}/span") as answer:
            span: dict[str, float] = json.load(answer)
        return {"asked": span["seconds"], "requests": span["requests"]}

    return work


def _clocked_steps() -> Callable[[], dict[str, float]]:
    """Read the clock around the steps of a night: CPU seconds of dlt's load; of all that follows the extraction but
    dlt's normalize and the copy of a DuckDB file; of that copy; of the counts."""
    import dlt

    from pipelines.run import load
    from pipelines.warehouse.duckdb import warehouse as duckdb_file
    from pipelines.warehouse.postgres import warehouse as postgres

    taken: dict[str, float] = {}

    def clock(owner: Any, function: str, *names: str) -> None:
        original = getattr(owner, function)

        def clocked(*args: Any, **kwargs: Any) -> Any:
            started = _cpu()
            try:
                return original(*args, **kwargs)
            finally:
                for name in names:
                    taken[name] = taken.get(name, 0.0) + _cpu() - started

        setattr(owner, function, clocked)

    clock(dlt.Pipeline, "normalize", "normalize")
    clock(dlt.Pipeline, "load", "load")
    clock(load, "_load", "after")
    clock(load, "_count", "after", "count")
    clock(duckdb_file, "_copy", "copy")
    for warehouse in (duckdb_file.DuckDbFile, postgres.Postgres):
        clock(warehouse, "publish", "after")

    def told() -> dict[str, float]:
        return {name: taken.get(name, 0.0) for name in ("load", "count", "copy")} | {
            "after": taken.get("after", 0.0) - taken.get("normalize", 0.0)
        }

    return told


def again(kind: str, url: str, rows: int, folder: Path) -> Work:
    """The next night, with nothing new at the vendor: as the command line does it."""
    os.environ.update(settings(kind, url), NIGHTLOAD_HOME=str(folder))
    sys.argv = ["nightload", "run", VENDORS[kind]]
    from pipelines.cli.main import main

    return main


def one_at_a_time(kind: str, url: str, rows: int, folder: Path) -> Work:
    """nightload, one page after the other."""
    return nightload(kind, url, rows, folder, width=1)


def rest_api(kind: str, url: str, rows: int, folder: Path, *, tuned: bool = False) -> Work:
    """dlt's own declarative source, with its defaults."""
    os.environ.update(RUNTIME__DLTHUB_TELEMETRY="false", DLT_PROJECT_DIR=str(folder), DLT_DATA_DIR=str(folder / "dlt"))
    import dlt
    import dlt.common.libs.pyarrow
    import dlt.destinations.impl.duckdb.duck
    import duckdb
    import pyarrow.parquet
    from dlt.sources.rest_api import rest_api_source

    assert duckdb and pyarrow
    if kind == "document":
        endpoint: Any = {
            "path": f"api/query_results/{rows}.json",
            "data_selector": "query_result.data.rows",
            "paginator": "single_page",
        }
    else:
        endpoint = {
            "path": f"{TUNE_PATH}/find.json",
            "params": {"limit": PAGE},
            "data_selector": "data",
            "paginator": {"type": "page_number", "base_page": 1, "total_path": None, "maximum_page": rows // PAGE + 1},
        }

    def work() -> None:
        source = rest_api_source(
            {"client": {"base_url": f"{url}/"}, "resources": [{"name": kind, "endpoint": endpoint}]}
        )
        destination: Any = dlt.destinations.duckdb(str(folder / "bench.duckdb"))
        if database := os.environ.get(databases.URL):
            destination = dlt.destinations.postgres(database)
        pipeline = dlt.pipeline("rest", destination=destination, dataset_name="loaded", pipelines_dir=str(folder / "p"))
        if tuned:
            pipeline.run(source, loader_file_format="parquet")
        else:
            pipeline.run(source)

    return work


def rest_api_parquet(kind: str, url: str, rows: int, folder: Path) -> Work:
    """The same, told to go by parquet files."""
    return rest_api(kind, url, rows, folder, tuned=True)


def floor(kind: str, url: str, rows: int, folder: Path) -> Work:
    """The least that can be done with these bytes: fetch them, cut the rows out, let DuckDB read them into a table."""
    import duckdb

    def work() -> None:
        if kind in ("segment", "sql"):
            _floor_of_lines(kind, url, rows, folder)
            return
        spool = folder / "rows.json"
        types = {"document": DOCUMENT, "wide": WIDE}.get(kind, RECORDS)
        (_fetch_pages if types is RECORDS else _fetch_document)(url, rows, spool)
        columns = ", ".join(f"{name}: '{sql_type}'" for name, (_, sql_type) in types.items())
        with duckdb.connect(str(folder / "bench.duckdb")) as connection:
            connection.execute("SET preserve_insertion_order = false")
            connection.execute("SET TimeZone = 'UTC'")
            spec = ", ".join(f"{name} {sql_type}" for name, (_, sql_type) in types.items())
            connection.execute(f"CREATE SCHEMA loaded; CREATE TABLE loaded.{kind} ({spec})")
            connection.execute(
                f"INSERT INTO loaded.{kind} FROM read_json('{spool}', format='array', columns={{{columns}}})"
            )
            connection.execute("CHECKPOINT")
        spool.unlink()

    return work


def _floor_of_lines(kind: str, url: str, rows: int, folder: Path) -> None:
    """The same for CSV, and for pages of JSON arrays: the bytes in one file, and DuckDB reads it."""
    import duckdb

    spool, parts = folder / "rows", urlsplit(url)
    connection = HTTPConnection(parts.netloc)
    paths = (
        [f"{parts.path}/segmentations/Seg1/users.csv"]
        if kind == "segment"
        else [f"{parts.path}/open/sql-result-page?taskId=1&pageId={page}" for page in range(-(-rows // SQL_PAGE))]
    )
    with spool.open("wb") as file:
        for path in paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            while chunk := answer.read(2**20):
                file.write(chunk)
            file.write(b"" if kind == "segment" else b"\n")
    if kind == "segment":
        spec = ", ".join(f"{name} VARCHAR" for name in SEGMENT)
        columns = ", ".join(f"{name}: 'VARCHAR'" for name in SEGMENT)
        source = f"FROM read_csv('{spool}', delim='\t', header=true, auto_detect=false, columns={{{columns}}})"
    else:
        spec = ", ".join(f"{name} {sql_type}" for name, (_, sql_type) in RECORDS.items())
        values = ", ".join(
            f"json_extract_string(v[{place}], '$')::{sql_type}"
            for place, (_, sql_type) in enumerate(RECORDS.values(), start=1)
        )
        lines = f"read_json('{spool}', format='newline_delimited', records=false, columns={{v: 'JSON[]'}})"
        source = f"SELECT {values} FROM {lines}"
    with duckdb.connect(str(folder / "bench.duckdb")) as warehouse:
        warehouse.execute("SET preserve_insertion_order = false")
        warehouse.execute("SET TimeZone = 'UTC'")
        warehouse.execute(f"CREATE SCHEMA loaded; CREATE TABLE loaded.{kind} ({spec})")
        warehouse.execute(f"INSERT INTO loaded.{kind} {source}")
        warehouse.execute("CHECKPOINT")
    spool.unlink()


def _fetch_document(url: str, rows: int, spool: Path) -> None:
    body = spool.with_name("body.json")
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc)
    connection.request("GET", f"{parts.path}/api/query_results/{rows}.json")
    with connection.getresponse() as answer, body.open("wb") as file:
        while chunk := answer.read(2**20):
            file.write(chunk)
    head = body.open("rb").read(2**16)
    opening = re.search(rb'"rows": \[', head)
    tail_at = max(body.stat().st_size - 2**16, 0)
    with body.open("rb") as file:
        file.seek(tail_at)
        end = tail_at + file.read().rindex(b"]")
    assert opening is not None
    start = opening.end() - 1
    with body.open("rb") as source, spool.open("wb") as target:
        left, at = end + 1 - start, start
        while left:
            sent = os.sendfile(target.fileno(), source.fileno(), at, left)
            at, left = at + sent, left - sent
    body.unlink()


def _fetch_pages(url: str, rows: int, spool: Path) -> None:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc)

    def pages() -> Iterator[bytes]:
        for page in range(1, rows // PAGE + 1):
            connection.request("GET", f"{parts.path}/{TUNE_PATH}/find.json?limit={PAGE}&page={page}")
            body = connection.getresponse().read()
            yield body[body.index(b'"data":[') + 8 : body.rindex(b"]")]

    with spool.open("wb") as file:
        file.write(b"[")
        for number, inside in enumerate(pages()):
            file.write(b",\n" if number else b"")
            file.write(inside)
        file.write(b"]")


def settings(kind: str, url: str, *, width: int = 8) -> dict[str, str]:
    """nightload's settings for one bench vendor, as environment variables; the rate limit is out of the way."""
    if kind in ("document", "wide"):
        return {
            "SOURCES__TONALYTICA__API_KEY": KEY,
            "SOURCES__TONALYTICA__BASE_URL": url,
            "SOURCES__TONALYTICA__REQUESTS_PER_SECOND": "100000",
        }
    if kind in ("segment", "charts"):
        return {
            "SOURCES__GROWINGIO__CONSOLE_TOKEN": KEY,
            "SOURCES__GROWINGIO__PROJECT_UID": "Bench",
            "SOURCES__GROWINGIO__BASE_URL": url,
            "SOURCES__GROWINGIO__REQUESTS_PER_SECOND": str(CHART_RATE if kind == "charts" else 1000),
            "SOURCES__GROWINGIO__BACKFILL_DAYS": str(CHART_DAYS),
        }
    if kind == "sql":
        kinds = {"BIGINT": "bigint", "DOUBLE": "double", "BOOLEAN": "bool", "VARCHAR": "text"}
        types = {name: kinds.get(sql_type, "timestamp") for name, (_, sql_type) in RECORDS.items()}
        query = {"name": "records", "sql": "SELECT * FROM ta.records", "types": types}
        return {
            "SOURCES__THINKINGENGINE__TOKEN": KEY,
            "SOURCES__THINKINGENGINE__PROJECT_ID": "1",
            "SOURCES__THINKINGENGINE__BASE_URL": url,
            "SOURCES__THINKINGENGINE__REQUESTS_PER_SECOND": "1000",
            "SOURCES__THINKINGENGINE__PAGE_SIZE": str(SQL_PAGE),
            "SOURCES__THINKINGENGINE__QUERIES": json.dumps([query]),
        }
    return {
        "SOURCES__TUNE__API_KEY": KEY,
        "SOURCES__TUNE__BASE_URL": url,
        "SOURCES__TUNE__REQUESTS_PER_SECOND": "100000",
        "SOURCES__TUNE__CONCURRENCY": str(width),
        "SOURCES__TUNE__PAGE_SIZE": str(SMALL_PAGE if "/small/" in url else PAGE),
        "SOURCES__TUNE__EXCLUDE": json.dumps(TUNE_OTHERS),
    }


def copy(kind: str, url: str, rows: int, folder: Path) -> Work:
    """The least that Postgres can do with rows that are on disk already: one COPY of their text; `url` is the file."""
    import psycopg2

    types = {"VARCHAR": "text", "DOUBLE": "double precision"}
    spec = ", ".join(f"{name} {types.get(sql_type, sql_type)}" for name, (_, sql_type) in RECORDS.items())

    def work() -> None:
        connection = psycopg2.connect(os.environ[databases.URL])
        with connection, connection.cursor() as cursor, open(url, "rb") as file:
            cursor.execute(f"CREATE SCHEMA loaded; SET TimeZone = 'UTC'; CREATE TABLE loaded.{kind} ({spec})")
            cursor.copy_expert(f"COPY loaded.{kind} FROM STDIN (FORMAT csv)", file, 2**20)
        connection.close()

    return work


def multiply(kind: str, url: str, rows: int, folder: Path) -> Work:
    """Not measured: the rows that a night has loaded, again and again under other keys, until there are so many."""
    names = ", ".join(RECORDS)
    made = ", ".join(
        {"id": "id + k * n", "ref": "ref || k", "url": "url || '/' || k"}.get(name, name) for name in RECORDS
    )
    table = TABLES[kind]
    statement = (
        f"INSERT INTO {table} ({names}, _dlt_load_id) SELECT {made}, _dlt_load_id FROM {table}, "
        f"(SELECT count(*) AS n FROM {table}) AS counted, generate_series(1, {url} - 1) AS series (k)"
    )

    def work() -> None:
        if database := os.environ.get(databases.URL):
            databases.execute(database, statement)
            return
        import duckdb

        with duckdb.connect(str(folder / "data" / "warehouse.duckdb")) as connection:
            connection.execute(statement)
            connection.execute("CHECKPOINT")

    return work


WAYS: dict[str, Way] = {
    "nightload": nightload,
    "again": again,
    "one_at_a_time": one_at_a_time,
    "rest_api": rest_api,
    "rest_api_parquet": rest_api_parquet,
    "floor": floor,
    "copy": copy,
    "multiply": multiply,
}


def _landed(folder: Path, kind: str) -> int:
    if database := os.environ.get(databases.URL):
        ((ours,),) = databases.execute(database, f"SELECT to_regclass('{TABLES[kind]}') IS NOT NULL")
        ((landed,),) = databases.execute(database, f"SELECT count(*) FROM {TABLES[kind] if ours else f'loaded.{kind}'}")
        return int(landed)
    import duckdb

    ours = folder / "data" / "warehouse.duckdb"
    path, table = (ours, TABLES[kind]) if ours.exists() else (folder / "bench.duckdb", f"loaded.{kind}")
    with duckdb.connect(str(path), read_only=True) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    return row[0] if row else 0


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    own = int(found[1]) if found else 0
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime + databases.cpu()


def main(way: str, kind: str, url: str, rows: int, folder: Path) -> None:
    before = databases.cpu()
    work = WAYS[way](kind, url, rows, folder)
    imports = _cpu()
    started = time.perf_counter()
    told = work() or {}
    taken = {
        "wall": time.perf_counter() - started,
        "cpu": _cpu() - imports,
        "imports": imports - before,
        "peak": _peak_mb(),
    }
    if (landed := _landed(folder, kind)) != rows:
        raise SystemExit(f"{way} landed {landed} rows of {rows}")
    print(json.dumps(told | taken))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
