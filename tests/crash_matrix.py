"""Where nights are killed: step by step, which vendors' on which databases, and the kinds of tables that they load.

    python crash_matrix.py

It is read off the tests: a step that is killed nowhere, or a kind of table that no killed night loads, would be a hole.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import test_crash
import test_crash_growingio
import test_crash_thinkingengine
import test_crash_vendors
from conftest import DATABASES
from sources import VENDORS
from sources.extract.connector import package

OF_SETTINGS = {
    "tonalytica": {"latest"},
    "tune": {"windows"},
    "growingio": {"windows"},
    "thinkingengine": {"incremental", "windows"},
}
"""Kinds of the tables that a vendor has only by its settings, which the tests set."""


def kinds(vendor: str) -> str:
    """What kinds of tables a vendor has; windows: rows that are replaced slice by slice."""
    tables = [table for tables in package(vendor).tables().values() for table in tables]
    return ", ".join(
        sorted({"windows" if each.scope else str(each.mode) for each in tables} | OF_SETTINGS.get(vendor, set()))
    )


def matrix() -> dict[str, dict[str, set[str]]]:
    """Step (function, before or after) → vendor → databases."""
    found: dict[str, dict[str, set[str]]] = {}

    def note(vendor: str, points: Mapping[str, Any]) -> None:
        for point in points.values():
            for kind in DATABASES:
                target, when, *_ = point[kind] if isinstance(point, dict) else point
                found.setdefault(f"{when} {target.partition(':')[2]}", {}).setdefault(vendor, set()).add(kind)

    note("tonalytica", test_crash.POINTS)
    for kind, points in test_crash.OF_ONE.items():
        for target, when, *_ in points.values():
            found.setdefault(f"{when} {target.partition(':')[2]}", {}).setdefault("tonalytica", set()).add(kind)
    for vendor in ("tune", "dataworks"):
        note(vendor, test_crash_vendors.SECOND_NIGHT)
    for vendor in ("tune", "dataworks", "growingio", "thinkingengine"):
        note(vendor, test_crash_vendors.POINTS)
    note("growingio", test_crash_growingio.POINTS)
    note("thinkingengine", test_crash_thinkingengine.POINTS)
    found["killed at random"] = {"tonalytica": set(DATABASES)}
    return found


def main() -> None:
    vendors = sorted(VENDORS)
    sys.stdout.write(f"| killed | {' | '.join(vendors)} |\n|---|{'---|' * len(vendors)}\n")
    sys.stdout.write(f"| kinds of tables | {' | '.join(map(kinds, vendors))} |\n")
    for step, by_vendor in sorted(matrix().items(), key=lambda one: one[0].split()[1]):
        cells = [
            ("both" if len(there) == len(DATABASES) else "".join(there)) if (there := by_vendor.get(vendor)) else ""
            for vendor in vendors
        ]
        sys.stdout.write(f"| {step} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
