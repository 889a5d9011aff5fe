"""A vendor's address: checked once, and told of without what it must not tell."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import httpx

from sources.core.errors import ConfigurationError
from sources.core.redaction import redact


def setting(vendor: str) -> str:
    return f"sources.{vendor}.base_url"


def checked_base_url(vendor: str, given: str) -> httpx.URL:
    text = given.strip()
    problem, example = "", "https://host/"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        shown = f"[{host}]" if ":" in host else host
        netloc = f"{shown}:{port}" if port else shown
        path = parts.path.rstrip("/")
        if not text:
            problem = "it is empty"
        elif parts.scheme not in {"http", "https"}:
            problem = "it does not begin with http:// or https://"
            example = "https://host/" if "@" in text or "://" in text else f"https://{text.split('?')[0].strip('/')}/"
        elif not host:
            problem = "it names no host"
        elif "@" in parts.netloc:
            problem, example = "it holds a user name or password", f"{parts.scheme}://{netloc}{path}/"
        elif "?" in text or "#" in text:
            problem, example = "it holds a query or a fragment", f"{parts.scheme}://{netloc}{path}/"
        elif any(char.isspace() or not char.isprintable() for char in text) or "\\" in text:
            problem = "it holds blanks or characters that no URL can carry"
        elif path.lower().split("/")[-1] == "api":
            # Every path that is asked for begins with api/ where the vendor has it.
            problem, example = "it ends in /api, which is added here", f"{parts.scheme}://{netloc}{path[:-4]}/"
        else:
            return httpx.URL(f"{parts.scheme}://{netloc}{path}/")
    except (ValueError, httpx.InvalidURL):
        problem = "it is not a URL"
    raise ConfigurationError(
        what=f"{setting(vendor)} cannot be used", where=vendor, why=problem, todo=f"Write it like {example}"
    ) from None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_port(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or {'http': 80, 'https': 443}.get(url.scheme, '')}"


def origin(url: httpx.URL) -> tuple[str, str]:
    return url.scheme, host_port(url)


def place(url: httpx.URL) -> str:
    """Scheme, host and path: what may be told of a URL."""
    host = host_port(url) if url.port else host_port(url).rpartition(":")[0]
    return redact(f"{url.scheme}://{host}{url.path}")
