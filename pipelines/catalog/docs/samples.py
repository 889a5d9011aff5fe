"""A few values of each column, to show what it holds; none of a column that may hold personal data.

Each column is judged twice: by `sources.privacy.pii_columns`, and here by its name and values. When in doubt, nothing
is shown, because a data dictionary is passed around.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from pipelines.catalog.introspect import ColumnThere
from pipelines.warehouse.reader import Reader, as_text
from sources.convert.types import VALID_FROM
from sources.core.sql import quote

MOST = 3
LONGEST = 40
ROWS = 200
"""Rows, the first by key, in which examples are looked for."""

PEOPLE = re.compile(r"users?(?:_|$)|members|^logs_|^events$|^api_tests$|^generated_sql$|^dimension_")
"""Tables whose every column is about people, or may hold anything."""
DATASETS = ("tonalytica_results",)
NAMES = re.compile(
    r"e[-_]?mail|phone|mobile|(?:^|[._ ])cell(?:$|[._ ])|(?:^|[._ ])ips?(?:$|[._ ])|address|device|idfa|gaid|imei|udid"
    r"|(?:first|last|full|login|nick|user|real)[-_ ]?name|user|member|creator|owner|operator|updater|author|contact"
    r"|_by(?:$|_)|(?:^|[._ ])script|snippet|(?:^|_)(?:sql|query|text|note|sample)$|(?:default|example)[-_ ]?value"
    r"|birth|gender|zip|city|street|latitude|longitude|passport|account_id|distinct"
    r"|手机|邮箱|邮件|电话|姓名|昵称|地址|身份证|用户|设备|联系|微信|生日|创建人|负责人|账号|帐号",
    re.IGNORECASE,
)
VALUES = re.compile(
    r"@|\+?\d[\d \-()]{8,}\d|\d{1,3}(?:\.\d{1,3}){3}|(?i:[0-9a-f]{4}:){3}|(?i:[0-9a-f]{8}-[0-9a-f]{4}-)"
)
"""E-mail addresses, telephone and card numbers, IP addresses, device ids."""
IsPersonal = Callable[[str, str, str], bool]


def examples(reader: Reader, columns: Sequence[ColumnThere], is_personal: IsPersonal) -> dict[str, list[str]]:
    """Column → at most three short values of one table, the same ones as long as its rows are."""
    shown = [column for column in columns if _may_be_shown(column, is_personal)]
    if not shown:
        return {}
    orderable = [column.name for column in columns if "json" not in column.type and not column.name.startswith("_dlt")]
    order = [column.name for column in columns if column.key and column.name in orderable] or orderable
    dataset, table = columns[0].dataset, columns[0].table
    rows = reader.query(
        f"SELECT {', '.join(quote(column.name) for column in shown)} FROM {quote(dataset, table)} "  # noqa: S608
        f"ORDER BY {', '.join(map(quote, dict.fromkeys((*order, *_moments(columns)))))} LIMIT {ROWS}"
    )
    found = {}
    for place, column in enumerate(shown):
        texts = [as_text(row[place]) for row in rows if row[place] is not None]
        is_text = any(isinstance(row[place], str) for row in rows)
        if is_text and any(VALUES.search(text) for text in texts):
            continue
        short = [text for text in dict.fromkeys(texts) if text and len(text) <= LONGEST and text.isprintable()]
        if short:
            found[column.name] = short[:MOST]
    return found


def personal() -> IsPersonal:
    """The vendors' list of personal columns, where there is one."""
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec("sources.privacy.pii_columns") is None:
        return lambda dataset, table, label: False
    told: IsPersonal = import_module("sources.privacy.pii_columns").is_personal
    return told


def _may_be_shown(column: ColumnThere, is_personal: IsPersonal) -> bool:
    if column.dataset in DATASETS or PEOPLE.search(column.table):
        return False
    if column.label is None or "json" in column.type:  # not the vendor's, or anything at all
        return False
    names = (column.label, column.name)
    if any(NAMES.search(name) for name in names):
        return False
    return not any(is_personal(column.dataset, column.table, name) for name in names)


def _moments(columns: Sequence[ColumnThere]) -> list[str]:
    """Of a history, what tells the versions of one key apart."""
    return [column.name for column in columns if column.name == VALID_FROM]
