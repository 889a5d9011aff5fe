"""Faults on demand: which requests they hit, and what they do to the answer.

A rule is `{"match": {"method", "path"}, "skip": n, "times": n, "do": {...}}`. Every rule that matches a request counts
it; those past their `skip` and within their `times` all apply, in the order they were set.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from sandbox.core.vendor import ControlError, Vendor
from sandbox.core.wire import dumps

KINDS = frozenset(
    {
        "status", "headers", "body", "delay", "cut", "html", "gzip", "truncated_gzip", "empty", "drop", "edit", "count",
        "expire_token",
    }
)  # fmt: skip

LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Please sign in</h1></body></html>"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    cut: int | None = None
    """Bytes of the body that are sent before the connection is dropped; the promised length stays."""

    def with_body(self, body: bytes, **headers: str) -> Answer:
        named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        kept = tuple(pair for pair in self.headers if pair[0].lower() not in {b"content-length", *named})
        return replace(self, body=body, headers=(*kept, *named.items(), (b"content-length", str(len(body)).encode())))


@dataclass
class Rule:
    method: str | None
    path: re.Pattern[str]
    skip: int
    times: int
    do: dict[str, Any]
    seen: int = field(default=0)

    def takes(self, method: str, target: str) -> bool:
        if self.method is not None and self.method != method:
            return False
        # Brackets in `sort[id]` travel percent-encoded: a rule may be written either way.
        if not (self.path.search(target) or self.path.search(unquote(target))):
            return False
        self.seen += 1
        past = self.seen - self.skip
        return past > 0 and (self.times < 0 or past <= self.times)


def parse_rules(raw: object) -> list[Rule]:
    if isinstance(raw, dict):
        raw = [raw]
    if not isinstance(raw, list):
        raise ControlError("faults: expected a list of rules")
    return [_parse_rule(rule) for rule in raw]


def _parse_rule(raw: object) -> Rule:
    if not isinstance(raw, dict) or not isinstance(raw.get("do"), dict):
        raise ControlError('fault: expected {"match": {...}, "do": {...}}')
    match = raw.get("match") or {}
    do: dict[str, Any] = raw["do"]
    strange = (set(do) - KINDS) | (set(raw) - {"match", "skip", "times", "do"}) | (set(match) - {"method", "path"})
    if strange or not do:
        raise ControlError(f"fault: unknown or missing {sorted(strange) or 'do'}")
    try:
        pattern = re.compile(str(match.get("path", "")))
    except re.error as error:
        raise ControlError(f"fault: bad path pattern: {error}") from error
    method = match.get("method")
    return Rule(
        method=None if method is None else str(method).upper(),
        path=pattern,
        skip=int(raw.get("skip", 0)),
        times=int(raw.get("times", 1)),
        do=do,
    )


def instead_of(dos: Sequence[Mapping[str, Any]]) -> Answer | None:
    """The answer that stands in for the vendor's own, when a fault calls for one; the vendor is then not asked."""
    for do in dos:
        if "status" in do:
            body = do.get("body", b"")
            is_text = isinstance(body, str)
            content = body.encode() if isinstance(body, str) else b"" if body == b"" else dumps(body)
            kind = "text/html; charset=utf-8" if is_text or not content else "application/json"
            headers = {"content-type": kind, **{str(k).lower(): str(v) for k, v in do.get("headers", {}).items()}}
            return Answer(int(do["status"]), (), content).with_body(content, **headers)
        if do.get("html"):
            return Answer(200, (), b"").with_body(LOGIN_PAGE, content_type="text/html; charset=utf-8")
    return None


def _edited(answer: Answer, edit: Callable[[Any], Any]) -> Answer:
    try:
        # json and not orjson: what the vendors send is not always what orjson reads.
        body = json.loads(answer.body)
    except ValueError:
        return answer
    return answer.with_body(dumps(edit(body)))


def changed(dos: Sequence[Mapping[str, Any]], answer: Answer, vendor: Vendor) -> Answer:
    for do in dos:
        if do.get("empty"):
            answer = _edited(answer, vendor.emptied)
        if "count" in do:
            answer = _edited(answer, functools.partial(vendor.drifted, by=int(do["count"])))
        if do.get("gzip") or do.get("truncated_gzip"):
            packed = gzip.compress(answer.body, compresslevel=1)
            if do.get("truncated_gzip"):
                packed = packed[: max(12, len(packed) // 2)]
            answer = answer.with_body(packed, content_encoding="gzip")
        if "cut" in do:
            answer = replace(answer, cut=int(do["cut"]))
    return answer
