"""Who may have mail sent to an address that they have not proved to be theirs.

A form that writes to any address can be turned against its owner. So there is a limit for each
address, which nobody is told about, and one for each place that asks, which is said aloud.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from sqlalchemy import Connection

from pipeline.domain import SuppressionReason
from pipeline.errors import LimitError
from pipeline.storage import confirmations, limits

COUNTERS: Final = "ask:"  # what the names of these limits begin with
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

PER_ADDRESS_REST: Final = DAY
UNANSWERED_MOST: Final = 3
UNANSWERED_SPAN: Final = timedelta(days=30)

FROM_ONE_IP: Final = ((HOUR, 5), (DAY, 20))
FROM_ONE_NETWORK: Final = ((DAY, 60),)
FROM_EVERYWHERE: Final = ((HOUR, 2_000),)


def count(conn: Connection, ip: str | None, now: datetime) -> None:
    """Count one question from `ip`. Raises LimitError, the same for any address asked about.

    The caller's transaction then ends without a trace: a refused question counts nowhere. Rows are
    taken in one order, from the narrowest to the one that all share, so nobody waits in a circle.
    """
    for name, limit in (
        (_host(ip), FROM_ONE_IP),
        (_network(ip), FROM_ONE_NETWORK),
        ("everywhere", FROM_EVERYWHERE),
    ):
        for window, most in limit:
            key = f"{COUNTERS}{name}:{window // HOUR}h"
            if name and not limits.count(conn, key, most=most, window=window, now=now):
                retry_at = limits.window_start(now, window) + window
                raise LimitError("too many requests from here; try again later", retry_at=retry_at)


def may_mail(
    conn: Connection,
    address_hash: str,
    now: datetime,
    suppressed: SuppressionReason | None = None,
) -> bool:
    """Whether another unasked-for mail to this address would be bearable for its owner.

    An address that is suppressed is asked at most once in a month, in case it works again; one
    whose owner complained never. An erased one is asked like any other.
    """
    unanswered = confirmations.unanswered(conn, address_hash, since=now - UNANSWERED_SPAN)
    if suppressed and suppressed is not SuppressionReason.ERASED:
        return suppressed is not SuppressionReason.COMPLAINT and unanswered.count == 0
    if unanswered.count >= UNANSWERED_MOST:
        return False
    return unanswered.last_at is None or unanswered.last_at <= now - PER_ADDRESS_REST


def _host(ip: str | None) -> str:
    """One customer: an IPv4 address, or the /64 that an IPv6 customer has all of."""
    address = _parsed(ip)
    if address is None:
        return ip or ""
    return str(address) if address.version == 4 else _block(address, 64)


def _network(ip: str | None) -> str:
    address = _parsed(ip)
    if address is None:
        return ""
    return _block(address, 24 if address.version == 4 else 48)


def _parsed(ip: str | None) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address((ip or "").partition("%")[0])
    except ValueError:  # a name, such as a proxy on a socket gives
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _block(address: IPv4Address | IPv6Address, bits: int) -> str:
    return str(ip_network((address, bits), strict=False))
