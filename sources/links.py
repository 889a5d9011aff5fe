"""Download links are a vendor's words: they are looked at before anything is asked of the host that they name.

Whoever follows one uses an `Http` of its own that knows no key.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from sources.errors import BrokenAnswer

_PORTS = {"http": 80, "https": 443}


def checked_link(link: str, *, base_url: str, hosts: Sequence[str] = (), where: str) -> SplitResult:
    """The link's parts. Raises `BrokenAnswer` for one that leads where it should not.

    Followed are https links to public addresses, to the host of `base_url` and to those of `hosts`, whatever their
    addresses; and links to the very origin of `base_url`, which may be http.
    """
    own = urlsplit(base_url.strip())
    try:
        parts = urlsplit(link)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        raise bad_link("it is no link", where) from None
    if not host or parts.username is not None or parts.password is not None or parts.fragment:
        raise bad_link("it names no host, or holds a user or a fragment", where)
    if not link.isascii() or not link.isprintable() or " " in link:
        raise bad_link("it holds what no link can carry", where)
    if (parts.scheme, host, port) == (own.scheme, own.hostname, own.port or _PORTS.get(own.scheme)):
        return parts
    if parts.scheme != "https":
        raise bad_link(f"it is {parts.scheme or 'no scheme'}, and only https is followed", where)
    if host not in (own.hostname, *(each.lower() for each in hosts)) and (address := _private(host)):
        raise bad_link(f"{host} is {address}, an address that is not public", where)
    return parts


def bad_link(why: str, where: str) -> BrokenAnswer:
    return BrokenAnswer(
        what="the export's link is not followed", where=where, why=why, todo="Run again; if it stays, ask the vendor"
    )


def _private(host: str) -> str:
    """The first address of a host that is not public, or "". One that nobody knows is for the request to report."""
    try:
        found = {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return ""
    for address in sorted(found):
        ip = ipaddress.ip_address(address)
        mapped = getattr(ip, "ipv4_mapped", None)
        if not (mapped or ip).is_global or ip.is_multicast:
            return address
    return ""
