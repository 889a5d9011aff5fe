"""What a vendor has to offer to be served: an ASGI app, and the few verbs the control path and the faults need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.types import ASGIApp

Json = Any
"""Parsed JSON as it came from a control request: checked where it is used, by the vendor that knows its tables."""


class ControlError(Exception):
    """A control request that names something the vendor does not have. The text is the answer, with status 400."""


class Vendor(Protocol):
    name: str
    app: ASGIApp

    def ready(self, origin: str) -> dict[str, Json]:
        """The vendor's part of the ready line, `origin` being `http://127.0.0.1:<port>`."""

    def reset(self) -> None:
        """Data, options and tokens back to the seed."""

    def truth(self) -> dict[str, dict[str, Json]]:
        """Per table `{"count": n, "keys": [...]}`, hidden rows included."""

    def truth_rows(self, table: str) -> bytes:
        """The JSON body `{"rows": [...]}` of one table. Raises ControlError for an unknown table."""

    def edit(self, edit: Mapping[str, Json]) -> dict[str, Json]:
        """Insert, update, delete or execute; returns the key touched. Raises ControlError."""

    def options(self, options: Mapping[str, Json]) -> None:
        """Takes the options it knows. Raises ControlError for one it does not."""

    def emptied(self, body: Json) -> Json:
        """The same envelope with no rows in it."""

    def drifted(self, body: Json, by: int) -> Json:
        """The same envelope with its row count off by `by`."""

    def expire_tokens(self) -> None:
        """Whatever was handed out or accepted as a credential stops working."""
