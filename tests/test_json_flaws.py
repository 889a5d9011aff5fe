"""What JSON may not hold: a byte order mark is left out, other flaws are accepted or named; none is called a cut."""

from __future__ import annotations

import gzip
import json
import math
import threading
from codecs import BOM_UTF8
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sources.convert.json_envelope import cut_array
from sources.core.errors import BrokenAnswer
from sources.http.body import _unmarked
from sources.http.client import Http
from sources.http.response import flaw_of
from sources.thinkingengine.refusals import envelope_of
from sources.tonalytica.client import read_result
from sources.tune.answers import parsed

FLAWS = [
    (b"\x0b", "is a control character (U+000B) in a text"),
    (b"\n", "is a control character (U+000A) in a text"),
    (b"\xff", "is not UTF-8 (0xff)"),
    (b"\xc3", "is not UTF-8 (0xc3)"),
]
ROWS = b'{"rows": ' + json.dumps([{"a": n} for n in range(3000)]).encode() + b', "text": "'


class Says(BaseHTTPRequestHandler):
    body: ClassVar[bytes] = b""
    packed: ClassVar[bool] = False

    def do_GET(self) -> None:
        body = gzip.compress(self.body) if self.packed else self.body
        self.send_response(200)
        self.send_header("content-type", "application/json")
        if self.packed:
            self.send_header("content-encoding", "gzip")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Http]:
    monkeypatch.setattr("sources.http.retry._BACKOFF_BASE", 0.001)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Http(vendor="shop", base_url=f"http://127.0.0.1:{server.server_port}") as client:
        yield client
    server.shutdown()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content", [b'{"rows": []}', b"", b"[1]", BOM_UTF8[:2], BOM_UTF8 + b"1"])
def test_byte_order_mark_before_any_body_is_left_out_once(
    http: Http, content: bytes, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Says, "packed", packed)
    monkeypatch.setattr(Says, "body", BOM_UTF8 + content)
    assert http.body("GET", "x").content == content
    http.spool("x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == content
    monkeypatch.setattr(Says, "body", content)
    assert http.body("GET", "x").content == content.removeprefix(BOM_UTF8)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_byte_order_mark_in_pieces_is_left_out(size: int) -> None:
    for body in (BOM_UTF8 + b"[1]", b"[1]", BOM_UTF8, b"\xef\xbb", b"\xef\xbbx", b""):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        assert b"".join(_unmarked(pieces)) == body.removeprefix(BOM_UTF8)


@pytest.mark.parametrize(("flaw", "reason"), FLAWS)
def test_flaw_of_an_answer_is_named_and_not_called_a_cut(
    http: Http, flaw: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Says, "body", '{"城": "'.encode() + flaw + b'", "b": 1}')
    with pytest.raises(BrokenAnswer) as caught:
        http.json("GET", "x")
    assert caught.value.why == f"byte 9 {reason} (tried 2 times)"
    assert "cut" not in str(caught.value)


@pytest.mark.parametrize("body", [b'{"a": "b', '{"a": "城'.encode()[:-1], b'{"a": [1,', b"a,b\n1,2\n", b"[" * 10**5])
def test_answer_that_may_be_cut_has_no_flaw(body: bytes) -> None:
    assert flaw_of(body) == ""


@pytest.mark.parametrize(("flaw", "reason"), FLAWS)
@pytest.mark.parametrize("before", [False, True])
def test_flaw_beside_the_rows_is_named_with_its_place(flaw: bytes, reason: str, before: bool) -> None:
    body = b'{"text": "' + flaw + b'", "rows": [{"a": 1}], "b": []}' if before else ROWS + flaw + b'"}'
    with pytest.raises(BrokenAnswer) as caught:
        cut_array(body, "rows", where="shop")
    assert caught.value.what == "the answer is not JSON outside of its “rows”"
    assert caught.value.why == f"byte {body.index(flaw)} {reason}"
    assert "cut" not in str(caught.value)


def test_lone_surrogate_and_nan_beside_the_rows_are_accepted() -> None:
    body = ROWS + b'\\ud800", "runtime": NaN, "id": 18446744073709551616}'
    envelope, start, end = cut_array(body, "rows", where="shop")
    assert (envelope["text"], envelope["id"], len(json.loads(body[start:end]))) == ("\ud800", 2**64, 3000)
    assert math.isnan(envelope["runtime"])


@pytest.mark.parametrize("left", [10, 20_000, len(ROWS)])
def test_cut_rows_are_called_cut(left: int) -> None:
    with pytest.raises(BrokenAnswer, match="does not end"):
        cut_array((ROWS + b'\\ud800"}')[:left], "rows", where="shop")


def test_answer_without_rows_names_its_flaw() -> None:
    with pytest.raises(BrokenAnswer, match="byte 10 is a control character"):
        cut_array(b'{ "job": "\x01"}', "rows", where="shop")


def test_result_whose_query_holds_half_a_surrogate_pair_is_read(tmp_path: Path) -> None:
    document = {
        "query_result": {"query": "\ud800", "data": {"columns": [{"name": "a\ud800"}], "rows": [{"a\ud800": 1}]}}
    }
    (tmp_path / "x").write_bytes(json.dumps(document).encode())
    assert read_result(tmp_path / "x").columns == [{"name": "a\ud800"}]


def test_envelope_of_lines_with_a_bad_byte_is_an_envelope() -> None:
    assert envelope_of(b'{"return_code": -1, "return_message": "\xff\x01"}\n[1]') == {
        "return_code": -1, "return_message": "\ufffd\x01",
    }  # fmt: skip


def test_report_rows_with_flaws_are_read_as_other_rows_are() -> None:
    assert parsed(b'[{"a": "\xff\x01", "b": 1.50, "c": NaN}]', where="") == [
        {"a": "\ufffd\x01", "b": "1.50", "c": None}
    ]
