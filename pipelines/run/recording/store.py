"""The pages of a run on disk: what one vendor answered, in files that only grow, and how they are played again.

A file holds the answers that were asked for one table, a folder those of one vendor in one run. A file is a sequence of
frames: a head (kind, number of the answer, length as it came, length packed, checksum) and its content. An answer is
one frame that tells the request, frames of at most a megabyte with the body (zstd), and one that ends it. Answers that
come at once mix their frames; one that never ended is none, and what follows a torn frame is not read.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config import files
from sources.core.errors import NightloadError, summarize
from sources.http.cassette import Asked, Kept
from sources.privacy.pii_columns import CLOSED, DECLARED, Mark, is_personal

log = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".pages"
END = "end.json"
PIECE = 2**20
_HEAD = struct.Struct(">4sBIIII")
_MAGIC = b"nlp1"
_TABLE, _BEGIN, _BODY, _END, _DROP = range(5)
# Level 1 packs JSON as well as gzip does for a third of its time: 0.3 CPU seconds for 100 MB.
_CODEC = pa.Codec("zstd", compression_level=1)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is kept: `tables` are patterns of `dataset.table`, `personal` those of tables with personal columns too."""

    days: float
    max_bytes: int
    tables: tuple[str, ...] = ("*",)
    personal: tuple[str, ...] = ()

    def wants(self, table: str) -> bool:
        return any(fnmatchcase(table, pattern) for pattern in self.tables)

    def may_be_personal(self, table: str) -> bool:
        return any(fnmatchcase(table, pattern) for pattern in self.personal)


_MADE_OF_OTHERS = {"dataworks.published_api_versions": {"Definition": Mark.OWNER}}
"""A column that is a document of columns that are masked."""


class NotKept(NightloadError):
    """A request whose answer was not recorded."""


class Writer:
    """Records one vendor in one run; the `Recorder` of `sources.http.cassette`. From any number of threads.

    Nothing that goes wrong here fails a night: recording ends, and why is told in the folder.
    """

    def __init__(self, folder: Path, choice: Choice, *, room: int) -> None:
        self._folder, self._choice, self._room = folder, choice, room
        self._lock = threading.Lock()
        self._paths: dict[str, Path] = {}
        self._begun: dict[str, dict[str, str]] = defaultdict(dict)
        """Of each table the requests that were recorded."""
        self._known: set[str] = set()
        """Tables whose columns are known, and none of them is personal."""
        declared = {
            table: marks for table, marks in {**DECLARED, **_MADE_OF_OTHERS}.items() if table.startswith(folder.name)
        }
        self._masked = {
            table: [label for label, mark in marks.items() if mark == Mark.OWNER]
            for table, marks in declared.items()
            if not choice.may_be_personal(table)
        }
        """table → labels of people in rows about something else: masked wherever they stand, for answers are shared."""
        self.private: Sequence[str] = sorted(
            {label for table in self._masked.keys() - _MADE_OF_OTHERS.keys() for label in self._masked[table]}
        )
        self._left_out: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._stopped = ""
        self._answers = 0
        self._written = 0

    def begin(self, asked: Asked, *, table: str, status: int, headers: Mapping[str, str]) -> _Tape | None:
        with self._lock:
            why = self._stopped or self._why_not(table)
            if why:
                self._missing.setdefault(asked.fingerprint, f"{asked.where}: {why}")
                return None
            number, self._answers = self._answers, self._answers + 1
            self._begun[table][asked.fingerprint] = asked.where
        tape = _Tape(self, table, number, asked)
        told = {"fingerprint": asked.fingerprint, "where": asked.where, "status": status, "headers": dict(headers)}
        self._append(table, _BEGIN, number, json.dumps(told).encode())
        return tape

    def met(self, table: str, labels: Sequence[str], *, protected: bool) -> None:
        dataset, _, name = table.partition(".")
        seen = {label for label in labels if is_personal(dataset, name, label)}
        if not protected and seen <= set(self._masked.get(table, ())):
            self._known.add(table)
        elif not self._choice.may_be_personal(table):
            self._leave_out(table, "it has personal columns")

    def forget(self, tables: Iterable[str]) -> None:
        """Drop what was recorded of these tables: they are asked for again."""
        with self._lock:
            for table in tables:
                self._begun.pop(table, None)
                self._remove(table)

    def close(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """`tables`: what the run came to, which a replay is compared with."""
        for table in [each for each in self._paths if each]:
            if table not in self._known and not self._is_definition(table) and not self._choice.may_be_personal(table):
                self._leave_out(table, "what columns it has was not seen, so it may be personal")
        masked = {table: labels for table, labels in self._masked.items() if labels and table in self._known}
        told = {
            "tables": tables,
            "masked": masked,
            "left_out": self._left_out,
            "missing": self._missing,
            "stopped": self._stopped,
        }
        try:
            write(self._folder / END, told)
        except OSError as error:
            log.warning("what was kept of %s cannot be closed: %s", self._folder.name, summarize(error))

    def _why_not(self, table: str) -> str:
        if not table:
            return ""
        if table in self._left_out:
            return self._left_out[table]
        if not self._choice.wants(table):
            self._left_out[table] = f"{table} is not among keep.tables"
            return self._left_out[table]
        if Mark.PERSON in DECLARED.get(table, {}).values() and not self._choice.may_be_personal(table):
            self._left_out[table] = f"{table} has personal columns ([keep] personal)"
            return self._left_out[table]
        return ""

    def _is_definition(self, table: str) -> bool:
        return any(fnmatchcase(table, pattern) for pattern in CLOSED)

    def _leave_out(self, table: str, why: str) -> None:
        """Forget what was recorded of a table."""
        with self._lock:
            why = self._left_out.setdefault(table, f"{table}: {why} ([keep] personal)")
            for fingerprint, where in self._begun.pop(table, {}).items():
                self._missing.setdefault(fingerprint, f"{where}: {why}")
            self._remove(table)

    def _remove(self, table: str) -> None:
        path = self._paths.pop(table, None)
        if path is not None:
            self._written -= path.stat().st_size if path.exists() else 0
            path.unlink(missing_ok=True)

    def _append(self, table: str, kind: int, number: int, content: bytes) -> None:
        packed = content if kind != _BODY else _CODEC.compress(content, asbytes=True)
        with self._lock:
            if self._stopped or table in self._left_out:
                return
            try:
                frame = _frame(kind, number, len(content), packed)
                if self._written + len(frame) > self._room:
                    self._stopped = "keep.max_mb was reached"
                    log.warning("%s: %s; what comes now is not kept", self._folder.name, self._stopped)
                    return
                # opened for each frame: there may be more tables than a process may hold files
                with os.fdopen(os.open(self._path(table), os.O_WRONLY | os.O_APPEND), "ab") as file:
                    file.write(frame)
                self._written += len(frame)
            except OSError as error:
                self._stopped = f"it could not be written: {summarize(error)}"
                log.warning("pages of %s are no longer kept: %s", self._folder.name, self._stopped)

    def _path(self, table: str) -> Path:
        if table not in self._paths:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            number = len(self._paths) + len(self._left_out)
            path = self._folder / f"{number:04d}-{zlib.crc32(table.encode()):08x}{SUFFIX}"
            head = json.dumps({"format": FORMAT, "table": table}).encode()
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
                file.write(_frame(_TABLE, 0, len(head), head))
            self._paths[table] = path
        return self._paths[table]


class _Tape:
    """One answer on its way to its file, in pieces of a megabyte."""

    def __init__(self, writer: Writer, table: str, number: int, asked: Asked) -> None:
        self._writer, self._table, self._number, self._asked = writer, table, number, asked
        self._held: list[bytes] = []
        self._size = self._total = 0

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self._held.append(piece)
            self._size += len(piece)
            self._total += len(piece)
            if self._size >= PIECE:
                self._flush()

    def end(self) -> None:
        self._flush()
        self._writer._append(self._table, _END, self._number, json.dumps({"size": self._total}).encode())

    def drop(self) -> None:
        self._writer._append(self._table, _DROP, self._number, b"")

    def _flush(self) -> None:
        if self._held:
            self._writer._append(self._table, _BODY, self._number, b"".join(self._held))
            self._held, self._size = [], 0


@dataclass(kw_only=True)
class _Answer:
    """A recorded answer, found again: where its pieces stand."""

    file: Path
    table: str
    number: int
    told: dict[str, Any]
    pieces: list[tuple[int, int, int]] = field(default_factory=list)
    whole: bool = False

    def content(self) -> Iterator[bytes]:
        with self.file.open("rb") as file:
            for at, packed, size in self.pieces:
                file.seek(at)
                yield _CODEC.decompress(file.read(packed), decompressed_size=size, asbytes=True)


class Reader:
    """Plays one vendor of one run; the `Player` of `sources.http.cassette`. From any number of threads.

    `torn`: what is not there to its end, in words; `left_out`: tables that were not kept, and why; `masked`: tables of
    which some columns were masked.
    """

    def __init__(self, folder: Path, *, run_id: str) -> None:
        self._run_id, self._lock = run_id, threading.Lock()
        self.torn: list[str] = []
        answers = [answer for path in sorted(folder.glob(f"*{SUFFIX}")) for answer in self._read(path)]
        self._queues: dict[str, deque[_Answer]] = defaultdict(deque)
        self._recorded: dict[str, int] = {}
        for answer in sorted(answers, key=lambda each: each.number):
            self._queues[answer.told["fingerprint"]].append(answer)
        self._recorded = {fingerprint: len(queue) for fingerprint, queue in self._queues.items()}
        end = read(folder / END) or {}
        self.tables: dict[str, dict[str, Any]] = end.get("tables", {})
        self.left_out: dict[str, str] = end.get("left_out", {})
        self.masked: dict[str, list[str]] = end.get("masked", {})
        self.stopped: str = end.get("stopped", "")
        self._missing: dict[str, str] = end.get("missing", {})
        if not end:
            self.torn.append(f"{folder.name}: the run was killed, so what it came to is not known here")
        self.answers = len(answers)

    def answer(self, asked: Asked) -> Kept:
        with self._lock:
            queue = self._queues.get(asked.fingerprint)
            found = queue.popleft() if queue else None
        if found is None:
            raise self._not_kept(asked)
        return Kept(status=found.told["status"], headers=found.told["headers"], content=found.content)

    def bodies(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Each answer as it lies here: its table and its body."""
        for queue in self._queues.values():
            for answer in queue:
                yield answer.table, answer.content()

    def _not_kept(self, asked: Asked) -> NightloadError:
        if before := self._recorded.get(asked.fingerprint):
            why = f"it was asked {before} times then, and once more now: the code or the settings are others"
            todo = "Replay with the settings and the version of that run"
        elif asked.fingerprint in self._missing:
            why = self._missing[asked.fingerprint].partition(": ")[2]
            todo = "Change [keep] in .dlt/config.toml for the nights to come; this answer is nowhere"
        elif self.torn or self.stopped:
            why = "; ".join([*self.torn, *filter(None, [self.stopped])])
            todo = "Only what was kept can be replayed: choose tables with --table"
        else:
            why = "that run did not ask this: the settings or the code are others"
            todo = "Replay with the settings and the version of that run, or choose tables with --table"
        return NotKept(what=f"run {self._run_id} has no answer to this", where=asked.where, why=why, todo=todo)

    def _read(self, path: Path) -> list[_Answer]:
        found: dict[int, _Answer] = {}
        table = ""
        with path.open("rb") as file:
            for kind, number, size, at, content in _frames(file):
                if kind == _TABLE:
                    table = json.loads(content)["table"]
                elif kind == _BEGIN:
                    found[number] = _Answer(file=path, table=table, number=number, told=json.loads(content))
                elif kind == _BODY:
                    found[number].pieces.append((at, len(content), size))
                elif kind == _DROP:
                    del found[number]
                elif kind == _END:
                    found[number].whole = json.loads(content)["size"] == sum(each[2] for each in found[number].pieces)
            left = os.fstat(file.fileno()).st_size - file.tell()
        broken = [answer for answer in found.values() if not answer.whole]
        if left or broken:
            told = f"{left} bytes at its end are torn" if left else "it was not written to its end"
            self.torn.append(f"{path.parent.name}, {table or 'shared'}: {told}; {len(broken)} answers were dropped")
        return [answer for answer in found.values() if answer.whole]


def _frame(kind: int, number: int, size: int, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(struct.pack(">BII", kind, number, size)))
    return _HEAD.pack(_MAGIC, kind, number, size, len(content), checksum) + content


def _frames(file: BufferedReader) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Kind, number, size, place and content of each whole frame; the file is left where the first torn one begins."""
    while True:
        start = file.tell()
        head = file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            magic, kind, number, size, length, checksum = _HEAD.unpack(head)
            at = file.tell()
            content = file.read(length) if magic == _MAGIC and length <= 4 * PIECE else b""
            whole = magic == _MAGIC and len(content) == length
            if whole and zlib.crc32(content, zlib.crc32(struct.pack(">BII", kind, number, size))) == checksum:
                yield kind, number, size, at, content
                continue
        file.seek(start)
        return


def write(path: Path, document: Mapping[str, Any]) -> None:
    files.replace(path, json.dumps(document, ensure_ascii=False, default=str), mode=0o600)


def read(path: Path) -> dict[str, Any] | None:
    """None if it is not there, or torn."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
