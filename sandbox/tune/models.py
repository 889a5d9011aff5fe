"""The record endpoints: fields, types, defaults, relations, and how each one's metadata behaves (sheet section 6).

Paths and fields the sheet knows are as it has them; the rest is what an account of that time plausibly shows, so that a
loader has to ask `define` or `apidoc` and cannot rely on a list of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SPEC = str
"""Field lines: `name:type`, a leading `+` when it is among the default fields."""


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    is_default: bool


@dataclass(frozen=True)
class Related:
    path: str
    via: str
    """The field of this record that holds the other's id."""


@dataclass(frozen=True)
class Model:
    path: str
    name: str
    fields: dict[str, Field]
    related: dict[str, Related] = field(default_factory=dict)
    key: tuple[str, ...] = ("id",)
    size: int = 10
    """Rows at scale 1."""
    floor: int = 10
    define: bool = True
    apidoc: bool = True
    keyless: bool = False
    """Answers without any api key (section 3)."""
    status_pre: bool = False
    """define says `status_pre` where everything else says `status_code` (section 4)."""
    throttle: bool = False
    unstable: bool = False
    """Rows that no sort tells apart come in another order on each page, as a large table's do."""
    flaps: frozenset[str] = frozenset()
    """Fields whose values are now a number and now a text (section 7)."""


def _fields(spec: str) -> dict[str, Field]:
    found = {}
    for word in spec.split():
        name, _, kind = word.lstrip("+").partition(":")
        found[name] = Field(name, kind or "string", word.startswith("+"))
    return found


TIMES = "created:datetime modified:datetime"

ALL: tuple[Model, ...] = (
    Model(
        "account",
        "Accounts",
        _fields(
            "+id:integer +name +type +status +country_id:integer +region_id:integer address1 address2 city zipcode "
            "phone website verified_phone:boolean"
        ),
        {"country": Related("countries", "country_id"), "region": Related("regions", "region_id")},
        size=12,
        status_pre=True,
    ),
    Model(
        "account/users",
        "AccountUsers",
        _fields(
            "+id:integer +account_id:integer +first_name +last_name +name +email +status title phone cell_phone "
            f"password signup_ip time_zone google_auth_enabled:boolean google_auth_verified:boolean {TIMES}"
        ),
        {"account": Related("account", "account_id")},
        size=60,
        floor=12,
        throttle=True,
        flaps=frozenset({"account_id", "google_auth_enabled"}),
    ),
    Model(
        "advertiser",
        "Advertisers",
        _fields(f"+id:integer +name +status +account_id:integer +agency_id:integer currency_code {TIMES}"),
        {"account": Related("account", "account_id"), "agency": Related("agency", "agency_id")},
        size=20,
    ),
    Model(
        "advertiser/accounts",
        "AdvertiserAccounts",
        _fields("+id:integer +advertiser_id:integer +account_id:integer +status"),
        {"advertiser": Related("advertiser", "advertiser_id"), "account": Related("account", "account_id")},
        size=25,
    ),
    Model(
        "advertiser/agencies",
        "AdvertiserAgencies",
        _fields("+id:integer +advertiser_id:integer +agency_id:integer +status"),
        {"advertiser": Related("advertiser", "advertiser_id"), "agency": Related("agency", "agency_id")},
        size=30,
    ),
    Model("agency", "Agencies", _fields(f"+id:integer +name +status {TIMES}"), size=10),
    Model(
        "advertiser/campaigns",
        "Campaigns",
        _fields(
            "+id:integer +name +status +site_id:integer +advertiser_id:integer +publisher_id:integer payout:money "
            f"budget:money currency_code is_reengagement:boolean metrics:json note url start_date:date {TIMES}"
        ),
        {
            "advertiser": Related("advertiser", "advertiser_id"),
            "publisher": Related("advertiser/publishers", "publisher_id"),
            "site": Related("advertiser/sites", "site_id"),
        },
        size=6000,
        floor=120,
        throttle=True,
        unstable=True,
        flaps=frozenset({"publisher_id", "payout", "is_reengagement"}),
    ),
    Model(
        "advertiser/sites",
        "Sites",
        _fields(
            "+id:integer +name +package_name +status +url advertiser_id:integer mobile_app_type store_app_id "
            f"country_id:integer {TIMES}"
        ),
        {"advertiser": Related("advertiser", "advertiser_id"), "country": Related("countries", "country_id")},
        size=100,
        floor=15,
        status_pre=True,
    ),
    Model(
        "advertiser/publishers",
        "Publishers",
        _fields(f"+id:integer +name +status advertiser_id:integer website {TIMES}"),
        {"advertiser": Related("advertiser", "advertiser_id")},
        size=80,
        floor=15,
        flaps=frozenset({"id"}),
    ),
    Model(
        "advertiser/publishers/sub/campaigns",
        "PublisherSubCampaigns",
        _fields("+id:integer +name +ref +publisher_id:integer campaign_id:integer"),
        {
            "publisher": Related("advertiser/publishers", "publisher_id"),
            "campaign": Related("advertiser/campaigns", "campaign_id"),
        },
        size=90,
        floor=15,
        flaps=frozenset({"publisher_id"}),
    ),
    Model(
        "advertiser/site/events",
        "SiteEvents",
        _fields("+id:integer +name +type +site_id:integer status revenue:money attributes:json created:datetime"),
        {"site": Related("advertiser/sites", "site_id")},
        size=3000,
        floor=60,
        flaps=frozenset({"revenue"}),
    ),
    Model("countries", "Countries", _fields("+id:integer +name code"), size=240, floor=40, keyless=True),
    Model(
        "regions",
        "Regions",
        _fields("+id:integer +name country_id:integer code"),
        {"country": Related("countries", "country_id")},
        size=100,
        floor=12,
    ),
    Model(
        "currency_exchange_rates",
        "CurrencyExchangeRates",
        _fields("+currency +date:date +rate:money"),
        key=("currency", "date"),
        size=90,
        floor=12,
        define=False,
        flaps=frozenset({"rate"}),
    ),
    Model("languages", "Languages", _fields("+id:integer +name code"), size=40, floor=12),
    Model("browsers", "Browsers", _fields("+id:integer +name version"), size=25, define=False),
    # Neither define nor apidoc answers for this one: what find shows is all there is to know.
    Model(
        "browser_platform",
        "BrowserPlatforms",
        _fields("+id:integer +name +platform"),
        size=15,
        define=False,
        apidoc=False,
    ),
)

MODELS: dict[str, Model] = {model.path: model for model in ALL}
