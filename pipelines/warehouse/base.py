"""What a run, its counts and its ledger ask of a warehouse, whichever database it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipelines.config.project import OWN_DATASET
from pipelines.ledger.store import INCIDENTS, TABLES, Ledger, key_of
from pipelines.warehouse.types import ColumnType
from sources.core.sql import literal, quote

if TYPE_CHECKING:
    from dlt.common.destination import AnyDestination

Rows = list[tuple[Any, ...]]
E = TypeVar("E", bound=BaseException)

TYPES = {"TIMESTAMP": "TIMESTAMPTZ", "TEXT": "VARCHAR", "DOUBLE": "DOUBLE PRECISION"}
"""Ledger type → SQL type, where both databases have a better one."""


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

    def publish(self, ledger: Ledger) -> None:
        """Write the ledger's news, and show readers all that was loaded. Raises `NightloadError` or OSError."""
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


def add_rows(session: Session, table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to `nightload.<table>`, which is made if it is not there."""
    target = quote(OWN_DATASET, table)
    types = {name: TYPES.get(kind, kind) for name, kind in columns.items()}
    if table not in session.tables(OWN_DATASET):
        session.create_dataset(OWN_DATASET)
        spec = ", ".join(f"{quote(name)} {kind}" for name, kind in types.items())
        session.change(f"CREATE TABLE {target} ({spec})")
    if rows:
        session.insert(target, types, rows)


def replace_rows(
    session: Session, table: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, where: str
) -> None:
    """In `nightload.<table>`, put `rows` in place of those that meet the SQL condition `where`."""
    if table in session.tables(OWN_DATASET):
        session.change(f"DELETE FROM {quote(OWN_DATASET, table)} WHERE {where}")  # noqa: S608
    add_rows(session, table, columns, rows)


def write_ledger(session: Session, ledger: Ledger, runs: Sequence[str]) -> None:
    """Show what the ledger says of these runs, and of whatever else has an id there, in the dataset `nightload`."""
    ids = ", ".join(f"'{run_id}'" for run_id in runs)
    for table, columns in TABLES.items():
        where = f"{key_of(table)} IN ({ids})" if ids else "false"
        replace_rows(session, table, columns, ledger.rows(table, runs), where=where)
    write_incidents(session, ledger)
    if any(map(ledger.is_closed, runs)):  # once a night
        from pipelines.catalog.comments import comment_ours  # dlt comes with it, and readers are quick without

        comment_ours(session)


def void_backfills(session: Session, ledger: Ledger, dataset: str, table: str) -> None:
    """The table is made anew: of what was backfilled, nothing counts as done."""
    ledger.void_backfills(dataset, table)
    # a chunk whose process was killed as it ended is known here alone
    if "backfills" in session.tables(OWN_DATASET):
        session.change(
            f"UPDATE {quote(OWN_DATASET, 'backfills')} SET status = 'void' WHERE dataset = ? AND table_name = ?",  # noqa: S608
            [dataset, table],
        )


def comment_statements(dataset: str, comments: Mapping[tuple[str, str], str]) -> str:
    """The statements that write comments; a comment is no parameter in either database."""
    return ";\n".join(
        f"COMMENT ON {'COLUMN' if column else 'TABLE'} {quote(dataset, table, *([column] if column else []))} "
        f"IS {literal(text.replace(chr(0), ''))}"
        for (table, column), text in comments.items()
    )


def write_incidents(session: Session, ledger: Ledger) -> None:
    """Show every incident there was; where there never was one, no table."""
    if incidents := ledger.incidents():
        replace_rows(session, "incidents", INCIDENTS, incidents, where="true")
