"""The seeded account: same seed and scale, same rows.

A row that hangs off a workspace other than its own ProjectId says so in `_workspace`, which no answer shows. Values
that are credentials hold the canary, to be searched for where it must not arrive.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from sandbox.core.nasty import BIG_INTEGERS, LONG_CHINESE, TEXTS

Record = dict[str, Any]
Tables = dict[str, list[Record]]

TABLES = (
    "projects", "published_apis", "draft_apis", "groups", "folders", "applications", "api_authorities",
    "authorized_apis", "api_tests",
)  # fmt: skip
CHINA = timezone(timedelta(hours=8))
EPOCH = datetime(2023, 3, 1, 16, 30, tzinfo=UTC)
MAIN, SMALL, EMPTY, HUGE, DELETED = 10002, 10003, 10004, 2**53 + 1, 10009
NAMES = (*(text for text in TEXTS if len(text) < 300), LONG_CHINESE + "甲", LONG_CHINESE + "乙", "同名", "同名")
KEYS = {
    "projects": "ProjectId",
    "published_apis": "ApiId",
    "draft_apis": "ApiId",
    "groups": "GroupId",
    "folders": "FolderId",
    "applications": "ApplicationId",
    "api_authorities": "ApiId",
    "authorized_apis": "ApiId",
    "api_tests": "TestId",
}
TENANT = 524257424564736


def workspace_of(row: Record) -> int:
    return int(row["_workspace"] if "_workspace" in row else row["ProjectId"])


def key_of(table: str, row: Record) -> str:
    """`<workspace>/<id>`; the id alone where there is no workspace."""
    key = str(row[KEYS[table]])
    return key if table in ("projects", "api_tests") else f"{workspace_of(row)}/{key}"


def stamp(moment: datetime) -> str:
    """As the vendor writes times: no colon in the offset (section 2.3)."""
    return moment.astimezone(CHINA).strftime("%Y-%m-%dT%H:%M:%S%z")


def seeded(seed: int, scale: float) -> Tables:
    rng = random.Random(f"{seed}|dataworks")
    many = max(61, round(2000 * scale))
    tables: Tables = {table: [] for table in TABLES}
    tables["projects"] = list(_projects(rng))
    for project, count in ((MAIN, many), (SMALL, 7), (HUGE, 3)):
        # ids have gaps; one is beyond what a double can hold
        first = 100_000 if project == MAIN else 500_000 + project % 1000 * 10
        ids = [2**53 + 1 if project == MAIN and number == 5 else first + number * 3 for number in range(count)]
        tables["published_apis"] += [_api(rng, project, api, number) for number, api in enumerate(ids)]
        tables["draft_apis"] += [_draft(rng, project, api, number) for number, api in enumerate(ids[: count // 2 + 1])]
        tables["groups"] += [_group(rng, project, number) for number in range(min(count, 9))]
        tables["folders"] += [_folder(rng, project, number) for number in range(min(count, 60))]
        tables["applications"] += [_application(project, number) for number in range(min(count, 5))]
        tables["api_authorities"] += [_authority(rng, project, api, number) for number, api in enumerate(ids[:6])]
        tables["authorized_apis"] += [_authorized(rng, project, number) for number in range(min(count, 4))]
        tables["api_tests"] += [test for number, api in enumerate(ids[:9]) for test in _tests(rng, api, number)]
    return tables


def _text(number: int, label: str) -> str:
    return NAMES[number] if number < len(NAMES) else f"{label} {number} {('', '活动', '🚀')[number % 3]}".strip()


def _times(rng: random.Random, number: int) -> Record:
    created = EPOCH + timedelta(hours=number, seconds=rng.randrange(3600))
    modified = created + timedelta(days=number % 40)
    # now and then another offset than the example's: instants count, not texts
    told = stamp(modified) if number % 11 else f"{modified:%Y-%m-%dT%H:%M:%S}+0000"
    return {"CreatedTime": stamp(created), "ModifiedTime": told}


def _projects(rng: random.Random) -> Iterator[Record]:
    for number, (project, status) in enumerate(
        [(MAIN, "AVAILABLE"), (SMALL, "AVAILABLE"), (EMPTY, "AVAILABLE"), (HUGE, "AVAILABLE"), (DELETED, "DELETED")]
    ):
        yield {
            "ProjectId": project,
            "ProjectIdentifier": f"workspace_{number}",
            "ProjectName": _text(number + 3, "workspace"),
            "ProjectDescription": None if number == 2 else f"描述 {number}",
            "ProjectOwnerBaseId": "1234567890123456",
            "ProjectStatus": 0 if status == "AVAILABLE" else 1,
            "ProjectStatusCode": status,
            "IsDefault": int(number == 0),
            "DisableDevelopment": number % 2 == 0,
            "UseProxyOdpsAccount": False,
            "TablePrivacyMode": 1,
            "ResourceManagerResourceGroupId": "rg-acfmzbn7pti3zfa",
            "Tags": [{"Key": "环境", "Value": rng.choice(["prod", ""])}] if number % 2 else [],
        }


def _head(rng: random.Random, project: int, api: int, number: int) -> Record:
    mode = number % 3
    head: Record = {
        "ApiId": str(api) if number % 13 == 4 else api,  # the SDK checks no types, and takes both
        "ApiName": _text(number, "接口"),
        "ApiPath": f"/p{project}/{number}",
        "ApiMode": mode,
        "Status": 1,
        "ProjectId": project,
        "TenantId": TENANT,
        "GroupId": f"ab12{number % 9:02d}",
        "CreatorId": "1234567890123456",
        "OperatorId": str(2**63 - number),
        "Description": rng.choice([None, "", "说明", "a,b;c|d\tand\nmore", '{"rows": []}']),
        "RequestMethod": number % 4 if mode == 2 else number % 2,
        "ResponseContentType": int(mode == 2 and number % 2 == 0),
        "Protocols": [[0], [0, 1], [1], []][number % 4],
        "Timeout": rng.choice([10000, 0, None]),
        "VisibleRange": number % 2,
        **_times(rng, number),
    }
    if number % 7 == 3:
        del head["Description"]
    return head


def _parameter(rng: random.Random, number: int, position: int, *, mode: int) -> Record:
    name = "Authorization" if mode == 2 and position == 1 else rng.choice(["id", "城市", "page", "id"])
    return {
        "ParameterName": name,
        "ParameterDataType": (number + position) % 12,
        "ParameterPosition": 2 if name == "Authorization" else 1 if mode < 2 else rng.randrange(4),
        "ParameterOperator": rng.randrange(4),
        "ParameterDescription": rng.choice([None, "说明", ""]),
        "DefaultValue": "CANARYbackend-credential" if name == "Authorization" else rng.choice([None, "007", "1e5"]),
        "ExampleValue": "CANARYbackend-example" if name == "Authorization" else rng.choice(["", "2024-01-01", "🚀"]),
        "IsRequiredParameter": rng.random() < 0.5,
    }


def _api(rng: random.Random, project: int, api: int, number: int) -> Record:
    head = _head(rng, project, api, number)
    mode = number % 3
    prefix = ("Wizard", "Script", "Registration")[mode]
    samples = {"SuccessfulResultSample": '{"success": true}', "FailedResultSample": rng.choice([None, "{\n}"])}
    codes = [
        {"ErrorCode": str(1001 + each), "ErrorMessage": rng.choice(["fail to call", "失败"]), "ErrorSolution": "retry"}
        for each in range(rng.randrange(3))
    ]
    asked = [_parameter(rng, number, each, mode=mode) for each in range(rng.randrange(4))]
    details: Record = {**samples, f"{prefix}RequestParameters": asked, f"{prefix}ErrorCodes": codes}
    if mode == 2:
        details |= {
            "ServiceHost": "http://www.abc.com",
            "ServicePath": "/index",
            "ServiceContentType": number % 2,
            "ServiceRequestBodyDescription": '{"abc":1}',
        }
    else:
        names = ("ParameterName", "ParameterDataType", "ParameterDescription", "ExampleValue")
        told = [_parameter(rng, number, each, mode=0) for each in range(rng.randrange(5))]
        details |= {
            "IsPagedResponse": rng.random() < 0.5,
            f"{prefix}ResponseParameters": [{name: each[name] for name in names} for each in told],
            f"{prefix}Connection": {"ConnectionId": rng.choice([123, BIG_INTEGERS[4]]), "TableName": "表"},
        }
    if mode == 1:
        nasty = TEXTS[number % len(TEXTS)]
        details["Script"] = f"select a, '}},{{' from t where id = ${{id}} -- {number}\n{nasty}"  # noqa: S608 - text
    return {**head, "SqlMode": number % 2, f"{prefix}Details": details}


def _draft(rng: random.Random, project: int, api: int, number: int) -> Record:
    record = _api(rng, project, api, number)
    del record["SqlMode"]
    for prefix in ("Wizard", "Script"):
        details = record.get(f"{prefix}Details", {})
        for gone in ("SuccessfulResultSample", "FailedResultSample", f"{prefix}ErrorCodes"):
            details.pop(gone, None)
        for what in ("RequestParameters", "ResponseParameters"):
            for parameter in details.get(f"{prefix}{what}", []):
                parameter["ColumnName"] = "列"
    return {**record, "Status": number % 2, "FolderId": 700 + number % 5}


def _group(rng: random.Random, project: int, number: int) -> Record:
    return {
        "GroupId": f"ab12{number:02d}",
        "GroupName": _text(number, "group"),
        "ApiGatewayGroupId": f"gw{number}",
        "Description": rng.choice([None, "业务流程"]),
        "CreatorId": "" if number == 1 else "1234567890123456",
        "ProjectId": project,
        "TenantId": TENANT,
        **_times(rng, number),
    }


def _folder(rng: random.Random, project: int, number: int) -> Record:
    return {
        "FolderId": 700 + number,
        "FolderName": _text(number, "folder"),
        "GroupId": f"ab12{number % 9:02d}",
        "ParentId": 0 if number < 3 else 700 + rng.randrange(number),
        "ProjectId": project,
        "TenantId": TENANT,
        **_times(rng, number),
    }


def _application(project: int, number: int) -> Record:
    return {
        "ApplicationId": 2**53 + 1 + number if number == 4 else 20000 + number,
        "ApplicationName": _text(number, "app"),
        "ProjectId": project,
        "_ApplicationKey": f"CANARYappkey{number}",
        "_ApplicationSecret": f"CANARYappsecret{number}",
        "_ApplicationCode": f"CANARYappcode{number}",
    }


def _authority(rng: random.Random, project: int, api: int, number: int) -> Record:
    records = [
        {
            "ProjectId": 30000 + each,
            "CreatorId": "1234567890123456",
            "CreatedTime": stamp(EPOCH + timedelta(days=each)),
            "EndTime": stamp(EPOCH + timedelta(days=900 + each)) if each % 2 else None,
        }
        for each in range(number % 4)
    ]
    return {
        "ApiId": api,
        "ApiName": _text(number, "接口"),
        "ApiPath": f"/p{project}/{number}",
        "ApiStatus": 1,
        "GroupId": f"ab12{number % 9:02d}",
        "ProjectId": project,
        "TenantId": TENANT,
        "CreatorId": "1234567890123456",
        **_times(rng, number),
        "AuthorizationRecords": records,
    }


def _authorized(rng: random.Random, project: int, number: int) -> Record:
    """The same API may be granted to several workspaces; ProjectId is its owner's."""
    record = _authority(rng, 40000, 900_000 + number, number)
    del record["AuthorizationRecords"]
    grant = {"GrantCreatedTime": stamp(EPOCH), "GrantEndTime": None, "GrantOperatorId": "99"}
    return {**record, **grant, "_workspace": project}


def _tests(rng: random.Random, api: int, number: int) -> Iterator[Record]:
    for each in range(number % 4):
        running = each == 0 and number % 4 == 3
        moment = EPOCH + timedelta(hours=number * 4 + each, milliseconds=rng.randrange(1000))
        record: Record = {
            "TestId": api % 1_000_000 * 10 + each,
            "ApiId": api,
            "ParamMap": '{"id": "1"}',
            "RetResult": rng.choice(['{"rows": []}', "", "错误"]),
            "CostTime": rng.randrange(5000),
            "Status": "RUNNING" if running else "FINISHED",
            "CreateTime": int(moment.timestamp() * 1000),
        }
        yield record if running else {**record, "RetCode": rng.choice([0, 1108112050])}
