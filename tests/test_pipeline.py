"""One paper on its way from a source to an inbox, through a real database and real SMTP."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import OperationalError

from pipeline import bootstrap, ingest, settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus, Sighting
from pipeline.feedback.bounces import read_mail
from pipeline.feedback.process import Feedback
from pipeline.signup import Choices, parse_queries
from pipeline.sources import FetchResult
from pipeline.storage import addresses, subscribers, suppressions
from pipeline.storage.database import read_only
from pipeline.storage.delivery_queries import list_views
from pipeline.storage.schema import DeliveryRow
from tests.support.factories import make_sighting
from tests.support.servers import Inbox, Received

TODAY = datetime.now(UTC).replace(hour=9, minute=0, second=0, microsecond=0)


@pytest.fixture
def services(engine: Engine, database_url: str, inbox: Inbox) -> Iterator[Services]:
    loaded = settings.load(
        None,
        database_url=database_url,
        smtp_url=inbox.url,
        site_url="https://papers.example.org",
        mail_from="Paperboy <papers@example.org>",
        bounce_address="bounces@example.org",
        operator_address="1 Analytical Way, London",
        smtp_connections=2,
    )
    services = bootstrap.build(loaded)
    yield services
    services.engine.dispose()


@pytest.fixture
def announce(engine: Engine) -> Callable[..., None]:
    def announce(*sightings: Sighting, days: int = 0) -> None:
        found = [(s.source, FetchResult((s,))) for s in sightings]
        ingest.ingest_recorded(engine, found, now=TODAY + timedelta(days=days))

    return announce


@pytest.fixture
def subscribe(services: Services) -> Callable[..., int]:
    def subscribe(address: str, *topics: str) -> int:
        choices, key = Choices(parse_queries(topics)), services.suppression_key
        return signup.add(
            services.engine, address, choices, confirmed=True, suppression_key=key, now=TODAY
        ).id

    return subscribe


@pytest.fixture
def publish_and_send(services: Services) -> Callable[..., int]:
    def publish_and_send(days: int = 0) -> int:
        list(services.publish(TODAY + timedelta(days=days), everyone=True))
        return services.dispatch(once=True, clock=TODAY + timedelta(days=days)).sent

    return publish_and_send


def parse(mail: Received) -> EmailMessage:
    return email.message_from_bytes(mail.raw, policy=email.policy.default)


def body(mail: Received, kind: str) -> str:
    part = parse(mail).get_body([kind])
    assert part is not None
    return part.get_content()


def test_new_paper_reaches_the_inbox(announce, subscribe, publish_and_send, inbox):
    """A paper announced this morning arrives with its reason and an unsubscribe link."""
    subscribe("ada@example.org", "quantum")
    announce(make_sighting(title="Quantum bounds: a < b & c <script>alert(1)</script>"))

    assert publish_and_send() == 1

    mail = inbox.only()
    assert mail.rcpt_to == ("ada@example.org",)
    assert "a &lt; b &amp; c" in body(mail, "html")
    assert "<script>" not in body(mail, "html")
    assert "a < b & c" in body(mail, "plain")
    assert "quantum" in body(mail, "plain")
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in mail.raw


def test_publishing_twice_sends_once(announce, subscribe, publish_and_send, inbox):
    """When publishing runs again on the same day, nothing is sent."""
    subscribe("ada@example.org", "quantum")
    announce(make_sighting(title="Quantum tea"))

    assert publish_and_send() == 1
    assert publish_and_send() == 0

    assert len(inbox.received) == 1


def test_unsubscribe_cancels_queued_digests(announce, subscribe, services, publish_and_send, inbox):
    """If a subscriber leaves after the edition was compiled, its queued digest is cancelled."""
    subscribe("ada@example.org", "quantum")
    announce(make_sighting(title="Quantum tea"))
    list(services.publish(TODAY, everyone=True))
    with read_only(services.engine) as conn:
        reader = subscribers.by_email(conn, "ada@example.org")

    signup.leave(services.engine, reader.secret, TODAY)

    assert services.dispatch(once=True, clock=TODAY).sent == 0
    assert inbox.received == []
    with read_only(services.engine) as conn:
        (delivery,) = list_views(conn)
    assert (delivery.status, delivery.reason) == (DeliveryStatus.CANCELLED, "left")


@pytest.mark.full
def test_paper_announced_by_two_sources_reaches_each_reader_once(
    announce, subscribe, publish_and_send, inbox
):
    """A paper that two sources announce on two days reaches the readers of both, each once."""
    subscribe("category@example.org", "cat:cs.LG")
    subscribe("trending@example.org", "trending")
    subscribe("both@example.org", "cat:cs.LG", "source:huggingface")
    announce(make_sighting("3001.00001", title="Tea leaves", categories=("cs.LG",)))
    publish_and_send(days=0)
    listed = {"source": "huggingface", "categories": (), "upvotes": 12}
    announce(make_sighting("3001.00001", title="Tea leaves", **listed), days=1)
    publish_and_send(days=1)
    publish_and_send(days=2)

    told = sorted(mail.rcpt_to[0] for mail in inbox.received)

    assert told == ["both@example.org", "category@example.org", "trending@example.org"]
    assert all("Tea leaves" in body(mail, "plain") for mail in inbox.received)


def test_temporary_refusal_is_retried_later(announce, subscribe, services, inbox):
    """The delivery returns to the queue after a 450 and is sent by a later retry."""
    subscribe("ada@example.org", "quantum")
    announce(make_sighting(title="Quantum tea"))
    list(services.publish(TODAY, everyone=True))
    inbox.refuse["ada@example.org"] = "450 4.2.0 Greylisted"

    assert services.dispatch(once=True, clock=TODAY).deferred == 1
    inbox.refuse.clear()
    assert services.dispatch(once=True, clock=TODAY).sent == 0, "not before its time"
    assert services.dispatch(once=True, clock=TODAY + timedelta(minutes=30)).sent == 1


def test_unknown_recipient_is_suppressed_and_skipped_by_the_next_edition(
    announce, subscribe, publish_and_send, services, inbox
):
    """The address is suppressed after 550 5.1.1, and the next edition skips it."""
    subscribe("gone@example.org", "quantum")
    subscribe("ada@example.org", "quantum")
    inbox.refuse["gone@example.org"] = "550 5.1.1 No such user here"
    announce(make_sighting(title="Quantum tea"))
    publish_and_send()
    inbox.refuse.clear()
    announce(make_sighting(title="Quantum cake"), days=1)

    publish_and_send(days=1)

    assert {mail.rcpt_to[0] for mail in inbox.received} == {"ada@example.org"}
    with read_only(services.engine) as conn:
        reader = subscribers.by_email(conn, "gone@example.org")
        hash_ = addresses.address_hash(reader.email, services.suppression_key)
        assert suppressions.by_hash(conn, hash_) is not None
        mails = [one for one in list_views(conn) if one.email == "gone@example.org"]
        assert len(mails) == 1, "nothing was compiled for it"


def bounce_of(mail: Received, status: str = "5.1.1") -> bytes:
    """Return a delivery status notification (RFC 3464), sent after the mail was accepted."""
    return "\r\n".join(
        (
            "From: mailer-daemon@mx.example.net",
            f"To: {mail.mail_from}",
            "Subject: Undelivered Mail Returned to Sender",
            'Content-Type: multipart/report; report-type=delivery-status; boundary="b"',
            "",
            "--b",
            "Content-Type: message/delivery-status",
            "",
            "Reporting-MTA: dns; mx.example.net",
            "",
            f"Final-Recipient: rfc822; {mail.rcpt_to[0]}",
            "Action: failed",
            f"Status: {status}",
            "",
            "--b--",
            "",
        )
    ).encode()


@pytest.mark.parametrize("settled", [True, False])
def test_later_bounce_suppresses_the_address(
    announce, subscribe, publish_and_send, services, inbox, settled
):
    """A bounce to its envelope address suppresses the reader; the next edition is skipped.

    If the reply to the mail was lost (uncertain), the bounce also proves that it was accepted.
    """
    reader = subscribe("gone@example.org", "quantum")
    subscribe("ada@example.org", "quantum")
    announce(make_sighting(title="Quantum tea"))
    publish_and_send()
    (mail,) = (one for one in inbox.received if one.rcpt_to == ("gone@example.org",))
    assert mail.mail_from.startswith("bounces+")
    if not settled:
        with services.engine.begin() as conn:
            conn.execute(
                update(DeliveryRow)
                .where(DeliveryRow.subscriber_id == reader)
                .values(status="uncertain", sent_at=None)
            )
    back = [("1", bounce_of(mail)), ("2", bounce_of(mail))]

    effects = [one.effect for one in services.read_bounces(back, read_mail, TODAY)]
    announce(make_sighting(title="Quantum cake"), days=1)
    served = services.publish(TODAY + timedelta(days=1), everyone=True)
    (skipped,) = (one for one in served if one.subscriber_id == reader)

    assert effects == ["suppressed", "known"]
    assert (skipped.subscriber_id, skipped.skipped) == (reader, "suppressed")
    assert services.dispatch(once=True, clock=TODAY + timedelta(days=1)).sent == 1
    with read_only(services.engine) as conn:
        (delivery,) = (one for one in list_views(conn) if one.email == "gone@example.org")
    assert (delivery.status, delivery.reason) == ("sent", "accepted, then hard")


def test_failing_bounce_mail_is_flagged_and_others_are_applied(
    announce, subscribe, publish_and_send, services, inbox, tmp_path, monkeypatch
):
    """The mail is flagged for an operator and not parsed again; the others are applied."""
    subscribe("gone@example.org", "quantum")
    announce(make_sighting(title="Quantum tea"))
    publish_and_send()
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "1").write_bytes(b"Subject: one\n\n")
    (tmp_path / "new" / "2").write_bytes(bounce_of(inbox.only()))
    apply = Feedback.take_mail

    def apply_some(feedback, octets, *given):
        if octets.startswith(b"Subject: one"):
            raise KeyError("a mistake of ours")
        return apply(feedback, octets, *given)

    monkeypatch.setattr(Feedback, "take_mail", apply_some)

    taken = services.read_mailbox(str(tmp_path), read_mail, TODAY)
    again = services.read_mailbox(str(tmp_path), read_mail, TODAY)

    assert [(one.name, one.effect) for one in taken] == [("1", "failed"), ("2", "held")]
    assert again == []
    assert sorted(path.name for path in (tmp_path / "cur").iterdir()) == ["1:2,F", "2:2,S"]


def test_database_outage_leaves_bounce_mail_unread(services, tmp_path, monkeypatch):
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "1").write_bytes(b"Subject: one\n\n")

    def away(*_):
        raise OperationalError("INSERT", {}, Exception("gone"))

    monkeypatch.setattr(Feedback, "take_mail", away)

    with pytest.raises(OperationalError):
        services.read_mailbox(str(tmp_path), read_mail, TODAY)

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["1"]


def test_bounces_and_refusals_count_together(
    announce, subscribe, publish_and_send, services, inbox
):
    """Two bounces and one refusal at SMTP time make three editions in a row."""
    subscribe("ada@example.org", "quantum")
    subscribe("bob@example.org", "quantum")
    for days in range(2):
        announce(make_sighting(title=f"Quantum tea, part {days}"), days=days)
        publish_and_send(days)
        mails = [mail for mail in inbox.received if mail.rcpt_to == ("ada@example.org",)]
        back = [(str(days), bounce_of(mails[days], "5.0.0"))]
        assert [r.effect for r in services.read_bounces(back, read_mail, TODAY)] == ["counted"]
    inbox.refuse["ada@example.org"] = "550 5.0.0 We would rather not"
    announce(make_sighting(title="Quantum cake"), days=2)
    publish_and_send(2)

    with read_only(services.engine) as conn:
        hash_ = addresses.address_hash("ada@example.org", services.suppression_key)
        suppression = suppressions.by_hash(conn, hash_)

    assert suppression is not None
    assert suppression.reason == "soft"
