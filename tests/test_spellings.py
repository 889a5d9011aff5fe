"""However a forgotten person is spelled: kept out of what comes later, and found in what was loaded."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import duckdb
import pytest

from conftest import Database, Night
from sources.convert.parquet import Converted
from sources.convert.types import Column, Kind
from sources.privacy.masking import screen
from sources.privacy.matching import Forgotten, Known, normal, phrase, salted

MAIL = "jane@example.com"
APART = unicodedata.normalize("NFD", "José Müller")
"""Its accents stand after their letters, as some systems write them."""

SPELLINGS = [
    (MAIL, Kind.TEXT, "\tJane@Example.com\u00a0\n"),
    (MAIL, Kind.TEXT, "https://shop.example/?e=jane%40example.com&x=1"),
    (MAIL, Kind.TEXT, '{"note": "call\\njane@example.com"}'),
    (MAIL, Kind.JSON, '{"note": "call\\njane@example.com"}'),
    (MAIL, Kind.JSON, '{"note": "CORP\\\\jane@example.com"}'),
    (MAIL, Kind.JSON, '{"raw": "{\\"note\\": \\"call\\\\njane@example.com\\"}"}'),
    ("王小明", Kind.TEXT, '{"name": "\\u738B\\u5c0f\\u660e"}'),
    ("王小明", Kind.JSON, '{"raw": "{\\"name\\": \\"\\\\u738b\\\\u5c0f\\\\u660e\\"}"}'),
    ("José Müller", Kind.TEXT, APART),
    ("José Müller", Kind.TEXT, f"by {APART}, on Monday"),
    (APART, Kind.TEXT, "José Müller"),
    ("\u0130LKAY@example.com", Kind.TEXT, "\u0130lkay@example.com"),
    ("ΣΑΣ@example.com", Kind.TEXT, "ΣΑΣ@example.com"),
]


def kept_out(folder: Path, who: str, kind: Kind, value: str, *columns: str) -> tuple[int, list[str]]:
    """Rows left out, and what lands, of a night that brings this value and another after `who` was forgotten."""
    file = folder / "came.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT unnest(?::VARCHAR[]) AS v, 'load' AS _dlt_load_id) TO '{file}' (FORMAT parquet)",
            [[value, "someone else"]],
        )
        came = Converted(path=file, columns=(Column(label="v", name="v", kind=kind),), rows=2, keys=2, digest="")
        known = Known(
            cell=salted("salt", normal(who)),
            phrase=salted("salt", phrase(who)),
            size=len(phrase(who).split()),
            columns=columns,
        )
        forgotten = Forgotten(salt="salt", entries=(known,))
        found = screen(
            came, dataset="tonalytica_results", table="query_1", policies={}, prefixes={}, forgotten=forgotten
        )
        landed = [text for (text,) in connection.execute(f"SELECT v FROM '{file}'").fetchall()]
    return found.kept_out, landed


@pytest.mark.parametrize(("who", "kind", "value"), SPELLINGS)
def test_a_spelling_that_comes_later_is_kept_out(tmp_path: Path, who: str, kind: Kind, value: str) -> None:
    gone, landed = kept_out(tmp_path, who, kind, value)
    assert gone == 1 or any("[forgotten]" in text for text in landed)
    assert "someone else" in landed and value not in landed


@pytest.mark.parametrize(
    ("who", "kind", "value"),
    [
        (MAIL, Kind.TEXT, "\tjane@example.com\n"),
        ("Jane Doe", Kind.JSON, '{"name": "Jane Doe", "n": 1}'),
        ("+8613800138000", Kind.JSON, '["+8613800138000"]'),
        ("12345678901234567890123", Kind.JSON, "[12345678901234567890123]"),
    ],
)
def test_a_named_column_knows_its_whole_values(tmp_path: Path, who: str, kind: Kind, value: str) -> None:
    gone, landed = kept_out(tmp_path, who, kind, value, "v")
    assert (gone == 1 or value not in landed) and "someone else" in landed
    assert kept_out(tmp_path, who, kind, value, "other") == (0, [value, "someone else"])


def test_every_column_of_a_table_is_searched_and_a_named_one_for_its_own_too(tmp_path: Path) -> None:
    kinds = {"t": Kind.TEXT, "u": Kind.TEXT, "j": Kind.JSON, "k": Kind.JSON, "n": Kind.BIGINT, "m": Kind.BIGINT}
    told = {"t": f"{MAIL} or 7", "u": f"ask {MAIL}", "j": f'["by {MAIL}"]', "k": f'["{MAIL} 7"]', "n": "7", "m": "8"}
    file = tmp_path / "came.parquet"
    with duckdb.connect() as connection:
        types = {Kind.BIGINT: "BIGINT"}
        cells = ", ".join(
            f"CAST('{told[name]}' AS {types.get(kind, 'VARCHAR')}) AS {name}" for name, kind in kinds.items()
        )
        other = "SELECT 'x', 'x', '[]', '[]', 8, 7, 'load'"
        connection.execute(
            f"COPY (SELECT {cells}, 'load' AS _dlt_load_id UNION ALL {other}) TO '{file}' (FORMAT parquet)"
        )
        came = Converted(
            path=file, rows=2, keys=2, digest="",
            columns=tuple(Column(label=name, name=name, kind=kind) for name, kind in kinds.items()),
        )  # fmt: skip
        known = [
            Known(cell=salted("salt", who), phrase=salted("salt", who), size=1, columns=columns)
            for who, columns in ((MAIL, ()), ("7", ("m",)))
        ]
        found = screen(
            came,
            dataset="tune",
            table="x",
            policies={},
            prefixes={},
            forgotten=Forgotten(salt="salt", entries=tuple(known)),
        )
        landed = connection.execute(f"SELECT t, u, j, k, n, m FROM '{file}'").fetchall()
    assert (found.kept_out, found.blanked) == (1, 4)
    assert landed == [("[forgotten] or 7", "ask [forgotten]", '["by [forgotten]"]', '["[forgotten] 7"]', 7, 8)]


def test_what_only_looks_alike_lands_as_it_came(tmp_path: Path) -> None:
    for value in ('{"note": "call\\nxjane@example.com"}', "maryjane@example.com", f"{APART} jane%41example.com"):
        for kind in (Kind.TEXT, Kind.JSON):
            assert kept_out(tmp_path, MAIL, kind, value) == (0, [value, "someone else"])


def test_every_spelling_is_found_in_what_was_loaded(tmp_path: Path, database: Database) -> None:
    home = Night(home=tmp_path, database=database)
    home.state.mkdir(parents=True)
    longest = 12345678901234567890
    made = [
        "CREATE SCHEMA tonalytica_results",
        "CREATE TABLE tonalytica_results.query_1 (n BIGINT, t VARCHAR, j JSON, d DECIMAL(38, 0))",
    ]
    for number, (_, kind, value) in enumerate(SPELLINGS):
        column, told = ("j" if kind == Kind.JSON else "t"), value.replace("'", "''")
        made.append(f"INSERT INTO tonalytica_results.query_1 (n, {column}) VALUES ({number}, '{told}')")
    made.append(f"INSERT INTO tonalytica_results.query_1 (n, d) VALUES (98, {longest}), (99, {longest + 1})")
    home.write(*made)
    for who in dict.fromkeys([*(who for who, _, _ in SPELLINGS), str(longest)]):
        done = home.main("forget", who, "--yes", "--force")
        assert done.code == 0, done.err
    left = home.look("SELECT n, t, j::VARCHAR, d FROM tonalytica_results.query_1 ORDER BY n")
    assert [row[0] for row in left if "[forgotten]" not in f"{row[1]}{row[2]}"] == [99]
