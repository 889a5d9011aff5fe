"""Dagster: what it shows is what nightload knows, and what it starts is one run of nightload."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pytest
from filelock import FileLock

from conftest import Night
from ledger_story import NOON, story
from pipelines.config import project as places
from pipelines.scheduling.dagster import child, dagster_assets
from pipelines.scheduling.dagster.__main__ import home_of_dagster
from pipelines.scheduling.dagster.dagster_assets import FRESH, NIGHT, PROVEN, Load, asset_key, definitions
from sandbox_process import SandboxProcess
from sources import VENDORS
from sources.core.redaction import register_secret
from sources.extract.connector import package
from tune_facts import DAILY, TODAY

COUNTRIES, SNIPPETS = asset_key("tune.countries"), asset_key("tonalytica.query_snippets")
SCHEDULES = """
[schedules.nightly]
cron = "30 2 * * *"
zone = "Asia/Shanghai"
vendors = ["tune"]
then = "dbt"
deadline = "5h"

[schedules.odd-one]
cron = "@weekly"
tables = ["tonalytica.queries", "tonalytica_results.query_城市"]

[schedules.both]
cron = "0 4 */2 * mon"
"""


@contextmanager
def environment(night: Night) -> Iterator[None]:
    """This process as Dagster's would be: all settings in the environment."""
    with mock.patch.dict(os.environ, night.environment(), clear=True):
        yield


def materialize(
    night: Night, *keys: dg.AssetKey, instance: dg.DagsterInstance | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    """These assets, as the UI's button would."""
    with environment(night):
        load = definitions().get_assets_def(keys[0])
        selection = dg.AssetSelection.assets(*keys)
        run_config = dg.RunConfig(ops={NIGHT: Load(**config)})
        return dg.materialize(
            [load], selection=selection, raise_on_error=False, run_config=run_config, instance=instance
        )


def events(result: dg.ExecuteInProcessResult, kind: str) -> list[Any]:
    return [event.event_specific_data for event in result.all_events if event.event_type_value == kind]


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """Asset → what is told of it."""
    return {
        each.materialization.asset_key.to_user_string(): {
            name: value.value for name, value in each.materialization.metadata.items()
        }
        for each in events(result, "ASSET_MATERIALIZATION")
    }


def test_a_selection_is_one_run_and_tells_its_counts(night: Night) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(night, COUNTRIES, SNIPPETS, instance=instance)
        said = "\n".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert result.success
    ((run_id,),) = night.rows("SELECT run_id FROM nightload.runs")  # one run, on this database
    told = materialized(result)
    counts = "dataset || '/' || table_name, status, vendor_count, extracted, landed, live"
    rows = night.rows(f"SELECT {counts} FROM nightload.run_tables")
    assert len(rows) == len(told) == 2
    for name, status, vendor_count, extracted, landed, live in rows:
        there = {"run_id": run_id, "status": status, "vendor_count": vendor_count, "extracted": extracted}
        assert there.items() <= told[name].items()
        assert (told[name]["landed"], told[name]["live"], told[name]["dagster/row_count"]) == (landed, live, live)
    assert told["tune/countries"]["landed"] == 40
    assert [each.passed for each in events(result, "ASSET_CHECK_EVALUATION")] == [True, True]
    assert "tune countries" in said and "CANARY" not in said


def test_a_table_that_fails_fails_alone_and_no_secret_shows(file_night: Night, sandbox: SandboxProcess) -> None:
    body = {"message": f"no {sandbox.tonalytica['api_key']}"}
    rule = {"match": {"path": "api/query_snippets"}, "do": {"status": 400, "body": body}, "times": -1}
    sandbox.control("tonalytica", "POST", "faults", rule)
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(file_night, SNIPPETS, asset_key("tonalytica.alerts"), instance=instance)
        said = "\n".join(str(entry) for entry in instance.all_logs(result.run_id))
    assert not result.success
    assert set(materialized(result)) == {"tonalytica/alerts"}
    checks = {each.asset_key.to_user_string(): each.passed for each in events(result, "ASSET_CHECK_EVALUATION")}
    assert checks == {"tonalytica/alerts": True, "tonalytica/query_snippets": False}
    (failure,) = events(result, "STEP_FAILURE")
    assert "tonalytica.query_snippets: " in failure.user_failure_data.description
    assert not events(result, "STEP_UP_FOR_RETRY")  # nightload has tried what may be tried again
    assert "the vendor answered 400" in said and "CANARY" not in said


def test_a_run_that_finds_the_warehouse_locked_comes_back(file_night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    place = places.at(places.DEFAULT, file_night.home)
    place.state.mkdir(parents=True)
    held = FileLock(place.lock)
    held.acquire(timeout=0)
    come_back, codes = dagster_assets._come_back, []

    def let_go(ended: child.Ended, config: Load) -> None:
        codes.append(ended.code)
        held.release()
        come_back(ended, config)

    monkeypatch.setattr(dagster_assets, "_come_back", let_go)
    result = materialize(file_night, COUNTRIES, retry_after_seconds=0)
    assert codes == [3, 0] and result.success
    (again,) = events(result, "STEP_UP_FOR_RETRY")
    assert "another run has this warehouse" in str(again)


@pytest.fixture
def home(tmp_path: Path) -> Night:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text(SCHEDULES, encoding="utf-8")
    with story(tmp_path) as told:
        told.night(40, {"tune": {"tune.gone": {}}})
        for ago in (3, 2, 1):
            told.night(ago, {"tune": {"tune.clicks": {}}})
        failed = {"tune.clicks": {}, "tune.countries": {"status": "mismatch", "error": "they differ", "landed": 7}}
        # ten minutes ago, whatever the time of day is: after the schedule's last fire, or within its deadline
        just_now = datetime.now(UTC) - timedelta(minutes=10)
        told.night((NOON.replace(hour=2) - just_now).total_seconds() / 86400, {"tune": failed})
    night = Night(home=tmp_path)
    night.set("tune", api_key="k")
    return night


def test_the_assets_are_the_tables_of_the_vendors_with_a_key_or_a_schedule(home: Night) -> None:
    with environment(home):
        found = definitions()
        declared = {f"tune.{table.name}" for table in package("tune").tables()["tune"]}
        declared |= {f"tonalytica.{table.name}" for table in package("tonalytica").tables()["tonalytica"]}
        met = {"tune.clicks", "tonalytica_results.query_城市"}  # by a run, and by a schedule; tune.gone is left out
    graph = found.resolve_asset_graph()
    assert graph.get_all_asset_keys() == {asset_key(name) for name in declared | met}
    node = graph.get(COUNTRIES)
    assert (node.group_name, node.kinds) == ("tune", {"duckdb"})
    assert node.metadata["dagster/table_name"] == "tune.countries" and node.description
    wanted = {dg.AssetCheckKey(key, name) for key in graph.get_all_asset_keys() for name in (PROVEN, FRESH)}
    assert graph.asset_check_keys == wanted
    assert asset_key("tonalytica_results.query_城市").path[1].isascii()
    assert len({asset_key(f"t.{name}") for name in ("城", "市", "u57ce", "a b", "a_b")}) == 5


def test_the_schedules_are_those_of_the_home(home: Night) -> None:
    with environment(home):
        found = definitions()
    nightly, odd, both = (found.get_schedule_def(name) for name in ("nightly", "odd_one", "both"))
    assert (nightly.cron_schedule, nightly.execution_timezone) == ("30 2 * * *", "Asia/Shanghai")
    assert (odd.cron_schedule, odd.execution_timezone) == ("0 0 * * 0", "UTC")
    assert nightly.default_status == dg.DefaultScheduleStatus.STOPPED
    jobs = {
        name: found.resolve_job_def(f"{name}_night").asset_layer.selected_asset_keys for name in ("nightly", "odd_one")
    }
    assert {key.path[0] for key in jobs["nightly"]} == {"tune"} and len(jobs["nightly"]) > 10
    assert jobs["odd_one"] == {asset_key("tonalytica.queries"), asset_key("tonalytica_results.query_城市")}
    due = {}
    for day in (7, 8, 9, 21):  # in December 2026 the 7th and the 21st are Mondays
        with dg.build_schedule_context(scheduled_execution_time=datetime(2026, 12, day, 4, tzinfo=UTC)) as context:
            due[day] = len(both.evaluate_tick(context).run_requests or ())
    assert due == {7: 1, 8: 0, 9: 0, 21: 1}  # both must be right, where other crons take either
    at = datetime(2026, 12, 7, 2, 30, tzinfo=nightly_zone())
    with dg.build_schedule_context(scheduled_execution_time=at) as context:
        (request,) = nightly.evaluate_tick(context).run_requests or ()
    assert request.run_config["ops"][NIGHT]["config"]["then_dbt"] is True
    assert request.run_config["ops"][NIGHT]["config"]["deadline_seconds"] == 5 * 3600


def nightly_zone() -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo("Asia/Shanghai")


def test_whole_vendors_are_asked_for_as_such_and_others_by_their_tables(home: Night) -> None:
    with environment(home):
        items = dagster_assets.tables(places.find(), ())
    of_tune = [item for item in items if item.vendor == "tune"]
    assert dagster_assets.arguments(of_tune, items) == ["run", "tune"]
    assert dagster_assets.arguments(of_tune[:2], items) == [
        "run",
        "--table",
        "tune.account",
        "--table",
        "tune.account_users",
    ]


def test_checks_alone_ask_the_ledger_and_start_nothing(home: Night) -> None:
    with environment(home), mock.patch.object(dagster_assets, "nightload", side_effect=AssertionError):
        found = definitions()
        result = found.resolve_job_def("nightload_freshness").execute_in_process(raise_on_error=False)
        fresh = {each.asset_key.to_user_string(): each for each in events(result, "ASSET_CHECK_EVALUATION")}
        load = found.get_assets_def(COUNTRIES)
        keys = [dg.AssetCheckKey(asset_key(f"tune.{name}"), PROVEN) for name in ("countries", "clicks")]
        proven = dg.materialize([load], selection=dg.AssetSelection.checks(*keys), raise_on_error=False)
    assert result.success
    assert fresh["tune/clicks"].passed and not fresh["tune/countries"].passed  # never good
    assert fresh["tune/account"].description == "never loaded"
    told = {each.asset_key.path[1]: each.passed for each in events(proven, "ASSET_CHECK_EVALUATION")}
    assert told == {"countries": False, "clicks": True}


def test_without_any_key_all_vendors_are_shown(tmp_path: Path) -> None:
    with environment(Night(home=tmp_path)):
        assert {item.vendor for item in dagster_assets.tables(places.find(), ())} == set(VENDORS)


# -- the child -----------------------------------------------------------------------------------------


def run_stub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, **options: Any
) -> tuple[child.Ended, Sequence[str]]:
    lines: list[str] = []
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", code))
    ended = child.nightload([], places.at(places.DEFAULT, tmp_path), on_line=lines.append, **options)
    return ended, lines


def test_what_a_child_says_is_masked_and_its_document_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_secret("CANARYsecretofthechild")
    code = "import sys; sys.stderr.write('key CANARYsecretofthechild\\n城市\\n'); print('{\"run_id\": 1}'); sys.exit(4)"
    ended, lines = run_stub(tmp_path, monkeypatch, code)
    assert (ended.code, ended.document, ended.stopped) == (4, {"run_id": 1}, False)
    assert len(lines) == 2 and lines[1] == "城市" and "CANARY" not in lines[0]
    assert run_stub(tmp_path, monkeypatch, "print('{\"run')")[0].document is None


WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
sys.stderr.write("up\\n")
time.sleep(60)
"""


def test_a_deadline_ends_it_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    ended, _ = run_stub(tmp_path, monkeypatch, WAITS, deadline=2)
    assert (ended.stopped, ended.document, time.monotonic() - began < 30) == (True, None, True)
    with pytest.raises(dg.Failure, match="deadline"):
        dagster_assets._come_back(ended, Load())


def test_whatever_ends_the_caller_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def popen(*args: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(real(*args, **options))
        return started[-1]

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(child.subprocess, "Popen", popen)
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", WAITS))
    with pytest.raises(KeyboardInterrupt):
        child.nightload([], places.at(places.DEFAULT, tmp_path), on_line=interrupted)
    assert started[0].poll() == 130


@pytest.mark.parametrize(
    ("ended", "wanted"),
    [
        (child.Ended(3, {"status": "locked"}), dg.RetryRequested),
        (child.Ended(-9, None), dg.RetryRequested),
        (child.Ended(2, {"error": "no vendor has a key", "vendors": []}), dg.Failure),
        (child.Ended(2, None, "nightload: there is no such day"), dg.Failure),
    ],
)
def test_only_what_may_help_is_tried_again(ended: child.Ended, wanted: type[Exception]) -> None:
    with pytest.raises(wanted):
        dagster_assets._come_back(ended, Load())


# -- the UI, and Airflow -------------------------------------------------------------------------------


def test_the_home_of_dagster_is_beside_the_ledger_and_tells_nobody(tmp_path: Path) -> None:
    place = places.at(places.DEFAULT, tmp_path)
    folder = home_of_dagster(place)
    assert folder.parent == place.state and folder.stat().st_mode & 0o777 == 0o700
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        assert not instance.telemetry_enabled
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n# mine\n")
    assert "# mine" in (home_of_dagster(place) / "dagster.yaml").read_text()


def test_a_schedule_that_is_wrong_is_told_before_anything_opens(tmp_path: Path) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text('[schedules.x]\ncron = "soon"\n')
    words = [sys.executable, "-m", "pipelines.scheduling.dagster", "--home", str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.count("\n"), "schedules.x.cron" in ran.stderr) == (2, 1, True), ran.stderr


@pytest.mark.parametrize(("code", "name"), [(0, None), (1, "RuntimeError"), (2, "FailsAtOnce"), (3, "RuntimeError")])
def test_the_airflow_example_takes_the_exit_codes_as_meant(tmp_path: Path, code: int, name: str | None) -> None:
    """Without Airflow: its names are stood in for, the DAG's own code runs."""
    text = (Path(__file__).parent.parent / "examples" / "airflow_dag.py").read_text(encoding="utf-8")
    taken = {each.module: {alias.name for alias in each.names} for each in ast.walk(ast.parse(text))
             if isinstance(each, ast.ImportFrom) and str(each.module).startswith("airflow")}  # fmt: skip
    assert taken == {
        "airflow.sdk": {"DAG", "CronTriggerTimetable", "task"},
        "airflow.sdk.exceptions": {"AirflowFailException"},
    }
    tasks: dict[str, Any] = {}

    def task(function: Any = None, **_: Any) -> Any:
        if function is None:
            return task
        tasks[function.__name__] = function
        return mock.MagicMock()

    fails = type("FailsAtOnce", (Exception,), {})
    sdk = mock.MagicMock(task=task)
    modules = {"airflow": mock.MagicMock(), "airflow.sdk": sdk,
               "airflow.sdk.exceptions": mock.MagicMock(AirflowFailException=fails)}  # fmt: skip
    stub = tmp_path / "nightload"
    stub.write_text(f"#!/bin/sh\nexit {code}\n")
    stub.chmod(0o755)
    with mock.patch.dict(sys.modules, modules):
        space: dict[str, Any] = {"__name__": "dag"}
        exec(compile(text, "airflow_dag.py", "exec"), space)
    assert sdk.DAG.call_args.kwargs["max_active_runs"] == 1
    assert sdk.DAG.call_args.kwargs["default_args"]["pool"] == "nightload"
    assert set(space["VENDORS"]) == set(VENDORS)
    space["NIGHTLOAD"] = str(stub)
    raised = {None: None, "RuntimeError": RuntimeError, "FailsAtOnce": fails}[name]
    with pytest.raises(raised) if raised else nullcontext():
        tasks["load"]("tune")


def test_a_range_of_days_is_one_backfill(file_night: Night) -> None:
    pytest.importorskip("pipelines.operations.backfill")
    last, first = TODAY - timedelta(days=6), TODAY - timedelta(days=8)
    file_night.set("tune", reports=[{**DAILY, "start": str(TODAY - timedelta(days=4))}])
    with environment(file_night):
        days = definitions().get_assets_def(dg.AssetKey(["tune", "actuals_daily", "days"]))
        span = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
        result = dg.materialize([days], tags=span, raise_on_error=False)
    assert result.success
    told = [each.materialization for each in events(result, "ASSET_MATERIALIZATION")]
    assert [each.partition for each in told] == [str(first + timedelta(days=day)) for day in range(3)]
    ((chunk, landed),) = file_night.rows("SELECT first_day || '..' || last_day, landed FROM nightload.backfills")
    assert chunk == f"{first}..{last}"
    assert told[0].metadata["landed"].value == landed > 0
    assert file_night.rows("SELECT count(*) FROM nightload.runs") == [(0,)]


DAGSTER_LIKE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Dagster's own process, which leaves the others then
other = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"])
print(other.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_the_ui_leaves_nothing_behind(number: signal.Signals) -> None:
    script = "import sys; from pipelines.scheduling.dagster.__main__ import serve; sys.exit(serve(sys.argv[1:], {}))"
    inner = [sys.executable, "-c", DAGSTER_LIKE]
    ui = subprocess.Popen(  # as in the background of a shell
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", script, *inner],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ui.stdout is not None
    lines = [ui.stdout.readline().strip() for _ in range(2)]
    ui.send_signal(number)
    rest, _ = ui.communicate(timeout=30)  # which comes to its end when nobody has the pipe any more
    assert "up" in lines and rest == ""
    assert ui.returncode not in (0, None)
