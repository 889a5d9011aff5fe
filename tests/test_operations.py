"""Each command of docs/operations.md is run as it stands, on a home that had a night."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from conftest import NIGHTLOAD, Night, settle
from sandbox_process import start_sandbox

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operations.md"


def chapter() -> str:
    return PAGE.read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", chapter(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """A home whose first night is over, and its pages kept."""
    with start_sandbox("--vendors", "growingio,tune", "--scale", "0.02") as sandbox:
        night = settle(Night(home=tmp_path_factory.mktemp("home")), sandbox)
        (night.home / ".dlt").mkdir()
        (night.home / ".dlt" / "config.toml").write_text("[keep]\ndays = 14\n", encoding="utf-8")
        ran = night("run", "--json")
        assert ran.code == 0, ran.out
        yield night


def test_the_chapter_shows_how_to_go_back_and_begin_anew() -> None:
    shown = {line.split()[1] for line in commands()}
    assert {"backfill", "state", "run", "drop", "replay"} <= shown


@pytest.mark.parametrize("line", commands())
def test_a_command_does_what_it_is_shown_for(line: str, home: Night) -> None:
    """The days of the example are those of a year ago or more; the played vendor knows the last weeks."""
    ((run_id,),) = home.rows("SELECT min(run_id) FROM nightload.runs")
    today = datetime.now(UTC).date()
    for shown, days in {"2026-01-01": 30, "2026-03-31": 17}.items():
        line = line.replace(shown, f"{today - timedelta(days=days)}")
    line = line.replace("RUN_ID", run_id)
    ran = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=home.home,
        env={**home.environment(), "PATH": f"{NIGHTLOAD.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.strip()


def test_every_command_it_names_is_one() -> None:
    from typer.main import get_command

    from pipelines.cli.main import app

    named = set(re.findall(r"`nightload ([a-z-]+)", chapter()))
    assert len(named) > 8
    assert named <= set(get_command(app).commands)  # type: ignore[attr-defined]
