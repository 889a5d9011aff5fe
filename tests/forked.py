"""Commands without their start: a process that has imported everything forks one for each.

To start Python and to import dlt takes two seconds of CPU, a fork some milliseconds. What is forked is a process like
any other: its own session, environment, folder, output and end, and it dies of the same signals.

`python forked.py` reads one JSON request a line and answers with {"id", "pid"} and, at the end of each, {"id", "code",
"peak" (MB of memory), "cpu" (seconds)}.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config.dlt_setup import SETTINGS
from sources import VENDORS

if TYPE_CHECKING:
    from conftest import Night

PRELOADED = (
    "httpcore",
    "pendulum.locales.en.locale",
    "pyarrow.compute",
    "pytz",
    "requests",
    "encodings.idna",
    "apscheduler.schedulers.background",
    *(
        f"dlt.{name}"
        for name in (
            "normalize.normalize",
            "load.load",
            "destinations.sql_jobs",
            "sources.helpers.requests",
            "common.configuration.plugins",
            "common.libs.pyarrow",
            "_workspace._plugins",
        )
    ),
    *(f"dlt.destinations.impl.{name}" for name in ("duckdb.duck", "postgres.postgres")),
    *(f"sources.{name}" for name in VENDORS),
    *(
        f"pipelines.warehouse.{name}"
        for name in ("duckdb.warehouse", "duckdb.reader", "postgres.dlt_destination", "postgres.reader")
    ),
    "pipelines.cli.main",
    "pipelines.cli.render",
    "pipelines.run.runner",
    "pipelines.scheduling.scheduler",
    *(f"pipelines.monitoring.{name}" for name in ("alerts", "html_report", "prometheus", "openlineage")),
)
CLI = "pipelines.cli.main:main"


class Forked:
    """One command under way; to be used like a Popen."""

    def __init__(self, out: Path, err: Path) -> None:
        self._out, self._err = out, err
        self._begun, self._ended = threading.Event(), threading.Event()
        self.pid = 0
        self.returncode: int | None = None
        self.peak = 0.0
        self.cpu = 0.0

    def poll(self) -> int | None:
        return self.returncode if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8")

    @property
    def told_so_far(self) -> str:
        return self._out.read_text(encoding="utf-8") if self._out.exists() else ""

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def told(self, answer: Mapping[str, Any]) -> None:
        if "pid" in answer:
            self.pid = answer["pid"]
            self._begun.set()
        else:
            self.returncode, self.peak, self.cpu = answer["code"], answer["peak"], answer["cpu"]
            self._ended.set()

    def lost(self) -> None:
        """Whoever forks is gone."""
        self.returncode = self.returncode if self._ended.is_set() else 255
        self._begun.set()
        self._ended.set()

    def begun(self) -> Forked:
        self._begun.wait(30)
        return self


class Forks:
    """A process that forks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Forked] = []
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), " " * 400],  # room for the words of a command, see `_named`
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith(("SOURCES__", "NIGHTLOAD_"))},
            bufsize=0,
        )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def start(
        self, *arguments: str, environment: Mapping[str, str], cwd: Path, main: str = CLI, arm: Sequence[Any] = ()
    ) -> Forked:
        """`arm`: where it is to kill itself, see `killed.py`."""
        with self._lock:
            number = len(self._children)
            out, err = (self._folder / f"{number}.{name}" for name in ("out", "err"))
            forked = Forked(out, err)
            self._children.append(forked)
            request = {
                "id": number,
                "main": main,
                "argv": ["nightload", *arguments],
                "environment": dict(environment),
                "cwd": str(cwd),
                "out": str(out),
                "err": str(err),
                "arm": [*arm],
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return forked.begun()

    def night(self, night: Night, *arguments: str, arm: Sequence[Any] = ()) -> Forked:
        return self.start(*arguments, environment=night.environment(), cwd=night.home, arm=arm)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._children[answer["id"]].told(answer)
        for child in self._children:
            child.lost()

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listening.join(10)


@contextmanager
def forks() -> Iterator[Forks]:
    with tempfile.TemporaryDirectory(prefix="nightload-forks-") as folder:
        found = Forks(Path(folder))
        try:
            yield found
        finally:
            found.stop()


# -- the process that forks ------------------------------------------------------------------------


def serve() -> Callable[[], Any]:
    """Fork until stdin closes. Returns in each child, with what it shall run."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()
    answers = os.dup(1)
    os.dup2(2, 1)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}
    rest = b""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            for number, told in _ended(children):
                os.write(answers, json.dumps({"id": number, **told}).encode() + b"\n")
        if 0 not in ready:
            continue
        read = os.read(0, 2**20)
        if not read:
            return lambda: None
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if not (pid := os.fork()):
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (answers, wake, woken):
                    os.close(descriptor)
                return _become(request)
            children[pid] = request["id"]
            os.write(answers, json.dumps({"id": request["id"], "pid": pid}).encode() + b"\n")


def _ended(children: dict[int, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    while children:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        code = os.waitstatus_to_exitcode(status)
        yield children.pop(pid), {"code": code, "peak": usage.ru_maxrss / 1024, "cpu": usage.ru_utime + usage.ru_stime}


def _become(request: Mapping[str, Any]) -> Callable[[], Any]:
    os.setsid()
    for path, descriptor in (("/dev/null", 0), (request["out"], 1), (request["err"], 2)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    named(sys.argv)
    module, _, name = request["main"].partition(":")
    run: Callable[[], Any] = getattr(import_module(module), name)
    if request["arm"]:
        import_module("killed").arm(*request["arm"])
    return run


def named(argv: Sequence[str]) -> None:
    """Let the system show these words as this process' command line."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    words = "\0".join(argv).encode()[: end - start - 1]
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(words.ljust(end - start, b"\0"))


def main() -> None:
    run = serve()
    code: Any = 0
    try:
        run()
    except SystemExit as ended:
        code = ended.code
    finally:
        # as at the end of any Python, but for taking apart all that was imported
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1 if code else 0)


if __name__ == "__main__":
    main()
