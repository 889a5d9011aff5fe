"""The sandbox as a process: how it starts, what it says, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import httpx
import pytest

from sandbox_process import ROOT, start_sandbox


def refused(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", *args], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_bad_options_are_one_line_and_exit_2(tmp_path: Path) -> None:
    assert "unknown vendor nobody" in refused("--vendors", "tune,nobody")
    assert "--scale" in refused("--scale", "0")
    faults = tmp_path / "faults.json"
    faults.write_text('{"tune": [{"match": {}, "do": {"explode": true}}]}')
    assert "explode" in refused("--faults", str(faults))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in refused("--port-base", str(taken.getsockname()[1]))


def test_one_process_serves_both_and_same_seed_is_same_data() -> None:
    truths = []
    for seed in ("7", "7", "8"):
        with start_sandbox("--scale", "0.05", "--seed", seed) as running:
            assert set(running.tonalytica) >= {"base_url", "api_key", "query_keys", "control_url"}
            assert len(running.tonalytica["api_key"]) == 40 and len(running.tune["api_key"]) == 32
            assert httpx.get(running.tune["base_url"] + "/countries/count.json").json()["data"] == 40
            queries = running.control("tonalytica", "GET", "truth/queries")
            truths.append((queries, running.control("tune", "GET", "truth/account/users")))
    assert truths[0] == truths[1] != truths[2]


def test_faults_from_a_file(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text(json.dumps({"tune": [{"match": {"path": "countries"}, "do": {"status": 503}}]}))
    with start_sandbox("--vendors", "tune", "--scale", "0.05", "--faults", str(faults)) as running:
        url = running.tune["base_url"] + "/countries/count.json"
        assert [httpx.get(url).status_code for _ in range(2)] == [503, 200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_on_a_signal(number: signal.Signals) -> None:
    running = start_sandbox("--vendors", "tune", "--scale", "0.05")
    running.send_signal(number)
    assert running.stop() == 0


def test_ends_at_once_and_quietly_with_a_request_under_way(capfd: pytest.CaptureFixture[str]) -> None:
    running = start_sandbox("--vendors", "tune", "--scale", "0.05")
    running.control("tune", "POST", "options", {"latency": 20})
    with httpx.Client() as http, pytest.raises(httpx.TransportError):
        threading.Timer(0.2, running.send_signal, (signal.SIGTERM,)).start()
        http.get(running.tune["base_url"] + "/countries/count.json", timeout=10)
    assert running.stop() == 0
    assert capfd.readouterr().err == ""


def test_ends_with_its_parent() -> None:
    running = start_sandbox("--vendors", "tune", "--scale", "0.05")
    running.close_stdin()
    assert running.wait(5) == 0
    running.stop()


def test_concurrency_is_measured() -> None:
    with start_sandbox("--vendors", "tune", "--scale", "0.05") as running:
        running.control("tune", "POST", "options", {"latency": 0.15})
        url = running.tune["base_url"] + "/countries/count.json"
        threads = [threading.Thread(target=httpx.get, args=(url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = running.control("tune", "GET", "stats")
        assert (stats["max_concurrent"], stats["requests"]) == (3, 3)


def test_control_refuses_what_it_does_not_know() -> None:
    with start_sandbox("--vendors", "tune", "--scale", "0.05") as running:
        url = running.tune["control_url"]
        assert httpx.get(f"{url}/truth/nothing").status_code == 400
        assert httpx.post(f"{url}/edit", json={"table": "nothing", "op": "insert"}).status_code == 400
        assert httpx.post(f"{url}/faults", json=[{"do": {"explode": 1}}]).status_code == 400
        assert httpx.post(f"{url}/options", json={"version": "v9"}).status_code == 400
        assert running.control("tune", "GET", "stats")["requests"] == 0


def test_the_clock_of_the_vendors_is_set_for_all_of_them() -> None:
    with start_sandbox("--scale", "0.01", "--now", "2026-03-25T10:00:00+00:00") as running:
        assert running.ready["thinkingengine"]["events_from"] == "2026-03-18"
        days = {row["day"] for row in running.control("growingio", "GET", "truth/chart_rows")["rows"]}
        assert max(days) == "2026-03-25"
        assert running.control("tune", "POST", "clock", {"now": "2027-01-01T00:00:00+08:00"})["now"][:16] == (
            "2026-12-31T16:00"
        )
        for vendor in ("tonalytica", "dataworks"):
            answer = httpx.get(running.ready[vendor]["base_url"])
            assert answer.headers["date"].startswith("Thu, 31 Dec 2026 16:0")
        running.control("tune", "POST", "clock", {"now": None})
        assert httpx.get(running.tune["base_url"]).headers["date"][5:16] != "31 Dec 2026"
    assert "--now" in refused("--now", "2026-03-25")


def test_settings_of_toml_pasted_into_a_project_load_all_vendors(tmp_path: Path) -> None:
    printed, log = "", tmp_path / "sandbox.log"
    command = [sys.executable, "-m", "sandbox", "--toml", "--scale", "0.02", "--exit-with-parent"]
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=out, text=True)
    try:
        until = time.monotonic() + 60
        while not printed.endswith("\n") and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
            printed = log.read_text(encoding="utf-8")
        config, secrets = printed.split("# .dlt/secrets.toml\n")
        assert config.startswith("# .dlt/config.toml\n")
        assert "CANARY" in secrets and "CANARY" not in config
        (tmp_path / ".dlt").mkdir()
        (tmp_path / ".dlt" / "config.toml").write_text(config, encoding="utf-8")
        (tmp_path / ".dlt" / "secrets.toml").write_text(secrets, encoding="utf-8")
        (tmp_path / ".dlt" / "secrets.toml").chmod(0o600)
        ran = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "run", "--json", "--home", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        vendors = {each["vendor"]: each["status"] for each in json.loads(ran.stdout)["vendors"]}
        assert vendors == dict.fromkeys(tomllib.loads(secrets)["sources"], "ok")
        assert len(vendors) == 5
    finally:
        process.terminate()
        process.communicate(timeout=10)
