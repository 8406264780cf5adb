"""Feedback about a delivery: the proof that it is ours, and its effect on the address."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import insert

from pipeline import signup
from pipeline.domain import (
    DeliveryStatus,
    Notice,
    NoticeKind,
    Origin,
    RequestKind,
    StrikeKind,
    SubscriberStatus,
    SuppressionReason,
    Verdict,
)
from pipeline.errors import NotFoundError
from pipeline.feedback.process import Effect, Event, Feedback, strike_of_bounce
from pipeline.feedback.suppression import lift, suppress
from pipeline.storage import addresses, deliveries, events, requests, suppressions
from pipeline.storage.schema import EventRow, RefusalRow, StrikeRow, SubscriberRow
from tests.support import outbox
from tests.support.dying import dying
from tests.support.factories import KEY, NOW, SENDER, TODAY
from tests.support.newsroom import rows
from tests.support.outbox import add_confirmation, add_delivery, add_subscriber, row

DAY = timedelta(days=1)
ADA = "ada@example.org"
HASH = addresses.address_hash(ADA, KEY)
HARD = NoticeKind.HARD
SECRET = "abcdefghijklmnopqrstuv"
ABOUT_ADDRESS = set(map(Verdict, ("hard", "no domain", "disabled", "full", "soft")))


@pytest.fixture
def feedback(engine) -> Feedback:
    return Feedback(engine, SENDER, KEY)


@pytest.fixture
def ada(engine) -> int:
    return add_subscriber(engine, ADA, address_hash=HASH, secret=SECRET)


def send(engine, subscriber_id, days=0, **changes):
    """Add a digest accepted `days` later, in an edition with another accepted one."""
    outbox.accept_others(engine, TODAY + days * DAY, count=1)
    at = NOW + days * DAY
    values = {"edition_on": TODAY + days * DAY, "status": "sent", "sent_at": at}
    values |= {"marked_at": at, "created_at": at}
    return add_delivery(engine, subscriber_id=subscriber_id, **{**values, **changes})


def about(engine, delivery_id, kind=HARD, **changes) -> Notice:
    """Return a notice that came back to the envelope address of this delivery."""
    envelope = SENDER.envelope(delivery_id, row(engine, delivery_id).dedupe_key)
    return Notice(kind, envelope=envelope, **changes)


def status_of(engine, subscriber_id):
    (found,) = (r for r in rows(engine, SubscriberRow) if r.id == subscriber_id)
    return found.status


# --- The meaning of a notice --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notice", "strike"),
    [
        (Notice(HARD, verdict=Verdict.HARD), StrikeKind.HARD),
        (Notice(HARD), StrikeKind.HARD),
        (Notice(HARD, status="5.2.1", verdict=Verdict.HARD), StrikeKind.DISABLED),
        (Notice(HARD, status="5.4.4", verdict=Verdict.NO_DOMAIN), StrikeKind.DISABLED),
        (Notice(HARD, status="5.2.1", verdict=Verdict.DISABLED), StrikeKind.DISABLED),
        (Notice(NoticeKind.SOFT, status="5.2.1", verdict=Verdict.SOFT), StrikeKind.DISABLED),
        (Notice(NoticeKind.SOFT, verdict=Verdict.SOFT), StrikeKind.SOFT),
        (Notice(NoticeKind.SOFT, verdict=Verdict.FULL), StrikeKind.FULL),
        (Notice(NoticeKind.SOFT), StrikeKind.SOFT),
        (Notice(NoticeKind.COMPLAINT), None),
        (Notice(NoticeKind.UNSUBSCRIBE), None),
        (Notice(NoticeKind.DELAYED, status="4.4.1"), None),
        (Notice(NoticeKind.AUTO_REPLY), None),
        (Notice(NoticeKind.NONE), None),
    ],
)
def test_strike_of_each_notice(notice, strike):
    assert strike_of_bounce(notice) is strike


@pytest.mark.parametrize("verdict", sorted(set(Verdict) - ABOUT_ADDRESS))
@pytest.mark.parametrize("kind", [HARD, NoticeKind.SOFT])
def test_verdicts_about_the_sender_do_not_count_against_the_address(kind, verdict):
    """Even if the status is one that would count, such as 5.2.1."""
    for status in (None, "5.7.1", "5.2.1", "4.2.2"):
        assert strike_of_bounce(Notice(kind, status=status, verdict=verdict)) is None


# --- Finding the delivery -----------------------------------------------------------------------


def test_hard_bounce_to_the_envelope_suppresses_and_cancels_queued_mail(engine, feedback, ada):
    bounced = send(engine, ada)
    owed = add_delivery(engine, subscriber_id=ada)
    leased = add_delivery(engine, subscriber_id=ada, status="leased", lease="somebody's")

    assert feedback.apply(about(engine, bounced), NOW) is Effect.SUPPRESSED

    assert outbox.suppressions(engine) == {HASH: "hard"}
    assert outbox.statuses(engine) == ["sent", "sent", "suppressed", "suppressed"]
    assert row(engine, bounced).reason == "accepted, then hard"
    assert row(engine, owed).reason == row(engine, leased).reason == "suppressed"
    with engine.begin() as conn:
        marked = deliveries.mark(conn, [leased], "somebody's", DAY, NOW)
    assert marked == set(), "the dot may not be sent any more"


def test_hard_bounce_with_our_message_id_suppresses(engine, feedback, ada):
    bounced = send(engine, ada)
    message_id = SENDER.message_id(row(engine, bounced).dedupe_key)

    assert feedback.apply(Notice(HARD, message_id=message_id), NOW) is Effect.SUPPRESSED


@pytest.mark.parametrize(
    "notice",
    [
        Notice(HARD, recipients=(ADA,), status="5.1.1"),
        Notice(HARD, recipients=(ADA,), envelope="bounces@example.org"),
        Notice(HARD, recipients=(ADA,), envelope="bounces+aaaaaaaaaaaaaaaa@example.org"),
        Notice(HARD, recipients=(ADA,), message_id="<digest.2030-01-02.1@example.org>"),
        Notice(NoticeKind.COMPLAINT, recipients=(ADA,), message_id="<T00001@example.org>"),
        Notice(NoticeKind.UNSUBSCRIBE, recipients=(ADA,)),
        Notice(NoticeKind.UNSUBSCRIBE, recipients=(ADA,), secret=SECRET[::-1]),
        Notice(NoticeKind.UNSUBSCRIBE, recipients=(ADA,), secret="\0\udc80"),
        Notice(HARD, message_id="\0\udc80@", envelope="\0+\udc80@", recipients=("\udc80@\0",)),
    ],
)
def test_notice_without_proof_has_no_effect(engine, feedback, ada, notice):
    send(engine, ada, queue_id="T00001")

    assert feedback.apply(notice, NOW) is Effect.NOT_OURS
    assert feedback.take_mail(b"the same in a mail", notice, NOW) is Effect.NOT_OURS

    assert outbox.suppressions(engine) == {}
    assert rows(engine, StrikeRow) == []
    assert status_of(engine, ada) == SubscriberStatus.ACTIVE


def test_bounce_of_one_delivery_affects_no_other_recipient(engine, feedback, ada):
    """A bounce of one's own mail may name any recipient, but proves only its own delivery."""
    mine = send(engine, add_subscriber(engine, "eve@example.org", address_hash="eve"))

    feedback.apply(about(engine, mine, recipients=(ADA,)), NOW)

    assert outbox.suppressions(engine) == {"eve": "hard"}


def test_queue_id_is_accepted_only_with_the_matching_recipient(engine, feedback, ada):
    send(engine, ada, queue_id="0100-000000")
    claim = Notice(HARD, recipients=("Ada@Example.org",))

    def take(id_, notice, queue_id):
        return feedback.take("ses", Event(id_, "Bounce", "{}", (notice,), queue_id), NOW)

    assert take("1", Notice(HARD, recipients=("eve@example.org",)), "0100-000000") == (
        Effect.NOT_OURS,
    )
    assert take("2", claim, "0200-000000") == (Effect.NOT_OURS,)
    assert take("3", claim, "0100-000000") == (Effect.SUPPRESSED,)


# --- Effects ------------------------------------------------------------------------------------


def test_the_third_soft_bounce_in_a_row_suppresses(engine, feedback, ada):
    soft = {"kind": NoticeKind.SOFT, "verdict": Verdict.SOFT, "status": "5.0.0"}

    effects = [
        feedback.apply(about(engine, send(engine, ada, days), **soft), NOW + days * DAY)
        for days in range(3)
    ]

    assert effects == [Effect.COUNTED, Effect.COUNTED, Effect.SUPPRESSED]
    assert outbox.suppressions(engine) == {HASH: "soft"}


def test_full_mailbox_is_suppressed_after_two_weeks(engine, feedback, ada):
    full = {"kind": NoticeKind.SOFT, "verdict": Verdict.FULL, "status": "5.2.2"}

    effects = [
        feedback.apply(about(engine, send(engine, ada, days), **full), NOW + days * DAY)
        for days in range(15)
    ]

    assert effects == [*[Effect.COUNTED] * 14, Effect.SUPPRESSED]
    assert outbox.suppressions(engine) == {HASH: "full"}


def test_disabled_mailbox_is_suppressed_at_the_second_edition(engine, feedback, ada):
    off = {"kind": NoticeKind.SOFT, "verdict": Verdict.SOFT, "status": "5.2.1"}

    effects = [
        feedback.apply(about(engine, send(engine, ada, days), **off), NOW) for days in range(2)
    ]

    assert effects == [Effect.COUNTED, Effect.SUPPRESSED]
    assert outbox.suppressions(engine) == {HASH: "hard"}


def test_missing_domain_is_suppressed_at_the_second_edition(engine, feedback, ada):
    lost = {"kind": HARD, "verdict": Verdict.NO_DOMAIN, "status": "5.4.4"}

    effects = [
        feedback.apply(about(engine, send(engine, ada, days), **lost), NOW) for days in range(2)
    ]

    assert effects == [Effect.COUNTED, Effect.SUPPRESSED]
    assert outbox.suppressions(engine) == {HASH: "hard"}


def test_complaint_unsubscribes_and_is_not_lifted_by_forgive(engine, feedback, ada):
    owed = add_delivery(engine, subscriber_id=ada)

    effect = feedback.apply(about(engine, send(engine, ada), NoticeKind.COMPLAINT), NOW)

    assert effect is Effect.SUPPRESSED
    assert status_of(engine, ada) == SubscriberStatus.UNSUBSCRIBED
    assert outbox.suppressions(engine) == {HASH: "complaint"}
    assert row(engine, owed).status == DeliveryStatus.SUPPRESSED
    with engine.begin() as conn:
        suppressions.lift_after_confirmation(conn, HASH)
    assert outbox.suppressions(engine) == {HASH: "complaint"}


@pytest.mark.parametrize("kind", [NoticeKind.DELAYED, NoticeKind.AUTO_REPLY, NoticeKind.NONE])
def test_informational_notice_has_no_effect(engine, feedback, ada, kind):
    sent = send(engine, ada, reason="accepted")

    assert feedback.apply(about(engine, sent, kind), NOW) is Effect.NOTED

    assert row(engine, sent).reason == "accepted"
    assert outbox.suppressions(engine) == {}


def test_unsubscribe_by_secret_cancels_queued_digests(engine, feedback, ada):
    owed = add_delivery(engine, subscriber_id=ada)

    for _ in range(2):
        notice = Notice(NoticeKind.UNSUBSCRIBE, secret=SECRET)
        assert feedback.apply(notice, NOW) is Effect.LEFT

    assert status_of(engine, ada) == SubscriberStatus.UNSUBSCRIBED
    assert (row(engine, owed).status, row(engine, owed).reason) == ("cancelled", "left")


def test_unsubscribe_reply_is_traced_by_its_envelope(engine, feedback, ada):
    sent = send(engine, ada)

    assert feedback.apply(about(engine, sent, NoticeKind.UNSUBSCRIBE), NOW) is Effect.LEFT

    assert status_of(engine, ada) == SubscriberStatus.UNSUBSCRIBED


@pytest.mark.parametrize("kind", [HARD, NoticeKind.DELAYED, NoticeKind.COMPLAINT])
def test_notice_settles_an_uncertain_delivery_as_sent(engine, feedback, ada, kind):
    uncertain = send(engine, ada, status="uncertain", sent_at=None, lease="gone")

    feedback.apply(about(engine, uncertain, kind), NOW + DAY)

    settled = row(engine, uncertain)
    assert (settled.status, settled.sent_at, settled.lease) == ("sent", NOW, None)
    came_back = f"accepted, then {kind}"
    is_delayed = kind is NoticeKind.DELAYED
    assert settled.reason == ("accepted, as a later event shows" if is_delayed else came_back)


def test_bounce_does_not_settle_a_delivery_in_progress(engine, feedback, ada):
    """A webhook can arrive before the dispatcher has written the 250."""
    sending = send(engine, ada, status="sending", sent_at=None, lease="mine")

    assert feedback.apply(about(engine, sending), NOW) is Effect.SUPPRESSED

    assert row(engine, sending).status == DeliveryStatus.SENDING
    accepted = deliveries.Settlement(sending, DeliveryStatus.SENT, "accepted")
    with engine.begin() as conn:
        assert deliveries.settle(conn, [accepted], "mine", NOW).total() == 1


# --- Outdated addresses -------------------------------------------------------------------------


def test_bounce_of_the_old_address_does_not_suppress_the_new_one(engine, feedback, ada):
    old = send(engine, ada)
    with engine.begin() as conn:
        moved = requests.add(
            conn, RequestKind.NEW_ADDRESS, ada, email="", choices={}, ip=None,
                origin=Origin.FORM,
            expires_at=NOW + DAY, now=NOW,
        )  # fmt: skip
        assert requests.use(conn, moved, NOW + timedelta(hours=1), wording=None)
    new = send(engine, ada, days=1)

    assert feedback.apply(about(engine, old), NOW + DAY) is Effect.NOTED
    assert outbox.suppressions(engine) == {}
    assert feedback.apply(about(engine, new), NOW + DAY) is Effect.SUPPRESSED


def test_bounce_from_before_the_confirmation_is_only_noted(engine, feedback):
    subscriber = add_subscriber(engine, ADA, confirmed_at=NOW + timedelta(hours=1))
    before = send(engine, subscriber)

    assert feedback.apply(about(engine, before), NOW + DAY) is Effect.NOTED
    assert (
        feedback.apply(about(engine, before, NoticeKind.COMPLAINT), NOW + DAY) is Effect.SUPPRESSED
    )


def test_notice_about_an_erased_subscriber_is_only_noted(engine, feedback, ada):
    sent = send(engine, ada)
    signup.erase_by_id(engine, ada, NOW)

    for kind in (HARD, NoticeKind.COMPLAINT):
        assert feedback.apply(about(engine, sent, kind), NOW) is Effect.NOTED

    assert set(outbox.suppressions(engine).values()) == {"erased"}


@pytest.mark.parametrize("verdict", sorted({*Verdict} - {Verdict.HARD}))
def test_soft_bounce_of_a_new_address_is_only_noted(engine, feedback, ada, verdict):
    """It has no edition to count, so no address is suppressed."""
    other = send(engine, ada, address="new@example.org", kind="new-address", edition_on=None)

    effect = feedback.apply(about(engine, other, NoticeKind.SOFT, verdict=verdict), NOW)

    assert effect is Effect.NOTED
    assert outbox.suppressions(engine) == {}


def test_complaint_about_a_new_address_spares_the_current_one(engine, feedback, ada):
    other = send(engine, ada, address="new@example.org", kind="new-address", edition_on=None)

    effect = feedback.apply(about(engine, other, NoticeKind.COMPLAINT), NOW)

    assert effect is Effect.SUPPRESSED
    new = addresses.address_hash("new@example.org", KEY)
    assert outbox.suppressions(engine) == {new: "complaint"}
    assert status_of(engine, ada) == SubscriberStatus.ACTIVE


def test_soft_bounce_of_a_confirmation_is_only_noted(engine, feedback):
    confirmation = add_confirmation(engine, status="sent", sent_at=NOW)
    soft = about(engine, confirmation, NoticeKind.SOFT, verdict=Verdict.SOFT)

    assert feedback.apply(soft, NOW) is Effect.NOTED


# --- Exactly once -------------------------------------------------------------------------------


def hard_event(engine, delivery_id, id_="1"):
    return Event(id_, "Bounce", f"to {ADA}", (about(engine, delivery_id, recipients=(ADA,)),))


def test_event_is_applied_once_even_if_its_suppression_was_lifted(engine, feedback, ada):
    sent = send(engine, ada)

    assert feedback.take("ses", hard_event(engine, sent), NOW) == (Effect.SUPPRESSED,)
    lift(engine, ADA, KEY)
    assert feedback.take("ses", hard_event(engine, sent), NOW) == (Effect.KNOWN,)

    assert outbox.suppressions(engine) == {}
    (kept,) = rows(engine, EventRow)
    assert (kept.provider, kept.event_id, kept.effect) == ("ses", "1", "suppressed")
    assert (kept.delivery_id, kept.subscriber_id, kept.address_hash) == (sent, ada, HASH)
    assert feedback.take("generic", hard_event(engine, sent), NOW) == (Effect.SUPPRESSED,)


def test_event_is_stored_with_its_effect_and_subscriber(engine, feedback, ada):
    bounced = send(engine, ada)
    notices = (about(engine, bounced, recipients=("Ada@example.org",)), Notice(NoticeKind.NONE))
    raw = '{"to": "ada@example.org"}'

    done = feedback.take("ses", Event("1", "Bounce", raw, notices), NOW)
    assert feedback.take("ses", Event("2", "Delivery", raw), NOW + DAY) == ()
    stranger = Notice(NoticeKind.UNSUBSCRIBE, secret=SECRET)
    assert feedback.take("ses", Event("3", "Leave", raw, (stranger,)), NOW) == (Effect.LEFT,)

    assert done == (Effect.SUPPRESSED, Effect.NOT_OURS)
    first, second, third = sorted(rows(engine, EventRow), key=lambda one: one.event_id)
    assert (first.effect, first.delivery_id, first.subscriber_id) == (
        "not ours, suppressed", bounced, ada
    )  # fmt: skip
    assert (first.address_hash, first.raw, first.received_at) == (HASH, raw, NOW)
    assert (second.effect, second.delivery_id, second.subscriber_id) == ("noted", None, None)
    assert (second.address_hash, "ada" in second.raw) == (None, False)
    assert (third.effect, third.delivery_id, third.subscriber_id) == ("left", None, ada)
    assert third.raw == raw


@pytest.mark.parametrize(
    ("notice", "wording"),
    [
        ({"reason": "550 5.1.1 <ada@example.org> unknown"}, "550 5.1.1 # unknown"),
        ({"status": "5.1.1", "verdict": Verdict.HARD}, "5.1.1 hard"),
        ({"status": "5.1.1"}, "5.1.1"),
        ({}, ""),
    ],
)
def test_held_bounce_is_recorded_with_its_wording_or_codes(engine, feedback, ada, notice, wording):
    """The refusal is held if no delivery of its edition was accepted."""
    bounced = add_delivery(
        engine, subscriber_id=ada, status="sent", sent_at=NOW, domain="example.org"
    )

    assert feedback.apply(about(engine, bounced, **notice), NOW) is Effect.HELD

    (refusal,) = rows(engine, RefusalRow)
    assert (refusal.delivery_id, refusal.edition_on, refusal.address_hash) == (bounced, TODAY, HASH)
    assert (refusal.domain, refusal.kind, refusal.ends_as) == ("example.org", "hard", None)
    assert (refusal.wording, refusal.server, refusal.at) == (wording, "", NOW)
    assert outbox.suppressions(engine) == {}


def test_concurrent_copies_of_an_event_are_applied_once(engine, feedback, ada):
    soft = about(engine, send(engine, ada), NoticeKind.SOFT, verdict=Verdict.SOFT)
    together = threading.Barrier(4)

    def take(_):
        together.wait()
        return feedback.take("ses", Event("1", "Bounce", "", (soft,)), NOW)

    with ThreadPoolExecutor(4) as hooks:
        effects = sorted(hooks.map(take, range(4)))

    assert effects == [(Effect.COUNTED,), *[(Effect.KNOWN,)] * 3]


def test_crash_at_any_statement_rolls_back_the_whole_event(engine, feedback, ada):
    """An event that was rolled back is applied when it comes again."""
    sent = send(engine, ada)
    owed = add_delivery(engine, subscriber_id=ada)
    statements = 0
    while True:
        with dying(engine, statements) as seen:
            feedback.take("ses", hard_event(engine, sent), NOW)
        if len(seen) <= statements:
            break
        assert rows(engine, EventRow) == []
        assert outbox.suppressions(engine) == {}
        assert row(engine, owed).status == DeliveryStatus.QUEUED
        statements += 1

    assert statements > 5
    assert outbox.suppressions(engine) == {HASH: "hard"}
    assert row(engine, owed).status == DeliveryStatus.SUPPRESSED


def test_concurrent_bounces_and_marks_agree_on_each_delivery(engine, feedback):
    """Each mail is either marked and sent or cancelled, and no transaction deadlocks."""
    readers = [add_subscriber(engine) for _ in range(12)]
    bounced = [send(engine, reader) for reader in readers]
    owed = [
        add_delivery(engine, subscriber_id=reader, status="leased", lease="mine")
        for reader in readers
    ]

    def mark(id_):
        with engine.begin() as conn:
            return deliveries.mark(conn, [id_], "mine", DAY, NOW)

    with ThreadPoolExecutor(4) as both:
        marks = [both.submit(mark, id_) for id_ in owed]
        effects = [both.submit(feedback.apply, about(engine, id_), NOW) for id_ in bounced]
        marked = set().union(*(one.result() for one in marks))

    assert {one.result() for one in effects} == {Effect.SUPPRESSED}
    for id_ in owed:
        assert row(engine, id_).status == ("sending" if id_ in marked else "suppressed")


# --- Stored events ------------------------------------------------------------------------------


def test_erase_redacts_stored_events_but_keeps_their_ids(engine, feedback, ada):
    sent = send(engine, ada)
    feedback.take("ses", hard_event(engine, sent), NOW)
    stray = Event("2", "Bounce", f"to {ADA}", (Notice(HARD, recipients=(ADA,)),))
    assert feedback.take("ses", stray, NOW) == (Effect.NOT_OURS,)
    assert [event["kind"] for event in signup.export(engine, ada)["news"]] == ["Bounce"]

    signup.erase_by_id(engine, ada, NOW)

    assert [(kept.raw, kept.address_hash) for kept in rows(engine, EventRow)] == [("", None)] * 2
    assert feedback.take("ses", hard_event(engine, sent), NOW) == (Effect.KNOWN,)


@pytest.mark.parametrize("notices", [(), (Notice(HARD, recipients=(ADA,)),)])
def test_untraced_event_is_stored_without_addresses(engine, feedback, notices):
    """It may concern an erased subscriber, so no later erasure would redact it."""
    raw = json.dumps({"to": [ADA, f"<{ADA}>"], "why": f"smtp;550 {ADA}: gone", "at": "12:30"})

    feedback.take("ses", Event("1", "Bounce", raw, notices), NOW)

    (kept,) = rows(engine, EventRow)
    assert ADA not in kept.raw
    assert json.loads(kept.raw) == {
        "to": ["<address>", "<<address>>"],
        "why": "smtp;550 <address>: gone",
        "at": "12:30",
    }


def test_traced_event_is_stored_unchanged(engine, feedback, ada):
    feedback.take("ses", hard_event(engine, send(engine, ada)), NOW)

    (kept,) = rows(engine, EventRow)
    assert kept.raw == f"to {ADA}"


def test_drop_events_deletes_old_events_up_to_the_limit(engine, feedback):
    for days in range(3):
        feedback.take("ses", Event(str(days), "Send", ""), NOW + days * DAY)

    with engine.begin() as conn:
        dropped = [events.delete_old(conn, before=NOW + 2 * DAY, limit=1) for _ in range(3)]

    assert dropped == [1, 1, 0]
    assert [kept.event_id for kept in rows(engine, EventRow)] == ["2"]


def test_complaint_replaces_a_manual_suppression(engine, feedback, ada):
    outbox.suppress(engine, ada)

    feedback.apply(about(engine, send(engine, ada), NoticeKind.COMPLAINT), NOW)

    assert outbox.suppressions(engine) == {HASH: SuppressionReason.COMPLAINT}


# --- Actions of the operator --------------------------------------------------------------------


def test_manual_suppression_cancels_queued_deliveries_atomically(engine, ada):
    queued = add_delivery(engine, subscriber_id=ada)
    leased = add_delivery(engine, subscriber_id=ada, status="leased", lease="mine")
    statements = 0
    while True:
        with dying(engine, statements) as seen:
            suppress(engine, ADA.upper(), KEY, NOW)
        if len(seen) <= statements:
            break
        assert outbox.suppressions(engine) == {}
        assert outbox.statuses(engine) == ["queued", "leased"]
        statements += 1

    assert outbox.suppressions(engine) == {HASH: "manual"}
    assert [row(engine, id_).status for id_ in (queued, leased)] == ["suppressed"] * 2


@pytest.mark.parametrize("reason", SuppressionReason)
def test_lift_removes_any_suppression_and_its_strikes(engine, ada, reason):
    with engine.begin() as conn:
        suppressions.suppress(conn, HASH, reason, NOW)
        conn.execute(
            insert(StrikeRow).values(
                address_hash=HASH, edition_on=TODAY, kind=StrikeKind.SOFT, noted_at=NOW
            )
        )

    lift(engine, ADA, KEY)

    assert outbox.suppressions(engine) == {}
    assert rows(engine, StrikeRow) == []
    with pytest.raises(NotFoundError):
        lift(engine, ADA, KEY)


def test_complaint_about_a_new_address_suppresses_only_that_address(engine, feedback, ada):
    new = send(engine, ada, address="new@example.org", kind="new-address", edition_on=None)
    blank = send(engine, ada, address="", kind="new-address", edition_on=None)

    assert feedback.apply(about(engine, new, NoticeKind.COMPLAINT), NOW) is Effect.SUPPRESSED
    assert feedback.apply(about(engine, blank, NoticeKind.COMPLAINT), NOW) is Effect.NOTED

    hash_ = addresses.address_hash("new@example.org", KEY)
    assert outbox.suppressions(engine) == {hash_: "complaint"}
    assert status_of(engine, ada) == SubscriberStatus.ACTIVE


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (NoticeKind.SOFT, Verdict.SOFT),
        (NoticeKind.SOFT, Verdict.FULL),
        (NoticeKind.HARD, Verdict.BLOCKED),
    ],
)
def test_soft_bounce_of_a_new_address_adds_no_strike(engine, feedback, ada, kind, verdict):
    other = send(engine, ada, address="new@example.org", kind="new-address", edition_on=None)

    assert feedback.apply(about(engine, other, kind, verdict=verdict), NOW) is Effect.NOTED
    assert outbox.suppressions(engine) == {}
    assert rows(engine, StrikeRow) == []


def test_hard_bounce_of_a_new_address_suppresses_only_that_address(engine, feedback, ada):
    outbox.accept_others(engine, None)
    other = send(engine, ada, address="new@example.org", kind="new-address", edition_on=None)

    assert feedback.apply(about(engine, other), NOW) is Effect.SUPPRESSED
    new = addresses.address_hash("new@example.org", KEY)
    assert outbox.suppressions(engine) == {new: "hard"}
