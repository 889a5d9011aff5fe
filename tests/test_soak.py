"""Some nights of a year in which everything goes wrong: `make soak` plays the whole of it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from conftest import DATABASES
from soak import play


def test_some_nights_with_faults_leave_what_is_true(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    kind = DATABASES[seed % 2]
    sys.stdout.write(f"make soak ARGS='--nights 3 --every 3 --calm 0.3 --seed {seed} --warehouse {kind}'\n")
    soak = play(nights=3, seed=seed, kind=kind, every=3, folder=tmp_path, calm=0.3)
    assert soak.compared > 3000
    assert sum(soak.outcomes.values()) >= 4
