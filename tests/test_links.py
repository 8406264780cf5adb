"""Signed links: which action a token allows, for which id, and until when it is valid."""

from __future__ import annotations

import string
from datetime import timedelta

import pytest

from pipeline.domain import LinkPurpose
from pipeline.errors import ExpiredTokenError, InvalidTokenError
from pipeline.links import LIFETIME, SignedLinks
from tests.support.factories import NOW

SITE = "https://papers.example.org"
OLD, NEW = "the key of last year", "the key of this year"

MAKE = {
    LinkPurpose.CONFIRM: SignedLinks.confirm,
    LinkPurpose.PREFERENCES: SignedLinks.preferences,
    LinkPurpose.DIGEST: SignedLinks.digest,
    LinkPurpose.DATA: SignedLinks.data,
    LinkPurpose.NEW_ADDRESS: SignedLinks.new_address,
}
READ = {
    LinkPurpose.CONFIRM: SignedLinks.read_confirm,
    LinkPurpose.PREFERENCES: SignedLinks.read_preferences,
    LinkPurpose.DIGEST: SignedLinks.read_digest,
    LinkPurpose.DATA: SignedLinks.read_data,
    LinkPurpose.NEW_ADDRESS: SignedLinks.read_new_address,
}


def token_of(link: str) -> str:
    return link.rpartition("/")[2]


@pytest.fixture
def links() -> SignedLinks:
    return SignedLinks(SITE, (NEW,))


@pytest.mark.parametrize("purpose", LinkPurpose)
def test_link_path_names_its_purpose_and_its_token_returns_the_id(links, purpose):
    """The path of the link names its purpose, and reading its token returns the id."""
    link = MAKE[purpose](links, 17, NOW)

    assert link.startswith(f"{SITE}/{purpose}/")
    assert READ[purpose](links, token_of(link), NOW) == 17


@pytest.mark.parametrize("purpose", LinkPurpose)
def test_link_is_valid_until_its_lifetime_ends(links, purpose):
    token = token_of(MAKE[purpose](links, 17, NOW))
    last = NOW + LIFETIME[purpose] - timedelta(seconds=1)

    assert READ[purpose](links, token, last) == 17
    with pytest.raises(InvalidTokenError, match="expired"):
        READ[purpose](links, token, NOW + LIFETIME[purpose])


@pytest.mark.parametrize(
    ("purpose", "hours"),
    [
        (LinkPurpose.CONFIRM, 72),
        (LinkPurpose.PREFERENCES, 30 * 24),
        (LinkPurpose.DIGEST, 90 * 24),
        (LinkPurpose.DATA, 24),
        (LinkPurpose.NEW_ADDRESS, 72),
    ],
)
def test_lifetime_of_each_link_purpose(purpose, hours):
    assert LIFETIME[purpose] == timedelta(hours=hours)


def test_digest_link_lifetime_follows_the_retention_of_digests():
    kept = timedelta(days=400)
    links = SignedLinks(SITE, (NEW,), view=kept)
    token = token_of(links.digest(17, NOW))

    assert links.read_digest(token, NOW + kept - timedelta(seconds=1)) == 17
    with pytest.raises(ExpiredTokenError):
        links.read_digest(token, NOW + kept)
    assert token_of(links.preferences(17, NOW)) == token_of(
        SignedLinks(SITE, (NEW,)).preferences(17, NOW)
    )


def test_expired_and_forged_tokens_raise_different_errors(links):
    token = token_of(links.data(17, NOW))

    with pytest.raises(ExpiredTokenError, match="has expired"):
        links.read_data(token, NOW + timedelta(days=1))
    with pytest.raises(InvalidTokenError, match="not valid"):
        links.read_data(token.replace("17.", "18.", 1), NOW)


def test_links_of_the_same_site_and_keys_are_equal(links):
    assert links == SignedLinks(SITE, (NEW,))
    assert links != SignedLinks(SITE, (OLD,))


@pytest.mark.parametrize("made", LinkPurpose)
@pytest.mark.parametrize("used", LinkPurpose)
def test_token_is_rejected_for_another_purpose(links, made, used):
    token = token_of(MAKE[made](links, 17, NOW))
    if made is used:
        return

    with pytest.raises(InvalidTokenError):
        READ[used](links, token, NOW)


def test_token_with_one_changed_character_is_rejected(links):
    """At any position: in the id, the time or the signature."""
    token = token_of(links.preferences(17, NOW))

    for position, character in enumerate(token[:-1]):  # the last character has unused bits
        other = "x" if character != "x" else "y"
        altered = token[:position] + other + token[position + 1 :]
        with pytest.raises(InvalidTokenError):
            links.read_preferences(altered, NOW)


@pytest.mark.parametrize("token", ["", ".", "17", "17.9999999999", "..", "é.1.x", "1.2.3.4", "a\n"])
def test_malformed_token_is_rejected(links, token):
    with pytest.raises(InvalidTokenError):
        links.read_confirm(token, NOW)


def test_rotated_key_still_verifies_and_a_removed_key_does_not():
    """The newest key signs, every key verifies; links of a removed key are refused."""
    old = token_of(SignedLinks(SITE, (OLD,)).digest(17, NOW))
    rotated = SignedLinks(SITE, (NEW, OLD))
    fresh = token_of(rotated.digest(17, NOW))

    assert rotated.read_digest(old, NOW) == 17
    assert SignedLinks(SITE, (NEW,)).read_digest(fresh, NOW) == 17
    with pytest.raises(InvalidTokenError):
        SignedLinks(SITE, (NEW,)).read_digest(old, NOW)


def test_tokens_are_short_and_url_safe(links):
    token = token_of(links.digest(123_456_789, NOW))

    assert len(token) <= 48
    assert set(token) <= set(string.ascii_letters + string.digits + "-_.")


def test_first_of_three_keys_signs():
    links = SignedLinks(SITE, (NEW, OLD, "the key before that"))

    assert links.digest(17, NOW) == SignedLinks(SITE, (NEW,)).digest(17, NOW)


def test_unsubscribe_link_does_not_depend_on_the_keys():
    """The unsubscribe link contains the subscriber's secret and does not depend on the keys."""
    assert (
        SignedLinks(SITE, (OLD,)).unsubscribe("k3h_d82-x")
        == SignedLinks(SITE, (NEW,)).unsubscribe("k3h_d82-x")
        == f"{SITE}/unsubscribe/k3h_d82-x"
    )


@pytest.mark.parametrize("keys", [(), ("",), (NEW, "")])
def test_signed_links_without_a_key_raise_value_error(keys):
    with pytest.raises(ValueError, match="key"):
        SignedLinks(SITE, keys)


def test_repr_does_not_contain_the_keys(links):
    assert NEW not in repr(links)
