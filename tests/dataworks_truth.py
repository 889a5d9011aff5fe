"""What the warehouse should hold of the played DataWorks, told from its truth and apart from how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from conftest import Night
from sandbox_process import SandboxProcess

Row = dict[str, Any]

CODES: dict[str, tuple[str, ...]] = {
    "ApiMode": ("wizard", "script", "registered"),
    "Status": ("unpublished", "published"),
    "ApiStatus": ("unpublished", "published"),
    "RequestMethod": ("GET", "POST", "PUT", "DELETE"),
    "ResponseContentType": ("JSON", "XML"),
    "ServiceContentType": ("JSON", "XML"),
    "VisibleRange": ("workspace", "private"),
    "SqlMode": ("basic", "advanced"),
    "ParameterPosition": ("path", "query", "header", "body"),
    "ParameterOperator": ("Equal", "Like", "Const", "In"),
    "ParameterDataType": (
        "String", "Int", "Long", "Float", "Double", "Boolean", "StringList", "IntList", "LongList", "FloatList",
        "DoubleList", "BooleanList",
    ),
}  # fmt: skip
INTEGERS = {"ProjectId", "ApiId", "ApplicationId", "FolderId", "ParentId", "TenantId", "WorkspaceId"}
OURS = {"_dlt_load_id", "_deleted_at", "row_version", "valid_from", "valid_to"}
PREFIX = ("Wizard", "Script", "Registration")
_DEFINED = "ProjectId ApiId ApiName ApiPath ApiMode RequestMethod GroupId Description Timeout VisibleRange"
_HEAD = f"{_DEFINED} Status ResponseContentType Protocols CreatorId OperatorId TenantId CreatedTime ModifiedTime"
_DETAIL = (
    "IsPagedResponse Script SuccessfulResultSample FailedResultSample ServiceHost ServicePath ServiceContentType "
    "ServiceRequestBodyDescription"
)
_GRANT = "ApiId ApiName ApiPath ApiStatus GroupId ProjectId TenantId CreatorId CreatedTime ModifiedTime"


class Truth:
    """The sandbox's DataWorks: what is true there, and how it is changed."""

    def __init__(self, process: SandboxProcess) -> None:
        self.process = process

    def control(self, method: str, path: str, body: Any = None) -> Any:
        return self.process.control("dataworks", method, path, body)

    def rows(self, table: str) -> list[Row]:
        rows: list[Row] = self.control("GET", f"truth/{table}")["rows"]
        return rows

    def edit(self, *edits: Row) -> None:
        self.control("POST", "edit", list(edits))

    def options(self, **options: Any) -> None:
        self.control("POST", "options", options)

    def fault(self, path: str, do: Row, *, skip: int = 0, times: int = 1) -> None:
        self.control("POST", "faults", {"match": {"path": path}, "do": do, "skip": skip, "times": times})

    def says(self, path: str, status: int, body: Any, *, times: int = -1, headers: Row | None = None) -> None:
        self.fault(path, {"status": status, "body": body, "headers": headers or {}}, times=times)

    def asked(self, action: str = "") -> int:
        counts = self.control("GET", "stats")["by_path"]
        return sum(count for target, count in counts.items() if target.endswith(f"/{action}") or not action)

    def out_of_place(self) -> list[Row]:
        stats: list[Row] = self.control("GET", "stats")["unexpected"]
        return stats

    def expected(self, table: str) -> list[Row]:
        """The rows of one table of the warehouse, by the vendor's labels."""
        return list(_EXPECTED[table](self))


def same(night: Night, truth: Truth, *tables: str) -> None:
    """Each table holds what is true, value by value and nothing else."""
    with duckdb.connect(str(night.warehouse), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in tables or TABLES:
            live = {"published_api_versions": "valid_to IS NULL", "api_tests": "true"}.get(table, "_deleted_at IS NULL")
            there = _there(connection, table, live=live)
            assert _sorted(there) == _sorted(truth.expected(table)), table


def _there(connection: duckdb.DuckDBPyConnection, table: str, *, live: str) -> list[Row]:
    """The live rows of one table of the warehouse, by the vendor's labels."""
    named = "SELECT column_name, label FROM nightload.columns WHERE dataset = 'dataworks' AND table_name = ?"
    labels = dict(connection.execute(named, [table]).fetchall())
    found = connection.execute(f"SELECT * FROM dataworks.{table} WHERE {live}")
    columns = [(column[0], str(column[1])) for column in found.description or ()]
    return [
        {
            labels[name]: _shown(value, kind)
            for (name, kind), value in zip(columns, row, strict=True)
            if name not in OURS
        }
        for row in found.fetchall()
    ]


def _shown(value: Any, kind: str) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return json.loads(value) if kind == "JSON" and value is not None else value


def _sorted(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True, default=str))


def _value(label: str, value: Any) -> Any:
    if value is None:
        return None
    if label in INTEGERS:
        return int(value)
    if label.endswith("Time") and isinstance(value, str):
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%S%z").astimezone(UTC)
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _told(row: Row, told_labels: str) -> Row:
    labels = told_labels.split()
    told = {label: _value(label, row.get(label)) for label in labels}
    for label in labels:
        if label in CODES:
            code = row.get(label)
            known = code is not None and 0 <= code < len(CODES[label])
            told[f"{label}Name"] = CODES[label][code] if known else None
    if "Protocols" in labels:
        told["ProtocolsName"] = [("HTTP", "HTTPS")[code] for code in row["Protocols"]]
    return told


def _details(row: Row) -> Row:
    """The details by which an API was made, less a backend's credentials."""
    details = json.loads(json.dumps(row[f"{PREFIX[row['ApiMode']]}Details"]))
    for parameter in details.get(f"{PREFIX[row['ApiMode']]}RequestParameters", []):
        if parameter["ParameterName"] == "Authorization":
            parameter["DefaultValue"] = parameter["ExampleValue"] = None
    return details  # type: ignore[no-any-return]


def _api(row: Row) -> Row:
    details = _details(row)
    connection = details.get(f"{PREFIX[row['ApiMode']]}Connection", {})
    return _told(row, _HEAD) | _told(details, _DETAIL) | _told(connection, "ConnectionId TableName")


def _published(truth: Truth) -> Iterator[Row]:
    for row in truth.rows("published_apis"):
        yield _api(row) | _told(row, "SqlMode")


def _clean(value: Any) -> Any:
    match value:
        case dict():
            return {name: _clean(each) for name, each in value.items()}
        case list():
            return [_clean(each) for each in value]
        case str():
            return value.replace("\0", "\ufffd")
        case _:
            return value


def _drafts(truth: Truth) -> Iterator[Row]:
    for row in truth.rows("draft_apis"):
        objects: Row = {f"{prefix}Details": None for prefix in PREFIX}
        objects[f"{PREFIX[row['ApiMode']]}Details"] = _clean(_details(row))
        yield _api(row) | _told(row, "FolderId") | objects


def _versions(truth: Truth) -> Iterator[Row]:
    moving = {"ModifiedTime", "OperatorId", "CreatedTime", "CreatorId", "Status", "TenantId"}
    for row in truth.rows("published_apis"):
        name = f"{PREFIX[row['ApiMode']]}Details"
        whole = {label: value for label, value in (row | {name: _details(row)}).items() if label not in moving}
        told = _told(row, _DEFINED)
        definition = {label: _clean(value) for label, value in whole.items() if value not in (None, {}, [])}
        yield told | {"Script": _value("Script", row[name].get("Script")), "Definition": definition}


def _children(what: str, labels: str) -> Any:
    def children(truth: Truth) -> Iterator[Row]:
        for row in truth.rows("published_apis"):
            kind, prefix = CODES["ApiMode"][row["ApiMode"]], PREFIX[row["ApiMode"]]
            for position, child in enumerate(_details(row).get(f"{prefix}{what}", []), start=1):
                head = {"ProjectId": int(row["ProjectId"]), "ApiId": int(row["ApiId"])}
                yield head | {"kind": kind, "position": position} | _told(child, labels)

    return children


def _plain(table: str, labels: str) -> Any:
    return lambda truth: (_told(row, labels) for row in truth.rows(table))


def _authorities(truth: Truth) -> Iterator[Row]:
    for row in truth.rows("api_authorities"):
        for record in row["AuthorizationRecords"]:
            yield _told(row, _GRANT) | {
                "WorkspaceId": row["ProjectId"],
                "AuthorizedProjectId": record["ProjectId"],
                "AuthorizedCreatorId": record["CreatorId"],
                "AuthorizedTime": _value("CreatedTime", record["CreatedTime"]),
                "EndTime": _value("EndTime", record["EndTime"]),
            }


def _authorized(truth: Truth) -> Iterator[Row]:
    for row in truth.rows("authorized_apis"):
        grant = _told(row, "GrantCreatedTime GrantEndTime GrantOperatorId")
        yield _told(row, _GRANT) | grant | {"WorkspaceId": row["_workspace"]}


def _tests(truth: Truth) -> Iterator[Row]:
    for row in truth.rows("api_tests"):
        labels = ["TestId", "ApiId", "RetCode", "CostTime", "ParamMap", "RetResult"]
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=row["CreateTime"])
        yield {label: row.get(label) for label in labels} | {"Status": row["Status"], "CreateTime": moment}


_EXPECTED: dict[str, Any] = {
    "projects": _plain(
        "projects",
        "ProjectId ProjectIdentifier ProjectName ProjectDescription ProjectOwnerBaseId ProjectStatus ProjectStatusCode "
        "IsDefault DisableDevelopment UseProxyOdpsAccount TablePrivacyMode ResourceManagerResourceGroupId Tags",
    ),
    "groups": _plain(
        "groups",
        "ProjectId GroupId GroupName ApiGatewayGroupId Description CreatorId TenantId CreatedTime ModifiedTime",
    ),
    "folders": _plain("folders", "ProjectId FolderId FolderName GroupId ParentId TenantId CreatedTime ModifiedTime"),
    "applications": _plain("applications", "ProjectId ApplicationId ApplicationName"),
    "api_authorities": _authorities,
    "authorized_apis": _authorized,
    "published_apis": _published,
    "published_api_request_parameters": _children(
        "RequestParameters",
        "ParameterName ParameterDataType ParameterPosition ParameterOperator IsRequiredParameter ParameterDescription "
        "DefaultValue ExampleValue",
    ),
    "published_api_response_parameters": _children(
        "ResponseParameters", "ParameterName ParameterDataType ParameterDescription ExampleValue"
    ),
    "published_api_error_codes": _children("ErrorCodes", "ErrorCode ErrorMessage ErrorSolution"),
    "published_api_versions": _versions,
    "draft_apis": _drafts,
    "api_tests": _tests,
}
TABLES = tuple(_EXPECTED)
