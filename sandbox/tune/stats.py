"""The facts behind the reports: hourly figures, install cohorts, logs (sections 7 and 9). Seeded, up to this hour."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

from sandbox.core.nasty import TEXTS
from sandbox.core.wire import now
from sandbox.tune.data import Record, Tables

DAYS = 12
FACTS, COHORTS = "advertiser/stats", "advertiser/stats/cohorts"
LOG_TYPES = ("clicks", "installs", "events", "event_items", "postbacks", "opens", "impressions", "updates")
METRICS = ("ad_impressions", "ad_clicks", "installs", "opens", "events", "conversions")
AMOUNTS = ("payouts", "revenues", "revenues_usd")
DIMENSIONS = ("site_id", "publisher_id", "campaign_id", "country_id", "publisher_sub_ad_id", "is_reengagement")

Stats = dict[str, dict[str, Record]]


def seeded_stats(seed: int, tables: Tables, *, moment: datetime | None = None) -> Stats:
    """Table → id → fact: `advertiser/stats` per hour, `advertiser/stats/cohorts` per install day, `logs/<type>`."""
    midnight = (moment or now()).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [midnight - timedelta(days=ago) for ago in range(DAYS, -1, -1)]
    sites = [row["id"] for row in list(tables["advertiser/sites"].values())[:3]]
    publishers = [row["id"] for row in list(tables["advertiser/publishers"].values())[:4]]
    rng = random.Random(f"{seed}|stats")
    facts: dict[str, Record] = {}
    cohorts: dict[str, Record] = {}
    for number, day in enumerate(days):
        for hour in (0, 7, 23) if day < midnight else (0,):
            for site in sites:
                for publisher in rng.sample(publishers, 2):
                    key = str(len(facts) + 1)
                    facts[key] = _fact(rng, int(key), day + timedelta(hours=hour), site, publisher)
        for publisher in publishers:
            key = str(len(cohorts) + 1)
            cohorts[key] = _cohort(rng, int(key), day, sites[number % 3], publisher, intervals=DAYS - number)
    logs = {f"logs/{kind}": _log(rng, kind, days, sites, publishers) for kind in LOG_TYPES}
    return {FACTS: facts, COHORTS: cohorts, **logs}


def _fact(rng: random.Random, number: int, hour: datetime, site: Any, publisher: Any) -> Record:
    return {
        "id": number,
        "date_hour": f"{hour:%Y-%m-%d %H:%M:%S}",
        "site_id": int(site),
        "publisher_id": int(publisher),
        "campaign_id": None if number % 9 == 0 else 500 + number % 5,
        "country_id": (0, 156, 840)[number % 3],
        "publisher_sub_ad_id": ("0", "ad,1", 'ad "2"', "值 3", None)[number % 5],
        "is_reengagement": number % 2,
        "currency_code": ("USD", "CNY")[number % 2],
        "debug_mode": 1 if number % 11 == 0 else (None if number % 2 else 0),
        "test_profile_id": 7 if number % 13 == 0 else (None if number % 3 else 0),
        **{name: rng.randrange(2**53, 2**53 + 9) if number == 5 else rng.randrange(500) for name in METRICS},
        # thousandths of a cent, summed without a rounding
        **{name: rng.randrange(10**9) for name in AMOUNTS},
    }


def _cohort(rng: random.Random, number: int, day: datetime, site: Any, publisher: Any, *, intervals: int) -> Record:
    return {
        "id": number,
        "day": f"{day:%Y-%m-%d}",
        "site_id": int(site),
        "publisher_id": int(publisher),
        "installs": rng.randrange(1, 300),
        "test_profile_id": 7 if number % 10 == 0 else None,
        "opens": [rng.randrange(200) for _ in range(intervals)],
        "revenue": [rng.randrange(10**8) for _ in range(intervals)],
    }


def _log(rng: random.Random, kind: str, days: list[datetime], sites: list[Any], publishers: list[Any]) -> Any:
    rows: dict[str, Record] = {}
    for day in days[-6:]:
        for number in range(9 if day < days[-1] else 2):
            moment = day + timedelta(seconds=0 if number == 0 else rng.randrange(86399 if day < days[-1] else 1))
            if number == 8:
                moment = day + timedelta(seconds=86399)
            key = f"{rng.getrandbits(72):018x}-{day:%Y%m%d}-877"
            rows[key] = {
                "id": key,
                "created": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
                "site.id": int(rng.choice(sites)),
                "site.name": TEXTS[(number + len(rows)) % (len(TEXTS) - 1)],
                "publisher.id": rng.choice([0, int(rng.choice(publishers))]),
                "payout": f"{rng.randrange(10**6) / 1000:.5f}",
                "status": rng.choice(["approved", "rejected", ""]),
                "user_id": None if number % 2 else str(2**53 + number),
                "device_ip": f"CANARYpii-10.1.{number}.{len(rows)}",
                "debug_mode": 0,
                "test_profile_id": None,
            }
    return rows
