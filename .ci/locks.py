"""Do pyproject.toml, uv.lock and requirements.lock name the same packages? Without uv, so that it runs everywhere."""

from __future__ import annotations

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

PIN = re.compile(r"^([a-z0-9-]+)(?:\[.*?\])?==(\S+)", re.MULTILINE)


def main() -> int:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    itself = project["project"]["name"]
    packages = tomllib.loads(Path("uv.lock").read_text(encoding="utf-8"))["package"]
    locked = {(each["name"], each["version"]) for each in packages if each["name"] != itself}
    files = map(Path, ("requirements.lock", "requirements-docs.lock"))
    exported = set(chain(*(PIN.findall(file.read_text(encoding="utf-8")) for file in files)))
    wrong = [f"{name} {version}" for name, version in sorted(locked ^ exported)]
    wanted = [*project["project"]["dependencies"], *chain(*project["project"]["optional-dependencies"].values())]
    wanted += [each for group in project["dependency-groups"].values() for each in group if isinstance(each, str)]
    wanted = [each for each in wanted if Requirement(each).name != itself]
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        if not any(name == other and requirement.specifier.contains(version) for other, version in locked):
            wrong.append(str(requirement))
    if wrong:
        sys.stderr.write(f"the locks disagree, run make lock: {', '.join(wrong)}\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
