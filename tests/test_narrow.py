"""What is copied from a table, an id or a name, is whole on a narrow terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ledger_story import command, story
from pipelines.cli import render
from pipelines.cli.render import grid_of, print_grid

LONG = "tonalytica_results.query_1234567_with_a_name_of_sixty_three_bytes_and_more"


@pytest.mark.parametrize("width", [80, 40, 20])
def test_an_id_in_the_tables_of_commands_is_whole_at_any_width(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render.console, "_width", width)
    vendors: Any = {"tonalytica": {LONG: {}}, "tune": {"tune.clicks": {}}, "dataworks": "the key is not accepted"}
    with story(tmp_path) as told:
        run_id = told.night(0, vendors)
    home = command(tmp_path)
    assert run_id in home.main("runs").out.replace("\n", " ").split()
    for arguments in (("status",), ("run-info", run_id)):
        assert LONG in home.main(*arguments).out.split(), arguments


@pytest.mark.parametrize("width", [120, 80, 30])
def test_a_grid_gives_the_width_that_is_left_to_the_other_columns(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render.console, "_width", width)
    grid = grid_of("table", "about", "live")
    grid.add_row("tune.账号_用户_and_more", "words " * 30, "1,000")
    print_grid(grid)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("tune.账号_用户_and_more ") for line in lines)
    assert "".join(line[30:] for line in lines).count("word") or width == 30


def test_rows_of_a_preview_are_not_cut_by_the_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render.console, "_width", 40)
    names = [f"id_{number}" for number in range(6)]
    values = {name: f"00000000-0000-4000-8000-00000000000{number}" for number, name in enumerate(names)}
    render.show_rows("tune.clicks", [{"name": name, "type": "text"} for name in names], [values])
    out = capsys.readouterr().out
    assert all(value in out for value in values.values())
