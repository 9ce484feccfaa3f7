"""Which addresses may be dialled, so that a destination's name cannot lead the relay into the network it runs in.

Asked about the address a connection is really opened to, after name resolution: a name that resolves differently
the second time, a decimal or octal spelling or an IPv4 address wrapped in IPv6 changes nothing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

# Written out from the IANA special-purpose registries: `ipaddress.is_global` differs between Python patch releases.
_CLOSED_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_OPEN_V6: Final = IPv6Network("2000::/3")
_CLOSED_V6: Final = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_NOWHERE_V4: Final = tuple(IPv4Network(network) for network in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"))
_NAT64: Final = IPv6Network("64:ff9b::/96")


def may_dial(ip: str, *, allow_private: bool) -> bool:
    """Whether a connection to this address may be opened; text that is no address may not.

    With `allow_private` everything may but multicast, broadcast and the unspecified address, which name no host.
    """
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        return _may_dial_v6(address, allow_private=allow_private)
    return _may_dial_v4(address, allow_private=allow_private)


def _may_dial_v4(address: IPv4Address, *, allow_private: bool) -> bool:
    return not any(address in network for network in (_NOWHERE_V4 if allow_private else _CLOSED_V4))


def _may_dial_v6(address: IPv6Address, *, allow_private: bool) -> bool:
    carried = _carried_v4(address)
    if carried:
        return all(_may_dial_v4(inner, allow_private=allow_private) for inner in carried)
    if allow_private:
        return not (address.is_multicast or address.is_unspecified)
    return address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


def _carried_v4(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses an IPv6 one stands for: mapped, NAT64, 6to4 (the relay), Teredo (server and client)."""
    if address.ipv4_mapped:
        return (address.ipv4_mapped,)
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    if address.sixtofour:
        return (address.sixtofour,)
    return address.teredo or ()
