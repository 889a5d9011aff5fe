"""The played DataWorks against the vendor's sheet: who is let in, how lists are paged, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from dataworks_truth import Truth
from sandbox_process import SandboxProcess, start_sandbox
from sources.dataworks.signature import Signer

LIST = "ListDataServicePublishedApis"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox("--vendors", "dataworks", "--scale", "0.02") as process:
        yield process


class Api(Truth):
    def signer(self, **given: Any) -> Signer:
        ready = self.process.ready["dataworks"]
        keys = {name: ready[name] for name in ("access_key_id", "access_key_secret")}
        return Signer(**{**keys, **given})

    def request(self, action: str, method: str = "POST", query: Any = None, **form: Any) -> httpx.Request:
        return httpx.Request(
            method,
            self.process.ready["dataworks"]["base_url"],
            params=query,
            data={name: str(value) for name, value in form.items()},
            headers={"x-acs-action": action, "x-acs-version": "2020-05-18", "accept": "application/json"},
        )

    def send(self, request: httpx.Request) -> tuple[int, Any]:
        with httpx.Client(verify=False) as client:
            answer = client.send(request)
        return answer.status_code, answer.json()

    def ask(self, action: str, method: str = "POST", query: Any = None, **form: Any) -> tuple[int, Any]:
        request = self.request(action, method, query, **form)
        self.signer()(request)
        return self.send(request)

    def code(self, request: httpx.Request) -> tuple[int, str]:
        status, body = self.send(request)
        return status, str(body.get("Code"))


@pytest.fixture
def api(sandbox: SandboxProcess) -> Api:
    api = Api(sandbox)
    api.control("POST", "reset")
    return api


@pytest.mark.parametrize("form", ["v3", "v1"])
def test_only_a_right_signature_is_let_in(api: Api, form: str) -> None:
    request = api.request(LIST, ProjectId=10002)
    api.signer(form=form)(request)
    assert api.code(request) == (200, "None")
    assert api.code(request) == (400, "SignatureNonceUsed")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"access_key_secret": "other"}, "SignatureDoesNotMatch"),
        ({"access_key_id": "other"}, "InvalidAccessKeyId.NotFound"),
        ({"security_token": "none was due"}, "InvalidSecurityToken.MismatchWithAccessKey"),
        ({"now": lambda: datetime.now(UTC) - timedelta(minutes=16)}, "InvalidTimeStamp.Expired"),
        ({"now": lambda: datetime.now(UTC) + timedelta(minutes=16)}, "InvalidTimeStamp.Expired"),
    ]
    for given, code in wrong:
        request = api.request(LIST, ProjectId=10002)
        api.signer(form=form, **given)(request)
        assert api.code(request)[1] == code
    for minutes in (-14, 14):
        request = api.request(LIST, ProjectId=10002)
        api.signer(form=form, now=lambda minutes=minutes: datetime.now(UTC) + timedelta(minutes=minutes))(request)
        assert api.code(request)[0] == 200


def test_what_was_signed_cannot_be_changed(api: Api) -> None:
    for change in ("body", "query", "header", "unsigned header"):
        request = api.request(LIST, ProjectId=10002)
        api.signer()(request)
        if change == "body":
            request = httpx.Request("POST", request.url, headers=request.headers, content=b"ProjectId=10003")
        elif change == "query":
            request.url = request.url.copy_merge_params({"TenantId": "1"})
        elif change == "header":
            request.headers["x-acs-action"] = "ListDataServiceApis"
        else:
            request.headers["x-acs-extra"] = "1"
        status, code = api.code(request)
        assert status == 400 and code == (
            "IncompleteSignature" if change == "unsigned header" else "SignatureDoesNotMatch"
        )
    assert api.code(api.request(LIST, ProjectId=10002)) == (400, "MissingAccessKeyId")


def test_pages_of_ten_by_default_and_an_empty_one_past_the_end(api: Api) -> None:
    _, first = api.ask(LIST, ProjectId=10002)
    assert first["Success"] is True and first["ErrorCode"] == "0", "an error's fields are filled beside a success"
    assert (len(first["Data"]["Apis"]), first["Data"]["PageSize"], first["Data"]["TotalCount"]) == (10, 10, 61)
    _, past = api.ask(LIST, ProjectId=10002, PageNumber=9, PageSize=50)
    assert past["Data"]["Apis"] == [] and past["Data"]["TotalCount"] == 61
    _, groups = api.ask("ListDataServiceGroups", ProjectId=10002, PageSize=50)
    assert set(groups) == {"RequestId", "GroupPagingResult"}, "no word on success"
    assert api.ask("ListDataServiceGroups", ProjectId=10002, PageSize=51)[1]["Code"] == "InvalidParameter.PageSize"


def test_refusals(api: Api) -> None:
    assert api.ask(LIST)[1]["Code"] == "MissingProjectId"
    assert api.ask(LIST, ProjectId=10009)[0] == 403, "a deleted workspace"
    assert api.ask("CreateDataServiceApi", ProjectId=10002)[1]["Code"] == "InvalidApi.NotFound"
    status, unknown = api.ask("GetDataServicePublishedApi", ProjectId=10002, ApiId=1)
    assert status == 200 and unknown["Success"] is False and unknown["ErrorCode"] == "1031203110005"
    assert api.ask("GetDataServiceApplication", ProjectId=10002, ApplicationId=20000)[0] == 403
    told = " ".join(str(each["why"]) for each in api.out_of_place())
    for why in ("no ProjectId", "no such action", "credentials"):
        assert why in told


def test_applications_show_no_credential_and_parameters_that_are_out_of_place_are_noted(api: Api) -> None:
    _, listed = api.ask("ListDataServiceApplications", ProjectIdList="10002,10003", PageSize=50)
    assert set(listed["Data"]["Applications"][0]) == {"ApplicationId", "ApplicationName", "ProjectId"}
    assert api.out_of_place() == []
    api.ask("ListDataServiceApiAuthorities", ProjectId=10002, PageSize=50)
    assert "PageSize stands where" in str(api.out_of_place())
