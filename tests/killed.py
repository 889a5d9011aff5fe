"""nightload's command line, made to kill itself (SIGKILL, no goodbye) at one point of a night.

    python killed.py <module:name> <before|after|term> <nth call> <text in its arguments> run …

`term`: a SIGTERM instead, before the call.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

from pipelines import cli, engine
from pipelines.place import Place


def arm(target: str, when: str, nth: int, text: str) -> None:
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *holders, name = path.split(".")
    for holder in holders:
        owner = getattr(owner, holder)
    original, calls = getattr(owner, name), 0

    def trap(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if text in repr((args, kwargs)):
            calls += 1
            if calls == nth:
                if when == "after":
                    original(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGTERM if when == "term" else signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, trap)


def main() -> None:
    target, when, nth, text, *arguments = sys.argv[1:]
    prepare = engine.prepare

    def prepare_and_arm(place: Place) -> None:
        prepare(place)
        arm(target, when, int(nth), text)

    engine.prepare = prepare_and_arm
    sys.argv = ["nightload", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
