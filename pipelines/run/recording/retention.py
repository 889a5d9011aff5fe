"""Keeping the pages of each run for a while, so that it can be played again: `[keep]` in `.dlt/config.toml`.

    [keep]
    days = 14                      # nothing is kept without it
    max_mb = 500                   # of all runs together; the oldest go first
    tables = ["tune.*"]            # DATASET.TABLE; all, if it is not set
    personal = ["tune.logs_*"]     # true, or tables: keep those with personal columns too

Off unless it is asked for: it costs 0.4 CPU seconds for each 100 MB that a vendor sends, and what vendors send holds
more than the tables do (fields that nobody loads, people who are hashed there), which should not lie on a disk because
of a default.

Below `pages/` beside the warehouse there is a folder for each run: `run.json` (what it was asked to do, and its frozen
edge), and for each vendor the pages (`store.py`) and, for each dataset, what the run knew when it began.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.config.project import Place
from pipelines.config.sections import SECTIONS, section
from pipelines.run.recording.store import Choice, Reader, Writer, read, write
from sources.core.errors import ConfigurationError, summarize
from sources.http import cassette

log = logging.getLogger(__name__)

RUN = "run.json"
MAX_MB = 500


def read_choice(home: Path) -> Choice | None:
    """What the configuration says to keep; None: nothing. Raises `ConfigurationError`."""
    told = section(home, "keep", known=SECTIONS["keep"])
    days, max_mb = told.get("days", 0), told.get("max_mb", MAX_MB)
    for name, value in (("days", days), ("max_mb", max_mb)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10**6:
            raise ConfigurationError(what=f"keep.{name} is {value!r}", todo="Write a number, 0 or more")
    personal = told.get("personal", False)
    names = {"tables": told.get("tables", ["*"]), "personal": ["*"] if personal is True else personal or []}
    for name, patterns in names.items():
        if not isinstance(patterns, list) or not all(isinstance(each, str) and "." in f"{each}." for each in patterns):
            also = "true, or " if name == "personal" else ""
            raise ConfigurationError(
                what=f"keep.{name} names no tables", todo=f'Write {also}["DATASET.TABLE", "tune.*"]'
            )
    if not days:
        return None
    return Choice(
        days=days,
        max_bytes=int(max_mb * 2**20),
        tables=tuple(names["tables"]),
        personal=tuple(names["personal"]),
    )


class Keeping:
    """What one run keeps. Nothing here fails it: what cannot be written is logged, and the run is not replayable."""

    def __init__(self, place: Place, run_id: str, choice: Choice, *, asked: Mapping[str, Any]) -> None:
        self.folder = place.pages / run_id
        self._choice = choice
        self._writers: dict[str, Writer] = {}
        try:
            for folder in (place.pages, self.folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(self.folder / RUN, asked)
        except OSError as error:
            log.warning("the pages of this run are not kept: %s", summarize(error))

    @contextmanager
    def vendor(
        self, name: str, tables: Callable[[], Mapping[str, Mapping[str, Any]]], *, anew: Collection[str] | None = None
    ) -> Iterator[None]:
        """Record one vendor; `tables` tells at the end what came of it. `anew`, when it is tried again: the tables that
        are, or none for all of them; what was recorded of these before is forgotten.
        """
        writer = self._writers.get(name)
        if writer is None or (anew is not None and not anew):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            room = max(0, self._choice.max_bytes - size_of(self.folder))
            writer = self._writers[name] = Writer(self.folder / name, self._choice, room=room)
        writer.forget(anew or ())
        with cassette.recording(name, writer):
            try:
                yield
            finally:
                writer.close(tables())

    def knew(self, vendor: str, dataset: str, state: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
        """What the warehouse said when the run began: the cursors of its sources, and the columns of its tables."""
        path = self.folder / vendor / f"{dataset}.began.json"
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write(path, {"state": state, "columns": columns})
        except OSError as error:
            log.warning("what %s began with is not kept: %s", dataset, summarize(error))


class Recorded:
    """One run whose pages are there. Raises `ConfigurationError` if they are not."""

    def __init__(self, place: Place, run_id: str) -> None:
        self.run_id, self.folder = run_id, place.pages / run_id
        told = read(self.folder / RUN)
        if told is None:
            raise ConfigurationError(
                what=f"run {run_id} cannot be replayed",
                where=place.shown,
                why="its pages were removed or damaged" if self.folder.exists() else "no pages of it are kept",
                todo=f"Kept are: {', '.join(kept_runs(place)[-5:]) or 'none'}. Pages are kept from the next run on, if "
                "days is set under [keep] in .dlt/config.toml",
            )
        self.asked: dict[str, Any] = told
        self.until = datetime.fromisoformat(told["until"])

    @property
    def vendors(self) -> list[str]:
        """Those that were recorded, whatever was kept of them."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    def reader(self, vendor: str) -> Reader:
        return Reader(self.folder / vendor, run_id=self.run_id)

    def knew(self, vendor: str, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """State of the sources and columns of the tables, as the run began."""
        told = read(self.folder / vendor / f"{dataset}.began.json") or {}
        return told.get("state", {}), told.get("columns", {})


def kept_runs(place: Place) -> list[str]:
    """The runs with pages, the oldest first."""
    if not place.pages.is_dir():
        return []
    return sorted(path.name for path in place.pages.iterdir() if (path / RUN).exists())


def size_of(folder: Path) -> int:
    """Bytes below a folder."""
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # it has just gone
    return found


def prune(place: Place, *, now: datetime | None = None) -> list[str]:
    """Remove what is older than `days`, then the oldest until all is below `max_mb`; the ids of the runs that went.

    Without `[keep]`, what is there stays: it was kept for a purpose, and removing it is not asked for.
    """
    choice = read_choice(place.home)
    if choice is None or not place.pages.is_dir():
        return []
    oldest = (now or datetime.now(UTC)) - timedelta(days=choice.days)
    runs = sorted(path for path in place.pages.iterdir() if path.is_dir())
    sizes = {path: size_of(path) for path in runs}
    gone = []
    for path in runs:
        too_much = sum(sizes.values()) > choice.max_bytes
        if too_much or _begun(path) < oldest:
            remove(path)
            del sizes[path]
            gone.append(path.name)
    return gone


def remove(path: Path) -> None:
    """At once for whoever looks: without its `run.json` a run is none."""
    (path / RUN).unlink(missing_ok=True)
    shutil.rmtree(path)


def _begun(path: Path) -> datetime:
    told = read(path / RUN)
    if told is not None:
        return datetime.fromisoformat(told["until"])
    return datetime.fromtimestamp(os.stat(path).st_mtime, UTC)


def forget(place: Place, is_theirs: Callable[[str], bool], tables: Sequence[str]) -> int:
    """Remove the pages of every run and vendor in which a person stands; how many there were.

    All that is kept of a vendor's part of a run goes if one of its answers mentions the person, or was asked for one of
    `tables`, or is torn so that it cannot be looked at.
    """
    gone = 0
    for run_id in kept_runs(place):
        for folder in [path for path in (place.pages / run_id).iterdir() if path.is_dir()]:
            theirs = _mention(folder, run_id, is_theirs, tables)
            if theirs:
                shutil.rmtree(folder)
                gone += 1
        if not any(path.is_dir() for path in (place.pages / run_id).iterdir()):
            remove(place.pages / run_id)
    return gone


def _mention(folder: Path, run_id: str, is_theirs: Callable[[str], bool], tables: Sequence[str]) -> bool:
    reader = Reader(folder, run_id=run_id)
    if reader.torn:
        return True  # what was dropped cannot be looked at
    for table, body in reader.bodies():
        if table in tables:
            return True
        before = ""
        for piece in body:
            text = before + piece.decode("utf-8", "replace")
            if is_theirs(text):
                return True
            before = text[-1024:]
    return any(is_theirs(path.read_text("utf-8", "replace")) for path in folder.glob("*.json"))
