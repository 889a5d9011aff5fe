"""How a request is signed: V3 (ACS3-HMAC-SHA256, in headers) and V1 (RPC HMAC-SHA1, in the query).

Both sign a nonce and a date that serve one try only, so `Http` calls the signer for every try. The key is part of the
signature and never of the request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlencode

import httpx

ALGORITHM = "ACS3-HMAC-SHA256"
SIGNED = ("accept", "content-type", "host")
"""Beside all x-acs headers. Proxies change `user-agent`, so it is not signed; the vendor does not ask for it."""

_COMMON = frozenset(
    {
        "Action", "Version", "Format", "AccessKeyId", "Timestamp", "SignatureNonce", "SignatureMethod",
        "SignatureVersion", "SecurityToken", "Signature",
    }
)  # fmt: skip


class Signer:
    """Signs httpx requests in place. `now` and `nonce` are for tests."""

    def __init__(
        self,
        *,
        access_key_id: str,
        access_key_secret: str,
        security_token: str = "",
        form: str = "v3",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._id, self._secret, self._token = access_key_id, access_key_secret, security_token
        self._sign = {"v3": self._v3, "v1": self._v1}[form]
        self._now, self._nonce = now, nonce

    def __call__(self, request: httpx.Request) -> None:
        self._sign(request)

    def _v3(self, request: httpx.Request) -> None:
        headers = request.headers
        payload_hash = hashlib.sha256(request.content).hexdigest()
        headers["x-acs-date"] = self._time()
        headers["x-acs-signature-nonce"] = self._nonce()
        headers["x-acs-content-sha256"] = payload_hash
        if self._token:
            headers["x-acs-security-token"], headers["x-acs-accesskey-id"] = self._token, self._id
        signed = {name: value for name, value in headers.items() if name in SIGNED or name.startswith("x-acs-")}
        signature = v3_signature(
            method=request.method,
            query=_pairs(request.url.query),
            headers=signed,
            payload_hash=payload_hash,
            secret=self._secret,
        )
        headers["Authorization"] = (
            f"{ALGORITHM} Credential={self._id},SignedHeaders={';'.join(sorted(signed))},Signature={signature}"
        )

    def _v1(self, request: httpx.Request) -> None:
        query = {
            "Action": request.headers["x-acs-action"],
            "Format": "json",  # without it some products answer XML
            "Version": request.headers["x-acs-version"],
            "Timestamp": self._time(),
            "SignatureNonce": self._nonce(),
            # a request that follows a redirect carries the signature of the one before
            **{name: value for name, value in _pairs(request.url.query) if name not in _COMMON},
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "AccessKeyId": self._id,
            **({"SecurityToken": self._token} if self._token else {}),
        }
        signature = v1_signature(
            method=request.method, parameters=[*query.items(), *_pairs(request.content)], secret=self._secret
        )
        request.url = request.url.copy_with(query=urlencode({**query, "Signature": signature}).encode())

    def _time(self) -> str:
        return f"{self._now().astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def v3_signature(
    *,
    method: str,
    query: Iterable[tuple[str, str]],
    headers: Mapping[str, str],
    payload_hash: str,
    secret: str,
) -> str:
    """The signature over these headers (names in lower case), which are all that get signed."""
    names = sorted(headers)
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    canonical = "\n".join((method, "/", _canonical(query), lines, ";".join(names), payload_hash))
    text = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def v1_signature(*, method: str, parameters: Iterable[tuple[str, str]], secret: str) -> str:
    """The signature over query and form together."""
    text = f"{method}&%2F&{_quote(_canonical(parameters))}"
    return base64.b64encode(hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()).decode()


def _pairs(encoded: bytes) -> list[tuple[str, str]]:
    """The parameters of a query or a form, decoded: the vendor signs them in its own spelling, not in ours."""
    return parse_qsl(encoded.decode("ascii"), keep_blank_values=True)


def _canonical(parameters: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{_quote(name)}={_quote(value)}" for name, value in sorted(parameters))


def _quote(text: str) -> str:
    return quote(text, safe="-_.~")
