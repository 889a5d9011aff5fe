"""Answers that are not the one asked for, as the handlers raise them."""

from __future__ import annotations

from typing import Any

LOGIN = "Couldn't find resource. Please login and try again."
NOT_FOUND = (
    "The requested URL was not found on the server. "
    "If you entered the URL manually please check your spelling and try again."
)
NO_RESULT = "No cached result found for this query."
FORBIDDEN = (
    "You don't have the permission to access the requested resource. "
    "It is either read-protected or not readable by the server."
)


class Refusal(Exception):
    def __init__(self, status: int, payload: dict[str, Any], *, unexpected: str = "") -> None:
        super().__init__(payload)
        self.status = status
        self.payload = payload
        self.unexpected = unexpected
        """Why a client that knows the sheet would not have sent this; goes to stats.unexpected."""


def not_found() -> Refusal:
    return Refusal(404, {"message": NOT_FOUND})


def server_error(why: str = "") -> Refusal:
    return Refusal(500, {"message": "Internal Server Error"}, unexpected=why)


def job_error(status: int, text: str) -> Refusal:
    """The other error shape: a job that never was (section 6)."""
    return Refusal(status, {"job": {"status": 4, "error": text}})
