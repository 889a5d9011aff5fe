"""Cursors over times: instants are compared, whatever offset a text carries, also with what an earlier run stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from sources.convert.inspect import greatest, newest_text
from sources.convert.parquet import Converted, to_parquet
from sources.convert.spool import Spool
from sources.convert.types import Column, Kind
from sources.core.dates import latest, on_clock

PLAIN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}"
EDGE = "2026-02-01 00:00:00"
OF_TIMES = Column(label="t", name="t", kind=Kind.TIMESTAMP, declared=False)


def spooled(folder: Path, texts: Sequence[str | None], *, lists: bool = False) -> Spool:
    spool = Spool(folder / "rows.json")
    if lists:
        spool.lists(["n", "t"])
    rows = [[n, text] if lists else {"n": n, "t": text} for n, text in enumerate(texts)]
    spool.array(json.dumps(rows).encode())
    return spool


def converted(spool: Spool, column: Column, folder: Path, key: str = "n", newest_by: str | None = None) -> Converted:
    number = Column(label="n", name="n", kind=Kind.BIGINT)
    out = folder / "rows.parquet"
    return to_parquet(
        spool, out=out, columns=[number, column], load_id="1", where="a.b", key=(key,), newest_by=newest_by
    )


TIMES = [
    # 16:00 UTC, 15:30 UTC: the greatest text is not the latest time
    (["2026-01-01T23:30:00+08:00", "2026-01-01T16:00:00+00:00"], "UTC", "2026-01-01 16:00:00"),
    (["2026-01-01 23:30:00+0800", "2026-01-01 16:00:00"], "UTC", "2026-01-01 16:00:00"),
    (["2026-01-01 23:30:00", "2026-01-01 16:00:00Z"], "Asia/Shanghai", "2026-01-02 00:00:00"),
    (["2026-01-01 23:30:00", "2026-01-01 16:00:00.000 UTC"], "Asia/Shanghai", "2026-01-02 00:00:00"),
    (["2026-01-01 23:30:00", "2026-01-01 15:00:00Z"], "Asia/Shanghai", "2026-01-01 23:30:00"),
    # 23:30 UTC is before the edge, 00:30 UTC after it
    (["2026-02-01T07:30:00+08:00", "2026-01-31T19:30:00-05:00"], "UTC", "2026-01-31 23:30:00"),
    (["2999-01-01 00:00:00", "0000-00-00 00:00:00", "2026-13-45 00:00:00", "2026-01-01 00:00:00", "soon", None], "UTC",
     "2026-01-01 00:00:00"),
    (["2999-01-01 00:00:00", None], "UTC", None),
]  # fmt: skip


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize(("texts", "zone", "due"), TIMES)
def test_the_latest_of_times_with_several_offsets_is_an_instant(
    texts: list[str | None], zone: str, due: str | None, lists: bool, tmp_path: Path
) -> None:
    assert greatest(spooled(tmp_path, texts, lists=lists), "t", like=PLAIN, up_to=EDGE, zone=zone) == due


@pytest.mark.parametrize("kind", [Kind.TIMESTAMP, Kind.TEXT])
@pytest.mark.parametrize(("texts", "zone", "due"), TIMES)
def test_the_latest_time_of_a_converted_file_is_the_same(
    texts: list[str | None], zone: str, due: str | None, kind: Kind, tmp_path: Path
) -> None:
    spool = spooled(tmp_path, texts)
    made = converted(spool, replace(OF_TIMES, kind=kind, zone=zone), tmp_path)
    assert newest_text(made, spool, "t", like=PLAIN, up_to=EDGE) == due


def test_a_text_with_an_offset_comes_back_as_it_is_where_its_form_is_asked_for(tmp_path: Path) -> None:
    spool = spooled(tmp_path, ["2026-01-01T23:30:00+08:00", "2026-01-01T16:00:00+00:00"])
    assert greatest(spool, "t", like=".*", up_to=EDGE) == "2026-01-01T16:00:00+00:00"


@pytest.mark.parametrize("kind", [Kind.TIMESTAMP, Kind.TEXT])
def test_of_rows_that_repeat_a_key_the_one_of_the_latest_instant_stays(kind: Kind, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "rows.json")
    spool.array(b'[{"n": 1, "t": "2026-01-01T23:30:00+08:00"}, {"n": 1, "t": "2026-01-01T16:00:00+00:00"}]')
    made = converted(spool, replace(OF_TIMES, kind=kind), tmp_path, newest_by="t")
    assert (made.rows, made.repeats) == (1, 1)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        ((text,),) = connection.execute(f"SELECT t::VARCHAR FROM '{made.path}'").fetchall()
    assert text[11:13] == "16"


def test_a_stored_cursor_is_compared_as_an_instant() -> None:
    assert latest(["2026-01-01 16:00:00", "2026-01-01T23:30:00+08:00"], "UTC") == "2026-01-01 16:00:00"
    assert latest(["2026-01-01 23:30:00", "2026-01-01T16:00:00Z"], "Asia/Shanghai") == "2026-01-01T16:00:00Z"
    assert latest(["2026-01-01T01:00:00", "2026-01-01 02:00:00"], "UTC") == "2026-01-01 02:00:00"
    assert latest(["2014-13-45", "2014-01-01", None, ""], "UTC") == "2014-01-01"
    assert latest([None], "UTC") is None
    assert f"{on_clock('2026-01-01T16:00:00Z', 'Asia/Shanghai')}" == "2026-01-02 00:00:00"
    assert f"{on_clock('2026-01-01', 'Asia/Shanghai')}" == "2026-01-01 00:00:00"
