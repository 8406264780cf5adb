"""Who is asking: the address behind our proxies, and whether it asks too often."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.requests import HTTPConnection

Address = IPv4Address | IPv6Address

MOST_HOPS = 20  # of X-Forwarded-For that are looked at
MOST_CLIENTS = 10_000  # remembered by a throttle


def client_ip(request: HTTPConnection, proxies: Iterable[str]) -> str | None:
    """The address that a request comes from; None on a socket that has none.

    Anybody can write an X-Forwarded-For. Only what one of our `proxies` (addresses or networks)
    has added to it counts: the last address that is not a proxy of ours.
    """
    peer = request.client.host if request.client else None
    networks = [ip_network(proxy) for proxy in proxies]

    def is_ours(address: Address) -> bool:
        return any(address in network for network in networks)

    address = _parsed(peer or "")
    if address is None or not is_ours(address):
        return peer
    for hop in reversed(_hops(request)):
        further = _parsed(hop)
        if further is None:
            break
        address = further
        if not is_ours(address):
            break
    return str(address)


def _hops(request: HTTPConnection) -> list[str]:
    lines = ",".join(request.headers.getlist("x-forwarded-for"))
    return [hop.strip() for hop in lines.split(",")][-MOST_HOPS:]


def _parsed(address: str) -> Address | None:
    try:
        parsed = ip_address(address.partition("%")[0].strip("[]"))
    except ValueError:
        return None
    return (parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None) or parsed


@dataclass(slots=True)
class Throttle:
    """At most so many of something per client and minute, counted in this process.

    For what costs us time and changes nothing; what protects people is counted in the database.
    """

    most: int
    _minute: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, client: str | None, seconds: float) -> bool:
        """Whether `client` may have one more, at `seconds` of any steady clock."""
        name = client or ""
        with self._lock:
            if self._minute != seconds // 60 or len(self._counts) >= MOST_CLIENTS:
                self._minute, self._counts = int(seconds // 60), {}
            self._counts[name] = self._counts.get(name, 0) + 1
            return self._counts[name] <= self.most
