"""Check the configuration as a whole: every section of every file that is read, and the environment.

A name that nothing reads is an error: an unknown section or setting, a section in a file where it is not read, a table
that no vendor has. What others own passes:

- dlt's sections, and those of a pipeline (`[my_pipeline.destination]`);
- `[sources.other]`, unless the name is a misspelling of a vendor's;
- in dlt's folder for all projects of a user, each section that is no misspelling of nightload's.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.config import schedules
from pipelines.config.project import OWN_DATASET, Place
from pipelines.config.sections import SECTIONS, duration, merged, per_table, share, text, truth, unknown_settings
from pipelines.run.options import read_pace
from pipelines.run.recording.retention import read_choice
from pipelines.run.request import refuse_unknown_table
from sources import VENDORS
from sources.core import config
from sources.core.config import DLT_SECTIONS, documents
from sources.core.errors import ConfigurationError, NightloadError, did_you_mean, refuse_together
from sources.extract.connector import package
from sources.extract.table import Table
from sources.privacy import policy

SCHEDULES = "schedules"
OWN = (*(name for name in SECTIONS if "." not in name), SCHEDULES, policy.SECTION)
VARIABLES = ("NIGHTLOAD_HOME", "NIGHTLOAD_WAREHOUSE", "NIGHTLOAD_DBT")
"""Of the environment, beside those that are named after a section."""
LONG, ALIKE = 7, 0.8
"""Names of so many letters are misspelt in more than one place."""


def refuse_unknown(place: Place) -> None:
    """Raise `ConfigurationError` for names in the configuration that nothing reads, all of them at once."""
    refuse_together(unknown(place))


def unknown(place: Place) -> list[ConfigurationError]:
    """An error for each name in the configuration that nothing reads."""
    found: list[ConfigurationError] = []
    tables, vendors = dict[str, str](), set[str]()
    for path, document in documents():
        vendors.update(_mapping(document.get("sources")))
        is_home = path.parent.resolve() == (place.home / ".dlt").resolve()
        for name, value in document.items():
            found += _in_file(name, value, path, is_home=is_home, home=place.home)
        if is_home:
            tables |= {table: str(path) for table in _tables(document)}
    found += _in_environment()
    vendors |= {variable.lower().split("__")[1] for variable in os.environ if variable.startswith("SOURCES__")}
    for vendor in VENDORS:
        if vendor in vendors:
            found += config.unknown_settings(vendor, _spec(vendor))
    return found + _unknown_tables(tables)


def invalid(place: Place) -> Iterator[NightloadError]:
    """What is wrong with the values of nightload's own sections, and with settings that stop a run as a whole."""
    readers: list[Callable[[], object]] = [
        lambda: read_pace(place.home),
        lambda: read_choice(place.home),
        lambda: schedules.read(place.home),
        lambda: _read_status(place.home),
        lambda: _read_drift(place.home),
        _read_personal,
    ]
    for name in ("metrics", "lineage", "dagster"):
        readers += [partial(_read_text, place.home, name, each) for each in SECTIONS[name]]
    # a run needs the tables of each vendor, also of those that it does not load
    readers += [package(vendor).tables for vendor in VENDORS]
    for read in readers:
        try:
            read()
        except NightloadError as error:
            yield error
    try:
        yield from _wrong_alerts(merged(place.home, "alerts"))
    except NightloadError as error:
        yield error


def foreign(place: Place) -> Iterator[str]:
    """Each section of another dlt source, a line each: nightload does not read it."""
    for path, document in documents():
        for name, value in _mapping(document.get("sources")).items():
            if isinstance(value, Mapping) and name not in VENDORS and not misspelt(name, VENDORS):
                yield f"[sources.{name}] in {path} is left to dlt; the vendors are {', '.join(VENDORS)}"


def misspelt(name: str, known: Collection[str]) -> str | None:
    """The known name that is meant: one letter differs, or two are swapped; in a long name more."""
    mine = name.lower().replace("-", "").replace("_", "")
    for each in known:
        other = each.lower().replace("_", "")
        if _is_slip(mine, other):
            return each
        if min(len(mine), len(other)) >= LONG and difflib.SequenceMatcher(None, mine, other).ratio() >= ALIKE:
            return each
    return None


def _is_slip(one: str, other: str) -> bool:
    """Are they the same but for one letter that is missing, added or another, or for two that are swapped?"""
    for at in range(min(len(one), len(other)) + 1):
        mine, its = one[at:], other[at:]
        if mine[1:] in (its, its[1:]) or its[1:] == mine or mine == its[1::-1] + its[2:]:
            return True
        if mine[:1] != its[:1]:
            break
    return False


def _in_file(name: str, value: Any, path: Path, *, is_home: bool, home: Path) -> Iterator[ConfigurationError]:
    where = str(path)
    if name == "sources" and isinstance(value, Mapping):
        yield from _in_sources(value, where)
    elif name in OWN:
        if (not is_home and name != policy.SECTION) or (name == SCHEDULES and path.name != "config.toml"):
            yield ConfigurationError(
                what=f"[{name}] is not read from this file", where=where, todo=f"Move it to {home / '.dlt/config.toml'}"
            )
        elif name in SECTIONS and isinstance(value, Mapping):
            yield from unknown_settings(name, value, known=SECTIONS[name], where=where)
        elif not isinstance(value, Mapping):
            yield ConfigurationError(what=f"{name} is no section", where=where, todo=f"Write it as [{name}]")
    elif not isinstance(value, Mapping):
        yield from _outside(name, where)
    elif name not in DLT_SECTIONS and not (value and DLT_SECTIONS.issuperset(value)):
        known = [*OWN, *DLT_SECTIONS]
        if is_home or misspelt(name, known):
            otherwise = f"nightload has {', '.join(OWN)}; dlt has sources, destination and others"
            yield ConfigurationError(
                what=f"there is no section [{name}]", where=where, todo=did_you_mean(name, known, otherwise)
            )


def _in_sources(sources: Mapping[str, Any], where: str) -> Iterator[ConfigurationError]:
    for name, value in sources.items():
        if name in VENDORS:
            if not isinstance(value, Mapping):
                yield ConfigurationError(
                    what=f"sources.{name} is no section", where=where, todo=f"Write it as [sources.{name}]"
                )
        elif not isinstance(value, Mapping):
            yield from _outside(name, where)
        elif near := misspelt(name, VENDORS):
            yield ConfigurationError(
                what=f"there is no vendor {name}", where=where, todo=f"Did you mean [sources.{near}]?"
            )


def _outside(name: str, where: str) -> Iterator[ConfigurationError]:
    """A setting above all sections: dlt takes it for every source, nightload's own need theirs."""
    own, secrets, settings = set(SECTIONS[OWN_DATASET]), set[str](), set[str]()
    for vendor in VENDORS:
        spec = _spec(vendor)
        secrets.update(spec.secrets)
        settings.update(each.name for each in fields(spec))
    near = name if name in own | secrets else misspelt(name, own | secrets | settings)
    if name in settings - secrets or near is None:
        return
    section_of = OWN_DATASET if near in own else "sources.VENDOR"
    yield ConfigurationError(what=f"{name} is in no section", where=where, todo=f"Write {near} under [{section_of}]")


def _in_environment() -> Iterator[ConfigurationError]:
    for variable in sorted(os.environ):
        first, *rest = variable.split("__")
        name = first.lower()
        if not variable.isupper():
            continue
        if not rest:
            if variable not in VARIABLES and (near := next((v for v in VARIABLES if _is_slip(variable, v)), None)):
                yield ConfigurationError(what=f"there is no variable {variable}", todo=f"Did you mean {near}?")
        elif name == "sources":
            vendor = rest[0].lower()
            if len(rest) > 1 and vendor not in VENDORS and (near := misspelt(vendor, VENDORS)):
                yield ConfigurationError(
                    what=f"there is no vendor {vendor}", where=variable, todo=f"Did you mean {near.upper()}?"
                )
        elif name == SCHEDULES:
            yield ConfigurationError(
                what="schedules are not read from the environment",
                where=variable,
                todo="Write them in .dlt/config.toml",
            )
        elif name in OWN:
            known = policy.SETTINGS if name == policy.SECTION else SECTIONS[name]
            yield from unknown_settings(name, {rest[0].lower(): None}, known=known, where=variable)
        elif name not in DLT_SECTIONS and (near := next((own for own in OWN if _is_slip(name, own)), None)):
            yield ConfigurationError(what=f"there is no variable {variable}", todo=f"Did you mean {near.upper()}__…?")


def _spec(vendor: str) -> Any:
    return import_module(f"{VENDORS[vendor]}.settings").Settings


def _tables(document: Mapping[str, Any]) -> Iterator[str]:
    """The tables that a file of the home names in nightload's own sections."""
    per_tables = [_mapping(document.get("status")).get("stale_after")]
    per_tables += [_mapping(document.get("drift")).get(name) for name in ("fewer_than", "dark")]
    names = [name for told in per_tables for name in _mapping(told)]
    for name in ("tables", "personal"):
        told = _mapping(document.get("keep")).get(name)
        names += [each for each in (told if isinstance(told, list) else ()) if isinstance(each, str)]
    for schedule in _mapping(document.get(SCHEDULES)).values():
        told = _mapping(schedule).get("tables")
        names += [each for each in (told if isinstance(told, list) else ()) if isinstance(each, str)]
    yield from (name for name in names if name not in ("default", *VENDORS))


def _unknown_tables(names: Mapping[str, str]) -> list[ConfigurationError]:
    """An error for each table, or pattern of tables, that no vendor has. `names`: table → where it is written."""
    declared: dict[str, tuple[Table, ...]] = {}
    unreadable = []
    for vendor in VENDORS if names else ():
        try:
            declared |= package(vendor).tables()
        except ConfigurationError:  # `invalid` says so, or the run itself
            unreadable.append(vendor)
    found = []
    for name, where in names.items():
        dataset = name.partition(".")[0]
        if dataset.startswith(tuple(unreadable)) or set("*?[") & set(dataset):
            continue
        if set("*?[") & set(name):
            if dataset not in declared:
                todo = did_you_mean(dataset, [*declared, *unreadable], f"The datasets are {', '.join(declared)}")
                found.append(ConfigurationError(what=f"there is no table {name}", where=where, todo=todo))
            continue
        try:
            refuse_unknown_table(name, gone=True, declared=declared)
        except ConfigurationError as error:
            found.append(error.at(where))
    return found


def _read_personal() -> None:
    for dataset, table, _ in policy.read_policy().columns:
        refuse_unknown_table(f"{dataset}.{table}", gone=True)


def _read_status(home: Path) -> None:
    rule = merged(home, "status").get("stale_after")
    for value in rule.values() if isinstance(rule, Mapping) else [rule]:
        if value is not None:
            duration(value, setting="status.stale_after")


def _read_drift(home: Path) -> None:
    told = merged(home, "drift")
    for name, read, default in (("fewer_than", share, 0.5), ("dark", truth, True)):
        value = told.get(name)
        for each in value if isinstance(value, Mapping) else ("default",):
            read(per_table(value, each, each, default), setting=f"drift.{name}")
    rows = told.get("min_rows", 0)
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
        raise ConfigurationError(what="drift.min_rows is no number of rows", todo="Write 0 or more, such as 100")


def _read_text(home: Path, name: str, setting: str) -> None:
    text(merged(home, name), setting, where=name)


def _wrong_alerts(settings: dict[str, Any]) -> list[ConfigurationError]:
    from pipelines.monitoring.alerts import channels

    duration(settings.get("remind_after", "never"), setting="alerts.remind_after")
    return channels(settings).wrong


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
