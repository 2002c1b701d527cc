"""Fetches a picture from an address that a stranger wrote into a request: only from public machines, and only so much.

A name is resolved once, every address that it stands for must be public, and the connection goes to one of the
addresses that were checked: a name that changes its answer between check and use gains nothing. Each redirect is
checked in the same way. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from .errors import ApiError
from .limits import Limits

__all__ = ["fetch", "is_public"]

PORTS = {"http": 80, "https": 443}
"""Schemes, and the only port of each."""
STEP = 5.0
"""Seconds that one read or write may wait."""
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""Addresses that stand for the IPv4 address in their last bytes."""


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet: not private, loopback, link-local, multicast or reserved, and
    neither is an IPv4 address inside of it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def fetch(url: str, limits: Limits, param: str, deadline: float) -> bytes:
    """The bytes at an http(s) address.

    Raises:
        ApiError: the address is not public, does not answer with success in time, or has too many bytes (status 400).
    """
    for _ in range(limits.max_redirects + 1):
        parts = _checked(url, param)
        try:
            status, location, data = _get(parts, limits, param, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _failed(param, f"fetching it failed ({type(error).__name__})") from None
        if status == 200:
            return data
        if status not in REDIRECTS or not location:
            raise _failed(param, f"its server answered with status {status}")
        url = urljoin(url, location)
    raise _failed(param, f"it redirects more than {limits.max_redirects} times")


def _failed(param: str, why: str) -> ApiError:
    return ApiError(400, f"The picture's address was given up: {why}. Send the picture as a data URL.", param,
                    "url_failed")  # fmt: skip


def _checked(url: str, param: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme)
    except ValueError:
        raise _failed(param, "it is no valid address") from None
    if parts.scheme not in PORTS or not parts.hostname or port != PORTS[parts.scheme] or "@" in parts.netloc:
        raise _failed(param, "only http:// on port 80 and https:// on port 443 are fetched, without a user name")
    if any(ord(letter) < 33 or ord(letter) > 126 for letter in url):
        raise _failed(param, "it holds characters that must be percent-encoded")
    return parts


def _get(parts: SplitResult, limits: Limits, param: str, deadline: float) -> tuple[int, str | None, bytes]:
    """(status, Location, body) of one request, without following anything."""
    assert parts.hostname is not None
    connection = _connection(parts, _public_address(parts.hostname, PORTS[parts.scheme], param), deadline)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "lookaway"})
        response = connection.getresponse()
        if response.status != 200:
            return response.status, response.getheader("Location"), b""
        return 200, None, _body(response, limits, param, deadline)
    finally:
        connection.close()


def _public_address(host: str, port: int, param: str) -> str:
    """One of the addresses of a name, all of which are public."""
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(map(is_public, found)):
        raise _failed(param, "it does not stand for a machine of the public internet")
    return found[0]


def _connection(parts: SplitResult, address: str, deadline: float) -> http.client.HTTPConnection:
    """A connection for this host that goes to `address`."""
    host, port = parts.hostname or "", PORTS[parts.scheme]
    made: Any = http.client.HTTPConnection(host, port)
    plain = socket.create_connection((address, port), timeout=_wait(deadline))
    if parts.scheme == "https":
        try:
            made.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    else:
        made.sock = plain
    return made


def _wait(deadline: float) -> float:
    left = min(STEP, deadline - time.monotonic())
    if left <= 0:
        raise TimeoutError
    return left


def _body(response: http.client.HTTPResponse, limits: Limits, param: str, deadline: float) -> bytes:
    said = response.getheader("Content-Length")
    most = limits.max_picture_bytes
    found = bytearray()
    while said is None or not said.isdigit() or int(said) <= most:
        _wait(deadline)
        piece = response.read1(65536)
        if not piece:
            return bytes(found)
        found += piece
        if len(found) > most:
            break
    raise _failed(param, f"the picture has more than {most:,} bytes")
