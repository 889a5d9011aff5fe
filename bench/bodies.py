"""The answers that the bench's vendors give, rendered once to files: the server then only copies bytes."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KEY = "bench-key-000000"
PAGE, KEY_PAGE, SMALL_PAGE = 1000, 2000, 100
UPDATED, ADDED = 9000, 1000
"""Rows that a night of the merge finds changed, and new."""

DOCUMENT = {
    # label: (Redash's type, DuckDB's type)
    "order_id": ("integer", "BIGINT"),
    "customer_id": ("integer", "BIGINT"),
    "quantity": ("integer", "BIGINT"),
    "price": ("float", "DOUBLE"),
    "discount": ("float", "DOUBLE"),
    "is_paid": ("boolean", "BOOLEAN"),
    "day": ("date", "DATE"),
    "created_at": ("datetime", "TIMESTAMPTZ"),
    "shipped_at": ("datetime", "TIMESTAMPTZ"),
    "city": ("string", "VARCHAR"),
    "channel": ("string", "VARCHAR"),
    "product": ("string", "VARCHAR"),
    "coupon": ("string", "VARCHAR"),
    "comment": ("string", "VARCHAR"),
}
WIDE = {"id": ("integer", "BIGINT")} | {
    f"{name}_{n}": (name, kind)
    for n in range(200)
    for name, kind in (("integer", "BIGINT"), ("float", "DOUBLE"), ("string", "VARCHAR"))
    if (n, name) != (0, "integer")
}
"""600 columns, as a pivot of all metrics has them."""
RECORDS = {
    # label: (TUNE's type, DuckDB's type)
    "id": ("integer", "BIGINT"),
    "advertiser_id": ("integer", "BIGINT"),
    "score": ("float", "DOUBLE"),
    "is_active": ("boolean", "BOOLEAN"),
    "name": ("string", "VARCHAR"),
    "status": ("string", "VARCHAR"),
    "country": ("string", "VARCHAR"),
    "url": ("string", "VARCHAR"),
    "ref": ("string", "VARCHAR"),
    "notes": ("string", "VARCHAR"),
    "created": ("datetime", "TIMESTAMPTZ"),
    "modified": ("datetime", "TIMESTAMPTZ"),
}
"""About 290 bytes a row as JSON: 2 integers, 1 float, 1 bool, 6 texts (1 nullable), 2 times."""

SEGMENT = ("user_id", "device_id", "gender", "city", "level", "last_seen")
"""The columns of a segment's users, all texts, about 65 bytes a line."""
CHART_CITIES, CHART_METRICS = ("Berlin", "Lima", "Oslo", "上海"), ("访问用户量", "页面浏览量")
CHART_DAYS = 30
CHART_POINTS = CHART_DAYS * len(CHART_CITIES) * len(CHART_METRICS)
"""Rows of a chart in the long table."""
CHART_RATE = 10
"""Requests per second; the vendor's own limit of 2 would only take longer."""
DAY_MS = 24 * 3600 * 1000
SQL_PAGE = 10_000
"""Rows in a page of an SQL result; its columns are the records'."""

WORDS = ("northern", "harbour", "lantern", "quiet", "meadow", "copper", "violet", "granite", "willow", "ember")
CITIES = ("上海", "Berlin", "São Paulo", "Oslo", "Nairobi", "Montréal", "北京", "Lima")


@dataclass(frozen=True)
class Bodies:
    """What there is to serve: whole documents by row count, and pages as (offset, length) in one file per kind."""

    folder: str
    totals: dict[str, int]
    documents: dict[int, str]
    pages: dict[str, list[tuple[int, int]]]
    segment: int = 0

    def save(self) -> None:
        (Path(self.folder) / "bodies.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Bodies:
        read = json.loads((folder / "bodies.json").read_text())
        return cls(**read | {"documents": {int(rows): name for rows, name in read["documents"].items()}})


@dataclass(frozen=True)
class Change:
    """What a vendor has to say in the given night of a table that began with so many rows."""

    rows: int
    night: int

    @property
    def name(self) -> str:
        return f"changed-{self.rows}-{self.night}"

    @property
    def total(self) -> int:
        return self.rows + self.night * ADDED


def render(
    folder: Path,
    *,
    documents: Iterable[int],
    records: int,
    small_pages: int,
    segment: int,
    wide: int = 0,
    changes: Iterable[Change] = (),
) -> Bodies:
    """Write every body into `folder`; the same bytes for the same numbers."""
    documents = tuple(documents)
    for rows, labels, made, name in (
        *((rows, DOCUMENT, _document_rows, f"document-{rows}.json") for rows in documents),
        (wide, WIDE, _wide_rows, "wide.json"),
    ):
        with (folder / name).open("w", encoding="utf-8") as file:
            columns = [{"name": name, "friendly_name": name, "type": kind} for name, (kind, _) in labels.items()]
            head = {"id": rows, "query_hash": "0" * 32, "query": "select * from orders"}
            file.write(json.dumps({"query_result": head})[:-2])
            file.write(f', "data": {{"columns": {json.dumps(columns)}, "rows": [')
            file.writelines(f"{', ' if n else ''}{row}" for n, row in enumerate(made(rows)))
            file.write(']}, "data_source_id": 1, "runtime": 1.5, "retrieved_at": "2026-01-01T00:00:00.000Z"}}')
    rows_by_name = {
        "records": (list(_record_rows(range(1, records + 1))), PAGE),
        "keys": ([f'{{"id":{n}}}' for n in range(1, records + 1)], KEY_PAGE),
    }
    few = small_pages * SMALL_PAGE
    rows_by_name["small"] = list(_record_rows(range(1, few + 1))), SMALL_PAGE
    rows_by_name["small_keys"] = [f'{{"id":{n}}}' for n in range(1, few + 1)], KEY_PAGE
    totals = {"records": records, "small": few}
    for change in changes:
        changed = list(_changed_rows(change))
        rows_by_name[change.name] = changed, PAGE
        rows_by_name[f"{change.name}_keys"] = [f"{row[: row.index(',')]}}}" for row in changed], KEY_PAGE
        totals |= {change.name: change.total, f"{change.name}_changed": len(changed)}
    pages = {}
    for name, (lines, size) in rows_by_name.items():
        with (folder / f"{name}.json").open("wb") as file:
            spots = []
            for start in range(0, len(lines), size):
                data = ",".join(lines[start : start + size])
                spots.append((file.tell(), file.write(enveloped(f"[{data}]"))))
        pages[name] = spots
    lines = rows_by_name["records"][0]
    with (folder / "records.csv").open("w", encoding="utf-8", newline="") as text:
        # a NULL is an empty field, and no text is empty
        csv.writer(text).writerows(json.loads(line).values() for line in lines)
    with (folder / "sql.json").open("wb") as file:
        pages["sql"] = []
        for start in range(0, len(lines), SQL_PAGE):
            page = [
                json.dumps(list(json.loads(line).values()), ensure_ascii=False)
                for line in lines[start : start + SQL_PAGE]
            ]
            pages["sql"].append((file.tell(), file.write("\n".join(page).encode())))
    with (folder / "segment.csv").open("w", encoding="utf-8") as text:
        text.write("\t".join(SEGMENT) + "\n")
        text.writelines(_segment_lines(segment))
    bodies = Bodies(
        folder=str(folder),
        totals=totals,
        documents={rows: f"document-{rows}.json" for rows in documents},
        pages=pages,
        segment=segment,
    )
    bodies.save()
    return bodies


def enveloped(data: str) -> bytes:
    content = data.encode()
    return b'{"status_code":200,"response_size":"%d","data":%b}' % (len(content) + 49, content)


def definition() -> dict[str, Any]:
    return {"fields": {name: {"type": kind} for name, (kind, _) in RECORDS.items()}, "related_entities": {}}


def chart(uid: str, start: int, end: int) -> dict[str, Any]:
    """One window of a chart: by day and city, two metrics."""
    fields = [{"name": "目标用户", "dimension": True}, {"name": "时间", "dimension": True}]
    meta = [*fields, {"name": "城市", "dimension": True}, *({"name": name, "metric": True} for name in CHART_METRICS)]
    data = [
        ["全部用户", day, city, (day // DAY_MS * 7 + place) % 100_000, (day // DAY_MS) / 64]
        for day in range(start, end, DAY_MS)
        for place, city in enumerate(CHART_CITIES)
    ]
    told = {"id": uid, "name": f"Chart {uid}", "startTime": start, "endTime": end}
    return told | {"interval": DAY_MS, "meta": meta, "data": data}


def _changed_rows(change: Change) -> Iterator[str]:
    """Scattered rows of the table as it began, and new ones, in the order of their keys."""
    seed = change.rows + change.night
    updated = random.Random(seed).sample(range(1, change.rows + 1), min(UPDATED, change.rows))
    return _record_rows([*sorted(updated), *range(change.total - ADDED + 1, change.total + 1)], seed=seed)


def _record_rows(numbers: Iterable[int], *, seed: int = 1) -> Iterator[str]:
    dice = random.Random(seed)
    words = _sentences(dice)
    for n in numbers:
        pick = dice.getrandbits(30)
        note = "null" if pick % 3 == 0 else f'"{words[pick % 997]}"'
        yield (
            f'{{"id":{n},"advertiser_id":{pick % 5000},"score":{pick % 100000 / 64},'
            f'"is_active":{"true" if pick % 2 else "false"},"name":"{words[pick % 991]} {n}",'
            f'"status":"{("active", "paused", "deleted")[pick % 3]}","country":"{CITIES[pick % 8]}",'
            f'"url":"https://example.com/c/{pick}/{n}","ref":"{pick:08x}{n:08x}","notes":{note},'
            f'"created":"2025-{pick % 12 + 1:02}-{pick % 28 + 1:02} {pick % 24:02}:{pick % 60:02}:{n % 60:02}",'
            f'"modified":"2026-{pick % 10 + 1:02}-{pick % 28 + 1:02} {pick % 24:02}:{n % 60:02}:{pick % 60:02}"}}'
        )


def _segment_lines(count: int) -> Iterator[str]:
    dice = random.Random(3)
    for n in range(1, count + 1):
        pick = dice.getrandbits(30)
        yield (
            f"u{n}\td-{pick:08x}-{n:08x}\t{('f', 'm', '')[pick % 3]}\t{CITIES[pick % 8]}\tlevel {pick % 60}\t"
            f"2026-{pick % 12 + 1:02}-{pick % 28 + 1:02} {pick % 24:02}:{n % 60:02}\n"
        )


def _document_rows(count: int) -> Iterator[str]:
    dice = random.Random(2)
    words = _sentences(dice)
    for n in range(1, count + 1):
        pick = dice.getrandbits(30)
        shipped = "null" if pick % 4 == 0 else f'"2026-{pick % 12 + 1:02}-{pick % 28 + 1:02}T{pick % 24:02}:00:00.250"'
        coupon = "null" if pick % 5 else f'"C-{pick % 1000:04}"'
        yield (
            f'{{"order_id": {n}, "customer_id": {pick % 60000}, "quantity": {pick % 9 + 1}, '
            f'"price": {pick % 100000 / 64}, "discount": {pick % 32 / 32}, '
            f'"is_paid": {"true" if pick % 2 else "false"}, "day": "2026-{pick % 12 + 1:02}-{pick % 28 + 1:02}", '
            f'"created_at": "2026-{pick % 12 + 1:02}-{pick % 28 + 1:02}T{pick % 24:02}:{n % 60:02}:{pick % 60:02}.123",'
            f' "shipped_at": {shipped}, "city": "{CITIES[pick % 8]}", "channel": "{("web", "app", "shop")[pick % 3]}", '
            f'"product": "{words[pick % 499]}", "coupon": {coupon}, "comment": "{words[pick % 983]} {n}"}}'
        )


def _wide_rows(count: int) -> Iterator[str]:
    kinds = [
        f'"{name}": ' + {"BIGINT": "%d", "DOUBLE": "%s", "VARCHAR": '"%s"'}[kind] for name, (_, kind) in WIDE.items()
    ]
    row = f"{{{', '.join(kinds)}}}"
    for n in range(1, count + 1):
        others = ((n * place % 100_000, n * place % 1000 / 64, WORDS[(n + place) % 10]) for place in range(1, 201))
        yield row % (n, *[value for each in others for value in each][1:])


def _sentences(dice: random.Random) -> list[str]:
    return [" ".join(dice.choices(WORDS, k=dice.randint(2, 6))) for _ in range(1000)]
