"""How TUNE is asked: key or session, envelope, metadata, counts, pages. Reads only.

Every call is a GET with the key in its query string; there is no other way, so `sources.http.client` logs no query. An
answer carries two statuses, HTTP's and the body's, and either may be the one that says no.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sources.convert.json_envelope import cut_array
from sources.core.concurrency import in_order
from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    Recovery,
    Refused,
    Unavailable,
    VendorError,
    one_line,
)
from sources.core.redaction import register_secret
from sources.http.client import Http
from sources.http.rate_limit import Limiter, Rate
from sources.http.request import Inspect, Patience, Scalar
from sources.http.response import UNPARSED, Answer, parse
from sources.tune.fields import Metadata, types_of
from sources.tune.settings import PERSONAL, VENDOR, Settings

Result = TypeVar("Result")

_READS = frozenset({"find", "count", "define", "export", "find_export_queue", "status"})
_DOWNLOAD = "export/download"
_AUTHENTICATE = "session/authenticate/api_key"
_CONTROLLERS = "apidoc/get_controllers"

_BAD_KEY = re.compile(r"api key is missing or invalid|^invalid api key|api key was not found", re.IGNORECASE)
_RETRY_AFTER = re.compile(r"retry after ([0-9]+(?:\.[0-9]+)?) *s", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The rows of one endpoint, in the order of their key. `fields` empty: the endpoint's default ones."""

    path: str
    key: tuple[str, ...]
    fields: tuple[str, ...] = ()
    filter: str = ""


class Client:
    """One TUNE account, as one key sees it. To be used from any number of threads."""

    def __init__(self, settings: Settings) -> None:
        self._key = str(settings.api_key)
        self._with_session = settings.session
        self._keeps = frozenset(settings.keep_personal or ())
        self._token: str | None = None
        self._lock = threading.Lock()
        self._limiters: dict[str, dict[str, Limiter]] = {}
        self._width = settings.concurrency
        self._colon = settings.sort == "colon"
        todo = f"Ask for smaller windows or pages (window_days, page_size), or raise sources.{VENDOR}.answer_timeout"
        self._patience = Patience(settings.answer_timeout, todo)
        rate = Rate(per_second=settings.requests_per_second, burst=settings.concurrency)
        self.http = Http(
            vendor=VENDOR,
            base_url=settings.base_url,
            params={} if settings.session else {"api_key": self._key},
            secrets=[self._key],
            rates=dict.fromkeys(("default", "metadata", "count", "find", "queue", "poll"), rate),
            concurrency=settings.concurrency,
            masks=True,
        )

    def metadata(self, path: str, *, related: bool) -> Metadata | None:
        """The endpoint's fields, from `define`, else from `apidoc`; None if neither tells.

        `related`: those of its relations too, of which `define` may give the names only.
        """
        fields, by_relation, relations = self._defined(path)
        if not fields or (related and relations):
            documented, dotted, bare = self._documented(path)
            fields, by_relation = fields or documented, {**dotted, **by_relation}
            relations |= bare
        if not fields:
            return None
        told = {name.partition(".")[0] for name in by_relation}
        return Metadata(fields=fields, related=by_relation, relations=frozenset(relations - told))

    def count(self, path: str, text: str = "", params: Mapping[str, Scalar] | None = None) -> int:
        """How many rows the vendor counts under a filter."""
        data = self.data(f"{path}/count", {**(params or {}), "filter": text or None}, group="count")
        if isinstance(data, bool) or not re.fullmatch("[0-9]{1,18}", str(data)):
            raise BrokenAnswer(
                what="the vendor's count is no number", where=f"{VENDOR}, {path}/count", why=f"it is {str(data)[:40]!r}"
            )
        return int(data)

    def pages(self, request: Request, *, count: int, size: int) -> Iterator[memoryview]:
        """The rows of each page as the bytes of a JSON array, in order, several pages fetched at once.

        Goes on to a page that cannot be full, so rows beyond `count` show.
        """
        numbers = range(1, count // size + 2)

        def fetch(page: int) -> memoryview:
            return self.page(request, page, size=size, may_be_empty=(page - 1) * size >= count)

        return in_order(fetch, numbers, width=self._width)

    def page(self, request: Request, page: int, *, size: int, may_be_empty: bool) -> memoryview:
        """The rows of one page; no list at all is an error, unless it may be empty."""
        params: dict[str, Scalar] = {
            "fields": ",".join(request.fields) or None,
            "filter": request.filter or None,
            **self.sort(request.key),
            "limit": size,
            "page": page,
        }

        where = f"{VENDOR}, {request.path}/find, page {page}"
        return self.rows(f"{request.path}/find", params, where=where, may_be_empty=may_be_empty, past_end=page > 1)

    def rows(
        self, path: str, params: Mapping[str, Scalar], *, where: str, may_be_empty: bool, past_end: bool = False
    ) -> memoryview:
        """The list that one `find` answers with, as the bytes of a JSON array."""

        # without metadata, the default fields come, and with them what no table takes
        private = [name for name in PERSONAL if f"{path.rpartition('/')[0]}.{name}" not in self._keeps]

        def fetch(credentials: Mapping[str, str]) -> memoryview:
            inspect = _inspect(path, params)
            options: Any = {
                "params": {**params, **credentials},
                "group": "find",
                "inspect": inspect,
                "private": private,
                "patience": self._patience,
            }
            answer = self.http.body("GET", _action(path), **options)
            try:
                return _rows(answer, inspect, where=where, may_be_empty=may_be_empty)
            except VendorError as error:
                if error.recovery is not Recovery.RETRY:
                    raise
            # A refusal under HTTP 200: the rules for trying again are json's, which reads the body; then the bytes.
            self.http.json("GET", _action(path), **options)
            answer = self.http.body("GET", _action(path), **options)
            return _rows(answer, inspect, where=where, may_be_empty=may_be_empty)

        try:
            return self.signed(fetch)
        except Refused as error:
            # what a page past the end is, is not documented: most likely an empty list
            if may_be_empty and past_end and error.status == 404:
                return memoryview(b"[]")
            raise

    def greet(self) -> Answer:
        """The cheapest read there is. Raises `AccessDenied` for a key that is not accepted."""
        params: dict[str, Scalar] = {"limit": 1, "fields": "id"}
        path, inspect = "advertiser/find", _inspect("advertiser/find", params)

        def fetch(credentials: Mapping[str, str]) -> Answer:
            answer = self.http.body("GET", _action(path), params={**params, **credentials}, inspect=inspect)
            _rows(answer, inspect, where=f"{VENDOR}, {path}", may_be_empty=True)
            return answer

        return self.signed(fetch)

    def sort(self, key: tuple[str, ...]) -> dict[str, str]:
        # The manual has the colon form; every public client sends brackets.
        return {"sort": ",".join(key)} if self._colon else {f"sort[{name}]": "ASC" for name in key}

    def data(self, path: str, params: Mapping[str, Any], *, group: str, patient: bool = True) -> Any:
        """What stands under `data` in the answer of one read."""

        def fetch(credentials: Mapping[str, str]) -> Any:
            inspect = _inspect(path, params, patient=patient)
            return self.http.json(
                "GET",
                _action(path),
                params={**params, **credentials},
                group=group,
                inspect=inspect,
                patience=self._patience,
            )

        return self.signed(fetch).get("data")

    def _defined(self, path: str) -> tuple[dict[str, str], dict[str, str], set[str]]:
        data = self._told(f"{path}/define", {}, noes=(404, 500), patient=False)
        if not isinstance(data, dict):
            return {}, {}, set()
        related, relations = data.get("related_entities"), set()
        by_relation: dict[str, str] = {}
        for name in types_of(related):
            relations.add(name)
            told = related.get(name) if isinstance(related, dict) else None
            inner = types_of(told.get("fields")) if isinstance(told, dict) else {}
            by_relation |= {f"{name}.{each}": kind for each, kind in inner.items()}
        return types_of(data.get("fields")), by_relation, relations

    def _documented(self, path: str) -> tuple[dict[str, str], dict[str, str], set[str]]:
        params = {"controllers": path, "details": "modelName,fields"}
        data = self._told(_CONTROLLERS, params, noes=(403, 404, 500), patient=True)
        first = data[0] if isinstance(data, list) and data else None
        listed = first.get("fields") if isinstance(first, dict) else None
        entries = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        own = types_of([each for each in entries if str(each.get("related", 0)) in ("0", "False")])
        others = types_of([each for each in entries if str(each.get("related", 0)) not in ("0", "False")])
        dotted = {name: kind for name, kind in others.items() if "." in name}
        return {name: kind for name, kind in own.items() if "." not in name}, dotted, set(others) - set(dotted)

    def _told(self, path: str, params: Mapping[str, Any], *, noes: tuple[int, ...], patient: bool) -> Any:
        """Metadata, or None where the vendor has none to give, which it says with one of these statuses."""
        try:
            return self.data(path, params, group="metadata", patient=patient)
        except AccessDenied:
            raise
        except VendorError as error:
            if error.status not in noes:
                raise
            return None

    def beside(self, base_url: str, *, rates: Mapping[str, Rate]) -> Http:
        """The HTTP of another base of the same vendor, which the settings name: it gets the same key.

        All that are made for one base keep its rates together.
        """
        params: dict[str, Scalar] = {} if self._with_session else {"api_key": self._key}
        with self._lock:
            limiters = self._limiters.setdefault(base_url, {name: Limiter(rate) for name, rate in rates.items()})
        return Http(
            vendor=VENDOR,
            base_url=base_url,
            params=params,
            rates=limiters,
            concurrency=self._width,
            timeout=self._patience.seconds,
            masks=True,
        )

    def signed(self, call: Callable[[Mapping[str, str]], Result]) -> Result:
        """`call` with the session's token, renewed once if it is refused; a key is in every request anyway."""
        if not self._with_session:
            return call({})
        token = self._session(refused=None)
        try:
            return call({"session_token": token})
        except AccessDenied:
            return call({"session_token": self._session(refused=token)})

    def _session(self, *, refused: str | None) -> str:
        with self._lock:
            if self._token is None or self._token == refused:
                params = {"api_keys": self._key}
                answer = self.http.json(
                    "GET",
                    f"{_AUTHENTICATE}.json",
                    params=params,
                    inspect=_inspect(_AUTHENTICATE, {}),
                    private=("data",),
                    login=True,
                )
                token = answer.get("data")
                if not isinstance(token, str) or not token:
                    raise BrokenAnswer(what="no session token came", where=f"{VENDOR}, {_AUTHENTICATE}")
                register_secret(token)
                self._token = token
            return self._token


def _action(path: str) -> str:
    if path not in (_CONTROLLERS, _DOWNLOAD) and path.rpartition("/")[2] not in _READS:
        raise ValueError(f"{path} is not a read")
    return f"{path}.json"


def _rows(answer: Answer, inspect: Inspect, *, where: str, may_be_empty: bool) -> memoryview:
    """The rows of an answer under HTTP 200, its envelope checked."""
    try:
        envelope, start, end = cut_array(answer.content, "data", where=where)
        rows = memoryview(answer.content)[start:end]
    except BrokenAnswer:
        envelope, rows = parse(answer.content), None
        if envelope is None or envelope is UNPARSED:
            raise
    error = inspect(200, envelope)
    if error is not None:
        error.where = error.where or where
        raise error
    if rows is not None:
        return rows
    if may_be_empty and not envelope.get("data"):
        return memoryview(b"[]")
    raise BrokenAnswer(
        what="no rows where rows were due",
        where=where,
        why=f"data is {str(envelope.get('data'))[:40]!r}",
        todo="Run again; if it stays, the vendor changed its envelope",
    )


def _inspect(path: str, params: Mapping[str, Any], *, patient: bool = True) -> Inspect:
    """Classifies the envelope of one call and of its repetitions.

    A second 500 is taken for a mistake in the query; so is the first, if there is no patience.
    """
    failed = not patient

    def inspect(status: int, answer: Any) -> NightloadError | None:
        nonlocal failed
        error = refusal(status, answer, path)
        if isinstance(error, Unavailable) and error.status == 500:
            if failed:
                return _query_bug(path, params, error.message)
            failed = True
        return error

    return inspect


def refusal(status: int, answer: Any, path: str) -> NightloadError | None:
    endpoint, _, _ = path.rpartition("/")
    if not isinstance(answer, dict):
        return BrokenAnswer(what="the answer has no envelope", status=status) if status == 200 else None
    written = str(answer.get("status_code", answer.get("status_pre")))
    said = int(written) if re.fullmatch("[0-9]{3}", written) else None
    message = _messages(answer.get("errors"))
    code = said if said is not None and said != 200 else status
    if code == 200 and not message:
        known = said is not None or "data" in answer
        return None if known else BrokenAnswer(what="the answer has no envelope", status=status)
    facts: dict[str, Any] = {"why": message, "status": code, "message": message}
    if code == 401 or _BAD_KEY.search(message):
        return AccessDenied(
            what="the vendor does not accept the key",
            todo=f"Check sources.{VENDOR}.api_key, and that the key's list of allowed addresses holds this machine's",
            **facts,
        )
    if pause := _RETRY_AFTER.search(message):
        return Unavailable(what="the vendor throttles", retry_after=float(pause[1]), **facts)
    if code == 429:
        return Unavailable(what="the vendor throttles", **facts)
    if code == 403:
        return Refused(
            what=f"the key may not read {endpoint}",
            todo=f"Ask an administrator of the account to let the key's user read /{endpoint}/ (Accounts, Users), "
            f'or set exclude = ["{endpoint}"] under sources.{VENDOR}',
            **facts,
        )
    if code == 404:
        todo = f'Check the path, or set exclude = ["{endpoint}"] under sources.{VENDOR}'
        return Refused(what=f"the vendor has no {path}", todo=todo, **facts)
    if code in (400, 422):
        return ConfigurationError(
            what=f"the vendor refuses the parameters of {path}",
            why=message,
            todo=f"Check fields, filter, key and sort of {endpoint} under sources.{VENDOR}",
        )
    if code >= 500:
        return Unavailable(what=f"the vendor answered {code}", **facts)
    return Refused(what=f"the vendor answered {code}", **facts)


def _query_bug(path: str, params: Mapping[str, Any], message: str) -> Refused:
    asked = "; ".join(f"{name}: {value}" for name, value in params.items() if value is not None)
    return Refused(
        what="the vendor failed over this query",
        why=message,
        todo=f"It does so for a field that it does not have. Asked for was {asked}" if asked else "Run again later",
        status=500,
        message=message,
    )


def _messages(errors: Any) -> str:
    """What went wrong, from a list of objects, one object, or a text."""
    each = errors if isinstance(errors, list) else [errors]
    texts = (error.get("message") if isinstance(error, dict) else error for error in each)
    return "; ".join(one_line(str(text)) for text in texts if text)[:300]
