"""Email addresses: validation, and the key by which two spellings are one subscriber."""

from __future__ import annotations

import re

import pytest
from email_validator import validate_email
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import signup
from pipeline.domain import SuppressionReason
from pipeline.errors import AddressError
from pipeline.message import _LOCAL, _ORDINARY, wire_address
from pipeline.signup import Choices, valid_address
from pipeline.storage import subscribers, suppressions
from pipeline.storage.addresses import address_hash, email_key
from tests.support.factories import NOW

KEY = "k" * 32


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

        assert len(subscribers.list_all(conn)) == 2
        assert suppressions.find(conn, "ada@fussball.example", KEY) is None
        assert suppressions.find(conn, "ada@FUẞBALL.example", KEY) is not None


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


@pytest.mark.full
@example("a@b.co")
@settings(deadline=None, max_examples=150)
@given(ADDRESSES.filter(_ORDINARY.fullmatch))
def test_email_validator_returns_ordinary_addresses_unchanged(address):
    found = validate_email(
        address, check_deliverability=False, globally_deliverable=False, strict=True
    )

    assert found.ascii_email == found.normalized == address
