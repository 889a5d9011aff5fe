"""A night is played again from its kept pages with the vendors gone: same tables, same counts, nothing secret kept."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

import killed
import tune_facts
from conftest import Night
from people import EMAIL, TRACE, VENDORS, home_of, plant
from pipelines.run.recording.store import SUFFIX, Reader
from pipelines.scheduling.run_history import Nights
from sandbox_process import SandboxProcess, start_sandbox
from test_crash_vendors import contents

ALL = {"KEEP__DAYS": "7", "KEEP__PERSONAL": "true"}


def pages_of(night: Night, run_id: str) -> Path:
    return night.state / "pages" / run_id


def bodies(night: Night) -> dict[str, bytes]:
    """Every kept file with what is packed in it: pages by run, vendor, table and number."""
    found = {}
    for path in (night.state / "pages").rglob("*"):
        if path.suffix == ".json":
            found[str(path)] = path.read_bytes()
    for folder in filter(Path.is_dir, (night.state / "pages").glob("*/*")):
        reader = Reader(folder, run_id="a test")
        for number, (table, body) in enumerate(reader.bodies()):
            found[f"{folder} {table} {number}"] = b"".join(body)
        found |= {str(path): path.read_bytes() for path in folder.glob(f"*{SUFFIX}")}
    return found


def charts(process: SandboxProcess) -> list[str]:
    return [row["id"] for row in process.control("growingio", "GET", "truth/charts")["rows"]]


def run_ids(night: Night) -> list[str]:
    return [row["run_id"] for row in night.main("runs", "--json").json["runs"]]


def fresh_contents(path: Path) -> dict[str, list[Any]]:
    """The tables of a replayed file, as `contents` tells those of a warehouse."""

    class File:
        warehouse = path

    return contents(File())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two nights of all five, one of edits, all of it kept; then the vendors are gone."""
    with start_sandbox("--vendors", VENDORS, "--scale", "0.01") as process:
        night = home_of(process, tmp_path_factory.mktemp("kept"))
        ready = process.ready["growingio"]
        signed = {name: ready[name] for name in ("project_uid", "account_ai", "client_id", "secret")}
        night.set("growingio", auth_mode="signed", console_token=None, segmentations_api="v3", **signed)
        clicks = tune_facts.clicks(tune_facts.Vendor(process), via="export")
        night.set("tune", reports=[tune_facts.DAILY, clicks], poll_seconds="0.001", polls_per_hour=10**8, session=True)
        executed = [{"query": 1, "parameters": {}, "max_age": 0}]
        night.set("tonalytica", executions=executed, results={"include": {"ids": [2, 91]}})
        night.set("growingio", charts=charts(process)[:4])
        night.settings |= ALL
        first = night.run(tables=CHOSEN)
        assert first.code == 0, [each["error"] for each in first.tables.values() if each["error"]]
        before = contents(night)
        plant(process)
        second = night.run(tables=[*CHOSEN, "tonalytica_results.query_91"])
        assert second.code == 0, second.out
        secrets = [str(process.ready[vendor].get(name)) for vendor in process.ready for name in SECRETS]
    return {"night": night, "before": before, "first": first.json["run_id"], "second": second.json["run_id"],
            "secrets": [each for each in secrets if each != "None"]}  # fmt: skip


CHOSEN = [
    *(
        f"tonalytica.{name}"
        for name in ("queries", "visualizations", "dashboards", "widgets", "users", "query_results")
    ),
    *(f"tonalytica_results.query_{number}" for number in (1, 2)),
    *(f"tune.{name}" for name in ("advertiser_campaigns", "account_users", "actuals_daily", "logs_clicks")),
    *(f"thinkingengine.{name}" for name in ("events", "users", "metrics", "reports", "event_meta")),
    *(f"dataworks.{name}" for name in ("published_apis", "published_api_versions", "groups", "api_tests")),
    "dataworks.api_authorities",
    *(f"growingio.{name}" for name in ("dashboards", "charts", "chart_points", "segmentations", "segmentation_users")),
    "growingio.rules",
]
"""Every way of asking that the five clients have."""
SECRETS = ("api_key", "token", "root_token", "secret", "access_key_secret", "console_token")


def test_a_night_of_all_five_is_the_same_in_a_fresh_file_with_the_vendors_gone(
    played: dict[str, Any], tmp_path: Path
) -> None:
    night, live = played["night"], contents(played["night"])
    done = night.main("replay", played["first"], "--to", str(tmp_path / "fresh.duckdb"), "--json")
    assert done.code == 0, (done.err, [each for each in done.json["tables"] if each["same"] is False])
    assert done.json["same"] and not done.json["left_out"] and not done.json["torn"]
    assert fresh_contents(tmp_path / "fresh.duckdb") == played["before"]
    assert {each["table"] for each in done.json["tables"]} == set(CHOSEN)
    assert all(vendor["requests"] == 0 for vendor in done.json["run"]["vendors"])
    assert contents(night) == live, "the live warehouse is as it was"
    with duckdb.connect(str(tmp_path / "fresh.duckdb"), read_only=True) as file:
        states = "SELECT count(*) FROM duckdb_tables() WHERE table_name = '_dlt_pipeline_state'"
        assert file.execute(states).fetchone() == (0,), "a night that goes on there walks everything whole"


def test_a_night_of_changes_is_played_with_the_cursors_that_it_had(played: dict[str, Any]) -> None:
    night = played["night"]
    done = night.main("replay", played["second"], "--json")
    assert done.code == 0, (done.err, [each for each in done.json["tables"] if each["same"] is False])
    tables = {each["table"]: each for each in done.json["tables"]}
    assert tables["tonalytica_results.query_91"]["now"]["extracted"] == 2
    assert not list((night.state).glob("replay-*")), "what it loaded is thrown away"
    assert run_ids(night)[0] == played["second"], "a check is no run"


def test_no_secret_is_kept_and_nobody_else_may_read_it(played: dict[str, Any]) -> None:
    night = played["night"]
    kept = bodies(night)
    assert len(kept) > 200 and len(played["secrets"]) >= 5
    for name, body in kept.items():
        for secret in played["secrets"]:
            assert secret.encode() not in body, name
        assert not re.search(rb"CANARY(?!pii|\.one|\.two)", body), f"a key or a link's signature: {name}"
        assert b'"api_key": "***"' in body or b'"api_key"' not in body, name
    for path in [night.state / "pages", *(night.state / "pages").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_personal_tables_are_left_out_unless_they_are_asked_for_and_the_rest_is_played(
    sandbox_of_people: SandboxProcess, tmp_path: Path
) -> None:
    night = home_of(sandbox_of_people, tmp_path)
    night.settings["KEEP__DAYS"] = "7"
    night.set("growingio", charts=charts(sandbox_of_people)[:1])
    wanted = ["tonalytica.users", "tonalytica.queries", "tonalytica_results.query_91", "tonalytica_results.query_2"]
    wanted += ["tune.account_users", "tune.advertiser", "growingio.dashboards", "growingio.charts"]
    wanted += ["growingio.segmentation_users", "thinkingengine.users", "thinkingengine.metrics"]
    wanted += ["dataworks.published_apis", "dataworks.published_api_request_parameters", "dataworks.groups"]
    ran = night.run(tables=wanted)
    assert ran.code == 0, ran.out
    (run_id,) = run_ids(night)
    done = night.main("replay", run_id, "--json")
    assert done.code == 0, (done.err, done.out)
    left_out = {"tonalytica.users", "tonalytica_results.query_91", "tune.account_users", "growingio.segmentation_users"}
    assert done.json["left_out"].keys() == left_out | {"thinkingengine.users"}
    masked = {each["table"] for each in done.json["tables"] if "masked" in (each["why"] or "")}
    assert masked == {"growingio.dashboards", "thinkingengine.metrics", *wanted[-3:-1]}
    assert {each["table"] for each in done.json["tables"] if each["same"]} == set(wanted) - left_out - {
        "thinkingengine.users"
    }
    found = [name for name, body in bodies(night).items() if TRACE in body.lower() and "queries" not in name]
    # the description of an API and a query's text mention her: what people write somewhere is found by forget
    assert all("dataworks" in name or "tonalytica" in name for name in found), found
    assert not any(b"Zoe Canary" in body for body in bodies(night).values()), "an owner's name"
    refused = night.main("replay", run_id, "--table", "tonalytica.users")
    assert refused.code == 2 and "personal columns" in refused.err


@pytest.fixture(scope="module")
def sandbox_of_people() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", VENDORS, "--scale", "0.01") as process:
        plant(process)
        yield process


def test_a_forgotten_person_is_out_of_the_kept_pages_too(played: dict[str, Any], tmp_path: Path) -> None:
    night = played["night"].twin(tmp_path / "home")
    assert any(TRACE in body.lower() for body in bodies(night).values())
    done = night.main("forget", EMAIL, "--yes")
    assert done.code == 0, done.err
    left = bodies(night)
    assert not [name for name, body in left.items() if TRACE in body.lower()]
    assert any(played["first"] in name for name in left), "she was unknown in the first night"
    assert played["second"] not in "".join(left), "all five vendors knew her in the second"
    refused = night.main("replay", played["second"])
    assert refused.code == 2 and "cannot be replayed" in refused.err


@pytest.fixture
def kept_night(night: Night) -> Night:
    """A home of one vendor on each database, with its pages kept."""
    night.settings |= ALL
    return night


TABLE = "tune.advertiser_campaigns"


def test_what_was_parsed_wrong_is_loaded_again_and_the_next_night_goes_on(
    kept_night: Night, sandbox: SandboxProcess
) -> None:
    night = kept_night
    assert night.run(tables=[TABLE]).code == 0
    (run_id,) = run_ids(night)
    right = contents(night)
    night.write(f"UPDATE {TABLE} SET name = 'parsed wrong'", f"DELETE FROM {TABLE} WHERE id % 2 = 0")
    before = cursors(night)
    asked = sandbox.control("tune", "GET", "stats")["by_path"]
    done = night.main("replay", run_id[:20], "--into", "--json")
    assert done.code == 0, done.err + done.out
    assert contents(night) == right
    assert cursors(night) == before
    assert sandbox.control("tune", "GET", "stats")["by_path"] == asked
    told = night.rows("SELECT status FROM nightload.runs ORDER BY started_at")
    assert told == [("ok",), ("replayed",)]
    ((note, status),) = night.rows(
        "SELECT notes, status FROM nightload.run_tables WHERE status <> 'ok' AND table_name = 'advertiser_campaigns'"
    )
    assert (json.loads(note), status) == ([f"replayed from run {run_id}"], "replayed")
    with night.here() as place:
        (last,) = Nights(place, {})._last_runs().values()
    assert last < datetime.fromisoformat(night.main("runs", "--json").json["runs"][0]["started_at"]), "no night of it"
    fresh = night.main("status", "--json").json["vendors"][0]
    assert fresh["last_good"] == night.main("run-info", run_id, "--json").json["run"]["finished_at"]
    assert night.run(tables=[TABLE]).code == 0
    assert contents(night) == right


def cursors(night: Night) -> dict[str, Any]:
    """All that is remembered of the table but what stands for the rows that came last."""
    (told,) = night.main("state", "show", TABLE, "--json").json["tables"]
    return {name: value for name, value in told["state"].items() if name not in ("digest", "window")}


def test_what_a_vendor_takes_back_after_a_replay_is_no_old_news(kept_night: Night, sandbox: SandboxProcess) -> None:
    """A night is killed and replayed, and then the vendor shows what it showed before: the rows that stand there now
    are not those that the last good night is remembered by."""
    night, vendor, table = kept_night, tune_facts.Vendor(sandbox), "tune.languages"
    assert night.run(tables=[table]).code == 0
    first = vendor.facts("languages")[0]
    right = night.rows(f"SELECT id, name FROM {table} ORDER BY id")
    vendor.edit({"table": "languages", "op": "update", "key": first["id"], "row": {"name": "passing"}})
    command = (sys.executable, str(Path(killed.__file__)), killed.COUNT, "before", "1", "")
    ran = night.start("run", "--table", table, command=command)
    assert (ran.communicate(timeout=120), ran.returncode)[1] == -signal.SIGKILL
    run_id = run_ids(night)[0]
    assert night.main("replay", run_id, "--into").code == 0
    assert night.rows(f"SELECT count(*) FROM {table} WHERE name = 'passing'") == [(1,)]
    vendor.edit({"table": "languages", "op": "update", "key": first["id"], "row": {"name": first["name"]}})
    assert night.run(tables=[table]).code == 0
    assert night.rows(f"SELECT id, name FROM {table} ORDER BY id") == right


def test_older_rows_never_take_the_place_of_newer_ones(kept_night: Night, sandbox: SandboxProcess) -> None:
    night, vendor = kept_night, tune_facts.Vendor(sandbox)
    assert night.run(tables=[TABLE]).code == 0
    campaign = vendor.facts("advertiser/campaigns")[0]["id"]
    vendor.edit({"table": "advertiser/campaigns", "op": "update", "key": campaign, "row": {"name": "newer"}})
    assert night.run(tables=[TABLE]).code == 0
    newest, oldest = run_ids(night)
    now = contents(night)
    refused = night.main("replay", oldest, "--into")
    assert refused.code == 2 and f"{TABLE} was loaded again since run {oldest}" in refused.err
    assert newest in refused.err and "--to PATH" in refused.err
    assert contents(night) == now
    assert night.main("replay", newest, "--into").code == 0
    assert contents(night) == now

    def recorded(status: str, landed: str) -> None:
        with sqlite3.connect(night.state / "ledger.sqlite") as ledger:
            ledger.execute(f"UPDATE run_tables SET status = '{status}', landed = {landed} WHERE run_id = ?", (newest,))

    recorded("failed", "NULL")  # as where it could not be parsed then: now only its replay has brought it
    refused = night.main("replay", oldest, "--into")
    assert (refused.code, contents(night)) == (2, now)
    with sqlite3.connect(night.state / "ledger.sqlite") as ledger:
        ledger.execute("DELETE FROM run_tables WHERE status = 'replayed'")
    recorded("mismatch", "80")  # the rows that came are there
    refused = night.main("replay", oldest, "--into")
    assert (refused.code, contents(night)) == (2, now)


def test_nothing_is_kept_unless_it_is_asked_for(file_night: Night) -> None:
    assert file_night.run(tables=[TABLE]).code == 0
    (run_id,) = run_ids(file_night)
    assert not (file_night.state / "pages").exists()
    assert file_night.main("run-info", run_id, "--json").json["run"]["kept"] == []
    refused = file_night.main("replay", run_id)
    assert refused.code == 2 and "no pages of it are kept" in refused.err and "[keep]" in refused.err


def test_mistakes_are_told(file_night: Night, tmp_path: Path) -> None:
    night = file_night
    for name, value, told in [
        ("DAYS", "many", "keep.days is 'many'"),
        ("DAYS", "-1", "keep.days is -1"),
        ("MAX_MB", "true", "keep.max_mb is True"),
        ("TABLES", "tune", "keep.tables names no tables"),
        ("DAY", "1", "Did you mean days"),
    ]:
        ran = night.main("run", "tune", "--table", TABLE, env={f"KEEP__{name}": value})
        assert ran.code == 2 and told in ran.err, (ran.err, told)
    night.settings |= ALL
    assert night.run(tables=[TABLE]).code == 0
    (run_id,) = run_ids(night)
    night.settings["KEEP__TABLES"] = '["tonalytica.*"]'
    assert night.run(tables=[TABLE], full=True).code == 0
    other = run_ids(night)[0]
    (there := tmp_path / "there.duckdb").touch()
    for arguments, told in [
        (("nope",), "no run begins"),
        ((run_id, "--to", str(there)), "is there already"),
        ((run_id, "--to", str(tmp_path / "no" / "x.duckdb")), "there is no folder"),
        ((run_id, "--to", "x.duckdb", "--into"), "say two things"),
        ((run_id, "--check", "--into"), "--check loads nowhere"),
        ((run_id, "--table", "tune.advertiser"), "has no pages of tune.advertiser"),
        ((other,), "not among keep.tables"),
    ]:
        refused = night.main("replay", *arguments)
        assert refused.code == 2 and told in refused.err, (arguments, refused.err, refused.out)


def test_a_request_that_was_not_recorded_is_refused_and_says_why(file_night: Night) -> None:
    night = file_night
    night.settings |= ALL
    assert night.run(tables=[TABLE]).code == 0
    (run_id,) = run_ids(night)
    night.set("tune", page_size=7)
    done = night.main("replay", run_id, "--json")
    assert done.code == 4
    (table,) = done.json["tables"]
    assert table["same"] is False
    assert "has no answer to this (GET /advertiser/campaigns/find.json" in table["now"]["error"]
    assert "limit=7" in table["now"]["error"] and "the settings or the code are others" in table["now"]["error"]


def test_pages_that_are_torn_are_told_of_and_play_as_far_as_they_go(file_night: Night) -> None:
    night = file_night
    night.settings |= ALL
    tables = [TABLE, "tune.advertiser"]
    assert night.run(tables=tables).code == 0
    (run_id,) = run_ids(night)
    folder = pages_of(night, run_id) / "tune"
    torn = next(path for path in folder.glob(f"*{SUFFIX}") if b"advertiser_campaigns" in path.read_bytes()[:200])
    torn.write_bytes(torn.read_bytes()[:-30])
    done = night.main("replay", run_id, "--json")
    assert done.code == 4 and "torn" in done.json["torn"][0], done.json["torn"]
    same = {each["table"]: each["same"] for each in done.json["tables"]}
    assert same == {TABLE: False, "tune.advertiser": True}
    (folder / "end.json").unlink()
    killed = night.main("replay", run_id, "--json")
    assert "killed" in " ".join(killed.json["torn"])


def test_a_night_that_was_killed_can_be_looked_at(file_night: Night) -> None:
    night = file_night
    night.settings |= ALL
    command = (
        sys.executable,
        str(Path(__file__).with_name("killed.py")),
        "sources.extract.extractor:to_parquet",
        "before",
        "2",
        "",
    )
    killed = night.start("run", "--table", TABLE, "--table", "tune.advertiser", command=command)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    (run_id,) = run_ids(night)
    done = night.main("replay", run_id, "--json")
    assert done.code == 0 and "the run was killed" in done.json["torn"][0]
    told = {each["table"]: (each["same"], each["now"]["status"]) for each in done.json["tables"]}
    assert told == {TABLE: (None, "ok"), "tune.advertiser": (None, "ok")}


def test_old_and_large_pages_are_removed_after_each_night(file_night: Night, caplog: pytest.LogCaptureFixture) -> None:
    from pipelines.monitoring.hooks import after_run
    from pipelines.run.recording.retention import kept_runs, prune

    night = file_night
    night.settings |= ALL
    for _ in range(3):
        assert night.run(tables=[TABLE]).code == 0
    with night.here() as place:
        oldest, _, newest = runs = kept_runs(place)
        assert prune(place) == [] and kept_runs(place) == runs
        told = json.loads((place.pages / oldest / "run.json").read_text())
        told["until"] = (datetime.now(UTC) - timedelta(days=8)).isoformat()
        (place.pages / oldest / "run.json").write_text(json.dumps(told))
        after_run(place)
        assert kept_runs(place) == runs[1:]
    night.settings["KEEP__MAX_MB"] = str((size(night, newest) + 500) / 2**20)
    with night.here() as place:
        assert prune(place) == [runs[1]] and kept_runs(place) == [newest]
        place.pages.rename(place.pages.with_suffix(".aside"))
        place.pages.touch()
        after_run(place)
        assert "post-run hook recordings failed" not in caplog.text


def size(night: Night, run_id: str) -> int:
    return sum(path.stat().st_size for path in pages_of(night, run_id).rglob("*") if path.is_file())


def test_a_night_that_outgrows_its_room_or_its_disk_is_green_and_not_replayable(
    file_night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = file_night
    night.settings |= ALL | {"KEEP__MAX_MB": "0.001"}
    assert night.run(tables=[TABLE]).code == 0
    (run_id,) = run_ids(night)
    assert size(night, run_id) < 4000
    done = night.main("replay", run_id, "--json")
    assert done.code == 4 and any("max_mb" in line for line in done.json["torn"])
    night.settings["KEEP__MAX_MB"] = "100"
    monkeypatch.setattr("pipelines.run.recording.store._HEAD", Full())
    assert night.run(tables=[TABLE], full=True).code == 0


class Full:
    """A disk that has no room left."""

    size = 21

    def pack(self, *_: Any) -> bytes:
        raise OSError(28, "No space left on device")
