"""The envelope of every answer, and refusals (section 4).

Body status and HTTP status differ now and then: clients have to check both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.core.wire import dumps

THROTTLE = {
    "decision": "Permit",
    "decision_authority": "default",
    "decision_state": "ok",
    "object_key": "",
    "virtual_record": False,
    "next_reset": "N/A",
    "count_remaining": 0,
    "limit": 0,
    "interval": 0,
}


@dataclass(frozen=True)
class Reply:
    body: bytes
    status: int = 200
    content_type: str = "application/json"


class Refusal(Exception):
    def __init__(
        self, status: int, message: str, *, body_status: int = 0, single: bool = False, unexpected: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body_status = body_status or status
        self.errors: Any = {"message": message} if single else [{"message": message}]
        self.unexpected = unexpected

    def reply(self) -> Reply:
        body = {"status_code": self.body_status, "response_size": "266", "data": "", "errors": self.errors}
        return Reply(dumps(body), self.status)


def enveloped(data: Any, *, throttle: bool = False, status_pre: bool = False) -> Reply:
    """`response_size` is a text, and about the size."""
    content = dumps(data)
    name = b'"status_pre"' if status_pre else b'"status_code"'
    tail = b',"throttle":' + dumps(THROTTLE) if throttle else b""
    size = str(len(content) + 49).encode()
    return Reply(b"{" + name + b':200,"response_size":"' + size + b'","data":' + content + tail + b"}")


def bad_key(key: str) -> Refusal:
    """What is no key is refused in the open; a well-formed one that nobody has comes as HTTP 200 with 404 inside."""
    if len(key) == 32:
        return Refusal(200, "Api key was not found.", body_status=404)
    return Refusal(401, "API key is missing or invalid.")
