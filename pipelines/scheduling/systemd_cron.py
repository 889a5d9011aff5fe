"""`nightload schedule --install`: the schedules as units of systemd, lines of a crontab, or CronJobs of Kubernetes.

What is written is shown; what somebody else wrote is never touched: unit files of ours say so in their first line, and
in a crontab ours is what stands between two marker lines.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pipelines.config.permissions import owner_of
from pipelines.config.project import Place
from pipelines.config.schedules import Schedule, in_numbers, parse_cron
from pipelines.scheduling.kubernetes import cron_jobs
from sources.core.errors import ConfigurationError, one_line

STOP = 120
"""Seconds that a run has between SIGTERM and SIGKILL."""
YEARS = 10
"""systemd leaves out what is due in an hour that is skipped; so many years of it are written by date."""
WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


@dataclass(frozen=True, kw_only=True)
class Installer:
    """What is written where."""

    place: Place
    schedules: Sequence[Schedule]
    warehouse: str | None
    now: datetime

    def command(self, schedule: Schedule) -> list[str]:
        """The command line of a run. The home is named last."""
        beside = Path(sys.executable).with_name("nightload")
        own = [str(beside)] if beside.exists() else [sys.executable, "-P", "-m", "pipelines.cli"]
        where = ["--warehouse", self.warehouse] if self.warehouse else []
        return [*own, *schedule.arguments_unattended(now=self.now), *where, "--home", str(self.place.home)]


def install_schedules(
    kind: str,
    place: Place,
    schedules: Sequence[Schedule],
    *,
    warehouse: str | None = None,
    dry_run: bool = False,
    user: bool = False,
) -> list[str]:
    """Write the schedules for `kind`, and return what to show. Raises `ConfigurationError`."""
    if kind not in ("systemd", "cron", "kubernetes"):
        raise ConfigurationError(what=f"there is no --install {kind}", todo="Use systemd, cron or kubernetes")
    if not schedules:
        raise ConfigurationError(
            what="no schedule is set",
            where=str(place.home / ".dlt" / "config.toml"),
            todo='Write one: [schedules.nightly] with cron = "30 2 * * *"',
        )
    if kind != "kubernetes":  # whose pods have an environment of their own, as a unit's and a crontab's runs have none
        warehouse = warehouse or os.environ.get("NIGHTLOAD_WAREHOUSE")
    if warehouse and urlsplit(warehouse).password:
        raise ConfigurationError(
            what="the warehouse's URL has a password, which must not stand in a file that all may read",
            todo="Write it into .dlt/secrets.toml ([nightload] warehouse = …) and leave --warehouse and "
            "NIGHTLOAD_WAREHOUSE out",
        )
    for text in (str(place.home), str(place.warehouse), sys.executable, warehouse or ""):
        if not text.isprintable():
            raise ConfigurationError(what=f"the path {one_line(text)!r} has a character that no unit or crontab takes")
    installer = Installer(place=place, schedules=schedules, warehouse=warehouse, now=datetime.now(UTC))
    if kind == "kubernetes":
        return cron_jobs(schedules, now=installer.now).splitlines()
    if kind == "cron":
        return _install_cron(installer, dry_run=dry_run)
    return _install_units(installer, dry_run=dry_run, user=user)


# -- systemd -------------------------------------------------------------------------------------------


def on_calendar(schedule: Schedule, *, now: datetime) -> list[str]:
    """The calendar expressions of systemd that are due when the schedule is."""
    cron, zone = parse_cron(schedule.cron), schedule.zone.key
    months = _numbers(cron.months, 12)
    days = _numbers(cron.days, 31)
    weekdays = "" if len(cron.weekdays) == 7 else ",".join(WEEKDAYS[day] for day in cron.weekdays) + " "
    clock = f"{_numbers(cron.hours, 24)}:{_numbers(cron.minutes, 60)}:00 {zone}"
    if cron.either_day:
        lines = [f"*-{months}-{days} {clock}", f"{weekdays}*-{months}-* {clock}"]
    else:
        lines = [f"{weekdays}*-{months}-{days} {clock}"]
    return lines + [f"{due:%Y-%m-%d %H:%M:%S} UTC" for due in _skipped(schedule, now)]


def _skipped(schedule: Schedule, now: datetime) -> list[datetime]:
    """What is due in an hour that the clock skips, and at no other time that it shows."""
    cron, zone, found = parse_cron(schedule.cron), schedule.zone, []
    day = timedelta(days=1)
    for at in (now + day * number for number in range(366 * YEARS)):
        if at.astimezone(zone).utcoffset() != (at + day).astimezone(zone).utcoffset():
            for due in schedule.fires(at, at + 2 * day):  # the hour may be skipped just before the later day begins
                local = due.astimezone(zone)
                if local.hour not in cron.hours or local.minute not in cron.minutes or not cron.on(local.date()):
                    found.append(due)
    return found


def _numbers(numbers: Sequence[int], of: int) -> str:
    return "*" if len(numbers) == of else ",".join(f"{number:02}" for number in numbers)


def units(installer: Installer, *, user: bool) -> dict[str, str]:
    """File name → content of a service and a timer per schedule."""
    files = {}
    for schedule in installer.schedules:
        files[f"nightload-{schedule.name}.service"] = _service(installer, schedule, user=user)
        files[f"nightload-{schedule.name}.timer"] = _timer(installer, schedule)
    return files


def _mark(installer: Installer) -> str:
    return f"# written by nightload schedule --install systemd, for {installer.place.home}"


def _service(installer: Installer, schedule: Schedule, *, user: bool) -> str:
    place, deadline = installer.place, math.ceil(schedule.deadline.total_seconds())
    again = math.ceil(schedule.retry_after.total_seconds())
    hardening = ["NoNewPrivileges=yes", "LockPersonality=yes", "RestrictRealtime=yes", "RestrictSUIDSGID=yes"]
    if not user:  # what needs a mount namespace, which a user's own systemd may not make
        written = dict.fromkeys([place.home, place.warehouse.parent])
        hardening += [
            "PrivateTmp=yes",
            "ProtectSystem=strict",
            *(f"ReadWritePaths={_unit_word(str(folder))}" for folder in written),
            "ProtectKernelTunables=yes",
            "ProtectKernelModules=yes",
            "ProtectControlGroups=yes",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        ]
    owner = [] if user else [f"User={owner_of(place.home)}"]
    command = " ".join(_unit_word(word, command=True) for word in installer.command(schedule))
    lines = [
        _mark(installer),
        "[Unit]",
        f"Description=nightload: schedule {schedule.name}",
        "Wants=network-online.target",
        "After=network-online.target",
        f"StartLimitIntervalSec={deadline}",
        f"StartLimitBurst={max(2, deadline // again)}",
        "# tell somebody when a night is not green:",
        "#OnFailure=your-alert@%n.service",
        "",
        "[Service]",
        "Type=oneshot",
        *owner,
        f"WorkingDirectory={str(place.home).replace('%', '%%')}",
        f"EnvironmentFile=-{str(place.home / '.env').replace('%', '%%')}",
        f"ExecStart={command}",
        "# tell a monitor that a night was green; it must notice when this stays out:",
        "#ExecStartPost=curl -fsS -m 10 --retry 3 -o /dev/null https://your-monitor.example/nightload",
        "# 3 (another run has the warehouse) and a crash are tried again; an answer, or an end asked for, is not:",
        "Restart=on-failure",
        "RestartPreventExitStatus=1 2 4 130",
        f"RestartSec={again}",
        f"TimeoutStartSec={deadline}",
        "KillSignal=SIGTERM",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP}",
        "Nice=5",
        *hardening,
        "",
    ]
    return "\n".join(lines)


def _timer(installer: Installer, schedule: Schedule) -> str:
    lines = [
        _mark(installer),
        "[Unit]",
        f"Description=nightload: schedule {schedule.name} ({schedule.cron}, {schedule.zone.key})",
        "",
        "[Timer]",
        *(f"OnCalendar={line}" for line in on_calendar(schedule, now=installer.now)),
        "# a night that was missed is run at the next start:",
        "Persistent=true",
        "AccuracySec=1s",
        "",
        "[Install]",
        "WantedBy=timers.target",
        "",
    ]
    return "\n".join(lines)


def _unit_word(word: str, *, command: bool = False) -> str:
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (word.replace("$", "$$") if command else word) + '"'


def _install_units(installer: Installer, *, dry_run: bool, user: bool) -> list[str]:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    folder = Path(base) / "systemd" / "user" if user else Path("/etc/systemd/system")
    return write_units(installer, folder, dry_run=dry_run, user=user)


def write_units(installer: Installer, folder: Path, *, dry_run: bool, user: bool) -> list[str]:
    """Show, and unless `dry_run` write, the units of a home into `folder`."""
    files, told = units(installer, user=user), []
    for name, content in files.items():
        told += [f"# {folder / name}", *content.splitlines(), ""]
        try:
            there = (folder / name).read_text(encoding="utf-8").splitlines()[:1]
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError):
            there = ["?"]
        if there != [_mark(installer)]:
            raise ConfigurationError(
                what=f"{folder / name} is there and is not of this home",
                todo="Give the schedule another name, or move that file away",
            )
    stale = []
    for path in sorted(folder.glob("nightload-*.timer")) if folder.is_dir() else []:
        if path.name not in files and path.read_text(encoding="utf-8", errors="replace").startswith(_mark(installer)):
            stale.append(path.name)
    systemctl = "systemctl --user" if user else "systemctl"
    after = [f"# {systemctl} disable --now {name}   # its schedule is gone; then delete its files" for name in stale]
    if dry_run:
        return [*told, *after, "# nothing was written"]
    try:
        installer.place.warehouse.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            new = folder / f".{name}.new"
            new.write_text(content, encoding="utf-8")
            new.chmod(0o644)
            new.replace(folder / name)
    except OSError as error:
        raise ConfigurationError(
            what=f"{folder} cannot be written",
            why=error.strerror or "",
            todo="Run it as root, or with --user",
        ) from None
    timers = " ".join(name for name in files if name.endswith(".timer"))
    after += [f"{systemctl} daemon-reload", f"{systemctl} enable --now {timers}"]
    if user:
        after.append("loginctl enable-linger   # else nights end with your session")
    return [*told, f"# written into {folder}; now run:", *after]


# -- cron ----------------------------------------------------------------------------------------------


def crontab_block(installer: Installer, *, zone_before: str, system_zone: str) -> list[str]:
    """Our lines, between our markers. `zone_before` is what CRON_TZ says above them, or nothing."""
    begin, end = _markers(installer.place)
    lines, zone = [], zone_before or system_zone
    for schedule in installer.schedules:
        if not _same_zone(schedule.zone, ZoneInfo(zone)):
            lines.append(f"CRON_TZ={schedule.zone.key}")
            zone = schedule.zone.key
        lines.append(_cron_line(installer, schedule))
    if zone != (zone_before or system_zone):
        lines.append(f"CRON_TZ={zone_before or system_zone}")
    return [begin, *lines, end]


def _cron_line(installer: Installer, schedule: Schedule) -> str:
    place = installer.place
    command = shlex.join(installer.command(schedule))
    if shutil.which("timeout"):
        command = f"timeout -k {STOP} {math.ceil(schedule.deadline.total_seconds())} {command}"
    out = shlex.quote(str(place.state / "cron.log"))
    # the folder is private whatever cron's umask is (private.state_folder)
    line = f"mkdir -m 700 -p {shlex.quote(str(place.state))} && {command} >>{out} 2>&1"
    # a percent sign ends the command of a crontab, quoted or not
    return f"{in_numbers(schedule.cron)} {line}".replace("%", r"\%")


def _same_zone(one: ZoneInfo, other: ZoneInfo) -> bool:
    """Do their clocks agree? Etc/UTC is UTC."""
    days = (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(366 * YEARS))
    return one.key == other.key or all(
        day.astimezone(one).utcoffset() == day.astimezone(other).utcoffset() for day in days
    )


def _refuse_zones(lines: Sequence[str]) -> None:
    """Raise `ConfigurationError` if the lines need a cron that knows zones, and this one does not."""
    if not any(line.startswith("CRON_TZ=") for line in lines):
        return
    version = subprocess.run(["crontab", "-V"], capture_output=True, text=True, check=False)  # noqa: S607
    if "cronie" not in version.stdout + version.stderr:
        raise ConfigurationError(
            what="this cron knows no zones, and a schedule has another zone than this machine",
            why="only cronie reads CRON_TZ; Debian's cron passes it over and would run at the wrong hour",
            todo="Use --install systemd or nightload schedule, or give the schedule this machine's zone",
        )


def _markers(place: Place) -> tuple[str, str]:
    return f"# >>> nightload {place.home} >>>", f"# <<< nightload {place.home} <<<"


def with_block(installer: Installer, crontab: str, *, system_zone: str) -> str:
    """A crontab with our lines at their place, or at its end; every other line stays as it is."""
    begin, end = _markers(installer.place)
    lines = crontab.splitlines()
    if lines.count(begin) != lines.count(end) or lines.count(begin) > 1:
        raise ConfigurationError(
            what="the crontab has a marker line of nightload without the other one, or twice",
            todo=f"Fix it with crontab -e: what stands between {begin!r} and {end!r} is nightload's",
        )
    if begin in lines:
        first, last = lines.index(begin), lines.index(end)
        if last < first:
            raise ConfigurationError(
                what="the marker lines of nightload in the crontab stand the wrong way round",
                todo="Fix it with crontab -e",
            )
        above, below = lines[:first], lines[last + 1 :]
    else:
        above, below = lines, []
    zones = [line.partition("=")[2].strip().strip("'\"") for line in above if line.replace(" ", "")[:8] == "CRON_TZ="]
    block = crontab_block(installer, zone_before=zones[-1] if zones else "", system_zone=system_zone)
    return "\n".join([*above, *block, *below]) + "\n"


def _install_cron(installer: Installer, *, dry_run: bool) -> list[str]:
    from tzlocal import get_localzone_name

    if shutil.which("crontab") is None:
        if not dry_run:
            raise ConfigurationError(what="there is no crontab command here", todo="Install cron, or use systemd")
        there = ""
    else:
        listed = subprocess.run(["crontab", "-l"], capture_output=True, text=True, check=False)  # noqa: S607
        if listed.returncode != 0 and "no crontab for" not in listed.stderr:
            raise ConfigurationError(what="crontab -l failed", why=one_line(listed.stderr), todo="Fix that first")
        there = listed.stdout if listed.returncode == 0 else ""
    new = with_block(installer, there, system_zone=get_localzone_name() or "UTC")
    begin, end = _markers(installer.place)
    lines = new.splitlines()
    told = lines[lines.index(begin) : lines.index(end) + 1]
    if dry_run:
        return [*told, "# nothing was written"]
    _refuse_zones(told)
    if new != there:
        done = subprocess.run(["crontab", "-"], input=new, text=True, capture_output=True, check=False)  # noqa: S607
        if done.returncode != 0:
            raise ConfigurationError(what="crontab refused the lines", why=one_line(done.stderr))
    return [*told, "# written into the crontab; cron runs no missed night later, systemd and nightload schedule do"]
