"""What vendors wrap their rows in: found and cut without a loss; any other answer is an error that says what it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fuzzing import VALUES, WELL_FORMED, cheap, damaged, soon
from sources.convert.json_envelope import cut_array
from sources.convert.spool import iter_rows
from sources.core.errors import ConfigurationError, NightloadError
from sources.dataworks import refusals as dataworks
from sources.dataworks.settings import LIST_PROJECTS
from sources.growingio import client as growingio
from sources.growingio.shapes import unique
from sources.http.download_links import Links
from sources.thinkingengine import refusals as thinkingengine
from sources.tonalytica import client as tonalytica
from sources.tonalytica.parameters import resolve
from sources.tune import answers, exports
from sources.tune import client as tune
from sources.tune.settings import Settings as Tune

ROWS = st.lists(st.dictionaries(WELL_FORMED, VALUES, max_size=3) | st.lists(VALUES, max_size=3), max_size=5)
BESIDE = st.dictionaries(WELL_FORMED.filter(lambda name: name != "rows"), VALUES, max_size=3)


def _has_rows(value: Any) -> bool:
    """Is there a “rows” within, which would be the first?"""
    match value:
        case dict():
            return any(key == "rows" or _has_rows(inner) for key, inner in value.items())
        case list():
            return any(map(_has_rows, value))
    return False


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[Any], dict[str, Any], bytes]:
    """Rows, the envelope around them, and the document as a vendor's JSON writer may write it."""
    rows, before, after = draw(ROWS), draw(BESIDE), draw(BESIDE)
    assume(not _has_rows(before))
    after = {key: value for key, value in after.items() if key not in before}
    document = {**before, "rows": rows, **after}
    text = json.dumps(
        document,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
        indent=draw(st.sampled_from([None, 2])),
    )
    return rows, {**document, "rows": []}, text.encode()


@cheap
@given(documents())
def test_the_rows_are_cut_out_as_they_stand(document: tuple[list[Any], dict[str, Any], bytes]) -> None:
    rows, envelope, body = document
    found, start, end = cut_array(body, "rows", where="a vendor")
    assert (json.loads(body[start:end]), found) == (rows, orjson.loads(json.dumps(envelope)))


@cheap
@given(documents(), st.data())
def test_a_cut_document_is_refused(document: tuple[list[Any], dict[str, Any], bytes], data: st.DataObject) -> None:
    _, _, body = document
    with pytest.raises(NightloadError):
        cut_array(body[: data.draw(st.integers(0, len(body) - 1))], "rows", where="a vendor")


@cheap
@given(documents(), st.data())
def test_a_damaged_document_is_refused_or_cut_by_the_rules(
    document: tuple[list[Any], dict[str, Any], bytes], data: st.DataObject
) -> None:
    body = data.draw(damaged(document[2]))
    try:
        _, start, end = cut_array(body, "rows", where="a vendor")
    except NightloadError:
        return
    try:
        whole = json.loads(body, strict=False)
    except ValueError:
        return  # in the rows, which are not parsed here: who converts them refuses
    assume(not _has_rows({key: value for key, value in whole.items() if key != "rows"}))
    assume(body.count(b'"rows"') == 1)
    assert json.loads(body[start:end], strict=False) == whole["rows"]


@cheap
@given(ROWS, st.integers(0, 40))
def test_rows_are_read_one_by_one(rows: list[Any], padding: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_bytes(b" " * padding + json.dumps(rows).encode())
        assert list(iter_rows(file, start=padding, as_written=False)) == json.loads(json.dumps(rows))


def test_documents_that_are_evil_are_cut_soon() -> None:
    for body in (
        b'{"rows": [' + b"]" * 10**5,
        b'{"a": "' + b"x" * 10**6 + b'", "rows": [' + b"]" * 10**5,
        b'{"rows": [' + b"[" * 10**6,
        b'{"rows": [' + b"[1]," * 10**5,
        b'{"rows":' * 10**5,
        b'"rows": [' * 10**5,
    ):
        with soon(), pytest.raises(NightloadError):
            cut_array(body, "rows", where="a vendor")


def test_a_long_list_may_follow_the_rows_of_a_long_document() -> None:
    """What is tried in vain is bounded; then the rows are read, and their end is right all the same."""
    document = {"a": "x" * 2**25, "rows": [[1], [2]], "b": [[[]]] * 20}
    body = json.dumps(document).encode()
    _, start, end = cut_array(body, "rows", where="a vendor")
    assert json.loads(body[start:end]) == [[1], [2]]


def test_rows_that_are_evil_are_refused_soon(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    keys = ",".join(f'"{n}": 1' for n in range(50_000))
    for body in (b"[" * 10**6, f'[{{{keys}, "49999": 1}}]'.encode()):
        file.write_bytes(body)
        with soon(), pytest.raises(ValueError, match=r"too deep|twice"):
            list(iter_rows(file))


# -- what is no row -----------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["Code", "Success", "Message", "RequestId", "Data", "message", "errors", "status_code", "data", "job", "status",
     "return_code", "return_message", "error_code", "error_msg", "error"]
)  # fmt: skip
TOLD = (
    st.sampled_from(["200", 401, 429, "Throttling.User", "SignatureNonceUsed", "InvalidTimeStamp.Expired", "task is"])
    | VALUES
    | st.dictionaries(NAMES, VALUES, max_size=2)
    | st.lists(st.dictionaries(NAMES, VALUES, max_size=2), max_size=2)
)
ENVELOPES = st.dictionaries(NAMES, TOLD, max_size=4) | VALUES
ANSWERS: dict[str, Callable[[int, Any], NightloadError | None]] = {
    "dataworks": lambda status, answer: dataworks.inspect_for(LIST_PROJECTS, {})(status, answer),
    "growingio": lambda status, answer: growingio._refusal(status, answer),
    "thinkingengine": lambda status, answer: thinkingengine.inspect_for("querySql")(status, answer),
    "tonalytica": lambda status, answer: tonalytica._inspect(status, answer),
    "tune": lambda status, answer: tune.refusal(status, answer, "advertiser/find"),
}


@pytest.mark.parametrize("vendor", ANSWERS)
@cheap
@given(st.sampled_from([200, 400, 401, 403, 404, 429, 500, 503]), ENVELOPES)
def test_any_answer_is_an_answer_or_an_error_in_one_line(vendor: str, status: int, answer: Any) -> None:
    error = ANSWERS[vendor](status, answer)
    assert error is None or isinstance(error, NightloadError)
    assert error is None or (str(error).isprintable() and len(str(error)) < 2000)


@cheap
@given(st.dictionaries(
    st.sampled_from(["x-acs-retry-after", "x-ratelimit-user", "x-ratelimit-user-api"]),
    st.from_regex(r"\A[0-9٠-٩]{0,400}\Z") | st.from_regex(r"\ATimeLeft ?: ?[0-9]{0,400}\Z") | st.text(max_size=20),
))  # fmt: skip
def test_a_pause_that_is_asked_for_is_a_number(headers: dict[str, str]) -> None:
    pause = dataworks.pause_asked(headers)
    assert pause is None or pause > 0


@cheap
@given(VALUES | st.dictionaries(st.sampled_from(["job_id", "handle"]), VALUES | st.integers(-9, 10**9)))
def test_a_job_has_an_id_that_a_path_can_carry_or_there_is_none(data: Any) -> None:
    try:
        job = exports.job_of(data, "job_id", "handle", where="tune, export")
    except NightloadError:
        return
    assert job.isascii() and "/" not in job and "." not in job


STATES = st.dictionaries(
    st.sampled_from(["status", "percent_complete", "url", "data", "lines_exported"]),
    st.sampled_from(["complete", "100", 100, "fail", "9" * 5000, {"url": "https://x/y"}]) | VALUES,
)


@cheap
@given(STATES | VALUES)
def test_any_state_of_an_export_is_a_link_or_an_error(told: Any) -> None:
    settings = Tune(api_key="k", base_url="https://api.example.com")
    settings.poll_tries = 2
    try:
        ready = exports.wait_for(lambda: told, settings, where="tune, export", sleep=lambda _: None)
    except NightloadError:
        return
    assert isinstance(ready.link, str) and ready.link
    assert ready.lines is None or ready.lines >= 0


@cheap
@given(st.text(max_size=40) | st.from_regex(r"\Ahttps?:[/\\]{1,4}[a-z0-9.:@\[\]%]{0,20}[/\\?#a-z]{0,9}\Z"))
def test_any_link_is_one_of_https_or_an_error(link: str) -> None:
    try:
        links = Links(vendor="tune", base_url="https://api.example.com", usual=("*",))
        parts = links.checked(link, where="tune, export")
    except NightloadError:
        return
    assert (parts.scheme, parts.username, parts.fragment) == ("https", None, "")
    assert parts.hostname


@cheap
@given(st.lists(st.dictionaries(WELL_FORMED, VALUES, max_size=4), max_size=3))
def test_nested_rows_keep_every_value_under_its_path(rows: list[dict[str, Any]]) -> None:
    body = json.dumps(rows).encode()
    for row in answers.parsed(body, where="tune, find"):
        try:
            flat = answers.flatten(row)
        except NightloadError:
            continue
        assert not any(isinstance(value, dict | list) for value in flat.values())
        assert len(flat) == _leaves(row)


def _leaves(value: Any) -> int:
    return sum(map(_leaves, value.values())) if isinstance(value, dict) else 1


@cheap
@given(st.lists(WELL_FORMED | st.sampled_from(["a", "A", "a [2]", "a [3]", ""]), max_size=8))
def test_labels_of_a_chart_are_told_apart(labels: list[str]) -> None:
    found = unique(labels)
    assert len(found) == len(labels)
    assert len({label.casefold() for label in found}) == len(labels)


# -- parameters of an execution -----------------------------------------------------------------

KINDS = st.sampled_from(["date", "datetime-local", "date-range", "datetime-range-with-seconds", "text", "number"])
TOKENS = st.from_regex(r"\Ad_(last|this)_[0-9]{0,12}_?(hour|day|week|month|year)s?\Z") | st.sampled_from(
    ["d_now", "d_yesterday", "d_today", "d_last_30_days", "d_"]
)
DEFINITION = st.fixed_dictionaries(
    {"name": WELL_FORMED}, optional={"type": KINDS | VALUES, "value": TOKENS | VALUES, "title": VALUES}
) | st.dictionaries(st.sampled_from(["name", "type", "value"]), VALUES)


@cheap
@given(st.dictionaries(WELL_FORMED, TOKENS | VALUES, max_size=2), st.lists(DEFINITION | VALUES, max_size=3))
def test_parameters_are_computed_or_refused(given_: dict[str, Any], definitions: list[Any]) -> None:
    from datetime import UTC, datetime

    try:
        found = resolve(
            given_, definitions, now=datetime(2026, 11, 26, tzinfo=UTC), zone="Asia/Shanghai", where="query 7"
        )
    except NightloadError as error:
        assert isinstance(error, ConfigurationError) or "parameter" in str(error)
        return
    assert set(given_) <= set(found)
    assert len(found) == len({each["name"] for each in definitions})
