"""No name is lost: every label has a column of its own, and keeps it."""

from __future__ import annotations

import random
import re

import pytest
from dlt.destinations import duckdb as duckdb_destination
from hypothesis import given
from hypothesis import strategies as st

from sources.naming import MAX_BYTES, RESERVED, NamingConvention, columns_for, identifier_for, without_system_columns

LABELS = st.text(max_size=80)
NASTY = st.sampled_from(
    [
        "Amount",
        "amount",
        "AMOUNT",
        "a b",
        "a_b",
        "a__b",
        "a.b",
        "",
        " ",
        "_",
        "__",
        "#",
        "$",
        "%",
        "城市",
        "浏览器",
        "İ",
        "ß",
        "_dlt_id",
        "_deleted_at",
        "1st",
        "ﬁ",
        "e\u0301",
        "é",
        "c" * 90,
        "c" * 91,
        "🚀",
        "甲" * 40,
        "甲" * 40 + "乙",
        "\ud800",
    ]
)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("id", "id"),
        ("Pool Name", "pool_name"),
        ("VolumeUSD", "volume_usd"),
        ("总锁仓量", "总锁仓量"),
        ("城市", "城市"),
        ("Котик", "котик"),
        ("שלום", "שלום"),
        ("日活跃钱包数（去重）", "日活跃钱包数_去重"),
        ("24h change %", "_24h_change"),
        ("kind::filter", "kind_filter"),
        ("a.b", "a_b"),
        (" padded ", "_padded"),
        ("e\u0301tat", "état"),
    ],
)
def test_names_that_people_will_type(label: str, name: str) -> None:
    assert identifier_for(label) == name


@pytest.mark.parametrize("label", ["", "#", "$", "%", "🚀", "?!", "__", " "])
def test_a_label_without_a_letter_still_has_a_name(label: str) -> None:
    assert identifier_for(label).startswith("column_")


def test_labels_without_a_letter_have_names_of_their_own() -> None:
    assert len({identifier_for(label) for label in ("", "#", "$", "%", "🚀", "?!")}) == 6


def test_long_names_that_differ_at_the_end_differ() -> None:
    long = "每日链上活跃钱包与跨交易所净流入统计报表按地区渠道以及代币类型分组"
    first, second = identifier_for(long + "甲"), identifier_for(long + "乙")
    assert first != second
    assert first.startswith("每日链上活跃钱包")
    assert max(len(first.encode()), len(second.encode())) <= MAX_BYTES


def test_a_label_named_as_a_system_column_of_postgres_is_tagged_on_every_database() -> None:
    labels = ["xmin", "XMAX", "cmin", "cmax", "ctid", "tableoid"]
    columns = columns_for(labels)
    assert all(re.fullmatch(f"{label.lower()}_[0-9a-f]{{8}}", columns[label]) for label in labels)
    assert without_system_columns(["id", "ctid"]) == {"ctid": columns["ctid"]}
    assert without_system_columns(["ctid", columns["ctid"]])["ctid"] not in ("ctid", columns["ctid"])


@given(LABELS | NASTY)
def test_a_name_is_its_own_name_and_fits(label: str) -> None:
    name = identifier_for(label)
    assert identifier_for(name) == name
    assert 0 < len(name.encode()) <= MAX_BYTES
    assert name == name.lower()
    assert not name[0].isdigit()


@given(st.lists(LABELS | NASTY, max_size=30), st.randoms(use_true_random=False))
def test_every_label_has_a_column_of_its_own_whatever_the_order(labels: list[str], dice: random.Random) -> None:
    columns = columns_for(labels)
    assert set(columns) == set(labels)
    assert len({name.lower() for name in columns.values()}) == len(set(labels))
    assert not RESERVED & set(columns.values())
    assert all(len(name.encode()) <= MAX_BYTES for name in columns.values())
    shuffled = list(labels)
    dice.shuffle(shuffled)
    assert columns_for(shuffled) == columns


@given(st.lists(LABELS | NASTY, max_size=15), st.lists(LABELS | NASTY, max_size=15))
def test_a_label_keeps_its_column_whatever_comes_later(first: list[str], later: list[str]) -> None:
    known = columns_for(first)
    both = columns_for([*later, *first], known=known)
    assert {label: both[label] for label in first} == known
    assert len({name.lower() for name in both.values()}) == len({*first, *later})


@given(st.lists(LABELS | NASTY, max_size=15))
def test_dlt_takes_the_columns_as_they_are(labels: list[str]) -> None:
    """dlt normalises names again, more than once: it must find nothing to change."""
    naming = NamingConvention(duckdb_destination().capabilities().max_identifier_length)
    for name in columns_for(labels).values():
        assert naming.normalize_identifier(name) == name
        assert naming.normalize_path(name) == name
