"""The control path of a vendor's port: what is true there, edits, faults, counts of requests, options.

Never part of the vendor's API, and no key is needed: the sandbox listens on the loopback only.

    GET truth                 {table: {"count": n, "keys": [...]}}
    GET truth/<table>         {"rows": [...]}
    POST edit                 {"table", "op": "insert|update|delete|execute", "key", "row": {...}, "silent": bool}
                              or a list of them
    POST faults               [rule, ...], see `sandbox.core.faults`; DELETE faults clears them
    GET stats                 {"requests", "by_path", "unexpected", "max_concurrent"}
    POST clock                {"now": ISO 8601 with a zone, or null for the machine's own}: of all vendors
    POST options              {"latency": seconds, ...the vendor's own}
    POST reset                data, options, faults (those of --faults too) and stats back to the start
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from sandbox.core.faults import Answer, Rule, parse_rules
from sandbox.core.journal import Journal
from sandbox.core.vendor import ControlError, Vendor
from sandbox.core.wire import dumps, iso, now, parse_iso, set_clock


class Control:
    def __init__(self, vendor: Vendor, journal: Journal, rules: list[Rule]) -> None:
        self.vendor = vendor
        self.journal = journal
        self.rules = rules
        self.latency = 0.0

    async def answer(self, method: str, path: str, body: bytes) -> Answer:
        try:
            status, content = 200, self._dispatch(method, path, body)
        except (ControlError, ValueError, TypeError, KeyError) as error:
            status, content = 400, dumps({"error": f"{type(error).__name__}: {error}"})
        return Answer(status, (), b"").with_body(content, content_type="application/json")

    def _dispatch(self, method: str, path: str, body: bytes) -> bytes:
        match method, path.split("/", 1):
            case "GET", ["truth"]:
                return dumps(self.vendor.truth())
            case "GET", ["truth", table]:
                return self.vendor.truth_rows(table)
            case "GET", ["stats"]:
                return dumps(self.journal.stats())
            case "POST", ["edit"]:
                return dumps(self._edit(_parse(body)))
            case "POST", ["faults"]:
                self.rules.extend(parse_rules(_parse(body)))
                return dumps({"rules": len(self.rules)})
            case "DELETE", ["faults"]:
                self.rules.clear()
                return dumps({"rules": 0})
            case "POST", ["clock"]:
                moment = dict(_parse(body))["now"]
                set_clock(None if moment is None else parse_iso(moment).astimezone(UTC))
                return dumps({"now": iso(now())})
            case "POST", ["options"]:
                return dumps(self._options(_parse(body)))
            case "POST", ["reset"]:
                self.rules.clear()
                self.journal.clear()
                self.latency = 0.0
                self.vendor.reset()
                return dumps({"reset": True})
        raise ControlError(f"no such control: {method} {path}")

    def _edit(self, raw: Any) -> dict[str, Any]:
        if isinstance(raw, list):
            return {"edits": [self.vendor.edit(edit) for edit in raw]}
        return self.vendor.edit(raw)

    def _options(self, raw: Any) -> dict[str, Any]:
        given = dict(raw)
        if "latency" in given:
            self.latency = float(given.pop("latency"))
        if given:
            self.vendor.options(given)
        return {"options": raw}


def _parse(body: bytes) -> Any:
    # json and not orjson: an edit may carry a lone surrogate or an integer beyond 64 bits on purpose.
    return json.loads(body or b"null")
