"""What becomes of personal columns: kept, hashed or dropped, as `[personal]` in `.dlt` says, for every vendor.

    [personal]
    default = "hash"                      # for every personal column (pii_columns.py); "keep" if not set
    salt = "…"                            # in secrets.toml: what hashes are made with
    "tonalytica.users.name" = "drop"      # one column: DATASET.TABLE.COLUMN, the vendor's name or ours

A hash is sha256 over the salt's own hash and the value as text, so one value has one hash in all tables of all vendors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dlt

from sources.convert.types import Column
from sources.core.config import raw
from sources.core.errors import ConfigurationError, did_you_mean, refuse_together
from sources.core.redaction import register_secret
from sources.naming import tag_for
from sources.privacy.pii_columns import is_personal, objects_of

SECTION = "personal"
SETTINGS = ("default", "salt", "columns")
KEEP, HASH, DROP = POLICIES = ("keep", "hash", "drop")
SHORTEST_SALT = 16


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`columns`: (dataset, table, column) → policy. `prefix`: what goes before a value into its hash."""

    default: str = KEEP
    columns: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    prefix: str = field(default="", repr=False)

    def named(self, dataset: str, table: str, *names: str) -> str | None:
        """What the configuration says of this very column."""
        return next((self.columns[key] for name in names if (key := (dataset, table, name)) in self.columns), None)

    def of(self, dataset: str, table: str, columns: Sequence[Column]) -> dict[str, str]:
        """Column name → `hash` or `drop`, of those that are not kept."""
        found = {}
        for column in columns:
            told = self.named(dataset, table, column.label, column.name, *objects_of(column.label))
            if told is None:
                told = self.default if is_personal(dataset, table, column.label) else KEEP
            if told != KEEP:
                found[column.name] = told
        return found

    def refuse_unknown(self, dataset: str, table: str, names: set[str]) -> None:
        """Raise `ConfigurationError` for a configured column that the table, whose names these are, does not have."""
        for of_dataset, of_table, name in self.columns:
            if (of_dataset, of_table) == (dataset, table) and name not in names:
                raise ConfigurationError(
                    what=f"{dataset}.{table} has no column {name}",
                    where=f"[{SECTION}] in .dlt",
                    todo=did_you_mean(name, sorted(names), "Correct the name, or take it out"),
                )

    @property
    def fingerprint(self) -> str:
        return tag_for(self.prefix)

    def hashed(self, value: str) -> str:
        return hashlib.sha256((self.prefix + value).encode()).hexdigest()


def read_policy() -> Policy:
    """Raises `ConfigurationError` for what is no policy, and for a hash without a salt."""
    default, told = _read()
    for name, policy in {"default": default, **told}.items():
        if policy not in POLICIES:
            raise _wrong(f"{name} is {policy!r}", f"It may be: {', '.join(POLICIES)}")
    columns: dict[tuple[str, str, str], str] = {}
    for name, policy in told.items():
        dataset, _, rest = name.partition(".")
        table, _, column = rest.partition(".")
        if not column:
            raise _wrong(f"{name} is no column", 'Write "DATASET.TABLE.COLUMN" = "hash", in quotes')
        columns[dataset, table, column] = str(policy)
    salt = str(raw(SECTION, "salt") or "")
    register_secret(salt)
    if HASH in (default, *columns.values()) and len(salt) < SHORTEST_SALT:
        raise _wrong(
            f"a hash needs a salt of {SHORTEST_SALT} characters or more, and it is {'shorter' if salt else 'not set'}",
            f"Write salt under [{SECTION}] in .dlt/secrets.toml and keep it: another salt makes other hashes "
            '(python -c "import secrets; print(secrets.token_hex(32))" makes one)',
        )
    prefix = hashlib.sha256(f"nightload personal {salt}".encode()).hexdigest() if len(salt) >= SHORTEST_SALT else ""
    if prefix:
        register_secret(prefix)
    return Policy(default=default, columns=columns, prefix=prefix)


def _read() -> tuple[str, dict[str, Any]]:
    """The default, and what is said of single columns: in `columns`, or in the section itself."""
    # not by dlt's own resolving, which takes the terminal's COLUMNS for a setting
    told: dict[str, Any] = {}
    unknown = []
    # each provider by itself: dlt's own look-up of a section ends at the first file that has it
    for found in (provider.get_value(SECTION, dict, "")[0] for provider in dlt.config.config_providers):
        for name, value in found.items() if isinstance(found, dict) else ():
            if "." in name or (isinstance(value, dict) and name != "columns"):
                told |= _flat({name: value})
            elif name not in SETTINGS:
                unknown.append(_wrong(f"there is no setting {name}", "It has default, salt, and columns in quotes"))
    refuse_together(unknown)
    columns: Any = dlt.config.get(f"{SECTION}.columns")
    if isinstance(columns, str):
        try:
            columns = json.loads(columns)
        except ValueError:
            columns = ""
    if columns is not None and not isinstance(columns, dict):
        raise _wrong("columns is no table", 'Write {"DATASET.TABLE.COLUMN": "hash"}')
    default: Any = dlt.config.get(f"{SECTION}.default")
    return str(default or KEEP), told | _flat(columns or {})


def _flat(told: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """`{"a.b.c": x}` of nested tables, which a name without quotes makes in TOML."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _wrong(what: str, todo: str) -> ConfigurationError:
    return ConfigurationError(what=what, where=f"[{SECTION}] in .dlt", todo=todo)
