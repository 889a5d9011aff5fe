"""The seeded account: same seed and scale, same records.

Types flap as the sheet's samples do: an id is a number in one row and a text in the next, money is "0.00000" or 1.5, a
null may be the text NULL. PII fields hold a canary text, to be searched for where it must not arrive.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox.core.nasty import LONG_CHINESE, TEXTS
from sandbox.core.wire import mysql_time
from sandbox.tune.models import ALL, Model

Record = dict[str, Any]
Tables = dict[str, dict[str, Record]]

ZERO = "0000-00-00 00:00:00"
EPOCH = datetime(2014, 10, 31, 17, 42, 17, tzinfo=UTC)
NAMES = (*(text for text in TEXTS if len(text) < 300), LONG_CHINESE + "甲", LONG_CHINESE + "乙", "同名", "同名")
STATUSES = ("active", "active", "active", "paused", "deleted", "Active", "")
COUNTRIES = (
    (0, "International (Generic)", None),
    (4, "Afghanistan", "AF"),
    (8, "Albania", "AL"),
    (156, "中国 China", "CN"),
    (384, "Côte d'Ivoire", "CI"),
    (528, "Netherlands", "NL"),
    (643, "Россия", "RU"),
    (840, "United States", "US"),
)


def key_of(model: Model, record: Record) -> str:
    return "|".join(str(record[name]) for name in model.key)


def seeded(seed: int, scale: float) -> Tables:
    tables: Tables = {}
    for model in ALL:
        rng = random.Random(f"{seed}|{model.path}")
        count = max(model.floor, round(model.size * scale))
        make = MAKERS.get(model.path, _plain)
        records = [make(model, rng, number, count) for number in range(count)]
        tables[model.path] = {key_of(model, record): record for record in records}
    return tables


def _id(model: Model, number: int) -> int:
    """Ids have gaps and do not start at one."""
    return 500 + number * 3 + len(model.path)


def _text(rng: random.Random, number: int, label: str) -> str:
    return (
        NAMES[number] if number < len(NAMES) else f"{label} {number} {rng.choice(['', '活动', '🚀', '推广'])}".strip()
    )


def _plain(model: Model, rng: random.Random, number: int, count: int) -> Record:
    record: Record = {}
    for name, found in model.fields.items():
        record[name] = _value(model, rng, number, name, found.type)
    return record


def _value(model: Model, rng: random.Random, number: int, name: str, kind: str) -> Any:
    if name == "id":
        return _flap(model, rng, "id", _id(model, number))
    if name == "name":
        return _text(rng, number, model.name)
    if name == "status":
        return rng.choice(STATUSES)
    if kind == "datetime":
        return ZERO if number % 29 == 5 else mysql_time(EPOCH + timedelta(hours=number, minutes=rng.randrange(60)))
    by_kind: dict[str, Callable[[], Any]] = {
        "integer": lambda: _flap(model, rng, name, 500 + len(_owner(name)) + 3 * rng.randrange(10)),
        "money": lambda: (
            rng.choice(["0.00000", f"{rng.randrange(10**6) / 1000:.5f}", rng.randrange(10**5) / 100, 0, None])
            if name in model.flaps
            else f"{rng.randrange(10**6) / 1000:.5f}"
        ),
        "boolean": lambda: rng.choice([True, False, "0", "1"]) if name in model.flaps else rng.random() < 0.5,
        "json": lambda: rng.choice(
            [
                None,
                {"cpi": rng.randrange(100) / 10, "tags": ["a", None, "中"]},
                [],
                [{"rows": []}, 1],
                {"deep": {"k": {"v": 1}}},
            ]
        ),
        "date": lambda: "0000-00-00" if number % 31 == 3 else f"2015-{number % 12 + 1:02d}-{number % 28 + 1:02d}",
    }
    if kind in by_kind:
        return by_kind[kind]()
    return rng.choice([None, "", "NULL", "007", f"{name} {number}", "值"])


def _owner(name: str) -> str:
    """The table an id field points into, so that most references find their record."""
    return {
        "account_id": "account",
        "advertiser_id": "advertiser",
        "agency_id": "agency",
        "site_id": "advertiser/sites",
        "publisher_id": "advertiser/publishers",
        "campaign_id": "advertiser/campaigns",
    }.get(name, "account")


def _flap(model: Model, rng: random.Random, name: str, value: int) -> Any:
    if name not in model.flaps:
        return value
    return rng.choice([value, str(value)])


def _account(model: Model, rng: random.Random, number: int, count: int) -> Record:
    record = _plain(model, rng, number, count)
    company = {
        "type": "company",
        "country_id": COUNTRIES[number % len(COUNTRIES)][0],
        "region_id": 500 + len("regions"),
    }
    return {
        **record,
        **company,
        "verified_phone": rng.choice([True, False, "0", "1"]),
        "phone": f"CANARYpii+1555{number:04d}",
    }


def _user(model: Model, rng: random.Random, number: int, count: int) -> Record:
    record = _plain(model, rng, number, count)
    return {
        **record,
        "email": f"user{number}@tune.invalid",
        "password": "NULL" if number % 5 == 0 else f"CANARYpii-password-{number}",
        "phone": f"CANARYpii+1555{number:04d}",
        "cell_phone": None if number % 3 == 0 else f"CANARYpii+1666{number:04d}",
        "signup_ip": f"CANARYpii-10.0.0.{number}",
        "time_zone": rng.choice(["America/Los_Angeles", "Asia/Shanghai", "UTC"]),
        "first_name": _text(rng, number, "First"),
        "last_name": rng.choice(["王", "O'Brien", "de la Cruz", ""]),
    }


def _campaign(model: Model, rng: random.Random, number: int, count: int) -> Record:
    record = _plain(model, rng, number, count)
    if number == count - 1:
        record["id"] = 2**53 + 1
    if number % 7 == 0:
        record["publisher_id"] = "0"
    record["note"] = TEXTS[number % len(TEXTS)] if number % 3 == 0 and number < 200 else record["note"]
    return record


def _site(model: Model, rng: random.Random, number: int, count: int) -> Record:
    record = _plain(model, rng, number, count)
    country = COUNTRIES[number % len(COUNTRIES)][0]
    package = {
        "package_name": rng.choice(["unknown", "com.example.app"]),
        "mobile_app_type": rng.choice(["iOS", "Android"]),
    }
    return {**record, **package, "store_app_id": None, "country_id": country}


def _country(model: Model, rng: random.Random, number: int, count: int) -> Record:
    if number < len(COUNTRIES):
        key, name, code = COUNTRIES[number]
    else:
        key, name, code = 1000 + number, f"Country {number}", None if number % 9 == 0 else f"X{number}"
    return {"id": key, "name": name, "code": code}


def _rate(model: Model, rng: random.Random, number: int, count: int) -> Record:
    currency = ("EUR", "CNY", "TRY")[number % 3]
    day = (EPOCH + timedelta(days=number // 3)).strftime("%Y-%m-%d")
    rate = rng.randrange(10**6) / 10**5
    return {"currency": currency, "date": day, "rate": f"{rate:.5f}" if number % 2 else rate}


MAKERS: dict[str, Callable[[Model, random.Random, int, int], Record]] = {
    "account": _account,
    "account/users": _user,
    "advertiser/campaigns": _campaign,
    "advertiser/sites": _site,
    "countries": _country,
    "currency_exchange_rates": _rate,
}
