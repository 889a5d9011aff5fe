"""What DataWorks DataService has: actions, tables, keys, column types, limits, and what the configuration may say.

Where each fact comes from stands in README.md beside this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from dlt.common.configuration import configspec
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.typing import TSecretStrValue

from sources.convert.types import Column, Kind
from sources.core.config import check_ranges, check_rate, check_zone
from sources.core.errors import ConfigurationError, did_you_mean
from sources.extract.table import Mode, Table

VENDOR = "dataworks"
DATASET = "dataworks"
VERSION = "2020-05-18"
"""DataService's actions exist in this version of the API only."""

MOST_ROWS = 100
"""The largest page that any page of the vendor's documents allows; on some lists they differ, so 50 is the default."""

TESTS = 100
"""So many of an API's newest tests are shown; there is no second page."""

MOST_WORKSPACES = 50
"""So many workspace ids fit into one request for applications."""

WALKS = 3
"""How often a list is walked at most when it moves under the walk."""

MOST_PAGES = 10_000

CREDENTIAL = re.compile(
    r"secret|password|passwd|pwd|^authorization$|^cookie$|token|credential|(access|api|app|application)[_-]?(key|code)s?(_?id)?$",
    re.IGNORECASE,
)
"""Never loaded: keys in an answer, and default and example values of API parameters that are called so."""


@configspec
class Settings(BaseConfiguration):
    """`[sources.dataworks]`; what each means stands in README.md."""

    access_key_id: TSecretStrValue | None = None
    access_key_secret: TSecretStrValue | None = None
    security_token: TSecretStrValue | None = None
    region: str = ""
    base_url: str = ""
    workspaces: list[int] | None = None
    tenant_id: int | None = None
    signature: str = "v3"
    page_size: int = 50
    requests_per_second: float = 4.0
    calls_per_day: int = 0
    day_zone: str = "Asia/Shanghai"
    zone: str = "Asia/Shanghai"
    details: str = "missing"
    refresh_details_days: int = 7
    exclude: list[str] | None = None

    secrets: ClassVar[tuple[str, ...]] = ("access_key_id", "access_key_secret", "security_token")


@dataclass(frozen=True, kw_only=True)
class Action:
    """One action that may be called. `url`: the parameters that stand in the URL, the others go as a form.

    `rows`: where its list stands; `key`: what tells the rows of the list apart.
    """

    name: str
    method: str = "POST"
    url: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    key: tuple[str, ...] = ()


PAGING = ("PageNumber", "PageSize")

LIST_PROJECTS = Action(name="ListProjects", url=PAGING, rows=("PageResult", "ProjectList"), key=("ProjectId",))
LIST_PUBLISHED = Action(name="ListDataServicePublishedApis", rows=("Data", "Apis"), key=("ApiId",))
GET_PUBLISHED = Action(name="GetDataServicePublishedApi")
LIST_DRAFTS = Action(name="ListDataServiceApis", rows=("Data", "Apis"), key=("ApiId",))
GET_DRAFT = Action(name="GetDataServiceApi")
LIST_GROUPS = Action(name="ListDataServiceGroups", rows=("GroupPagingResult", "Groups"), key=("GroupId",))
LIST_FOLDERS = Action(name="ListDataServiceFolders", rows=("FolderPagingResult", "Folders"), key=("FolderId",))
LIST_APPLICATIONS = Action(
    name="ListDataServiceApplications", rows=("Data", "Applications"), key=("ProjectId", "ApplicationId")
)
LIST_AUTHORITIES = Action(
    name="ListDataServiceApiAuthorities", url=PAGING, rows=("Data", "ApiAuthorizationList"), key=("ApiId",)
)
LIST_AUTHORIZED = Action(
    name="ListDataServiceAuthorizedApis", url=PAGING, rows=("Data", "ApiAuthorizedList"), key=("ApiId",)
)
LIST_TESTS = Action(
    name="ListDataServiceApiTest", method="GET", url=("ApiId", "PageSize"), rows=("Data",), key=("TestId",)
)

ACTIONS = frozenset(
    {
        LIST_PROJECTS, LIST_PUBLISHED, GET_PUBLISHED, LIST_DRAFTS, GET_DRAFT, LIST_GROUPS, LIST_FOLDERS,
        LIST_APPLICATIONS, LIST_AUTHORITIES, LIST_AUTHORIZED, LIST_TESTS,
    }
)  # fmt: skip
"""Nothing else can be called. GetDataServiceApplication is not here: it answers with live credentials."""

API_MODE = {0: "wizard", 1: "script", 2: "registered"}
HTTP_METHOD = {0: "GET", 1: "POST", 2: "PUT", 3: "DELETE"}
CONTENT_TYPE = {0: "JSON", 1: "XML"}
API_STATUS = {0: "unpublished", 1: "published"}
DATA_TYPE = dict(
    enumerate(
        (
            "String", "Int", "Long", "Float", "Double", "Boolean", "StringList", "IntList", "LongList", "FloatList",
            "DoubleList", "BooleanList",
        )
    )
)  # fmt: skip

NAMES: dict[str, dict[int, str]] = {
    "ApiMode": API_MODE,
    "Status": API_STATUS,
    "ApiStatus": API_STATUS,
    "RequestMethod": HTTP_METHOD,
    "ResponseContentType": CONTENT_TYPE,
    "ServiceContentType": CONTENT_TYPE,
    "Protocols": {0: "HTTP", 1: "HTTPS"},
    "VisibleRange": {0: "workspace", 1: "private"},
    "SqlMode": {0: "basic", 1: "advanced"},
    "ParameterDataType": DATA_TYPE,
    "ParameterPosition": {0: "path", 1: "query", 2: "header", 3: "body"},
    "ParameterOperator": {0: "Equal", 1: "Like", 2: "Const", 3: "In"},
}
"""Each of these lands twice: the vendor's code, and beside it `…Name`, empty for a code that is not known here."""

_LABELS: dict[Kind, str] = {
    Kind.BIGINT: "ProjectId ApiId TenantId ApiMode Status ApiStatus RequestMethod ResponseContentType "
    "ServiceContentType Timeout VisibleRange SqlMode FolderId ParentId ApplicationId ConnectionId ParameterDataType "
    "ParameterPosition ParameterOperator position AuthorizedProjectId WorkspaceId TestId RetCode CostTime "
    "ProjectStatus IsDefault TablePrivacyMode",
    Kind.BOOL: "IsPagedResponse IsRequiredParameter DisableDevelopment UseProxyOdpsAccount",
    Kind.TIMESTAMP: "CreatedTime ModifiedTime AuthorizedTime EndTime GrantCreatedTime GrantEndTime CreateTime",
    Kind.JSON: "Protocols ProtocolsName Tags Definition WizardDetails ScriptDetails RegistrationDetails",
}
_KINDS = {label: kind for kind, labels in _LABELS.items() for label in labels.split()}


def column(label: str, zone: str = "Asia/Shanghai") -> Column:
    """A documented column; what is neither number, truth, time nor object is text. Empty is null, but not in a text."""
    kind = _KINDS.get(label, Kind.TEXT)
    nulls = () if kind in (Kind.TEXT, Kind.JSON) else ("",)
    return Column(label=label, kind=kind, zone=zone if kind is Kind.TIMESTAMP else "UTC", nulls=nulls)


def _columns(labels: str) -> tuple[Column, ...]:
    """The labels as columns; after each enumeration's code its name."""
    named = (each for label in labels.split() for each in ((label, f"{label}Name") if label in NAMES else (label,)))
    return tuple(map(column, named))


_API = (
    "ProjectId ApiId ApiName ApiPath ApiMode Status GroupId Description RequestMethod ResponseContentType Protocols "
    "Timeout VisibleRange CreatorId OperatorId TenantId CreatedTime ModifiedTime"
)
_DETAIL = (
    "IsPagedResponse ConnectionId TableName Script SuccessfulResultSample FailedResultSample ServiceHost ServicePath "
    "ServiceContentType ServiceRequestBodyDescription"
)
_CHILD = "ProjectId ApiId kind position"

PROJECTS = Table(
    name="projects",
    mode=Mode.FULL,
    key=("ProjectId",),
    about="every workspace that the key can see",
    columns=_columns(
        "ProjectId ProjectIdentifier ProjectName ProjectDescription ProjectOwnerBaseId ProjectStatus ProjectStatusCode "
        "IsDefault DisableDevelopment UseProxyOdpsAccount TablePrivacyMode ResourceManagerResourceGroupId Tags"
    ),
)
PUBLISHED_APIS = Table(
    name="published_apis",
    mode=Mode.FULL,
    key=("ProjectId", "ApiId"),
    about="published APIs, one row each",
    columns=_columns(f"{_API} SqlMode {_DETAIL}"),
)
REQUEST_PARAMETERS = Table(
    name="published_api_request_parameters",
    mode=Mode.FULL,
    key=("ProjectId", "ApiId", "kind", "position"),
    about="what a published API is asked with; kind is wizard, script or registered, position counts from 1",
    columns=_columns(
        f"{_CHILD} ParameterName ParameterDataType ParameterPosition ParameterOperator IsRequiredParameter "
        "ParameterDescription DefaultValue ExampleValue"
    ),
)
RESPONSE_PARAMETERS = Table(
    name="published_api_response_parameters",
    mode=Mode.FULL,
    key=("ProjectId", "ApiId", "kind", "position"),
    about="what a published API answers; registered APIs tell none",
    columns=_columns(f"{_CHILD} ParameterName ParameterDataType ParameterDescription ExampleValue"),
)
ERROR_CODES = Table(
    name="published_api_error_codes",
    mode=Mode.FULL,
    key=("ProjectId", "ApiId", "kind", "position"),
    about="the error codes of a published API",
    columns=_columns(f"{_CHILD} ErrorCode ErrorMessage ErrorSolution"),
)
VERSIONS = Table(
    name="published_api_versions",
    mode=Mode.HISTORY,
    key=("ProjectId", "ApiId"),
    about="each definition that a published API ever had, from when to when (as seen at night)",
    columns=_columns(
        "ProjectId ApiId ApiName ApiPath ApiMode RequestMethod GroupId Description Timeout VisibleRange "
        "Script Definition"
    ),
)
DRAFT_APIS = Table(
    name="draft_apis",
    mode=Mode.FULL,
    key=("ProjectId", "ApiId"),
    about="APIs as they stand in development, one row each",
    columns=_columns(f"{_API} FolderId {_DETAIL} WizardDetails ScriptDetails RegistrationDetails"),
)
GROUPS = Table(
    name="groups",
    mode=Mode.FULL,
    key=("ProjectId", "GroupId"),
    about="business processes that APIs are grouped by",
    columns=_columns(
        "ProjectId GroupId GroupName ApiGatewayGroupId Description CreatorId TenantId CreatedTime ModifiedTime"
    ),
)
FOLDERS = Table(
    name="folders",
    mode=Mode.FULL,
    key=("ProjectId", "FolderId"),
    about="folders of draft APIs; ParentId 0 is the root",
    columns=_columns("ProjectId FolderId FolderName GroupId ParentId TenantId CreatedTime ModifiedTime"),
)
APPLICATIONS = Table(
    name="applications",
    mode=Mode.FULL,
    key=("ProjectId", "ApplicationId"),
    about="applications that call APIs: id and name, never their keys",
    dropped=("ApplicationKey", "ApplicationSecret", "ApplicationCode"),
    columns=_columns("ProjectId ApplicationId ApplicationName"),
)
AUTHORITIES = Table(
    name="api_authorities",
    mode=Mode.FULL,
    key=("WorkspaceId", "ApiId", "AuthorizedProjectId"),
    cursor="AuthorizedTime",
    about="which API of ours which other workspace may call",
    columns=_columns(
        "WorkspaceId ApiId AuthorizedProjectId AuthorizedCreatorId AuthorizedTime EndTime ApiName ApiPath ApiStatus "
        "GroupId ProjectId TenantId CreatorId CreatedTime ModifiedTime"
    ),
)
AUTHORIZED_APIS = Table(
    name="authorized_apis",
    mode=Mode.FULL,
    key=("WorkspaceId", "ApiId"),
    about="APIs of others that a workspace of ours may call",
    columns=_columns(
        "WorkspaceId ApiId ApiName ApiPath ApiStatus GroupId ProjectId TenantId CreatorId CreatedTime ModifiedTime "
        "GrantCreatedTime GrantEndTime GrantOperatorId"
    ),
)
API_TESTS = Table(
    name="api_tests",
    mode=Mode.KEPT,
    key=("TestId",),
    about="test runs of APIs; the vendor shows the newest 100 of about a month, here they stay",
    columns=(
        *_columns("TestId ApiId"),
        Column(label="Status", kind=Kind.TEXT),  # RUNNING or FINISHED: not the code that APIs have under this name
        *_columns("RetCode CostTime CreateTime ParamMap RetResult"),
    ),
)

TABLES = (
    PROJECTS,
    GROUPS,
    FOLDERS,
    APPLICATIONS,
    AUTHORITIES,
    AUTHORIZED_APIS,
    PUBLISHED_APIS,
    REQUEST_PARAMETERS,
    RESPONSE_PARAMETERS,
    ERROR_CODES,
    VERSIONS,
    DRAFT_APIS,
    API_TESTS,
)
"""In the order of their extraction: what costs a call per API comes last."""


DETAILS = ("missing", "always", "never")


def check(settings: Settings) -> None:
    """Raises `ConfigurationError` for a setting that is missing or cannot work."""
    for name in ("access_key_id", "access_key_secret"):
        if not getattr(settings, name):
            raise wrong(
                f"{name} is not set",
                f"Write it into .dlt/secrets.toml, or set SOURCES__{VENDOR.upper()}__{name.upper()}",
            )
    if not settings.base_url and not settings.region:
        raise wrong("neither region nor base_url is set", 'Set region = "cn-shanghai", or whichever yours is')
    if settings.region and not re.fullmatch("[a-z0-9-]+", settings.region):
        raise wrong(f"region is {settings.region!r}", "Write it like cn-shanghai")
    for workspace in settings.workspaces or ():
        if not str(workspace).isdecimal() or int(workspace) < 1:
            raise wrong(f"workspaces names {workspace}", "Write the workspaces' ids (ProjectId), like [10002, 10003]")
    for name, among in (("signature", ("v3", "v1")), ("details", DETAILS)):
        if getattr(settings, name) not in among:
            raise wrong(f"{name} is {getattr(settings, name)!r}", f"Set it to {' or '.join(among)}")
    check_ranges(VENDOR, settings, {"page_size": (1, MOST_ROWS)})
    check_rate(VENDOR, settings.requests_per_second)
    if settings.calls_per_day < 0 or settings.refresh_details_days < 0:
        raise wrong("calls_per_day or refresh_details_days is negative", "Set it to 0 or more")
    for zone in (settings.zone, settings.day_zone):
        check_zone(VENDOR, zone)
    names = [table.name for table in TABLES]
    for name in settings.exclude or ():
        if name not in names:
            todo = did_you_mean(name, names, f"There are: {', '.join(names)}")
            raise wrong(f"exclude names {name}, which is no table", todo)


def tables_of(settings: Settings) -> tuple[Table, ...]:
    """The tables less those that are excluded."""
    return tuple(table for table in TABLES if table.name not in (settings.exclude or ()))


def wrong(what: str, todo: str) -> ConfigurationError:
    return ConfigurationError(what=what, where=f"sources.{VENDOR}", todo=todo)
