"""The column types of a warehouse, in the words of either database."""

from __future__ import annotations

from dataclasses import dataclass

from sources.core.errors import NightloadError

# what nightload and dlt make; anything else is somebody's own table
_SAME = {
    "BIGINT": "bigint",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DOUBLE": "double precision",
    "JSON": "jsonb",
    "TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
    "VARCHAR": "character varying",
}
_OF_POSTGRES = {postgres: duckdb for duckdb, postgres in _SAME.items()}


@dataclass(frozen=True)
class ColumnType:
    """A column; `kind` is its DuckDB type."""

    name: str
    kind: str
    nullable: bool

    @property
    def postgres(self) -> str:
        return self.kind.replace("DECIMAL", "numeric") if self.kind.startswith("DECIMAL(") else _SAME[self.kind]


def from_duckdb(kind: str, *, where: str) -> str:
    """The type itself. Raises `NightloadError` for one that no vendor's table has."""
    if kind in _SAME or kind.startswith("DECIMAL("):
        return kind
    raise _unknown(kind, where)


def from_postgres(kind: str, *, where: str) -> str:
    """The DuckDB type of what `format_type` says. Raises `NightloadError` for one that no vendor's table has."""
    if kind.startswith("numeric("):
        return kind.replace("numeric", "DECIMAL").upper()
    found = _OF_POSTGRES.get(kind.partition("(")[0])
    if found is None:
        raise _unknown(kind, where)
    return found


def _unknown(kind: str, where: str) -> NightloadError:
    return NightloadError(
        what=f"a column has a type that nightload never makes: {kind}",
        where=where,
        todo="Move that table out of nightload's schemas, then start again",
    )
