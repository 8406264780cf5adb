"""Check that Redis and the mail server are reachable and configured correctly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.broker import QUEUES
from pipeline.doctor.finding import PATIENCE, Check, Finding, Installation, bad, good, unknown
from pipeline.storage import guard, send_controls, stats
from pipeline.storage.database import read_only

SOON: Final = timedelta(days=14)  # a certificate that expires within it should have been renewed
WANTED: Final = {"pipelining": "PIPELINING", "8bitmime": "8BITMIME", "size": "SIZE"}
LARGEST_MAIL: Final = 90_000  # octets; see docs/mail.md


def redis(installation: Installation) -> Iterator[Finding]:
    url = installation.settings.redis_url
    try:
        where = f"{urlsplit(url).hostname}:{urlsplit(url).port or 6379}"
        reported = _redis_settings(url)
    except ValueError:
        yield bad(
            "redis", "REDIS_URL is not a valid URL", "use a URL such as redis://127.0.0.1:6379/0"
        )
        return
    except RedisError:
        advice = "start Redis, or correct REDIS_URL; `paperboy up` starts its own server"
        yield bad("redis", f"no usable Redis server at {where}", advice)
        yield unknown("redis eviction", "Redis is not available")
        return
    yield good("redis", f"connected to {where}, version {reported.get('redis_version', 'unknown')}")
    policy = reported.get("maxmemory_policy")
    if policy == "noeviction":
        yield good("redis eviction", "no keys are evicted")
    elif policy is None:
        yield unknown("redis eviction", "the server does not report its maxmemory-policy")
    else:
        detail = f"maxmemory-policy is {policy}: when memory is full, tasks are lost silently"
        yield bad("redis eviction", detail, "set maxmemory-policy noeviction")


def _redis_settings(url: str) -> dict[str, Any]:
    client = Redis.from_url(
        url,
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    try:
        return dict(client.info())
    finally:
        client.close()


def running(installation: Installation) -> Iterator[Finding]:
    """Check that a worker reads each queue, and that one beat wakes them."""
    found = installation.workers
    if found is None:
        yield unknown("workers", "Redis is not available")
        return
    beats = sum(one.is_beat for one in found)
    unread = [queue for queue in QUEUES if not any(queue in one.queues for one in found)]
    if not found and not installation.settings.sends_real_mail:
        yield unknown("workers", "none is running")
        return
    if unread:
        advice = f"start: celery -A pipeline.tasks worker --queues {','.join(unread)}"
        yield bad("workers", f"no worker that answers reads: {', '.join(unread)}", advice)
    else:
        yield good("workers", f"{len(found) - beats} running")
    if not beats:
        advice = "start: celery -A pipeline.tasks beat"
        yield bad("beat", "none answers: nothing wakes the workers", advice)
    else:
        more = "one is sufficient" if beats > 1 else ""
        yield good("beat", f"{beats} running", more)


def smtp(installation: Installation) -> Iterator[Finding]:
    """Check that connection, TLS and login to the mail server work."""
    found, server = installation.mail_server, installation.settings.smtp
    if isinstance(found, str):
        advice = "start the mail server, or correct SMTP_URL"
        if "TLS" in found:
            advice = "correct the certificate, or set its certificate authority in SMTP_CA_FILE"
        elif server.username and " 53" in found:
            advice = "correct user and password in SMTP_URL"
        elif server.is_loopback:
            advice += "; `paperboy up` has a built-in mailbox"
        yield bad("smtp", found, advice)
        return
    is_token = server.username == server.password  # of Postmark: a secret
    login = (
        f"accepts the login of {'its token' if is_token else server.username}"
        if server.username
        else "accepts mail without login"
    )
    yield good("smtp", f"{server.host}:{server.port} {login}")


def smtp_tls(installation: Installation) -> Iterator[Finding]:
    found, server = installation.mail_server, installation.settings.smtp
    if isinstance(found, str):
        yield unknown("smtp tls", "no connection to the mail server")
    elif found.tls is None and server.is_loopback:
        yield good("smtp tls", "not required: the mail server is on this machine")
    elif found.tls is None:
        advice = (
            "set SMTP_TLS=auto"
            if "starttls" in found.features
            else "use smtps:// or another server"
        )
        yield bad("smtp tls", "mail and password are sent unencrypted", advice)
    elif found.certificate_ends_at and found.certificate_ends_at - installation.now < SOON:
        soon = f"the certificate expires on {found.certificate_ends_at:%Y-%m-%d}"
        yield bad("smtp tls", soon, "renew it: after that date no mail is sent")
    else:
        how = "implicit" if server.implicit_tls else "with STARTTLS"
        ends = found.certificate_ends_at
        until = f", certificate valid until {ends:%Y-%m-%d}" if ends else ""
        yield good("smtp tls", f"{found.tls} {how}{until}")


def smtp_extensions(installation: Installation) -> Iterator[Finding]:
    found = installation.mail_server
    if isinstance(found, str):
        yield unknown("smtp extensions", "no connection to the mail server")
        return
    size = found.features.get("size", "")
    if size.isdecimal() and 0 < int(size) < LARGEST_MAIL:
        detail = f"accepts at most {size} octets; a digest may have {LARGEST_MAIL}"
        yield bad("smtp extensions", detail, "raise its limit (Postfix: message_size_limit)")
        return
    offered = [name for key, name in WANTED.items() if key in found.features]
    slow = "" if "pipelining" in found.features else "PIPELINING would make sending faster"
    yield good("smtp extensions", f"offers {', '.join(offered) or 'none that Paperboy uses'}", slow)


def sending(installation: Installation) -> Iterator[Finding]:
    """Report automatic holds, an open circuit breaker, and refusals that are not counted yet.

    Pauses by the operator, such as after a restore, are no failure.
    """
    if installation.database_trouble:
        yield unknown("sending", "the database is not available")
        return
    with read_only(installation.services.engine) as conn:
        pauses = send_controls.list_pauses(conn)
        breaker, waiting = send_controls.circuit_breaker(conn), guard.count_waiting(conn)
        failing = guard.failing(conn, installation.now)
    for hold in pauses:
        name = f"the edition of {hold.edition_on}" if hold.edition_on else "all sending"
        resume = f"editions resume {hold.edition_on}" if hold.edition_on else "sending start"
        if not hold.automatic:
            detail = f"{name} is paused by the operator: {hold.reason}"
            yield good("sending", detail, f"to resume, run paperboy {resume}")
            continue
        advice = (
            "no bounce was counted, and the mail is still queued: correct the cause of rejections,"
            " or suppress the addresses that do not exist (paperboy deliveries --status queued,"
            f" paperboy suppressions add), then run paperboy {resume}"
        )
        yield bad("sending", f"{name} is paused: {hold.reason}", advice)
    if breaker:
        until = f"{breaker.open_until:%Y-%m-%d %H:%M} UTC"
        detail = f"the mail server refuses us; sending resumes at {until}: {breaker.reply}"
        yield bad("sending", detail, "correct the reason, then run paperboy sending start")
    if failing:
        advice = "no bounce was counted, and the papers come with the next digest"
        yield bad("sending", failing, f"correct the reason; {advice}")
    if pauses or breaker or failing:
        return
    if waiting:
        detail = (
            f"{waiting} rejections are not counted as bounces, because no other mail was accepted"
        )
        yield good("sending", detail, "see: paperboy deliveries --status queued")
    else:
        yield good("sending", "nothing is paused")


def progress(installation: Installation) -> Iterator[Finding]:
    """Report overdue steps, as /readyz does; `sending` reports an open circuit breaker."""
    if installation.database_trouble:
        yield unknown("progress", "the database is not available")
        return
    with read_only(installation.services.engine) as conn:
        made = stats.read_stats(conn, installation.now)
    late = stats.overdue(replace(made, breaker=None), installation.now, installation.now)
    for reason in late:
        yield bad("progress", reason, "docs/monitoring.md says what to check")
    if not late:
        yield good("progress", "no step is overdue")
    yield from rates(made.week)


def rates(week: stats.Week) -> Iterator[Finding]:
    """Compare the last seven whole days with the rules of mailbox providers."""
    if week.has_lost_edition:
        sent = f"{week.sent_in_two_days} were sent in two days"
        detail = f"{week.expired_yesterday} digests expired yesterday and {sent}"
        yield bad("expired mails", detail, "see: paperboy deliveries --status expired")
    judged = (
        ("complaints", week.complaint_rate, stats.COMPLAINTS_TOLERATED, stats.COMPLAINTS_LIMIT,
         "reported as spam", "stop inviting people who did not ask; see where they signed up"),
        ("bounces", week.bounce_rate, stats.BOUNCES_TOLERATED, stats.BOUNCES_LIMIT,
         "returned", "was a list of old addresses imported? see: paperboy suppressions"),
    )  # fmt: skip
    for check, rate, tolerated, limit, what, advice in judged:
        detail = f"{rate:.2%} of {week.sent} mails in 7 days were {what}"
        if rate >= limit:
            yield bad(check, f"{detail}: {limit:.1%} endangers all mail", advice)
        elif rate >= tolerated:
            yield bad(check, f"{detail}; stay below {tolerated:.1%}", advice)
        else:
            yield good(check, f"below {tolerated:.1%} of {week.sent} mails in 7 days")


CHECKS: tuple[Check, ...] = (redis, running, smtp, smtp_tls, smtp_extensions, sending, progress)
