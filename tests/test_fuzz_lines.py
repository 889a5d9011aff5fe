"""Rows that come as lines of JSON: each one, once, digit for digit, however the bytes are cut into blocks."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from fuzzing import VALUES, WELL_FORMED, cheap, damaged, soon
from sources.core.errors import NightloadError
from sources.thinkingengine.lines import blocks, elements, in_order_of, labels_from, read_block
from sources.thinkingengine.refusals import envelope_of, refusal

WHERE = "thinkingengine, querySql"
LABELS = st.lists(WELL_FORMED.filter(lambda label: label != "return_code"), min_size=1, max_size=4, unique=True)
FORMS = st.sampled_from(["arrays", "objects", "one by one"])
Rows = list[list[Any]]


@st.composite
def results(draw: st.DrawFn) -> tuple[list[str], Rows]:
    labels = draw(LABELS)
    return labels, draw(st.lists(st.lists(VALUES, min_size=len(labels), max_size=len(labels)), max_size=6))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[str], Rows, bytes]:
    """Labels, rows, and how a server may write them: with or without its envelope, in lines of either kind."""
    labels, rows = draw(results())
    form, newline = draw(FORMS), draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    spaced = draw(st.booleans())
    separators = (", ", ": ") if spaced else (",", ":")

    def line(row: list[Any]) -> str:
        as_object = form == "objects" or (form == "one by one" and draw(st.booleans()))
        told = dict(zip(labels, row, strict=True)) if as_object else row
        return json.dumps(told, ensure_ascii=draw(st.booleans()), separators=separators)

    lines = [line(row) for row in rows]
    if draw(st.booleans()):
        lines.insert(0, json.dumps({"data": {"headers": labels}, "return_code": 0, "return_message": "success"}))
    return labels, rows, newline.join(lines).encode() + draw(st.sampled_from([b"", newline.encode()]))


def read(body: bytes, labels: list[str] | None, *, size: int) -> tuple[Rows, int]:
    """What comes of a body that is read in blocks; how many rows the blocks say they have."""
    found: Rows = []
    told = 0
    known: tuple[str, ...] | None = tuple(labels) if labels else None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body"
        file.write_bytes(body)
        for content in blocks(file, size=size):
            block = read_block(content, known, where=WHERE)
            known = known or block.labels
            told += block.rows
            found += json.loads(block.array, strict=False)
    return found, told


@cheap
@given(bodies(), st.integers(1, 200))
def test_rows_are_read_as_they_were_written_however_they_are_cut(
    body: tuple[list[str], Rows, bytes], size: int
) -> None:
    labels, rows, text = body
    assert read(text, labels, size=size) == (rows, len(rows))


@cheap
@given(bodies(), st.data())
def test_a_cut_answer_is_refused_or_holds_the_rows_before_the_cut(
    body: tuple[list[str], Rows, bytes], data: st.DataObject
) -> None:
    labels, rows, text = body
    cut = text[: data.draw(st.integers(0, len(text)))]
    try:
        found, told = read(cut, labels, size=2**20)
    except NightloadError:
        return
    assert (found, told) == (rows[: len(found)], len(found))
    assert cut.count(b"\n") <= text.count(b"\n")


@cheap
@given(bodies(), st.data())
def test_damaged_lines_are_refused_or_counted_right(body: tuple[list[str], Rows, bytes], data: st.DataObject) -> None:
    """Lines in the middle are not parsed here: what is no JSON is found by who converts it, and never counted wrong."""
    labels, _, text = body
    text = data.draw(damaged(text))
    try:
        found, told = read(text, labels, size=2**20)
    except NightloadError:
        return
    except ValueError:  # the array of a block is no JSON, which `to_parquet` refuses
        return
    assert told == len(found)


@cheap
@given(st.binary(max_size=120), LABELS | st.none(), st.integers(1, 50))
def test_any_bytes_are_rows_or_an_error(body: bytes, labels: list[str] | None, size: int) -> None:
    with contextlib.suppress(NightloadError, ValueError):
        read(body, labels, size=size)


@cheap
@given(results(), st.data())
def test_columns_in_another_order_are_put_right(result: tuple[list[str], Rows], data: st.DataObject) -> None:
    labels, rows = result
    assume(rows)
    block = read_block("\n".join(map(json.dumps, rows)).encode(), labels, where=WHERE)
    known = data.draw(st.permutations(list(dict.fromkeys([*labels, *data.draw(LABELS)]))))
    found = json.loads(in_order_of(block.array, labels, known))
    by_label = [dict(zip(labels, row, strict=True)) for row in rows]
    assert found == [[row.get(label) for label in known] for row in by_label]


@cheap
@given(VALUES)
def test_the_elements_of_a_value_are_its_own_texts(value: Any) -> None:
    try:
        values, names = elements(json.dumps(value))
    except ValueError:
        assert not isinstance(value, list | dict)
        return
    parsed = [json.loads(text) for text in values]
    assert (dict(zip(names, parsed, strict=True)) if names is not None else parsed) == value


@cheap
@given(st.lists(WELL_FORMED | st.sampled_from(["a", "a (2)", "a (3)"]), max_size=8))
def test_headers_become_labels_of_their_own(headers: list[str]) -> None:
    labels = labels_from(headers)
    assert len(set(labels or ())) == len(headers)


@cheap
@given(st.dictionaries(st.sampled_from(["return_code", "return_message", "stackMessage", "data"]), VALUES),
       st.integers(100, 599))  # fmt: skip
def test_any_envelope_is_well_or_an_error(envelope: dict[str, Any], status: int) -> None:
    error = refusal("querySql", envelope, status)
    assert error is None or (isinstance(error, NightloadError) and str(error).isprintable())
    if error is None:
        assert str(envelope["return_code"]) == "0"


def test_lines_that_are_evil_are_read_soon() -> None:
    many = ",".join(f'"c{n}":1' for n in range(50_000))
    for line in (
        "[" * 10**5,
        "{" + '"a":[' * 10**5,
        "{" + many + "}",
        '{"return_code":-1008,"return_message":"task' + " " * 10**5 + '"}',
        '{"return_code":-1008,"return_message":"' + "task is " * 10**4 + '"}',
        '{"return_code":0,"data":{"headers":[' + ",".join(['"a"'] * 10**4) + "]}}",
        "{" + " " * 10**6,
    ):
        with soon():
            try:
                read_block(line.encode(), None, where=WHERE)
                read_block(b"[1]\n" + line.encode(), ("a",), where=WHERE)
            except NightloadError:
                pass


def test_an_envelope_that_is_nested_too_deep_is_none() -> None:
    assert envelope_of(b'{"return_code":0,"data":' + b"[" * 10**5 + b"]" * 10**5 + b"}") is None
