"""What is recorded of a vendor over real sockets, and played again with nobody there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.run.recording.store import SUFFIX, Choice, NotKept, Reader, Writer
from sources.core import redaction
from sources.core.concurrency import in_order
from sources.core.errors import BrokenAnswer, Refused, Unavailable
from sources.http import cassette
from sources.http.client import Http
from test_http import Server, cut, say

ROOM = 100 * 2**20
EVERYTHING = Choice(days=1, max_bytes=ROOM, personal=("*",))
TABLE = "acme.things"


@pytest.fixture
def server() -> Iterator[Server]:
    redaction.clear()
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()
    redaction.clear()


class Recording:
    """One vendor in one folder: `record` what is asked inside, `play` it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.sleeps: list[float] = []

    def http(self, **settings: Any) -> Http:
        return Http(**{"vendor": "acme", "base_url": self.server.url, "sleep": self.sleeps.append, **settings})

    def record(self, choice: Choice = EVERYTHING) -> cassette.Recorder:
        return Writer(self.folder, choice, room=choice.max_bytes)

    def reader(self) -> Reader:
        return Reader(self.folder, run_id="that run")

    def bytes(self) -> bytes:
        return b"".join(b"".join(body) for _, body in self.reader().bodies())


@pytest.fixture
def recording(server: Server, tmp_path: Path) -> Recording:
    return Recording(server, tmp_path / "acme")


def ask(http: Http, folder: Path) -> list[Any]:
    """A bit of everything that clients do."""
    told: list[Any] = [http.json("GET", "page", params={"page": number, "api_key": "k"}) for number in (2, 1, 1)]
    told.append(http.spool("rows", folder / "rows").path.read_bytes())
    answer = http.body("POST", "sql", form={"sql": "select 1", "token": "t"}, retry=True, accept=(200, 201))
    told += [answer.status, answer.content, answer.headers["date"]]
    for path in ("gone", "down"):
        try:
            http.json("GET", path)
        except (Refused, Unavailable) as error:
            told.append((type(error), error.status, error.message, error.why))
    return told


def test_a_vendor_is_played_with_its_refusals_and_its_throttles(
    server: Server, recording: Recording, tmp_path: Path
) -> None:
    server.on("/page", say(200, {"rows": [1]}), say(429, {}, Retry_After="7"), say(200, {"rows": [2]}), say(200, []))
    server.on("/rows", cut, say(200, b"[" + b"1," * 2**20 + b"1]"))
    server.on("/sql", say(201, b'{"a": 12345678901234567890123}\n[1]'))
    server.on("/gone", say(404, {"message": "no such thing"}))
    server.on("/down", say(503, {"message": "later"}))
    writer = recording.record()
    with recording.http(params={"api_key": "one"}) as http, cassette.recording("acme", writer), cassette.walking(TABLE):
        told = ask(http, tmp_path)
    writer.close({})
    assert not recording.reader().torn, "an answer that was cut and came again is no damage"
    assert told[0:3] == [{"rows": [1]}, {"rows": [2]}, []]
    hits, sleeps = len(server.seen), len(recording.sleeps)
    with recording.http(params={"api_key": "other"}) as http, cassette.playing("acme", recording.reader()):
        assert ask(http, tmp_path) == told
        assert http.requests == 0
    assert len(server.seen) == hits, "nobody was asked"
    assert len(recording.sleeps) == sleeps, "nor waited for"


def test_what_was_asked_at_once_is_played_in_any_order(server: Server, recording: Recording) -> None:
    bodies = {number: b'{"n": %d, "pad": "%s"}' % (number, b"x" * (200_000 * (number % 3))) for number in range(24)}
    for number, body in bodies.items():
        server.on(f"/{number}", say(200, body))
    writer = recording.record()
    with recording.http() as http, cassette.recording("acme", writer), cassette.walking(TABLE):
        list(in_order(lambda number: http.body("GET", str(number)), bodies, width=8))
    (file,) = recording.folder.glob(f"*{SUFFIX}")
    with recording.http() as http, cassette.playing("acme", recording.reader()):
        backwards = list(in_order(lambda number: http.body("GET", str(number)).content, reversed(bodies), width=8))
    assert backwards == list(reversed(bodies.values()))
    assert {table for table, _ in recording.reader().bodies()} == {TABLE}, "threads know which table is walked"
    for length in (file.stat().st_size - 1, file.stat().st_size // 2, 40, 3):
        file.write_bytes(file.read_bytes()[:length])
        reader = recording.reader()
        whole = [b"".join(body) for _, body in reader.bodies()]
        assert set(whole) <= set(bodies.values()) and len(whole) < len(bodies)
        assert "torn" in reader.torn[0] and "killed" in reader.torn[-1]


def test_a_byte_that_the_disk_changed_ends_the_file_there(server: Server, recording: Recording) -> None:
    for number in range(3):
        server.on(f"/{number}", say(200, [number] * 50))
    with recording.http() as http, cassette.recording("acme", recording.record()), cassette.walking(TABLE):
        for number in range(3):
            http.json("GET", str(number))
    (file,) = recording.folder.glob(f"*{SUFFIX}")
    content = file.read_bytes()
    for at in range(len(content) // 2, len(content), 7):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        reader = recording.reader()
        assert reader.answers < 3 and "torn" in reader.torn[0], at
        assert [b"".join(body) for _, body in reader.bodies()] == [
            b"[%s]" % b", ".join([b"%d" % number] * 50) for number in range(reader.answers)
        ]


def test_a_secret_is_masked_wherever_a_piece_ends(server: Server, recording: Recording, tmp_path: Path) -> None:
    secret = "s3cr3t-0123456789-abcdef"
    redaction.register_secret(secret)
    body = b"".join(b"x" * pad + secret.encode() + b"," for pad in range(2**20 - 40, 2**20 + 10, 7))
    server.on("/rows", say(200, body))
    server.on("/echo", say(200, {"you": f"sent {secret}", "n": 1}))
    with recording.http() as http, cassette.recording("acme", recording.record()), cassette.walking(TABLE):
        assert http.spool("rows", tmp_path / "rows").path.read_bytes() == body, "the run itself has it as it came"
        assert secret in http.json("GET", "echo", params={"q": secret})["you"]
    masked = recording.bytes()
    assert secret.encode() not in masked and masked.count(b"***") == body.count(secret.encode()) + 1
    raw = b"".join(path.read_bytes() for path in recording.folder.iterdir())
    assert secret.encode() not in raw, "nor in what is told of the request"


@pytest.mark.parametrize(
    ("came", "stays"),
    [
        ({"api_key": "k", "name": "q"}, {"api_key": "***", "name": "q"}),
        ([{"user": {"id": 3, "name": "Zoe", "email": "z@x"}, "n": 1}], [{"user": {"id": 3}, "n": 1}]),
        ({"url": "https:\\\\s3.example\\x.csv?AWSAccessKeyId=1&S=x"}, {"url": "https:\\\\s3.example\\x.csv"}),
        ({"links": ["https://f.example.com/a.csv?sign=x&expires=9"]}, {"links": ["https://f.example.com/a.csv"]}),
        ({"ParameterName": "password", "DefaultValue": "x"}, {"ParameterName": "password", "DefaultValue": None}),
        ({"token": 5, "design": "https://x.example.com/?design=a&page=2"}, None),
        ({"data": "minted"}, {"data": "***"}),
        ([{"email": "z@x", "id": 1}], None),
    ],
)  # fmt: skip
def test_of_a_document_goes_what_no_table_has(came: Any, stays: Any) -> None:
    content = json.dumps(came, indent=1).encode()
    clean = cassette.may_be_kept(content, private=["data"])
    assert clean == content if stays is None else json.loads(clean) == stays


def test_a_request_is_known_by_what_it_asks_not_by_how_it_proves_itself() -> None:
    def known(**told: Any) -> str:
        return cassette.asked("GET", "/x", **told).fingerprint

    same = known(query="a=1&b=2")
    assert same == known(query="b=2&a=1") != known(query="a=1&b=3")
    assert known(query="a=1&api_key=one") == known(query="a=1&api_key=two") != same
    assert known(form={"sql": "1", "token": "t"}) == known(form={"sql": "1", "token": "u"}) != known(form={"sql": "2"})
    action: Mapping[str, str] = {"x-acs-action": "ListApis", "Authorization": "Key one"}
    assert known(headers=action) == known(headers={"X-Acs-Action": "ListApis"}) != known(headers={"x-acs-action": "L"})


def test_what_is_missing_is_refused_with_its_reason(server: Server, recording: Recording) -> None:
    server.on("/users", say(200, [{"email": "z@x"}]))
    server.on("/things", say(200, [1]))
    choice = Choice(days=1, max_bytes=ROOM, tables=("acme.*", "tune.account_users"))
    writer = Writer(recording.folder, choice, room=ROOM)
    with recording.http() as http, cassette.recording("acme", writer):
        for table, path in (
            ("tune.account_users", "users"),
            ("acme.open", "users"),
            ("other.t", "things"),
            ("acme.a", "things"),
        ):
            with cassette.walking(table):
                http.json("GET", path, params={"of": table})
        cassette.met("acme", "acme.open", ["n", "email"])
        cassette.met("acme", "acme.a", ["n"])
        writer.close({})
    reader = recording.reader()
    assert reader.left_out.keys() == {"tune.account_users", "acme.open", "other.t"}
    assert b"z@x" not in b"".join(path.read_bytes() for path in recording.folder.iterdir())
    with recording.http() as http, cassette.playing("acme", reader):
        assert http.json("GET", "things", params={"of": "acme.a"}) == [1]
        for params, why in [
            ({"of": "acme.a"}, "asked 1 times then, and once more now"),
            ({"of": "tune.account_users"}, "has personal columns"),
            ({"of": "acme.open"}, "it has personal columns"),
            ({"of": "nobody"}, "did not ask this"),
        ]:
            with pytest.raises(NotKept, match=why):
                http.json("GET", "things" if params["of"] == "acme.a" else "users", params=params)


def test_keeping_a_large_body_costs_less_than_its_parsing(server: Server, recording: Recording, tmp_path: Path) -> None:
    row = b'{"id": %d, "name": "city %d", "amount": %d.25, "day": "2026-01-%02d", "flag": true}'
    body = b"[" + b",".join(row % (n * 7919, n % 977, n % 10007, n % 28 + 1) for n in range(200_000)) + b"]"
    server.on("/rows", say(200, body))
    redaction.register_secret("a-secret-of-this-process")
    spent = {}
    for name in ("without", "with"):
        with recording.http() as http:
            began = time.thread_time()
            if name == "without":
                http.spool("rows", tmp_path / "rows")
            else:
                with cassette.recording("acme", recording.record()), cassette.walking(TABLE):
                    http.spool("rows", tmp_path / "rows")
            spent[name] = time.thread_time() - began
    extra = (spent["with"] - spent["without"]) / (len(body) / 2**20) * 100
    assert extra < 2.0, f"{extra:.2f} CPU seconds for 100 MB"
    assert recording.bytes() == body


def test_a_broken_answer_that_was_whole_is_played_as_broken(server: Server, recording: Recording) -> None:
    server.on("/x", say(200, b'{"rows": [1'))
    with recording.http() as http, cassette.recording("acme", recording.record()), pytest.raises(BrokenAnswer) as then:
        http.json("GET", "x")
    with recording.http() as http, cassette.playing("acme", recording.reader()), pytest.raises(BrokenAnswer) as now:
        http.json("GET", "x")
    assert str(now.value) == str(then.value)


class Noted:
    """A tape in memory."""

    def __init__(self) -> None:
        self.content = b""
        self.ended = self.dropped = False

    def write(self, data: bytes) -> None:
        self.content += data

    def end(self) -> None:
        self.ended = True

    def drop(self) -> None:
        self.dropped = True


def test_a_secret_that_lies_across_two_pieces_is_masked() -> None:
    redaction.clear()
    redaction.register_secret("s3cr3t-0123456789")
    body = b"a=s3cr3t-0123456789,b=s3cr3t-0123456789s3cr3t-0123456789"
    for first in range(len(body)):
        for second in (first + 1, first + 9, len(body)):
            masked = cassette.Masked(tape := Noted())
            for piece in (body[:first], body[first:second], body[second:]):
                masked.write(piece)
            masked.end()
            assert tape.content == b"a=***,b=******" and tape.ended, (first, second)
    redaction.clear()
