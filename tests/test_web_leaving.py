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
from tests.newsroom import rows
from tests.sinks import Sink, open_sink
from tests.site import ADA, ELSEWHERE, Site, now, open_site

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
def test_one_post_is_enough_from_wherever_it_comes(site, body):
    """RFC 8058: no cookie, no login, no redirect, and any encoding that a mail service prefers."""
    ada = site.reader()

    answer = site.post(way_out(ada), headers=ELSEWHERE, **body)

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("body", [b"\x00" * 100_000, b"List-Unsubscribe=", b"{"])
@pytest.mark.parametrize("kind", ["multipart/form-data", "application/json", ""])
def test_a_malformed_body_does_not_keep_anybody_in(site, body, kind):
    ada = site.reader()

    answer = site.post(way_out(ada), content=body, headers={"Content-Type": kind})

    assert answer.status_code == 200
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


def test_the_link_of_the_oldest_mail_still_works_after_every_key_was_changed(engine):
    ada = open_site(engine, secret_key="the first key").reader()
    later = open_site(engine, secret_key="another key altogether")

    assert later.post(way_out(ada)).status_code == 200
    assert status(later, ada) is SubscriberStatus.UNSUBSCRIBED


def test_leaving_again_and_again_is_leaving_once(site):
    ada = site.reader()
    site.post(way_out(ada), **URLENCODED)
    [left] = rows(site.engine, SubscriberRow)

    answers = [site.post(way_out(ada), **URLENCODED) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert rows(site.engine, SubscriberRow) == [left]


def test_whom_we_do_not_write_to_can_leave_all_the_same(site):
    ada = site.reader()
    site.suppress(ada)

    assert site.post(way_out(ada), **URLENCODED).status_code == 200
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


def test_a_mail_service_is_not_told_of_a_failure_when_its_reader_was_erased(site):
    ada = site.reader()
    signup.erase_by_id(site.engine, ada.id, now())

    answer = site.post(way_out(ada), headers=ELSEWHERE, **URLENCODED)

    assert answer.status_code == 200
    assert "<form" not in answer.text


@pytest.mark.parametrize("secret", ["nobody", "a", "a" * 21, "a" * 23, "%00" * 22])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_link_that_was_cut_short_is_told_so(site, method, secret):
    assert site.browser.request(method, f"/unsubscribe/{secret}").status_code == 404


# --- GET ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
def test_no_scanner_unsubscribes_anybody(site, method):
    ada = site.reader()

    site.browser.request(method, way_out(ada))

    assert status(site, ada) is SubscriberStatus.ACTIVE


def test_looking_shows_one_button_and_no_address(site):
    ada = site.reader()

    page = site.get(way_out(ada)).text

    assert page.count("<button") == page.count("<form") == 1
    assert "a•••@e•••.org" in page
    assert ADA not in page


# --- Nothing more is sent -----------------------------------------------------------------------


@pytest.fixture
def owed(site: Site) -> Site:
    """Return a site with one digest in its outbox."""
    site.announce()
    site.reader()
    site.publish()
    assert [row.status for row in site.owed()] == [DeliveryStatus.QUEUED]
    return site


def send(site: Site, sink: Sink, *, before_sending=lambda: None):
    """Drain the outbox with the real dispatcher; call `before_sending` between claim and dot."""
    loaded = settings.load(None, smtp_url=f"smtp://127.0.0.1:{sink.port}", smtp_connections=1)
    dispatcher = Services(loaded, site.engine).dispatcher()

    def compose(delivery, digest):
        before_sending()
        return dispatcher.compose(delivery, digest)

    return replace(dispatcher, compose=compose).drain(once=True)


def test_what_is_owed_is_cancelled_with_the_click(owed):
    [reader] = rows(owed.engine, SubscriberRow)

    owed.post(way_out(reader))

    [digest] = owed.owed()
    assert (digest.status, digest.reason) == (DeliveryStatus.CANCELLED, "left")
    with open_sink() as sink:
        assert send(owed, sink).sent == 0
        assert sink.connections == 0


def test_a_click_between_claim_and_dot_stops_the_mail(owed):
    """The mail is claimed, composed and half sent; its transaction ends without the dot."""
    [reader] = rows(owed.engine, SubscriberRow)

    with open_sink() as sink:
        tally = send(owed, sink, before_sending=lambda: owed.post(way_out(reader)))

    assert (tally.sent, sink.taken) == (0, [])
    assert [row.status for row in owed.owed()] == [DeliveryStatus.CANCELLED]


def test_a_click_after_the_dot_was_marked_is_answered_though_that_mail_arrives(owed):
    """The only message that may still arrive: it was already on the wire."""
    [reader] = rows(owed.engine, SubscriberRow)
    answers = []

    with open_sink(on_dot=lambda: answers.append(owed.post(way_out(reader)))) as sink:
        assert send(owed, sink).sent == 1
        owed.publish()
        assert send(owed, sink).sent == 0

    assert [answer.status_code for answer in answers] == [200]
    assert len(sink.taken) == 1


# --- Undo ---------------------------------------------------------------------------------------


def test_a_mistake_can_be_taken_back_with_everything_as_it_was(site):
    ada = site.reader(ADA, "retrieval", "stones", hour=6, timezone="Asia/Tokyo")
    page = site.post(way_out(ada)).text
    assert f'action="{way_out(ada)}/undo"' in page

    answer = site.post(f"{way_out(ada)}/undo")

    assert "You are subscribed again" in answer.text
    assert "06:00 Asia/Tokyo" in answer.text
    back = site.again(ada)
    assert (back.status, back.schedule) == (SubscriberStatus.ACTIVE, ada.schedule)
    assert back.secret == ada.secret


def test_the_button_is_gone_after_a_month(site):
    ada = site.reader()
    site.post(way_out(ada))
    site.alter(ada, left_at=now() - timedelta(days=31))

    page, answer = site.get(way_out(ada)), site.post(f"{way_out(ada)}/undo")

    assert "/undo" not in page.text
    assert answer.status_code == 410
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("act", ["undo", "why"])
def test_looking_brings_nobody_back(site, method, act):
    ada = site.reader()
    site.post(way_out(ada))

    assert site.browser.request(method, f"{way_out(ada)}/{act}").status_code == 405
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("act", ["undo", "why"])
def test_only_our_own_page_can_take_it_back(site, act):
    """The exception of one-click from the origin check holds for unsubscribing only."""
    ada = site.reader()
    site.post(way_out(ada))

    answer = site.post(f"{way_out(ada)}/{act}", headers=ELSEWHERE, data={"why": "other"})

    assert answer.status_code == 403
    assert status(site, ada) is SubscriberStatus.UNSUBSCRIBED


def test_who_never_confirmed_gets_no_way_back(site):
    site.ask()
    [bob] = rows(site.engine, SubscriberRow)

    page = site.post(way_out(bob)).text

    assert "/undo" not in page
    assert site.post(f"{way_out(bob)}/undo").status_code == 410


# --- Reason -------------------------------------------------------------------------------------


@pytest.mark.parametrize("why", list(signup.Why))
def test_the_one_question_has_given_answers(site, why):
    ada = site.reader()
    page = site.post(way_out(ada)).text

    answer = site.post(f"{way_out(ada)}/why", data={"why": why.value})

    assert f'value="{why.value}"' in page
    assert answer.status_code == 200
    assert [row.left_reason for row in rows(site.engine, SubscriberRow)] == [why.value]


def test_the_one_question_takes_no_other_words(site):
    ada = site.reader()
    site.post(way_out(ada))

    answer = site.post(f"{way_out(ada)}/why", data={"why": "<script>"})

    assert answer.status_code == 422
    assert [row.left_reason for row in rows(site.engine, SubscriberRow)] == [None]
