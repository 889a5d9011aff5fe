"""TUNE: over real sockets, through a real dlt pipeline, into a real warehouse; compared with the vendor's truth."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

os.environ.setdefault("SCHEMA__NAMING", "sources.naming")
os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")

import dlt
import duckdb
import pendulum
import pytest

import sources.tune as package
from conftest import Database, Night, one_database
from pipelines import place as places
from pipelines.ledger import Ledger
from pipelines.warehouse import open_warehouse
from sandbox.tune.models import MODELS
from sandbox_process import SandboxProcess, start_sandbox
from sources.columns import Column, Kind
from sources.errors import AccessDenied, ConfigurationError, NightloadError, Recovery, Refused, Unavailable, summarize
from sources.extraction import Extraction
from sources.spool import Spool
from sources.tables import to_parquet
from sources.tune.client import Request
from sources.tune.fields import is_dropped
from sources.tune.settings import ENDPOINTS, PERSONAL
from sources.walks import Outcome

CAMPAIGNS = "advertiser/campaigns"
Set = Callable[..., None]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "tune", "--scale", "0.02") as process:
        yield process


class Vendor:
    """The sandbox's TUNE: what is true there, and how it is changed."""

    def __init__(self, process: SandboxProcess) -> None:
        self.process = process
        self.key: str = process.tune["api_key"]

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.process.control("tune", method, path, body)

    def rows(self, path: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.control("GET", f"truth/{path}")["rows"]
        return rows

    def edit(self, *edits: dict[str, Any]) -> None:
        self.control("POST", "edit", list(edits))

    def fault(self, path: str, do: dict[str, Any], *, skip: int = 0, times: int = 1) -> None:
        self.control("POST", "faults", {"match": {"path": path}, "do": do, "skip": skip, "times": times})

    def says(self, path: str, status: int, body: Any, *, times: int = -1) -> None:
        self.fault(path, {"status": status, "body": body}, times=times)

    def asked(self, path: str) -> int:
        counts = self.control("GET", "stats")["by_path"]
        return sum(count for target, count in counts.items() if f"/v2/{path}" in target)

    def out_of_place(self) -> list[dict[str, str]]:
        stats: list[dict[str, str]] = self.control("GET", "stats")["unexpected"]
        return stats


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.retrying._BACKOFF_BASE", 0.01)


@pytest.fixture
def vendor(sandbox: SandboxProcess) -> Vendor:
    vendor = Vendor(sandbox)
    vendor.control("POST", "reset")
    return vendor


@pytest.fixture
def configure(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets `sources.tune.*` as the environment does."""

    def configure(**settings: Any) -> None:
        for name, value in settings.items():
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(f"SOURCES__TUNE__{name.upper()}", text)

    configure(base_url=vendor.process.tune["base_url"], api_key=vendor.key, requests_per_second=10000, page_size=50)
    return configure


class Nights:
    """One warehouse over several nights. `night` returns what became of each table; `table` what is there."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.read = Night(home=folder, database=database).rows
        self.place = places.at(database.url or places.DEFAULT, folder)
        self.until = pendulum.now("UTC")

    def night(self, *paths: str, full: bool = False, days: int = 0) -> dict[str, Outcome]:
        self.until = pendulum.now("UTC").add(days=days)
        extraction = Extraction(
            vendor="tune",
            spool_dir=self.folder,
            until=self.until,
            full=frozenset({"*"} if full else ()),
            tables=frozenset(f"tune.{path.replace('/', '_')}" for path in paths) or None,
        )
        with (
            closing(package.connect()) as vendor,
            closing(Ledger(self.place.ledger)) as ledger,
            open_warehouse(self.place, datasets=["tune"]) as warehouse,
        ):
            warehouse.begin()
            self.pipeline = dlt.pipeline(
                "tune",
                pipelines_dir=str(self.folder / "pipelines"),
                destination=warehouse.destination(),
                dataset_name="tune",
            )
            with warehouse.write():
                self.pipeline.run(package.tune(vendor, extraction))
            warehouse.publish(ledger)
        assert not list(self.folder.glob("*.json")), "a spool was left behind"
        return {outcome.label: outcome for outcome in extraction.outcomes.values()}

    def one(self, path: str, **options: Any) -> Outcome:
        return self.night(path, **options)[path]

    def rows(self, path: str) -> list[dict[str, Any]]:
        """The table's rows by the vendor's own labels."""
        name = path.replace("/", "_")
        columns = self.pipeline.default_schema.tables[name]["columns"]
        labels = {column: str(hints["x-label"]) for column, hints in columns.items() if "x-label" in hints}  # type: ignore[typeddict-item]
        names = ", ".join(f'"{column}"' for column in labels)
        return [dict(zip(labels.values(), row, strict=True)) for row in self.read(f'SELECT {names} FROM tune."{name}"')]


@pytest.fixture
def nights(tmp_path: Path, configure: Set, database: Database) -> Nights:
    return Nights(tmp_path, database)


def expected(value: Any, kind: str, name: str) -> Any:
    """What the warehouse should hold of one value of the vendor's, told independently of how it is loaded."""
    if value is None or (value == "NULL" and not (name == "name" or name.endswith("_name"))):
        return None
    match kind:
        case "integer":
            return int(value)
        case "money":
            return Decimal(str(value))
        case "boolean":
            return value in (True, "1")
        case "datetime":
            return None if value.startswith("0000") else datetime.fromisoformat(value).replace(tzinfo=UTC)
        case "date":
            return None if value.startswith("0000") else date.fromisoformat(value)
        case "json":
            return value
        case _:
            return value.replace("\0", "\ufffd")


def found(value: Any, kind: str) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return json.loads(value) if kind == "json" and value is not None else value


def same_as_truth(nights: Nights, vendor: Vendor, path: str) -> None:
    model = MODELS[path]
    shown = {
        name: field.type
        for name, field in model.fields.items()
        if name not in PERSONAL and (model.define or model.apidoc or field.is_default)
    }
    truth = {
        tuple(str(row[name]) for name in model.key): {
            name: expected(row[name], kind, name) for name, kind in shown.items()
        }
        for row in vendor.rows(path)
    }
    there = {
        tuple(str(row[name]) for name in model.key): {name: found(row[name], kind) for name, kind in shown.items()}
        for row in nights.rows(path)
    }
    assert there == truth, path
    for row in nights.rows(path):
        assert set(row) == set(shown)


def test_every_default_table_is_what_the_vendor_has(nights: Nights, vendor: Vendor) -> None:
    outcomes = nights.night()
    assert {path: outcome.error for path, outcome in outcomes.items() if outcome.error} == {}
    assert set(outcomes) == {endpoint.path for endpoint in ENDPOINTS} == set(MODELS)
    for path, outcome in outcomes.items():
        same_as_truth(nights, vendor, path)
        assert outcome.vendor_count == outcome.extracted == outcome.total == len(vendor.rows(path))
        assert outcome.complete
    assert any(row["id"] == 2**53 + 1 for row in nights.rows(CAMPAIGNS))
    assert any(row["name"] == "NULL" for row in nights.rows(CAMPAIGNS))
    types = {
        name: hints["data_type"]
        for name, hints in nights.pipeline.default_schema.tables["advertiser_campaigns"]["columns"].items()
    }
    assert types["payout"] == "decimal" and types["created"] == "timestamp" and types["start_date"] == "date"
    assert types["is_reengagement"] == "bool" and types["publisher_id"] == "bigint" and types["metrics"] == "json"
    assert vendor.out_of_place() == []
    for (name,) in nights.read("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'tune'"):
        assert "CANARY" not in str(nights.read(f'SELECT * FROM tune."{name}"')), name


def test_personal_fields_are_listed_and_kept_only_by_name(nights: Nights, configure: Set) -> None:
    dropped = {table.label: table.dropped for table in package.tables()["tune"]}
    assert dropped["account/users"] == PERSONAL and dropped["account"] == ("phone",) and dropped["countries"] == ()
    configure(keep_personal=["account/users.phone"])
    nights.night("account/users")
    columns = set(nights.rows("account/users")[0])
    assert "phone" in columns and not columns & {"password", "cell_phone", "signup_ip"}
    configure(keep_personal=["account/users.password"])
    with pytest.raises(ConfigurationError, match=r"Credentials are never loaded"):
        package.connect()


@pytest.mark.parametrize("name", ["api_key", "owner.secret", "password_hash", "session_token"])
def test_credentials_are_never_asked_for(name: str) -> None:
    assert is_dropped("agency", name, frozenset({f"agency.{name}"}))


def test_pages_are_fetched_side_by_side_and_in_the_order_of_the_key(vendor: Vendor, configure: Set) -> None:
    vendor.control("POST", "options", {"latency": 0.05})
    configure(page_size=10)
    tune = package.connect()
    pages = [
        json.loads(bytes(page)) for page in tune.client.pages(Request(path=CAMPAIGNS, key=("id",)), count=120, size=10)
    ]
    ids = [row["id"] for page in pages for row in page]
    assert ids == sorted(ids) and len(ids) == len(set(ids)) == 120
    assert [len(page) for page in pages] == [10] * 12 + [0], "one page more than the count fills"
    assert vendor.control("GET", "stats")["max_concurrent"] == 8


@one_database
def test_the_other_form_of_sort(nights: Nights, vendor: Vendor, configure: Set) -> None:
    configure(sort="colon")
    assert nights.one("currency_exchange_rates").error is None
    same_as_truth(nights, vendor, "currency_exchange_rates")
    assert vendor.out_of_place() == []


def _first_and_new(vendor: Vendor) -> tuple[dict[str, Any], dict[str, Any]]:
    first = str(min(int(row["id"]) for row in vendor.rows(CAMPAIGNS)))
    return {"table": CAMPAIGNS, "op": "delete", "key": first}, {
        "table": CAMPAIGNS,
        "op": "insert",
        "row": {"name": "new"},
    }


def test_a_row_that_comes_during_the_walk_is_loaded(
    nights: Nights, vendor: Vendor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sources")
    vendor.fault(f"{CAMPAIGNS}/find.*page=2", {"edit": _first_and_new(vendor)[1]})
    outcome = nights.one(CAMPAIGNS)
    assert outcome.error is None and outcome.extracted == 121
    assert caplog.text.count("walked again") == 1 and "from 120 to 121" in caplog.text
    same_as_truth(nights, vendor, CAMPAIGNS)


def test_a_row_that_goes_while_another_comes_is_seen_though_the_count_stands(
    nights: Nights, vendor: Vendor, configure: Set, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sources")
    configure(concurrency=1)
    vendor.fault(f"{CAMPAIGNS}/find.*page=1$", {"edit": list(_first_and_new(vendor))})
    outcome = nights.one(CAMPAIGNS)
    assert outcome.error is None and outcome.vendor_count == 120
    assert caplog.text.count("walked again") == 1 and "came or went" in caplog.text
    same_as_truth(nights, vendor, CAMPAIGNS)


def test_a_table_that_never_stands_still_fails_and_keeps_its_rows(nights: Nights, vendor: Vendor) -> None:
    nights.one(CAMPAIGNS)
    before = nights.rows(CAMPAIGNS)
    vendor.fault(f"{CAMPAIGNS}/find.*page=2", {"edit": _first_and_new(vendor)[1]}, times=-1)
    outcome = nights.one(CAMPAIGNS, full=True)
    assert outcome.count_differs and outcome.recovery == Recovery.RETRY and "moved from" in str(outcome.error)
    assert vendor.asked(f"{CAMPAIGNS}/define") == 4, "one walk, then three"
    assert nights.rows(CAMPAIGNS) == before


@one_database
def test_a_count_that_leaves_out_a_row_is_not_believed(nights: Nights, vendor: Vendor, configure: Set) -> None:
    configure(page_size=60)  # two full pages: nothing but the page after them shows that a row is missing
    vendor.edit(_first_and_new(vendor)[1])
    vendor.fault(f"{CAMPAIGNS}/count", {"count": -1}, times=-1)
    outcome = nights.one(CAMPAIGNS)
    assert outcome.count_differs and not outcome.loaded


def test_an_empty_answer_is_no_empty_table(nights: Nights, vendor: Vendor) -> None:
    nights.one("account")
    before = nights.rows("account")
    vendor.fault("account/(find|count)", {"empty": True}, times=-1)
    outcome = nights.one("account")
    assert outcome.error is not None and "which had 10" in outcome.error
    assert nights.rows("account") == before


# -- incremental ---------------------------------------------------------------------------------


def test_what_changed_arrives_and_nothing_else_is_asked_for(nights: Nights, vendor: Vendor) -> None:
    nights.one(CAMPAIGNS)
    key = str(vendor.rows(CAMPAIGNS)[3]["id"])
    vendor.edit({"table": CAMPAIGNS, "op": "update", "key": key, "row": {"status": "paused now"}})
    outcome = nights.one(CAMPAIGNS)
    assert outcome.error is None and not outcome.complete and outcome.loaded
    assert outcome.extracted is not None and 1 <= outcome.extracted < 60 and outcome.total == 120
    same_as_truth(nights, vendor, CAMPAIGNS)


def test_a_late_row_inside_the_lookback_arrives(nights: Nights, vendor: Vendor) -> None:
    nights.one(CAMPAIGNS)
    newest = max(row["modified"] for row in vendor.rows(CAMPAIGNS))
    late = datetime.fromisoformat(newest) - timedelta(hours=23)
    vendor.edit({"table": CAMPAIGNS, "op": "insert", "row": {"name": "late", "modified": f"{late}"}})
    outcome = nights.one(CAMPAIGNS)
    assert not outcome.complete and outcome.error is None
    assert [row["name"] for row in nights.rows(CAMPAIGNS)].count("late") == 1
    too_late = datetime.fromisoformat(newest) - timedelta(hours=25)
    vendor.edit({"table": CAMPAIGNS, "op": "insert", "row": {"name": "too late", "modified": f"{too_late}"}})
    outcome = nights.one(CAMPAIGNS)
    assert outcome.total == 122 and len(nights.rows(CAMPAIGNS)) == 121, "the total tells the run to walk it whole"


def test_a_date_in_the_future_does_not_freeze_the_stream(nights: Nights, vendor: Vendor) -> None:
    vendor.edit({"table": CAMPAIGNS, "op": "insert", "row": {"name": "far", "modified": "2999-01-01 00:00:00"}})
    nights.one(CAMPAIGNS)
    vendor.edit({"table": CAMPAIGNS, "op": "insert", "row": {"name": "near"}})
    far = next(str(row["id"]) for row in vendor.rows(CAMPAIGNS) if row["name"] == "far")
    vendor.edit(
        {"table": CAMPAIGNS, "op": "update", "key": far, "row": {"url": "changed", "modified": "2999-01-02 00:00:00"}}
    )
    outcome = nights.one(CAMPAIGNS)
    assert not outcome.complete and outcome.error is None
    same_as_truth(nights, vendor, CAMPAIGNS)


def test_a_cursor_over_times_with_offsets_is_the_latest_instant(nights: Nights, vendor: Vendor) -> None:
    newest = datetime.fromisoformat(max(row["modified"] for row in vendor.rows(CAMPAIGNS)))
    later, earlier = newest + timedelta(minutes=10), newest + timedelta(hours=7)
    for text in (f"{later - timedelta(hours=5)}-05:00", f"{earlier}+08:00"):
        vendor.edit({"table": CAMPAIGNS, "op": "insert", "row": {"name": text, "modified": text}})
    outcome = nights.one(CAMPAIGNS)
    assert outcome.error is None and outcome.complete
    state = nights.pipeline.state["sources"]["tune"]["resources"][outcome.table]
    assert state["cursor"] == f"{later}"


def test_a_quiet_table_is_told_unchanged_and_walked_whole_after_a_week(nights: Nights, vendor: Vendor) -> None:
    nights.one(CAMPAIGNS)
    assert nights.one(CAMPAIGNS).loaded, "the lookback brings rows once more"
    outcome = nights.one(CAMPAIGNS)
    assert outcome.unchanged and not outcome.complete and not outcome.loaded
    first = str(vendor.rows(CAMPAIGNS)[0]["id"])
    vendor.edit({"table": CAMPAIGNS, "op": "update", "key": first, "row": {"url": "silently"}, "silent": True})
    assert nights.one(CAMPAIGNS, days=6).unchanged
    outcome = nights.one(CAMPAIGNS, days=8)
    assert outcome.complete and outcome.loaded
    same_as_truth(nights, vendor, CAMPAIGNS)


def test_a_row_that_went_and_came_back_as_it_was_is_loaded(nights: Nights, vendor: Vendor) -> None:
    nights.one("agency")
    nights.one("agency")
    row = next(row for row in vendor.rows("agency") if not row["modified"].startswith("0000"))
    vendor.edit({"table": "agency", "op": "delete", "key": str(row["id"])})
    assert nights.one("agency", full=True).extracted == 9
    vendor.edit({"table": "agency", "op": "insert", "row": row})
    assert nights.one("agency").loaded, "the run has marked it as deleted: only a loaded row lives again"


def test_another_choice_of_fields_walks_the_table_whole(nights: Nights, vendor: Vendor, configure: Set) -> None:
    configure(endpoints=[{"path": CAMPAIGNS, "fields": ["name"]}])
    nights.one(CAMPAIGNS)
    assert set(nights.rows(CAMPAIGNS)[0]) == {"id", "name", "modified"}
    configure(endpoints=[{"path": CAMPAIGNS, "fields": ["name", "url"]}])
    outcome = nights.one(CAMPAIGNS)
    assert outcome.complete and "walked whole" in outcome.notes[0]
    assert {row["id"]: row["url"] for row in nights.rows(CAMPAIGNS)} == {
        row["id"]: expected(row["url"], "string", "url") for row in vendor.rows(CAMPAIGNS)
    }


# -- endpoints by configuration ------------------------------------------------------------------


def test_related_fields_stand_beside_the_ids_they_resemble(nights: Nights, vendor: Vendor, configure: Set) -> None:
    path, huge = "advertiser/publishers/sub/campaigns", 2**53 + 1
    key = str(vendor.rows(path)[0]["id"])
    vendor.edit({"table": path, "op": "update", "key": key, "row": {"campaign_id": huge}})
    related = ["campaign.id", "campaign.name", "publisher.id"]
    configure(endpoints=[{"path": path, "fields": "id,campaign_id,publisher_id", "related": related}])
    assert nights.one(path).error is None
    campaigns = {str(row["id"]): row for row in vendor.rows(CAMPAIGNS)}
    publishers = {str(row["id"]): row for row in vendor.rows("advertiser/publishers")}
    truth = {
        row["id"]: (
            expected(row["campaign_id"], "integer", ""),
            expected(campaigns.get(str(row["campaign_id"]), {}).get("id"), "integer", ""),
            expected(campaigns.get(str(row["campaign_id"]), {}).get("name"), "string", "name"),
            expected(publishers.get(str(row["publisher_id"]), {}).get("id"), "integer", ""),
        )
        for row in vendor.rows(path)
    }
    labels = ("campaign_id", "campaign.id", "campaign.name", "publisher.id")
    there = {row["id"]: tuple(row[label] for label in labels) for row in nights.rows(path)}
    assert there == truth
    assert there[int(key)][:2] == (huge, huge)
    assert any(row[3] is not None for row in there.values())


@one_database
def test_a_filter_takes_some_and_counts_some(nights: Nights, vendor: Vendor, configure: Set) -> None:
    configure(endpoints=[{"path": CAMPAIGNS, "filter": "(status = 'paused') OR (id IN (1,2))"}])
    outcome = nights.one(CAMPAIGNS)
    truth = {row["id"] for row in vendor.rows(CAMPAIGNS) if row["status"] == "paused"}
    assert {row["id"] for row in nights.rows(CAMPAIGNS)} == truth
    assert outcome.vendor_count == outcome.total == len(truth)
    assert nights.one(CAMPAIGNS).total == len(truth), "the filter holds beside the cursor's"


@one_database
@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ({"path": CAMPAIGNS, "fields": ["nmae"]}, "has no field nmae.*Did you mean name"),
        (
            {"path": CAMPAIGNS, "related": ["advertiser.naem"]},
            r"no field advertiser\.naem.*Did you mean advertiser\.name",
        ),
        ({"path": CAMPAIGNS, "filter": "(statos = 'x')"}, "names statos.*Did you mean status"),
        ({"path": CAMPAIGNS, "cursor": "modfied"}, "cursor modfied is no field.*Did you mean modified"),
        ({"path": CAMPAIGNS, "cursor": "site_id"}, "cursor advertiser/campaigns.site_id is a bigint"),
        ({"path": CAMPAIGNS, "key": "uid"}, "has no field uid"),
        ({"path": "account/users", "fields": ["phone"]}, r'keep_personal = \["account/users\.phone"\]'),
        ({"path": "account/users", "fields": ["password"]}, "Credentials never are"),
    ],
)
def test_a_field_that_is_not_there_or_not_wanted_fails_before_any_row(
    nights: Nights, vendor: Vendor, configure: Set, endpoint: dict[str, Any], told: str
) -> None:
    configure(endpoints=[endpoint])
    tune = package.connect()
    made = Extraction(vendor="tune", spool_dir=nights.folder, until=pendulum.now("UTC"))
    tune.resources(made)
    with pytest.raises(ConfigurationError, match=told):
        made.preview(f"tune.{endpoint['path'].replace('/', '_')}", limit=3)
    assert vendor.asked(f"{endpoint['path']}/find") == 0


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"endpoints": [{"fields": ["id"]}]}, "has no path"),
        ({"endpoints": [{"path": "advertiser/sites", "feilds": ["id"]}]}, "no setting feilds.*Did you mean fields"),
        ({"endpoints": [{"path": "Advertiser/Sites"}]}, "lower case"),
        ({"endpoints": [{"path": "advertiser/../session"}]}, "no path"),
        ({"endpoints": [{"path": "advertiser/sites/find"}]}, "ends with an action"),
        ({"endpoints": [{"path": "account/users/save"}]}, "ends with an action"),
        ({"endpoints": [{"path": "export/download"}]}, "is a service"),
        ({"endpoints": [{"path": "advertiser/stats/installs"}]}, "is a report"),
        ({"endpoints": [{"path": "agency", "filter": "(status = 'a'"}]}, "parentheses"),
        ({"endpoints": [{"path": "agency", "filter": "(name = 'O'Brien')"}]}, "a quote is not closed"),
        ({"endpoints": [{"path": "agency", "filter": "id = 1; drop"}]}, "holds what no filter needs"),
        ({"endpoints": [{"path": "agency"}, {"path": "agency"}]}, "twice"),
        ({"endpoints": [{"path": "account_users"}]}, "both ask for the table account_users"),
        ({"exclude": ["countrys"]}, "Did you mean countries"),
        ({"page_size": 2001}, "page_size is 2001"),
        ({"sort": "bracket"}, "sort is 'bracket'"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_at_once(configure: Set, setting: dict[str, Any], told: str) -> None:
    configure(**setting)
    with pytest.raises(ConfigurationError, match=told):
        package.connect()


def test_without_a_key_the_tables_are_known_all_the_same(configure: Set) -> None:
    configure(api_key="", exclude=["agency"], endpoints=[{"path": "advertiser/labels", "key": "label"}])
    assert not package.configured()
    names = {table.name: table for table in package.tables()["tune"]}
    assert "agency" not in names and names["advertiser_labels"].key == ("label",)
    with pytest.raises(ConfigurationError, match="api_key is not set"):
        package.connect()


# -- what the vendor cannot or will not tell -----------------------------------------------------


def test_without_metadata_the_rows_decide_and_it_is_told(nights: Nights, vendor: Vendor) -> None:
    outcome = nights.one("browser_platform")
    assert outcome.error is None and "tells no fields" in outcome.notes[0]
    same_as_truth(nights, vendor, "browser_platform")


@one_database
def test_related_fields_without_metadata_are_columns_and_no_object(
    nights: Nights, vendor: Vendor, configure: Set
) -> None:
    refused = {"status_code": 500, "errors": {"message": "Internal service error."}}
    vendor.says(".*/define|apidoc", 200, refused)
    path = "advertiser/publishers/sub/campaigns"
    configure(endpoints=[{"path": path, "fields": "id,campaign_id", "related": ["campaign.name", "publisher.id"]}])
    assert nights.one(path).error is None
    assert set(nights.rows(path)[0]) == {"id", "campaign_id", "campaign.name", "publisher.id"}


def test_metadata_that_is_lost_for_a_night_loses_no_column(nights: Nights, vendor: Vendor) -> None:
    nights.one("advertiser")
    refused = {"status_code": 500, "errors": {"message": "Internal service error."}}
    vendor.says("advertiser/define|apidoc", 200, refused)
    vendor.edit({"table": "advertiser", "op": "insert", "row": {"name": "new", "currency_code": "EUR"}})
    outcome = nights.one("advertiser")
    assert outcome.error is None and "told last" in outcome.notes[0]
    same_as_truth(nights, vendor, "advertiser")


def test_an_endpoint_out_of_sight_is_skipped_only_while_it_never_was_in_sight(
    nights: Nights, vendor: Vendor, configure: Set
) -> None:
    vendor.control("POST", "options", {"forbid": ["agency", "regions"]})
    configure(endpoints=[{"path": "regions"}])
    outcomes = nights.night("agency", "regions", "languages")
    assert (
        outcomes["agency"].error is None
        and outcomes["agency"].unchanged
        and "may not read" in outcomes["agency"].notes[0]
    )
    assert "exclude" in str(outcomes["regions"].error), "what was asked for by name fails"
    assert outcomes["languages"].loaded, "and stops no other"
    vendor.control("POST", "options", {"forbid": ["languages"]})
    outcome = nights.one("languages")
    assert "key may not read languages" in str(outcome.error) and "/languages/" in str(outcome.error)
    assert len(nights.rows("languages")) == 12


def _errors(*texts: str, single: bool = False) -> Any:
    return {"message": texts[0]} if single else [{"message": text} for text in texts]


@pytest.mark.parametrize(
    ("http", "body", "kind", "asked"),
    [
        (401, {"status_code": 401, "data": "", "errors": _errors("API key is missing or invalid.")}, AccessDenied, 1),
        (200, {"status_pre": 401, "errors": _errors("API key is missing or invalid.", single=True)}, AccessDenied, 1),
        (200, {"status_code": 404, "errors": _errors("Api key was not found.")}, AccessDenied, 1),
        (200, {"status_code": 500, "errors": _errors("Api key was not found.")}, AccessDenied, 1),
        (404, {"status_code": "404", "errors": _errors("Api key was not found.", single=True)}, AccessDenied, 1),
        (200, {"status_code": 200, "data": [], "errors": _errors("Invalid api key given.")}, AccessDenied, 1),
        (403, {"status_code": 403, "errors": _errors("User does not have permission.")}, Refused, 1),
        (200, {"status_code": 403, "errors": "no"}, Refused, 1),
        (404, {"status_code": 404, "errors": _errors("Controller was not found.")}, Refused, 1),
        (422, {"status_code": 422, "errors": _errors("Invalid filter")}, ConfigurationError, 1),
        (200, {"status_code": 422, "errors": _errors("Invalid filter")}, ConfigurationError, 1),
        (500, {"status_code": 500, "errors": _errors("Internal service error.")}, Refused, 2),
        (200, {"status_code": 500, "errors": _errors("Internal service error.", single=True)}, Refused, 2),
        (429, {"errors": _errors("Limit is exceeded for org-1, retry after 3418 seconds")}, Unavailable, 1),
        (
            200,
            {"errors": [{"message": "Limit is exceeded, retry after 3418 seconds", "error_code": 7}]},
            Unavailable,
            1,
        ),
    ],
)
def test_each_refusal_has_its_class_in_counts_and_in_pages(
    vendor: Vendor, configure: Set, http: int, body: Any, kind: type[NightloadError], asked: int
) -> None:
    vendor.says("advertiser/sites/(count|find)", http, body)
    client = package.connect().client
    with pytest.raises(NightloadError) as counted:
        client.count("advertiser/sites")
    with pytest.raises(NightloadError) as paged:
        client.page(Request(path="advertiser/sites", key=("id",), fields=("id",)), 1, size=5, may_be_empty=True)
    for caught in (counted, paged):
        assert type(caught.value) is kind
        assert vendor.key not in str(caught.value)
        if isinstance(caught.value, Unavailable):
            assert caught.value.retry_after == 3418
    assert vendor.asked("advertiser/sites/count") == asked
    if kind is Refused and asked == 2:
        assert "fields: id; sort[id]: ASC" in str(paged.value)


@one_database
def test_pages_that_break_on_their_way_are_fetched_again(nights: Nights, vendor: Vendor, configure: Set) -> None:
    configure(page_size=25)
    broken: list[dict[str, Any]] = [{"cut": 900}, {"truncated_gzip": True}, {"html": True}, {"drop": True}]
    for page, do in enumerate(broken, start=1):
        vendor.fault(f"{CAMPAIGNS}/find.*limit=25&page={page}", do)
    assert nights.one(CAMPAIGNS).error is None
    same_as_truth(nights, vendor, CAMPAIGNS)
    assert vendor.asked(f"{CAMPAIGNS}/find") == 5 + 4 + 1, "five pages, four again, and the keys"


@one_database
def test_a_page_refused_once_under_200_is_fetched_again(nights: Nights, vendor: Vendor) -> None:
    throttled = {"errors": _errors("Limit is exceeded, retry after 0.2 seconds")}
    vendor.says("advertiser/sites/find.*page=1", 200, throttled, times=2)
    assert nights.one("advertiser/sites").error is None
    same_as_truth(nights, vendor, "advertiser/sites")


@one_database
def test_a_wrong_key_stops_the_vendor_at_its_first_table(nights: Nights, vendor: Vendor, configure: Set) -> None:
    configure(api_key="0123456789abcdef0123456789abcdef")
    outcomes = nights.night()
    assert all("does not accept the key" in str(outcome.error) for outcome in outcomes.values())
    assert vendor.control("GET", "stats")["requests"] == 1


# -- the key --------------------------------------------------------------------------------------


@one_database
def test_a_session_is_opened_once_and_again_when_it_ends(nights: Nights, vendor: Vendor, configure: Set) -> None:
    configure(session=True)
    assert nights.one(CAMPAIGNS).error is None
    assert vendor.asked("session/authenticate") == 1
    vendor.fault(f"{CAMPAIGNS}/find.*page=2", {"expire_token": True})
    assert nights.one(CAMPAIGNS, full=True).error is None
    assert vendor.asked("session/authenticate") == 3, "one for the second night, one for the token that ended"
    same_as_truth(nights, vendor, CAMPAIGNS)
    configure(api_key="wrong")
    with pytest.raises(AccessDenied, match="does not accept the key"):
        package.connect().client.count(CAMPAIGNS)


@one_database
@pytest.mark.parametrize("session", [False, True])
def test_the_key_is_in_every_url_and_in_no_log(
    nights: Nights, vendor: Vendor, configure: Set, caplog: pytest.LogCaptureFixture, session: bool
) -> None:
    configure(session=session)
    vendor.says("languages/find", 500, {"status_code": 500, "errors": _errors(f"{vendor.key} is no such")})
    vendor.says("countries/count", 502, f"<html>{vendor.key}</html>", times=1)
    package.connect().close()  # the first one silences httpx: here it is to speak up
    for name in ("", "httpx", "httpcore", "dlt", "sources"):
        caplog.set_level(logging.DEBUG, logger=name)
    outcomes = nights.night("languages", "countries", "account/users")
    assert "api_key" in caplog.text and "count.json" in caplog.text, "the URLs were logged"
    told = caplog.text + "".join(str(outcome) for outcome in outcomes.values())
    tokens = [hit for hit in told.split("session_token=")[1:] if not hit.startswith("***")]
    assert vendor.key not in told and not tokens
    assert outcomes["languages"].error is not None and outcomes["countries"].error is None


def test_check_tells_what_is_in_sight(vendor: Vendor, configure: Set) -> None:
    vendor.control("POST", "options", {"forbid": ["agency"]})
    lines = list(package.connect().check())
    assert lines[:2] == ["the key is accepted", "the clocks agree"]
    assert "advertiser/campaigns (120)" in lines[2] and lines[3].endswith("agency")
    assert "ahead of the vendor's" in package._clock("Mon, 01 Jan 2024 00:00:00 GMT")
    assert "behind the vendor's" in package._clock("Mon, 01 Jan 2999 00:00:00 GMT")
    assert "not known" in package._clock("")
    configure(api_key="wrong")
    with pytest.raises(AccessDenied, match="does not accept the key"):
        list(package.connect().check())


@one_database
def test_a_preview_asks_for_one_page(nights: Nights, vendor: Vendor) -> None:
    made = Extraction(vendor="tune", spool_dir=nights.folder, until=pendulum.now("UTC"))
    package.connect().resources(made)
    assert made.preview(f"tune.{CAMPAIGNS.replace('/', '_')}", limit=7).rows == 7
    assert vendor.asked(f"{CAMPAIGNS}/find") == 1 and vendor.asked(f"{CAMPAIGNS}/count") == 0


def test_only_reads_can_be_called(configure: Set) -> None:
    client = package.connect().client
    with pytest.raises(ValueError, match="not a read"):
        client.data("account/users/save", {}, group="find")


# -- nested values and money, as they are converted ------------------------------------------------


def _converted(folder: Path, rows: str, *columns: Column) -> list[tuple[Any, ...]]:
    spool = Spool(folder / "rows.json")
    spool.array(rows.encode())
    named = [Column(**{**vars(column), "name": column.label.replace(".", "__")}) for column in columns]
    out = folder / "rows.parquet"
    to_parquet(spool, out=out, columns=named, load_id="1", where="a test")
    with duckdb.connect() as connection:
        return connection.execute(f"SELECT * EXCLUDE (_dlt_load_id) FROM '{out}' ORDER BY 1").fetchall()


@pytest.mark.parametrize("last", ['{"id": 2, "owner": null}', '{"id": 2, "owner": []}', '{"id": 2}'])
def test_a_nested_value_is_exact_on_both_ways(tmp_path: Path, last: str) -> None:
    huge = 2**63 - 1
    owner = Column(label="owner.id", kind=Kind.BIGINT, path=("owner", "id"))
    deep = Column(label="owner.at.city", kind=Kind.TEXT, path=("owner", "at", "city"))
    rows = f'[{{"id": 1, "owner": {{"id": "{huge}", "at": {{"city": "中"}}}}}}, {last}]'
    assert _converted(tmp_path, rows, Column(label="id", kind=Kind.BIGINT), owner, deep) == [
        (1, huge, "中"),
        (2, None, None),
    ]


def test_a_text_where_an_object_was_due_is_told(tmp_path: Path) -> None:
    owner = Column(label="owner.id", kind=Kind.BIGINT, path=("owner", "id"))
    with pytest.raises(NightloadError) as caught:
        _converted(tmp_path, '[{"id": 1, "owner": "me"}]', owner)
    assert "no object under owner" in summarize(caught.value)


def test_money_with_many_digits_keeps_them_all(tmp_path: Path) -> None:
    money = Column(label="payout", kind=Kind.DECIMAL)
    exact = "12345678901234567.123456789"
    assert _converted(tmp_path, f'[{{"payout": {exact}}}]', money) == [(Decimal(exact),)]
    assert _converted(tmp_path, '[{"payout": 1234567890.123456789}]', money) == [(Decimal("1234567890.123456789"),)]
