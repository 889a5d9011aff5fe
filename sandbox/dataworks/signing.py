"""Does a request carry a signature that the key's secret gives? V3 in headers, V1 in the query (section 4).

Written from the vendor's text and apart from the loader's own signer. V3 is verified over the headers that the request
itself names: the official SDK signs all that it sets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from sandbox.dataworks.envelope import Refusal

WINDOW = 15 * 60
AUTHORIZATION = re.compile(r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})")
V1_COMMON = (
    "Action", "Version", "AccessKeyId", "Timestamp", "SignatureNonce", "SignatureMethod", "SignatureVersion",
    "Signature",
)  # fmt: skip


@dataclass(frozen=True)
class Signed:
    """A request as it came; `headers` in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_v1(self) -> bool:
        return "Signature" in dict(self.parameters)

    @property
    def parameters(self) -> list[tuple[str, str]]:
        # As a form: the SDK writes a blank as + in the URL and signs it as %20.
        return parse_qsl(self.query, keep_blank_values=True)

    @property
    def form(self) -> list[tuple[str, str]]:
        if "form-urlencoded" not in self.headers.get("content-type", ""):
            return []
        return parse_qsl(self.body.decode(), keep_blank_values=True)

    @property
    def action(self) -> str:
        return dict(self.parameters).get("Action", "") if self.is_v1 else self.headers.get("x-acs-action", "")


@dataclass(frozen=True)
class Keys:
    access_key_id: str
    access_key_secret: str
    security_token: str = ""
    is_active: bool = True


def verify(request: Signed, keys: Keys, *, now: datetime, nonces: set[str]) -> None:
    """Raises the vendor's refusal; a nonce that was seen is one."""
    told = _v1(request, keys) if request.is_v1 else _v3(request, keys)
    try:
        date = datetime.strptime(told.date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise Refusal(
            400, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted."
        ) from None
    if abs((now - date).total_seconds()) > WINDOW:
        raise Refusal(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
    if told.token != keys.security_token:
        raise Refusal(
            400, "InvalidSecurityToken.MismatchWithAccessKey", "Specified SecurityToken mismatch with the AccessKey."
        )
    if told.nonce in nonces:
        raise Refusal(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
    nonces.add(told.nonce)


@dataclass(frozen=True)
class _Told:
    date: str
    nonce: str
    token: str


def _known(access_key_id: str, keys: Keys) -> None:
    if access_key_id != keys.access_key_id:
        raise Refusal(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
    if not keys.is_active:
        raise Refusal(400, "InvalidAccessKeyId.Inactive", "Specified access key is disabled.")


def _v3(request: Signed, keys: Keys) -> _Told:
    headers = request.headers
    found = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    if found is None:
        raise Refusal(400, "MissingAccessKeyId", "AccessKeyId is mandatory for this action.", unexpected="no signature")
    access_key_id, listed, signature = found.groups()
    _known(access_key_id, keys)
    names = listed.split(";")
    due = {name for name in headers if name.startswith("x-acs-")} | {"host"}
    due |= {"content-type"} if request.body else set()
    if names != sorted(set(names)) or due - set(names) or set(names) - set(headers):
        raise Refusal(400, "IncompleteSignature", "SignedHeaders do not conform.", unexpected="signed headers")
    payload = hashlib.sha256(request.body).hexdigest()
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    canonical = "\n".join([request.method, request.path, _joined(request.parameters), lines, listed, payload])
    text = "ACS3-HMAC-SHA256\n" + hashlib.sha256(canonical.encode()).hexdigest()
    due_signature = hmac.new(keys.access_key_secret.encode(), text.encode(), hashlib.sha256).hexdigest()
    if headers.get("x-acs-content-sha256") != payload or not hmac.compare_digest(due_signature, signature):
        raise _mismatch(canonical)
    return _Told(
        headers.get("x-acs-date", ""),
        headers.get("x-acs-signature-nonce", ""),
        headers.get("x-acs-security-token", ""),
    )


def _v1(request: Signed, keys: Keys) -> _Told:
    query = dict(request.parameters)
    for name in V1_COMMON:
        if not query.get(name):
            raise Refusal(400, f"Missing{name}", f"{name} is mandatory for this action.", unexpected=f"no {name}")
    _known(query["AccessKeyId"], keys)
    if query["SignatureMethod"] != "HMAC-SHA1" or query["SignatureVersion"] != "1.0":
        raise Refusal(400, "InvalidSignatureMethod", "Specified signature method is not valid.")
    every = [pair for pair in (*request.parameters, *request.form) if pair[0] != "Signature"]
    text = f"{request.method}&{_quoted('/')}&{_quoted(_joined(every))}"
    due = hmac.new(f"{keys.access_key_secret}&".encode(), text.encode(), hashlib.sha1).digest()
    if base64.b64encode(due).decode() != query["Signature"]:
        raise _mismatch(text)
    return _Told(query["Timestamp"], query["SignatureNonce"], query.get("SecurityToken", ""))


def _mismatch(text: str) -> Refusal:
    """The vendor repeats what it signed (section 3.1)."""
    why = "Specified signature does not match our calculation. server string to sign is:"
    return Refusal(400, "SignatureDoesNotMatch", f"{why}{text}")


def _joined(pairs: list[tuple[str, str]]) -> str:
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(pairs))


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
