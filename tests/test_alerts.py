"""Alerts: each incident told once on each channel, its recovery too; no alert fails a run or shows a secret."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from conftest import Night, empty, settle
from ledger_story import NOON, Story, command, story
from pipelines.ledger.store import Ledger
from pipelines.monitoring import notifiers
from pipelines.monitoring.alerts import sweep
from pipelines.monitoring.status import last_runs
from receivers import Receiver, http_receiver, mail_receiver
from sandbox_process import SandboxProcess
from test_ledger import few_tables

GOOD = {"tune.clicks": {}, "tune.campaigns": {}}
DENIED = "the key is not accepted (tune): HTTP 401. Write a new one into .dlt/secrets.toml, then run again"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def told(tmp_path: Path, hook: Receiver) -> Iterator[Story]:
    with story(tmp_path) as it:
        it.settings(f'[alerts]\nwebhook = "{hook.url}/services/CANARYhook"\n')
        yield it


def texts(hook: Receiver) -> list[str]:
    """What was posted since the last look."""
    found = [document["text"] for document in hook.documents]
    hook.bodies.clear()
    return found


def test_an_incident_says_what_where_why_and_what_to_do(told: Story, hook: Receiver) -> None:
    run_id = told.night(0, {"tune": DENIED})
    sweep(told.place, now=NOON)
    (text,) = texts(hook)
    lines = dict(line.partition(": ")[::2] for line in text.splitlines())
    assert lines["nightload"] == "tune failed, and nothing of it was published"
    assert "tune" in lines["where"] and "warehouse.duckdb" in lines["where"] and run_id in lines["where"]
    assert lines["why"] == DENIED
    assert f"nightload run tune; all of it: nightload run-info {run_id}" in lines["what to do"]
    assert hook.paths == ["/services/CANARYhook"]


def test_an_incident_is_told_once_and_its_recovery_once(told: Story, hook: Receiver) -> None:
    told.night(3, {"tune": GOOD})
    sweep(told.place, now=NOON - timedelta(days=3))
    assert texts(hook) == []
    for ago in (2, 1):
        told.night(ago, {"tune": DENIED})
        for hour in (0, 1):
            sweep(told.place, now=NOON - timedelta(days=ago) + timedelta(hours=hour))
    assert len(texts(hook)) == 1
    told.night(0, {"tune": GOOD})
    sweep(told.place, now=NOON)
    sweep(told.place, now=NOON)
    (text,) = texts(hook)
    assert text.startswith("nightload: resolved: tune failed")
    told.night(-1, {"tune": DENIED})
    sweep(told.place, now=NOON + timedelta(days=1))
    assert len(texts(hook)) == 1  # it is a new one


def test_what_may_still_be_tried_again_is_told_when_the_run_has_ended(told: Story, hook: Receiver) -> None:
    """A timer's sweep meets a night under way."""
    told.night(2, {"tune": DENIED})
    sweep(told.place, now=NOON - timedelta(days=2))
    assert len(texts(hook)) == 1
    under_way = told.night(1, {"tune": {"tune.clicks": {"status": "failed", "error": "HTTP 500"}}}, status="running")
    sweep(told.place, now=NOON - timedelta(days=1))
    assert texts(hook) == [], "nor is it resolved"
    told.ledger.close_run(under_way, status="failed")
    sweep(told.place, now=NOON - timedelta(days=1))
    assert sorted(text.splitlines()[0] for text in texts(hook)) == [
        "nightload: resolved: tune failed, and nothing of it was published",
        "nightload: tables of tune failed",
    ]


def test_a_reminder_comes_as_often_as_is_set_and_not_by_itself(told: Story, hook: Receiver) -> None:
    told.night(0, {"tune": DENIED})
    for day in range(10):
        sweep(told.place, now=NOON + timedelta(days=day))
    assert len(texts(hook)) == 1
    told.settings(f'[alerts]\nwebhook = "{hook.url}/x"\nremind_after = "3d"\n')
    for day in range(10, 17):
        hook.status = 500 if day == 13 else 200  # then it comes a day later
        sweep(told.place, now=NOON + timedelta(days=day))
    assert [text.splitlines()[0] for text in texts(hook)] == [
        "nightload: still: tune failed, and nothing of it was published"
    ] * 2


def test_tables_that_fail_alike_are_one_message_and_others_are_others(told: Story, hook: Receiver) -> None:
    failed = {
        f"tune.t{n}": {"status": "failed", "error": f"HTTP 500 (api/{chr(97 + n % 26)}, page {n})"} for n in range(80)
    }
    failed["tune.other"] = {"status": "failed", "error": "the columns changed"}
    failed["tune.parted"] = {
        "status": "mismatch",
        "error": "9 rows were extracted, 8 are in the warehouse",
        "landed": 8,
    }
    told.night(0, {"tune": failed})
    sweep(told.place, now=NOON)
    found = texts(hook)
    assert len(found) == 3
    (many,) = [text for text in found if "HTTP 500" in text]
    assert "and 75 more" in many
    (parted,) = [text for text in found if "the counts of tune and ours part" in text]
    assert "extracted 1000, landed 8" in parted and "--full --table tune.parted" in parted
    # one more fails the next night: it is news, the others are not
    told.night(-1, {"tune": {**failed, "tune.new": {"status": "failed", "error": "HTTP 500 (table new, page 1)"}}})
    sweep(told.place, now=NOON + timedelta(days=1))
    (text,) = texts(hook)
    assert "where: tune.new;" in text


def test_a_table_is_not_well_again_because_its_whole_vendor_fails(told: Story, hook: Receiver) -> None:
    told.night(3, {"tune": GOOD})
    told.night(2, {"tune": {**GOOD, "tune.clicks": {"status": "failed", "error": "no"}}})
    sweep(told.place, now=NOON - timedelta(days=2))
    told.night(1, {"tune": DENIED})
    sweep(told.place, now=NOON - timedelta(days=1))
    assert not [text for text in texts(hook) if "resolved" in text]
    told.night(0, {"tune": GOOD})
    sweep(told.place, now=NOON)
    assert len([text for text in texts(hook) if "resolved" in text]) == 2


def test_silence_is_told_by_the_sweep_of_a_timer(told: Story, hook: Receiver) -> None:
    told.night(0, {"tune": GOOD})
    sweep(told.place, now=NOON)
    assert texts(hook) == []
    sweep(told.place, now=NOON + timedelta(days=1))
    (text,) = texts(hook)
    assert text.startswith("nightload: tune is stale")
    told.night(-2, {"tune": GOOD})
    sweep(told.place, now=NOON + timedelta(days=2))
    assert [text[:32] for text in texts(hook)] == ["nightload: resolved: tune is sta"]


def test_a_run_that_failed_as_a_whole_or_crashed_is_told(told: Story, hook: Receiver) -> None:
    told.night(3, {"tune": GOOD})
    told.night(2, {}, status="failed", error="the disk is full")
    sweep(told.place, now=NOON - timedelta(days=2, hours=9))
    (text,) = texts(hook)
    assert "the run did not come to its end" in text and "why: the disk is full" in text
    told.night(1.99, {}, status="missed", error="no scheduler was there")
    told.night(1.98, {}, status="replayed")
    sweep(told.place, now=NOON - timedelta(days=2, hours=8.5))
    assert texts(hook) == [], "neither makes it well"
    told.night(1, {}, status="crashed", error="it ended without a word")
    told.night(0, {"tune": GOOD})
    sweep(told.place, now=NOON)
    sweep(told.place, now=NOON)
    assert sorted(text.splitlines()[0] for text in texts(hook)) == [
        "nightload: a run crashed; the next one began anew",
        "nightload: resolved: the run did not come to its end",
    ]


def test_drift_is_told_once(told: Story, hook: Receiver) -> None:
    change = {"vendor": "tune", "dataset": "tune", "table_name": "clicks"}
    new = [{**change, "change": "new table"}]
    told.night(3, {"tune": {"tune.clicks": {"rows": 9000}, "tune.small": {"rows": 50}}}, changes=new)
    sweep(told.place, now=NOON - timedelta(days=3))
    assert texts(hook) == []  # a first load is no drift
    changes = [
        {**change, "column_name": "渠道", "change": "new column", "new_type": "text"},
        {**change, "column_name": "cost", "change": "type", "old_type": "bigint", "new_type": "double"},
    ]
    told.night(2, {"tune": {"tune.clicks": {"rows": 4499}, "tune.small": {"rows": 1}}}, changes=changes)
    for hours in (0, 1, 30):
        sweep(told.place, now=NOON - timedelta(days=2, hours=-hours))
    drift = [text for text in texts(hook) if "stale" not in text]
    (columns,) = [text for text in drift if "changed its tables" in text]
    assert "new column 渠道 (text); tune.clicks: column cost was bigint and is double" in columns
    (fewer,) = [text for text in drift if "lost many of their rows" in text]
    assert "where: tune.clicks;" in fewer and "9,000 rows" in fewer and "4,499 are now" in fewer
    assert len(drift) == 2
    noticed = last_runs(told.place, now=NOON - timedelta(days=1))["noticed"]
    assert {each["kind"] for each in noticed} == {"drift"} and len(noticed) == 2


@pytest.mark.parametrize(("least", "told_of"), [("0.4", 0), ('{default = 0.1, "tune.clicks" = 0.9}', 1)])
def test_how_many_rows_may_go_is_a_setting(told: Story, hook: Receiver, least: str, told_of: int) -> None:
    told.settings(f'[alerts]\nwebhook = "{hook.url}/x"\n[drift]\nfewer_than = {least}\n')
    told.night(1, {"tune": {"tune.clicks": {"rows": 9000}}})
    sweep(told.place, now=NOON - timedelta(days=1))
    told.night(0, {"tune": {"tune.clicks": {"rows": 4499}}})
    sweep(told.place, now=NOON)
    # nothing was ever found before the first sweep that finds something
    assert len(texts(hook)) == told_of


def test_a_channel_that_failed_is_tried_again_and_the_others_are_not(told: Story, hook: Receiver) -> None:
    out = told.place.home / "told.ndjson"
    script = f"import sys; open({str(out)!r}, 'a').write(sys.stdin.read() + chr(10))"
    words = json.dumps([sys.executable, "-c", script])
    told.settings(f'[alerts]\nwebhook = "{hook.url}/CANARYhook"\ncommand = {words}\n')
    told.night(0, {"tune": DENIED})
    for status in (500, 0):
        hook.status = status
        sweep(told.place, now=NOON)
    assert texts(hook) == []
    (failing,) = [each for each in command(told.place.home).main("status", "--json").json["alerts"] if each["error"]]
    assert (failing["channel"], "CANARY" in json.dumps(failing)) == ("webhook", False)
    assert "alerts by webhook fail since" in command(told.place.home).main("status").out
    hook.status = 204
    sweep(told.place, now=NOON)
    sweep(told.place, now=NOON)
    assert len(texts(hook)) == 1
    (document,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (document["event"], document["vendor"], document["why"]) == ("opened", "tune", DENIED)
    assert not any(each["error"] for each in command(told.place.home).main("status", "--json").json["alerts"])


def test_an_incident_that_is_over_before_it_could_be_told_is_told_when_it_can_be(told: Story, hook: Receiver) -> None:
    told.night(2, {"tune": GOOD})
    told.night(1, {"tune": DENIED})
    hook.status = 503
    sweep(told.place, now=NOON - timedelta(days=1))
    told.night(0, {"tune": GOOD})
    hook.status = 200
    sweep(told.place, now=NOON)
    (text,) = texts(hook)
    assert "resolved" in text and DENIED in text


def test_mail_goes_to_all_who_are_named(told: Story) -> None:
    with mail_receiver() as server:
        told.settings(
            f'[alerts.email]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\n'
            'to = ["a@example.org", "b@example.org"]\nfrom = "nightload@example.org"\n'
        )
        told.night(0, {"tune": DENIED.replace("tune", "城市\r\nBcc: evil@example.org")})
        sweep(told.place, now=NOON)
        sweep(told.place, now=NOON)
        (mail,) = server.bodies
    assert [path.strip("<>") for path in server.paths] == ["a@example.org", "b@example.org"]
    head = mail.partition("\r\n\r\n")[0]
    assert "Subject: nightload: tune failed, and nothing of it was published" in head
    assert "\r\nBcc:" not in head


def test_an_answer_without_an_end_is_not_read(told: Story, hook: Receiver) -> None:
    hook.endless = True
    told.night(0, {"tune": DENIED})
    assert len(sweep(told.place, now=NOON)) == 1
    assert len(texts(hook)) == 1


def test_a_server_that_answers_a_byte_at_a_time_is_given_up(
    told: Story, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifiers, "SEND_SECONDS", 0.3)
    hook.drips = True
    told.night(0, {"tune": DENIED})
    assert sweep(told.place, now=NOON) == []
    (channel,) = told.ledger.marks("channel:").values()
    assert "no delivery within" in channel["error"]


def test_a_message_that_is_never_taken_keeps_no_other_from_being_told(told: Story) -> None:
    out = told.place.home / "told.ndjson"
    take = f"'dataworks' in text and sys.exit(1); open({str(out)!r}, 'a').write(text)"
    script = f"import sys; text = sys.stdin.read(); {take}"
    told.settings(f"[alerts]\ncommand = {json.dumps([sys.executable, '-c', script])}\n")
    told.night(0, {"tune": DENIED, "dataworks": "it said no"})
    sweep(told.place, now=NOON)
    assert json.loads(out.read_text())["vendor"] == "tune"


def test_a_mail_that_was_taken_is_told_though_the_server_parts_rudely(told: Story) -> None:
    with mail_receiver(parting=b"421 too busy to part\r\n") as server:
        told.settings(
            f'[alerts.email]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\nto = "a@example.org"\n'
        )
        told.night(0, {"tune": DENIED})
        assert len(sweep(told.place, now=NOON)) == 1
        assert sweep(told.place, now=NOON) == []
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "script",
    ["exec sleep 30 & exit 0", "exit 0", "head -c 150000000 /dev/zero >&2; exit 0"],
    ids=["leaves something running", "does not read what it is told", "says much"],
)
def test_a_command_that_ended_well_has_told(told: Story, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(notifiers, "COMMAND_SECONDS", 15)
    told.settings(f"[alerts]\ncommand = {json.dumps(['sh', '-c', script])}\n")
    told.night(0, {"tune": "no " * 100_000})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(sweep(told.place, now=NOON)) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert sweep(told.place, now=NOON) == []


def test_a_command_is_given_no_key_of_a_vendor(told: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOURCES__TUNE__API_KEY", "NIGHTLOAD_WAREHOUSE", "ALERTS__WEBHOOK", "PGPASSWORD"):
        monkeypatch.setenv(name, "CANARYenv")
    monkeypatch.setenv("ALERTS__WEBHOOK", "")
    monkeypatch.setenv("NIGHTLOAD_HOME", str(told.place.home))
    out = told.place.home / "environment"
    told.settings(f"[alerts]\ncommand = {json.dumps(['sh', '-c', f'env > {out}'])}\n")
    told.night(0, {"tune": DENIED})
    assert len(sweep(told.place, now=NOON)) == 1
    given = out.read_text("utf-8")
    assert "PATH=" in given and "CANARYenv" not in given
    assert f"NIGHTLOAD_HOME={told.place.home}" in given, "where the warehouse is, it may want to know"


def test_a_command_that_never_ends_is_ended_with_all_it_started(told: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "COMMAND_SECONDS", 0.5)
    pid = told.place.home / "pid"
    told.settings(f"[alerts]\ncommand = {json.dumps(['sh', '-c', f'sleep 60 & echo $! > {pid}; wait'])}\n")
    told.night(0, {"tune": DENIED})
    assert sweep(told.place, now=NOON) == []
    started = Path(f"/proc/{pid.read_text().strip()}/cmdline")
    until = time.monotonic() + 10
    while started.exists() and started.read_bytes():  # empty: ended, and nobody has asked how
        assert time.monotonic() < until


@pytest.mark.parametrize("wrong", ["email = 5", 'command = "say \'it"', "command = 7", 'heartbeat = "nowhere"'])
def test_a_channel_that_is_set_up_wrong_silences_no_other(told: Story, hook: Receiver, wrong: str) -> None:
    told.settings(f'[alerts]\nwebhook = "{hook.url}/CANARYhook"\n{wrong}\n')
    told.night(0, {"tune": DENIED})
    ran = command(told.place.home).main("alert")
    assert (ran.code, ran.err.count("\n"), wrong.split()[0] in ran.err) == (2, 1, True), ran.err
    assert len(texts(hook)) == 1


def test_a_password_is_not_sent_where_it_could_be_read(told: Story) -> None:
    with mail_receiver() as server:
        told.settings(
            f'[alerts.email]\nhost = "127.0.0.1"\nport = {server.port}\nsecurity = "none"\nto = "a@example.org"\n'
            'user = "u"\npassword = "CANARYpassword"\n'
        )
        told.night(0, {"tune": DENIED})
        assert sweep(told.place, now=NOON) == []
        (channel,) = told.ledger.marks("channel:").values()
    assert (server.bodies, "none sends it in clear" in channel["error"]) == ([], True)


def test_what_is_told_to_slack_is_no_markup(told: Story, hook: Receiver) -> None:
    told.night(0, {"tune": "it said <!channel> & <http://evil|click>"})
    sweep(told.place, now=NOON)
    (text,) = texts(hook)
    assert "&lt;!channel&gt; &amp; &lt;http://evil|click&gt;" in text


def test_the_heartbeat_comes_once_for_each_green_run_and_not_while_something_is_stale(
    told: Story, hook: Receiver
) -> None:
    told.settings(f'[alerts]\nheartbeat = "{hook.url}/CANARYbeat"\n')
    told.night(2, {"tune": GOOD, "dataworks": {"dataworks.files": {}}})
    for _ in range(2):
        sweep(told.place, now=NOON - timedelta(days=2))
    assert len(hook.paths) == 1
    told.night(1, {"tune": DENIED})
    sweep(told.place, now=NOON - timedelta(days=1))
    told.night(0, {"tune": GOOD})  # green, but nothing came of dataworks for two days
    sweep(told.place, now=NOON)
    assert len(hook.paths) == 1
    hook.status = 500
    told.night(-1, {"tune": GOOD, "dataworks": {"dataworks.files": {}}})
    sweep(told.place, now=NOON + timedelta(days=1))
    hook.status = 200
    sweep(told.place, now=NOON + timedelta(days=1))
    assert hook.paths == ["/CANARYbeat"] * 2


def test_a_dry_run_tells_nobody_and_keeps_nothing(told: Story, hook: Receiver) -> None:
    told.night(0, {"tune": DENIED})
    ran = command(told.place.home).main("alert", "--dry-run", "--json")
    (would,) = [each for each in ran.json["told"] if each["kind"] == "vendor"]
    assert (would["channel"], would["event"]) == ("webhook", "opened")
    assert (texts(hook), told.ledger.incidents(), "CANARY" in ran.out) == ([], [], False)
    assert command(told.place.home).main("alert").code == 0
    assert len(texts(hook)) == len(ran.json["told"])


def test_two_sweeps_at_once_tell_once(told: Story, hook: Receiver) -> None:
    told.night(0, {"tune": DENIED})
    with FileLock(told.place.state / "alerts.lock"):
        assert sweep(told.place, now=NOON) == []
    assert texts(hook) == []
    assert len(sweep(told.place, now=NOON)) == 1


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[alerts]\nwebhok = "x"', "Did you mean webhook"),
        ('[alerts]\nwebhook = "CANARYnowhere"', "alerts.webhook is no http(s) address"),
        ('[alerts.email]\nhost = "h"', "alerts.email lacks host or to"),
        ('[alerts]\nremind_after = "often"', "alerts.remind_after is no duration"),
        ("[alerts]\nwebhook = 7", "alerts.webhook is no text"),
    ],
)
def test_a_setting_that_is_wrong_is_told_in_one_line(told: Story, toml: str, said: str) -> None:
    told.settings(toml)
    ran = command(told.place.home).main("alert")
    assert (ran.code, said in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err
    assert "CANARY" not in ran.err


def test_a_night_that_fails_is_told_at_its_end_and_the_next_good_one_too(
    night: Night, sandbox: SandboxProcess, hook: Receiver
) -> None:
    small = few_tables(night)
    small.settings["ALERTS__WEBHOOK"] = f"{hook.url}/CANARYhook"
    good = small.settings["SOURCES__TONALYTICA__API_KEY"]
    small.set(api_key="CANARYwrong")
    ran = small("run", "--json")
    assert ran.code == 1
    (text,) = texts(hook)
    assert "tonalytica" in text and "the key is not accepted" in text and "CANARY" not in text
    assert small("run").code == 1
    assert texts(hook) == []
    small.set(api_key=good)
    hook.status = 500
    ran = small("run", "-v")
    assert ran.code == 0, ran.err
    assert "CANARY" not in ran.out + ran.err and "failed; the next sweep retries it" in ran.err
    hook.status = 200
    assert small("alert").code == 0
    assert all("resolved" in text for text in texts(hook)) and hook.paths
    ours = [path for path in small.home.rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()]
    assert ours == []


def test_a_machine_that_keeps_nothing_tells_an_incident_once(
    sandbox: SandboxProcess, tmp_path: Path, request: pytest.FixtureRequest, hook: Receiver
) -> None:
    """On Postgres the incidents are in the database: each night may be another container's."""
    with empty("postgres", request) as database:
        _tell_once_with_no_disk(few_tables(settle(Night(home=tmp_path, database=database), sandbox)), hook)


def _tell_once_with_no_disk(small: Night, hook: Receiver) -> None:
    small.settings["ALERTS__WEBHOOK"] = f"{hook.url}/x"
    small.set(api_key="CANARYwrong")
    assert small("run").code == 1
    assert len(texts(hook)) == 1
    (small.state / "ledger.sqlite").unlink()
    assert small.main("status", "--json").json["incidents"][0]["kind"] in ("vendor", "table")
    assert small("run").code == 1
    assert texts(hook) == []
    (small.state / "ledger.sqlite").unlink()
    assert small.main("alert", "--json").json["told"] == []
    small.settings["ALERTS__REMIND_AFTER"] = "0m"
    assert [each["event"] for each in small.main("alert", "--json").json["told"]] == ["reminder"]
    assert not (small.state / "ledger.sqlite").exists()
    assert small.rows("SELECT count(*) FROM nightload.incidents WHERE closed_at IS NULL") != [(0,)]


def test_what_was_told_is_kept_at_once(told: Story, hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the first of two messages, the next sweep tells the second alone."""
    parted = {"tune.parted": {"status": "mismatch", "error": "they differ", "landed": 8}}
    told.night(0, {"tune": {**parted, "tune.clicks": {"status": "failed", "error": "no"}}})
    keep = Ledger.keep_incidents

    def die_after_the_first(self: Ledger, rows: Any) -> None:
        keep(self, rows)
        if hook.bodies:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "keep_incidents", die_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            sweep(told.place, now=NOON)
    first = texts(hook)
    sweep(told.place, now=NOON)
    assert len({*first, *texts(hook)}) == 2
    with closing(Ledger(told.place.ledger)) as ledger:
        assert len(ledger.incidents()) == 2
