"""Starts `python -m sandbox` as a process of its own and talks to its control path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parent.parent


class SandboxProcess:
    """Use as a context manager. The process also ends by itself when this one dies: its stdin closes then."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox", "--exit-with-parent", *args],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the sandbox ended with {self._process.wait(5)} before it was ready, see its stderr")
        self.ready: dict[str, dict[str, Any]] = json.loads(line)
        self._http = httpx.Client(timeout=30, verify=False)

    @property
    def tonalytica(self) -> dict[str, Any]:
        return self.ready["tonalytica"]

    @property
    def tune(self) -> dict[str, Any]:
        return self.ready["tune"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def control(self, vendor: str, method: str, path: str, body: Any = None) -> Any:
        """One call of the control path; `body` is sent as JSON. Raises AssertionError when it is refused."""
        url = f"{self.ready[vendor]['control_url']}/{path}"
        content = None if body is None else json.dumps(body).encode()
        answer = self._http.request(method, url, content=content)
        assert answer.status_code == 200, f"{method} {path}: {answer.text}"
        return json.loads(answer.content)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._http.close()
        self._process.terminate()
        try:
            return self._process.wait(5)
        finally:
            if self._process.poll() is None:
                self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def start_sandbox(*args: str) -> SandboxProcess:
    return SandboxProcess(*args)
