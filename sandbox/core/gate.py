"""The door in front of a vendor: counts requests, waits the set latency, applies faults, and lets control pass by.

The vendor's answer is taken whole before anything is sent, so a fault can change it, and an edit "after this request"
is done when the answer is already rendered and before the client can possibly send its next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from email.utils import format_datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandbox.core.control import Control
from sandbox.core.faults import Answer, Rule, changed, instead_of
from sandbox.core.journal import Journal
from sandbox.core.vendor import ControlError, Vendor
from sandbox.core.wire import now

CONTROL_PREFIX = "/__control__"
TRANSPORT = "sandbox.transport"
CHUNK = 1 << 18

logger = logging.getLogger(__name__)


class Gate:
    def __init__(self, vendor: Vendor, journal: Journal, rules: list[Rule]) -> None:
        self.vendor = vendor
        self.journal = journal
        self.control = Control(vendor, journal, rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path == CONTROL_PREFIX or path.startswith(CONTROL_PREFIX + "/"):
            answer = await self.control.answer(
                scope["method"], path[len(CONTROL_PREFIX) :].strip("/"), await _body(receive)
            )
            await _transmit(answer, scope, receive, send)
            return
        method: str = scope["method"]
        # A vendor whose actions share one path tells them apart itself.
        target = getattr(self.vendor, "target", _target)(scope)
        self.journal.enter(method, target.partition("?")[0])
        try:
            await self._serve(method, target, scope, receive, send)
        finally:
            self.journal.leave()

    async def _serve(self, method: str, target: str, scope: Scope, receive: Receive, send: Send) -> None:
        dos = [rule.do for rule in self.control.rules if rule.takes(method, target)]
        await asyncio.sleep(self.control.latency + sum(float(do.get("delay", 0)) for do in dos))
        if any(do.get("expire_token") for do in dos):
            self.vendor.expire_tokens()
        if any(do.get("drop") for do in dos):
            await _hang_up(scope, receive)
            return
        answer = instead_of(dos)
        if answer is None:
            answer = await self._ask(self.vendor.app, method, target, scope, receive)
        answer = changed(dos, answer, self.vendor)
        for do in dos:
            edits = do.get("edit", [])
            for edit in edits if isinstance(edits, list) else [edits]:
                try:
                    self.vendor.edit(edit)
                except (ControlError, ValueError, TypeError, KeyError) as error:
                    self.journal.unexpected(method, target, f"the edit of a fault failed: {error}")
        await _transmit(answer, scope, receive, send)

    async def _ask(self, app: ASGIApp, method: str, target: str, scope: Scope, receive: Receive) -> Answer:
        start: Mapping[str, Any] = {}
        chunks: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            else:
                chunks.append(bytes(message.get("body", b"")))

        try:
            await app(scope, receive, collect)
        except Exception:
            logger.exception("sandbox error at %s %s", method, target.split("?")[0])
            self.journal.unexpected(method, target, "the sandbox itself failed, see its stderr")
            return Answer(500, (), b"").with_body(
                b'{"message": "Internal Server Error"}', content_type="application/json"
            )
        return Answer(
            int(start["status"]), tuple(start["headers"]), chunks[0] if len(chunks) == 1 else b"".join(chunks)
        )


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


async def _body(receive: Receive) -> bytes:
    chunks = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(chunks)


async def _transmit(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    headers = list(answer.headers)
    if not any(name.lower() == b"date" for name, _ in headers):
        headers.append((b"date", format_datetime(now(), usegmt=True).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = memoryview(answer.body)
    if answer.cut is not None:
        await send({"type": "http.response.body", "body": bytes(body[: answer.cut]), "more_body": True})
        await _hang_up(scope, receive)
        return
    for offset in range(0, len(body) - CHUNK, CHUNK):
        await send({"type": "http.response.body", "body": bytes(body[offset : offset + CHUNK]), "more_body": True})
    tail = max(0, (len(body) - 1) // CHUNK * CHUNK)
    await send({"type": "http.response.body", "body": bytes(body[tail:])})


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Closes the connection after what was written; waits until the server has noticed, or it would answer 500."""
    scope[TRANSPORT].close()
    while (await receive())["type"] != "http.disconnect":
        pass
