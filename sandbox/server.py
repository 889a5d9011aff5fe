"""One process, one event loop, one loopback port per vendor."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sandbox.core.faults import Rule
from sandbox.core.gate import CONTROL_PREFIX, TRANSPORT, Gate
from sandbox.core.journal import Journal
from sandbox.registry import VENDORS

HOST = "127.0.0.1"


class _Protocol(H11Protocol):
    """Hands the transport to the app: ASGI has no word for "hang up now", and a vendor's proxy does just that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app = functools.partial(_with_transport, self.app, transport)


async def _with_transport(
    app: ASGIApp, transport: asyncio.Transport, scope: Scope, receive: Receive, send: Send
) -> None:
    scope[TRANSPORT] = transport
    await app(scope, receive, send)


class _Server(uvicorn.Server):
    """Signals belong to the process: several servers share it."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)


def bind(port: int) -> socket.socket:
    # The protocol has to be named: asyncio turns Nagle's algorithm off only then, and each answer would wait 40 ms.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    return sock


async def serve(
    vendors: Sequence[str],
    *,
    seed: int,
    scale: float,
    faults: Mapping[str, list[Rule]],
    sockets: Sequence[socket.socket],
    exit_with_parent: bool,
    announce: Callable[[dict[str, Any]], str],
) -> None:
    """Serve until SIGTERM or SIGINT; write what `announce` returns on stdout once every port accepts."""
    ready: dict[str, Any] = {}
    servers: list[_Server] = []
    for name, sock in zip(vendors, sockets, strict=True):
        journal = Journal()
        vendor = VENDORS[name](seed, scale, journal)
        origin = f"http://{HOST}:{sock.getsockname()[1]}"
        ready[name] = {**vendor.ready(origin), "control_url": f"{origin}{CONTROL_PREFIX}"}
        config = uvicorn.Config(
            Gate(vendor, journal, list(faults.get(name, []))),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            # A vendor's clock may be wrong on purpose: the gate adds the date where the vendor told none.
            date_header=False,
            # A loader may be busy between two requests; hanging up is for faults to do.
            timeout_keep_alive=120,
            timeout_graceful_shutdown=1,
        )
        servers.append(_Server(config))

    def stop() -> None:
        # Requests under way are dropped, not answered; the server would report each as an error.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        for server in servers:
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            server.should_exit = True
            server.force_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    running = [asyncio.create_task(server.serve([sock])) for server, sock in zip(servers, sockets, strict=True)]
    while not all(server.started for server in servers):
        await asyncio.sleep(0.005)
    sys.stdout.write(announce(ready) + "\n")
    sys.stdout.flush()
    if exit_with_parent:
        threading.Thread(target=_when_stdin_closes, args=(loop, stop), daemon=True).start()
    await asyncio.gather(*running)


def _when_stdin_closes(loop: asyncio.AbstractEventLoop, stop: Any) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    loop.call_soon_threadsafe(stop)
