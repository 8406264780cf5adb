"""Email addresses: validation, and the key by which two spellings are one subscriber."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from alembic import command
from email_validator import validate_email
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text

from pipeline import signup
from pipeline.domain import SuppressionReason
from pipeline.errors import AddressError
from pipeline.message import _LOCAL, _ORDINARY, wire_address
from pipeline.signup import Choices, valid_address
from pipeline.storage import migrate, subscribers, suppressions
from pipeline.storage.addresses import address_hash, email_key
from pipeline.storage.database import open_engine
from pipeline.storage.schema import DeliveryRow
from tests.support.factories import NOW

KEY = "k" * 32


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    engine = open_engine(empty_database_url)
    yield engine
    engine.dispose()


# --- The same subscriber ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@fußball.example", "ada@fussball.example"),
        ("ada@ΚΌΣΜΟς.example", "ada@κόσμοσ.example"),
        ("ada@නිශ්‍ර.example", "ada@නිශ්ර.example"),  # with and without a joiner
        ("ada@نامه‌ای.example", "ada@نامهای.example"),
        ("weiß@example.org", "weiss@example.org"),
        ("\u0131lgaz@example.org", "ilgaz@example.org"),
        ("a.da@example.org", "ada@example.org"),
        ("ada+x@example.org", "ada@example.org"),
    ],
)
def test_different_addresses_have_different_keys(one, other):
    assert email_key(one) != email_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@FUẞBALL.example", "ada@fußball.example"),
        ("ada@xn--fuball-cta.example", "ada@fußball.EXAMPLE"),
        ("ADA@example.org", " ada@Example.org. "),
        ("ada@cafe\u0301.example", "ada@café.example"),
        ("ada@\uff45xample\u3002org", "ada@example.org"),
        ("JOSE\u0301@example.org", "josé@example.org"),
    ],
)
def test_spellings_of_one_address_have_the_same_key(one, other):
    assert email_key(one) == email_key(other)


@example("ada", "bücher..")
@example("ada", "example.org.")
@example("ada", "bücher.example\u3002")
@settings(deadline=None)
@given(st.text(max_size=30), st.text(st.characters(exclude_categories=["Z", "C"]), max_size=30))
def test_email_key_is_idempotent(local, domain):
    key = email_key(f"{local}@{domain}")

    assert email_key(key) == key


def test_suppression_does_not_affect_an_address_with_a_similar_domain(engine):
    """Both may subscribe; a suppression of one address does not affect the other."""
    for domain in ("fußball.example", "fussball.example"):
        signup.add(engine, f"ada@{domain}", Choices(), confirmed=True, suppression_key=KEY, now=NOW)

    with engine.begin() as conn:
        hash_ = address_hash("ada@fußball.example", KEY)
        suppressions.suppress(conn, hash_, SuppressionReason.COMPLAINT, NOW)

        assert len(subscribers.listing(conn)) == 2
        assert suppressions.find(conn, "ada@fussball.example", KEY) is None
        assert suppressions.find(conn, "ada@FUẞBALL.example", KEY) is not None


# --- Subscribers from before the migration ------------------------------------------------------

OLD_READER = (
    "INSERT INTO subscribers (id, email, email_key, address_hash, status, at, timezone, frequency, "
    "weekday, max_papers, secret, cursor, created_at) VALUES (:id, :email, :key, :hash, 'active', "
    "'08:00', 'UTC', 'daily', 0, 5, :key, 0, '2030-01-02 08:00')"
)


def test_migration_keeps_suppressions_and_strikes_of_folded_domains(empty):
    """The migration writes a new key and hash; old suppressions match both, later ones only one."""
    folded = address_hash("ada@fussball.example", KEY)
    other = address_hash("bob@example.org", KEY)
    with empty.begin() as conn:
        config = migrate._config()
        config.attributes["connection"] = conn
        command.upgrade(config, "0008")
        ada = {"id": 1, "email": "ada@fußball.example", "key": "ada@fussball.example"}
        bob = {"id": 2, "email": "bob@example.org", "key": "bob@example.org"}
        conn.execute(text(OLD_READER), [{**ada, "hash": folded}, {**bob, "hash": other}])
        conn.execute(
            text("INSERT INTO suppressions VALUES (:hash, 'complaint', '2030-01-02 08:00')"),
            [{"hash": folded}, {"hash": address_hash("eve@weiss.example", KEY)}],
        )
        conn.execute(
            text("INSERT INTO strikes VALUES (:hash, '2030-01-02', 'soft', '2030-01-02 08:00')"),
            {"hash": folded},
        )

    migrate.upgrade(empty, suppression_key=KEY)

    hash_ = address_hash("ada@fußball.example", KEY)
    with empty.begin() as conn:
        found = subscribers.by_email(conn, "ADA@FUẞBALL.example")
        assert found is not None
        assert found.id == 1
        assert subscribers.by_email(conn, "ada@fussball.example") is None
        assert subscribers.hash_of(conn, 1) == hash_
        assert suppressions.suppressed_among(conn, [1, 2]) == {1}
        assert subscribers.hash_of(conn, 2) == other
        strikes = conn.execute(text("SELECT address_hash FROM strikes")).scalars().all()
        assert set(strikes) == {folded, hash_}
        for email in ("eve@weiß.example", "eve@weiss.example", "ada@fussball.example"):
            assert suppressions.find(conn, email, KEY) is not None, email
        assert suppressions.find(conn, "eve@weisz.example", KEY) is None


def test_folded_suppression_blocks_a_new_sign_up(engine):
    """A folded suppression is a hash only, so it matches both "ß" and "ss"."""
    with engine.begin() as conn:
        suppressions.suppress(
            conn, address_hash("eve@weiss.example", KEY), SuppressionReason.COMPLAINT, NOW
        )
        conn.execute(text("UPDATE suppressions SET folded = true"))

    signup.request_subscription(
        engine, "eve@weiß.example", Choices(), ip=None, suppression_key=KEY, now=NOW
    )  # fmt: skip
    signup.request_subscription(
        engine, "eva@weiß.example", Choices(), ip=None, suppression_key=KEY,
        now=NOW + timedelta(minutes=1),
    )  # fmt: skip

    with engine.connect() as conn:
        statuses = conn.execute(select(DeliveryRow.status).order_by(DeliveryRow.id)).scalars()
        assert list(statuses) == ["queued"]


# --- Validation ---------------------------------------------------------------------------------


def accepted(takes, address: str) -> str | None:
    try:
        return takes(address)
    except AddressError:
        return None


LABEL = "l" * 63
PARTS = [
    "a", "A", "ada", "é", "ü", "ß", "例え", "İ", ".", "..", "-", "--", "@", "+", "'", '"', " ",
    "(c)", "[", "]", "127.0.0.1", "IPv6:::1", "xn--", "_", "!", ",", ";", ":", "<", ">", "\\", "\n",
    "\u200d", "\u202e", "\0", "\u3002", "\uff11", "x" * 63, "x" * 64, LABEL, "é" * 50, "localhost",
    "test", "\t", "example", "org", "invalid", "local", "onion", "arpa",
]  # fmt: skip


@example(["x" * 64, "@", "example", ".", "org"])
@example(["x" * 65, "@", "example", ".", "org"])
@example(["é", "@", "example", ".", "org"])
@example(["ada", "@", LABEL, ".", "org"])
@example(["ada", "@", LABEL, "l", ".", "org"])
@example(["ada", "@", "ü" * 58, ".", "org"])
@example(["ada", "@", f"{LABEL}.{LABEL}.{LABEL}.{'l' * 57}", ".", "org"])
@example(["x" * 64, "@", f"{LABEL}.{LABEL}.{'l' * 57}", ".", "org"])
@example(["x" * 64, "@", f"{LABEL}.{LABEL}.{'l' * 58}", ".", "org"])
@example(["ada", "@", f"{'é' * 50}.{'é' * 50}.{'é' * 50}.{'é' * 50}", ".", "org"])
@example(["ada", "@", "example", ".", "org", "."])
@example(['"ada"', "@", "example", ".", "org"])
@example(["ada", "@", "[", "127.0.0.1", "]"])
@example(["ada", "(c)", "@", "example", ".", "org"])
@example(["ada", "@", "x", ".", "test"])
@example(["ada", "@", "localhost"])
@example(["ada", "@", "xn--", "a", ".", "org"])
@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(PARTS), max_size=9))
def test_form_and_envelope_accept_the_same_addresses(parts):
    """Each accepted address fits an RFC 5321 envelope; form and envelope reject the same ones."""
    address = "".join(parts)

    kept, wire = accepted(valid_address, address), accepted(wire_address, address)

    assert (kept is None) == (wire is None)
    if kept is not None and wire is not None:
        assert wire_address(kept) == wire
        assert wire.isascii()
        assert len(wire) <= 254
        assert len(wire.rpartition("@")[0]) <= 64
        assert all(0 < len(label) <= 63 for label in wire.rpartition("@")[2].split("."))
        assert not re.search(r"[\s<>()\[\]\\,;:\"\x00-\x1f]", wire)
        assert email_key(kept) == email_key(wire)


LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?", fullmatch=True)
ADDRESSES = st.builds(
    "{}@{}.{}".format,
    st.from_regex(_LOCAL, fullmatch=True),
    st.lists(LABELS, min_size=1, max_size=3).map(".".join),
    st.from_regex(r"[a-z]{2,9}", fullmatch=True),
)


@example("a@b.co")
@settings(deadline=None, max_examples=150)
@given(ADDRESSES.filter(_ORDINARY.fullmatch))
def test_email_validator_returns_ordinary_addresses_unchanged(address):
    found = validate_email(
        address, check_deliverability=False, globally_deliverable=False, strict=True
    )

    assert found.ascii_email == found.normalized == address
