"""SQL on what is published: `nightload sql`, once or as a shell. It reads only, and needs neither dlt nor a key."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from pipelines.catalog.introspect import columns_of, split_name, tables_of
from pipelines.cli.formats import output, write_csv, write_json, write_table
from pipelines.config.project import Place
from pipelines.warehouse.open import open_reader
from pipelines.warehouse.reader import Answer, Reader, interrupted
from pipelines.warehouse.sql_text import split
from sources.core.errors import ConfigurationError, NightloadError, Unavailable, summarize

TABLE_ROWS = 100
"""Rows of a table, unless told otherwise: more scroll away."""
HISTORY_LINES = 1000
PATIENCE = 10
"""Seconds that a database has to end a statement."""
HELP = """\
SQL ends with a semicolon and may have several lines. Ctrl-C forgets what was typed, or ends a query; Ctrl-D leaves.
.tables [DATASET]       the tables, and what they hold
.schema DATASET.TABLE   its columns: type, the vendor's label, key
.help                   this
.quit                   leave
"""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How answers are written. `limit`: rows of each answer; 0: all; None: what the kind asks for."""

    kind: Literal["table", "csv", "json"] = "table"
    limit: int | None = None

    @property
    def rows(self) -> int:
        return self.limit if self.limit is not None else TABLE_ROWS if self.kind == "table" else 0


class Asking:
    """Statements to one warehouse, one after another; each sees what is published when it begins."""

    def __init__(self, place: Place, form: Form) -> None:
        self.form = form
        self._place = place
        self._open = ExitStack()
        self._reader: Reader | None = None
        self._file: tuple[int, int] | None = None
        self._answers = 0

    def close(self) -> None:
        self._open.close()
        self._reader = None

    def reader(self) -> Reader:
        """The warehouse; opened again when a night has put another file in its place."""
        file = _file_of(self._place)
        if self._reader is not None and file != self._file:
            self.close()
            sys.stderr.write("a night has published: the warehouse was opened again\n")
        if self._reader is None:
            self._reader = self._open.enter_context(open_reader(self._place))
            self._file = file
        return self._reader

    def ask(self, statement: str) -> None:
        """Carry out one statement and write its answer. Raises `QueryRefused`, `Interrupted`."""
        reader = self.reader()
        try:
            _interruptible(lambda stopped: self._answer(reader, statement, stopped), reader)
        except Unavailable:
            self.close()  # the next statement connects anew
            raise

    def show(self, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """Write rows of our own as an answer."""
        self._write(Answer(columns, iter(rows)), rows)

    def _answer(self, reader: Reader, statement: str, stopped: threading.Event) -> None:
        limit, more = self.form.rows, False
        with reader.stream(statement) as answer:
            rows = _until(answer.rows, stopped)
            wanted = islice(rows, limit) if limit else rows
            if self.form.kind == "table" and limit:
                # kept, so that a pager that is left open holds no transaction
                kept = list(wanted)
            else:
                self._write(answer, wanted)
            more = bool(limit) and next(rows, None) is not None
        if self.form.kind == "table" and limit:
            self._write(answer, kept)
        sys.stdout.flush()
        if more:
            sys.stderr.write(f"there are more rows than {limit}: --limit 0 shows all\n")

    def _write(self, answer: Answer, rows: Any) -> None:
        if not answer.columns:
            return
        terminal = sys.stdout.isatty()
        # a table's cells are shown as they may be, with colours of our own
        write = sys.stdout.write if self.form.kind == "table" else output()
        if self._answers and self.form.kind != "json":
            write("\n")
        self._answers += 1
        if self.form.kind == "csv":
            write_csv(answer, rows, write)
        elif self.form.kind == "json":
            write_json(answer, rows, write)
        else:
            width = shutil.get_terminal_size().columns if terminal else None
            write_table(answer, rows, write, width=width, dim=terminal and "NO_COLOR" not in os.environ)


def ask(place: Place, text: str, form: Form) -> None:
    """Carry out all statements of a text; the first that is refused ends it. Raises `QueryRefused`, `Interrupted`."""
    statements, rest = split(text)
    if rest:
        statements.append(rest)
    if not statements:
        raise ConfigurationError(what="there is no SQL to carry out", todo='Write nightload sql "SELECT …"')
    with closing(Asking(place, form)) as asking, _written_whole(form):
        for statement in statements:
            asking.ask(statement)


def shell(place: Place, form: Form) -> bool:
    """Statements as they are typed, or as stdin brings them; True if none was refused."""
    terminal = sys.stdin.isatty()
    typed, well = "", True
    with closing(Asking(place, form)) as asking, _written_whole(form), _history(place) if terminal else ExitStack():
        asking.reader()
        if terminal:
            sys.stdout.write(f"{place.shown}, for reading. .help tells what there is.\n")
        while True:
            try:
                line = _line("nightload> " if not typed else "      ...> ", terminal=terminal)
                if line is None:
                    break
                if not typed and line.lstrip().startswith("."):
                    if line.split()[0] in (".quit", ".exit"):
                        break
                    _command(asking, line.split())
                    continue
                statements, typed = split(f"{typed}\n{line}" if typed else line)
                for statement in statements:
                    asking.ask(statement)
            except KeyboardInterrupt:
                typed = ""
                sys.stdout.write("\n")
            except NightloadError as error:
                well = False
                sys.stderr.write(f"{summarize(error)}\n")
        if typed and not terminal:
            asking.ask(typed)
    return well


def _line(prompt: str, *, terminal: bool) -> str | None:
    if not terminal:
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    try:
        return input(prompt)
    except EOFError:
        sys.stdout.write("\n")
        return None


def _command(asking: Asking, words: list[str]) -> None:
    match words:
        case [".help"]:
            sys.stdout.write(HELP)
        case [".tables", *names] if len(names) < 2:
            found = tables_of(asking.reader(), *names)
            asking.show(("table", "about"), [(table.full_name, table.about) for table in found])
        case [".schema", name]:
            found_columns = columns_of(asking.reader(), *split_name(name))
            rows = [(each.name, each.type, each.label, "key" if each.key else None) for each in found_columns]
            asking.show(("column", "type", "label", "key"), rows)
        case _:
            raise ConfigurationError(what=f"there is no {' '.join(words)}", todo=".help tells what there is")


def _interruptible(work: Callable[[threading.Event], None], reader: Reader) -> None:
    """Work in a thread of its own: a database's driver does not hear Ctrl-C while it waits."""
    stopped = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(stopped)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    handler = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        thread.start()
        until = 0.0
        while thread.is_alive():
            thread.join(0.1)
            if stopped.is_set():
                reader.cancel()
                until = until or time.monotonic() + PATIENCE
                if time.monotonic() > until:  # to close a connection that is at work would wait for it
                    sys.stderr.write("nightload: the database does not end the query; it was left to it\n")
                    sys.stderr.flush()
                    os._exit(130)
    finally:
        signal.signal(signal.SIGINT, handler)
    if stopped.is_set():
        raise interrupted()
    if failed:
        raise failed[0]


def _until(rows: Iterator[tuple[Any, ...]], stopped: threading.Event) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        if stopped.is_set():
            raise interrupted()
        yield row


def _file_of(place: Place) -> tuple[int, int] | None:
    with suppress(OSError):
        if place.postgres is None:
            found = place.warehouse.stat()
            return found.st_ino, found.st_mtime_ns
    return None


@contextmanager
def _written_whole(form: Form) -> Iterator[None]:
    """CSV and JSON are UTF-8 whatever the locale is; a reader that has enough (`| head`) is no mistake."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if form.kind == "table":
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    with suppress(BrokenPipeError):
        yield
        sys.stdout.flush()


@contextmanager
def _history(place: Place) -> Iterator[None]:
    """Lines of former shells, for this user's eyes only. A folder that cannot be written keeps none."""
    try:
        import readline
    except ImportError:
        yield
        return
    file = place.state / "sql_history"
    before = os.umask(0o077)
    try:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)
            file.chmod(0o600)
            readline.read_history_file(file)
        readline.set_history_length(HISTORY_LINES)
        yield
    finally:
        with suppress(OSError):
            readline.write_history_file(file)
            file.chmod(0o600)
        os.umask(before)
