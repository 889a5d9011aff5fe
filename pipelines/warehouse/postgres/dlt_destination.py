"""dlt on a connection that it does not own: its transactions are savepoints, its files go in by binary COPY."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pgpq
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq
from dlt.common.destination import AnyDestination, DestinationCapabilitiesContext
from dlt.common.destination.client import HasFollowupJobs, RunnableLoadJob
from dlt.common.destination.dataset import DBApiCursor
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.schema import Schema
from dlt.common.schema.typing import TColumnSchema
from dlt.destinations.exceptions import DatabaseTerminalException, DatabaseTransientException
from dlt.destinations.impl.postgres.configuration import PostgresClientConfiguration, PostgresCredentials
from dlt.destinations.impl.postgres.factory import PostgresTypeMapper, postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient
from dlt.destinations.impl.postgres.sql_client import Psycopg2SqlClient
from dlt.destinations.insert_job_client import InsertValuesJobClient
from dlt.destinations.sql_client import DBApiCursorImpl, raise_database_error
from dlt.destinations.typing import DBTransaction
from pgpq import encoders
from pgpq import schema as postgres_types

from pipelines.warehouse.dlt_capabilities import Capable
from pipelines.warehouse.postgres.connection import Shared
from pipelines.warehouse.table_by_table import OneTableJob, TableByTable
from sources.core.sql import quote

ROWS_AT_ONCE = 4096
"""Seven times as many are no faster, and take 45 MB more."""
CHUNK = 2**20


def destination_on(shared: Callable[[], Shared]) -> AnyDestination:
    """A dlt destination that does all it does over the connection that `shared` gives; a lost one is replaced."""
    credentials = PostgresCredentials("postgresql://unused:unused@unused/unused")
    return SharedPostgres(credentials, shared=shared)


class SharedPostgres(Capable, postgres):
    """dlt's Postgres, but for the connection, the form of its files, and that readers are not blocked."""

    def __init__(self, credentials: PostgresCredentials, *, shared: Callable[[], Shared]) -> None:
        super().__init__(credentials, destination_name="postgres")
        self._shared = shared

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        caps = super()._raw_capabilities()
        caps.preferred_loader_file_format = "parquet"
        caps.supported_loader_file_formats = ["parquet"]
        caps.loader_file_format_selector = None  # type: ignore[assignment]
        caps.type_mapper = JsonbTypeMapper
        caps.supports_truncate_command = False  # TRUNCATE would keep readers out until the commit
        return caps

    @property
    def client_class(self) -> type[PostgresClient]:
        shared = self._shared

        class Client(SharedClient):
            def __init__(
                self, schema: Schema, config: PostgresClientConfiguration, capabilities: DestinationCapabilitiesContext
            ) -> None:
                super().__init__(schema, config, capabilities, shared=shared())

        return Client


class JsonbTypeMapper(PostgresTypeMapper):
    """dlt falls back to json for parquet, since its own way to load that cannot write jsonb."""

    def to_destination_type(self, column: TColumnSchema, table: PreparedTableSchema) -> str:
        if column["data_type"] == "json":
            return "jsonb"
        return super().to_destination_type(column, table)


class SharedClient(TableByTable, PostgresClient):
    def __init__(
        self,
        schema: Schema,
        config: PostgresClientConfiguration,
        capabilities: DestinationCapabilitiesContext,
        *,
        shared: Shared,
    ) -> None:
        names = InsertValuesJobClient.create_dataset_names(schema, config)
        client = SharedSqlClient(*names, config.credentials, capabilities, shared=shared)
        InsertValuesJobClient.__init__(self, schema, config, client)
        self.config = config
        self.sql_client = client
        self.active_hints = {}
        self.type_mapper = self.capabilities.get_type_mapper()

    @property
    def copy_job(self) -> type[RunnableLoadJob]:  # type: ignore[override]
        return CopyJob


class SharedSqlClient(Psycopg2SqlClient):
    """The shared connection as dlt's own; each statement and each transaction of dlt is a step of ours."""

    def __init__(
        self,
        dataset_name: str,
        staging_dataset_name: str,
        credentials: PostgresCredentials,
        capabilities: DestinationCapabilitiesContext,
        *,
        shared: Shared,
    ) -> None:
        super().__init__(dataset_name, staging_dataset_name, credentials, capabilities)
        self.shared = shared

    def open_connection(self) -> Any:
        self._conn = self.shared.connection
        return self._conn

    def close_connection(self) -> None:
        self._conn = None

    @contextmanager
    def begin_transaction(self) -> Iterator[DBTransaction]:
        with self.shared.step():
            yield self

    @contextmanager
    @raise_database_error
    def execute_query(self, query: Any, *args: Any, **kwargs: Any) -> Iterator[DBApiCursor]:
        with self.shared.step() as cursor:
            cursor.execute(query, args or kwargs or None)
            yield DBApiCursorImpl(cast(DBApiCursor, cursor))

    @classmethod
    def _make_database_exception(cls, ex: Exception) -> Exception:
        """dlt tries again what may pass, but in one transaction nothing does: a lock was waited for, a line is lost."""
        made = super()._make_database_exception(ex)
        return DatabaseTerminalException(ex) if isinstance(made, DatabaseTransientException) else made

    def commit_transaction(self) -> None:
        raise NotImplementedError("a run commits once, when it publishes")

    def rollback_transaction(self) -> None:
        raise NotImplementedError("a run commits once, when it publishes")


class BinaryCopyJob(RunnableLoadJob, HasFollowupJobs):
    """A parquet file into its table by COPY in Postgres' binary form: no text is written or parsed."""

    _job_client: SharedClient

    def run(self) -> None:
        client = cast(SharedSqlClient, self._job_client.sql_client)
        columns = self._job_client.schema.get_table_columns(self.load_table_name)
        json = {name for name, column in columns.items() if column["data_type"] == "json"}
        table = client.make_qualified_table_name(self.load_table_name)
        copy_file(client.shared, table, Path(self._file_path), json=json)


class CopyJob(OneTableJob, BinaryCopyJob):
    """The same, noted if it is refused."""


def copy_file(shared: Shared, table: str, parquet: Path, *, json: Collection[str]) -> None:
    """Add the rows of a file to a (quoted) table by COPY; `json` are its columns that hold JSON.

    Raises `psycopg2.Error`, also if not all rows arrive.
    """
    file = pq.ParquetFile(parquet)
    names = ", ".join(map(quote, file.schema_arrow.names))
    with shared.step() as cursor:
        source = io.BufferedReader(_Chunks(binary_rows(file, json=json)), CHUNK)
        cursor.copy_expert(f"COPY {table} ({names}) FROM STDIN (FORMAT binary)", source, CHUNK)
        if cursor.rowcount != file.metadata.num_rows:
            raise psycopg2.DataError(f"{file.metadata.num_rows} rows were sent, {cursor.rowcount} arrived")


def binary_rows(file: pq.ParquetFile, *, json: Collection[str]) -> Iterator[bytes]:
    """The rows of a parquet file in the form that COPY reads."""
    schema = pa.schema([pa.field(field.name, _sent_as(field.type)) for field in file.schema_arrow])
    encoder = pgpq.ArrowToPostgresBinaryEncoder.new_with_encoders(
        schema,
        {
            field.name: encoders.StringEncoderBuilder.new_with_output(field, postgres_types.Jsonb())
            if field.name in json
            else pgpq.ArrowToPostgresBinaryEncoder.infer_encoder(field)
            for field in schema
        },
    )
    yield encoder.write_header()
    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
        for part in pa.Table.from_batches([batch]).cast(schema).to_batches():
            yield encoder.write_batch(part)
    yield encoder.finish()


def _sent_as(kind: pa.DataType) -> pa.DataType:
    """The binary form is of the column's own type, to the byte: there are no other integers, texts or times."""
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind


class _Chunks(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size
