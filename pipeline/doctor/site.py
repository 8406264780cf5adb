"""Check that the site is reachable under the address in the mails, and that the clocks agree."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from pipeline.doctor.finding import PATIENCE, Check, Finding, Installation, bad, good, unknown
from pipeline.doctor.services import SOON
from pipeline.smtp.connect import certificate_end
from pipeline.storage import rate_limits
from pipeline.storage.database import read_only, server_now

SKEW: Final = timedelta(seconds=30)


def site_tls(installation: Installation) -> Iterator[Finding]:
    parts = urlsplit(installation.settings.site_url)
    host, port = parts.hostname or "", parts.port or 443
    if parts.scheme != "https":
        if not (installation.settings.is_public or installation.settings.sends_real_mail):
            yield unknown("site tls", "SITE_URL is not https, which is sufficient for a trial")
        else:
            advice = "put a reverse proxy with a TLS certificate in front of the site"
            yield bad("site tls", "SITE_URL is not https", advice)
        return
    try:
        tls, ends_at = _handshake(host, port)
    except ssl.SSLError as error:
        detail = f"{host}: {error.reason or error}"
        yield bad("site tls", detail, "install a certificate for this name that browsers trust")
    except OSError as error:
        yield unknown("site tls", f"{host}:{port} is not reachable from this machine: {error}")
    else:
        ends = f"certificate valid until {ends_at:%Y-%m-%d}" if ends_at else "certificate valid"
        if ends_at and ends_at - installation.now < SOON:
            yield bad("site tls", f"{host}: {ends}", "renew it: after that date no link works")
        else:
            yield good("site tls", f"{host}: {tls}, {ends}")


def one_click(installation: Installation) -> Iterator[Finding]:
    """Check that one-click unsubscribing works: RFC 8058, a POST without cookies or redirect."""
    answer = installation.way_out
    if answer is None:
        yield unknown(
            "one-click", f"{installation.settings.site_url} is not reachable from this machine"
        )
        return
    if answer.status_code != 200:
        detail = f"a POST to /unsubscribe/... returns {answer.status_code}"
        advice = "allow POST requests to /unsubscribe/ without a login, other page or redirect"
        yield bad("one-click", detail, advice)
    else:
        yield good("one-click", "a POST to /unsubscribe/... returns 200")


def proxies(installation: Installation) -> Iterator[Finding]:
    """Check that TRUSTED_PROXIES names each proxy; else its visitors share one rate limit."""
    if installation.database_trouble:
        yield unknown("proxies", installation.database_trouble)
        return
    with read_only(installation.services.engine) as conn:
        seen = rate_limits.memo(conn, rate_limits.PROXIES)
    named = [ip_network(proxy) for proxy in installation.settings.trusted_proxies]
    unnamed = [one for one in seen if not any(ip_address(one) in network for network in named)]
    if unnamed:
        wanted = " ".join((*installation.settings.trusted_proxies, *unnamed))
        detail = (
            f"requests were forwarded by {', '.join(unnamed)}, which TRUSTED_PROXIES does not "
            "name: all visitors behind it share one rate limit"
        )
        yield bad("proxies", detail, f"if that is your reverse proxy: TRUSTED_PROXIES={wanted}")
    elif named:
        yield good("proxies", f"visitors are distinguished behind {', '.join(map(str, named))}")
    else:
        yield good("proxies", "no request was forwarded by a reverse proxy")


def clock(installation: Installation) -> Iterator[Finding]:
    """Compare our clock, which slots, links and signatures use, with the database and the site."""
    theirs = dict(_clocks(installation))
    if not theirs:
        yield unknown("clock", "no reference clock is available (database server, workers or site)")
        return
    wrong = {name: skew for name, skew in theirs.items() if abs(skew) > SKEW}
    if wrong:
        offsets = ", ".join(
            f"{abs(s).total_seconds():.0f} s off {name}" for name, s in wrong.items()
        )
        yield bad("clock", offsets, "synchronise the clocks with NTP (timedatectl set-ntp true)")
    else:
        yield good("clock", f"agrees with {' and '.join(theirs)}")


def _clocks(installation: Installation) -> Iterator[tuple[str, timedelta]]:
    engine = installation.services.engine
    if engine.dialect.name != "sqlite" and not installation.database_trouble:
        with read_only(engine) as conn:
            yield "the database", server_now(conn) - datetime.now(UTC)
    for worker in installation.workers or ():
        if not worker.is_beat:
            yield f"the worker {worker.name}", worker.skew
    date = installation.way_out.headers.get("Date") if installation.way_out is not None else None
    if date is None:
        return
    with suppress(ValueError):  # the header has no valid date
        yield "the site", parsedate_to_datetime(date) - datetime.now(UTC)


def _handshake(host: str, port: int) -> tuple[str | None, datetime | None]:
    context = ssl.create_default_context()
    with (
        socket.create_connection((host, port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=host) as sock,
    ):
        return sock.version(), certificate_end(sock)


CHECKS: tuple[Check, ...] = (site_tls, one_click, proxies, clock)
