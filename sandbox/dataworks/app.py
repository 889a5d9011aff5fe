"""The actions (section 2): what each reads, where its parameters stand, and the form of its answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.core.journal import Journal
from sandbox.core.wire import now
from sandbox.dataworks.data import Record, Tables, workspace_of
from sandbox.dataworks.envelope import Refusal, Reply, bare, enveloped
from sandbox.dataworks.signing import Keys, Signed, verify

DETAILS = ("WizardDetails", "ScriptDetails", "RegistrationDetails")
V1_NAMES = frozenset(
    {
        "Action", "Version", "Format", "AccessKeyId", "Timestamp", "SignatureNonce", "SignatureMethod",
        "SignatureVersion", "SignatureType", "SecurityToken", "Signature", "RegionId",
    }
)  # fmt: skip


@dataclass
class World:
    tables: Tables
    keys: Keys
    clock: float = 0.0
    list_details: str = "full"
    largest_page: int = 100
    clamps: bool = False
    empty_list: str = "list"
    forbidden: frozenset[int] = frozenset()
    daily_limit: int = 0
    repeat: dict[str, int] = field(default_factory=dict)
    nonces: set[str] = field(default_factory=set)
    calls: int = 0

    @property
    def now(self) -> datetime:
        return now() + timedelta(seconds=self.clock)


@dataclass(frozen=True)
class Action:
    """`query`: the parameters that belong into the URL; `form`: those of the body. `required` among them."""

    answer: Callable[[World, Mapping[str, str]], Reply]
    form: frozenset[str] = frozenset()
    query: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset({"ProjectId"})
    method: str = "POST"


def build_app(world_of: Callable[[], World], journal: Journal) -> Starlette:
    async def serve(request: Request) -> Response:
        world = world_of()
        signed = Signed(
            method=request.method,
            path=request.url.path,
            query=request.url.query,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.body(),
        )
        notes: list[str] = []
        try:
            reply = _dispatch(world, signed, notes)
        except Refusal as refusal:
            notes += [refusal.unexpected] * bool(refusal.unexpected)
            reply = refusal.reply()
        for why in notes:
            journal.unexpected(request.method, f"/{signed.action}", why)
        date = format_datetime(world.now, usegmt=True)
        headers = {"Content-Type": "application/json;charset=utf-8", "Date": date, "x-acs-trace-id": "0a"}
        return Response(reply.body, reply.status, headers)

    return Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST", "PUT", "DELETE"])])


def _dispatch(world: World, request: Signed, notes: list[str]) -> Reply:
    if request.path != "/":
        raise Refusal(404, "InvalidApi.NotFound", "Specified api is not found.", unexpected="no such path")
    verify(request, world.keys, now=world.now, nonces=world.nonces)
    version = dict(request.parameters).get("Version") if request.is_v1 else request.headers.get("x-acs-version")
    action = ACTIONS.get(request.action)
    if action is None or version != "2020-05-18":
        raise Refusal(
            404, "InvalidApi.NotFound", "Specified api is not found, please check.", unexpected="no such action"
        )
    if request.method != action.method:
        notes.append(f"method {request.method}")
    world.calls += 1
    if world.daily_limit and world.calls > world.daily_limit:
        raise Refusal(429, "Throttling.User", "Your requests exceed the daily limit of this edition.")
    query = {name: value for name, value in request.parameters if name not in V1_NAMES}
    form = dict(request.form)
    # Older pages of the vendor show all parameters in the URL: both places are read, and the journal tells.
    for name in [*(set(query) - action.query), *(set(form) - action.form)]:
        notes.append(f"{name} stands where the SDK does not put it, or is not known to the action")
    given = {**query, **form}
    for name in sorted(action.required):
        if not given.get(name):
            raise Refusal(400, f"Missing{name}", f"{name} is mandatory for this action.", unexpected=f"no {name}")
    if given.get("ProjectIdList", "").count(",") >= 50:
        raise Refusal(400, "InvalidProjectIdList", "At most 50 workspaces.", unexpected="over 50 workspaces at once")
    for project in (given.get("ProjectId") or given.get("ProjectIdList") or "").split(","):
        if project and (not project.isdecimal() or int(project) in world.forbidden or not _exists(world, int(project))):
            message = "Access is forbidden. Please first activate DataWorks Enterprise Edition or Flagship Edition."
            raise Refusal(403, "Forbidden.Access", message)
    return action.answer(world, {"_action": request.action, **given})


def _exists(world: World, project: int) -> bool:
    return any(
        int(row["ProjectId"]) == project and row["ProjectStatusCode"] != "DELETED" for row in world.tables["projects"]
    )


def _shown(row: Record) -> Record:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _of_workspace(world: World, table: str, given: Mapping[str, str]) -> list[Record]:
    wanted = {int(each) for each in (given.get("ProjectId") or given["ProjectIdList"]).split(",")}
    return [row for row in world.tables[table] if workspace_of(row) in wanted]


def _page(world: World, rows: list[Record], given: Mapping[str, str], name: str, *, largest: int = 0) -> Record:
    """A page past the end is empty. What a size above the largest gives is not known: an option says."""
    largest = largest or world.largest_page
    number, size = _whole(given, "PageNumber", 1), _whole(given, "PageSize", 10)
    if size > largest and not world.clamps:
        raise Refusal(400, "InvalidParameter.PageSize", f"PageSize is above {largest}.", unexpected="a page size")
    size = min(size, largest)
    start = number
    if world.repeat.get(given["_action"], 0) > 0 and number > 1:
        world.repeat[given["_action"]] -= 1
        start = number - 1
    found = [_shown(row) for row in rows[(start - 1) * size : start * size]]
    page: Record = {"PageNumber": number, "PageSize": size, "TotalCount": len(rows), name: found}
    if not found and world.empty_list != "list":
        page[name] = None
        if world.empty_list == "absent":
            del page[name]
    return page


def _whole(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise Refusal(400, f"Invalid{name}", f"The specified {name} is not valid.", unexpected=f"{name}={text}")
    return int(text)


def _apis(table: str) -> Callable[[World, Mapping[str, str]], Reply]:
    def answer(world: World, given: Mapping[str, str]) -> Reply:
        rows = _of_workspace(world, table, given)
        for name, label in (("ApiNameKeyword", "ApiName"), ("ApiPathKeyword", "ApiPath")):
            rows = [row for row in rows if given.get(name, "") in str(row.get(label))]
        page = _page(world, rows, given, "Apis")
        if world.list_details != "full":
            page["Apis"] = [_headed(row, world.list_details) for row in page.get("Apis") or []]
        return enveloped(page)

    return answer


def _headed(row: Record, form: str) -> Record:
    head = {name: value for name, value in row.items() if name not in DETAILS}
    return head if form == "absent" else {**head, **{name: {} for name in DETAILS}}


def _one_api(table: str) -> Callable[[World, Mapping[str, str]], Reply]:
    def answer(world: World, given: Mapping[str, str]) -> Reply:
        for row in _of_workspace(world, table, given):
            if str(row["ApiId"]) == given["ApiId"]:
                return enveloped(_shown(copy.deepcopy(row)))
        raise Refusal(200, "1031203110005", "parameters invalid: the API does not exist", in_envelope=True)

    return answer


def _application(world: World, given: Mapping[str, str]) -> Reply:
    """Live credentials: no loader has a reason to call it."""
    raise Refusal(403, "Forbidden.Access", "Access is forbidden.", unexpected="an application's credentials")


def _paged(table: str, holder: str, name: str, *, enveloped_: bool, largest: int = 0) -> Any:
    def answer(world: World, given: Mapping[str, str]) -> Reply:
        page = _page(world, _of_workspace(world, table, given), given, name, largest=largest)
        return enveloped(page) if enveloped_ else bare({holder: page})

    return answer


def _projects(world: World, given: Mapping[str, str]) -> Reply:
    return bare({"PageResult": _page(world, world.tables["projects"], given, "ProjectList", largest=100)})


def _tests(world: World, given: Mapping[str, str]) -> Reply:
    rows = [row for row in world.tables["api_tests"] if str(row["ApiId"]) == given["ApiId"]]
    rows.sort(key=lambda row: -int(row["CreateTime"]))
    return bare({"Data": [_shown(row) for row in rows[: min(100, _whole(given, "PageSize", 10))]]})


def _test(world: World, given: Mapping[str, str]) -> Reply:
    for row in world.tables["api_tests"]:
        if str(row["TestId"]) == given["TestId"]:
            shown = {name: value for name, value in _shown(row).items() if name != "TestId"}
            return bare({"Data": {**shown, "CostTime": str(row["CostTime"]), "DebugInfo": "<div>ok</div>"}})
    raise Refusal(404, "InvalidTest.NotFound", "The test does not exist.")


PAGING = frozenset({"PageNumber", "PageSize"})
_OF_PROJECT = frozenset({"ProjectId", "TenantId"})
_API_FORM = _OF_PROJECT | PAGING | {"ApiNameKeyword", "ApiPathKeyword", "CreatorId"}
_ONE = Action(_one_api("published_apis"), form=_OF_PROJECT | {"ApiId"}, required=frozenset({"ProjectId", "ApiId"}))
_GRANT_FORM = _OF_PROJECT | {"ApiNameKeyword"}

ACTIONS: dict[str, Action] = {
    "ListDataServicePublishedApis": Action(_apis("published_apis"), form=_API_FORM),
    "GetDataServicePublishedApi": _ONE,
    "ListDataServiceApis": Action(_apis("draft_apis"), form=_API_FORM),
    "GetDataServiceApi": Action(_one_api("draft_apis"), form=_ONE.form, required=_ONE.required),
    "ListDataServiceGroups": Action(
        _paged("groups", "GroupPagingResult", "Groups", enveloped_=False, largest=50),
        form=_OF_PROJECT | PAGING | {"GroupNameKeyword"},
    ),
    "ListDataServiceFolders": Action(
        _paged("folders", "FolderPagingResult", "Folders", enveloped_=False, largest=50),
        form=_OF_PROJECT | PAGING | {"GroupId", "FolderNameKeyword"},
    ),
    "ListDataServiceApplications": Action(
        _paged("applications", "Data", "Applications", enveloped_=True),
        form=frozenset({"ProjectIdList", "TenantId"}) | PAGING,
        required=frozenset({"ProjectIdList"}),
    ),
    "GetDataServiceApplication": Action(_application, form=_OF_PROJECT | {"ApplicationId"}),
    "ListDataServiceApiAuthorities": Action(
        _paged("api_authorities", "Data", "ApiAuthorizationList", enveloped_=True, largest=50),
        form=_GRANT_FORM,
        query=PAGING,
    ),
    "ListDataServiceAuthorizedApis": Action(
        _paged("authorized_apis", "Data", "ApiAuthorizedList", enveloped_=True, largest=50),
        form=_GRANT_FORM,
        query=PAGING,
    ),
    "ListDataServiceApiTest": Action(
        _tests, query=frozenset({"ApiId", "PageSize"}), required=frozenset({"ApiId"}), method="GET"
    ),
    "GetDataServiceApiTest": Action(_test, query=frozenset({"TestId"}), required=frozenset({"TestId"}), method="GET"),
    "ListProjects": Action(_projects, query=PAGING | {"Tags", "ResourceManagerResourceGroupId"}, required=frozenset()),
}
