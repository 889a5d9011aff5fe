"""Are holes known in what is locked? Asks the registry that uv.lock names for its advisories, a request per package.

A hole fails, unless .ci/audit.toml accepts it with a reason. Where the advisories cannot be had nothing fails, and it
says that nothing was audited; `--strict` fails then.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

Package = tuple[str, str]
FIRST = 3
"""Where the first few packages bring nothing, nobody else is asked for."""


def holes_of(client: httpx.Client, package: Package) -> list[dict[str, Any]] | None:
    """The advisories about one version; None if they cannot be had."""
    try:
        answer = client.get(f"/pypi/{package[0]}/{package[1]}/json")
        found = answer.json()["vulnerabilities"] if answer.status_code == 200 else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    return [each for each in found if not each.get("withdrawn")] if isinstance(found, list) else None


def audit(registry: str, packages: list[Package]) -> dict[Package, list[dict[str, Any]] | None]:
    with httpx.Client(base_url=registry, timeout=10, follow_redirects=True) as client, ThreadPoolExecutor(8) as pool:
        first = {package: holes_of(client, package) for package in packages[:FIRST]}
        if all(holes is None for holes in first.values()):
            return {**dict.fromkeys(packages), **first}
        others = packages[FIRST:]
        return {**first, **dict(zip(others, pool.map(lambda each: holes_of(client, each), others), strict=True))}


def names_of(hole: dict[str, Any]) -> set[str]:
    return {str(hole.get("id")), *map(str, hole.get("aliases") or ())}


def told(found: dict[Package, list[dict[str, Any]] | None], accepted: dict[str, str]) -> tuple[list[str], list[str]]:
    """Lines about holes that are not accepted, and about the rest."""
    bad, rest, seen = [], [], set()
    for (name, version), holes in sorted(found.items()):
        for hole in holes or ():
            known = names_of(hole) & accepted.keys()
            seen |= known
            mended = ", ".join(hole.get("fixed_in") or ()) or "no version yet"
            line = f"{name} {version}: {hole.get('id')} {str(hole.get('summary') or '')[:100]} (mended in {mended})"
            rest += [f"accepted: {line}: {accepted[each]}" for each in sorted(known)[:1]]
            bad += [] if known else [line]
    unseen = [name for name, holes in found.items() if holes is None]
    if not unseen:
        rest += [f"no longer needed in .ci/audit.toml: {each}" for each in sorted(accepted.keys() - seen)]
    elif len(unseen) < len(found):
        rest.append(f"could not be looked at: {', '.join(f'{name} {version}' for name, version in sorted(unseen))}")
    return bad, rest


def accepted_in(text: str) -> dict[str, str]:
    """Advisory → why it is accepted. Raises `ValueError` for one without a reason."""
    entries = tomllib.loads(text).get("accepted", [])
    for each in entries:
        if not each.get("id") or len(str(each.get("reason", ""))) < 10:
            raise ValueError(f"{each.get('id')!r} has no reason why it is accepted")
    return {each["id"]: each["reason"] for each in entries}


def locked(text: str) -> tuple[str, list[Package]]:
    """The registry that most packages come from, without its last part, and the packages from there."""
    packages = [each for each in tomllib.loads(text)["package"] if "registry" in each["source"]]
    registry = str(packages[0]["source"]["registry"]).rstrip("/").removesuffix("/simple")
    return registry, sorted({(each["name"], each["version"]) for each in packages})


def main(arguments: Iterable[str], *, root: Path = Path(), registry: str | None = None) -> int:
    named, packages = locked((root / "uv.lock").read_text(encoding="utf-8"))
    try:
        accepted = accepted_in((root / ".ci" / "audit.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        sys.stderr.write(f".ci/audit.toml: {error}\n")
        return 1
    found = audit(registry or named, packages)
    bad, rest = told(found, accepted)
    looked = sum(holes is not None for holes in found.values())
    sys.stderr.writelines(f"{line}\n" for line in (*rest, *bad))
    if not looked:
        sys.stderr.write("audit: NOTHING WAS AUDITED, the registry gives no advisories here\n")
    else:
        sys.stderr.write(f"audit: {len(bad)} known holes in {looked} of {len(packages)} locked packages\n")
    return int(bool(bad) or ("--strict" in arguments and looked < len(packages)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
