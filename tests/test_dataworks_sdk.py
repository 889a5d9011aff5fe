"""The vendor's official SDK beside our client: what both send is accepted, what both read is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from alibabacloud_dataworks_public20200518 import models
from alibabacloud_dataworks_public20200518.client import Client as Sdk
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.models import Config

from sandbox_process import SandboxProcess, start_sandbox
from sources.dataworks import settings as has
from sources.dataworks.client import Client


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "dataworks", "--scale", "0.02") as process:
        yield process


@pytest.fixture(params=["v3", "v1"])
def both(request: pytest.FixtureRequest, sandbox: SandboxProcess) -> tuple[Sdk, Client]:
    """The vendor calls its V1 “v2”."""
    ready = sandbox.ready["dataworks"]
    sandbox.control("dataworks", "POST", "reset")
    config = Config(
        access_key_id=ready["access_key_id"],
        access_key_secret=ready["access_key_secret"],
        endpoint=ready["base_url"].removeprefix("http://"),
        protocol="HTTP",
        region_id="cn-shanghai",
        signature_algorithm="v2" if request.param == "v1" else None,
    )
    settings = has.Settings()
    settings.base_url = ready["base_url"]
    settings.access_key_id, settings.access_key_secret = ready["access_key_id"], ready["access_key_secret"]
    settings.signature, settings.requests_per_second = request.param, 1000.0
    return Sdk(config), Client(settings)


def _ours(client: Client, action: has.Action, **parameters: Any) -> Any:
    return [_known(row) for row in client.walk(action, **parameters).rows]


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """Without what is null or empty: the SDK shows neither."""
    cleaned = {name: _tidy(value) for name, value in row.items()}
    return {name: value for name, value in cleaned.items() if value not in (None, {}, [])}


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        return _known(value)
    return [_tidy(each) for each in value] if isinstance(value, list) else value


def test_the_sdk_lists_what_we_list(both: tuple[Sdk, Client]) -> None:
    sdk, ours = both
    found = []
    for number in (1, 2, 3):
        asked = models.ListDataServicePublishedApisRequest(project_id=10002, page_number=number, page_size=50)
        found += sdk.list_data_service_published_apis(asked).body.to_map()["Data"]["Apis"]
    assert [_known(row) for row in found] == _ours(ours, has.LIST_PUBLISHED, ProjectId=10002)
    grants = models.ListDataServiceApiAuthoritiesRequest(project_id=10002, page_number=1, page_size=50)
    listed = sdk.list_data_service_api_authorities(grants).body.to_map()["Data"]["ApiAuthorizationList"]
    assert [_known(row) for row in listed] == _ours(ours, has.LIST_AUTHORITIES, ProjectId=10002)
    groups = models.ListDataServiceGroupsRequest(project_id=10002, page_number=1, page_size=50)
    listed = sdk.list_data_service_groups(groups).body.to_map()["GroupPagingResult"]["Groups"]
    assert [_known(row) for row in listed] == _ours(ours, has.LIST_GROUPS, ProjectId=10002)
    projects = sdk.list_projects(models.ListProjectsRequest(page_number=1, page_size=100)).body.to_map()
    assert [_known(row) for row in projects["PageResult"]["ProjectList"]] == _ours(ours, has.LIST_PROJECTS)


def test_the_sdk_gets_what_we_get(both: tuple[Sdk, Client], sandbox: SandboxProcess) -> None:
    sdk, ours = both
    api = int(sandbox.control("dataworks", "GET", "truth/published_apis")["rows"][1]["ApiId"])
    asked = models.GetDataServicePublishedApiRequest(project_id=10002, api_id=api)
    theirs = sdk.get_data_service_published_api(asked).body.to_map()["Data"]
    mine = ours.detail(has.GET_PUBLISHED, project=10002, api=api)
    assert mine is not None and _known(theirs) == _known(mine)
    tests = sdk.list_data_service_api_test(models.ListDataServiceApiTestRequest(api_id=api, page_size=100))
    assert [_known(row) for row in tests.body.to_map()["Data"]] == [
        _known(row) for row in ours.tests(has.LIST_TESTS, api=api, size=100)
    ]
    assert sandbox.control("dataworks", "GET", "stats")["unexpected"] == []


def test_nasty_parameters_are_signed_alike(both: tuple[Sdk, Client], sandbox: SandboxProcess) -> None:
    sdk, ours = both
    keyword = "测试 *~/+"
    asked = models.ListDataServiceApiAuthoritiesRequest(project_id=10002, api_name_keyword=keyword, page_size=10)
    assert sdk.list_data_service_api_authorities(asked).status_code == 200
    assert ours.page(has.LIST_AUTHORITIES, size=10, ProjectId=10002, ApiNameKeyword=keyword).total == 6
    assert sandbox.control("dataworks", "GET", "stats")["unexpected"] == []


def test_the_sdk_is_refused_as_we_are(both: tuple[Sdk, Client], sandbox: SandboxProcess) -> None:
    sdk, _ = both
    sandbox.control("dataworks", "POST", "options", {"forbid": [10002]})
    with pytest.raises(ClientException) as refused:
        sdk.list_data_service_groups(models.ListDataServiceGroupsRequest(project_id=10002))
    assert refused.value.code == "Forbidden.Access" and refused.value.status_code == 403
    assert json.dumps(sandbox.control("dataworks", "GET", "stats")["by_path"])
