"""The part of requirements.lock that runs nightload, hashes included: `runtime_lock.py "[dbt]" >locked.txt`.

A package belongs to it if pyproject.toml asks for it, or if one that belongs to it does: the lock says for whom each is
there. What builds nightload's own wheel is in it too.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

HOME = Path(__file__).parent.parent
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==.*?(?=^[A-Za-z0-9]|\Z)", re.MULTILINE | re.DOTALL)


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0]).lower()


def runtime_lock(extras: str = "", *, home: Path = HOME) -> dict[str, str]:
    """Name → its lines of the lock."""
    project = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))
    asked = list(project["project"]["dependencies"]) + list(project["build-system"]["requires"]) + ["editables"]
    for extra in filter(None, extras.strip("[]").split(",")):
        asked += project["project"]["optional-dependencies"][extra.strip()]
    entries = {name_of(found[1]): found[0] for found in _ENTRY.finditer((home / "requirements.lock").read_text())}
    parents = {
        name: {line.removeprefix("# via").strip("# ") for line in map(str.strip, text.splitlines()) if line[:1] == "#"}
        for name, text in entries.items()
    }
    needed = {name_of(each) for each in asked} & entries.keys()
    while more := {name for name in entries.keys() - needed if parents[name] & needed}:
        needed |= more
    return {name: entries[name] for name in sorted(needed)}


if __name__ == "__main__":
    sys.stdout.write("".join(runtime_lock(*sys.argv[1:2]).values()))
