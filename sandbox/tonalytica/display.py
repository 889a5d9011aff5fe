"""CSV as Redash writes it, which loses things: dates in a display format, JSON as Python's repr (section 5)."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from typing import Any

from sandbox.tonalytica.records import Result


def rows_of(result: Result) -> list[dict[str, Any]]:
    # json and not orjson: a lone surrogate, NaN and huge integers are in there.
    rows: list[dict[str, Any]] = json.loads(result.rows_json())
    return rows


def result_csv(result: Result) -> bytes:
    kinds = {column["name"]: column.get("type") for column in result.columns}
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(kinds)
    for row in rows_of(result):
        writer.writerow([_shown(row.get(name), kind) for name, kind in kinds.items()])
    return out.getvalue().encode("utf-8", "replace")


def _shown(value: Any, kind: str | None) -> Any:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if kind in ("date", "datetime") and isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return value
        return moment.strftime("%d/%m/%y" if kind == "date" else "%d/%m/%y %H:%M")
    return value
