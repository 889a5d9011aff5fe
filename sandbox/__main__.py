"""`python -m sandbox`: starts the vendors, writes one JSON line when all accept, runs until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from sandbox.core.faults import Rule, parse_rules
from sandbox.core.vendor import ControlError
from sandbox.core.wire import dumps, parse_iso, set_clock
from sandbox.registry import VENDORS
from sandbox.server import bind, serve
from sandbox.settings import settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"sandbox: {message}\n")
        sys.exit(2)


def _arguments() -> argparse.Namespace:
    parser = _Parser(prog="python -m sandbox", description="Plays vendors on loopback ports.")
    parser.add_argument("--vendors", default=",".join(VENDORS), help=f"comma separated, of: {', '.join(VENDORS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the row counts")
    parser.add_argument("--now", type=_moment, help="what the vendors' clock shows at first, ISO 8601 with a zone")
    parser.add_argument("--faults", type=Path, help='JSON file {"<vendor>": [rule, ...]}')
    parser.add_argument("--port-base", type=int, default=0, help="first port, one after the other; 0 takes free ones")
    parser.add_argument("--toml", action="store_true", help="write settings for .dlt in place of the JSON line")
    parser.add_argument("--exit-with-parent", action="store_true", help="stop when stdin closes")
    options = parser.parse_args()
    options.vendors = list(dict.fromkeys(name for name in options.vendors.split(",") if name))
    unknown = [name for name in options.vendors if name not in VENDORS]
    if unknown or not options.vendors:
        parser.error(f"unknown vendor {', '.join(unknown) or '(none)'}; there are: {', '.join(VENDORS)}")
    if options.scale <= 0:
        parser.error("--scale must be above 0")
    if not 0 <= options.port_base <= 65535 - len(options.vendors):
        parser.error(f"--port-base {options.port_base} is out of range")
    options.rules = {}
    if options.faults is not None:
        try:
            options.rules = _rules(options.faults)
        except (OSError, ValueError, TypeError, ControlError) as error:
            parser.error(f"--faults {options.faults}: {error}")
    try:
        options.sockets = [
            bind(options.port_base + offset if options.port_base else 0) for offset in range(len(options.vendors))
        ]
    except OSError as error:
        parser.error(f"--port-base {options.port_base}: {error}")
    return options


def _moment(text: str) -> datetime:
    moment = parse_iso(text)
    if moment.tzinfo is None:
        raise ValueError("no zone")
    return moment


def _rules(path: Path) -> dict[str, list[Rule]]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict) or set(content) - set(VENDORS):
        raise ControlError(f"expected an object with keys of: {', '.join(VENDORS)}")
    return {name: parse_rules(rules) for name, rules in content.items()}


def main() -> None:
    options = _arguments()
    set_clock(options.now)
    asyncio.run(
        serve(
            options.vendors,
            seed=options.seed,
            scale=options.scale,
            faults=options.rules,
            sockets=options.sockets,
            exit_with_parent=options.exit_with_parent,
            announce=settings if options.toml else lambda ready: dumps(ready).decode(),
        )
    )


if __name__ == "__main__":
    main()
