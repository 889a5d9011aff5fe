"""What the commands tell of the nights: freshness for monitors, the runs, and all of one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import Night
from ledger_story import NOON, Story, command, story
from pipelines.config import schedules
from pipelines.config.sections import duration, section
from pipelines.monitoring import status
from pipelines.monitoring.alerts import sweep
from pipelines.monitoring.status import last_runs, run_info
from sandbox_process import SandboxProcess
from sources.core.errors import ConfigurationError
from test_ledger import few_tables

GOOD = {"tune.clicks": {}, "tune.campaigns": {}}
NEVER = '[status]\nstale_after = "never"\n'


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Story]:
    with story(tmp_path) as it:
        yield it


def stale(told: Story, now: datetime = NOON) -> list[str]:
    found: list[str] = last_runs(told.place, now=now)["stale"]
    return found


def test_a_warehouse_that_is_gone_is_not_fresh(told: Story) -> None:
    """However good the nights were that the ledger beside it tells of."""
    told.night(0, {"tune": GOOD})
    file = told.place.warehouse
    file.write_text("not a database, and longer than its first bytes")
    found = last_runs(told.place, now=NOON)
    assert found["stale"] == [str(file)] and "is no DuckDB file" in found["pending"][0]
    file.unlink()
    file.mkdir()
    assert stale(told) == [str(file)]
    file.rmdir()
    ran = command(told.place.home).main("status")
    assert ran.code == 1 and "No such file" in ran.out


def test_a_night_on_a_clock_that_was_a_year_ahead_is_not_fresh_for_a_year(told: Story) -> None:
    told.night(-365, {"tune": GOOD})
    assert stale(told) == ["tune"], "nothing is known to be as fresh as now"
    told.night(1, {"tune": GOOD})
    (vendor,) = last_runs(told.place, now=NOON)["vendors"]
    assert vendor["last_good"].startswith("2026-05-19") and stale(told, NOON - timedelta(hours=12)) == []
    told.night(0, {"tune": "the key is not accepted"})
    (vendor,) = last_runs(told.place, now=NOON + timedelta(hours=20))["vendors"]
    assert (vendor["status"], vendor["fresh"]) == ("failed", False)


def test_a_vendor_is_stale_when_its_last_green_night_is_too_old(told: Story) -> None:
    told.night(0, {"tune": GOOD})
    assert stale(told) == []
    assert stale(told, NOON + timedelta(hours=16, minutes=8)) == []  # 26 hours after the night's end at 02:09
    assert stale(told, NOON + timedelta(hours=16, minutes=10)) == ["tune"]


def test_a_failing_vendor_becomes_stale_though_it_runs(told: Story) -> None:
    told.night(2, {"tune": GOOD, "dataworks": {"dataworks.files": {}}})
    for ago in (1, 0):
        told.night(ago, {"tune": "the key is not accepted", "dataworks": {"dataworks.files": {}}})
    assert stale(told) == ["tune"]


def test_what_was_never_green_is_stale(told: Story) -> None:
    told.night(0, {"tune": "the key is not accepted"})
    assert stale(told) == ["tune"]


def test_each_vendor_and_table_may_have_its_own_limit(told: Story) -> None:
    told.settings('[status.stale_after]\ndefault = "3d"\ntune = "20h"\n"tune.clicks" = "never"\n')
    told.night(1, {"tune": GOOD, "dataworks": {"dataworks.files": {}}})
    assert stale(told) == ["tune"]
    tables = {each["table"]: each["fresh"] for each in last_runs(told.place, now=NOON)["vendors"][1]["tables"]}
    assert tables == {"tune.clicks": None, "tune.campaigns": False}
    told.settings('[status.stale_after]\ndefault = "20h"\ntune = "never"\ndataworks = "never"\n')
    assert stale(told) == []


def test_a_table_that_the_vendor_no_longer_shows_is_left_out_and_not_stale(told: Story) -> None:
    for ago in (9, 8, 7):
        told.night(ago, {"tune": GOOD})
    for ago in (2, 1):
        told.night(ago, {"tune": {"tune.campaigns": {}}})
    assert stale(told, NOON - timedelta(days=1)) == ["tune.clicks"]  # it may have been left out by --table
    told.night(0, {"tune": {"tune.campaigns": {}}})
    assert stale(told) == []
    tables = {each["table"]: each["left_out"] for each in last_runs(told.place, now=NOON)["vendors"][0]["tables"]}
    assert tables == {"tune.campaigns": False, "tune.clicks": True}


def test_one_stale_table_is_named_where_its_vendor_is_fresh(told: Story) -> None:
    told.night(3, {"tune": GOOD})
    told.night(1, {"tune": {"tune.campaigns": {}, "tune.clicks": {"status": "failed", "error": "no"}}})
    told.night(0, {"tune": {"tune.campaigns": {}}})
    assert stale(told) == ["tune.clicks"]


@pytest.mark.parametrize(
    ("tables", "code"),
    [
        ("the key is not accepted", 1),
        ({**GOOD, "tune.clicks": {"status": "failed", "error": "HTTP 500"}}, 1),
        ({**GOOD, "tune.clicks": {"status": "mismatch", "error": "9 rows came, 8 landed"}}, 1),
        (GOOD, 0),
    ],
    ids=["vendor", "table", "counts", "good"],
)
def test_status_after_a_run_with_an_error_exits_1_though_nothing_is_stale(
    tables: Any, code: int, tmp_path: Path
) -> None:
    with story(tmp_path) as told:
        told.settings(NEVER)
        told.night(1, {"tune": GOOD})
        told.night(0, {"tune": tables})
        sweep(told.place, now=NOON)
    assert command(tmp_path).main("status").code == code
    assert command(tmp_path).main("status", "--stale-only").code == 0
    severities = [each["severity"] for each in command(tmp_path).main("status", "--json").json["incidents"]]
    assert severities == ["error"] * code


def test_status_with_drift_and_no_error_exits_0(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.settings(NEVER)
        run_id = told.night(0, {"tune": GOOD})
        change = {"run_id": run_id, "changed_at": NOON.isoformat(), "vendor": "tune", "dataset": "tune"}
        told.ledger.record(
            "schema_changes", [{**change, "table_name": "clicks", "column_name": "ip", "change": "dark"}]
        )
        sweep(told.place, now=NOON)
    ran = command(tmp_path).main("status", "--json")
    assert ([each["severity"] for each in ran.json["incidents"]], ran.code) == (["warning"], 0)


def test_status_after_dbt_failed_exits_1(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.settings(NEVER)
        run_id = told.night(0, {"tune": GOOD})
        told.ledger.open_dbt(run_id)
        told.ledger.close_dbt(run_id, {"status": "failed", "failed": 2})
        sweep(told.place, now=NOON)
    ran = command(tmp_path).main("status", "--json")
    assert ([each["kind"] for each in ran.json["incidents"]], ran.code) == (["dbt"], 1)


def test_the_exit_code_is_for_monitors(tmp_path: Path) -> None:
    assert command(tmp_path).main("status").code == 1  # nothing ever ran
    with story(tmp_path) as told:
        told.night((NOON - datetime.now(UTC)).total_seconds() / 86400, {"tune": GOOD})
    ran = command(tmp_path).main("status", "--json")
    assert (ran.code, ran.json["stale"]) == (0, [])
    assert command(tmp_path).main("status", env={"STATUS__STALE_AFTER": "1m"}).code == 1
    ran = command(tmp_path).main("status", env={"STATUS__STALE_AFTER": "soon"})
    assert (ran.code, "status.stale_after is no duration" in ran.err) == (2, True)


def test_status_tells_what_is_pending_and_what_changed(told: Story) -> None:
    told.night(1, {"tune": GOOD})
    change = {
        "vendor": "tune",
        "dataset": "tune",
        "table_name": "clicks",
        "column_name": "渠道",
        "change": "new column",
    }
    failed = {"tune.clicks": {"status": "failed", "error": "no"}, "tune.campaigns": {}}
    told.night(0, {"tune": failed}, changes=[{**change, "new_type": "text"}])
    told.ledger.open_run(["tune"], version="0")
    found = last_runs(told.place, now=NOON)
    assert any("is under way" in line for line in found["pending"])
    assert any("tune.clicks" in line and "tune.campaigns" not in line for line in found["pending"])
    assert found["vendors"][0]["drift"][0]["column_name"] == "渠道"


def test_the_runs_and_one_of_them_can_be_looked_at(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        first = told.night(1, {"tune": GOOD})
        second = told.night(0, {"tune": {"tune.clicks": {"status": "failed", "error": "gone [b]wild[/b]"}}})
    night = command(tmp_path)
    assert [row["run_id"] for row in night.main("runs", "--json").json["runs"]] == [second, first]
    assert [row["run_id"] for row in night.main("runs", "--limit", "1", "--json").json["runs"]] == [second]
    assert second in night.main("runs").out
    found = night.main("run-info", first[:8], "--json").json
    assert (found["run"]["run_id"], found["run"]["vendors"]) == (first, ["tune"])
    assert [table["table"] for table in found["vendors"][0]["tables"]] == ["tune.campaigns", "tune.clicks"]
    shown = night.main("run-info", second)
    assert (shown.code, "gone [b]wild[/b]" in shown.out) == (0, True)


@pytest.mark.parametrize(("prefix", "why"), [("2026", "2 runs begin"), ("x", "no run begins"), ("%", "no run begins")])
def test_an_id_must_name_one_run(told: Story, prefix: str, why: str) -> None:
    told.night(1, {"tune": GOOD})
    told.night(0, {"tune": GOOD})
    with pytest.raises(ConfigurationError, match=why):
        run_info(told.place, prefix)


def test_what_the_commands_tell_is_what_the_night_told(night: Night, sandbox: SandboxProcess) -> None:
    small = few_tables(night)
    ran = small("run", "--json")
    assert ran.code == 0, ran.err
    status = small.main("status", "--json")
    assert (status.code, status.json["stale"], status.json["pending"]) == (0, [], [])
    found = small.main("run-info", ran.json["run_id"], "--json").json
    for table in found["vendors"][0]["tables"]:
        names = ("vendor_count", "extracted", "landed", "live", "status")
        assert [table[name] for name in names] == [ran.tables[table["table"]][name] for name in names]
    assert (small.state / "report.html").exists()
    assert small.files() == set()


def test_durations_and_settings_are_read_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert duration("90m", setting="x") == timedelta(minutes=90)
    assert duration("1.5d", setting="x") == timedelta(hours=36)
    for wrong in ("26", 26, "-1h", "h", None, "9999999999d", ["1h"]):
        with pytest.raises(ConfigurationError):
            duration(wrong, setting="x")
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text('[alerts]\nwebhook = "a"\n[alerts.email]\nhost = "h"\nport = 25\n')
    (tmp_path / ".dlt" / "secrets.toml").write_text('[alerts]\nwebhook = "b"\n[alerts.email]\npassword = "p"\n')
    monkeypatch.setenv("ALERTS__EMAIL__PORT", "26")
    monkeypatch.setenv("ALERTS__EMAIL__TO", json.dumps(["x@y"]))
    found = section(tmp_path, "alerts", known={"webhook", "email"})
    assert found == {"webhook": "b", "email": {"host": "h", "port": 26, "password": "p", "to": ["x@y"]}}
    with pytest.raises(ConfigurationError, match=r"no setting alerts\.email.*It has: webhook|Did you mean"):
        section(tmp_path, "alerts", known={"webhook"})


def test_freshness_follows_the_schedule(tmp_path: Path) -> None:
    """A night that is due at 02:30 in Shanghai, and may take until 07:30, must have come by then, and not before."""
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text(
        '[schedules.nightly]\ncron = "30 2 * * *"\nzone = "Asia/Shanghai"\nvendors = ["tune"]\ndeadline = "5h"\n'
    )
    planned = schedules.read(tmp_path)
    told = {"table": "tune.countries", "vendor": "tune"}
    for now, since in (("2026-03-10T23:00", "2026-03-09T18:30"), ("2026-03-10T23:31", "2026-03-10T18:30")):
        at = datetime.fromisoformat(now).replace(tzinfo=UTC)
        due = status._due(planned, now=at)
        assert status.good_since(None, now=at, due=due, **told) == datetime.fromisoformat(since).replace(tzinfo=UTC)
        # what no schedule loads, and what the settings decide, goes by age
        other = status.good_since(None, table="growingio.charts", vendor="growingio", now=at, due=due)
        assert other == at - timedelta(hours=26)
        assert status.good_since({"default": "8d"}, now=at, due=due, **told) == at - timedelta(days=8)
