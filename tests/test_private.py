"""What a night writes is for its own user, whatever the umask; only the warehouse itself is there to be read."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import killed
from conftest import Night, one_database
from pipelines.config import project as places
from pipelines.config.schedules import Schedule
from pipelines.ledger.store import MEMORY, Ledger
from pipelines.scheduling.scheduler import serve
from pipelines.warehouse.lock import lock
from sandbox_process import SandboxProcess
from sources.core.errors import ConfigurationError

SETTINGS = """[metrics]
file = "out/nightload.prom"
[lineage]
file = "out/lineage.ndjson"
"""


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode)
        for path in sorted(folder.rglob("*"))
        if not path.is_relative_to(folder / ".dlt")
    }


def test_with_no_umask_at_all_a_night_leaves_nothing_open(
    night: Night, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    (night.home / ".dlt").mkdir()
    (night.home / ".dlt" / "config.toml").write_text(SETTINGS)
    for arguments in (("run", "tune"), ("report",), ("alert",), ("status",), ("sql", "SELECT 1")):
        ran = night(*arguments, env={"TMPDIR": str(temp)}, umask=0)
        assert ran.code == 0, ran.err
    assert modes(temp) == {}
    found = modes(night.home)
    shared = {"data": 0o777, "out/nightload.prom": 0o644, "temp": found["temp"]}
    if night.database.url is None:
        shared["data/warehouse.duckdb"] = 0o666
    assert {name: mode for name, mode in found.items() if mode & 0o077} == {
        name: mode for name, mode in shared.items() if mode & 0o077
    }
    assert found["out/lineage.ndjson"] == 0o600
    assert len(found) > 6


@pytest.mark.parametrize("point", [killed.COMMIT_EXTRACT, killed.COUNT])
def test_a_night_that_is_killed_leaves_nothing_elsewhere_and_no_secret(
    point: str, night: Night, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    """What it worked with stays beside the warehouse, where the next night sweeps it."""
    temp = tmp_path.with_name(f"{tmp_path.name}-temp")
    temp.mkdir()
    night.settings["TMPDIR"] = str(temp)
    command = (sys.executable, str(Path(killed.__file__)), point, "before", "1", "")
    ran = night.start("run", command=command)
    out, err = ran.communicate(timeout=120)
    assert ran.returncode == -signal.SIGKILL, out + err
    assert modes(temp) == {}
    left = [path for path in night.home.rglob("*") if path.is_file()]
    assert any("spool" in str(path) for path in left)
    keys = [told for name, told in night.settings.items() if name.endswith("API_KEY")]
    assert len(keys) == 2
    for path in left:
        told = path.read_bytes()
        assert not any(key.encode() in told for key in keys), path
    assert night.run().code == 0
    assert night.files() == set()


@one_database
def test_a_new_warehouse_is_as_open_as_the_user_says(night: Night, sandbox: SandboxProcess) -> None:
    umask = 0o027
    assert night("run", "--table", "tune.countries", umask=umask).code == 0
    assert stat.S_IMODE(night.warehouse.stat().st_mode) == 0o640
    assert stat.S_IMODE(night.warehouse.parent.stat().st_mode) == 0o750
    night.warehouse.chmod(0o660)
    assert night("run", "--table", "tune.countries", "--full", umask=umask).code == 0
    assert stat.S_IMODE(night.warehouse.stat().st_mode) == 0o660, "a mode that was given stays"


def test_the_folder_of_another_user_is_refused_and_an_open_one_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who made it first could read what is kept there, and put another ledger in its place."""
    place = places.at(places.DEFAULT, tmp_path)
    place.state.mkdir(parents=True)
    place.state.chmod(0o757)
    Ledger(place.ledger).close()
    assert stat.S_IMODE(place.state.stat().st_mode) == 0o700
    assert caplog.messages == [f"others could, and can no more, write to the folder {place.state}"]
    place.state.chmod(0o755)
    Ledger(place.ledger).close()
    assert (stat.S_IMODE(place.state.stat().st_mode), len(caplog.messages)) == (0o700, 1)
    if os.geteuid() == 0:
        os.chown(place.state, 12345, -1)
        Ledger(place.ledger).close()  # root may do so anyway
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    for enter in (
        lambda: Ledger(place.ledger),
        lambda: lock(place).__enter__(),
        lambda: serve(place, [Schedule(name="a", cron="0 2 * * *")]),
    ):
        with pytest.raises(ConfigurationError, match=r"warehouse\.nightload belongs to another user \(.+\)"):
            enter()


@one_database
def test_who_may_not_enter_the_folder_is_told_so(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other user's 0700: nothing in it can be looked at."""
    place = places.at(places.DEFAULT, night.home)
    Ledger(place.ledger).close()

    def denied(path: Path) -> bool:
        if path == place.ledger:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return os.path.exists(path)

    monkeypatch.setattr(Path, "exists", denied)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    if os.getuid() == 0:
        os.chown(place.state, 12345, -1)
    for command, told in (("status", "is not for this user"), ("run", "belongs to another user"), ("report", "is not")):
        ran = night.main(command)
        assert (ran.code, ran.err.count("\n"), told in ran.err) == (2, 1, True), ran.err


def test_a_ledger_in_memory_closes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    Ledger(MEMORY).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_crash_leaves_no_core_file(tmp_path: Path) -> None:
    """A core file holds every key: the kernel is told to write none, also where the shell allows it."""
    script = (
        "import os, resource, sys; from pipelines.config import permissions as private\n"
        "soft = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (soft, soft))\n"
        "private.keep()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], flush=True)\n"
        "os.abort()"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
                           env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})  # fmt: skip
    assert (ended.returncode, ended.stdout) == (-6, "0\n"), ended.stderr
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal
from sources.extract.extractor import Extraction
fetch = Extraction.preview
def killed(self, name, **options):
    fetch(self, name, **options)
    os.kill(os.getpid(), signal.SIGKILL)
Extraction.preview = killed
from pipelines.cli import main as cli
cli.main()
"""


def test_preview_killed_leaves_rows_beside_the_warehouse_and_the_next_sweeps_them(
    file_night: Night, tmp_path: Path
) -> None:
    temporary, night = tmp_path / "tmp", file_night
    temporary.mkdir()
    night.settings["TMPDIR"] = str(temporary)
    ran = night.start("preview", "tune.countries", command=(sys.executable, "-c", KILLED))
    assert (ran.communicate(timeout=120), ran.returncode)[1] == -signal.SIGKILL
    assert not [path for path in temporary.rglob("*") if path.is_file()]
    (left,) = [path for path in (night.state / "previews").iterdir() if path.is_dir()]
    assert list(left.iterdir()) and stat.S_IMODE(left.stat().st_mode) == 0o700
    assert night("preview", "tune.countries").code == 0
    assert {path.name for path in (night.state / "previews").iterdir()} == {"lock"}
