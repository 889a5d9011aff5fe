"""A column that goes dark is told with table, column and since when, until it has values again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import Night
from ledger_story import NOON, Story, command, story
from pipelines.catalog.null_columns import SURE, Values
from pipelines.monitoring.alerts import sweep
from pipelines.monitoring.incidents import observe
from pipelines.monitoring.status import last_runs
from receivers import http_receiver
from sandbox_process import SandboxProcess
from sources.convert.inspect import filled
from sources.convert.parquet import to_parquet
from sources.convert.spool import Spool
from sources.convert.types import Column, Kind
from sources.extract.table import Mode
from test_ledger import few_tables

AT = datetime(2026, 11, 26, 2, 30, tzinfo=UTC)
TOLD = "SELECT table_name, column_name, change FROM nightload.schema_changes WHERE column_name IS NOT NULL ORDER BY 1"
SINCE = "SELECT table_name, column_name FROM nightload.column_values WHERE dark_since IS NOT NULL"


def edit(sandbox: SandboxProcess, table: str, **row: Any) -> None:
    """Set these fields in all rows of a table."""
    keys = [each["id"] for each in sandbox.control("tonalytica", "GET", f"truth/{table}")["rows"]]
    sandbox.control(
        "tonalytica", "POST", "edit", [{"table": table, "op": "update", "key": key, "row": row} for key in keys]
    )


def test_a_field_that_the_vendor_drops_is_told_until_it_is_back(night: Night, sandbox: SandboxProcess) -> None:
    small = few_tables(night)
    assert small.run().code == 0
    assert small.rows(SINCE) == small.rows(TOLD) == []  # what never had a value (alerts.rearm) is no news
    edit(sandbox, "query_snippets", description=None)
    edit(sandbox, "alerts", state=None)
    ran = small.main("run", "--json")  # the command, which sweeps
    assert ran.code == 0, ran.err
    dark = [("alerts", "state", "dark"), ("query_snippets", "description", "dark")]
    assert small.rows(TOLD) == dark
    assert sorted(small.rows(SINCE)) == [row[:2] for row in dark]
    told = small.main("status", "--json").json
    assert {(each["kind"], each["subject"]) for each in told["incidents"]} == {
        ("drift", "tonalytica.alerts.state"),
        ("drift", "tonalytica.query_snippets.description"),
    }
    assert all(ran.json["run_id"] in each["why"] and "since 20" in each["why"] for each in told["incidents"])
    assert small.run().code == 0  # nothing changed: it stays as it is
    assert small.rows(TOLD) == dark
    edit(sandbox, "alerts", state="ok")
    assert small.main("run").code == 0
    assert small.rows(TOLD) == [dark[0], ("alerts", "state", "values again"), dark[1]]
    assert small.rows(SINCE) == [("query_snippets", "description")]
    told = small.main("status", "--json").json
    assert [each["subject"] for each in told["incidents"]] == ["tonalytica.query_snippets.description"]


def test_a_column_that_is_not_loaded_any_more_is_not_dark(file_night: Night, sandbox: SandboxProcess) -> None:
    small = few_tables(file_night)
    assert small.run().code == 0
    small.settings["PERSONAL__COLUMNS"] = json.dumps({"tonalytica.query_snippets.description": "drop"})
    edit(sandbox, "query_snippets", trigger="x")
    assert small.run().code == 0
    last = "SELECT status FROM nightload.run_tables WHERE table_name = 'query_snippets' ORDER BY run_id DESC LIMIT 1"
    assert small.rows(last) == [("warning",)]  # the rows that were loaded before have it still
    assert small.rows(TOLD) == []


def test_a_whole_walk_is_sure_at_once() -> None:
    told = Values(came=100, filled=1).then(100, 0, mode=Mode.FULL, whole=True, at=AT)
    assert told == Values(came=100, filled=1, bare=100, dark_since=AT)
    later = told.then(90, 0, mode=Mode.FULL, whole=True, at=AT + timedelta(days=1))
    assert (later.dark_since, later.bare) == (AT, 190)
    assert later.then(90, 3, mode=Mode.FULL, whole=True, at=AT) == Values(came=90, filled=3)


def test_rows_that_come_in_parts_are_added_up_until_chance_is_out_of_the_question() -> None:
    told, nights = Values(came=1000, filled=100), 0
    while told.dark_since is None:
        told = told.then(30, 0, mode=Mode.KEPT, whole=False, at=AT)
        nights += 1
    assert nights == 7 and told.bare == 210  # a tenth had values: 20 of 200 rows, and the night that passes it
    assert Values(came=SURE, filled=SURE).then(SURE - 1, 0, mode=Mode.LATEST, whole=False, at=AT).dark_since is None
    assert Values(came=SURE, filled=SURE).then(SURE, 0, mode=Mode.LATEST, whole=False, at=AT).dark_since == AT


def test_a_few_rows_do_not_outweigh_what_many_told() -> None:
    told = Values(came=10_000, filled=100).then(2, 2, mode=Mode.KEPT, whole=False, at=AT)
    assert told.then(100, 0, mode=Mode.KEPT, whole=False, at=AT).dark_since is None


def test_nothing_that_came_and_nothing_that_ever_was_is_no_news() -> None:
    assert Values(came=5, filled=5).then(0, 0, mode=Mode.FULL, whole=True, at=AT) == Values(came=5, filled=5)
    assert Values(came=0, filled=0).then(9, 0, mode=Mode.FULL, whole=True, at=AT) == Values(came=9, filled=0)


def test_a_whole_walk_of_an_incremental_table_ends_nothing() -> None:
    dark = Values(came=50, filled=50, bare=60, dark_since=AT)
    assert dark.then(5000, 4000, mode=Mode.INCREMENTAL, whole=True, at=AT) == dark
    assert dark.then(5, 1, mode=Mode.INCREMENTAL, whole=False, at=AT).dark_since is None


def test_the_figures_of_the_file_are_those_of_its_rows(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "rows.json")
    names = ("id", "some", "none", "day", "城市")
    spool.rows(
        [{"id": n, "some": "x" if n % 3 == 0 else None, "day": "0000-00-00", "城市": 1.5} for n in range(40_000)]
    )
    kinds = {"id": Kind.BIGINT, "day": Kind.DATE}
    columns = [Column(label=name, name=name, kind=kinds.get(name)) for name in names]
    converted = to_parquet(spool, out=tmp_path / "rows.parquet", columns=columns, load_id="1", where="t")
    assert filled(converted) == {"id": 40_000, "some": 13_334, "none": 0, "day": 0, "城市": 40_000}


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Story]:
    with story(tmp_path) as it:
        yield it


def change(column: str, what: str) -> dict[str, str]:
    return {"vendor": "tune", "dataset": "tune", "table_name": "clicks", "column_name": column, "change": what}


def test_it_is_told_once_and_its_end_once(told: Story) -> None:
    with http_receiver() as hook:
        told.settings(f'[alerts]\nwebhook = "{hook.url}/x"\n')
        told.night(3, {"tune": {"tune.clicks": {}}})
        told.night(2, {"tune": {"tune.clicks": {}}}, changes=[change("cost", "dark"), change("渠道", "dark")])
        for hours in (0, 1):
            sweep(told.place, now=NOON - timedelta(days=2, hours=-hours))
        texts = [document["text"] for document in hook.documents]
        assert len(texts) == 1 and texts[0].startswith("nightload: columns of tune went dark")
        assert "where: tune.clicks.cost, tune.clicks.渠道;" in texts[0] and "since 2026-05-18T02:00Z" in texts[0]
        told.night(1, {"tune": "HTTP 500"})
        sweep(told.place, now=NOON - timedelta(days=1))
        told.night(0, {"tune": {"tune.clicks": {}}}, changes=[change("cost", "values again")])
        sweep(told.place, now=NOON)
        titles = [document["text"].splitlines()[:2] for document in hook.documents[1:]]
    ended = [where for title, where in titles if title == "nightload: resolved: columns of tune went dark"]
    assert len(ended) == 1 and ended[0].startswith("where: tune.clicks.cost;")
    status = last_runs(told.place, now=NOON)
    assert [each["subject"] for each in status["incidents"]] == ["tune.clicks.渠道"]
    shown = command(told.place.home).main("status").out
    assert "tune.clicks cost: values again" in shown and "tune.clicks.渠道: columns of tune went dark" in shown


@pytest.mark.parametrize(
    ("toml", "count"), [("dark = false", 0), ('dark = {"tune.clicks" = false}', 0), ("dark = true", 1)]
)
def test_what_may_be_empty_is_a_setting(told: Story, toml: str, count: int) -> None:
    told.settings(f"[drift]\n{toml}\n")
    told.night(0, {"tune": {"tune.clicks": {}}}, changes=[change("cost", "dark")])
    assert len(observe(told.ledger, told.place, now=NOON)) == count


def test_a_setting_that_is_wrong_is_told_in_one_line(told: Story) -> None:
    told.settings('[drift]\ndark = "no"\n')
    told.night(0, {"tune": {"tune.clicks": {}}}, changes=[change("cost", "dark")])
    ran = command(told.place.home).main("alert")
    assert (ran.code, "drift.dark is neither true nor false" in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


def test_a_table_that_was_made_anew_without_the_column_ends_it(told: Story) -> None:
    told.night(1, {"tune": {"tune.clicks": {}}}, changes=[change("cost", "dark")])
    told.night(0, {"tune": {"tune.clicks": {}}}, changes=[change("cost", "dropped column")])
    assert observe(told.ledger, told.place, now=NOON) == []
