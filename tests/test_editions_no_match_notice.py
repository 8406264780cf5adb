"""The notice after a week without matches: recipients, when it is due, and its content."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from pipeline import bootstrap, editions, settings, signup
from pipeline.domain import (
    Breadth,
    DeliveryKind,
    DeliveryStatus,
    Frequency,
    NoMatchNotice,
    Schedule,
    SkipReason,
    Subscription,
    Suggestion,
    SuppressionReason,
    Topic,
    Weekday,
)
from pipeline.editions import SlotResult, no_match_notice
from pipeline.matching.query import canonical
from pipeline.storage import suppressions
from pipeline.storage.database import read_only
from pipeline.storage.no_match_notices import LastContact
from pipeline.storage.schema import DeliveryRow, SkipRow, SubscriberRow
from tests.support.dying import dying
from tests.support.factories import NOW, TODAY, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, ingest, published, rows
from tests.support.rendered import LINKS, RENDERER, Seen, decoded
from tests.support.servers import Inbox

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOTE = DeliveryKind.QUIET_NOTE
OTHER = "quantum gravity"  # a topic that no paper of `day` matches


def publish(engine: Engine, day: int, **changes) -> list[SlotResult]:
    settled = {"expiry": timedelta(hours=18), "template": "1", "quiet_days": 7, **changes}
    return list(editions.publish(engine, now=NOW + day * DAY, **settled))


def day(engine: Engine, number: int, title: str = "Tea leaves", **changes) -> list[SlotResult]:
    """Ingest one paper on that day, publish, and return the outcome of each due slot."""
    sighting = make_sighting(title=title, announced_on=TODAY + number * DAY)
    ingest(engine, sighting, now=NOW + number * DAY)
    return publish(engine, number, **changes)


def days(engine: Engine, first: int, last: int, **changes) -> list[int]:
    """Return the days in this range with a notice; mail of all but the last day is sent."""
    told = []
    for n in range(first, last + 1):
        end(engine, DeliveryStatus.SENT)
        told += [n] * any(outcome.noted for outcome in day(engine, n, **changes))
    return told


def notes(engine: Engine) -> list:
    return [row for row in rows(engine, DeliveryRow, DeliveryRow.id) if row.kind == NOTE]


def end(engine: Engine, status: DeliveryStatus) -> None:
    with engine.begin() as conn:
        conn.execute(
            update(DeliveryRow)
            .where(DeliveryRow.status == DeliveryStatus.QUEUED)
            .values(status=status, reason="as the test has it")
        )


# --- When ---------------------------------------------------------------------------------------


def heard(joined: int = -90, digest: int | None = None, **changes: Any) -> LastContact:
    """Return a last-contact record; arguments are days before or after today."""

    def on(days: int | None) -> date | None:
        return None if days is None else TODAY + days * DAY

    return LastContact(
        TODAY + joined * DAY,
        on(changes.get("followed")),
        on(digest),
        on(changes.get("silent")),
        on(changes.get("note")),
        tuple(TODAY - n * DAY for n in changes.get("unmatched", (0, 1, 2, 7, 14))),
    )


@pytest.mark.parametrize(
    ("known", "frequency", "expected"),
    [
        (heard(joined=-7), Frequency.DAILY, True),
        (heard(joined=-6), Frequency.DAILY, False),
        (heard(digest=-7), Frequency.DAILY, True),
        (heard(digest=-6), Frequency.WEEKDAYS, False),
        (heard(silent=-6), Frequency.DAILY, False),
        (heard(silent=-7), Frequency.DAILY, True),
        (heard(followed=-6), Frequency.DAILY, False),
        (heard(followed=-7), Frequency.DAILY, True),
        (heard(unmatched=(0, 6, 7)), Frequency.DAILY, False),
        (heard(unmatched=(0, 1, 6)), Frequency.DAILY, True),
        (heard(unmatched=(0, 13)), Frequency.WEEKLY, True),
        (heard(unmatched=(0, 14)), Frequency.WEEKLY, False),
        (heard(note=-29), Frequency.DAILY, False),
        (heard(note=-30), Frequency.DAILY, True),
        (heard(digest=-7), Frequency.WEEKLY, False),
        (heard(digest=-14), Frequency.WEEKLY, True),
    ],
)
def test_note_is_due_after_a_week_without_matches_and_at_most_monthly(known, frequency, expected):
    """By then a weekly reader has missed two digests."""
    assert no_match_notice.is_due(known, TODAY, frequency, 7) is expected


def test_note_is_never_due_if_disabled():
    assert not no_match_notice.is_due(heard(), TODAY, Frequency.DAILY, 0)


# --- Recipients ---------------------------------------------------------------------------------


@pytest.mark.full
def test_note_is_sent_after_a_week_without_matches_and_again_after_a_month(engine: Engine):
    """And again after a month; the slot counts as before, and the notice supersedes no digest."""
    reader = add_reader(engine, OTHER, now=NOW - HOUR)

    told = days(engine, 1, 40)

    assert told == [7, 37]
    assert [row.dedupe_key for row in notes(engine)] == [
        f"quiet-note:{TODAY + n * DAY}:{reader.id}" for n in told
    ]
    assert {row.reason for row in rows(engine, SkipRow)} == {SkipReason.NOTHING_MATCHED}
    (row,) = rows(engine, SubscriberRow)
    assert row.cursor == published(engine)
    assert notes(engine)[0].precedence == 1


@pytest.mark.full
def test_digest_restarts_the_week(engine: Engine):
    add_reader(engine, OTHER, now=NOW - HOUR)
    days(engine, 1, 5)
    day(engine, 6, title="Quantum gravity of teapots")

    assert days(engine, 7, 12) == []
    assert days(engine, 13, 13) == [13]


@pytest.mark.full
def test_weekly_subscriber_gets_a_note_after_two_weeks(engine: Engine):
    weekday = Weekday((TODAY + DAY).weekday())
    schedule = Schedule(frequency=Frequency.WEEKLY, weekday=weekday)
    add_reader(engine, OTHER, schedule=schedule, now=NOW - HOUR)

    assert days(engine, 1, 21) == [15]


def test_no_note_is_sent_for_days_without_announcements(engine: Engine):
    """The topics are not the reason then; a notice is due only after some days with papers."""
    add_reader(engine, OTHER, now=NOW - HOUR)

    outcomes = [publish(engine, n)[0] for n in range(1, 10)]

    assert {one.skipped for one in outcomes} == {SkipReason.NOTHING_NEW}
    assert notes(engine) == []
    assert days(engine, 10, 12) == [12]


@pytest.mark.full
def test_new_topics_restart_the_week(engine: Engine):
    reader = add_reader(engine, OTHER, now=NOW - HOUR)
    days(engine, 1, 5)
    signup.change(
        engine,
        reader.id,
        signup.Choices(signup.parse_queries((OTHER, "slow trains"))),
        NOW + 5 * DAY,
    )

    assert days(engine, 6, 11) == []
    assert days(engine, 12, 12) == [12]


@pytest.mark.full
def test_paused_subscriber_gets_the_note_later_and_suppressed_one_gets_none(engine: Engine):
    paused = add_reader(engine, OTHER, email="ada@example.org", now=NOW - HOUR)
    barred = add_reader(engine, OTHER, email="bob@example.org", now=NOW - HOUR)
    with engine.begin() as conn:
        conn.execute(
            update(SubscriberRow)
            .where(SubscriberRow.id == paused.id)
            .values(paused_until=TODAY + 9 * DAY)
        )
        row = next(r for r in rows(engine, SubscriberRow) if r.id == barred.id)
        suppressions.suppress(conn, row.address_hash, SuppressionReason.HARD, NOW)

    assert days(engine, 1, 14) == []
    (told,) = [outcome for outcome in day(engine, 15) if outcome.noted]
    assert told.subscriber_id == paused.id


@pytest.mark.full
def test_expired_or_cancelled_note_is_queued_again(engine: Engine):
    """If it expired in an outage or was cancelled by the next slot, it is queued again, once."""
    add_reader(engine, OTHER, now=NOW - HOUR)
    days(engine, 1, 7)

    assert day(engine, 8)[0].noted
    assert [row.status for row in notes(engine)] == ["cancelled", "queued"]
    end(engine, DeliveryStatus.EXPIRED)
    assert day(engine, 9)[0].noted
    end(engine, DeliveryStatus.SENT)
    assert not day(engine, 10)[0].noted


@pytest.mark.full
def test_digest_cancels_a_queued_note_and_covers_only_its_own_batch(engine: Engine):
    add_reader(engine, OTHER, now=NOW - HOUR)
    days(engine, 1, 7)

    (outcome,) = day(engine, 8, title="Quantum gravity of teapots")

    assert (outcome.kind, len(outcome.papers)) == (DeliveryKind.DIGEST, 1)
    note, digest = rows(engine, DeliveryRow, DeliveryRow.id)
    assert (note.status, digest.status) == ("cancelled", "queued")
    assert (digest.range_from, digest.range_to) == (published(engine) - 1, published(engine))


def test_unsubscribe_cancels_a_queued_note(engine: Engine):
    reader = add_reader(engine, OTHER, now=NOW - HOUR)
    days(engine, 1, 7)

    signup.leave(engine, reader.secret, NOW)

    assert [row.status for row in notes(engine)] == ["cancelled"]


@pytest.mark.full
def test_notes_are_queued_once_after_a_crash_or_repeated_publish(engine: Engine):
    for n in range(3):
        add_reader(engine, OTHER, email=f"r{n}@example.org", now=NOW - HOUR)
    days(engine, 1, 6)
    ingest(engine, make_sighting(title="Tea", announced_on=TODAY), now=NOW + 7 * DAY)
    editions.match_late_topics(engine, published(engine), NOW + 7 * DAY)
    for after in range(4, 40):
        with dying(engine, after) as statements:
            publish(engine, 7)
        served = [
            row for row in rows(engine, SubscriberRow) if row.last_edition_on == TODAY + 7 * DAY
        ]
        assert {row.id for row in served} == {row.subscriber_id for row in notes(engine)}
        if len(statements) <= after:
            break

    publish(engine, 7)

    assert Counter(row.subscriber_id for row in notes(engine)).most_common(1)[0][1] == 1
    assert len(notes(engine)) == 3


# --- Content ------------------------------------------------------------------------------------


def loaded(engine: Engine) -> NoMatchNotice:
    with read_only(engine) as conn:
        (note,) = no_match_notice.load(conn, [row.id for row in notes(engine)], 7).values()
    return note


def test_note_lists_passing_mentions_and_wider_queries(engine: Engine):
    """Passing mentions, a wider query that matches, and whether Trending is followed."""
    add_reader(engine, OTHER, '"tea leaves" cat:cs.XX', now=NOW - HOUR, near_misses_after=0)
    days(engine, 1, 6)
    abstract = "We find that gravity waves move like slow quantum tea in a pot."
    ingest(
        engine,
        make_sighting(title="Pots", abstract=abstract, announced_on=TODAY + 7 * DAY),
        now=NOW + 7 * DAY,
    )
    publish(engine, 7)

    note = loaded(engine)

    assert (note.since, note.edition_on) == (TODAY + DAY, TODAY + 7 * DAY)
    assert note.announced == 7
    assert note.topics == (OTHER, '"tea leaves" cat:cs.XX')
    assert note.breadth is Breadth.BALANCED
    assert note.in_passing == 1
    assert note.wider == (
        Suggestion(OTHER, "quantum", 1.0),
        Suggestion('"tea leaves" cat:cs.XX', '"tea leaves"', 6.0),
    )
    assert not note.follows_trending


@pytest.mark.parametrize(
    ("topics", "suggested"),
    [
        (("tea leaves cat:cs.XX",), ["tea leaves"]),
        (("tea leaves cat:cs.XX", "tea leaves"), []),  # which the reader follows
        (("tea leaves -cat:cs.IR",), []),  # an exclusion stays
        (("Ada Byron",), []),  # the name of an author
    ],
)
def test_notice_suggests_only_useful_queries(engine: Engine, topics, suggested):
    followed = [Subscription(Topic(n, canonical(topic)), topic) for n, topic in enumerate(topics)]
    for n in range(3):
        ingest(
            engine,
            make_sighting(title="Tea leaves", authors=("Ada Byron",), announced_on=TODAY + n * DAY),
            now=NOW + n * DAY,
        )
    tried = no_match_notice.TriedQueries(engine, 3)

    tried.load([(followed, Breadth.BALANCED)])

    assert [one.query for one in tried.of(followed, Breadth.BALANCED) or ()] == suggested
    assert tried.of(followed, Breadth.MORE) is None


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ([0, 1, 2, 3, 4], [5.0]),  # of a week with five days
        ([0] * 30, []),  # more than 20 a day
        ([0, 1, 2, 3, -200], [5.0]),  # papers of other months do not count
        ([0, 7, 14, 21, 28], [1.2]),
    ],
)
def test_papers_a_week_are_counted_as_on_the_form(engine: Engine, days, expected):
    followed = [Subscription(Topic(1, "tea leaves cat:cs.XX"), "Tea")]
    papers = [make_sighting(title="Tea leaves", announced_on=TODAY + n * DAY) for n in days]
    ingest(engine, *papers)
    tried = no_match_notice.TriedQueries(engine, 1)

    tried.load([(followed, Breadth.BALANCED)])

    found = tried.of(followed, Breadth.BALANCED) or ()
    assert [one.papers_a_week for one in found] == expected


def test_load_ignores_deliveries_of_other_kinds(engine: Engine):
    add_reader(engine, "cat:cs.IR", now=NOW - HOUR)
    day(engine, 1)

    with read_only(engine) as conn:
        assert no_match_notice.load(conn, [row.id for row in rows(engine, DeliveryRow)], 7) == {}


WORDY = NoMatchNotice(
    edition_on=date(2030, 1, 9),
    since=date(2030, 1, 3),
    announced=1412,
    topics=("a < b & <script>", "שלום 🦋", "x" * 200),
    breadth=Breadth.BALANCED,
    in_passing=3,
    wider=(Suggestion("a < b & <script>", '"q" & <q>', 2.4),),
    follows_trending=False,
)


def test_note_explains_the_reason_and_suggests_changes():
    mail = RENDERER.quiet_note(WORDY, LINKS)
    html, text = decoded(mail.html), decoded(mail.text)
    seen = " ".join(Seen(html).text.split())

    assert mail.subject == "No papers matched your topics, 3 to 9 January"
    for said in (seen, " ".join(text.split())):
        assert "1,412 papers were announced, but none matched" in said
        assert "a < b & <script>, שלום 🦋 and xxx" in said
        assert "would have found 3 papers in these days" in said
        assert 'Broaden a < b & <script>. "q" & <q> brings about 2 papers a week' in said
        assert "Follow Trending" in said
    assert "<script>" not in html
    assert {LINKS.unsubscribe, LINKS.preferences, LINKS.privacy} <= set(Seen(html).links)
    for link in (LINKS.unsubscribe, LINKS.preferences, LINKS.privacy, "12 Sample Street"):
        assert link in text
    adoption = f"{LINKS.preferences}/adopt?topic=a+%3C+b+%26+%3Cscript%3E&query=%22q%22+%26+%3Cq%3E"
    assert adoption in Seen(html).links
    assert f"  {adoption}\n" in text
    assert max(len(line) for line in text.splitlines() if "://" not in line) <= 76


def test_note_omits_advice_already_followed():
    bare = NoMatchNotice(TODAY, TODAY, 1, (), Breadth.MORE, 4, (), follows_trending=True)

    mail = RENDERER.quiet_note(bare, LINKS)

    for said in (Seen(decoded(mail.html)).text, decoded(mail.text)):
        said = " ".join(said.split())
        assert "1 paper was announced" in said
        assert "it did not match your topics closely enough. No digest was sent" in said
        assert "get more papers" not in said
        assert "Trending" not in said


@pytest.mark.full
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_note_is_sent_with_one_click_unsubscribe(engine: Engine, database_url: str, inbox: Inbox):
    """The whole way: compile, claim, render, send."""
    loaded = settings.load(
        None,
        database_url=database_url,
        smtp_url=inbox.url,
        site_url="https://papers.example.org",
        mail_from="Paperboy <papers@example.org>",
        operator_address="1 Analytical Way, London",
    )
    services = bootstrap.build(loaded)
    start = datetime(2030, 1, 2, 8, tzinfo=NOW.tzinfo)
    signup.add(
        services.engine,
        "ada@example.org",
        signup.Choices(signup.parse_queries((OTHER,))),
        confirmed=True,
        suppression_key=SUPPRESSION_KEY,
        now=start - HOUR,
    )
    for n in range(1, 8):
        at = start + n * DAY
        ingest(services.engine, make_sighting(title="Tea", announced_on=at.date()), now=at)
        list(services.publish(at))

    tally = services.dispatch(once=True, clock=start + 7 * DAY)

    assert tally.sent == 1
    (mail,) = inbox.received
    assert mail.message["Subject"] == "No papers matched your topics, 3 to 9 January"
    assert "List-Unsubscribe-Post" in mail.message
    assert mail.message["Feedback-ID"].startswith("2030-01-09:quiet-note:list:")
    assert "7 papers were announced" in mail.message.get_body(("plain",)).get_content()
    services.engine.dispose()
