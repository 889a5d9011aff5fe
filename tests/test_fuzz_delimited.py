"""CSV of both vendors that send it: each cell as it was written, or an error; never less."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import duckdb
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fuzzing import WELL_FORMED, costly, damaged, soon
from sources.convert.spool import Part
from sources.core.errors import BrokenAnswer, NightloadError
from sources.growingio import delimited as growingio
from sources.naming import columns_for
from sources.tune import delimited as tune

LABELS = st.lists(
    WELL_FORMED.map(str.strip).filter(bool) | st.sampled_from(["Name", "name", "site.id", "a,b", 'a"b']),
    min_size=1,
    max_size=4,
    unique=True,
)
Table = tuple[list[str], list[list[str]]]


@st.composite
def tables(
    draw: st.DrawFn, cells: st.SearchStrategy[str] = WELL_FORMED, labelled: st.SearchStrategy[list[str]] = LABELS
) -> Table:
    labels = draw(labelled)
    return labels, draw(st.lists(st.lists(cells, min_size=len(labels), max_size=len(labels)), max_size=6))


@contextmanager
def a_file(body: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body.csv"
        file.write_bytes(body)
        yield file


def written(table: Table, *, separator: str, newline: str, quoting: int, head: str = "") -> bytes:
    """By the rules of RFC 4180. Not by Python's writer: before 3.13 it leaves a lone CR without quotes."""

    def cell(text: str, alone: bool) -> str:
        needs = quoting == csv.QUOTE_ALL or not {separator, '"', "\r", "\n"}.isdisjoint(text) or (alone and not text)
        return '"' + text.replace('"', '""') + '"' if needs else text

    lines = (separator.join(cell(text, len(cells) == 1) for text in cells) for cells in [table[0], *table[1]])
    return (head + "".join(line + newline for line in lines)).encode()


# -- TUNE's exports -----------------------------------------------------------------------------


def exported(body: bytes) -> tuple[tuple[str, ...], list[list[str | None]]]:
    """What our reader makes of an export: labels, and rows in their order."""
    with a_file(body) as file:
        out = file.with_suffix(".json")
        lines = tune.to_array(file, out, constants={}, label_of=lambda label: label, where="tune, export")
        rows = json.loads(out.read_bytes())
        assert lines.rows == len(rows)
        assert all(set(row) == set(lines.labels) for row in rows)
        return lines.labels, [[row[label] for label in lines.labels] for row in rows]


@costly
@example((["a"], [[""], ["x"], [""]]), "\n", csv.QUOTE_MINIMAL, "")
@example((["a", "b"], [["x\ny", "\r"], ["", '"']]), "\r\n", csv.QUOTE_MINIMAL, "\ufeff")
@given(tables(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
       st.sampled_from(["", "\ufeff"]))  # fmt: skip
def test_an_export_is_read_as_it_was_written(table: Table, newline: str, quoting: int, head: str) -> None:
    labels, rows = table
    body = written(table, separator=",", newline=newline, quoting=quoting, head=head)
    expected = [[cell or None for cell in row] for row in rows]
    assert exported(body) == (tuple(labels), expected)


@costly
@given(tables(), st.data())
def test_a_damaged_export_is_refused_or_read_by_the_rules(table: Table, data: st.DataObject) -> None:
    body = data.draw(damaged(written(table, separator=",", newline="\n", quoting=csv.QUOTE_MINIMAL)))
    try:
        labels, rows = exported(body)
    except NightloadError:
        return
    reference = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
    assert tuple(cell.strip() for cell in next(reference, [])) == labels
    assert [[cell or None for cell in cells] for cells in reference if cells] == rows


@costly
@given(tables())
def test_both_readers_of_an_export_agree(table: Table) -> None:
    body = written(table, separator=",", newline="\n", quoting=csv.QUOTE_MINIMAL)
    with mock.patch.object(tune, "_fast", return_value=None):
        exact = exported(body)
    assert exported(body) == exact


@costly
@given(st.binary(max_size=200))
def test_any_bytes_are_an_export_or_an_error(body: bytes) -> None:
    try:
        labels, rows = exported(body)
    except NightloadError:
        return
    assert labels or not rows


def test_rows_without_a_header_are_refused() -> None:
    assert exported(b"\xef\xbb\xbf\r\n") == ((), [])
    with pytest.raises(BrokenAnswer, match="header"):
        exported(b'\n"x"\n')


def test_an_export_that_is_evil_is_read_soon() -> None:
    for body in (
        b"a," * 100_000 + b"\n",
        b'"' * 10**5,
        b'a\n"' + b"x\n" * 10**5,
        b"a,b\n" + b'"' + b'""' * 10**5,
    ):
        with soon(), suppress(NightloadError):
            exported(body)


# -- GrowingIO's segments -----------------------------------------------------------------------

SEPARATORS = st.sampled_from(["tab", "comma"])


def landed(body: bytes, *, separator: str) -> tuple[tuple[str, ...], list[list[str | None]]] | None:
    """What our reader makes of a segment: its labels, and rows in their order."""
    with a_file(body) as file:
        read = growingio.as_utf8(file, where="growingio, segment")
        dialect = growingio.dialect_of(file, separator=separator, where="growingio, segment")
        if dialect is None or not dialect.header:
            return None
        landing = growingio.Landing(out=file.with_suffix(".parquet"), named=columns_for, load_id="1.5")
        part = growingio.to_part(read, dialect, landing, where="growingio, segment")
        return dialect.header, rows_of(part, dialect.header)


def rows_of(part: Part, header: Sequence[str]) -> list[list[str | None]]:
    names = ", ".join('"' + part.columns[label].replace('"', '""') + '"' for label in header)
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT {names} FROM '{part.path}'").fetchall()
    assert part.rows == len(rows)
    return [list(row) for row in rows]


def as_landed(table: Table) -> list[list[str | None]]:
    return [[cell.replace("\0", "\ufffd") or None for cell in row] for row in table[1]]


ONE_LINE = WELL_FORMED.map(lambda text: re.sub(r"[\t\r\n\ufeff]", " ", text))
RAW = ONE_LINE.map(lambda text: text.lstrip(' "'))
"""With quotes that are no quotes, since no cell begins with one."""
PLAIN = st.lists(st.text("aAé城 _.1", min_size=1, max_size=8).map(str.strip).filter(bool), min_size=2, max_size=4,
                 unique_by=str.casefold)  # fmt: skip
"""Labels on one line, without quotes: the vendor's are names of columns."""


@costly
@example((["a"], [["x"], ["y"]]), "comma", "\r\n", csv.QUOTE_ALL, "\ufeff")
@given(tables(labelled=PLAIN), SEPARATORS, st.sampled_from(["\n", "\r\n"]),
       st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.sampled_from(["", "\ufeff"]))  # fmt: skip
def test_a_segment_is_read_as_it_was_written(
    table: Table, separator: str, newline: str, quoting: int, head: str
) -> None:
    body = written(table, separator=growingio.SEPARATORS[separator], newline=newline, quoting=quoting, head=head)
    assert landed(body, separator=separator) == (tuple(table[0]), as_landed(table))


@costly
@given(tables(RAW, PLAIN), st.sampled_from(["\n", "\r\n"]))
def test_a_segment_that_knows_no_quotes_keeps_them(table: Table, newline: str) -> None:
    """Cells with quotes in them, and none that begins with one, as in what the vendor sends."""
    lines = ["\t".join(cells) for cells in [table[0], *table[1]]]
    body = (newline.join(lines) + newline).encode()
    assert landed(body, separator="tab") == (tuple(table[0]), as_landed(table))


@costly
@given(tables(st.text("城市甲乙丙aé1", max_size=8), PLAIN))
def test_a_segment_in_the_older_encoding_of_china_is_read(table: Table) -> None:
    body = written(table, separator="\t", newline="\n", quoting=csv.QUOTE_MINIMAL).decode().encode("gb18030")
    try:
        body.decode()
    except UnicodeDecodeError:
        assert landed(body, separator="tab") == (tuple(table[0]), as_landed(table))


@costly
@given(tables(ONE_LINE, PLAIN), SEPARATORS, st.data())
def test_a_damaged_segment_is_refused_or_has_a_row_for_each_line(
    table: Table, separator: str, data: st.DataObject
) -> None:
    """Without quotes a row is a line: whatever happens to the bytes, none is dropped, none counted twice."""
    sign = growingio.SEPARATORS[separator]
    body = "".join(sign.join(cells).replace('"', "'") + "\n" for cells in [table[0], *table[1]]).encode()
    body = data.draw(damaged(body))
    assume(b'"' not in body and b"\r" not in body)
    try:
        found = landed(body, separator=separator)
    except NightloadError:
        return
    if found is None:
        return
    lines = body.removesuffix(b"\n").split(b"\n")
    header = next(n for n, line in enumerate(lines) if line.decode("utf-8-sig", "replace").strip())
    following = lines[header + 1 :]
    if len(found[0]) > 1:  # an empty line is a row only where it is all that a row can be
        following = [line for line in following if line]
    assert len(found[1]) == len(following)


@costly
@given(st.binary(max_size=200), SEPARATORS)
def test_any_bytes_are_a_segment_or_an_error(body: bytes, separator: str) -> None:
    with suppress(BrokenAnswer):
        landed(body, separator=separator)


def test_a_segment_that_is_evil_is_read_soon() -> None:
    for body in (
        b"a\t" * 1_000 + b"\n1\n",
        b'"' * 10**6,
        b'a\tb\n"' + b"x\n" * 10**4,
        b"a\tb\n" + b'"x\r\n' * 10**4,
    ):
        with soon(), suppress(NightloadError):
            landed(body, separator="tab")
