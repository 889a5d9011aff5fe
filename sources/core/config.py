"""Settings of a vendor, from `.dlt/*.toml` and the environment by dlt's own names.

dlt finds the values; here each mistake becomes an error that names the setting and what to write.
Secrets are registered with the redactor before anything else can see them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import dlt
from dlt.common.configuration import known_sections
from dlt.common.configuration.exceptions import ConfigFieldMissingException, ConfigurationException
from dlt.common.configuration.resolve import resolve_configuration
from dlt.common.configuration.specs import BaseConfiguration

from sources import VENDORS
from sources.core.errors import ConfigurationError, did_you_mean, refuse_together, summarize
from sources.core.redaction import register_secret

TSettings = TypeVar("TSettings", bound=BaseConfiguration)

DLT_SECTIONS = {value for name, value in vars(known_sections).items() if name.isupper()} | {"runtime", "credentials"}
"""dlt's own sections: of a file, of a pipeline's section, and of a source's."""


def settings_of(vendor: str, spec: TSettings, *, secrets: tuple[str, ...]) -> TSettings:
    """Resolve `[sources.<vendor>]`. `secrets` names the fields that no log may show.

    Raises `ConfigurationError` for a missing, unknown or mistyped setting.
    """
    where = f"sources.{vendor}"
    _register(where, secrets)
    _register_of_all()
    refuse_together(unknown_settings(vendor, spec))
    try:
        return resolve_configuration(spec, sections=("sources", vendor))
    except ConfigFieldMissingException as error:
        names = ", ".join(f"{where}.{name}" for name in error.fields)
        variables = ", ".join(f"{where}.{name}".upper().replace(".", "__") for name in error.fields)
        raise ConfigurationError(
            what=f"{names} is not set", todo=f"Write it into .dlt/secrets.toml, or set {variables}"
        ) from None
    except (ConfigurationException, ValueError, TypeError) as error:
        raise ConfigurationError(what="a setting cannot be read", where=where, why=summarize(error)) from None


def _register(where: str, names: Iterable[str]) -> None:
    for name in names:
        for secret in _texts(raw(where, name)):
            register_secret(secret)


def _register_of_all() -> None:
    """Register every vendor's secrets: what a row lands as must not depend on which vendors are loaded with it."""
    for vendor, package in VENDORS.items():
        where = f"sources.{vendor}"
        with suppress(ConfigurationError):  # what of another vendor cannot be read fails that vendor
            variable = f"{where}.".upper().replace(".", "__")
            # a vendor that nobody uses need not be imported
            if any(name.startswith(variable) for name in os.environ) or raw("sources", vendor) is not None:
                _register(where, import_module(f"{package}.settings").Settings.secrets)


def raw(section: str, name: str) -> Any:
    """One setting as it stands, or None; secrets and config alike."""
    try:
        return dlt.secrets.get(f"{section}.{name}")
    except (ConfigurationException, ValueError) as error:
        raise ConfigurationError(what="a setting cannot be read", where=section, why=summarize(error)) from None


def is_set(vendor: str, *names: str) -> bool:
    """Does any of these settings have a value?"""
    return any(raw(f"sources.{vendor}", name) for name in names)


def check_zone(vendor: str, zone: str, *, todo: str = "Write it like Asia/Shanghai") -> None:
    """Raises `ConfigurationError` for a time zone that nobody knows."""
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):  # what is not found is a KeyError
        raise ConfigurationError(what=f"there is no time zone {zone!r}", where=f"sources.{vendor}", todo=todo) from None


def check_rate(vendor: str, requests_per_second: float) -> None:
    """Raises `ConfigurationError` for a rate at which nothing is ever asked."""
    if not requests_per_second > 0:
        raise ConfigurationError(
            what=f"requests_per_second is {requests_per_second}", where=f"sources.{vendor}", todo="Set it above 0"
        )


def check_ranges(vendor: str, settings: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """`ranges`: setting → its least and greatest value. Raises `ConfigurationError` for one that is out of it."""
    for name, (least, most) in ranges.items():
        if not least <= getattr(settings, name) <= most:
            raise ConfigurationError(
                what=f"{name} is {getattr(settings, name)}",
                where=f"sources.{vendor}",
                todo=f"Set it between {least:g} and {most:g}",
            )


def unmatched(
    vendor: str, setting: str, named: Iterable[object], known: Iterable[object], *, what: str
) -> Iterator[ConfigurationError]:
    """An error if `setting` names what is not among `known`, where only the vendor can say what there is."""
    there = {str(each) for each in known}
    if strange := sorted({str(each) for each in named} - there):
        yield ConfigurationError(
            what=f"{setting} names {', '.join(strange[:10])}, which is no {what} that the key sees",
            where=f"sources.{vendor}",
            todo=did_you_mean(strange[0], () if strange[0].isdecimal() else there, "Correct it, or take it out"),
        )


def _texts(value: Any) -> list[str]:
    match value:
        case None:
            return []
        case dict():
            return [text for item in value.values() for text in _texts(item)]
        case list():
            return [text for item in value for text in _texts(item)]
        case _:
            return [str(value)]


def documents() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each file that dlt reads settings from, with its content. dlt itself answers with the first section found."""
    for provider in dlt.config.config_providers:
        for path in map(Path, getattr(provider, "present_locations", ())):
            yield path, tomllib.loads(path.read_text(encoding="utf-8"))


def unknown_settings(vendor: str, spec: BaseConfiguration | type[BaseConfiguration]) -> list[ConfigurationError]:
    """An error for each name in `[sources.<vendor>]` of any file, or in the environment, that is no setting."""
    known = {each.name for each in fields(spec) if not each.name.startswith("__")}  # dlt's own begin so
    prefix = f"SOURCES__{vendor}__".upper()
    found = []
    for path, document in documents():
        sources = document.get("sources")
        section = sources.get(vendor) if isinstance(sources, dict) else None
        found += [(name, str(path)) for name in (section if isinstance(section, dict) else ())]
    for variable in sorted(os.environ):
        if variable.startswith(prefix):
            found.append((variable.removeprefix(prefix).partition("__")[0].lower(), variable))
    return [
        ConfigurationError(
            what=f"there is no setting sources.{vendor}.{name}",
            where=where,
            todo=did_you_mean(name, known, f"It has: {', '.join(sorted(known))}"),
        )
        for name, where in found
        if name not in known and name not in DLT_SECTIONS
    ]
