"""Notifiers: HTTP, mail, command. Each raises on failure; no error shows an address, which is a secret."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from functools import wraps
from typing import IO, Any, ParamSpec

from sources.core.errors import ConfigurationError, NightloadError, one_line

SECONDS = 10
COMMAND_SECONDS = 60
SEND_SECONDS = 90
"""Limit of a whole delivery; `SECONDS` limits a single network operation."""
WHY_BYTES = 2000

_SECRET_PREFIXES = ("SOURCES__", "NIGHTLOAD_", "ALERTS__", "LINEAGE__", "PERSONAL__", "DESTINATION__", "PGPASSWORD")
"""Environment variables with secrets; a command does not inherit them."""

P = ParamSpec("P")


def _in_time(send: Callable[P, None]) -> Callable[P, None]:
    """Stop waiting after `SEND_SECONDS`: DNS may hang, or a server may answer one byte at a time."""

    @wraps(send)
    def bounded(*args: P.args, **named: P.kwargs) -> None:
        failed: list[BaseException] = []

        def work() -> None:
            try:
                send(*args, **named)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                failed.append(error)

        sending = threading.Thread(target=work, daemon=True)
        sending.start()
        sending.join(SEND_SECONDS)
        if sending.is_alive():
            raise NightloadError(what=f"no delivery within {SEND_SECONDS} s")
        if failed:
            raise failed[0]

    return bounded


def post(url: str, document: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> None:
    """Send a JSON document. Raises `NightloadError` unless the response is 2xx."""
    _request("POST", url, json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"), headers)


def ping(url: str) -> None:
    _request("GET", url, None, None)


@_in_time
def _request(method: str, url: str, body: bytes | None, headers: Mapping[str, str] | None) -> None:
    import httpx

    kind = {"Content-Type": "application/json; charset=utf-8"} if body else {}
    try:
        with (
            httpx.Client(timeout=SECONDS, follow_redirects=False) as client,
            # only the status is read: the body may be endless
            client.stream(method, url, content=body, headers={**kind, **(headers or {})}) as response,
        ):
            status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # the type only: the text may contain the address, which is a secret
        raise NightloadError(what="no response", why=f"{type(error).__name__} within {SECONDS} s") from None
    if not 200 <= status < 300:
        raise NightloadError(what=f"HTTP {status}", todo="Check the address")


@_in_time
def mail(settings: Mapping[str, Any], *, subject: str, body: str) -> None:
    """Send a plain mail. Raises `ConfigurationError`, OSError, SMTPException."""
    host, port = str(settings["host"]), int(settings.get("port") or 587)
    security = settings.get("security") or ("tls" if port == 465 else "starttls")
    if security not in ("tls", "starttls", "none"):
        raise ConfigurationError(what="alerts.email.security is unknown", todo="Write starttls, tls or none")
    to = settings["to"]
    message = EmailMessage()
    message["Subject"] = one_line(subject)[:200]
    message["From"] = str(settings.get("from") or f"nightload@{host}")
    message["To"] = to if isinstance(to, str) else ", ".join(map(str, to))
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain="nightload.invalid")
    message.set_content(body)
    user, password = settings.get("user"), settings.get("password")
    if security == "none" and password:
        raise ConfigurationError(
            what="alerts.email has a password and security none", todo="Write starttls or tls: none sends it in clear"
        )
    context = ssl.create_default_context()
    if security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, port, timeout=SECONDS)
    try:
        if security == "starttls":
            server.starttls(context=context)
        if user and password:
            server.login(str(user), str(password))
        server.send_message(message)
        with suppress(OSError, smtplib.SMTPException):  # the mail is already accepted
            server.quit()
    finally:
        server.close()


def run_command(words: Sequence[str], document: Mapping[str, Any]) -> None:
    """Run a command with the document as JSON on its stdin. Raises `NightloadError` if it fails or takes too long."""
    with tempfile.TemporaryFile() as stdin:  # a pipe blocks if the command does not read it
        stdin.write(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))
        stdin.seek(0)
        process = subprocess.Popen(  # noqa: S603 - the user's own command, without a shell
            [str(word) for word in words],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={
                name: value
                for name, value in os.environ.items()
                if name == "NIGHTLOAD_HOME" or not name.upper().startswith(_SECRET_PREFIXES)
            },
            start_new_session=True,
        )
    stderr = bytearray()
    reading = threading.Thread(target=_drain, args=(process.stderr, stderr), daemon=True)
    reading.start()
    try:
        code = process.wait(COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise NightloadError(what=f"the command timed out after {COMMAND_SECONDS} s") from None
    reading.join(1)  # a surviving child process may hold stderr open
    if code:
        why = one_line(bytes(stderr).decode("utf-8", "replace"))[:200]
        raise NightloadError(what=f"the command failed with exit code {code}", why=why)


def _drain(pipe: IO[bytes], stderr: bytearray) -> None:
    """Read to the end; store the first `WHY_BYTES`."""
    with pipe:
        while chunk := os.read(pipe.fileno(), 65536):
            stderr += chunk[: WHY_BYTES - len(stderr)]
