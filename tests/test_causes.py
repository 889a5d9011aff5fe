"""One cause over many tables is one line, one incident, one alert and one card."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import Night, one_database
from ledger_story import NOON, command, story
from pipelines.config import project as places
from pipelines.monitoring.alerts import sweep
from pipelines.monitoring.causes import by_cause, named
from pipelines.monitoring.html_report import write
from sandbox_process import SandboxProcess
from test_bad_input import closed_port

TABLES = [f"tune.t{number:02}" for number in range(17)]
CAUSES = {
    "key": "the key is not accepted (tune, table {table}): HTTP 401. Check sources.tune.api_key",
    "host": "cannot reach tune.example (tune, GET https://tune.example/{table}): connection refused (tried 5 times)",
    "certificate": "cannot reach tune.example (tune, GET https://tune.example/{table}): its certificate has expired",
    "limit": "the vendor asks for a pause of 36{number:02}.5 s (tune, table {table}): HTTP 429. Come back later",
}


def failed(cause: str, tables: list[str] = TABLES) -> dict[str, dict[str, Any]]:
    return {
        table: {"status": "failed", "error": CAUSES[cause].format(table=table, number=number)}
        for number, table in enumerate(tables)
    }


@pytest.mark.parametrize("cause", CAUSES)
def test_one_cause_of_all_tables_is_one_incident_one_alert_one_line_and_one_card(cause: str, tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.settings('[alerts]\ncommand = "true"\n')
        told.night(1, {"tune": {table: {} for table in TABLES}})
        run_id = told.night(0, {"tune": failed(cause)})
        ((_, message),) = sweep(told.place, now=NOON)
        (incident,) = told.ledger.incidents()
        assert (incident["kind"], incident["vendor"], incident["subject"]) == ("vendor", "tune", None)
        assert incident["why"].startswith("17 tables (tune.t00, tune.t01, tune.t02 and 14 more): ")
        assert "17 tables" in message.text
        assert sweep(told.place, now=NOON + timedelta(hours=1)) == []
    words = CAUSES[cause].partition(" (")[0].partition(" of 36")[0]
    home = command(tmp_path)
    for arguments in (("run-info", run_id), ("status",)):
        lines = [line for line in home.main(*arguments).out.splitlines() if words in line and "; again in" not in line]
        assert len(lines) == 1 and "17 tables" in lines[0], lines
    write(places.find(str(tmp_path)), tmp_path / "report.html", now=NOON)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count(f"<p>{words}") == 1, "of what was said"
    assert page.count('<article class="incident">') == 1
    assert page.count(f'<p class="why">{words}') == 1


def test_another_cause_or_one_of_few_tables_is_an_incident_each_and_a_line_for_each_cause(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.settings('[alerts]\ncommand = "true"\n')
        good = {table: {} for table in TABLES}
        told.night(1, {"tune": good})
        told.night(0, {"tune": {**good, **failed("key", TABLES[:3]), "tune.t16": {"status": "failed", "error": "no"}}})
        sweep(told.place, now=NOON)
        assert [row["subject"] for row in told.ledger.incidents()] == ["tune.t00", "tune.t01", "tune.t02", "tune.t16"]
    lines = [line for line in command(tmp_path).main("status").out.splitlines() if "tables of tune failed" in line]
    assert len(lines) == 2 and "3 tables (tune.t00, tune.t01, tune.t02): " in lines[0]


def test_the_vendor_well_again_is_one_alert(tmp_path: Path) -> None:
    with story(tmp_path) as told:
        told.settings('[alerts]\ncommand = "true"\n')
        told.night(1, {"tune": failed("key")})
        assert len(sweep(told.place, now=NOON - timedelta(days=1))) == 1
        told.night(0, {"tune": {table: {} for table in TABLES}})
        ((_, message),) = sweep(told.place, now=NOON)
        assert message.event == "recovered"


@one_database
@pytest.mark.parametrize("cause", ["key", "host", "limit"])
def test_run_where_the_vendor_as_a_whole_refuses_says_it_once(
    cause: str, night: Night, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.01)
    if cause == "limit":
        later = {"status": 429, "headers": {"Retry-After": "3600"}}
        sandbox.control("tune", "POST", "faults", [{"match": {}, "times": -1, "do": later}])
    elif cause == "key":
        night.set("tune", api_key="CANARYwrong")
    else:
        night.set("tune", base_url=f"http://127.0.0.1:{closed_port()}/")
    words = {"key": "does not accept the key", "host": "cannot reach", "limit": "asks for a pause"}[cause]
    ran = night.main("run", "tune")
    lines = [line for line in (ran.out + ran.err).splitlines() if words in line and "; again in" not in line]
    assert (ran.code, len(lines)) == (1, 1), ran.out + ran.err
    assert "17 tables (tune." in lines[0] and "CANARY" not in ran.out + ran.err
    (incident,) = night.main("status", "--json").json["incidents"]
    assert (incident["kind"], incident["severity"]) == ("vendor", "error")


def test_errors_keep_the_place_that_they_share() -> None:
    errors = [("a", "no (tune, table a, page 1): why"), ("b", "no (tune, table b, page 1): why"), ("c", "other (tune)")]
    assert by_cause(errors) == [(["a", "b"], "no (tune, page 1): why"), (["c"], "other (tune)")]
    assert (named(["a"]), named(["a", "b"])) == ("a", "2 tables (a, b)")
