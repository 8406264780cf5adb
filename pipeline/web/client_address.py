"""The client address behind trusted proxies, limits per client, and unnamed proxies."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from pipeline.settings import Settings
from pipeline.signup.abuse_limits import EVERYBODY, counters
from pipeline.storage import rate_limits

Address = IPv4Address | IPv6Address

MOST_HOPS: Final = 20  # of X-Forwarded-For that are parsed
MOST_CLIENTS: Final = 10_000  # with a counter of their own in a throttle
# CPU seconds a minute for previews and searches, for one visitor and for all together. A preview of
# 20 topics over 20,000 papers takes 0.4 s, a search 0.02 s.
CPU_OF_ONE: Final = 15.0
CPU_OF_ALL: Final = 40.0
# Headers added by proxies, never by browsers.
FORWARDING: Final = ("x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "via")

_IPV4_PORT = re.compile(r"(?:::ffff:)?([0-9.]+):[0-9]{0,5}", re.IGNORECASE)
_BRACKETED = re.compile(r"\[([^\]]*)\](?::[0-9]{0,5})?")
# RFC 7239, section 4: elements are separated by commas and consist of pairs; values may be quoted.
_FOR = re.compile(r'(?:^|[;,])\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,]*)', re.IGNORECASE)


def client_ip(request: HTTPConnection, proxies: Iterable[str]) -> str | None:
    """Return the address of the client; None on a socket without addresses.

    Any client can send X-Forwarded-For, so only hops added by one of `proxies` (addresses or
    networks) are trusted: the result is the last address that is not one of them.
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


def unnamed_proxy(request: HTTPConnection, proxies: Iterable[str]) -> str | None:
    """Return the peer's address if it sends forwarding headers and is not one of `proxies`.

    None for a direct connection and for a trusted proxy.
    """
    if not any(name in request.headers for name in FORWARDING):
        return None
    address = _parsed(request.client.host if request.client else "")
    if address is None or any(address in ip_network(proxy) for proxy in proxies):
        return None
    return str(address)


def _hops(request: HTTPConnection) -> list[str]:
    """Return the forwarded addresses as text, the nearest last, at most `MOST_HOPS`.

    X-Forwarded-For has precedence over Forwarded: most proxies set the former and pass on the
    latter as the client sent it.
    """
    lines = ",".join(request.headers.getlist("x-forwarded-for"))
    if not lines.strip():
        forwarded = ",".join(request.headers.getlist("forwarded"))
        hops = [found.group(1).strip('"') for found in _FOR.finditer(forwarded)]
    else:
        hops = lines.split(",")
    # RFC 9110, section 5.6.1: ignore empty list elements.
    return [hop.strip() for hop in hops if hop.strip()][-MOST_HOPS:]


def _parsed(text: str) -> Address | None:
    """Parse `203.0.113.5`, `203.0.113.5:443`, `2001:db8::1` or `[2001:db8::1]:443`.

    Return an IPv4-mapped IPv6 address as IPv4, and None if the text is not an address.
    """
    text = text.strip().strip('"')
    found = _BRACKETED.fullmatch(text) or _IPV4_PORT.fullmatch(text)
    try:
        parsed = ip_address((found.group(1) if found else text).partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None) or parsed


@dataclass(slots=True)
class VisitorLimit:
    """Rate limit for uses and their CPU time, per client and clock minute, in this process.

    For requests that cost time and change nothing; limits that protect people are counted in the
    database. A client is an IPv4 address or an IPv6 /64; the networks around it share larger
    limits. Thread-safe.
    """

    most: int
    seconds: float = float("inf")  # of CPU, for one client
    everybody: float = float("inf")  # of CPU, for all together
    _minute: int = 0
    _counts: dict[str, int] = field(default_factory=dict)
    _spent: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, client: str | None, seconds: float) -> bool:
        """Count one use and return True; return False if a limit is reached.

        `seconds` is the time of any monotonic clock.
        """
        with self._lock:
            self._turn(seconds)
            shares = list(self._shares(client))
            for name, factor in shares:
                if self._counts.get(name, 0) >= self.most * factor:
                    return False
                if self._spent.get(name, 0.0) >= self.seconds * factor:
                    return False
            if self._spent.get(EVERYBODY, 0.0) >= self.everybody:
                return False
            for name, _ in shares:
                self._counts[name] = self._counts.get(name, 0) + 1
            return True

    def charge(self, client: str | None, cpu: float, seconds: float) -> None:
        """Add the CPU time of a finished use; it limits further uses in the same minute."""
        with self._lock:
            self._turn(seconds)
            for name in (*(name for name, _ in self._shares(client)), EVERYBODY):
                self._spent[name] = self._spent.get(name, 0.0) + cpu

    def _turn(self, seconds: float) -> None:
        if self._minute != seconds // 60:
            self._minute, self._counts, self._spent = int(seconds // 60), {}, {}

    def _shares(self, client: str | None) -> Iterator[tuple[str, int]]:
        """Yield the counters of a client and the factor of each limit.

        When `MOST_CLIENTS` counters exist, all new clients share one, with 16 times the limit.
        """
        for name, factor in counters(client):
            is_known = name in self._counts or len(self._counts) < MOST_CLIENTS
            yield (name if is_known else "", factor if is_known else 16)


class CPUBudget:
    """Rate limit for the previews and searches of each visitor, by number and CPU time."""

    def __init__(self, settings: Settings) -> None:
        self._proxies = settings.trusted_proxies
        self._throttle = VisitorLimit(
            settings.previews_per_minute, seconds=CPU_OF_ONE, everybody=CPU_OF_ALL
        )

    def allows(self, request: HTTPConnection) -> bool:
        """Count one preview or search; return False if the visitor's limit is reached."""
        return self._throttle.takes(client_ip(request, self._proxies), time.monotonic())

    @contextmanager
    def charged(self, request: HTTPConnection) -> Iterator[None]:
        """Charge the CPU time of this block to the visitor, also when it raises."""
        started = time.thread_time()
        try:
            yield
        finally:
            cpu = time.thread_time() - started
            self._throttle.charge(client_ip(request, self._proxies), cpu, time.monotonic())

    @contextmanager
    def search(self, request: HTTPConnection) -> Iterator[None]:
        """Count and charge one search. Raise HTTPException 429 if the limit is reached."""
        if not self.allows(request):
            raise HTTPException(429, headers={"Retry-After": "60"})
        with self.charged(request):
            yield


log = structlog.get_logger(__name__)

NOTICE_EVERY: Final = 3_600.0  # seconds
# Any client can send a proxy's headers. A peer on a private network is treated as a proxy after
# `FEW` forwarded requests; a public one only if it sends at least `MANY`, and half of all requests.
FEW: Final = 3
MANY: Final = 20
SHARE: Final = 0.5
MOST_PEERS: Final = 1_000  # counted at a time
CARRIERS: Final = ip_network("100.64.0.0/10")  # RFC 6598; container networks use it as well


class ProxyWatch:
    """Count forwarded requests by peer; report a likely proxy at most once an hour.

    A report is a log event and a database row, which `paperboy doctor` reads.
    """

    def __init__(self, engine: Engine, proxies: tuple[str, ...]) -> None:
        self._engine = engine
        self._proxies = proxies
        self._all = 0
        self._peers: Counter[str] = Counter()
        self._since = self._quiet_until = float("-inf")
        self._storing: asyncio.Future[None] | None = None

    def see(self, request: HTTPConnection) -> None:
        """Count one request in the event loop; the row is written in a thread."""
        now = time.monotonic()
        if now - self._since > NOTICE_EVERY:
            self._since, self._all, self._peers = now, 0, Counter()
        self._all += 1
        peer = unnamed_proxy(request, self._proxies)
        if peer is None or (peer not in self._peers and len(self._peers) >= MOST_PEERS):
            return
        self._peers[peer] += 1
        if now >= self._quiet_until and is_proxy(peer, self._peers[peer], self._all):
            self._quiet_until = now + NOTICE_EVERY
            advice = "if it is your reverse proxy, name it: its visitors count as one"
            log.warning("proxy.untrusted", proxy=peer, advice=advice)
            loop = asyncio.get_running_loop()
            self._storing = loop.run_in_executor(None, self._store, peer)

    def _store(self, peer: str) -> None:
        try:
            with self._engine.begin() as conn:
                rate_limits.put_memo(conn, f"{rate_limits.PROXIES}{peer}", datetime.now(UTC))
        except SQLAlchemyError as error:
            log.warning("proxy.not_stored", error=type(error).__name__)


def is_proxy(peer: str, forwarded: int, requests: int) -> bool:
    """Return whether a peer that sent `forwarded` of all `requests` is most likely a proxy."""
    address = ip_address(peer)
    is_near = address.is_private or (address.version == 4 and address in CARRIERS)
    if is_near:
        return forwarded >= FEW
    return forwarded >= MANY and forwarded >= SHARE * requests
