"""What is handed to systemd, cron and Kubernetes is due when the schedule is, and touches nothing of anybody else."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

from conftest import NIGHTLOAD
from pipelines.config import project as places
from pipelines.config.schedules import Schedule, parse_cron
from pipelines.scheduling.kubernetes import cron_jobs
from pipelines.scheduling.systemd_cron import Installer, install_schedules, on_calendar, units, with_block, write_units
from sources.core.errors import ConfigurationError

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BERLIN = ZoneInfo("Europe/Berlin")
CRONS = [
    "30 2 * * *",
    "*/15 * * * *",
    "0 3 * * 1-5",
    "5 4 1,15 */3 *",
    "0 2 13 * fri",
    "0 2 */2 * sun",
    "7 */6 29 2 *",
    "@weekly",
]


def schedule(cron: str = "30 2 * * *", name: str = "nightly", **more: Any) -> Schedule:
    return Schedule(name=name, cron=cron, **more)


def installer(home: Path, *schedules: Schedule, warehouse: str | None = None) -> Installer:
    place = places.at(warehouse or places.DEFAULT, home)
    return Installer(place=place, schedules=schedules or (schedule(),), warehouse=warehouse, now=NOW)


# -- systemd -------------------------------------------------------------------------------------------


def due_by_systemd(lines: list[str], after: datetime, before: datetime) -> list[datetime]:
    """When these calendar lines are due, as systemd reads them: what the clock skips is left out."""
    found = set()
    for line in lines:
        if match := re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d):00 UTC", line):
            found.add(datetime.fromisoformat(match[1]).replace(tzinfo=UTC))
            continue
        week, months, days, hours, minutes, zone = re.fullmatch(
            r"(?:([A-Z][\w,]+) )?\*-([\d,*]+)-([\d,*]+) ([\d,*]+):([\d,*]+):00 (\S+)", line
        ).groups()  # type: ignore[union-attr]

        def allows(told: str, number: int) -> bool:
            return told == "*" or number in map(int, told.split(","))

        minute = after
        while minute <= before:
            local = minute.astimezone(ZoneInfo(zone))
            named = week is None or f"{local:%a}" in week.split(",")
            on = named and not local.fold and allows(months, local.month) and allows(days, local.day)
            if on and allows(hours, local.hour) and allows(minutes, local.minute):
                found.add(minute)
            minute += timedelta(minutes=1)
    return sorted(due for due in found if after < due <= before)


@pytest.mark.parametrize("cron", CRONS)
def test_a_year_of_the_timer_is_a_year_of_the_schedule(cron: str) -> None:
    """Both changes of the clock are in it: 28 March and 31 October."""
    each = schedule(cron, zone=BERLIN)
    start, end = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 12, 1, tzinfo=UTC)
    assert due_by_systemd(on_calendar(each, now=NOW), start, end) == list(each.fires(start, end))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("cron", CRONS)
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Shanghai"])
def test_systemd_itself_reads_the_timer_as_the_schedule_means(cron: str, zone: str) -> None:
    each, start = schedule(cron, zone=ZoneInfo(zone)), datetime(2027, 3, 12, tzinfo=UTC)
    theirs: set[datetime] = set()
    for line in on_calendar(each, now=NOW):
        shown = subprocess.run(
            ["systemd-analyze", "calendar", line, f"--base-time={start:%Y-%m-%d %H:%M:%S} UTC", "--iterations=3000"],
            capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"},
        ).stdout  # fmt: skip
        instants = re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ ([\d-]+ [\d:]+) UTC", shown)
        theirs |= {datetime.fromisoformat(at).replace(tzinfo=UTC) for at in instants}
    end = start + timedelta(days=25)
    assert sorted(at for at in theirs if at <= end) == list(each.fires(start, end))


def test_what_is_due_in_a_skipped_hour_is_written_by_date() -> None:
    lines = on_calendar(schedule(zone=BERLIN), now=NOW)
    assert lines[:2] == ["*-*-* 02:30:00 Europe/Berlin", "2027-03-28 01:30:00 UTC"]
    assert len(lines) == 11
    assert len(on_calendar(schedule(), now=NOW)) == 1


def test_units_of_a_home_with_any_name(tmp_path: Path) -> None:
    home = tmp_path / 'a "home" 100% $HOME'
    home.mkdir()
    told = installer(home, schedule(vendors=("tune",), then="dbt", zone=BERLIN), schedule(name="b"))
    units = tmp_path / "units"
    write_units(told, units, dry_run=False, user=False)
    names = sorted(path.name for path in units.iterdir())
    assert names == ["nightload-b.service", "nightload-b.timer", "nightload-nightly.service", "nightload-nightly.timer"]
    service = (units / "nightload-nightly.service").read_text()
    assert '100%% $$HOME"' in service
    for line in (
        "TimeoutStartSec=21600",
        "TimeoutStopSec=120",
        "KillSignal=SIGTERM",
        "RestartPreventExitStatus=1 2 4 130",
    ):
        assert line in service.splitlines()
    assert "Persistent=true" in (units / "nightload-nightly.timer").read_text()
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, units.iterdir())],
            capture_output=True,
            text=True,
            check=False,
        )
        ours = [line for line in (checked.stdout + checked.stderr).splitlines() if "nightload" in line]
        assert (checked.returncode, ours) == (0, [])


def test_a_unit_of_somebody_else_is_not_touched_and_ours_is_written_again(tmp_path: Path) -> None:
    units, home = tmp_path / "units", tmp_path / "home"
    home.mkdir()
    units.mkdir()
    (units / "nightload-nightly.timer").write_text("[Timer]\n# mine\n")
    with pytest.raises(ConfigurationError, match="is not of this home"):
        write_units(installer(home), units, dry_run=False, user=True)
    assert [path.name for path in units.iterdir()] == ["nightload-nightly.timer"]
    (units / "nightload-nightly.timer").unlink()
    write_units(installer(home, schedule(), schedule(name="old")), units, dry_run=False, user=True)
    before = {path.name: path.read_text() for path in units.iterdir()}
    told = write_units(installer(home, schedule()), units, dry_run=False, user=True)
    assert {path.name: path.read_text() for path in units.iterdir()} == before
    assert any("disable --now nightload-old.timer" in line for line in told)
    assert stat.S_IMODE((units / "nightload-nightly.service").stat().st_mode) == 0o644


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    told = write_units(installer(tmp_path / "home"), tmp_path / "units", dry_run=True, user=False)
    assert told[-1] == "# nothing was written"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["home"]


# -- cron ----------------------------------------------------------------------------------------------

OTHERS = "MAILTO=me\n# my lines\n0 1 * * * backup 100\\%\n\n"


def test_lines_of_others_stay_and_ours_stand_once(tmp_path: Path) -> None:
    told = installer(tmp_path)
    once = with_block(told, OTHERS, system_zone="UTC")
    assert once.startswith(OTHERS)
    assert with_block(told, once, system_zone="Etc/UTC") == once
    more = once + "5 5 * * * later\n"
    changed = with_block(installer(tmp_path, schedule("1 1 * * *")), more, system_zone="UTC")
    assert changed == more.replace("30 2 * * *", "1 1 * * *")
    (tmp_path / "b").mkdir()
    both = with_block(installer(tmp_path / "b"), once, system_zone="UTC")
    assert both.startswith(once)


@pytest.mark.parametrize(
    ("cron", "line"),
    [
        ("30 2 * * fri-sun", "30 2 * * 0,5,6"),  # Debian's cron takes it for 5-0, and never runs
        ("5/20 8-18/4 * JAN-mar,Dec *", "5,25,45 8,12,16 * 1,2,3,12 *"),
        ("0 1 */2,7 * 5-7", "0 1 */2,7 * 0,5,6"),  # the star stays: both days must be met
        ("0 1 1 * 1-5", "0 1 1 * 1,2,3,4,5"),
        ("@weekly", "0 0 * * 0"),
    ],
)
def test_cron_is_given_numbers_that_mean_the_same_days(cron: str, line: str, tmp_path: Path) -> None:
    block = with_block(installer(tmp_path, schedule(cron)), "", system_zone="UTC").splitlines()
    assert block[1].startswith(f"{line} mkdir ")
    assert parse_cron(line) == parse_cron(cron)


def test_another_zone_is_set_and_set_back(tmp_path: Path) -> None:
    block = with_block(installer(tmp_path, schedule(zone=BERLIN)), "", system_zone="UTC").splitlines()
    assert (block[1], block[-2]) == ("CRON_TZ=Europe/Berlin", "CRON_TZ=UTC")
    there = "CRON_TZ=Asia/Shanghai\n1 1 * * * mine\n"
    block = with_block(installer(tmp_path, schedule(zone=BERLIN)), there, system_zone="UTC").splitlines()
    assert block[-2] == "CRON_TZ=Asia/Shanghai"
    same = with_block(installer(tmp_path, schedule(zone=ZoneInfo("Asia/Shanghai"))), there, system_zone="UTC")
    assert same.count("CRON_TZ") == 1


def test_half_a_block_is_not_guessed_at(tmp_path: Path) -> None:
    once = with_block(installer(tmp_path), "", system_zone="UTC").splitlines()
    for broken in (once[:-1], once[1:], [*once, *once], [once[-1], *once[1:-1], once[0]]):
        with pytest.raises(ConfigurationError, match="marker line"):
            with_block(installer(tmp_path), "\n".join(broken) + "\n", system_zone="UTC")


def test_cron_runs_the_line_of_a_home_with_any_name(tmp_path: Path) -> None:
    """The line as cron reads it: up to the first bare %, with \\% as %; then a shell."""
    home = tmp_path / "it's 100% $HOME"
    home.mkdir()
    warehouse = tmp_path / 'my "100%" $HOME' / "warehouse.duckdb"  # where no apostrophe may be
    install = installer(home, schedule(vendors=("tune",)), warehouse=f"duckdb:///{warehouse}")
    line = with_block(install, "", system_zone="UTC").splitlines()[1]
    assert not re.search(r"(?<!\\)%", line)
    command = line.split(maxsplit=5)[5].replace(r"\%", "%")
    ran = subprocess.run(["/bin/sh", "-c", command], env={"PATH": "/usr/bin:/bin"}, check=False, cwd="/", timeout=60)
    log = warehouse.with_suffix(".nightload") / "cron.log"
    assert ran.returncode != 0
    assert "sources.tune.api_key" in log.read_text(), log.read_text()


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crontab command that keeps a file."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "crontab"
    command.write_text(
        f'#!/bin/sh\ncase $1 in\n-V) echo "$CRON_VERSION";;\n'
        f"-l) if [ -f {tmp_path}/tab ]; then cat {tmp_path}/tab; else echo no crontab for me >&2; exit 1; fi;;\n"
        f"-) cat >{tmp_path}/tab;;\nesac\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path / "tab"


def test_the_crontab_is_written_only_without_dry_run(tmp_path: Path, crontab: Path) -> None:
    place = places.at(places.DEFAULT, tmp_path)
    install_schedules("cron", place, [schedule()], dry_run=True)
    assert not crontab.exists()
    install_schedules("cron", place, [schedule()])
    first = crontab.read_text()
    crontab.write_text(OTHERS + first)
    install_schedules("cron", place, [schedule()])
    assert crontab.read_text() == OTHERS + first


def test_a_cron_that_knows_no_zones_gets_no_line_of_another_zone(
    tmp_path: Path, crontab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places.at(places.DEFAULT, tmp_path)
    with pytest.raises(ConfigurationError, match="knows no zones"):
        install_schedules("cron", place, [schedule(zone=BERLIN)])
    assert not crontab.exists()
    monkeypatch.setenv("CRON_VERSION", "cronie 1.6.1")
    install_schedules("cron", place, [schedule(zone=BERLIN)])
    assert "CRON_TZ=Europe/Berlin" in crontab.read_text()


# -- Kubernetes ----------------------------------------------------------------------------------------


def test_each_schedule_is_a_cron_job_without_a_disk() -> None:
    jobs = [
        job
        for job in yaml.safe_load_all(
            cron_jobs([schedule(zone=BERLIN, tables=("tune.ü",)), schedule("0 1 * * 7", "b_C")], now=NOW)
        )
        if job
    ]
    assert [job["metadata"]["name"] for job in jobs] == ["nightload-nightly", "nightload-b-c"]
    spec = jobs[0]["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("30 2 * * *", "Europe/Berlin", "Forbid")
    assert jobs[1]["spec"]["schedule"] == "0 1 * * 0"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["run", "--table", "tune.ü", "--until", "21600s"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert all("persistentVolumeClaim" not in volume for volume in pod["volumes"])
    assert pod["restartPolicy"] == "Never"


def test_what_kubernetes_cannot_express_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="for either, never for both"):
        cron_jobs([schedule("0 2 */2 * mon")], now=NOW)
    with pytest.raises(ConfigurationError, match="one name"):
        cron_jobs([schedule(name="a_b"), schedule(name="A-b")], now=NOW)


# -- the command ---------------------------------------------------------------------------------------


def nightload(home: Path, *args: str) -> tuple[int, str, str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("NIGHTLOAD_", "SOURCES__"))
    }
    ran = subprocess.run(
        [str(NIGHTLOAD), "schedule", "--home", str(home), *args],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_the_list_shows_local_and_utc(tmp_path: Path) -> None:
    (tmp_path / ".dlt").mkdir()
    file = tmp_path / ".dlt" / "config.toml"
    file.write_text('[schedules.nightly]\ncron = "30 2 * * *"\nzone = "Asia/Shanghai"\n')
    code, out, err = nightload(tmp_path, "--list")
    assert (code, err, len(out.splitlines())) == (0, "", 3)
    assert re.fullmatch(
        r"nightly +\d{4}-\d\d-\d\dT02:30:00\+08:00 Asia/Shanghai +\d{4}-\d\d-\d\dT18:30:00Z", out.splitlines()[0]
    )
    code, out, err = nightload(tmp_path, "--list", "--json")
    (row,) = yaml.safe_load(out)["schedules"]
    assert (code, row["schedule"], row["zone"], len(row["next"])) == (0, "nightly", "Asia/Shanghai", 3)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "no schedule is set"),
        (("--install", "systemd", "--dry-run"), "no schedule is set"),
        (("--install", "windows"), "there is no --install windows"),
    ],
)
def test_nothing_to_do_is_a_matter_of_configuration(tmp_path: Path, args: tuple[str, ...], told: str) -> None:
    code, out, err = nightload(tmp_path, *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_a_table_that_nobody_has_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text('[schedules.a]\ncron = "0 0 * * *"\ntables = ["tuna.countries"]\n')
    code, _, err = nightload(tmp_path)
    assert (code, "there is no table tuna.countries" in err) == (2, True), err


def test_a_password_is_not_written_where_all_may_read(tmp_path: Path) -> None:
    url = "postgresql://me:CANARYsecret@h/db"
    with pytest.raises(ConfigurationError) as refused:
        install_schedules("systemd", places.at(url, tmp_path), [schedule()], warehouse=url, dry_run=True)
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize("kind", ["systemd", "cron"])
def test_a_warehouse_that_the_environment_names_is_that_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("NIGHTLOAD_WAREHOUSE", "duckdb:///other.duckdb")
    told = install_schedules(kind, places.find(str(tmp_path)), [schedule(zone=ZoneInfo("UTC"))], dry_run=True)
    assert len([line for line in told if "--warehouse" in line and "duckdb:///other.duckdb" in line]) == 1
    monkeypatch.setenv("NIGHTLOAD_WAREHOUSE", "postgresql://me:CANARYsecret@h/db")
    with pytest.raises(ConfigurationError) as refused:
        install_schedules(kind, places.find(str(tmp_path)), [schedule()], dry_run=True)
    assert "NIGHTLOAD_WAREHOUSE" in str(refused.value) and "CANARY" not in str(refused.value)


def test_the_commands_of_units_are_those_of_this_installation(tmp_path: Path) -> None:
    """Nobody looks on: what may pass is tried again until the deadline, or the next fire, which wants the warehouse."""
    install = installer(tmp_path, warehouse="duckdb:///w.duckdb")
    told = install.command(schedule("*/15 * * * *", vendors=("tune",)))
    assert told[0] == str(Path(sys.executable).with_name("nightload"))
    where = ["--warehouse", "duckdb:///w.duckdb", "--home", str(tmp_path)]
    assert told[1:] == ["run", "tune", "--until", "900s", *where]
    assert install.command(schedule(deadline=timedelta(hours=5)))[1:] == ["run", "--until", "18000s", *where]


def as_example(text: str, home: Path) -> str:
    """The text for a project in /srv/nightload, with its environment and a user of its own."""
    text = text.replace(str(NIGHTLOAD.parent), "/srv/nightload/.venv/bin").replace(str(home), "/srv/nightload")
    return re.sub(r"^User=.*$", "User=nightload", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["nightload-nightly.service", "nightload-nightly.timer"])
def test_units_of_the_example_are_those_that_install_writes(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    written = units(installer(home, schedule(zone=ZoneInfo("Asia/Shanghai"))), user=False)[name]
    assert (EXAMPLES / "systemd" / name).read_text(encoding="utf-8") == as_example(written, home)


def test_cron_jobs_of_the_example_are_those_that_install_prints() -> None:
    printed = cron_jobs([schedule(zone=ZoneInfo("Asia/Shanghai"))], now=NOW)
    example = (EXAMPLES / "cronjob.yaml").read_text(encoding="utf-8")
    assert example == printed
    assert [job["kind"] for job in yaml.safe_load_all(example) if job] == ["CronJob"]
