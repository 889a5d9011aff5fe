"""dlt's load, but a table that the database refuses stops no other, and stays as it was.

What is done to one table (its new columns, the rows that go, the rows that come) is one transaction, and on Postgres a
savepoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

from dlt.common.destination.client import HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.schema import Schema
from dlt.common.schema.typing import TSchemaTables
from dlt.destinations.exceptions import DatabaseTerminalException
from dlt.destinations.impl.duckdb.duck import DuckDbCopyJob
from dlt.destinations.job_client_impl import SqlJobClientBase, SqlLoadJob


class TableByTable(SqlJobClientBase):
    """A job client that notes in `refused` (table → why) what the database refuses, for who asked for the load.

    `pending`: (is it staged?, table) → the statements that make the table or its new columns; its job executes them.
    """

    refused: dict[str, Exception]
    pending: dict[tuple[bool, str], list[str]]
    copy_job: type[RunnableLoadJob]

    def initialize_storage(self, truncate_tables: Iterable[str] | None = None) -> None:
        staged = self.sql_client.is_staging_dataset_active
        super().initialize_storage([name for name in truncate_tables or () if (staged, name) not in self.pending])

    def should_truncate_table_before_load(self, table_name: str) -> bool:
        """No: its job does it."""
        return False

    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        return MergeJob(file_path) if SqlLoadJob.is_sql_job(file_path) else self.copy_job(file_path)

    def _delete_schema_in_storage(self, schema: Schema) -> None:
        """Delete the stored versions of the schema, if there are any: an empty staging schema has no such table."""
        is_there, _ = self.get_storage_table(schema.version_table_name)
        if is_there:
            super()._delete_schema_in_storage(schema)

    def _execute_schema_update_sql(self, only_tables: Iterable[str], store_schema: bool = True) -> TSchemaTables:
        update: TSchemaTables = {}
        now: list[str] = []
        for name, columns in list(self.get_storage_tables(only_tables or self.schema.tables.keys())):
            statements, changed = self._build_schema_update_sql([(name, columns)])
            update |= changed
            if name in self.schema.dlt_table_names():
                now += statements
            elif statements:
                self.pending[self.sql_client.is_staging_dataset_active, name] = statements
        if now:
            self.sql_client.execute_many(now)
        if store_schema:
            self._update_schema_in_storage(self.schema)
        return update


class OneTableJob(RunnableLoadJob):
    """A job whose failure is noted, and never tried again: in one transaction nothing passes."""

    def run(self) -> None:
        client, table = cast(TableByTable, self._job_client), self.load_table_name
        merges = isinstance(self, SqlLoadJob)  # from what was staged
        statements = client.pending.pop((client.sql_client.is_staging_dataset_active and not merges, table), [])
        replaces = not merges and self._load_table["write_disposition"] == "replace"
        try:
            with client.sql_client.begin_transaction():
                if statements:
                    client.sql_client.execute_many(statements)
                if replaces:
                    client.sql_client.truncate_tables(table)
                super().run()  # type: ignore[safe-super]
        except Exception as error:
            client.refused.setdefault(table, error)
            raise DatabaseTerminalException(error) from error


class MergeJob(OneTableJob, SqlLoadJob):
    """The statements that merge what was staged."""

    def maybe_transaction(self, sql: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()


class DuckDbFileJob(OneTableJob, DuckDbCopyJob, HasFollowupJobs):
    """A parquet file into its table."""
