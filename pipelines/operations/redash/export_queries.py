"""`nightload export-queries`: one `.sql` file per TONalytica query, made for a repository.

Running it again changes nothing that did not change at the vendor. A query that was renamed moves its file, an
archived one lies under `archived/`, one that is gone loses its file (the repository keeps it). Only files that this
command wrote are touched: they carry its first line with their query's id, and their name begins with that id.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.catalog.query import Row, live_rows, not_loaded, published, unpacked
from pipelines.config.project import Place
from pipelines.operations.redash.find_tables import base_url
from sources.core.errors import ConfigurationError, NightloadError

ARCHIVED = "archived"
MAX_NAME = 140
"""Bytes of a whole file name. Most file systems take 255, encrypted ones 143."""

_FIRST = re.compile(rb"-- nightload: query (\d+) of (\S+)\r?\n")


@dataclass(kw_only=True)
class Exported:
    """What became of the files, by their path below the folder."""

    written: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    in_the_way: list[str] = field(default_factory=list)


def export_queries(place: Place, folder: Path) -> Exported:
    """Bring the files below `folder` to what the warehouse holds.

    Raises `ConfigurationError` if there is no warehouse or no query in it, or if the folder holds the files of another
    server. A file of somebody else's that stands where ours belongs stays: it is told in `in_the_way`.
    """
    for part in (folder, folder / ARCHIVED):
        if os.path.lexists(part) and (not part.is_dir() or (part != folder and part.is_symlink())):
            raise ConfigurationError(what=f"{part} is not a folder", todo="Name another, or move that away")
    base = base_url()
    wanted = _wanted(place, base)
    ours = _ours(folder, base)
    exported = Exported()
    for query, (path, content) in wanted.items():
        target = folder / path
        olds = [old for old in ours.pop(query, []) if old != path]
        if os.path.lexists(target) and not _is_ours(target, query, base):
            exported.in_the_way.append(path)
            continue
        if target.is_file() and target.read_bytes() == content:
            exported.unchanged += not olds
        else:
            _write(target, content)
            if not olds:
                exported.written.append(path)
        for old in olds:
            (folder / old).unlink()
            exported.moved.append((old, path))
    for old in (path for paths in ours.values() for path in paths):
        (folder / old).unlink()
        exported.removed.append(old)
    if (folder / ARCHIVED).is_dir() and not any((folder / ARCHIVED).iterdir()):
        (folder / ARCHIVED).rmdir()
    return exported


def refuse_in_the_way(exported: Exported, folder: Path) -> None:
    """Raise `NightloadError` if a file of somebody else's kept a query from its place."""
    if exported.in_the_way:
        raise NightloadError(
            what=f"{len(exported.in_the_way)} queries were not exported",
            where=str(folder),
            why=f"files that are not ours have their names: {', '.join(exported.in_the_way[:5])}",
            todo="Move those files away, and run again",
        )


def _wanted(place: Place, base: str) -> dict[int, tuple[str, bytes]]:
    """Per query its path below the folder and its content."""
    with published(place) as read:
        rows = live_rows(read, "tonalytica", "queries")
        if rows is None:
            raise not_loaded("tonalytica")
        sources = {row["id"]: row for row in live_rows(read, "tonalytica", "data_sources") or ()}
        users = {row["id"]: row["name"] for row in live_rows(read, "tonalytica", "users") or ()}
    wanted = {}
    for row in sorted(rows, key=lambda row: int(row["id"])):
        name = file_name(row["id"], row["name"] or "")
        path = f"{ARCHIVED}/{name}" if row["is_archived"] else name
        text = "\n".join(header(row, base=base, source=sources.get(row["data_source_id"]), users=users))
        query = row["query"] or ""
        content = f"{text}\n\n{query}" + ("" if query.endswith("\n") else "\n")
        wanted[int(row["id"])] = path, content.encode("utf-8", "replace")
    return wanted


def file_name(query: int, name: str) -> str:
    """`<id>-<slug>.sql`: letters and digits of every script, lower case, and no more bytes than any file system takes.

    In lower case, since a name that differs in nothing else cannot be moved on some file systems.
    """
    slug = ""
    for char in unicodedata.normalize("NFC", name.lower()):
        kept = unicodedata.category(char)[0] in "LNM"
        slug += char if kept else "-"
    slug = re.sub(r"-{2,}", "-", slug).strip("-")
    room = MAX_NAME - len(f"{query}-.sql")
    slug = slug.encode("utf-8", "ignore")[:room].decode("utf-8", "ignore").strip("-")
    return f"{query}-{slug}.sql" if slug else f"{query}.sql"


def header(row: Row, *, base: str, source: Row | None, users: Mapping[int, str]) -> Iterator[str]:
    """Comment lines, each closed in itself: whatever the vendor's texts hold, none of it leaves its line."""
    yield f"-- nightload: query {row['id']} of {base}"
    origin = "none" if row["data_source_id"] is None else str(row["data_source_id"])
    owner = users.get(row["user_id"])
    told = {
        "name": row["name"] or "",
        "data source": f"{source['name']} ({origin}, {source['type']})" if source else origin,
        "owner": f"{owner} ({row['user_id']})" if owner else str(row["user_id"]),
        "url": f"{base}/queries/{row['id']}",
        "updated": _moment(row["updated_at"]),
        "tags": ", ".join(json.dumps(str(tag), ensure_ascii=False) for tag in unpacked(row["tags"]) or ()) or "none",
        "schedule": _schedule(unpacked(row["schedule"])),
        "state": " ".join(["draft" if row["is_draft"] else "published", *(["archived"] if row["is_archived"] else [])]),
    }
    for label, value in told.items():
        yield f"-- {label}: {_on_one_line(value)}".rstrip()


def _on_one_line(text: str) -> str:
    """What is no printable character is written as its code; a block comment is neither opened nor closed."""
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
    return shown.replace("*/", "*\\/").replace("/*", "/\\*")


def _moment(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value)


def _schedule(schedule: Any) -> str:
    if not isinstance(schedule, Mapping) or not schedule.get("interval"):
        return "none"
    seconds = schedule["interval"]
    rest = [
        f"{name.replace('_', ' ')} {schedule[name]}" for name in ("time", "day_of_week", "until") if schedule.get(name)
    ]
    return ", ".join([f"every {seconds} s", *rest, *(["disabled"] if schedule.get("disabled") else [])])


def _ours(folder: Path, base: str) -> dict[int, list[str]]:
    """The files that this command wrote before, per query."""
    found: dict[int, list[str]] = {}
    for part in (folder, folder / ARCHIVED):
        for file in sorted(part.glob("*.sql")) if part.is_dir() else ():
            query, server = _first_line(file)
            if query is None or not re.match(rf"{query}[-.]", file.name):
                continue
            if server != base:
                raise ConfigurationError(
                    what=f"{folder} holds the queries of another server",
                    why=f"{file.name} is of {server}, sources.tonalytica.base_url is {base}",
                    todo="Choose another folder, or remove those files",
                )
            found.setdefault(query, []).append(str(file.relative_to(folder).as_posix()))
    return found


def _is_ours(file: Path, query: int, base: str) -> bool:
    return _first_line(file) == (query, base)


def _first_line(file: Path) -> tuple[int | None, str]:
    if file.is_symlink() or not file.is_file():
        return None, ""
    with file.open("rb") as handle:
        found = _FIRST.match(handle.readline(1000))
    return (int(found[1]), found[2].decode("utf-8", "replace")) if found else (None, "")


def _write(target: Path, content: bytes) -> None:
    """Whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name.split('-')[0]}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
