"""Account changes: a new address, the account link, leaving and undo, personal data."""

from __future__ import annotations

import json
import threading
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event, update

from pipeline import editions, signup
from pipeline.domain import (
    DeliveryKind,
    DeliveryStatus,
    Frequency,
    StrikeKind,
    Subscriber,
    SubscriberStatus,
    SuppressionReason,
)
from pipeline.errors import ConflictError, InvalidTokenError, LimitError, NotFoundError
from pipeline.signup import Choices, UnsubscribeReason, parse_queries
from pipeline.signup.abuse_limits import Limits
from pipeline.storage import addresses, deliveries, suppressions
from pipeline.storage.deliveries import Settlement
from pipeline.storage.schema import (
    DeliveryRow,
    PendingConfirmationRow,
    RequestRow,
    StrikeRow,
    SubscriberRow,
    SuppressionRow,
    Table,
)
from tests.support.dying import dying
from tests.support.factories import NOW, TODAY, make_schedule, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, count, ingest, rows

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SOON = NOW - HOUR
ADA, NEW = "ada@example.org", "ada@new.example"
IP = "203.0.113.7"


def publish(engine: Engine, now=NOW) -> list[editions.SlotResult]:
    return list(editions.publish(engine, now=now, expiry=18 * HOUR, template="1"))


def mails(engine: Engine) -> list[tuple[str, str]]:
    return [(d.kind, d.status) for d in rows(engine, DeliveryRow, DeliveryRow.id)]


def claim(engine: Engine, now=NOW) -> list[str]:
    """Claim the due deliveries and return their addresses."""
    with engine.begin() as conn:
        return [d.email for d in deliveries.claim(conn, 100, "token", HOUR, now)]


def ask_new(engine: Engine, reader: Subscriber, email: str = NEW, now=NOW) -> int:
    signup.ask_new_address(
        engine, reader.id, email, ip=IP, suppression_key=SUPPRESSION_KEY, now=now
    )
    return max(row.id for row in rows(engine, RequestRow))


def ask(engine: Engine, email: str, now=NOW) -> None:
    signup.request_subscription(
        engine, email, Choices(), ip=IP, suppression_key=SUPPRESSION_KEY, now=now
    )


def find(engine: Engine, email: str = ADA) -> Subscriber:
    return signup.find(engine, email)[0]


# --- Pausing ------------------------------------------------------------------------------------


def test_a_pause_can_be_ended(engine: Engine):
    reader = add_reader(engine)

    paused = signup.pause(engine, reader.id, TODAY + 9 * DAY, NOW)
    resumed = signup.pause(engine, reader.id, None, NOW)

    assert (paused.paused_until, resumed.paused_until) == (TODAY + 9 * DAY, TODAY)
    assert signup.pause(engine, add_reader(engine, email=NEW).id, None, NOW).paused_until is None


def test_pause_until_today_or_earlier_ends_the_pause(engine: Engine):
    reader = add_reader(engine)
    signup.pause(engine, reader.id, TODAY + 9 * DAY, NOW)

    for until in (TODAY - 9 * DAY, TODAY):
        assert signup.pause(engine, reader.id, until, NOW).paused_until == TODAY
    assert signup.pause(engine, reader.id, TODAY + DAY, NOW).paused_until == TODAY + DAY


# --- Preferences --------------------------------------------------------------------------------


def version(engine: Engine, reader: Subscriber) -> str:
    return signup.choices_of(engine, reader.id).version


def test_second_change_from_the_same_form_version_is_rejected(engine: Engine):
    """Also if several are submitted at once."""
    reader, refused = add_reader(engine, "retrieval"), []
    seen = version(engine, reader)

    def change(query: str) -> None:
        try:
            signup.change(engine, reader.id, Choices(parse_queries((query,))), NOW, seen=seen)
        except ConflictError:
            refused.append(query)

    threads = [threading.Thread(target=change, args=[f"topic {n}"]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(refused) == 3
    (kept,) = find_topics(engine)
    assert kept not in refused
    assert version(engine, reader) != seen
    signup.change(
        engine, reader.id, Choices(parse_queries(("moss",))), NOW, seen=version(engine, reader)
    )
    signup.change(engine, reader.id, Choices(parse_queries(("fern",))), NOW)
    assert find_topics(engine) == ["fern"]


def find_topics(engine: Engine) -> list[str]:
    return list(signup.find(engine, ADA)[1])


def test_queued_link_mail_expires_after_one_day(engine: Engine):
    add_reader(engine)

    signup.ask_link(engine, ADA, ip=None, suppression_key=SUPPRESSION_KEY, now=NOW)

    assert [row.expires_at - NOW for row in rows(engine, DeliveryRow)] == [DAY]


def test_link_is_not_mailed_to_a_suppressed_subscriber(engine: Engine):
    add_reader(engine)
    with engine.begin() as conn:
        hash_ = addresses.address_hash(ADA, SUPPRESSION_KEY)
        suppressions.suppress(conn, hash_, SuppressionReason.HARD, NOW)

    signup.ask_link(engine, ADA, ip=None, suppression_key=SUPPRESSION_KEY, now=NOW)

    assert mails(engine) == []


# --- Another address ----------------------------------------------------------------------------


def test_new_address_takes_effect_when_confirmed(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR", now=SOON)
    ingest(engine, make_sighting())
    request_id = ask_new(engine, reader)
    assert claim(engine) == [NEW]
    publish(engine)

    first = signup.confirm_new_address(engine, request_id, NOW)
    again = signup.confirm_new_address(engine, request_id, NOW + 99 * HOUR)

    assert (first.first_time, again.first_time) == (True, False)
    assert find(engine, NEW).id == reader.id
    assert claim(engine) == [NEW]
    with pytest.raises(NotFoundError):
        find(engine)


@pytest.mark.parametrize("why", ["taken", "suppressed", "asked", "left"])
def test_new_address_request_that_is_not_allowed_queues_no_mail(engine: Engine, why: str):
    reader = add_reader(engine)
    if why == "taken":
        add_reader(engine, email=NEW)
    if why == "suppressed":
        with engine.begin() as conn:
            hash_ = addresses.address_hash(NEW, SUPPRESSION_KEY)
            suppressions.suppress(conn, hash_, SuppressionReason.HARD, NOW)
    if why == "asked":
        ask_new(engine, reader, now=SOON)
    if why == "left":
        signup.leave(engine, reader.secret, SOON)
    before = len(mails(engine))

    ask_new(engine, reader)

    assert len(mails(engine)) == before


def test_pending_signup_does_not_block_a_change_to_that_address(engine: Engine):
    """An address typed into the form is not a subscription until it is confirmed."""
    reader = add_reader(engine)
    ask(engine, NEW, now=NOW - 2 * DAY)

    signup.confirm_new_address(engine, ask_new(engine, reader), NOW)

    assert find(engine, NEW).id == reader.id
    assert count(engine, SubscriberRow) == 1


def test_new_address_taken_in_the_meantime_is_rejected(engine: Engine):
    reader = add_reader(engine)
    request_id = ask_new(engine, reader)
    other = add_reader(engine, email=NEW)

    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            signup.confirm_new_address(engine, request_id, NOW)

    assert (find(engine).id, find(engine, NEW).id) == (reader.id, other.id)


def test_request_of_another_kind_is_rejected(engine: Engine):
    reader = add_reader(engine)
    request_id = ask_new(engine, reader)
    ask(engine, "bob@example.org")

    with pytest.raises(InvalidTokenError):
        signup.confirm(engine, request_id, NOW)
    with pytest.raises(InvalidTokenError):
        signup.confirm_new_address(engine, request_id + 1, NOW)
    with pytest.raises(InvalidTokenError):
        signup.confirm_new_address(engine, request_id, NOW + 72 * HOUR)


def test_bounce_of_a_new_address_does_not_suppress_the_old_one(engine: Engine):
    """And if the old address is suppressed, the new one is still asked to confirm."""
    reader = add_reader(engine)
    with engine.begin() as conn:
        hash_ = addresses.address_hash(ADA, SUPPRESSION_KEY)
        suppressions.suppress(conn, hash_, SuppressionReason.HARD, NOW)
    ask_new(engine, reader)
    assert claim(engine) == [NEW]
    refused = Settlement(
        rows(engine, DeliveryRow)[0].id, DeliveryStatus.SUPPRESSED, "550",
        strike=StrikeKind.HARD,
    )  # fmt: skip

    with engine.begin() as conn:
        suppressions.lift(conn, hash_)
        deliveries.settle(conn, [refused], "token", NOW)

    assert count(engine, SuppressionRow) == 0


def test_confirmed_new_address_starts_without_strikes(engine: Engine):
    """An earlier owner may have let the mailbox overflow."""
    reader = add_reader(engine)
    with engine.begin() as conn:
        hash_ = addresses.address_hash(NEW, SUPPRESSION_KEY)
        strike = {"address_hash": hash_, "edition_on": TODAY, "kind": "full", "noted_at": NOW}
        conn.execute(StrikeRow.__table__.insert().values(strike))

    signup.confirm_new_address(engine, ask_new(engine, reader), NOW)

    assert count(engine, StrikeRow) == 0


@pytest.mark.parametrize("reason", [SuppressionReason.SOFT, SuppressionReason.COMPLAINT])
def test_confirming_lifts_a_later_suppression_of_the_new_address(
    engine: Engine, reason: SuppressionReason
):
    """Its owner has just proved that it receives mail; only a complaint is kept."""
    reader = add_reader(engine)
    request_id = ask_new(engine, reader)
    with engine.begin() as conn:
        hash_ = addresses.address_hash(NEW, SUPPRESSION_KEY)
        suppressions.suppress(conn, hash_, reason, NOW)

    signup.confirm_new_address(engine, request_id, NOW)

    assert count(engine, SuppressionRow) == (reason is SuppressionReason.COMPLAINT)


def test_queued_digest_is_throttled_by_the_domain_of_the_new_address(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR", now=SOON)
    ingest(engine, make_sighting())
    publish(engine)
    request_id = ask_new(engine, reader)

    signup.confirm_new_address(engine, request_id, NOW)

    domains = {row.kind: row.domain for row in rows(engine, DeliveryRow)}
    assert domains[DeliveryKind.DIGEST] == "new.example"


# --- The account link ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expected"), [("active", 1), ("left", 0), ("pending", 0)])
def test_preferences_link_is_mailed_only_to_active_readers_once_a_day(
    engine: Engine, kind: str, expected: int
):
    if kind == "pending":
        ask(engine, ADA, now=NOW - 2 * DAY)
    else:
        reader = add_reader(engine)
        if kind == "left":
            signup.leave(engine, reader.secret, SOON)

    for hours in (0, 1, 23):
        signup.ask_link(
            engine, ADA, ip=None, suppression_key=SUPPRESSION_KEY, now=NOW + hours * HOUR
        )

    assert [kind for kind, _ in mails(engine)].count("link") == expected


def test_link_request_runs_the_same_statements_for_any_address(engine: Engine):
    add_reader(engine)
    ask(engine, "pending@example.org", now=NOW - 2 * DAY)
    seen = []
    for number, email in enumerate((ADA, ADA, "pending@example.org", "nobody@example.org")):
        statements: list[str] = []
        listener = lambda *_, to=statements: to.append(" ".join(_[2].split()[:3]))  # noqa: E731
        event.listen(engine, "before_cursor_execute", listener)
        signup.ask_link(
            engine, email, ip=f"198.51.{number}.1", suppression_key=SUPPRESSION_KEY, now=NOW
        )
        event.remove(engine, "before_cursor_execute", listener)
        seen.append(statements)

    assert all(statements == seen[0] for statements in seen)
    assert mails(engine) == [("confirmation", "queued"), ("link", "queued")]


def test_signup_form_and_link_request_share_rate_limits(engine: Engine):
    given = {"ip": IP, "suppression_key": SUPPRESSION_KEY, "now": NOW, "limits": Limits(5, 20)}
    for number in range(5):
        signup.ask_link(engine, f"r{number}@example.org", **given)

    with pytest.raises(LimitError):
        signup.request_subscription(engine, ADA, Choices(), **given)


# --- Leaving ------------------------------------------------------------------------------------


def test_unsubscribe_can_be_undone_within_a_month(engine: Engine):
    for days in (20, 5):
        ingest(engine, make_sighting(f"3001.000{days:02}"), now=NOW - days * DAY)
    reader = add_reader(engine, "cat:cs.IR", now=NOW - 25 * DAY)
    signup.leave(engine, reader.secret, NOW - 24 * DAY)

    back = signup.undo(engine, reader.secret, SOON)
    again = signup.undo(engine, reader.secret, NOW)

    assert (back.status, back.cursor, back.next_slot_at) == (SubscriberStatus.ACTIVE, 1, NOW)
    assert again == back
    assert [outcome.papers for outcome in publish(engine)] == [("3001.00005",)]


def test_undo_for_a_weekly_reader_looks_back_two_weeks(engine: Engine):
    for days in (16, 10):
        ingest(engine, make_sighting(), now=NOW - days * DAY)
    weekly = make_schedule(frequency=Frequency.WEEKLY)
    reader = add_reader(engine, "cat:cs.IR", schedule=weekly, now=NOW - 29 * DAY)
    signup.leave(engine, reader.secret, NOW - 28 * DAY)

    assert signup.undo(engine, reader.secret, NOW).cursor == 1


def test_undo_is_rejected_after_a_month_or_without_confirmation(engine: Engine):
    """InvalidTokenError is raised after a month, or if the subscriber was never confirmed."""
    reader = add_reader(engine, now=NOW - 40 * DAY)
    signup.leave(engine, reader.secret, NOW - 30 * DAY)
    ask(engine, "bob@example.org")
    pending = find(engine, "bob@example.org")
    signup.leave(engine, pending.secret, NOW)

    for secret in (reader.secret, pending.secret):
        with pytest.raises(InvalidTokenError):
            signup.undo(engine, secret, NOW)
    with pytest.raises(NotFoundError):
        signup.undo(engine, "a guess", NOW)


def test_leaving_reason_is_kept_only_while_unsubscribed(engine: Engine):
    reader = add_reader(engine)

    signup.set_reason(engine, reader.secret, UnsubscribeReason.OTHER)
    assert rows(engine, SubscriberRow)[0].left_reason is None
    signup.leave(engine, reader.secret, NOW)
    signup.set_reason(engine, reader.secret, UnsubscribeReason.TOO_MANY)
    assert rows(engine, SubscriberRow)[0].left_reason == "too many"
    signup.undo(engine, reader.secret, NOW)
    assert rows(engine, SubscriberRow)[0].left_reason is None


def test_uncertain_confirmation_is_not_resent_after_unsubscribe(engine: Engine):
    ask(engine, ADA)
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(status=DeliveryStatus.UNCERTAIN))
    signup.leave(engine, find(engine).secret, NOW + HOUR)

    with engine.begin() as conn:
        deliveries.resend_uncertain(conn, ["confirmation"], NOW + HOUR)

    assert claim(engine, NOW + HOUR) == []


# --- Personal data ------------------------------------------------------------------------------


@pytest.mark.full
def test_preferences_show_the_last_ten_digests(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR", "Dense  retrieval", now=SOON)
    for day in range(12):
        ingest(engine, make_sighting(), now=NOW + day * DAY - 2 * HOUR)
        publish(engine, NOW + day * DAY)
        with engine.begin() as conn:
            conn.execute(update(DeliveryRow).values(status=DeliveryStatus.SENT))
    publish(engine, NOW + 12 * DAY)

    held = signup.choices_of(engine, reader.id)

    assert held.topics == (("cat:cs.ir", "cat:cs.IR"), ("dense retrieval", "Dense retrieval"))
    assert len(held.digests) == 10
    assert held.digests[0].edition_on == TODAY + 11 * DAY
    assert (held.digests[0].status, held.digests[0].papers) == (DeliveryStatus.SENT, 1)
    assert [skip.edition_on for skip in held.skips] == [TODAY + 12 * DAY]


def test_data_link_is_mailed_at_most_once_an_hour(engine: Engine):
    """Also after unsubscribing: a former reader may want to be erased."""
    reader = add_reader(engine)
    for minutes in (0, 5, 65):
        signup.ask_data_link(engine, reader.id, NOW + timedelta(minutes=minutes))
    assert mails(engine) == [("data-link", "queued")] * 2

    signup.leave(engine, reader.secret, NOW + 2 * HOUR)
    signup.ask_data_link(engine, reader.id, NOW + 3 * HOUR)

    assert claim(engine, NOW + 3 * HOUR) == [ADA]


def test_export_contains_all_stored_data(engine: Engine):
    ask(engine, ADA, now=NOW - DAY)
    (request,) = rows(engine, RequestRow)
    reader = signup.confirm(engine, request.id, NOW - DAY).subscriber
    signup.change(engine, reader.id, Choices(parse_queries(("cat:cs.IR",))), NOW - DAY)
    ingest(engine, make_sighting("3001.00001"), now=NOW - DAY)
    publish(engine)

    held = json.loads(json.dumps(signup.export(engine, reader.id)))

    assert held["subscriber"]["email"] == ADA
    assert [(t["query"], t["label"]) for t in held["topics"]] == [("cat:cs.ir", "cat:cs.IR")]
    assert [r["ip"] for r in held["requests"]] == [IP]
    picked = [[pick["paper"] for pick in mail["papers"]] for mail in held["mails"]]
    assert picked == [[], ["3001.00001"]]
    assert set(held["subscriber"]) == {*SubscriberRow.__table__.c.keys(), "pause_reason"}
    with pytest.raises(NotFoundError):
        signup.export(engine, 999)


def everything(engine: Engine) -> str:
    """Return every value of every table as text."""
    return "\n".join(repr(row) for table in Table.__subclasses__() for row in rows(engine, table))


def erasable(engine: Engine) -> Subscriber:
    """Return a reader with rows in every table that may contain personal data."""
    ask(engine, ADA, now=NOW - 2 * DAY)
    (request,) = rows(engine, RequestRow)
    reader = signup.confirm(engine, request.id, NOW - 2 * DAY).subscriber
    signup.change(engine, reader.id, Choices(parse_queries(("cat:cs.IR",))), NOW - 2 * DAY)
    publish(engine, NOW - DAY)
    ingest(engine, make_sighting())
    publish(engine)
    ask_new(engine, reader)
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(reply=f"250 ok for {ADA}"))
    return reader


@pytest.mark.parametrize("claimed", [False, True])
def test_erasing_removes_personal_data_from_all_tables(engine: Engine, claimed: bool):
    reader = erasable(engine)
    keys = {d.dedupe_key for d in rows(engine, DeliveryRow)}
    if claimed:
        claim(engine)

    signup.erase_by_id(engine, reader.id, NOW)

    left = everything(engine)
    assert not [word for word in (ADA, NEW, "ada@", "cat:cs.IR", reader.secret) if word in left]
    assert Counter(status for _, status in mails(engine)) == {"cancelled": 3}
    assert {d.dedupe_key for d in rows(engine, DeliveryRow)} == keys
    assert count(engine, PendingConfirmationRow) == 1  # for the new address: counters stay
    for lost in (signup.export, signup.choices_of):
        with pytest.raises(NotFoundError):
            lost(engine, reader.id)
    with pytest.raises(NotFoundError):
        signup.erase_by_id(engine, reader.id, NOW)


def test_links_of_an_erased_reader_are_rejected_for_later_requests(engine: Engine):
    """By default SQLite assigns the id of a deleted row again."""
    gone = erasable(engine)
    old_requests = [row.id for row in rows(engine, RequestRow)]
    signup.erase_by_id(engine, gone.id, NOW)

    ask(engine, "bob@example.org")

    assert find(engine, "bob@example.org").id != gone.id
    assert max(row.id for row in rows(engine, RequestRow)) not in old_requests
    for request_id in old_requests:
        with pytest.raises(InvalidTokenError):
            signup.confirm(engine, request_id, NOW)
        with pytest.raises(InvalidTokenError):
            signup.confirm_new_address(engine, request_id, NOW)


def test_erased_reader_can_sign_up_again(engine: Engine):
    signup.erase_by_id(engine, erasable(engine).id, NOW)

    ask(engine, ADA, now=NOW + HOUR)

    assert find(engine).status is SubscriberStatus.PENDING
    assert mails(engine)[-1] == ("confirmation", "queued")


@pytest.mark.parametrize("after", range(1, 9))
def test_crash_during_erasing_changes_nothing(engine: Engine, after: int):
    reader = erasable(engine)
    before = everything(engine)
    with dying(engine, after):
        signup.erase_by_id(engine, reader.id, NOW)

    assert everything(engine) == before


def test_erasing_concurrently_with_compilation_leaves_no_queued_digest(engine: Engine):
    reader = add_reader(engine, "cat:cs.IR", now=SOON)
    ingest(engine, make_sighting())
    threads = [
        threading.Thread(target=publish, args=[engine]),
        threading.Thread(target=signup.erase_by_id, args=[engine, reader.id, NOW]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert {status for _, status in mails(engine)} <= {"cancelled"}
    assert "cat:cs.IR" not in everything(engine)


@pytest.mark.full
def test_new_topics_per_day_are_limited(engine: Engine):
    """Each is matched to a month of papers; if a topic is followed already, saving it is free."""
    reader = add_reader(engine, "retrieval")

    def change(*queries: str, now=NOW) -> None:
        signup.change(engine, reader.id, Choices(parse_queries(queries)), now)

    for day in range(2):
        change(*(f"first {day} {n}" for n in range(50)), now=NOW + day * DAY)
        change(*(f"second {day} {n}" for n in range(50)), now=NOW + day * DAY)
    for _ in range(9):
        change(*(f"second 1 {n}" for n in range(50)), now=NOW + DAY)
    with pytest.raises(LimitError):
        change("third", now=NOW + DAY)

    assert len(signup.find(engine, reader.email)[1]) == 50
    change("third", now=NOW + 2 * DAY)
