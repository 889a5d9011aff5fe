"""How a night goes about its vendors, as `[nightload]` says: what is wrong there is one line before anything begins."""

from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conftest import Night
from pipelines.ledger.store import Ledger
from pipelines.run.attempts import whole
from pipelines.run.options import Pace, Publish, parse_until, read_pace
from pipelines.run.report import TableReport, VendorReport
from sources.convert.duckdb_session import connect
from sources.core.errors import ConfigurationError

NOW = datetime(2026, 3, 28, 1, 0, tzinfo=UTC)
MINUTES = tuple(timedelta(minutes=number) for number in (5, 15, 30))


def home(folder: Path, text: str) -> Path:
    (folder / ".dlt").mkdir()
    (folder / ".dlt" / "config.toml").write_text(f"[nightload]\n{text}\n", encoding="utf-8")
    return folder


def test_all_of_it_is_read(tmp_path: Path) -> None:
    told = 'side_by_side = 2\npublish = "night"\npauses = ["1m", "2h"]\nwarehouse = "duckdb:///x.duckdb"'
    assert read_pace(home(tmp_path, told)) == Pace(
        side_by_side=2, publish=Publish.NIGHT, pauses=(timedelta(minutes=1), timedelta(hours=2))
    )
    assert read_pace(tmp_path / "nowhere") == Pace(side_by_side=5, publish=Publish.VENDOR, pauses=MINUTES, until=None)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("side_by_side = 0", "no number of vendors"),
        ('side_by_side = "many"', "no number of vendors"),
        ("side_by_side = true", "no number of vendors"),
        ('publish = "table"', '"vendor" or "night"'),
        ("pauses = []", "no list of periods"),
        ('pauses = "5m"', "no list of periods"),
        ('pauses = ["soon"]', "'soon' is no period"),
        ('until = "25:00"', '"06:30", or a period'),
        ("until = 6", '"06:30", or a period'),
        ("side_by_sides = 2", "Did you mean side_by_side?"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_what_to_write(told: str, wanted: str, tmp_path: Path) -> None:
    night = Night(home=home(tmp_path, told))
    night.set("tune", api_key="x" * 20)
    ran = night.main("run")
    assert (ran.code, ran.err.count("\n"), wanted in ran.err) == (2, 1, True), ran.err


def test_a_time_is_the_next_one_on_this_machines_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        found = {text: parse_until(text, setting="--until", now=NOW) for text in ("02:31", "02:30", "90m")}
        found["06:30"] = parse_until("06:30", setting="--until", now=NOW + timedelta(hours=20))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == {
        "02:31": datetime(2026, 3, 28, 1, 31, tzinfo=UTC),
        "02:30": datetime(2026, 3, 28, 1, 30, tzinfo=UTC),
        "90m": datetime(2026, 3, 28, 2, 30, tzinfo=UTC),
        "06:30": datetime(2026, 3, 29, 4, 30, tzinfo=UTC),  # the clock went on in between
    }
    with pytest.raises(ConfigurationError, match="--until"):
        parse_until("dawn", setting="--until")


def test_the_pauses_grow_and_the_last_one_stays() -> None:
    pace = Pace(until=NOW + timedelta(hours=1))
    assert [pace.again_at(tries, now=NOW) for tries in (1, 2, 3, 9)] == [
        NOW + pause for pause in (*MINUTES, MINUTES[-1])
    ]
    assert pace.again_at(1, now=NOW + timedelta(minutes=55)) is None
    assert Pace().again_at(1, now=NOW) is None


def vendor(*tables: TableReport, asked: str = "", error: str | None = None) -> VendorReport:
    report = VendorReport(vendor="acme", tables=list(tables), requests=2, seconds=1.5, asked=frozenset(asked.split()))
    report.settle()
    if error:
        report.failed(error, None)
    return report


def table(name: str, status: str = "ok") -> TableReport:
    return TableReport(table=f"acme.{name}", status=status, error=None if status == "ok" else "no")


def told(report: VendorReport) -> tuple[str, str | None, dict[str, str]]:
    return report.status, report.error, {each.table: each.status for each in report.tables}


def test_all_tries_of_a_vendor_are_told_as_one() -> None:
    first = vendor(table("a"), table("b", "failed"), table("*", "failed"))
    second = vendor(table("b"), table("c"), asked="acme.b acme.*")
    both = whole([first, second])
    assert told(both) == ("ok", None, {"acme.a": "ok", "acme.b": "ok", "acme.c": "ok"})
    assert (both.requests, both.seconds, both.tries) == (4, 3.0, 2)
    assert told(first)[2] == {"acme.a": "ok", "acme.b": "failed", "acme.*": "failed"}
    lost = vendor(table("b"), asked="acme.b", error="the load failed")
    assert told(whole([first, lost]))[2] == {"acme.a": "ok", "acme.*": "failed", "acme.b": "failed"}
    assert told(whole([vendor(table("a"), error="x"), vendor(table("a"))])) == ("ok", None, {"acme.a": "ok"})
    alone = whole([vendor(table("a"), table("b", "failed"), error="lost"), vendor(table("b"), asked="acme.b")])
    assert told(alone) == ("failed", "lost", {"acme.a": "discarded", "acme.b": "ok"})
    assert told(whole([vendor(table("a", "failed")), vendor(error="x")])) == ("failed", None, {"acme.a": "failed"})


def test_conversions_of_several_vendors_take_turns() -> None:
    """All of them together have the memory of one."""
    inside, entered = [], threading.Event()

    def convert() -> None:
        entered.set()
        with connect() as connection:
            inside.append(connection.execute("SELECT 'second'").fetchall())

    other = threading.Thread(target=convert)
    with connect() as first, connect() as again:  # who has the turn may take it once more
        other.start()
        assert entered.wait(10)
        other.join(0.2)
        inside += [first.execute("SELECT 'first'").fetchall(), again.execute("SELECT 'again'").fetchall()]
    other.join(10)
    assert [rows[0][0] for rows in inside] == ["first", "again", "second"]


def test_a_ledger_and_a_warehouse_that_knew_no_tries_are_gone_on_with(file_night: Night) -> None:
    from test_night_of_vendors import few_tables

    night = few_tables(file_night)
    assert night.run("tune").code == 0
    night.write("DROP TABLE nightload.run_tries")
    for file in night.state.glob("ledger.sqlite*"):
        os.remove(file)
    assert night.run("tune").code == 0
    assert night.rows("SELECT status FROM nightload.runs") == [("ok",), ("ok",)]
    assert night.rows("SELECT attempt, tables, status FROM nightload.run_tries") == [(1, None, "ok")]
    book = Ledger(night.state / "ledger.sqlite")
    assert len(book.query("SELECT 1 FROM run_vendors")) == 2
    book.close()
