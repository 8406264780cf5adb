"""Recipient domains: stored with each delivery, and changed or redacted with its address."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from pipeline.domain import DeliveryKind, Digest, Precedence
from pipeline.storage import deliveries, digests, retention, transactional
from pipeline.storage.digests import NewDigest
from tests.support.factories import NOW, TODAY
from tests.support.outbox import add_delivery, add_subscriber, row

DAY = timedelta(days=1)


def owe_digest(engine, subscriber_id, kind=DeliveryKind.DIGEST):
    new = NewDigest(subscriber_id, kind, Digest(TODAY, ()), NOW, NOW + DAY, 0, 1, "1")
    with engine.begin() as conn:
        digests.enqueue(conn, [new], NOW)
        [id_] = conn.execute(text("SELECT max(id) FROM deliveries")).scalars()
    return row(engine, id_)


def owe_letter(engine, subscriber_id, address=None):
    with engine.begin() as conn:
        transactional.enqueue(
            conn,
            DeliveryKind.NEW_ADDRESS,
            subscriber_id,
            about=address,
            expires_at=NOW + DAY,
            now=NOW,
            address=address,
        )
        [id_] = conn.execute(text("SELECT max(id) FROM deliveries")).scalars()
    return row(engine, id_)


def test_digest_has_the_domain_of_its_reader_and_lower_precedence_than_welcome(engine):
    subscriber_id = add_subscriber(engine, "ada@googlemail.com")

    digest = owe_digest(engine, subscriber_id)
    welcome = owe_digest(engine, subscriber_id, DeliveryKind.WELCOME)

    assert (digest.domain, digest.precedence) == ("gmail.com", Precedence.DIGEST)
    assert (welcome.domain, welcome.precedence) == ("gmail.com", Precedence.AWAITED)


def test_confirmation_has_the_domain_of_its_recipient_address(engine):
    subscriber_id = add_subscriber(engine, "ada@googlemail.com")

    assert owe_letter(engine, subscriber_id).domain == "gmail.com"
    elsewhere = owe_letter(engine, subscriber_id, "ada@hotmail.com")
    assert (elsewhere.domain, elsewhere.precedence) == ("outlook.com", Precedence.AWAITED)


def test_address_change_updates_the_domain_of_queued_deliveries(engine):
    subscriber_id = add_subscriber(engine)
    own = add_delivery(engine, subscriber_id=subscriber_id, domain="example.org")
    other = add_delivery(
        engine, subscriber_id=subscriber_id, domain="example.com", address="b@example.com"
    )

    with engine.begin() as conn:
        deliveries.readdress(conn, subscriber_id, "ada@me.com")

    assert (row(engine, own).domain, row(engine, other).domain) == ("icloud.com", "example.com")


def test_erasing_a_reader_clears_the_domain_of_deliveries(engine):
    subscriber_id = add_subscriber(engine)
    id_ = add_delivery(engine, subscriber_id=subscriber_id, domain="lovelace.example")

    with engine.begin() as conn:
        deliveries.redact(conn, subscriber_id)

    assert row(engine, id_).domain == ""


def test_domain_is_cleared_with_the_address(engine):
    id_ = add_delivery(engine, status="sent", address="a@b.example", domain="b.example")

    with engine.begin() as conn:
        retention.redact_addresses(conn, before=NOW + DAY, limit=10)

    assert (row(engine, id_).address, row(engine, id_).domain) == ("", "")
