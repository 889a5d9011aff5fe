"""The envelope of every answer, and refusals: HTTP 200 with a return code (sheet, section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.core.wire import dumps


@dataclass(frozen=True)
class Reply:
    body: bytes
    status: int = 200
    content_type: str = "application/json"


class Refusal(Exception):
    def __init__(self, code: int, message: str, *, unexpected: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.unexpected = unexpected

    def reply(self) -> Reply:
        """Errors have no `data` key."""
        return Reply(
            dumps(
                {
                    "return_code": self.code,
                    "return_message": str(self),
                    "stackMessage": "at cn.thinkingdata.Open\n  at Api",
                    "showStackMessage": False,
                }
            )
        )


def enveloped(data: Any) -> Reply:
    return Reply(
        dumps(
            {
                "data": data,
                "return_code": 0,
                "return_message": "success",
                "stackMessage": "",
                "showStackMessage": False,
            }
        )
    )
