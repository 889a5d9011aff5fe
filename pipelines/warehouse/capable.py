"""What a destination can do, told without resolving its settings each time."""

from __future__ import annotations

from typing import Any

from dlt.common.destination import Destination, DestinationCapabilitiesContext
from dlt.common.normalizers.naming import NamingConvention


class Capable(Destination[Any, Any]):
    """Whoever asks dlt what a database can do, some hundred times a night, has all of its settings looked for in the
    environment and in files, of which what DuckDB and Postgres can do does not depend: a tenth of a small night."""

    def capabilities(
        self, config: Any = None, naming: NamingConvention | None = None
    ) -> DestinationCapabilitiesContext:
        return super().capabilities(self.spec() if config is None else config, naming)
