"""Download links and packed bodies from elsewhere: where nothing is connected to, and what is not unpacked."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sources.core.errors import BrokenAnswer, ConfigurationError, Unavailable, Unreachable
from sources.http import client as http_room
from sources.http import unpack
from sources.http.client import Http
from sources.http.download_links import Links
from sources.tune.exports import _unpack
from test_http import Server, say

PUBLIC = "93.184.216.34"
resolve = socket.getaddrinfo


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


Names = Callable[..., list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Let `files.example.com` have these addresses, one list for each time that it is looked up; returns what was
    looked up."""

    def set_to(*answers: list[str]) -> list[str]:
        asked: list[str] = []

        def look_up(host: str, port: Any, *args: Any, **options: Any) -> Any:
            if host != "files.example.com":
                return resolve(host, port, *args, **options)
            asked.append(host)
            found = answers[min(len(asked), len(answers)) - 1]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return asked

    return set_to


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is connected to; nothing is."""
    to: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> Any:
        to.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    return to


def links(base_url: str = "https://api.example.com", **settings: Any) -> Links:
    return Links(vendor="acme", base_url=base_url, **{"usual": ["files.example.com"], **settings})


def follow(base_url: str, allowed: Links, **settings: Any) -> Http:
    return Http(vendor="acme", base_url=base_url, links=allowed, sleep=lambda _: None, **settings)


def test_a_name_that_has_another_address_a_moment_later_is_not_followed_there(
    names: Names, connected: list[tuple[str, int]]
) -> None:
    asked = names([PUBLIC], ["127.0.0.1"])
    with follow("https://files.example.com", links()) as http, pytest.raises(BrokenAnswer, match="not public"):
        http.body("GET", "x.csv")
    # the first try went to the address that was looked at; before the second the name is looked at anew
    assert connected == [(PUBLIC, 443)]
    assert len(asked) == 2


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.8"], ["169.254.169.254"], ["100.64.0.1"]])
def test_a_name_with_an_address_that_is_not_public_is_not_connected_to(
    addresses: list[str], names: Names, connected: list[tuple[str, int]]
) -> None:
    names(addresses)
    with follow("https://files.example.com", links()) as http, pytest.raises(BrokenAnswer, match="not public"):
        http.body("GET", "x.csv")
    assert connected == []
    named = links(named=["files.example.com"])
    with follow("https://files.example.com", named) as http, pytest.raises(Unreachable):
        http.body("GET", "x.csv")
    assert {address for address, _ in connected} == set(addresses), "who is named may be private; each is tried"


@pytest.mark.parametrize(
    "address",
    [
        "::7f00:1",
        "::ffff:0:127.0.0.1",
        "::ffff:0:8.8.8.8",
        "::ffff:169.254.169.254",
        "::ffff:168.63.129.16",
        "fec0::1",
        "feff::1",
        "64:ff9b:1::8.8.8.8",
        "64:ff9b::10.0.0.8",
        "64:ff9b::168.63.129.16",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "2002:7f00:1::1",
        "2002:a83f:8110::1",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2606:4700::5efe:10.0.0.8",
        "ff02::1",
    ],
)
def test_address_that_leads_to_a_private_one_is_refused(
    address: str, names: Names, connected: list[tuple[str, int]]
) -> None:
    names([address])
    with follow("https://files.example.com", links()) as http, pytest.raises(BrokenAnswer, match="not public"):
        http.body("GET", "x.csv")
    assert connected == []


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::1"])
def test_public_address_is_connected_to(address: str, names: Names, connected: list[tuple[str, int]]) -> None:
    names([address])
    with follow("https://files.example.com", links()) as http, pytest.raises(Unreachable):
        http.body("GET", "x.csv")
    assert {each for each, _ in connected} == {address}


def test_a_name_that_nobody_knows_is_told(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with follow("https://files.example.com", links()) as http, pytest.raises(Unreachable, match="name is not known"):
        http.body("GET", "x.csv")


def test_a_host_that_nobody_named_is_refused_with_the_way_out() -> None:
    allowed = links(usual=["*.files.example.com"])
    for host in ("evil.example.net", "files.example.com.evil.net", "files.example.com", "xfiles.example.com"):
        with pytest.raises(BrokenAnswer, match="not among the hosts") as caught:
            allowed.checked(f"https://{host}/x?sign=CANARY", where="a test")
        assert f'link_hosts = ["{host}"] under sources.acme' in str(caught.value) and "CANARY" not in str(caught.value)
    assert allowed.checked("https://eu.files.example.com/x", where="a test").hostname == "eu.files.example.com"
    with pytest.raises(ConfigurationError, match="which is no host"):
        links(named=["https://files.example.com"])


def test_the_certificate_is_asked_for_by_the_name_not_by_the_address(names: Names, tmp_path: Path) -> None:
    key, certificate, seen = tmp_path / "key.pem", tmp_path / "cert.pem", []
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = lambda _, name, __: seen.append(name)
    with Server() as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        names(["127.0.0.1"])
        port, allowed = running.server_address[1], links(named=["files.example.com"])
        with (
            follow(f"https://files.example.com:{port}", allowed) as http,
            pytest.raises(Unavailable, match="certificate is not trusted"),
        ):
            http.body("GET", "x.csv")
        running.shutdown()
    assert seen == ["files.example.com"]


def test_a_redirect_is_looked_at_like_a_link_and_takes_nothing_along(server: Server) -> None:
    allowed = links(server.url)
    server.on("/here", say(302, b"", Location="/there?sign=a%2Fb"))
    server.on("/there", say(200, b"a,b\n", Content_Type="text/csv"))
    with follow(server.url, allowed) as http:
        assert http.body("GET", "here", headers={"X-Once": "CANARY"}).content == b"a,b\n"
        assert server.seen[-1].path == "/there?sign=a%2Fb" and "X-Once" not in server.seen[-1].headers
        for location, why in [
            ("http://169.254.169.254/latest/meta-data", "only https"),
            ("https://169.254.169.254/latest/meta-data", "not public"),
            ("https://localhost:9/x", "not among the hosts"),
            ("https://user:pw@files.example.com/x", "a user"),
            ("//127.0.0.1:1/x", "only https"),
            ("file:///etc/passwd", "names no host"),
        ]:
            server.on("/away", say(302, b"", Location=location))
            hits = len(server.seen)
            with pytest.raises(BrokenAnswer, match=r"(is|was) not followed") as caught:
                http.body("GET", "away")
            assert why in str(caught.value), str(caught.value)
            assert len(server.seen) == hits + 1, "not tried again"
        server.on("/loop", say(302, b"", Location="/loop"))
        with pytest.raises(BrokenAnswer, match="after 3 others"):
            http.body("GET", "loop")


# ---------------------------------------------------------------- what is unpacked


def test_a_body_that_becomes_a_thousand_times_larger_is_not_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "RATIO_FROM", 2**20)
    bomb = gzip.compress(b" " * (4 * 2**20))
    assert len(bomb) * 1000 < 4 * 2**20 * 1.03
    server.on("/bomb", say(200, bomb, Content_Encoding="gzip"))
    honest = gzip.compress(b"".join(b"%d,same,same\n" % number for number in range(200_000)))
    server.on("/rows", say(200, honest, Content_Encoding="gzip", Content_Type="text/csv"))
    with Http(vendor="acme", base_url=server.url, sleep=lambda _: None) as http:
        for ask in (lambda: http.json("GET", "bomb"), lambda: http.spool("bomb", tmp_path / "x")):
            hits = server.hits["/bomb"]
            with pytest.raises(BrokenAnswer, match="packed as no honest one is") as caught:
                ask()
            assert server.hits["/bomb"] == hits + 1, "not tried again"
        assert f"{len(bomb)} bytes became more than" in str(caught.value)
        assert not list(tmp_path.iterdir()), "what came of it is gone"
        assert http.spool("rows", tmp_path / "rows").size > 2 * 2**20
    (packed := tmp_path / "x.csv").write_bytes(bomb)
    with pytest.raises(BrokenAnswer, match="packed as no honest one is"):
        _unpack(packed, most=2**30, where="a test")


def test_what_is_held_in_memory_has_a_bound_of_its_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_room, "MAX_IN_MEMORY", 2**16)
    large = gzip.compress(b"[" + b",".join(b"%d" % number for number in range(40_000)) + b"]")
    server.on("/x", say(200, large, Content_Encoding="gzip"))
    with Http(vendor="acme", base_url=server.url, sleep=lambda _: None) as http:
        for ask in (http.json, http.body):
            with pytest.raises(BrokenAnswer, match="more than 65536 bytes"):
                ask("GET", "x")
        assert http.spool("x", tmp_path / "x").size > 2**16
