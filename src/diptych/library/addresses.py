"""Which hosts and addresses may be asked for something on a user's behalf. Pure but for the look-up of names."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class AllowList:
    """`names`: hosts, `*.example.org` for all below one, `*` for all. `networks`: private addresses that are allowed
    none the less."""

    names: frozenset[str]
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, entries: Iterable[str]) -> AllowList:
        """From the setting `fetch_hosts`: what reads as an address or a network is one, the others are names."""
        names, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip(), strict=False))
            except ValueError:
                names.add(entry.strip().lower().rstrip("."))
        return cls(frozenset(names), tuple(networks))

    def names_host(self, host: str) -> bool:
        """Whether `host` may be asked at all; an address literal also when it is in one of the networks."""
        host = host.lower().rstrip(".")
        if host in self.names or "*" in self.names:
            return True
        if any(name.startswith("*.") and host.endswith(name[1:]) and len(host) >= len(name) for name in self.names):
            return True
        literal = as_address(host)
        return literal is not None and self._listed(literal)

    def permits(self, address: Address) -> bool:
        """Whether a connection to `address` may be made: it is public, or in one of the networks."""
        return is_public(address) or self._listed(address)

    def _listed(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


def as_address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether it is an address of the public internet, also by the IPv4 address that is packed into an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        packed = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            packed = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if packed is not None:
            return is_public(packed)
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a name, in the system's order. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found))
