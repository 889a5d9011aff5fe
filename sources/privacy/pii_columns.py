"""Which columns hold personal data, and what a row with a person's value in them is about.

One table for all vendors. What a vendor names itself is declared here column by column; tables whose columns are the
user's own (results of queries, events, segments, reports) are judged by the label. Nothing heavy is imported: whoever
shows values asks here first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache


class Mark(StrEnum):
    """What a column says of a person."""

    PERSON = "person"
    """Personal, and the row is about that person."""
    OWNER = "owner"
    """Personal, and the row is about something else: who made it, who changed it, a sample."""
    PERSON_ID = "person id"
    """A number that stands for the person whom the row is about; no personal data by itself."""
    OWNER_ID = "owner id"
    """A number that stands for a person, in a row about something else."""


PERSONAL = frozenset({Mark.PERSON, Mark.OWNER})


def _marked(mark: Mark, labels: str) -> dict[str, Mark]:
    return dict.fromkeys(labels.split(), mark)


_API = _marked(Mark.OWNER_ID, "CreatorId OperatorId") | _marked(Mark.OWNER, "SuccessfulResultSample FailedResultSample")
_USER_ID = {"user_id": Mark.OWNER_ID}

DECLARED: Mapping[str, Mapping[str, Mark]] = {
    "tonalytica.users": {"id": Mark.PERSON_ID, **_marked(Mark.PERSON, "name email")},
    "tonalytica.queries": {**_USER_ID, "last_modified_by_id": Mark.OWNER_ID},
    "tonalytica.dashboards": _USER_ID,
    "tonalytica.alerts": _USER_ID,
    "tonalytica.query_snippets": _USER_ID,
    "tune.account_users": {"id": Mark.PERSON_ID, **_marked(Mark.PERSON, "first_name last_name name email title")}
    | _marked(Mark.PERSON, "phone cell_phone signup_ip"),
    "tune.account": _marked(Mark.OWNER, "phone email"),
    "dataworks.projects": {"ProjectOwnerBaseId": Mark.OWNER_ID},
    "dataworks.groups": {"CreatorId": Mark.OWNER_ID},
    "dataworks.published_apis": _API,
    "dataworks.draft_apis": _API,
    "dataworks.api_authorities": _marked(Mark.OWNER_ID, "AuthorizedCreatorId CreatorId"),
    "dataworks.authorized_apis": _marked(Mark.OWNER_ID, "CreatorId GrantOperatorId"),
    "dataworks.published_api_request_parameters": _marked(Mark.OWNER, "DefaultValue ExampleValue"),
    "dataworks.published_api_response_parameters": _marked(Mark.OWNER, "ExampleValue"),
    "dataworks.api_tests": _marked(Mark.OWNER, "ParamMap RetResult"),
    "growingio.dashboards": _marked(Mark.OWNER, "creator updater"),
    "growingio.dashboard_charts": _marked(Mark.OWNER, "creator"),
    "growingio.chart_points": {"dimensions": Mark.PERSON_ID},
    "growingio.funnel_steps": {"dimensions": Mark.PERSON_ID},
    "growingio.retention": {"dimensions": Mark.PERSON_ID},
    "thinkingengine.users_of_company": {"userId": Mark.PERSON_ID, "loginName": Mark.PERSON},
    "thinkingengine.metrics": _marked(Mark.OWNER, "createUser updateUser"),
}
"""dataset.table → the vendor's label → mark. `dimensions`: a slice by person is about that person."""

CLOSED = (
    *DECLARED,
    *(f"tonalytica.{name}" for name in ("query_versions", "visualizations", "widgets", "data_sources")),
    "tonalytica.query_results",
    *(f"growingio.{name}" for name in ("charts", "segmentations", "rules")),
    *(f"thinkingengine.{name}" for name in ("event_meta", "property_meta", "virtual_events", "user_clusters")),
    *(f"thinkingengine.{name}" for name in ("reports", "dashboards", "report_dashboards", "projects", "generated_sql")),
    *(f"dataworks.{name}" for name in ("folders", "applications")),
    *(f"dataworks.published_api_{name}" for name in ("error_codes", "versions")),
    "tune.advertiser*",
    "tune.agency",
    *(f"tune.{name}" for name in ("countries", "regions", "languages", "browsers", "browser_platform")),
    "tune.currency_exchange_rates",
    "nightload.*",
)
"""Tables whose rows are definitions: nobody's row, whatever value stands in them."""

OPEN_RECORDS = ("tune.advertiser*", "tune.agency")
"""Definitions whose columns the vendor decides: they are judged by the label all the same."""

_WORDS = (
    "e?mail|phone|cellphone|mobile|tel|telephone|msisdn|fax|ip|ipv4|ipv6|idfa|idfv|gaid|aaid|oaid|imei|imsi|mac|udid|"
    "openudid|address|street|username|nickname|surname|birthday|birthdate|passport|ssn|wechat|openid|unionid|qq|login|"
    "e_mail|cell_phone|android_id|device_id|open_id|union_id|google_aid|ios_ifa|ios_ifv|user_name|nick_name|first_name|"
    "last_name|full_name|real_name|given_name|family_name|display_name|birth_date|id_card|login_name|login_id|"
    "user_id|customer_id|member_id|visitor_id|distinct_id|varchar_id|person|contact"
)
_LABEL = re.compile(rf"(?:^|_)(?:{_WORDS})s?(?:_|$)")
_CHINESE = re.compile(
    "手机|电话|邮箱|邮件|姓名|昵称|身份证|护照|微信|地址|生日|设备号|账号|帐号|账户|用户名|用户[iI][dD]|登录"
)
_EXACT = frozenset({"#account_id"})


def mark_of(dataset: str, table: str, label: str) -> Mark | None:
    """What the column `label` (the vendor's name for it) says of a person; None: nothing that is known."""
    name = f"{dataset}.{_today(table)}"
    declared = DECLARED.get(name, {})
    if (known := next((each for each in (label, *objects_of(label)) if each in declared), None)) is not None:
        return declared[known]
    if _is_closed(name):
        open_record = any(fnmatchcase(name, pattern) for pattern in OPEN_RECORDS)
        return Mark.OWNER if open_record and _looks_personal(label) else None
    return Mark.PERSON if _looks_personal(label) else None


def objects_of(label: str) -> list[str]:
    """The objects whose part a label is: a.b and a of a.b.c."""
    names = label.split(".")
    return [".".join(names[:size]) for size in range(len(names) - 1, 0, -1)]


def is_personal(dataset: str, table: str, label: str) -> bool:
    """Does this column hold personal data, as far as its name can tell? `label` is the vendor's own name for it."""
    return mark_of(dataset, table, label) in PERSONAL


def is_about_whom_it_names(dataset: str, table: str, label: str, *, nested: bool = False) -> bool:
    """Is a row with a person's value in this column about that person (true), or about something else (false)?

    A row of an open table is about whoever's value stands in it; not where it stands `nested`, somewhere in an object.
    """
    mark = mark_of(dataset, table, label)
    is_open = mark is None and not nested and not _is_closed(f"{dataset}.{_today(table)}")
    return mark in (Mark.PERSON, Mark.PERSON_ID) or is_open


@lru_cache(maxsize=4096)
def _is_closed(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in CLOSED)


def _today(table: str) -> str:
    """A table that was put aside is judged as the one it was."""
    return re.sub(r"_before_[0-9]{8}_[0-9]{6}$", "", table)


@lru_cache(maxsize=65536)
def _looks_personal(label: str) -> bool:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", label)
    words = re.sub(r"[^a-z0-9]+", "_", parted.lower())
    return label in _EXACT or _LABEL.search(words) is not None or _CHINESE.search(label) is not None
