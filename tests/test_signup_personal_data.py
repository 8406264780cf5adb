"""Personal data: all of it can be exported, and none is left after erasing."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, insert, select, update
from sqlalchemy import Table as AnyTable

from pipeline import editions, purge, settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import (
    DeliveryStatus,
    Liking,
    Notice,
    NoticeKind,
    Origin,
    StrikeKind,
    Subscriber,
    SuppressionReason,
    Verdict,
)
from pipeline.errors import InvalidTokenError, NotFoundError
from pipeline.feedback.process import Event, Feedback
from pipeline.message import Sender
from pipeline.purge import Retention
from pipeline.signup import Choices, parse_queries, subscribe
from pipeline.storage import addresses, deliveries, suppressions
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.deliveries import Settlement
from pipeline.storage.schema import (
    DeliveryRow,
    EventRow,
    ProfileRow,
    RequestRow,
    StrikeRow,
    SuppressionRow,
    Table,
)
from tests.support.factories import NOW, make_sighting
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, ingest, rows, stored
from tests.support.sinks import open_sink

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ADA, NEW, BOB = "adele.harrow@example.org", "ada@new.example", "bob@example.org"
IP = "203.0.113.7"
TOPIC = "cat:cs.IR"
SENDER = Sender("papers@example.org", "Papers", "https://example.org", key=SUPPRESSION_KEY)


def ask(engine: Engine, email: str = ADA, now=NOW, topic: str = TOPIC) -> int:
    signup.request_subscription(
        engine,
        email,
        Choices(parse_queries((topic,))),
        ip=IP,
        suppression_key=SUPPRESSION_KEY,
        now=now,
    )
    return max(row.id for row in rows(engine, RequestRow))


def ask_new(engine: Engine, reader: Subscriber, email: str, now=NOW) -> int:
    signup.ask_new_address(
        engine, reader.id, email, ip=IP, suppression_key=SUPPRESSION_KEY, now=now
    )
    return max(row.id for row in rows(engine, RequestRow))


def publish(engine: Engine, now=NOW) -> None:
    list(editions.publish(engine, now=now, expiry=18 * HOUR, template="1"))


def with_traces(engine: Engine) -> Subscriber:
    """Return a reader with a row in every table that refers to readers."""
    reader = signup.confirm(engine, ask(engine, now=NOW - 2 * DAY), NOW - 2 * DAY).subscriber
    publish(engine, NOW - DAY)
    ingest(engine, make_sighting())
    publish(engine)
    signup.like(engine, reader.id, stored(engine)[0].key, Liking.MORE, NOW)
    signup.annotate(engine, reader.id, stored(engine)[0].key, f"for {ADA}", NOW)
    signup.create_feeds(engine, reader.id, NOW)
    ask_new(engine, reader, NEW)
    ask(engine, now=NOW)
    with engine.begin() as conn:
        hash_ = addresses.address_hash(ADA, SUPPRESSION_KEY)
        suppressions.suppress(conn, hash_, SuppressionReason.FULL, NOW)
        struck = {"address_hash": hash_, "edition_on": NOW.date(), "kind": "full", "noted_at": NOW}
        conn.execute(insert(StrikeRow).values(struck))
        conn.execute(update(DeliveryRow).values(reply=f"250 ok for <{ADA}>", queue_id="4XyZ"))
    feedback = Feedback(engine, SENDER, SUPPRESSION_KEY)
    feedback.take("generic", full(sent_to(engine, reader)), NOW)
    return reader


def sent_to(engine: Engine, reader: Subscriber) -> str:
    """Return the Message-ID of the last digest of this reader."""
    with read_only(engine) as conn:
        key = conn.execute(
            select(DeliveryRow.dedupe_key)
            .where(DeliveryRow.subscriber_id == reader.id, DeliveryRow.edition_on.is_not(None))
            .order_by(DeliveryRow.id.desc())
            .limit(1)
        ).scalar_one()
    return SENDER.message_id(key)


def full(message_id: str, id: str = "e1") -> Event:
    """Return the event of a provider that reports the reader's mailbox as full."""
    notice = Notice(NoticeKind.SOFT, (ADA,), "5.2.2", "full", Verdict.FULL, message_id)
    return Event(id, "bounce", f"{ADA} is full", (notice,))


# --- Searching the whole database ---------------------------------------------------------------


def dump(engine: Engine) -> str:
    """Return every value of every table in the database, including tables unknown to our code."""
    found = MetaData()
    with engine.connect() as conn:
        found.reflect(conn)
        return "\n".join(
            f"{table.name}: {row}"
            for table in found.sorted_tables
            for row in conn.execute(select(table))
        )


def raw(engine: Engine) -> bytes:
    """Return the bytes on disk, read by a subprocess: closing a file here drops SQLite's locks."""
    path = engine.url.database or ""
    files = [path + end for end in ("", "-wal") if Path(path + end).exists()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def is_anywhere(engine: Engine, *words: str) -> list[str]:
    """Return those of `words` that occur anywhere in the database, in any case."""
    told = dump(engine).casefold()
    if engine.dialect.name == "sqlite":
        told += raw(engine).decode("latin-1").casefold()
    return [word for word in words if word.casefold() in told]


# --- Erasing ------------------------------------------------------------------------------------


@pytest.fixture
def neighbour(database_url: str) -> Iterator[Engine]:
    """Yield a second engine with an idle connection to the database, like another process."""
    other = open_engine(database_url)
    with read_only(other) as conn:
        conn.execute(select(RequestRow.id)).all()
    yield other
    other.dispose()


@pytest.fixture(params=["by its address", "by its link"])
def erase(request: pytest.FixtureRequest, engine: Engine) -> Callable[[Subscriber], None]:
    """Return the function behind `paperboy subscribers erase`, or the one behind the page."""

    def erase(reader: Subscriber) -> None:
        if request.param == "by its address":
            signup.erase(engine, f" {reader.email.upper()}")
        else:
            signup.erase_by_id(engine, reader.id, NOW)

    return erase


@pytest.mark.full
@pytest.mark.usefixtures("neighbour")
def test_erased_personal_data_is_in_no_table_or_file_byte(
    engine: Engine, erase: Callable[[Subscriber], None]
):
    """In no table, and with SQLite in no byte of its file or its WAL."""
    add_reader(engine, email=BOB)
    reader = with_traces(engine)
    keys = {row.dedupe_key for row in rows(engine, DeliveryRow)}
    suppressed = [row.hash for row in rows(engine, SuppressionRow)]
    names = (ADA, NEW, "harrow", "ada@", reader.secret, "4XyZ", IP)
    assert is_anywhere(engine, *names) == list(names)

    erase(reader)

    assert is_anywhere(engine, *names) == [IP]  # in counters, which are not linked to readers
    assert is_anywhere(engine, BOB) == [BOB]
    assert {row.dedupe_key for row in rows(engine, DeliveryRow)} == keys
    assert [row.hash for row in rows(engine, SuppressionRow)] == suppressed
    with pytest.raises(NotFoundError):
        erase(reader)


def test_ip_address_is_purged_with_its_counters_after_erasing(engine: Engine):
    reader = with_traces(engine)
    signup.erase_by_id(engine, reader.id, NOW)

    purge.purge(engine, NOW + 3 * DAY, Retention())

    assert is_anywhere(engine, IP) == []


@pytest.mark.parametrize("status", [DeliveryStatus.QUEUED, DeliveryStatus.LEASED])
def test_erasing_cancels_confirmation_requested_by_another_reader(
    engine: Engine, status: DeliveryStatus
):
    """Its confirmation mail is cancelled; the reader who requested it is not changed."""
    bob = add_reader(engine, email=BOB)
    request = ask_new(engine, bob, "Adele.Harrow@example.ORG")
    ada = add_reader(engine, email=ADA)
    if status is DeliveryStatus.LEASED:
        with engine.begin() as conn:
            assert len(deliveries.claim(conn, 9, "token", HOUR, NOW)) == 1

    signup.erase_by_id(engine, ada.id, NOW)

    assert is_anywhere(engine, "harrow") == []
    [asked] = rows(engine, DeliveryRow)
    assert (asked.status, asked.reason) == ("cancelled", "its address was erased")
    with engine.begin() as conn:
        assert deliveries.mark(conn, [asked.id], "token", HOUR, NOW) == set()
    with pytest.raises(InvalidTokenError):
        signup.confirm_new_address(engine, request, NOW)
    assert signup.find(engine, BOB)[0] == bob


def test_address_without_a_subscriber_can_be_erased(engine: Engine):
    """Its owner received a confirmation mail and wants to be erased."""
    ask_new(engine, add_reader(engine, email=BOB), ADA)

    signup.erase(engine, ADA)

    assert is_anywhere(engine, "harrow") == []
    with pytest.raises(NotFoundError):
        signup.erase(engine, ADA)


@pytest.mark.full
@pytest.mark.parametrize(
    "settlement",
    [
        Settlement(0, DeliveryStatus.SENT, "accepted"),
        Settlement(0, DeliveryStatus.QUEUED, "deferred at dot"),
        Settlement(0, DeliveryStatus.FAILED, "soft at dot"),
        Settlement(0, DeliveryStatus.SUPPRESSED, "hard at dot", strike=StrikeKind.HARD),
    ],
    ids=lambda settlement: settlement.status.value,
)
def test_smtp_reply_after_erasing_is_not_stored(engine: Engine, settlement: Settlement):
    """The dot was sent: the mail arrives, and the reply contains the address."""
    reader = add_reader(engine, TOPIC, email=ADA, now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)
    publish(engine)
    [owed] = rows(engine, DeliveryRow)
    with engine.begin() as conn:
        deliveries.claim(conn, 1, "token", HOUR, NOW)
        assert deliveries.mark(conn, [owed.id], "token", HOUR, NOW) == {owed.id}
    said = replace(settlement, delivery_id=owed.id, reply=f"550 <{ADA}>", queue_id="4XyZ")

    signup.erase_by_id(engine, reader.id, NOW)
    with engine.begin() as conn:
        assert deliveries.settle(conn, [said], "token", NOW)[settlement.status] == 1

    assert is_anywhere(engine, "harrow", "4XyZ") == []
    assert {row.reason for row in rows(engine, SuppressionRow)} <= {SuppressionReason.ERASED}
    with engine.begin() as conn:
        assert deliveries.claim(conn, 9, "other", HOUR, NOW + DAY) == []


def test_feedback_events_after_erasing_are_stored_without_the_address(engine: Engine):
    """Providers report on a mail for days, and their reports contain the address."""
    reader = with_traces(engine)
    message_id = sent_to(engine, reader)
    signup.erase(engine, ADA)

    Feedback(engine, SENDER, SUPPRESSION_KEY).take("generic", full(message_id, "e2"), NOW)

    assert len(rows(engine, EventRow)) == 2
    assert is_anywhere(engine, ADA) == []


def test_late_reply_to_an_uncertain_delivery_is_not_stored_after_erasing(engine: Engine):
    reader = add_reader(engine, TOPIC, email=ADA, now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)
    publish(engine)
    [owed] = rows(engine, DeliveryRow)
    with engine.begin() as conn:
        deliveries.claim(conn, 1, "token", HOUR, NOW)
        deliveries.mark(conn, [owed.id], "token", HOUR, NOW)
        deliveries.recover_leases(conn, NOW + 2 * HOUR)
    signup.erase_by_id(engine, reader.id, NOW)

    late = Settlement(owed.id, DeliveryStatus.SENT, "", reply=f"250 <{ADA}>", queue_id="4XyZ")
    with engine.begin() as conn:
        deliveries.settle(conn, [late], "token", NOW + 3 * HOUR)

    assert [row.status for row in rows(engine, DeliveryRow)] == ["sent"]
    assert is_anywhere(engine, "harrow", "4XyZ") == []


@pytest.mark.full
@pytest.mark.parametrize("at_dot", [False, True])
def test_sender_does_not_store_an_address_erased_while_sending(engine: Engine, at_dot: bool):
    """If erased between claim and dot, the mail is aborted; after the dot it is delivered."""
    reader = add_reader(engine, TOPIC, email=ADA, now=NOW - HOUR)
    ingest(engine, make_sighting(), now=NOW - HOUR)
    publish(engine)

    def erase() -> None:
        signup.erase_by_id(engine, reader.id, NOW)

    with open_sink(on_dot=erase if at_dot else None) as sink:
        sink.answers["DOT"] = f"250 2.0.0 <{ADA}> queued as 4XyZ"
        loaded = settings.load(None, smtp_url=f"smtp://127.0.0.1:{sink.port}", smtp_connections=1)
        dispatcher = Services(loaded, engine).dispatcher(NOW)

        def compose(delivery, digest) -> bytes:
            if not at_dot:
                erase()
            return dispatcher.compose(delivery, digest)

        tally = replace(dispatcher, compose=compose).drain(once=True)

    assert (tally.sent, len(sink.accepted)) == ((1, 1) if at_dot else (0, 0))
    assert is_anywhere(engine, "harrow", "4XyZ") == []


@pytest.mark.full
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_pages_kept_by_an_open_read_transaction_are_wiped_by_next_purge(engine: Engine):
    """SQLite keeps old pages while another transaction still reads them."""
    ada = with_traces(engine)
    with read_only(engine) as conn:
        conn.execute(select(RequestRow.id)).all()
        signup.erase_by_id(engine, ada.id, NOW)
        assert "harrow" not in dump(engine)
        assert b"harrow" in raw(engine)

    purge.purge(engine, NOW, Retention())

    assert is_anywhere(engine, "harrow") == []


# --- Export -------------------------------------------------------------------------------------

# For each table with personal data: its place in an export, and the columns left out.
PLACES = {
    "subscribers": ("subscriber", set()),
    "subscriptions": ("topics", {"subscriber_id", "topic_id"}),  # the query identifies the topic
    "requests": ("requests", set()),
    "deliveries": ("mails", {"lease", "lease_until"}),  # the sender that holds it at the moment
    "picks": ("mails", {"delivery_id", "paper_id"}),  # the public key identifies the paper
    "skips": ("days_without_mail", set()),
    "pending_confirmations": ("unanswered_questions", {"id", "address_hash", "inbox", "requester"}),
    "suppressions": ("suppression", {"hash"}),
    "strikes": ("refused_editions", {"address_hash"}),
    "refusals": (
        "refused_mails",
        {"delivery_id", "edition_on", "address_hash", "domain", "ends_as", "server"},
    ),
    "events": ("news", {"id", "delivery_id", "subscriber_id", "address_hash"}),
    "reactions": ("reactions", {"subscriber_id", "paper_id", "terms"}),  # terms: of the title
    "profiles": ("profile", {"subscriber_id", "terms"}),
}
OF_NOBODY = {
    "rate_limits": "counts by network address for two days, whoever sat there",
    "daily_counts": "numbers of mails",
    "auth_failures": "whose mail servers did not believe us, for ten minutes",
}
TELLS_OF_PEOPLE = re.compile(r"mail|address|recipient|subscriber|delivery|hash|(^|_)ip$")


def tells_of_people(table: AnyTable) -> bool:
    if any(TELLS_OF_PEOPLE.search(column.name) for column in table.columns):
        return True
    return any(key.column.table.name in PLACES for key in table.foreign_keys)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    yield json.dumps(value)


def test_tables_with_personal_data_are_in_the_export_or_listed_as_exempt():
    """A new table must get a place above, or a reason."""
    told = {table.name for table in Table.metadata.sorted_tables if tells_of_people(table)}

    assert told - OF_NOBODY.keys() == PLACES.keys()


def test_export_contains_every_stored_value(engine: Engine):
    reader = with_traces(engine)
    with engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(lease="token", lease_until=NOW))
        conn.execute(update(ProfileRow).values(vector=b"\x01\xff", vector_model="mini"))

    held = json.loads(json.dumps(signup.export(engine, reader.id)))

    with read_only(engine) as conn:
        for name, (place, left_out) in PLACES.items():
            table = Table.metadata.tables[name]
            known = conn.execute(select(table)).mappings().all()
            assert known, f"the reader of this test has no row in {name}"
            values = {
                json.dumps(signup.personal_data._plain(value))
                for row in known
                for column, value in row.items()
                if column not in left_out
            }
            assert values <= set(leaves(held[place])), name


def test_export_contains_no_other_readers_address(engine: Engine):
    add_reader(engine, email=BOB)
    with_traces(engine)

    assert BOB not in json.dumps(signup.export_of(engine, ADA))


def test_export_of_an_unknown_address_raises(engine: Engine):
    with pytest.raises(NotFoundError):
        signup.export_of(engine, ADA)


# --- The consent record -------------------------------------------------------------------------


def test_consent_record_has_time_ip_and_wording(engine: Engine):
    reader = signup.confirm(engine, ask(engine), NOW + HOUR).subscriber

    [record] = signup.export(engine, reader.id)["requests"]

    assert (record["origin"], record["ip"], record["email"]) == (Origin.FORM, IP, ADA)
    assert record["created_at"] == NOW.isoformat()
    assert record["used_at"] == (NOW + HOUR).isoformat()
    assert record["agreed_to"] == signup.WORDING


def test_unconfirmed_request_is_exported_without_consent(engine: Engine):
    ask(engine)

    [record] = signup.export_of(engine, ADA)["requests"]

    assert (record["used_at"], record["wording"], record["agreed_to"]) == (None, None, None)


@pytest.mark.parametrize("origin", [Origin.OPERATOR, Origin.IMPORT])
def test_subscriber_added_as_confirmed_has_consent_record_without_wording(
    engine: Engine, origin: Origin
):
    signup.add(
        engine, ADA, Choices(), confirmed=True, suppression_key=SUPPRESSION_KEY, now=NOW,
        origin=origin,
    )  # fmt: skip

    [record] = signup.export_of(engine, ADA)["requests"]

    assert (record["origin"], record["ip"], record["agreed_to"]) == (origin, None, None)
    assert record["used_at"] == NOW.isoformat()
    with pytest.raises(InvalidTokenError):  # no link was ever sent for it
        signup.confirm_new_address(engine, record["id"], NOW)


def test_purge_keeps_the_consent_record_but_removes_its_ip(engine: Engine):
    reader = signup.confirm(engine, ask(engine), NOW).subscriber
    signup.leave(engine, reader.secret, NOW + DAY)

    purge.purge(engine, NOW + 5 * 365 * DAY, Retention())

    [record] = signup.export(engine, reader.id)["requests"]
    assert (record["ip"], record["choices"]) == (None, {})
    assert (record["email"], record["agreed_to"]) == (ADA, signup.WORDING)
    assert (record["created_at"], record["used_at"]) == (NOW.isoformat(), NOW.isoformat())


def test_purge_removes_wishes_of_requests_added_by_the_operator(engine: Engine):
    signup.add(
        engine,
        ADA,
        Choices(parse_queries((TOPIC,))),
        confirmed=False,
        suppression_key=SUPPRESSION_KEY,
        now=NOW,
    )
    [request] = rows(engine, RequestRow)
    signup.confirm(engine, request.id, NOW)

    purge.purge(engine, NOW + 8 * DAY, Retention())

    assert [row.choices for row in rows(engine, RequestRow)] == [{}]


def test_consent_wordings_are_unchanged():
    """If the wording changes, add another version and make it the current one."""
    assert subscribe.WORDINGS == {
        "1": "With this button you say: send me the digest of new papers, as often as I chose, "
        "until I leave. Every mail has a link that leaves with one click.",
        "2": "With this button you agree to get the digest of new papers, as often as you chose, "
        "until you unsubscribe. Every email has a link to unsubscribe with one click.",
    }
