"""dbt after a green load: `dbt build` of the project beside the home, told as its own.

On DuckDB dbt builds into a copy that is swapped in when all is well, like a load: readers of the published file never
meet half a build, and a build that fails leaves the marts of the last good one beside the new rows. On Postgres dbt
writes where it is.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipelines.catalog.system_tables import publish
from pipelines.config.project import Place
from pipelines.ledger.store import Ledger
from pipelines.warehouse.base import Warehouse
from sources.core.errors import ConfigurationError, NightloadError, one_line, summarize

log = logging.getLogger(__name__)

PROJECT = "NIGHTLOAD_DBT"
GOOD = ("success", "pass", "no-op")
BAD = ("error", "fail", "runtime error", "partial success")

# dbt ends when we do, even if we are killed: it must not write into the copy of the next night.
_WATCHED = """
import os, runpy, sys, threading
def watch():
    while os.read(0, 4096):
        pass
    os._exit(143)
threading.Thread(target=watch, daemon=True).start()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A dbt project, and the dbt that builds it."""

    folder: Path
    command: Path


@dataclass(kw_only=True)
class DbtReport:
    """What came of dbt. status: ok · failed · skipped (the load was not green); counts are models and tests."""

    status: str
    error: str | None = None
    passed: int = 0
    warned: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """name and message of each model and test that failed"""

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def project_folder(home: Path, folder: str | None = None) -> Path:
    """The dbt project: what is given, `NIGHTLOAD_DBT`, or `dbt` in the home. Raises `ConfigurationError`."""
    path = (home / Path(folder or os.environ.get(PROJECT) or "dbt").expanduser()).resolve()
    if not (path / "dbt_project.yml").is_file():
        raise ConfigurationError(
            what="there is no dbt project",
            where=str(path),
            todo=f"Copy the folder dbt of nightload's repository there, or name yours with {PROJECT}",
        )
    return path


def find_project(place: Place) -> Project:
    """The project and the dbt of this environment. Raises `ConfigurationError` for what is missing."""
    command = Path(sys.executable).with_name("dbt")
    adapter = f"dbt-{place.kind}"
    try:
        version("dbt-core")
        version(adapter)
    except PackageNotFoundError:
        adapter = f"dbt with {adapter}"
    else:
        if command.exists():
            return Project(folder=project_folder(place.home), command=command)
    raise ConfigurationError(
        what=f"{adapter} is not installed",
        where=str(command.parent),
        todo="Install it beside nightload: pip install 'nightload[dbt]'",
    )


def build(project: Project, *, place: Place, warehouse: Warehouse, ledger: Ledger, run_id: str) -> DbtReport:
    """Build the project over the published warehouse, while holding its lock; failures are in the report."""
    ledger.open_dbt(run_id)
    report = DbtReport(status="failed", error="interrupted")
    try:
        warehouse.begin()
        report = _run(project, place)
        if report.status == "ok":
            with ledger.at_once():
                ledger.close_dbt(run_id, report.as_json())
                publish(warehouse, ledger)
    except (NightloadError, OSError) as error:
        report = DbtReport(status="failed", error=summarize(error))
    finally:
        if report.status != "ok":
            ledger.close_dbt(run_id, report.as_json())
        warehouse.discard()
    if report.status == "failed":
        log.error("dbt failed: %s", report.error)
    return report


def environment(place: Place) -> dict[str, str]:
    """What dbt is told: our settings and vendors' keys are none of its business."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SOURCES__", "DESTINATION__"))}
    return {
        **others,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DO_NOT_TRACK": "1",
        "NIGHTLOAD_DBT_TARGET": place.kind,
        **(postgres(place.postgres) if place.postgres else {"NIGHTLOAD_DBT_DUCKDB": str(place.build)}),
    }


def postgres(url: str) -> dict[str, str]:
    """The variables of libpq for a Postgres URL; the password in one that dbt masks."""
    parts, options = urlsplit(url), parse_qs(urlsplit(url).query)
    told = {
        "PGHOST": parts.hostname or options.get("host", [""])[0],
        "PGPORT": str(parts.port or ""),
        "PGUSER": unquote(parts.username or ""),
        "DBT_ENV_SECRET_PGPASSWORD": unquote(parts.password or os.environ.get("PGPASSWORD", "")),
        "PGDATABASE": unquote(parts.path.strip("/")),
        "PGSSLMODE": options.get("sslmode", [""])[0],
        "PGCLIENTENCODING": "UTF8",
    }
    return {name: value for name, value in told.items() if value}


def _run(project: Project, place: Place) -> DbtReport:
    state = place.state / "dbt"
    results = state / "target" / "run_results.json"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-c", _WATCHED, str(project.command), "--quiet", "--no-use-colors", "build"]
    command += ["--project-dir", str(project.folder), "--target", place.kind]
    if (project.folder / "profiles.yml").exists():
        command += ["--profiles-dir", str(project.folder)]
    command += ["--target-path", str(state / "target"), "--log-path", str(state / "logs")]
    with subprocess.Popen(  # noqa: S603 - the dbt of this environment
        command,
        cwd=project.folder,
        env=environment(place),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as dbt:
        try:
            assert dbt.stdout is not None  # noqa: S101
            told = dbt.stdout.read()
            code = dbt.wait()
        except BaseException:
            dbt.kill()
            raise
    report = _report(json.loads(results.read_text(encoding="utf-8"))["results"] if results.exists() else [])
    if code or report.failed or not results.exists():
        report.status = "failed"
        names = ", ".join(failure["name"] for failure in report.failures)
        line = one_line(told).removeprefix("Encountered an error: ")
        report.error = names or (line if len(line) <= 500 else f"{line[:499]}…") or f"it ended with {code}"
    return report


def _report(results: Sequence[dict[str, Any]]) -> DbtReport:
    states = [result["status"] for result in results]
    return DbtReport(
        status="ok",
        passed=sum(state in GOOD for state in states),
        warned=states.count("warn"),
        failed=sum(state in BAD for state in states),
        skipped=states.count("skipped"),
        failures=[
            {"name": result["unique_id"].split(".")[2], "message": one_line(result["message"] or "")[:500]}
            for result in results
            if result["status"] in BAD
        ],
    )
