"""Metrics and lineage: a file that Prometheus takes, events that OpenLineage takes, and neither fails a run."""

from __future__ import annotations

import json
import re
import resource
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from conftest import Night
from ledger_story import NOON, Story, story
from pipelines.monitoring.openlineage import emit
from pipelines.monitoring.prometheus import write
from receivers import http_receiver
from sandbox_process import SandboxProcess
from sources.core.errors import NightloadError
from test_ledger import few_tables

GOOD = {"tune.clicks": {}, "tune.campaigns": {}}
LABEL = r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"'
LINE = re.compile(rf"([a-z_]+)(?:\{{{LABEL}(?:,{LABEL})*\}})? (-?\d+(?:\.\d+)?(?:e\+\d+)?)")


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Story]:
    with story(tmp_path) as it:
        it.settings('[metrics]\nfile = "metrics/nightload.prom"\n[lineage]\nfile = "lineage.ndjson"\n')
        yield it


def metrics(path: Path) -> dict[str, float]:
    """Sample → value, of a file that keeps the format: each metric announced once, its samples together."""
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    found: dict[str, float] = {}
    announced: dict[str, set[str]] = {}
    current = ""
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# "):
            _, kind, name, _ = line.split(" ", 3)
            assert kind not in announced.setdefault(name, set()), line
            announced[name].add(kind)
            current = name
            continue
        match = LINE.fullmatch(line)
        assert match and match[1] == current and announced[current] == {"HELP", "TYPE"}, line
        sample = line.rpartition(" ")[0]
        assert sample not in found, line
        found[sample] = float(match[match.lastindex or 0])
    return found


def test_the_file_tells_how_each_vendor_and_table_stands(told: Story) -> None:
    told.night(2, {"tune": GOOD, "dataworks": {"dataworks.files": {"rows": 7}}})
    told.night(0, {"tune": GOOD, "dataworks": "no"})
    path = write(told.place, told.ledger, now=NOON)
    assert path == told.place.home / "metrics" / "nightload.prom"
    found = metrics(path)
    assert found['nightload_vendor_ok{vendor="tune"}'] == 1
    assert found['nightload_vendor_ok{vendor="dataworks"}'] == 0
    assert found['nightload_vendor_fresh{vendor="dataworks"}'] == 0
    assert found['nightload_table_live_rows{vendor="dataworks",table="dataworks.files"}'] == 7
    ended = NOON.replace(hour=2, minute=9).timestamp()
    assert found['nightload_vendor_last_good_timestamp_seconds{vendor="tune"}'] == ended
    assert found['nightload_last_run_status{status="failed"}'] == 1
    assert found['nightload_last_run_status{status="ok"}'] == 0
    assert found['nightload_incidents_open{kind="vendor"}'] == 0
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in path.parent.iterdir()] == ["nightload.prom"]


def test_labels_are_escaped(told: Story) -> None:
    told.night(0, {"tune": {'tune.城"市\\\n#{}': {}}})
    path = write(told.place, told.ledger, now=NOON)
    assert path is not None
    assert 'nightload_table_ok{vendor="tune",table="tune.城\\"市\\\\\\n#{}"}' in metrics(path)


def test_without_a_setting_nothing_is_written(told: Story) -> None:
    told.settings("")
    told.night(0, {"tune": GOOD})
    assert write(told.place, told.ledger, now=NOON) is None
    assert emit(told.place, told.ledger) == 0


def events(told: Story) -> list[dict[str, Any]]:
    path = told.place.home / "lineage.ndjson"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def test_each_run_of_a_vendor_starts_and_ends_once(told: Story) -> None:
    told.night(2, {"tune": GOOD})
    told.night(1, {"tune": GOOD, "dataworks": "the key is not accepted"})
    assert emit(told.place, told.ledger) == 4  # the last run only: what was before is history
    assert emit(told.place, told.ledger) == 0
    told.night(0, {"tune": GOOD})
    assert emit(told.place, told.ledger) == 2
    found = events(told)
    told_of = [(event["eventType"], event["job"]["name"]) for event in found]
    assert told_of == [
        ("START", "nightload.tune"),
        ("COMPLETE", "nightload.tune"),
        ("START", "nightload.dataworks"),
        ("FAIL", "nightload.dataworks"),
        ("START", "nightload.tune"),
        ("COMPLETE", "nightload.tune"),
    ]
    runs = [event["run"]["runId"] for event in found]
    assert runs[0::2] == runs[1::2] and len(set(runs)) == 3
    for event in found:
        assert {"eventType", "eventTime", "run", "job", "producer", "schemaURL", "inputs", "outputs"} == set(event)
        uuid.UUID(event["run"]["runId"])
        assert datetime.fromisoformat(str(event["eventTime"])).tzinfo is not None
    (fail,) = [event for event in found if event["eventType"] == "FAIL"]
    facet = fail["run"]["facets"]["errorMessage"]
    assert facet["message"] == "the key is not accepted" and facet["_producer"] and facet["_schemaURL"]
    done = found[-1]
    assert [each["name"] for each in done["outputs"]] == ["tune.clicks", "tune.campaigns"]
    statistics = done["outputs"][0]["outputFacets"]["outputStatistics"]
    assert statistics["rowCount"] == 1000


def test_events_that_could_not_be_sent_are_sent_after_the_next_run(told: Story) -> None:
    with http_receiver() as server:
        told.settings(f'[lineage]\nurl = "{server.url}/api/v1/lineage"\ntoken = "CANARYtoken"\n')
        told.night(2, {"tune": GOOD})
        assert emit(told.place, told.ledger) == 2
        server.status = 503
        told.night(1, {"tune": GOOD})
        with pytest.raises(NightloadError, match="HTTP 503"):
            emit(told.place, told.ledger)
        server.status = 201
        told.night(0, {"tune": GOOD})
        assert emit(told.place, told.ledger) == 4
        assert [event["eventType"] for event in server.documents] == ["START", "COMPLETE"] * 3
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer CANARYtoken"}


@pytest.mark.parametrize("fails", ["url", "file"])
def test_what_fails_of_file_and_url_is_told_later_and_the_other_not_twice(told: Story, fails: str) -> None:
    with http_receiver() as server:
        told.settings(f'[lineage]\nurl = "{server.url}/lineage"\nfile = "lineage.ndjson"\n')
        path = told.place.home / "lineage.ndjson"
        for days, broken in ((3, False), (2, True), (1, True), (0, False)):
            told.night(days, {"tune": GOOD})
            server.status = 503 if broken and fails == "url" else 201
            if broken and fails == "file":
                path.replace(told.place.home / "aside")
                path.mkdir()
            with pytest.raises((NightloadError, OSError)) if broken else nullcontext():
                emit(told.place, told.ledger)
            if path.is_dir():
                path.rmdir()
                (told.place.home / "aside").replace(path)
        assert [event["eventType"] for event in events(told)] == ["START", "COMPLETE"] * 4
        assert [event["eventType"] for event in server.documents] == ["START", "COMPLETE"] * 4
        assert events(told) == server.documents


def test_a_full_disk_leaves_no_half_line(told: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    told.night(1, {"tune": GOOD})
    emit(told.place, told.ledger)
    told.night(0, {"tune": GOOD, "dataworks": GOOD})
    size, limits = (told.place.home / "lineage.ndjson").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(told.ledger, "mark", lambda *_: pytest.fail("it was not told"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 700, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            emit(told.place, told.ledger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    assert emit(told.place, told.ledger) == 4
    assert len(events(told)) == 6


def test_neither_fails_a_run(night: Night, sandbox: SandboxProcess) -> None:
    small = few_tables(night)
    (small.home / "file").write_text("")
    small.settings["METRICS__FILE"] = str(small.home / "file" / "metrics.prom")
    small.settings["LINEAGE__URL"] = "http://127.0.0.1:1/CANARYlineage"
    ran = small("run", "--json", "-v")
    assert (ran.code, ran.json["status"]) == (0, "ok")
    assert "post-run hook metrics failed" in ran.err and "post-run hook lineage failed: no response" in ran.err
    assert "CANARY" not in ran.out + ran.err
    small.settings["METRICS__FILE"] = "nightload.prom"
    small.settings["LINEAGE__URL"] = ""
    small.settings["LINEAGE__FILE"] = "lineage.ndjson"
    assert small("run").code == 0
    found = metrics(small.home / "nightload.prom")
    assert found['nightload_vendor_ok{vendor="tonalytica"}'] == 1
    lines = [json.loads(line) for line in (small.home / "lineage.ndjson").read_text().splitlines()]
    assert [event["eventType"] for event in lines] == ["START", "COMPLETE"]
