"""Recipient domains: stored with each delivery, and changed or redacted with its address."""

from __future__ import annotations

from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import text

from pipeline.domain import DeliveryKind, Digest, Precedence
from pipeline.storage import deliveries, digests, migrate, retention, transactional
from pipeline.storage.database import open_engine
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


@pytest.fixture
def old_engine(empty_database_url):
    """Yield an engine at revision 0002, before deliveries had a domain."""
    engine = open_engine(empty_database_url)
    with engine.begin() as conn:
        config = migrate._config()
        config.attributes["connection"] = conn
        command.upgrade(config, "0002")
    yield engine
    engine.dispose()


SUBSCRIBER = """
INSERT INTO subscribers (id, email, email_key, address_hash, status, at, timezone, frequency,
    weekday, max_papers, secret, cursor, created_at)
VALUES (1, 'ada@Googlemail.com', 'ada@googlemail.com', 'h', 'active', '08:00:00', 'UTC', 'daily',
    0, 10, 's', 0, '2030-01-02 08:00:00')
"""
DELIVERY = """
INSERT INTO deliveries (id, dedupe_key, kind, subscriber_id, address, status, attempts, not_before,
    expires_at, created_at, more, topics)
VALUES (:id, :key, :kind, 1, :address, :status, 0, '2030-01-02 08:00:00', '2030-01-03 08:00:00',
    '2030-01-02 08:00:00', 0, '[]')
"""


def test_migration_sets_domain_and_precedence_of_unfinished_deliveries(old_engine):
    owed = [
        ("digest", None, "queued"),
        ("new-address", "ada@Hotmail.com", "leased"),
        ("digest", None, "uncertain"),
        ("digest", None, "sent"),
    ]
    with old_engine.begin() as conn:
        conn.execute(text(SUBSCRIBER))
        for id_, (kind, address, status) in enumerate(owed, 1):
            values = {"id": id_, "key": str(id_), "kind": kind, "address": address}
            conn.execute(text(DELIVERY), {**values, "status": status})

    migrate.upgrade(old_engine)

    after = [row(old_engine, id_) for id_ in range(1, 5)]
    assert [(one.domain, one.precedence) for one in after] == [
        ("gmail.com", 1),
        ("outlook.com", 0),
        ("gmail.com", 1),
        ("", 0),
    ]
