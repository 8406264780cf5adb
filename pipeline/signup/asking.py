"""Limit the mail that a form may cause to addresses nobody has proved to be theirs.

A form that writes to any address can be turned against its owner. So there is a limit for each
inbox, which is silent, and one for each network that asks, which is answered in words. The limit
of an inbox never shuts its owner out: whenever another mail is refused, the link in an earlier one
still works. See docs/decisions/signup-owners-get-in.md.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from sqlalchemy import Connection

from pipeline.domain import SuppressionReason
from pipeline.errors import LimitError
from pipeline.storage import confirmations, limits, subscribers

EVERYBODY: Final = "everywhere"  # the name of a counter that all share
COUNTERS: Final = "ask:"  # what the names of these limits begin with
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

LINK_LIFE: Final = timedelta(hours=72)  # of the link in a mail that asks
INBOX_REST: Final = DAY  # between two mails to one inbox
SPAN: Final = timedelta(days=30)  # in which unanswered mails count
# From so many unanswered mails on, the rest is as long as a link lives: the one before has ended.
MOST_OF_ONE: Final = 3  # that one network caused
MOST_OF_ALL: Final = 13
MOST_SUPPRESSED: Final = 3  # to an inbox that bounced, one for each network
NEW_TOPICS: Final = 100  # that one reader begins to follow in a day
GMAIL: Final = frozenset({"gmail.com", "googlemail.com"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How many mails a form may cause: settings, see `.env.example`."""

    per_hour: int = 50  # from one IPv4 address or IPv6 /64; larger networks have multiples
    per_day: int = 100
    everybody: int = 1_000  # per hour, from everywhere


@dataclass(frozen=True, slots=True)
class Recipient:
    """An address as limits know it, and the network that asks for mail to it, as keyed hashes."""

    hash: str  # as in `suppressions`
    inbox: str  # equal for addresses that lead to one inbox
    requester: str = ""


def recipient(address: str, ip: str | None, key: str) -> Recipient:
    """Return the hashes of an address and of the network of `ip`.

    The same network has another hash for each inbox, so nobody can be followed by it.
    """
    inbox = subscribers.address_hash(inbox_of(address), key)
    asked_from = hmac.new(key.encode(), f"{inbox} {network(ip)}".encode(), sha256).hexdigest()
    return Recipient(subscribers.address_hash(address, key), inbox, asked_from[:16])


def inbox_of(address: str) -> str:
    """Return the address without a +tag, and for Gmail without dots. For limits only."""
    local, _, domain = address.casefold().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in GMAIL:
        local, domain = local.replace(".", "") or local, "gmail.com"
    return f"{local}@{domain}"


def count(conn: Connection, ip: str | None, now: datetime, allowed: Limits | None = None) -> None:
    """Count one question from `ip`. Raises LimitError, the same for any address asked about.

    The caller's transaction then ends without a trace: a refused question counts nowhere. Rows are
    taken in one order, from the narrowest to the one that all share, so nobody waits in a circle.
    """
    allowed = allowed or Limits()
    counted = [
        (name, window, most * factor)
        for name, factor in scopes(ip)
        for window, most in ((HOUR, allowed.per_hour), (DAY, allowed.per_day))
        if name
    ]
    for name, window, most in (*counted, (EVERYBODY, HOUR, allowed.everybody)):
        key = f"{COUNTERS}{name}:{window // HOUR}h"
        if not limits.count(conn, key, most=most, window=window, now=now):
            retry_at = limits.window_start(now, window) + window
            raise LimitError("too many requests from here; try again later", retry_at=retry_at)


def count_new_topics(conn: Connection, subscriber_id: int, added: int, now: datetime) -> None:
    """Count topics that a reader begins to follow. Raises LimitError beyond 100 a day.

    Each is matched to a month of papers, and its matches are stored.
    """
    name = f"{COUNTERS}topics-{subscriber_id}:24h"
    if added and not limits.count(conn, name, most=NEW_TOPICS, window=DAY, now=now, uses=added):
        retry_at = limits.window_start(now, DAY) + DAY
        raise LimitError("too many new topics today; try again tomorrow", retry_at=retry_at)


def may_mail(
    conn: Connection,
    to: Recipient,
    now: datetime,
    suppressed: SuppressionReason | None = None,
) -> bool:
    """Return whether another unasked-for mail to this inbox is bearable for its owner.

    At most one a day. Once a network has caused 3 without an answer in 30 days, or all together
    13, one in 72 hours: as long as a link lives, so that the owner has either a link that works or
    a new mail. That makes at most 12 and 18 mails in any 30 days. An address that is suppressed is
    asked once a month for each network, in case it works again; one whose owner complained never;
    an erased one like any other.
    """
    sent = confirmations.unanswered(conn, to.inbox, since=now - SPAN, requester=to.requester)
    has_rested = sent.last_at is None or sent.last_at <= now - INBOX_REST
    if suppressed and suppressed is not SuppressionReason.ERASED:
        is_new = sent.by_requester == 0 and sent.count < MOST_SUPPRESSED
        return suppressed is not SuppressionReason.COMPLAINT and is_new and has_rested
    if sent.by_requester >= MOST_OF_ONE or sent.count >= MOST_OF_ALL:
        return sent.last_at is None or sent.last_at <= now - LINK_LIFE
    return has_rested


def scopes(ip: str | None) -> list[tuple[str, int]]:
    """Return the names that `ip` is counted under, each with its multiple of one client's limit.

    A customer has a whole IPv6 /64, often a /56 or /48, so rotating inside one must not help.
    """
    address = _parsed(ip)
    if address is None:
        return [(ip or "", 1)]
    if address.version == 4:
        return [(str(address), 1), (_block(address, 24), 4)]
    return [(_block(address, 64), 1), (_block(address, 56), 2), (_block(address, 48), 4)]


def host(ip: str | None) -> str:
    """Return one customer: an IPv4 address, or the /64 around an IPv6 address."""
    return scopes(ip)[0][0]


def network(ip: str | None) -> str:
    """Return the IPv4 /24 or IPv6 /48 around `ip`; "" where it is no address."""
    return scopes(ip)[-1][0] if _parsed(ip) else ""


def _parsed(ip: str | None) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address((ip or "").partition("%")[0])
    except ValueError:  # a name, such as a proxy on a socket gives
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _block(address: IPv4Address | IPv6Address, bits: int) -> str:
    return str(ip_network((address, bits), strict=False))
