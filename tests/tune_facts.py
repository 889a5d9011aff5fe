"""What the warehouse should hold of the played TUNE's reports, told from its facts and apart from how it is loaded."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from conftest import Night
from sandbox_process import SandboxProcess

FACTS, COHORTS = "advertiser/stats", "advertiser/stats/cohorts"
TODAY = datetime.now(UTC).date()
FIRST = TODAY - timedelta(days=12)
DAILY: dict[str, Any] = {
    "name": "daily",
    "report": "actuals",
    "group": ["site_id", "publisher_id", "publisher_sub_ad_id"],
    "fields": ["installs", "ad_clicks", "payouts", "site.name", "country.name", "country_id", "is_reengagement"],
    "start": FIRST.isoformat(),
    "lookback_days": 3,
}


class Vendor:
    """The sandbox's TUNE: its facts, and how they are restated."""

    def __init__(self, process: SandboxProcess) -> None:
        self.process, self.key = process, str(process.tune["api_key"])

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.process.control("tune", method, path, body)

    def facts(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.control("GET", f"truth/{table}")["rows"]
        return rows

    def edit(self, *edits: dict[str, Any]) -> None:
        self.control("POST", "edit", list(edits))

    def fault(self, path: str, do: dict[str, Any], *, skip: int = 0, times: int = 1) -> None:
        self.control("POST", "faults", {"match": {"path": path}, "do": do, "skip": skip, "times": times})

    def exports(self, **options: Any) -> None:
        self.control("POST", "options", {"exports": options})

    def asked(self, path: str) -> int:
        counts = self.control("GET", "stats")["by_path"]
        return sum(count for target, count in counts.items() if path in target)

    def out_of_place(self) -> list[dict[str, str]]:
        stats: list[dict[str, str]] = self.control("GET", "stats")["unexpected"]
        return stats

    def name(self, path: str, key: Any) -> Any:
        names = {str(row["id"]): row["name"] for row in self.facts(path)}
        return names.get(str(key))


def expected_actuals(vendor: Vendor, *, test_traffic: bool = False) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What the table of DAILY should hold, told from the facts."""
    sites = {str(row["id"]): row["name"] for row in vendor.facts("advertiser/sites")}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for fact in vendor.facts(FACTS):
        if not test_traffic and (fact["debug_mode"] or fact["test_profile_id"]):
            continue
        at = datetime.fromisoformat(fact["date_hour"]).replace(tzinfo=UTC)
        key = (at, fact["site_id"], fact["publisher_id"], fact["publisher_sub_ad_id"])
        row = rows.setdefault(key, {"installs": 0, "ad_clicks": 0, "payouts": Decimal(0)})
        row["installs"] += fact["installs"]
        row["ad_clicks"] += fact["ad_clicks"]
        row["payouts"] += Decimal(fact["payouts"]) / 100000
        row.setdefault("site_name", sites[str(fact["site_id"])].replace("\0", "\ufffd"))
        row["window_start"] = f"{at:%Y-%m-%d}"
        row["response_timezone"] = "UTC"
        row.setdefault("is_reengagement", bool(fact["is_reengagement"]))
        row.setdefault("country_id", fact["country_id"])
    return rows


def found_actuals(night: Night, table: str = "actuals_daily") -> dict[tuple[Any, ...], dict[str, Any]]:
    names = ("installs", "ad_clicks", "payouts", "site_name", "window_start", "response_timezone", "is_reengagement")
    key = "date_hour, site_id, publisher_id, publisher_sub_ad_id"
    rows = night.rows(f"SELECT {key}, {', '.join(names)}, country_id FROM tune.{table}")
    found = {
        (row[0].astimezone(UTC), *row[1:4]): dict(zip((*names, "country_id"), row[4:], strict=True)) for row in rows
    }
    assert len(found) == len(rows), "a row is there twice"
    return found


RETENTION: dict[str, Any] = {
    "name": "daily",
    "report": "retention",
    "group": ["install_publisher_id"],
    "fields": ["installs", "opens", "install_publisher.name"],
    "start": FIRST.isoformat(),
}


def same_retention(night: Night, vendor: Vendor) -> int:
    """The table of RETENTION holds what is true, and nothing else; returns how many rows that is."""
    truth = {}
    for fact in vendor.facts(COHORTS):
        name = vendor.name("advertiser/publishers", fact["publisher_id"])
        year_day = f"{date.fromisoformat(fact['day']):%Y_%j}"
        for place, opens in enumerate(fact["opens"]):
            key = (fact["day"], fact["publisher_id"], place)
            truth[key] = (year_day, fact["installs"], opens, fact["installs"], name)
        if not fact["opens"]:
            truth[(fact["day"], fact["publisher_id"], -1)] = (year_day, None, None, fact["installs"], name)
    sql = """SELECT window_start, install_publisher_id, ordinal, year_day, installs, opens, meta_installs,
             install_publisher_name FROM tune.retention_daily"""
    rows = night.rows(sql)
    assert {row[:3]: row[3:] for row in rows} == truth and len(rows) == len(truth)
    return len(truth)


def clicks(vendor: Vendor, **settings: Any) -> dict[str, Any]:
    advertiser = str(vendor.facts("advertiser")[0]["id"])
    base = {"name": "clicks", "report": "logs", "log": "clicks", "advertiser_id": advertiser, "lookback_days": 2}
    return {**base, "start": (TODAY - timedelta(days=6)).isoformat(), **settings}


def same_log(night: Night, vendor: Vendor, *, export: bool) -> None:
    def text(value: Any) -> Any:
        cleaned = None if value is None else value.replace("\0", "\ufffd")
        return None if export and not cleaned else cleaned

    truth = {
        row["id"]: (
            datetime.fromisoformat(row["created"]),
            row["site.id"],
            text(row["site.name"]),
            row["publisher.id"],
            Decimal(row["payout"]),
            row["user_id"],
        )
        for row in vendor.facts("logs/clicks")
    }
    sql = "SELECT id, created, site_id, site_name, publisher_id, payout, user_id FROM tune.logs_clicks"
    rows = night.rows(sql)
    assert {row[0]: (row[1].astimezone(UTC), *row[2:]) for row in rows} == truth and len(rows) == len(truth)
