"""Objects that are loaded in parts: no part is lost, none lands unprotected, the object does not land beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("SCHEMA__NAMING", "sources.naming")
os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")

import dlt
import duckdb
import pytest

from sources.convert.inspect import keys_apart, stray_columns
from sources.convert.parquet import to_parquet
from sources.convert.spool import Spool
from sources.convert.types import Column, Kind
from sources.extract.extractor import Extraction
from sources.extract.sync import Outcome, Walk
from sources.extract.table import Mode, Table
from sources.privacy.pii_columns import Mark, mark_of
from sources.privacy.policy import Policy

ID = Column(label="id", kind=Kind.BIGINT)
OWNER_ID = Column(label="owner.id", kind=Kind.BIGINT, path=("owner", "id"))
ROWS = [{"id": n, "owner": {"id": 7, "email": f"a{n}@example.com", "at": {"city": "x", "phone": "1"}}} for n in (1, 2)]


def spooled(folder: Path, rows: Any, name: str = "rows") -> Spool:
    spool = Spool(folder / f"{name}.json")
    spool.array(json.dumps(rows).encode())
    spool.close()
    return spool


def strays(folder: Path, rows: list[Any], *columns: Column) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.label, each.path) for each in stray_columns(spooled(folder, rows), columns, len(rows))]


def test_strays_of_an_object_in_parts_are_its_other_parts(tmp_path: Path) -> None:
    assert strays(tmp_path, ROWS, ID, OWNER_ID) == [("owner.at", ("owner", "at")), ("owner.email", ("owner", "email"))]
    city = Column(label="owner.at.city", path=("owner", "at", "city"))
    assert strays(tmp_path, ROWS, ID, OWNER_ID, city) == [
        ("owner.email", ("owner", "email")),
        ("owner.at.phone", ("owner", "at", "phone")),
    ]


def test_strays_of_an_object_as_a_whole_are_none(tmp_path: Path) -> None:
    assert strays(tmp_path, ROWS, ID, Column(label="owner")) == []
    assert strays(tmp_path, ROWS, ID) == [("owner", ())]


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "*", "a.b", "$", "城 市"])
def test_strays_are_found_in_objects_with_odd_labels(odd: str, tmp_path: Path) -> None:
    rows = [{"id": 1, odd: {"id": 1, "x": 2}}]
    assert strays(tmp_path, rows, ID, Column(label=f"{odd}.id", path=(odd, "id"))) == [(f"{odd}.x", (odd, "x"))]


def test_strays_whose_labels_are_alike_are_two_columns(tmp_path: Path) -> None:
    rows = [{"id": 1, "owner": {"id": 1, "x": 2}, "owner.x": 3}]
    assert strays(tmp_path, rows, ID, OWNER_ID) == [("owner.x", ()), ("owner.x [nested]", ("owner", "x"))]


def test_strays_of_rows_without_the_object_are_none(tmp_path: Path) -> None:
    rows = [{"id": 1, "owner": None}, {"id": 2}, {"id": 3, "owner": {"id": 1}}, {"id": 4, "owner": []}]
    assert strays(tmp_path, rows, ID, OWNER_ID) == []


def loaded(folder: Path, policy: Policy, *, dropped: tuple[str, ...] = ()) -> tuple[Outcome, dict[str, list[Any]]]:
    """What lands of a table with a column by a path and open columns."""

    def fetch(walk: Walk) -> None:
        walk.spool.rows(ROWS)
        walk.columns, walk.open_columns = [ID, OWNER_ID], True

    extraction = Extraction.standalone("shop")
    extraction.policy, extraction.raises = policy, False
    table = Table(name="orders", mode=Mode.FULL, key=("id",), dropped=dropped)
    source = dlt.source(lambda: extraction.resource("shop", table, fetch), name="shop")
    file = folder / "warehouse.duckdb"
    pipeline = dlt.pipeline(
        "shop", pipelines_dir=str(folder / "p"), destination=dlt.destinations.duckdb(str(file)), dataset_name="shop"
    )
    pipeline.run(source())
    with duckdb.connect(str(file)) as connection:
        frame = connection.execute("SELECT * FROM shop.orders ORDER BY id")
        names = [each[0] for each in frame.description or ()]
        rows = frame.fetchall()
    return extraction.outcomes["shop.orders"], {
        name: [row[place] for row in rows] for place, name in enumerate(names) if not name.startswith("_")
    }


def test_a_column_with_a_path_and_open_columns_are_loaded_together(tmp_path: Path) -> None:
    outcome, there = loaded(tmp_path, Policy())
    assert outcome.error is None
    assert set(there) == {"id", "owner_id", "owner_email", "owner_at"}
    assert there["owner_email"] == ["a1@example.com", "a2@example.com"]


def test_a_personal_part_of_an_object_is_hashed_and_the_object_is_not_beside_it(tmp_path: Path) -> None:
    outcome, there = loaded(tmp_path, Policy(default="hash", prefix="p" * 16))
    assert outcome.error is None and "owner" not in there
    assert all(len(value) == 64 for value in there["owner_email"])
    assert "example.com" not in repr(there)


def test_a_policy_for_an_object_holds_for_its_parts(tmp_path: Path) -> None:
    policy = Policy(columns={("shop", "orders", "owner"): "drop"})
    assert set(loaded(tmp_path, policy)[1]) == {"id"}


def test_what_is_never_loaded_does_not_come_as_an_open_column(tmp_path: Path) -> None:
    assert "owner_email" not in loaded(tmp_path, Policy(), dropped=("owner.email",))[1]


def test_a_part_of_a_marked_object_has_its_mark() -> None:
    assert mark_of("growingio", "dashboards", "creator.name") == Mark.OWNER
    assert mark_of("dataworks", "api_tests", "ParamMap.a.b") == Mark.OWNER
    assert mark_of("tonalytica", "users", "email") == Mark.PERSON
    assert mark_of("tonalytica", "users", "id.x") == Mark.PERSON_ID
    assert mark_of("growingio", "dashboards", "name") is None


def test_keys_with_a_path_are_compared_where_they_are(tmp_path: Path) -> None:
    """Also as texts, which rows take whose keys do not read as the file's types."""
    key = Column(label="owner.id", name="k", path=("owner", "id"), declared=False)
    first = spooled(tmp_path, [{"owner": {"id": 1}}, {"owner": {"id": 2}}], "first")
    made = to_parquet(first, out=tmp_path / "x.parquet", columns=[key], load_id="1", where="a.b", key=("k",))
    for ids, apart in (([1, 2], 0), ([1, 3], 2), ([1, "x"], 2)):
        second = spooled(tmp_path, [{"owner": {"id": each}} for each in ids], "second")
        assert keys_apart(made, first, second, ["owner.id"]) == apart
