"""Download links are a vendor's words: they are looked at before anything is asked of the host that they name.

Whoever follows one uses an `Http` of its own that knows no key, and that connects to nothing but the addresses that
were looked at: a name may have another address a moment later.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from sources.core.errors import BrokenAnswer, ConfigurationError

_PORTS = {"http": 80, "https": 443}
HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[?[0-9A-Fa-f:]+\]?")
"""What `link_hosts` may hold: a name, `*.` before one, or an address."""


@dataclass(frozen=True, kw_only=True)
class Links:
    """Which links of one vendor are followed.

    To the very origin of `base_url`, which may be http; else https, to the host of `base_url`, to those of `named`
    (the configuration's) and of `usual` (the vendor's own and its storage's); a `*.` stands for any name before. Only
    the host of `base_url` and those that are `named` to the letter may have addresses that are not public.
    """

    vendor: str
    base_url: str
    usual: Sequence[str] = ()
    named: Sequence[str] = ()
    _turn: itertools.count[int] = field(default_factory=itertools.count, compare=False)

    def __post_init__(self) -> None:
        for host in self.named:
            if not HOST.fullmatch(str(host)):
                raise ConfigurationError(
                    what=f"sources.{self.vendor}.link_hosts holds {str(host)[:40]!r}, which is no host",
                    todo='Write "files.example.com" or "*.example.com", without https://',
                )

    def checked(self, link: str, *, where: str) -> SplitResult:
        """The link's parts. Raises `BrokenAnswer` for one that leads where it should not."""
        own = urlsplit(self.base_url.strip())
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
        if not self._may_be_private(host) and (address := _not_public([host])):
            raise bad_link(f"{host} is {address}, an address that is not public", where)
        if not self._may_be_private(host) and not any(fnmatchcase(host, each) for each in self._known()):
            raise bad_link(
                f"{host} is not among the hosts that files come from here",
                where,
                todo=f'If it is right, write link_hosts = ["{host}"] under sources.{self.vendor}; else ask the vendor',
            )
        return parts

    def connect(self, request: httpx.Request, *, where: str) -> None:
        """Look the host up and bind the request to one of its addresses, all of which must be allowed.

        Raises `BrokenAnswer` if they are not, and httpx's `ConnectError` for a name that nobody knows. Through a
        company's proxy it is the proxy that looks hosts up: there the names alone decide.
        """
        host, scheme = request.url.host, request.url.scheme
        self.checked(str(request.url), where=where)
        proxies = getproxies()
        if (proxies.get(scheme) or proxies.get("all")) and not proxy_bypass(host) and not _is_address(host):
            return
        addresses = _addresses(host, request.url.port or _PORTS[scheme])
        if not self._may_be_private(host) and (address := _not_public(addresses)):
            raise bad_link(f"{host} is {address}, an address that is not public", where)
        # another one each time: of several, one may not answer
        request.url = request.url.copy_with(host=addresses[next(self._turn) % len(addresses)])
        if not _is_address(host):
            request.extensions = {**request.extensions, "sni_hostname": host}

    def _known(self) -> list[str]:
        return [each.lower() for each in (*self.usual, *self.named)]

    def _may_be_private(self, host: str) -> bool:
        return host in (urlsplit(self.base_url.strip()).hostname, *(each.lower().strip("[]") for each in self.named))


def bad_link(why: str, where: str, *, todo: str = "Run again; if it stays, ask the vendor") -> BrokenAnswer:
    return BrokenAnswer(what="the export's link is not followed", where=where, why=why, todo=todo)


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError("its name is not known") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _not_public(hosts: Sequence[str]) -> str:
    """The first of these that is an address which is not public, or ""."""
    for host in hosts:
        try:
            ip = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            continue
        if not _is_public(ip):
            return host
    return ""


_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's host, which answers virtual machines alone
            "192.0.0.0/24",  # IETF protocol assignments; Oracle's metadata is at .192
            "::/96",  # IPv4-compatible, deprecated: may lead to the IPv4 address in it
            "::ffff:0:0:0/96",  # IPv4-translated, likewise
            "fec0::/10",  # site-local, deprecated
            "64:ff9b:1::/48",  # translation within one network
            "2001::/32",  # Teredo
        ),
    )
)
"""What Python takes for global, or in some versions does."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if ip.is_multicast or any(ip in network for network in _NOT_PUBLIC):
        return False
    if ip.version == 4:
        return ip.is_global
    low = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner := ip.ipv4_mapped or ip.sixtofour or (low if ip in _NAT64 else None):
        return _is_public(inner)
    is_tunnel = int(ip) >> 32 & 0xFFFFFFFF in _ISATAP
    return ip.is_global and (not is_tunnel or _is_public(low))
