"""What a destination can do, said without resolving its settings each time; and which tables it refused."""

from __future__ import annotations

from typing import Any

from dlt.common.destination import Destination, DestinationCapabilitiesContext
from dlt.common.normalizers.naming import NamingConvention
from dlt.common.schema import Schema


class Capable(Destination[Any, Any]):
    """Whoever asks dlt what a database can do, some hundred times a night, has all of its settings looked for in the
    environment and in files, of which what DuckDB and Postgres can do does not depend: a tenth of a small night."""

    def capabilities(
        self, config: Any = None, naming: NamingConvention | None = None
    ) -> DestinationCapabilitiesContext:
        return super().capabilities(self.spec() if config is None else config, naming)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refused: dict[str, Exception] = {}
        """Table → why the database did not take what a load brought for it."""
        self._pending: dict[tuple[bool, str], list[str]] = {}

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        client = super().client(schema, initial_config)
        client.refused, client.pending = self.refused, self._pending
        return client
