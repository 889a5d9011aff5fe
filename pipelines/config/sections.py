"""Sections of `.dlt/config.toml` and `.dlt/secrets.toml` that are nightload's own, read without dlt: it loads slowly.

The names are dlt's: `[alerts] webhook` is `ALERTS__WEBHOOK` in the environment, which wins.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from sources.core.errors import ConfigurationError, did_you_mean, summarize

Section = dict[str, Any]

_UNITS = {"m": 60, "h": 3600, "d": 86400}

SECTIONS: dict[str, tuple[str, ...]] = {
    "nightload": ("warehouse", "side_by_side", "publish", "pauses", "until"),
    "keep": ("days", "max_mb", "tables", "personal"),
    "status": ("stale_after",),
    "alerts": ("webhook", "email", "command", "heartbeat", "remind_after"),
    "alerts.email": ("host", "port", "security", "from", "to", "user", "password"),
    "drift": ("fewer_than", "min_rows", "dark"),
    "metrics": ("file",),
    "lineage": ("file", "url", "token", "namespace"),
    "dagster": ("first_day",),
}
"""The sections that `section` reads, and their settings."""


def section(home: Path, name: str, *, known: Collection[str]) -> Section:
    """One section, the files' and the environment's together. Raises `ConfigurationError` for an unknown setting."""
    found = merged(home, name)
    for error in unknown_settings(name, found, known=known):
        raise error
    return found


def merged(home: Path, name: str) -> Section:
    """The same, with settings that are unknown."""
    found: Section = {}
    for file in ("config.toml", "secrets.toml"):
        told = read_toml(home / ".dlt" / file).get(name, {})
        if not isinstance(told, dict):
            raise ConfigurationError(what=f"{name} is no section", where=file, todo=f"Write it as [{name}]")
        _merge(found, told)
    prefix = f"{name.upper()}__"
    for variable, raw in sorted(os.environ.items()):
        if variable.startswith(prefix):
            value = _parsed(raw)
            first, *rest = variable.removeprefix(prefix).lower().split("__")
            for part in reversed(rest):
                value = {part: value}
            _merge(found, {first: value})
    return found


def unknown_settings(
    name: str, told: Mapping[str, Any], *, known: Collection[str], where: str = ""
) -> Iterator[ConfigurationError]:
    """An error for each setting of a section, and of a section in it, that is not `known`."""
    for setting, value in told.items():
        inner = SECTIONS.get(f"{name}.{setting}")
        if setting not in known:
            todo = did_you_mean(setting, known, f"It has: {', '.join(sorted(known))}")
            yield ConfigurationError(what=f"there is no setting {name}.{setting}", where=where, todo=todo)
        elif inner and isinstance(value, Mapping):
            yield from unknown_settings(f"{name}.{setting}", value, known=inner, where=where)


def per_table(value: Any, table: str, vendor: str, default: Any) -> Any:
    """A setting that is one value, or a table of them by `dataset.table`, vendor or `default`."""
    if not isinstance(value, Mapping):
        return default if value is None else value
    return next((value[name] for name in (table, vendor, "default") if name in value), default)


def duration(value: Any, *, setting: str) -> timedelta | None:
    """`"26h"`, `"90m"`, `"8d"`; None for `"never"`. Raises `ConfigurationError`."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mhd])\s*", value) if isinstance(value, str) else None
    if found is not None and float(found[1]) * _UNITS[found[2]] <= timedelta(days=3660).total_seconds():
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    if value == "never":
        return None
    raise ConfigurationError(what=f"{setting} is no duration", todo='Write "26h", "90m", "8d" or "never"')


def share(value: Any, *, setting: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ConfigurationError(what=f"{setting} is no share", todo="Write a number from 0 to 1, such as 0.5")


def truth(value: Any, *, setting: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigurationError(what=f"{setting} is neither true nor false", todo="Write true or false, without quotes")


def text(section: Section, name: str, *, where: str) -> str | None:
    """A setting that is a text; None if it is not there or empty."""
    value = section.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise ConfigurationError(what=f"{where}.{name} is no text", todo="Write it in quotes")


def read_toml(path: Path) -> dict[str, Any]:
    """A file of `.dlt`; empty if there is none. Raises `ConfigurationError` for one that cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        # the parser's text names line and column, never the content
        raise ConfigurationError(
            what=f"{path} is not valid TOML", why=str(error), todo="Fix that line; quote texts"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(what=f"{path} cannot be read", why=summarize(error)) from None


def _merge(into: Section, other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def _parsed(value: str) -> Any:
    """A list, a table, a number or a truth value as JSON writes them; else the text itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value
