"""What TUNE (MobileAppTracking) has: endpoints, keys, cursors, limits, and what the configuration may say.

The vendor documents its grammar and few of its fields: those are asked for at run time (`sources.tune.fields`). Where
each fact comes from stands in README.md beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar

from dlt.common.configuration import configspec
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.typing import TSecretStrValue

from sources import naming
from sources.core.config import check_ranges, check_rate, check_zone
from sources.core.errors import ConfigurationError, did_you_mean
from sources.extract.table import Mode, Table

VENDOR = "tune"
DATASET = "tune"

MOST_ROWS = 2000
"""The largest page that a public client asks for and calls the maximum; the server's own is not documented."""

WALKS = 3
"""How often a table is walked at most when its rows move under the walk."""

PERSONAL = ("password", "phone", "cell_phone", "signup_ip")
"""Not asked for, on any endpoint and through any relation, unless `keep_personal` names it."""

LINK_HOSTS = (
    "s3.amazonaws.com", "*.s3.amazonaws.com", "s3.*.amazonaws.com", "*.s3.*.amazonaws.com", "s3-*.amazonaws.com",
    "*.mobileapptracking.com", "*.tune.com", "*.branch.io",
)  # fmt: skip
"""Where the files of exports come from: the manual's samples lie at Amazon's S3."""

CREDENTIAL = re.compile(r"password|passwd|secret|api_?key|session_token", re.IGNORECASE)
"""Never asked for, whatever the configuration says."""

FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PATH = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*")
_ACTION = re.compile(
    "find|find_by_ids|find_export_queue|get|get_current|count|choices|autocomplete|define|"
    "save|create|update|delete|validate|export|status"
)
_SERVICES = ("session", "export", "apidoc", "account/users/password")
_REPORTS = "advertiser/stats"
_TEXTS = re.compile(r"'[^']*'|\"[^\"]*\"")
_FILTER_WORDS = re.compile("AND|OR|NOT|IN|LIKE|RLIKE|REGEXP|BETWEEN|IS|NULL|TRUE|FALSE", re.IGNORECASE)


@configspec
class Settings(BaseConfiguration):
    """`[sources.tune]`; what each means stands in README.md."""

    base_url: str = "https://api.mobileapptracking.com/v2"
    api_key: TSecretStrValue | None = None
    session: bool = False
    zone: str = "UTC"
    page_size: int = 500
    concurrency: int = 8
    requests_per_second: float = 10.0
    sort: str = "brackets"
    endpoints: list[Any] | None = None
    exclude: list[str] | None = None
    keep_personal: list[str] | None = None
    lookback_days: int = 1
    whole_walk_days: int = 7
    reports: list[Any] | None = None
    answer_timeout: int = 300
    v3_base_url: str | None = None
    poll_seconds: float = 10.0
    poll_tries: int = 60
    polls_per_hour: int = 384
    download_megabytes: int = 2048
    link_hosts: list[str] | None = None

    secrets: ClassVar[tuple[str, ...]] = ("api_key",)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A record endpoint. `fields` empty: all of its own that the metadata shows. `cursor` "": always walked whole.

    `personal`: fields that it is known to have and that are left out. `configured`: the user asked for it, so it fails
    loudly where one of the default endpoints is only noted.
    """

    path: str
    key: tuple[str, ...] = ("id",)
    cursor: str = "modified"
    fields: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    filter: str = ""
    about: str = ""
    personal: tuple[str, ...] = PERSONAL
    configured: bool = False

    @property
    def table(self) -> str:
        return naming.identifier_for(self.path)


def _default(path: str, about: str, *, personal: tuple[str, ...] = (), key: tuple[str, ...] = ("id",)) -> Endpoint:
    return Endpoint(path=path, about=about, personal=personal, key=key)


ENDPOINTS: tuple[Endpoint, ...] = (
    _default("account", "the accounts that the key may see", personal=("phone",)),
    _default("account/users", "their users", personal=PERSONAL),
    _default("advertiser", "advertisers"),
    _default("advertiser/accounts", "which account belongs to which advertiser"),
    _default("advertiser/agencies", "which agency works for which advertiser"),
    _default("agency", "agencies"),
    _default("advertiser/campaigns", "campaigns"),
    _default("advertiser/sites", "mobile apps"),
    _default("advertiser/publishers", "publishers (ad networks)"),
    _default("advertiser/publishers/sub/campaigns", "publishers' own campaigns"),
    # the events are known from reports; this path is the likeliest, and it is skipped with a note if it is not there
    _default("advertiser/site/events", "events of the mobile apps"),
    _default("countries", "countries; 0 is “International (Generic)”"),
    _default("regions", "regions"),
    _default("languages", "languages"),
    _default("browsers", "browsers"),
    _default("browser_platform", "browser platforms"),
    _default("currency_exchange_rates", "a rate per currency and day", key=("currency", "date")),
)
"""All record endpoints that are known. Reports (`advertiser/stats…`) are no records: see `sources.tune.reports`."""


def endpoints_of(settings: Settings) -> tuple[Endpoint, ...]:
    """The default endpoints less `exclude`, and the configured ones; these replace a default of the same path.

    Raises `ConfigurationError` for whatever could not work.
    """
    configured = [_configured(given, f"endpoints[{n}]") for n, given in enumerate(settings.endpoints or (), start=1)]
    excluded = {_path(path, "exclude") for path in settings.exclude or ()}
    known = {endpoint.path for endpoint in (*ENDPOINTS, *configured)}
    for path in sorted(excluded - known):
        raise unknown(path, known, what=f"exclude names {path}, which is not loaded anyway")
    chosen = {endpoint.path: endpoint for endpoint in ENDPOINTS}
    for endpoint in configured:
        if chosen.get(endpoint.path, endpoint).configured and endpoint.path in chosen:
            raise wrong(f"endpoints names {endpoint.path} twice", "Join their filters into one, by OR")
        chosen[endpoint.path] = endpoint
    tables: dict[str, str] = {}
    for path in (chosen := {path: endpoint for path, endpoint in chosen.items() if path not in excluded}):
        if (other := tables.setdefault(chosen[path].table, path)) != path:
            raise wrong(f"{other} and {path} both ask for the table {chosen[path].table}", "Exclude one of them")
    for entry in settings.keep_personal or ():
        _check_kept(entry, chosen)
    return tuple(chosen.values())


def check(settings: Settings) -> None:
    """Raises `ConfigurationError` for a value out of its range."""
    check_ranges(VENDOR, settings, {"page_size": (1, MOST_ROWS), "concurrency": (1, 32)})
    check_rate(VENDOR, settings.requests_per_second)
    if settings.lookback_days < 0 or settings.whole_walk_days < 0:
        raise wrong("lookback_days or whole_walk_days is negative", "Set it to 0 or more")
    if settings.sort not in ("brackets", "colon"):
        raise wrong(f"sort is {settings.sort!r}", 'Set it to "brackets" (sort[id]=ASC) or "colon" (sort=id)')
    check_zone(VENDOR, settings.zone, todo="Write it like America/Los_Angeles")
    if not 0 <= settings.poll_seconds <= 600 or settings.poll_tries < 1:
        raise wrong("poll_seconds or poll_tries is out of range", "Set them to 0 to 600, and to 1 or more")
    check_ranges(VENDOR, settings, {"answer_timeout": (1, 86_400)})
    if settings.polls_per_hour < 1:
        raise wrong(f"polls_per_hour is {settings.polls_per_hour}", "Set it to 1 or more; the vendor allows 480")
    if settings.download_megabytes < 1:
        raise wrong(f"download_megabytes is {settings.download_megabytes}", "Set it to 1 or more")


def table_of(endpoint: Endpoint, settings: Settings) -> Table:
    kept = settings.keep_personal or ()
    return Table(
        name=endpoint.table,
        mode=Mode.INCREMENTAL if endpoint.cursor else Mode.FULL,
        key=endpoint.key,
        cursor=endpoint.cursor or None,
        lookback=timedelta(days=settings.lookback_days),
        whole_every=timedelta(days=settings.whole_walk_days),
        walks=WALKS,
        label=endpoint.path,
        about=endpoint.about,
        dropped=tuple(name for name in endpoint.personal if f"{endpoint.path}.{name}" not in kept),
        misfit="Leave {column} out: name the other fields in fields of [[sources.tune.endpoints]] with "
        f'path = "{endpoint.path}", or leave the endpoint out: exclude = ["{endpoint.path}"]',
    )


def filter_fields(text: str) -> list[str]:
    """The fields that a filter names."""
    words = re.findall(r"[A-Za-z_][\w.]*", _TEXTS.sub(" ", text))
    return list(dict.fromkeys(word for word in words if not _FILTER_WORDS.fullmatch(word)))


def wrong(what: str, todo: str) -> ConfigurationError:
    return ConfigurationError(what=what, where=f"sources.{VENDOR}", todo=todo)


def unknown(name: str, known: Iterable[str], *, what: str) -> ConfigurationError:
    """`wrong`, with the known names that are nearest."""
    names = sorted(known)
    return wrong(what, did_you_mean(name, names, f"There are: {', '.join(names)}", most=3))


def _configured(given: Any, where: str) -> Endpoint:
    if not isinstance(given, Mapping) or "path" not in given:
        raise wrong(f"{where} has no path", 'Write [[sources.tune.endpoints]] and path = "advertiser/campaigns"')
    names = {"path", "fields", "filter", "related", "cursor", "key"}
    for name in given:
        if name not in names:
            raise unknown(str(name), names, what=f"{where} has no setting {name}")
    path = _path(given["path"], where)
    base = next((endpoint for endpoint in ENDPOINTS if endpoint.path == path), Endpoint(path=path))
    related = names_of(given.get("related"), f"{where}.related")
    for name in related:
        if "." not in name:
            raise wrong(f"{where}.related names {name}", f"Name its fields, like {name}.id or {name}.name")
    key = names_of(given.get("key"), f"{where}.key") or base.key
    cursor = given.get("cursor", base.cursor)
    if not isinstance(cursor, str) or (cursor and not FIELD.fullmatch(cursor)):
        raise wrong(f"{where}.cursor is no field", 'Name a field such as modified, or "" to walk it whole every night')
    for name in (*key, cursor):
        if "." in name:
            raise wrong(f"{where}: {name} cannot be a key or cursor", "Those are fields of the record itself")
    return replace(
        base,
        key=key,
        cursor=cursor,
        fields=names_of(given.get("fields"), f"{where}.fields"),
        related=related,
        filter=filter_of(given.get("filter", ""), where),
        configured=True,
    )


def _path(given: Any, where: str) -> str:
    path = str(given).strip().strip("/")
    if not _PATH.fullmatch(path):
        todo = "Write it like advertiser/campaigns: lower case, no action, no parameters"
        raise wrong(f"{where}: {path!r} is no path of an endpoint", todo)
    last = path.rpartition("/")[2]
    if _ACTION.fullmatch(last):
        raise wrong(f"{where}: {path} ends with an action", f"Leave out /{last}")
    if path in _SERVICES or path.split("/")[0] in _SERVICES:
        raise wrong(f"{where}: {path} is a service and has no records", "Leave it out")
    if path == _REPORTS or path.startswith(f"{_REPORTS}/"):
        raise wrong(f"{where}: {path} is a report and has no records", "Write it under [[sources.tune.reports]]")
    return path


def names_of(given: Any, where: str) -> tuple[str, ...]:
    """Field names, from a list or a text with commas."""
    names = given.split(",") if isinstance(given, str) else list(given or ())
    cleaned = tuple(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))
    for name in cleaned:
        if not FIELD.fullmatch(name):
            raise wrong(f"{where} names {name!r}, and no field is called so", "Write it like id or advertiser.name")
    return cleaned


def filter_of(given: Any, where: str) -> str:
    """A filter that closes what it opens. How the vendor escapes a quote in a value is not known: such are refused."""
    text = str(given).strip()
    outside = _TEXTS.sub("", text)
    depth = 0
    for char in outside:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if depth < 0:
            break
    if re.search(r"['\"]", outside):
        problem = "a quote is not closed"
    elif depth:
        problem = "its parentheses do not match"
    elif "\\" in text or re.search(r"[;#`]|--|/\*|<\s*[a-zA-Z/!]", outside):
        problem = "it holds what no filter needs"
    else:
        return text
    raise wrong(f"{where}.filter: {problem}", "Write it like (status = 'active') AND (site_id IN (1,2))")


def _check_kept(entry: str, chosen: Mapping[str, Endpoint]) -> None:
    path, _, name = entry.partition(".")
    if path not in chosen or not name:
        raise unknown(path, chosen, what=f"keep_personal names {entry}, and no such path is loaded")
    if CREDENTIAL.search(name):
        raise wrong(f"keep_personal names {entry}", "Credentials are never loaded: leave it out")
    if name.rpartition(".")[2] not in PERSONAL:
        raise wrong(f"keep_personal names {entry}, which is loaded anyway", "Leave it out")
