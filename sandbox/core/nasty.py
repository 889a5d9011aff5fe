"""Texts and numbers that loaders trip over, for the vendors that let anything in."""

from __future__ import annotations

LONG_CHINESE = "每日链上活跃钱包与跨交易所净流入统计报表按地区渠道以及代币类型分组"
"""32 characters, 96 bytes: two names that share it differ only beyond the 63 bytes a Postgres name has."""

TEXTS: tuple[str, ...] = (
    "plain",
    "",
    " leading and trailing ",
    "总锁仓量",
    "日活跃钱包数（去重）",
    "Котик №7",
    "emoji 🚀👩‍👩‍👧‍👦🇨🇳",
    "rtl שלום עולם مرحبا \u202eabc",
    'double " quote',
    "single ' quote; DROP TABLE x;--",
    "back\\slash \\n \\u0041",
    "tab\there",
    "line\nbreak\r\nand more",
    "nul \u0000 inside",
    "},{",
    '"rows": [',
    "]}",
    '{"rows": [], "columns": []}',
    "007",
    "1e5",
    "NULL",
    "null",
    "true",
    "0000-00-00",
    "2024-01-01",
    "2024-01-01T00:00:00.000000Z",
    "\ufeffbom",
    "e\u0301 combining",
    "\u2028 line separator \u2029",
    "a,b;c|d",
    "=1+1",
    "<script>alert(1)</script>",
    "x" * 5000,
)

LONE_SURROGATE = "half \ud800 pair"

BIG_INTEGERS: tuple[int, ...] = (0, -1, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63))
BEYOND_64_BITS = 2**64 + 12345678901234567890
