"""Abuse limits of the public forms: mail to unconfirmed addresses, and new topics of a reader.

A form that mails any address can be abused to flood it. So there is a rate limit per inbox, which
is silent, and one per requesting network, which raises LimitError. The limit per inbox never locks
its owner out: if another mail is refused, the link in an earlier one is still valid. See
docs/decisions/signup-owners-get-in.md.
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
from pipeline.storage import addresses, rate_limits, transactional

EVERYBODY: Final = "everywhere"  # name of the counter shared by all clients
COUNTERS: Final = "ask:"  # prefix of the names of these limits
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

LINK_LIFE: Final = timedelta(hours=72)  # of the link in a confirmation mail
INBOX_REST: Final = DAY  # between two mails to one inbox
SPAN: Final = timedelta(days=30)  # window in which unanswered mails are counted
# After this many unanswered mails the interval is LINK_LIFE: the previous link has then expired.
MOST_OF_ONE: Final = 3  # requested from one network
MOST_OF_ALL: Final = 13
MOST_SUPPRESSED: Final = 3  # to a suppressed address, one per network
NEW_TOPICS: Final = 100  # per reader and day
GMAIL: Final = frozenset({"gmail.com", "googlemail.com"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Rate limits of form requests: settings, see `.env.example`."""

    per_hour: int = 50  # from one IPv4 address or IPv6 /64; larger networks have multiples
    per_day: int = 100
    everybody: int = 1_000  # per hour, all clients together


@dataclass(frozen=True, slots=True)
class LimitKeys:
    """Keyed hashes of an address, its inbox and the requesting network; the keys of the limits."""

    hash: str  # as in `suppressions`
    inbox: str  # equal for addresses that lead to one inbox
    requester: str = ""


def limit_keys(address: str, ip: str | None, key: str) -> LimitKeys:
    """Return the hashes of an address and of the network of `ip`.

    A network's hash differs per inbox, so that requests cannot be linked across inboxes.
    """
    inbox = addresses.address_hash(inbox_of(address), key)
    source_hash = hmac.new(key.encode(), f"{inbox} {network(ip)}".encode(), sha256).hexdigest()
    return LimitKeys(addresses.address_hash(address, key), inbox, source_hash[:16])


def inbox_of(address: str) -> str:
    """Return the address without a +tag, and for Gmail without dots; used for limits only."""
    local, _, domain = address.casefold().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in GMAIL:
        local, domain = local.replace(".", "") or local, "gmail.com"
    return f"{local}@{domain}"


def count_request(
    conn: Connection, ip: str | None, now: datetime, allowed: Limits | None = None
) -> None:
    """Count one form request from `ip`; raise LimitError if a rate limit is exceeded.

    The error is independent of the address in the request. It rolls the caller's transaction back,
    so that refused requests are not counted. Rows are locked in one order, from the narrowest
    network to the shared counter, so that transactions do not deadlock.
    """
    allowed = allowed or Limits()
    counted = [
        (name, window, most * factor)
        for name, factor in counters(ip)
        for window, most in ((HOUR, allowed.per_hour), (DAY, allowed.per_day))
        if name
    ]
    for name, window, most in (*counted, (EVERYBODY, HOUR, allowed.everybody)):
        key = f"{COUNTERS}{name}:{window // HOUR}h"
        if not rate_limits.count(conn, key, most=most, window=window, now=now):
            retry_at = rate_limits.window_start(now, window) + window
            raise LimitError("too many requests from here; try again later", retry_at=retry_at)


def count_new_topics(conn: Connection, subscriber_id: int, added: int, now: datetime) -> None:
    """Count newly followed topics of a reader; raise LimitError if there are over 100 a day.

    The limit bounds the load: each is matched with a month of papers and its matches are stored.
    """
    name = f"{COUNTERS}topics-{subscriber_id}:24h"
    if added and not rate_limits.count(
        conn, name, most=NEW_TOPICS, window=DAY, now=now, uses=added
    ):
        retry_at = rate_limits.window_start(now, DAY) + DAY
        raise LimitError("too many new topics today; try again tomorrow", retry_at=retry_at)


def may_send_mail(
    conn: Connection,
    to: LimitKeys,
    now: datetime,
    suppressed: SuppressionReason | None = None,
) -> bool:
    """Return whether the limits allow another confirmation mail to this inbox.

    The limit is one a day. When one network has requested 3 unanswered mails in 30 days, or all
    networks together 13, it is one in 72 hours: the life of a link, so that the owner has either a
    valid link or gets a new mail. That is at most 12 and 18 mails in any 30 days. A suppressed
    address gets one mail a month per network (at most 3), in case it accepts mail again; none if
    the reason is a complaint. An erased address is treated like any other.
    """
    sent = transactional.pending_confirmations(
        conn, to.inbox, since=now - SPAN, requester=to.requester
    )
    has_rested = sent.last_at is None or sent.last_at <= now - INBOX_REST
    if suppressed and suppressed is not SuppressionReason.ERASED:
        is_new = sent.by_requester == 0 and sent.count < MOST_SUPPRESSED
        return suppressed is not SuppressionReason.COMPLAINT and is_new and has_rested
    if sent.by_requester >= MOST_OF_ONE or sent.count >= MOST_OF_ALL:
        return sent.last_at is None or sent.last_at <= now - LINK_LIFE
    return has_rested


def counters(ip: str | None) -> list[tuple[str, int]]:
    """Return the names of the counters for `ip`, each with its multiple of one client's limit.

    A customer has a whole IPv6 /64, often a /56 or /48, so the limits also apply to these blocks:
    otherwise a client could evade them with another address from its block.
    """
    address = _parsed(ip)
    if address is None:
        return [(ip or "", 1)]
    if address.version == 4:
        return [(str(address), 1), (_block(address, 24), 4)]
    return [(_block(address, 64), 1), (_block(address, 56), 2), (_block(address, 48), 4)]


def host(ip: str | None) -> str:
    """Return the smallest block of one customer: an IPv4 address, or the /64 of an IPv6 address."""
    return counters(ip)[0][0]


def network(ip: str | None) -> str:
    """Return the IPv4 /24 or IPv6 /48 of `ip`; "" if it is no IP address."""
    return counters(ip)[-1][0] if _parsed(ip) else ""


def _parsed(ip: str | None) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address((ip or "").partition("%")[0])
    except ValueError:  # a name, as from a proxy on a Unix socket
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _block(address: IPv4Address | IPv6Address, bits: int) -> str:
    return str(ip_network((address, bits), strict=False))
