"""Unsubscribe: with one click, at once, permanently, and only by the subscriber's own click."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from pipeline import settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import DeliveryStatus, SubscriberStatus
from pipeline.storage.schema import SubscriberRow
from tests.support.newsroom import rows
from tests.support.sinks import Sink, open_sink
from tests.support.site import ADA, ELSEWHERE, Site, now, open_site

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
URLENCODED = {"data": ONE_CLICK}
MULTIPART = {"files": {name: (None, value) for name, value in ONE_CLICK.items()}}


@pytest.fixture
def site(engine: Engine) -> Site:
    return open_site(engine)


def way_out(reader) -> str:
    return f"/unsubscribe/{reader.secret}"


def status(site: Site, reader) -> SubscriberStatus:
    return site.again(reader).status


# --- One click ----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [URLENCODED, MULTIPART, {}], ids=["plain", "multipart", "none"])
def test_one_click_post_from_any_origin_unsubscribes(site, body):
    """RFC 8058: no cookie, no login, no redirect, and any encoding that a mail service prefers."""
    ada = site.reader()

    answer = site.post(way_out(ada), headers=ELSEWHERE, **body)

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("body", [b"\x00" * 100_000, b"List-Unsubscribe=", b"{"])
@pytest.mark.parametrize("kind", ["multipart/form-data", "application/json", ""])
def test_malformed_one_click_body_still_unsubscribes(site, body, kind):
    ada = site.reader()

    answer = site.post(way_out(ada), content=body, headers={"Content-Type": kind})

    assert answer.status_code == 200
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


def test_unsubscribe_link_survives_secret_key_changes(engine):
    ada = open_site(engine, secret_key="the first key").reader()
    later = open_site(engine, secret_key="another key altogether")

    assert later.post(way_out(ada)).status_code == 200
    assert status(later, ada) is SubscriberStatus.UNSUBSCRIBED


def test_unsubscribe_is_idempotent(site):
    ada = site.reader()
    site.post(way_out(ada), **URLENCODED)
    [left] = rows(site.engine, SubscriberRow)

    answers = [site.post(way_out(ada), **URLENCODED) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert rows(site.engine, SubscriberRow) == [left]


def test_suppressed_reader_can_unsubscribe(site):
    ada = site.reader()
    site.suppress(ada)

    assert site.post(way_out(ada), **URLENCODED).status_code == 200
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


def test_one_click_for_an_erased_reader_returns_200(site):
    ada = site.reader()
    signup.erase_by_id(site.engine, ada.id, now())

    answer = site.post(way_out(ada), headers=ELSEWHERE, **URLENCODED)

    assert answer.status_code == 200
    assert "<form" not in answer.text


@pytest.mark.parametrize("secret", ["nobody", "a", "a" * 21, "a" * 23, "%00" * 22])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_truncated_unsubscribe_link_returns_404(site, method, secret):
    assert site.browser.request(method, f"/unsubscribe/{secret}").status_code == 404


# --- GET ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
def test_link_scanner_requests_do_not_unsubscribe(site, method):
    ada = site.reader()

    site.browser.request(method, way_out(ada))

    assert status(site, ada) is SubscriberStatus.ACTIVE


def test_unsubscribe_page_has_one_button_and_masks_the_address(site):
    ada = site.reader()

    page = site.get(way_out(ada)).text

    assert page.count("<button") == page.count("<form") == 1
    assert "a•••@e•••.org" in page
    assert ADA not in page


# --- Nothing more is sent -----------------------------------------------------------------------


@pytest.fixture
def queued(site: Site) -> Site:
    """Return a site with one digest in its outbox."""
    site.announce()
    site.reader()
    site.publish()
    assert [row.status for row in site.deliveries()] == [DeliveryStatus.QUEUED]
    return site


def send(site: Site, sink: Sink, *, before_sending=lambda: None):
    """Drain the outbox with the real dispatcher; call `before_sending` between claim and dot."""
    loaded = settings.load(None, smtp_url=f"smtp://127.0.0.1:{sink.port}", smtp_connections=1)
    dispatcher = Services(loaded, site.engine).dispatcher()

    def compose(delivery, digest):
        before_sending()
        return dispatcher.compose(delivery, digest)

    return replace(dispatcher, compose=compose).drain(once=True)


def test_unsubscribe_cancels_the_queued_digest(queued):
    [reader] = rows(queued.engine, SubscriberRow)

    queued.post(way_out(reader))

    [digest] = queued.deliveries()
    assert (digest.status, digest.reason) == (DeliveryStatus.CANCELLED, "left")
    with open_sink() as sink:
        assert send(queued, sink).sent == 0
        assert sink.connections == 0


def test_unsubscribe_between_claim_and_dot_stops_the_mail(queued):
    """The mail is claimed, composed and half sent; its transaction ends without the dot."""
    [reader] = rows(queued.engine, SubscriberRow)

    with open_sink() as sink:
        tally = send(queued, sink, before_sending=lambda: queued.post(way_out(reader)))

    assert (tally.sent, sink.accepted) == (0, [])
    assert [row.status for row in queued.deliveries()] == [DeliveryStatus.CANCELLED]


def test_unsubscribe_during_the_dot_succeeds_and_only_that_mail_arrives(queued):
    """The only message that may still arrive: it was already on the wire."""
    [reader] = rows(queued.engine, SubscriberRow)
    answers = []

    with open_sink(on_dot=lambda: answers.append(queued.post(way_out(reader)))) as sink:
        assert send(queued, sink).sent == 1
        queued.publish()
        assert send(queued, sink).sent == 0

    assert [answer.status_code for answer in answers] == [200]
    assert len(sink.accepted) == 1


# --- Undo ---------------------------------------------------------------------------------------


def test_undo_restores_the_subscription_unchanged(site):
    ada = site.reader(ADA, "retrieval", "stones", hour=6, timezone="Asia/Tokyo")
    page = site.post(way_out(ada)).text
    assert f'action="{way_out(ada)}/undo"' in page

    answer = site.post(f"{way_out(ada)}/undo")

    assert "You are subscribed again" in answer.text
    assert "06:00 Asia/Tokyo" in answer.text
    back = site.again(ada)
    assert (back.status, back.schedule) == (SubscriberStatus.ACTIVE, ada.schedule)
    assert back.secret == ada.secret


def test_undo_expires_after_a_month(site):
    ada = site.reader()
    site.post(way_out(ada))
    site.alter(ada, left_at=now() - timedelta(days=31))

    page, answer = site.get(way_out(ada)), site.post(f"{way_out(ada)}/undo")

    assert "/undo" not in page.text
    assert answer.status_code == 410
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("act", ["undo", "why"])
def test_get_requests_do_not_undo_unsubscribe(site, method, act):
    ada = site.reader()
    site.post(way_out(ada))

    assert site.browser.request(method, f"{way_out(ada)}/{act}").status_code == 405
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("act", ["undo", "why"])
def test_cross_site_undo_is_rejected(site, act):
    """The exception of one-click from the origin check holds for unsubscribing only."""
    ada = site.reader()
    site.post(way_out(ada))

    answer = site.post(f"{way_out(ada)}/{act}", headers=ELSEWHERE, data={"why": "other"})

    assert answer.status_code == 403
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


def test_undo_is_rejected_for_an_unconfirmed_reader(site):
    site.ask()
    [bob] = rows(site.engine, SubscriberRow)

    page = site.post(way_out(bob)).text

    assert "/undo" not in page
    assert site.post(f"{way_out(bob)}/undo").status_code == 410


# --- Reason -------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", list(signup.UnsubscribeReason))
def test_leaving_reason_is_stored(site, why):
    ada = site.reader()
    page = site.post(way_out(ada)).text

    answer = site.post(f"{way_out(ada)}/why", data={"why": why.value})

    assert f'value="{why.value}"' in page
    assert answer.status_code == 200
    assert [row.left_reason for row in rows(site.engine, SubscriberRow)] == [why.value]


def test_unknown_leaving_reason_is_rejected(site):
    ada = site.reader()
    site.post(way_out(ada))

    answer = site.post(f"{way_out(ada)}/why", data={"why": "<script>"})

    assert answer.status_code == 422
    assert [row.left_reason for row in rows(site.engine, SubscriberRow)] == [None]
