"""A CR in a cell of a CSV file is part of the cell, in every file whose lines end otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sources.convert.newlines import hide_bare_returns
from sources.growingio import delimited, rules
from sources.naming import columns_for
from sources.tune.delimited import to_array

Read = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def segment(file: Path) -> Read:
    body = delimited.as_utf8(file, where="a test")
    dialect = delimited.dialect_of(file, separator="auto", where="a test")
    assert dialect is not None
    landing = delimited.Landing(out=file.with_suffix(".parquet"), named=columns_for, load_id="1")
    part = delimited.to_part(body, dialect, landing, where="a test")
    with duckdb.connect() as connection:
        return tuple(part.columns), connection.execute(f"SELECT * EXCLUDE (_dlt_load_id) FROM '{part.path}'").fetchall()


def export(file: Path) -> Read:
    out = file.with_suffix(".json")
    lines = to_array(file, out, constants={}, label_of=lambda label: label, where="a test")
    return lines.labels, [tuple(row.values()) for row in json.loads(out.read_bytes())]


FILES = [
    (b"a,b\nx\ry,1\nz,2\n", ("a", "b"), [("x\ry", "1"), ("z", "2")]),
    (b"a,b\r\nx\ry,1\r\nz,2\r\n", ("a", "b"), [("x\ry", "1"), ("z", "2")]),
    (b"a,b\r\nx\r,1\r\n\rz,\r2", ("a", "b"), [("x\r", "1"), ("\rz", "\r2")]),
    (b'a,b\n"x\ry",1\n"z\n",2\n', ("a", "b"), [("x\ry", "1"), ("z\n", "2")]),
    (b"a\rb,c\nx\r\ry,1\n", ("a\rb", "c"), [("x\r\ry", "1")]),
    ("a,b\nx\ue000\ry,1\n".encode(), ("a", "b"), [("x\ue000\ry", "1")]),
    # the last line ends with a CR that belongs to no cell
    (b"a,b\r\nx,1\r\ny,2\r", ("a", "b"), [("x", "1"), ("y", "2")]),
    # lines that end with CR, as long as no LF ends one
    (b"a,b\rx,1\rz,2\r", ("a", "b"), [("x", "1"), ("z", "2")]),
]


@pytest.mark.parametrize("read", [segment, export])
@pytest.mark.parametrize(("content", "labels", "rows"), FILES)
def test_a_return_in_a_cell_is_part_of_it(
    read: Any, content: bytes, labels: tuple[str, ...], rows: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    assert read(file) == (labels, rows)


def test_a_return_in_a_cell_is_found_wherever_the_chunks_end(tmp_path: Path) -> None:
    for length in range(2**15 - 4, 2**15 + 2):
        content = b"a,b\r\n" + b"x" * (length - 5) + b"\ry,1\r\nz\r\r\n,2\r\n" + b"w" * 2**15 + b",3\r\n"
        file = tmp_path / "rows.csv"
        file.write_bytes(content)
        sign = hide_bare_returns(file).encode()
        assert file.read_bytes().replace(sign, b"\r") == content and file.read_bytes().count(sign) == 2
    file.write_bytes(b"a,b\r\n1,2\r\n")
    assert hide_bare_returns(file) == "" and file.read_bytes() == b"a,b\r\n1,2\r\n"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_return_in_the_name_of_a_rule_is_part_of_it(newline: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rules.csv"
    file.write_bytes(newline.join([b"ruleId,eventName,eventType", b"r1,one\rtwo,clck", b"r2,x,page", b""]))
    dialect = delimited.dialect_of(file, separator="auto", where="a test")
    assert dialect is not None
    found = rules.rules_of(file, dialect, where="a test")
    assert [row["eventName"] for row in found] == ["one\rtwo", "x"]
