"""How DataWorks says no: what each status and code means for the one who runs the night, and the pause it asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sources.core.errors import (
    AccessDenied,
    BrokenAnswer,
    ConfigurationError,
    NightloadError,
    NotReady,
    Refused,
    Unavailable,
    VendorError,
)
from sources.dataworks.settings import VENDOR, Action
from sources.http.request import Inspect

_CLOCK = re.compile(r"^InvalidTimeStamp|^IllegalTimestamp", re.IGNORECASE)
_NONCE = re.compile(r"^SignatureNonceUsed", re.IGNORECASE)
_KEY = re.compile(
    r"^(InvalidAccessKeyId|MissingAccessKeyId|InvalidSecurityToken|MissingSecurityToken|InactiveAccessKeyId)",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(
    r"^(SignatureDoesNotMatch|IncompleteSignature|InvalidSignature|MissingSignature)", re.IGNORECASE
)
_DAY = re.compile(r"daily|per day|a day|today|每日|每天|当日|当天", re.IGNORECASE)
_FAULT = re.compile(r"^(InternalError|ServiceUnavailable|SystemError|UnknownError)", re.IGNORECASE)
_TIME_LEFT = re.compile(r"TimeLeft\s*:\s*([0-9]+)", re.IGNORECASE)


class ClockRefused(VendorError):
    """The date of the signature was refused; `code` is the vendor's. The client tells how far the clocks are apart."""

    code = ""


def pause_asked(headers: Mapping[str, str]) -> float | None:
    """The pause in seconds that the vendor's own headers ask for, told in milliseconds; the longest of several."""
    asked = [float(text) / 1000 for text in (headers.get("x-acs-retry-after", "").strip(),) if text.isdecimal()]
    for name in ("x-ratelimit-user-api", "x-ratelimit-user"):
        if left := _TIME_LEFT.search(headers.get(name, "")):
            asked.append(float(left[1]) / 1000)
    return max((each for each in asked if each > 0), default=None)


def inspect_for(action: Action, parameters: Mapping[str, str]) -> Inspect:
    """Classifies the answers to one call and its repetitions."""
    nonces = 0

    def inspect(status: int, answer: Any) -> NightloadError | None:
        nonlocal nonces
        if not isinstance(answer, dict):
            return BrokenAnswer(what="the answer has no envelope", status=status) if status == 200 else None
        code = str(answer.get("Code") or answer.get("code") or answer.get("ErrorCode") or "")
        told = answer.get("Message") or answer.get("message") or answer.get("ErrorMessage") or ""
        if status == 200 and not _is_no(answer, action):
            return None
        error = _refusal(action, parameters, status, code, str(told), str(answer.get("RequestId") or ""))
        if _NONCE.match(code):
            nonces += 1
            if nonces > 1:
                return Refused(
                    what="the vendor refused two fresh nonces", why=code, status=status, todo="Run again later"
                )
        return error

    return inspect


def _is_no(answer: Mapping[str, Any], action: Action) -> bool:
    """Is an answer under HTTP 200 a refusal?"""
    if "Success" in answer and answer["Success"] is not None:
        return str(answer["Success"]).lower() == "false"
    payload = action.rows[0] if action.rows else "Data"
    return bool(answer.get("Code")) and payload not in answer


def _refusal(
    action: Action, parameters: Mapping[str, str], status: int, code: str, message: str, request_id: str
) -> NightloadError:
    said = ": ".join(each for each in (code, message) if each) or "without a code or a text"
    facts: dict[str, Any] = {"status": status, "message": said}
    why = said[:300]
    if code.startswith("Throttling") or status == 429:
        if _DAY.search(f"{code} {message}"):
            return NotReady(
                what="the account's calls of today are used up",
                why=why,
                todo=f"Come back tomorrow; set sources.{VENDOR}.calls_per_day to the edition's limit to see it coming",
                **facts,
            )
        return Unavailable(what="the vendor throttles", why=why, **facts)
    if _CLOCK.match(code):
        refused = ClockRefused(what="the time of the signature was refused", why=code, **facts)
        refused.code = code
        return refused
    if _NONCE.match(code):
        return Unavailable(what="the vendor has seen this nonce", why=code, **facts)
    if _KEY.match(code):
        return AccessDenied(
            what="the vendor does not accept the key",
            why=why,
            todo=f"Check sources.{VENDOR}.access_key_id (and security_token, which ends after some hours)",
            **facts,
        )
    if _SIGNATURE.match(code):
        # its message repeats the string that was signed, the key's id in it
        return AccessDenied(
            what="the vendor does not accept the signature",
            why=code,
            todo=f"Check sources.{VENDOR}.access_key_secret: it does not belong to this access_key_id"
            " (or a proxy changes the request)",
            status=status,
            message=code,
        )
    asked = ", ".join(
        f"{name} {parameters[name]}" for name in ("ProjectId", "ProjectIdList", "ApiId") if name in parameters
    )
    place = f"{action.name}{f' of {asked}' if asked else ''}"
    told = f"{why}; request {request_id}" if request_id else why
    if status == 403 or code.startswith(("Forbidden", "NoPermission", "Unauthorized")):
        return Refused(
            what=f"the key may not call {place}",
            why=told,
            todo="Let the key's user into the workspace, and see that the account has the Enterprise edition; "
            f"or leave the workspace out (sources.{VENDOR}.workspaces)",
            **facts,
        )
    if status == 404 and code.startswith("InvalidApi"):
        return Refused(
            what=f"the vendor does not know {action.name}",
            why=told,
            todo=f"Check sources.{VENDOR}.region or base_url: not every region has DataService",
            **facts,
        )
    if status >= 500 or _FAULT.match(code):
        return Unavailable(what=f"the vendor failed over {place}", why=told, **facts)
    if status == 400 and code.startswith(("Missing", "Invalid")):
        return ConfigurationError(
            what=f"the vendor refuses the parameters of {place}",
            why=told,
            todo=f"Check workspaces, tenant_id and page_size under sources.{VENDOR}",
        )
    return Refused(
        what=f"the vendor refuses {place}",
        why=told,
        todo="This code is not known here: look it up in the vendor's error center, or ask its support with the "
        "request's id",
        **facts,
    )
