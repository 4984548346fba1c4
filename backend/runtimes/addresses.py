"""Which servers a bundle may send prompts to, and the one address that a url is pinned to.

Urls come from bundles, and a bundle may come from a stranger: without a list it could make this app ask any machine that
the app can reach. Loopback is allowed; other hosts are what the operator lists. A name is resolved once, so that it cannot
lead elsewhere later, and only the usual spelling of an address counts: ``0x7f000001``, ``2130706433``, ``127.1`` and ``0``
all reach loopback through the resolver and through no list.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from backend.errors import PrerequisiteError

VARIABLE = "PROBE_PARITY_SERVERS"  # environment variable: host or host:port, separated by commas
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORTS = {"http": 80, "https": 443}
_PATH = re.compile(r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?$")
_NAME = re.compile(r"^(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")


@dataclass(frozen=True, slots=True)
class Address:
    """Where requests go: an address, and the name that the server is asked by."""

    base: str  # http://127.0.0.1:8000, an address and no name, perhaps with a path, without a trailing slash
    host: str  # for the Host header
    name: str  # for the certificate
    shown: str  # the url without credentials
    credentials: tuple[str, str] | None = None  # user and password


def resolve(runtime: str, url: str) -> Address:
    """Check a url and pin it to an address.

    Raises:
        PrerequisiteError: it is no plain http(s) url, its host is not allowed, or its name does not resolve.
    """
    parts = urlsplit(url)
    host, port = _host_and_port(runtime, url, parts)
    if not _is_allowed(host, port):
        raise PrerequisiteError(
            f"{runtime}: this server is not on the list",
            found=f"{host}:{port}",
            remedy=f"If you trust the bundle, list it in the environment variable {VARIABLE}.",
        )
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PrerequisiteError(
            f"{runtime}: its server's name does not resolve", found=host, remedy="Correct it."
        ) from error
    # localhost is ::1 first on many machines, and servers listen on 127.0.0.1
    pinned = str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])
    path = parts.path.rstrip("/")
    return Address(
        base=f"{parts.scheme}://{_bracketed(pinned)}:{port}{path}",
        host=f"{_bracketed(host)}:{port}",
        name=host,
        shown=f"{parts.scheme}://{_bracketed(host)}:{port}{path}",
        credentials=(parts.username, parts.password or "") if parts.username else None,
    )


def _host_and_port(runtime: str, url: str, parts: SplitResult) -> tuple[str, int]:
    remedy = "Write http://host:port, with a name or an address in its usual spelling."
    refused = PrerequisiteError(f"{runtime}: not a server address", found=ascii(url[:80])[1:-1], remedy=remedy)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise refused from error
    plain = url.isascii() and url.isprintable() and "\\" not in url and " " not in url
    bare = _PATH.match(parts.path) is not None and not parts.query and not parts.fragment and port != 0
    if not (plain and bare and host and parts.scheme in _PORTS):
        raise refused
    if not _is_address(host) and (_NAME.match(host) is None or host.split(".")[-1][0].isdigit()):
        raise refused  # a name whose last part begins with a digit is an address in another spelling
    return host, port or _PORTS[parts.scheme]


def _is_address(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # ::ffff:127.0.0.1 is loopback too
    return not (isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id))


def _is_allowed(host: str, port: int) -> bool:
    listed = [part.strip().lower() for part in os.environ.get(VARIABLE, "").split(",")]
    return host in _LOOPBACK or host in listed or f"{_bracketed(host)}:{port}" in listed


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
