"""Those who are told: an HTTP address and a mail server on loopback, which keep what they were sent."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """`status` is what it answers to the next request; 0 hangs up. `endless`: its answer has no end; `drips`: it comes
    a byte at a time."""

    url: str = ""
    port: int = 0
    status: int = 200
    endless: bool = False
    drips: bool = False
    paths: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def documents(self) -> list[Any]:
        return [json.loads(body) for body in self.bodies]


@contextmanager
def http_receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            if kept.status == 0:
                self.close_connection = True
                return
            if 200 <= kept.status < 300:
                kept.paths.append(self.path)
                kept.headers.append(dict(self.headers))
                kept.bodies.append(body)
            if kept.drips:
                with suppress(OSError):
                    for _ in range(60):
                        self.wfile.write(b"H")
                        self.wfile.flush()
                        time.sleep(0.05)
                return
            self.send_response(kept.status)
            self.send_header("Content-Length", str(10**12) if kept.endless else "0")
            self.end_headers()
            with suppress(OSError):
                while kept.endless:
                    self.wfile.write(b"x" * 65536)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None: ...

    with _serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        kept.port, kept.url = port, f"http://127.0.0.1:{port}"
        yield kept


@contextmanager
def mail_receiver(*, parting: bytes = b"221 bye\r\n") -> Iterator[Receiver]:
    """A mail server that takes what it is given; `paths` are the recipients."""
    kept = Receiver()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline().decode().strip():
                word = line.split()[0].upper()
                if word == "DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = []
                    while (text := self.rfile.readline().decode()) not in (".\r\n", ""):
                        lines.append(text)
                    kept.bodies.append("".join(lines))
                if word == "RCPT":
                    kept.paths.append(line.partition(":")[2])
                self.wfile.write(parting if word == "QUIT" else b"250 well\r\n")
                if word == "QUIT":
                    return

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads = True, True

    with _serving(Server(("127.0.0.1", 0), Handler)) as port:
        kept.port = port
        yield kept


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[index]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
