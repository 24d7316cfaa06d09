"""Where a webhook may lead. Whoever may add a channel must not thereby reach what only this machine can reach.

A name is resolved once, every address that it has is checked, and the connection goes to a checked address: what the
name means a moment later is of no matter (DNS rebinding). ``allowed`` lists hosts and networks that are meant.
"""

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from alerts.notifiers.errors import NotDelivered

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Addresses that stand for others: what is inside counts.
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# "Global" by registry, and still not somebody's server: the relay of 6to4, and old site-local addresses.
NEVER = [ipaddress.ip_network(text) for text in ("192.88.99.0/24", "fec0::/10", "64:ff9b:1::/48")]
PORTS = {"http": 80, "https": 443}


class Forbidden(NotDelivered):
    """The target is not one that a webhook may have."""


def checked_url(url: str, *, allowed: Collection[str]) -> SplitResult:
    """The parts of a webhook's URL. Raises ``Forbidden`` for anything but HTTPS without credentials; plain HTTP only
    to hosts that are allowed."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Forbidden("This is no URL.") from error
    if any(ord(sign) <= 32 or ord(sign) >= 127 for sign in url):
        raise Forbidden("The URL holds spaces, control characters or letters beyond ASCII.")
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise Forbidden("The URL begins with https:// and a host.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise Forbidden("The URL holds no user, password or fragment.")
    if parts.scheme == "http" and not (parts.hostname in allowed or _literal(parts.hostname, allowed)):
        raise Forbidden("Plain http:// goes to hosts of ALERT_WEBHOOK_ALLOW alone; use https://.")
    return parts


def port_of(parts: SplitResult) -> int:
    """The port that the URL names, or its scheme's."""
    return parts.port or PORTS[parts.scheme]


def resolve(host: str, port: int, *, allowed: Collection[str]) -> list[Address]:
    """The host's addresses, each of them checked. Raises ``Forbidden``, and ``NotDelivered`` if it has none now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotDelivered(f"{host} does not resolve: {error}") from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if host not in allowed:
        for address in addresses:
            _check(address, allowed)
    return list(dict.fromkeys(addresses))


def _check(address: Address, allowed: Collection[str]) -> None:
    meant = _unwrapped(address)
    if any(candidate in network for candidate in (address, meant) for network in _networks(allowed)):
        return
    public = meant.is_global and not (meant.is_multicast or meant.is_reserved or meant.is_unspecified)
    if not public or any(meant in network for network in NEVER):
        raise Forbidden(f"{address} is not a public address (ALERT_WEBHOOK_ALLOW lists exceptions).")


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside of a mapped, translated or 6to4 one. Teredo's, like all of 2001::/23, are not public."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _literal(host: str, allowed: Collection[str]) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks(allowed))


def _networks(allowed: Collection[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks = []
    for entry in allowed:
        try:
            networks.append(ipaddress.ip_network(entry))
        except ValueError:
            continue  # A host's name.
    return networks
