"""What our destinations can do is what dlt says of its own, whatever it is asked with."""

from __future__ import annotations

from typing import Any

import dlt
import pytest
from dlt.destinations.impl.postgres.factory import postgres

from pipelines.warehouse.dlt_capabilities import Capable
from pipelines.warehouse.duckdb.warehouse import OwnDuckDb


class OwnPostgres(Capable, postgres):
    pass


@pytest.mark.parametrize(
    ("ours", "own"), [(OwnDuckDb, dlt.destinations.duckdb), (OwnPostgres, postgres)], ids=["duckdb", "postgres"]
)
def test_a_destination_can_do_what_dlt_says_and_has_nothing_looked_for(
    ours: Any, own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = "postgresql://one:two@three/four" if own is postgres else "some.duckdb"
    settings = {"preferred_loader_file_format": "parquet"}
    naming = dlt.Schema("some").naming
    asked: list[object] = []
    monkeypatch.setattr(own, "configuration", lambda *args, **named: asked.append(args) or own.spec())
    told = ours(credentials, **settings).capabilities(naming=naming)
    assert asked == []
    monkeypatch.undo()
    expected = own(credentials, **settings).capabilities(naming=naming)
    assert repr(dict(told)) == repr(dict(expected))  # a partial equals only itself


def test_a_warehouse_does_not_notice_whose_destination_it_is() -> None:
    ours, own = OwnDuckDb("some.duckdb"), dlt.destinations.duckdb("some.duckdb")
    assert (ours.destination_type, ours.destination_name) == (own.destination_type, own.destination_name)
