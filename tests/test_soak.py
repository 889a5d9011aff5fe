"""Some nights of a year in which everything goes wrong: `make soak` plays the whole of it, and looks for new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak import play

MET = {
    "duckdb": (
        57,
        {
            "vendor: a sign-in page",
            "kill: before the extract is committed",
            "until the second try: dropped connections",
            "SIGTERM",
            "an analyst reads",
            "nothing",
        },
    ),
    "postgres": (
        39,
        {
            "until the second try: dropped connections",
            "nothing",
            "two runs",
            "the database restarts",
            "stuck lock",
            "kill: both tries",
        },
    ),
}
"""Seed → what its nights meet. `make soak ARGS='--nights 3 --every 3 --calm 0.2 --seed 57'` plays the same."""


@pytest.mark.parametrize("kind", MET)
def test_some_nights_with_faults_leave_what_is_true(kind: str, tmp_path: Path) -> None:
    seed, met = MET[kind]
    soak = play(nights=3, seed=seed, kind=kind, every=3, folder=tmp_path, calm=0.2)
    assert {*soak.met} == met
    assert soak.outcomes["-9"] >= 1
    assert soak.compared > 3000
