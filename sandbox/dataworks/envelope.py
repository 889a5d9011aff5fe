"""Answers and refusals (sections 1 and 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sandbox.core.wire import dumps


@dataclass(frozen=True)
class Reply:
    body: bytes
    status: int = 200


class Refusal(Exception):
    """A no. `in_envelope`: as HTTP 200 with `Success: false`, and not as the gateway's error."""

    def __init__(
        self, status: int, code: str, message: str, *, in_envelope: bool = False, unexpected: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.in_envelope, self.unexpected = in_envelope, unexpected

    def reply(self) -> Reply:
        if self.in_envelope:
            body = {"HttpStatusCode": 200, "Success": False, "ErrorCode": self.code, "ErrorMessage": self.message}
            return Reply(dumps({"RequestId": request_id(), **body}), 200)
        host = "dataworks.cn-shanghai.aliyuncs.com"
        body = {
            "Message": self.message,
            "HostId": host,
            "Code": self.code,
            "Recommend": "https://error-center.aliyun.com",
        }
        return Reply(dumps({"RequestId": request_id(), **body}), self.status)


def enveloped(data: Any) -> Reply:
    """API, application and authority answers. A success fills the error's fields too, as the vendor's samples do."""
    head = {"HttpStatusCode": 200, "Success": True, "ErrorCode": "0", "ErrorMessage": "正常"}
    return Reply(dumps({"RequestId": request_id(), **head, "Data": data}))


def bare(payload: dict[str, Any]) -> Reply:
    """Groups, folders, tests and projects: no word on success."""
    return Reply(dumps({"RequestId": request_id(), **payload}))


def request_id() -> str:
    return str(uuid4()).upper()
