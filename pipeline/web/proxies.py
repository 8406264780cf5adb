"""Detect a reverse proxy missing from TRUSTED_PROXIES: its visitors share one rate limit."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import HTTPConnection

from pipeline.storage import limits
from pipeline.web.clients import unnamed_proxy

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
            log.warning("proxy not in TRUSTED_PROXIES", proxy=peer, advice=advice)
            loop = asyncio.get_running_loop()
            self._storing = loop.run_in_executor(None, self._store, peer)

    def _store(self, peer: str) -> None:
        try:
            with self._engine.begin() as conn:
                limits.note(conn, f"{limits.PROXIES}{peer}", datetime.now(UTC))
        except SQLAlchemyError as error:
            log.warning("unnamed proxy not stored", error=type(error).__name__)


def is_proxy(peer: str, forwarded: int, requests: int) -> bool:
    """Return whether a peer that sent `forwarded` of all `requests` is most likely a proxy."""
    address = ip_address(peer)
    is_near = address.is_private or (address.version == 4 and address in CARRIERS)
    if is_near:
        return forwarded >= FEW
    return forwarded >= MANY and forwarded >= SHARE * requests
