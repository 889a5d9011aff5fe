"""What a run, its counts and its ledger ask of a warehouse, whichever database it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipelines.warehouse.types import ColumnType
from sources.core.errors import NightloadError
from sources.core.sql import literal, quote

if TYPE_CHECKING:
    from dlt.common.destination import AnyDestination

Rows = list[tuple[Any, ...]]
E = TypeVar("E", bound=BaseException)

LEAVE_OUT = 'Leave out a column that is not needed ([personal], "DATASET.TABLE.COLUMN" = "drop"), or fewer rows'


class Session(Protocol):
    """Statements in one warehouse while a run has it. Parameters are written `?`."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """The rows of a SELECT."""
        ...

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Carry out a statement; the number of rows that it changed."""
        ...

    def insert(self, table: str, types: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to a (quoted) table; `types` are its columns and their SQL types. A missing value is NULL."""
        ...

    def tables(self, dataset: str) -> set[str]:
        """The tables of a dataset; dlt makes none for a table that never had a row."""
        ...

    def create_table(self, dataset: str, table: str, columns: Sequence[ColumnType]) -> None:
        """Make a table, and its dataset if need be."""
        ...

    def load(self, dataset: str, table: str, columns: Sequence[ColumnType], parquet: Path) -> None:
        """Add the rows of a parquet file to a table of such columns."""
        ...

    def create_dataset(self, dataset: str) -> None:
        """Make the schema, unless it is there."""
        ...

    def comments(self, dataset: str) -> dict[tuple[str, str], str | None]:
        """(table, column) → comment, of all that may be commented; the column of a table's own comment is empty."""
        ...

    def comment(self, dataset: str, comments: Mapping[tuple[str, str], str]) -> None:
        """Write comments of tables and columns that are there."""
        ...


class Warehouse(Protocol):
    """One warehouse while a run holds its lock: nothing is seen by readers before `publish`, and then all of it."""

    @property
    def kept(self) -> bool:
        """Does anything stand that was kept and is not published?"""
        ...

    def begin(self) -> None:
        """Be ready to load on top of what is published or kept."""
        ...

    def keep(self) -> None:
        """What was loaded since `begin` is proven: no `discard` takes it away before `publish` shows it."""
        ...

    def discard(self, *, kept: bool = False) -> None:
        """Forget what was loaded since `begin`, and with `kept` what was kept too; what is published stays."""
        ...

    def publish(self, before_commit: Callable[[Session], None]) -> None:
        """Run `before_commit` in the session, then publish all that was loaded. Raises `NightloadError` or OSError."""
        ...

    def purge(self) -> None:
        """Let nothing of what is deleted stay in the file that the next `publish` shows, where there is one."""
        ...

    def destination(self) -> AnyDestination:
        """Where dlt reads its state from and loads to."""
        ...

    def write(self) -> AbstractContextManager[Session]:
        """A session for what belongs to the coming `publish`."""
        ...

    def clear_staging(self, dataset: str) -> None:
        """Drop what the last merge left in the staging dataset: it would only puzzle an analyst."""
        ...

    def index(self, dataset: str, table: str, columns: Sequence[str]) -> None:
        """Let the rows be found by these columns, where that pays."""
        ...

    def index_live(self, dataset: str, table: str, live: str) -> None:
        """Let the rows that meet the condition `live` be counted without reading them, where that pays: in a large
        table of which a night changes little."""
        ...

    def making_anew(self, tables: Sequence[tuple[str, str]]) -> AbstractContextManager[None]:
        """While these tables (dataset, name) are dropped and made again: what analysts built on them stays."""
        ...

    def explain(self, error: BaseException) -> BaseException:
        """The same error in words that tell what to do, where this warehouse knows them."""
        ...

    def refusal(self, error: BaseException, *, where: str) -> NightloadError | None:
        """What the database has against the rows of one table; None: the error is not about one table."""
        ...


def cause_of(error: BaseException | None, kind: type[E]) -> E | None:
    """The error of a database driver, however dlt wrapped it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        found = next((each for each in (error, *error.args) if isinstance(each, kind)), None)
        if found is not None:
            return found
        error = getattr(error, "client_exception", None) or error.__cause__ or error.__context__
    return None


def is_of_machine(error: BaseException) -> bool:
    """Is it what fails for every table?"""
    return cause_of(error, OSError) is not None or cause_of(error, MemoryError) is not None


def comment_statements(dataset: str, comments: Mapping[tuple[str, str], str]) -> str:
    """The statements that write comments; a comment is no parameter in either database."""
    return ";\n".join(
        f"COMMENT ON {'COLUMN' if column else 'TABLE'} {quote(dataset, table, *([column] if column else []))} "
        f"IS {literal(text.replace(chr(0), ''))}"
        for (table, column), text in comments.items()
    )
