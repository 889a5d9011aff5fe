"""Settings of a vendor, from `.dlt/*.toml` and the environment by dlt's own names.

dlt finds the values; here each mistake becomes an error that names the setting and what to write.
Secrets are registered with the redactor before anything else can see them.
"""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any, TypeVar

import dlt
from dlt.common.configuration.exceptions import ConfigFieldMissingException, ConfigurationException
from dlt.common.configuration.resolve import resolve_configuration
from dlt.common.configuration.specs import BaseConfiguration

from sources.errors import ConfigurationError, summarize
from sources.redaction import register_secret

TSettings = TypeVar("TSettings", bound=BaseConfiguration)


def settings_of(vendor: str, spec: TSettings, *, secrets: tuple[str, ...]) -> TSettings:
    """Resolve `[sources.<vendor>]`. `secrets` names the fields that no log may show.

    Raises `ConfigurationError` for a missing, unknown or mistyped setting.
    """
    where = f"sources.{vendor}"
    for name in secrets:
        for secret in _texts(raw(where, name)):
            register_secret(secret)
    _refuse_unknown(where, {each.name for each in fields(spec)})
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


def raw(section: str, name: str) -> Any:
    """One setting as it stands, or None; secrets and config alike."""
    try:
        return dlt.secrets.get(f"{section}.{name}")
    except (ConfigurationException, ValueError) as error:
        raise ConfigurationError(what="a setting cannot be read", where=section, why=summarize(error)) from None


def is_set(vendor: str, *names: str) -> bool:
    """Does any of these settings have a value?"""
    return any(raw(f"sources.{vendor}", name) for name in names)


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


def _refuse_unknown(where: str, known: set[str]) -> None:
    sections: tuple[Any, ...] = (dlt.secrets.get(where), dlt.config.get(where))
    for section in sections:
        for name in section if isinstance(section, dict) else ():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigurationError(
                    what=f"there is no setting {where}.{name}",
                    todo=f"Did you mean {near[0]}?" if near else f"It has: {', '.join(sorted(known))}",
                )
