"""The one result that is large: 200,000 rows of 14 columns at scale 1, about as the lab server's (section 5).

Written as bytes in one pass; dicts and a JSON writer would take seconds of every process that asks for it.
"""

from __future__ import annotations

import random

BIG_COLUMNS: list[tuple[str, str | None]] = [
    ("id", "integer"), ("lt", "integer"), ("hash", None), ("wallet", "string"), ("day", "date"),
    ("happened_at", "datetime"), ("amount_ton", "float"), ("fee", "float"), ("op_code", "integer"),
    ("success", "boolean"), ("comment", None),
    ("meta", None), ("国家", "string"), ("never_set", "integer"),
]  # fmt: skip

COMMENTS = (
    '""', "null", '"转账"', '"},{"', '"\\"rows\\": ["', '"]}"', '"🚀 to the moon"',
    '"007"', '"line\\nbreak"', '"plain text"',
)  # fmt: skip


CHUNK = 2000


def big_rows(seed: int, count: int) -> bytes:
    salt = random.Random(seed).getrandbits(64)
    # Encoded chunk by chunk: as one text of two bytes a character it would be several times its size.
    chunks = [
        ",".join([_row(i, salt) for i in range(start, min(start + CHUNK, count))]).encode()
        for start in range(0, count, CHUNK)
    ]
    return b"[" + b",".join(chunks) + b"]"


def _row(i: int, salt: int) -> str:
    mixed = (i * 0x9E3779B97F4A7C15 + salt) & 0xFFFFFFFFFFFFFFFF
    low = mixed & 0xFFFF
    day = f"2024-{low % 12 + 1:02d}-{low % 28 + 1:02d}"
    return (
        f'{{"id":{i + 1},"lt":{9007199254740993 + i * 1000003},'
        f'"hash":"{mixed:016x}{mixed ^ salt:016x}{mixed:016x}{mixed ^ 0xFFFF:016x}",'
        f'"wallet":"EQ{mixed % 99991:046x}","day":"{day}",'
        f'"happened_at":"{day}T{low % 24:02d}:{low % 60:02d}:00{"Z" if low % 2 else ".123Z"}",'
        f'"amount_ton":{low / 8},"fee":{low % 1000 / 1000},'
        f'"op_code":{mixed & 0xFFFFFFFF},"success":{"true" if low % 7 else "false"},'
        f'"comment":{COMMENTS[low % 10]},"meta":{{"i":{i % 100},"tags":["a",null,"中"],"deep":{{"x":{low}}}}},'
        f'"国家":"{"中国" if low % 2 else "Россия"}","never_set":null}}'
    )
