"""The ready vendors as settings to paste into `.dlt/config.toml` and `.dlt/secrets.toml`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SECRETS = frozenset(
    {"access_key_id", "access_key_secret", "api_key", "client_id", "console_token", "root_token", "secret", "token"}
)


def settings(ready: Mapping[str, Mapping[str, Any]]) -> str:
    """Both files, one after the other; each begins with a comment that names it."""
    config, secrets = ["# .dlt/config.toml"], ["# .dlt/secrets.toml"]
    for vendor, values in ready.items():
        # What is no text (keys of single queries) is for tests, and the control path is not the vendor's.
        shown = {name: text for name, text in values.items() if isinstance(text, str) and name != "control_url"}
        public = [f"{name} = {_value(text)}" for name, text in shown.items() if name not in SECRETS]
        config += [
            "",
            f"[sources.{vendor}]",
            *public,
            "requests_per_second = 1000.0",
        ]
        secrets += ["", f"[sources.{vendor}]", *(f"{name} = {_toml(shown[name])}" for name in shown if name in SECRETS)]
    return "\n".join([*config, "", *secrets])


def _value(text: str) -> str:
    """The ready line holds texts as the environment does: a list, an object or a switch is JSON."""
    return _toml(json.loads(text) if text.startswith(("[", "{")) or text in ("true", "false") else text)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
