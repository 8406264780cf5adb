"""Restoring a dump: nothing is sent twice, and nothing to addresses unsubscribed since."""

from __future__ import annotations

import io
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text, update
from sqlalchemy.engine import make_url

from pipeline import restore, signup
from pipeline.domain import SubscriberStatus, SuppressionReason
from pipeline.errors import PaperboyError
from pipeline.restore import Assume, Settled, Settling
from pipeline.signup.csv_lists import SubscriberList
from pipeline.storage import (
    addresses,
    deliveries,
    restored_copies,
    send_controls,
    subscribers,
    suppressions,
)
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.schema import DeliveryRow, SubscriberRow
from tests.support.factories import NOW, TODAY, make_subscriber
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, ingest, rows
from tests.support.restoring import ADA, BOB, DAN, EVE, PAPERS, leave, publish, send, statuses

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DIED = NOW + DAY + HOUR
RESTORED = DIED + HOUR


@pytest.fixture
def dump(engine: Engine, tmp_path: Path, postgresql_database) -> Iterator[Callable[[], Engine]]:
    """Return a function that copies the current database and returns the copy as a restored one."""
    made: list[tuple[Engine, str | None]] = []

    def copy() -> Engine:
        if engine.dialect.name == "sqlite":
            path = tmp_path / f"copy{len(made)}.db"
            with (
                closing(sqlite3.connect(engine.url.database or "")) as source,
                closing(sqlite3.connect(path)) as target,
            ):
                source.backup(target)
            made.append((open_engine(f"sqlite:///{path}"), None))
            return made[-1][0]
        name = f"{engine.url.database}_copy{len(made)}"
        engine.dispose()
        url = make_url(postgresql_database.url)
        admin = open_engine(url.set(database="postgres").render_as_string(hide_password=False))
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{engine.url.database}"'))
        admin.dispose()
        copied = open_engine(url.set(database=name).render_as_string(hide_password=False))
        made.append((copied, name))
        return copied

    yield copy
    for copied, name in made:
        copied.dispose()
        if name:
            url = make_url(postgresql_database.url).set(database="postgres")
            admin = open_engine(url.render_as_string(hide_password=False))
            with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
                conn.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
            admin.dispose()


def settle(engine: Engine, leavers: str = "", **options) -> Settled:
    given = SubscriberList(io.BytesIO(leavers.encode()), "leavers.csv") if leavers else None
    return Settling(engine, SUPPRESSION_KEY, DIED, RESTORED, 10, **options).run(given)


def go_on(engine: Engine) -> None:
    with engine.begin() as conn:
        send_controls.resume(conn, None)


@pytest.fixture
def history(engine: Engine, dump) -> tuple[Engine, list[tuple[str, tuple[str, ...]]]]:
    """Return a copy with three queued digests, and the mails the original has sent since."""
    for email in (ADA, BOB, EVE):
        add_reader(engine, "cat:cs.IR", email=email, now=NOW - HOUR)
    ingest(engine, PAPERS[0], now=NOW - HOUR)
    publish(engine, NOW)
    copy = dump()
    sent = send(engine, NOW)
    leave(engine, BOB, NOW + HOUR)
    signup.erase(engine, EVE)
    add_reader(engine, "cat:cs.IR", email=DAN, now=NOW + HOUR)
    ingest(engine, PAPERS[1], now=NOW + DAY - HOUR)
    publish(engine, NOW + DAY)
    return copy, sent + send(engine, NOW + DAY)


def test_restored_copy_resends_mail_without_settling(history):
    """The failure that settling prevents."""
    copy, sent = history

    assert set(send(copy, NOW + HOUR)) <= set(sent)
    assert (BOB, ("Paper 0",)) in sent


@pytest.mark.full
@pytest.mark.parametrize("ingest_first", [True, False])
def test_settling_prevents_repeated_mail_and_mail_to_unsubscribed_addresses(history, ingest_first):
    """The original database is lost; unsubscribed addresses are read from a list."""
    copy, _ = history
    if ingest_first:
        ingest(copy, *PAPERS[:2], now=RESTORED)
    settled = settle(copy, leavers=f"email\n{BOB}\n{EVE}\nnobody@example.org\n")
    assert settled.left == [BOB, EVE]
    assert len(settled.unknown) == 1
    assert send(copy, RESTORED) == []  # sending is held
    go_on(copy)
    if not ingest_first:
        ingest(copy, *PAPERS[:2], now=RESTORED)
    publish(copy, RESTORED)
    assert send(copy, RESTORED) == []

    ingest(copy, PAPERS[2], now=NOW + 2 * DAY - HOUR)
    publish(copy, NOW + 2 * DAY)

    assert send(copy, NOW + 2 * DAY) == [(ADA, ("Paper 2",))]
    assert statuses(copy) == {ADA: "active", BOB: "unsubscribed", EVE: "unsubscribed"}


@pytest.mark.full
@pytest.mark.parametrize("ingest_first", [True, False])
@pytest.mark.parametrize("published_first", [True, False])
def test_settling_copies_changes_and_deliveries_from_the_old_database(
    history, engine, ingest_first, published_first
):
    copy, _ = history
    if ingest_first:
        ingest(copy, *PAPERS[:2], now=RESTORED)
    if published_first:  # if published too early, the digests are held and recognised
        with copy.begin() as conn:
            send_controls.pause(conn, None, "restored", RESTORED)
        publish(copy, RESTORED)
    settled = settle(copy, old=engine)
    assert (settled.left, settled.joined, settled.erased) == ([BOB], [DAN], 1)
    assert settled.unknown == []
    go_on(copy)
    ingest(copy, *PAPERS[:2], now=RESTORED)
    publish(copy, RESTORED)
    assert send(copy, RESTORED) == []

    ingest(copy, PAPERS[2], now=NOW + 2 * DAY - HOUR)
    publish(copy, NOW + 2 * DAY)

    assert send(copy, NOW + 2 * DAY) == [(ADA, ("Paper 2",)), (DAN, ("Paper 2",))]
    assert statuses(copy) == {ADA: "active", BOB: "unsubscribed", DAN: "active"}
    with read_only(copy) as conn, read_only(engine) as old:
        for email in (BOB, DAN):  # links in their mails still work
            theirs = subscribers.by_email(old, email)
            assert subscribers.by_secret(conn, theirs.secret).email == email


def test_settling_is_idempotent(history, engine):
    copy, _ = history
    settle(copy, old=engine)
    before = statuses(copy), rows(copy, DeliveryRow, DeliveryRow.dedupe_key)

    again = settle(copy, old=engine)

    assert (again.left, again.joined, again.erased, again.copied) == ([], [], 0, 0)
    kept = rows(copy, DeliveryRow, DeliveryRow.dedupe_key)
    real = [row for row in kept if not row.dedupe_key.startswith("reserved:")]
    assert real == [row for row in before[1] if not row.dedupe_key.startswith("reserved:")]
    assert statuses(copy) == before[0]


@pytest.mark.full
def test_suppression_of_the_old_database_is_copied(history, engine):
    copy, _ = history
    with engine.begin() as conn:
        hash_ = addresses.address_hash(ADA, SUPPRESSION_KEY)
        suppressions.suppress(conn, hash_, SuppressionReason.COMPLAINT, NOW + HOUR)

    settle(copy, old=engine)

    with read_only(copy) as conn:
        assert suppressions.by_hash(conn, hash_).reason is SuppressionReason.COMPLAINT


def test_unsent_deliveries_are_sent_once_if_assumed_unsent(history):
    """The original database was lost right after its dump."""
    copy, _ = history
    settle(copy, assume=Assume.UNSENT)
    go_on(copy)

    assert [email for email, _ in send(copy, NOW + HOUR)] == [ADA, BOB, EVE]
    assert send(copy, NOW + HOUR) == []


def test_ids_of_the_old_database_are_not_reused(history, engine):
    """Links contain ids: a link of one reader must not open the preferences of another."""
    copy, _ = history
    with read_only(engine) as conn:
        given = restored_copies.highest_ids(conn)
    settle(copy)

    for number in range(3):
        add_reader(copy, email=f"new{number}@example.org", now=RESTORED)

    new = [row.id for row in rows(copy, SubscriberRow) if row.email.startswith("new")]
    assert min(new) > given["subscribers"]
    with read_only(copy) as conn:
        assert restored_copies.highest_ids(conn)["requests"] > given["requests"]


def test_uncertain_deliveries_are_not_resent_after_settling(history):
    copy, _ = history
    settle(copy)

    with copy.begin() as conn:
        kinds = [row.kind for row in rows(copy, DeliveryRow)]
        assert deliveries.resend_uncertain(conn, set(kinds), NOW + HOUR) == 0


@pytest.mark.full
@pytest.mark.parametrize("step", ["_move_on", "_take_as_sent", "_leave_one"])
def test_settling_that_crashed_keeps_the_hold_and_can_be_repeated(history, monkeypatch, step):
    copy, _ = history

    def die(*_args):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(Settling, step, die)
        with pytest.raises(SystemExit):
            settle(copy, leavers=f"{BOB}\n{EVE}\n")
    assert send(copy, NOW + HOUR) == []

    settle(copy, leavers=f"{BOB}\n{EVE}\n")
    go_on(copy)
    publish(copy, RESTORED)
    assert send(copy, RESTORED) == []
    assert statuses(copy)[BOB] == SubscriberStatus.UNSUBSCRIBED


def test_database_of_another_installation_is_rejected(engine, tmp_path, sqlite_template):
    path = tmp_path / "stranger.db"
    shutil.copyfile(sqlite_template, path)
    stranger = open_engine(f"sqlite:///{path}")
    add_reader(stranger, email=ADA)
    add_reader(engine, email=BOB)

    with pytest.raises(PaperboyError, match="not made of that database"):
        settle(engine, old=stranger)
    stranger.dispose()
    assert statuses(engine) == {BOB: "active"}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_restored_database_is_held_on_postgresql(engine, dump):
    assert not restore.hold_if_restored(engine, NOW)
    copy = dump()

    assert not restore.hold_if_restored(engine, NOW)
    assert restore.hold_if_restored(copy, NOW)
    assert not restore.hold_if_restored(copy, NOW)  # no second hold after an operator resumes

    with read_only(copy) as conn:
        assert send_controls.list_pauses(conn)[0].reason == restore.REASON


def test_database_that_was_not_restored_is_not_held(engine):
    for _ in range(2):
        assert not restore.hold_if_restored(engine, NOW)
    with read_only(engine) as conn:
        assert send_controls.list_pauses(conn) == []


# --- Single rows --------------------------------------------------------------------------------


@pytest.mark.full
def test_settling_returns_counts_of_its_changes(history, engine):
    copy, _ = history

    blind = settle(copy, leavers=f"email,status\n{BOB},unsubscribed\n{ADA},active\n{EVE},pending\n")

    assert (blind.taken_as_sent, blind.moved_on, blind.left) == (2, 2, [BOB])
    assert (blind.settled, blind.copied, blind.changed, blind.joined) == (0, 0, 0, [])
    with engine.begin() as conn:
        suppressions.suppress(conn, "hash of another", SuppressionReason.HARD, NOW)
    told = settle(copy, old=engine)
    assert (told.settled, told.copied, told.changed) == (1, 1, 1)
    assert (told.left, told.joined, told.erased, told.suppressed) == ([], [DAN], 1, 1)
    assert (told.taken_as_sent, told.moved_on) == (0, 0)


@pytest.mark.parametrize(
    ("theirs", "ours", "kept"),
    [
        ("sent", "queued", "sent"),
        ("failed", "queued", "failed"),
        ("leased", "queued", "queued"),
        ("leased", "uncertain", "queued"),
        ("sending", "queued", "uncertain"),
        ("cancelled", "uncertain", "cancelled"),
        ("sent", "failed", "failed"),
        ("queued", "sent", "sent"),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_delivery_status_is_copied_from_the_old_database(engine, dump, theirs, ours, kept):
    add_reader(engine, "cat:cs.IR", email=ADA, now=NOW - HOUR)
    ingest(engine, PAPERS[0], now=NOW - HOUR)
    publish(engine, NOW)
    copy = dump()
    for database, status in ((engine, theirs), (copy, ours)):
        with database.begin() as conn:
            conn.execute(update(DeliveryRow).values(status=status, reply=status))

    settled = settle(copy, old=engine)

    (delivery,) = [row for row in rows(copy, DeliveryRow) if row.dedupe_key.startswith("digest:")]
    assert delivery.status == kept
    assert settled.settled == (kept != ours)
    assert delivery.lease is None


@pytest.mark.parametrize(("status", "is_moved"), [("pending", True), ("active", False)])
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_address_change_is_copied_unless_another_subscriber_has_it(engine, dump, status, is_moved):
    ada = add_reader(engine, email=ADA)
    copy = dump()
    with engine.begin() as conn:
        subscribers.move(conn, ada.id, email=BOB, hash_="moved")
    bob = add_reader(copy, email=BOB)
    with copy.begin() as conn:
        mine = update(SubscriberRow).where(SubscriberRow.id == bob.id)
        conn.execute(mine.values(status=status))

    settled = settle(copy, old=engine)

    assert statuses(copy) == ({BOB: "active"} if is_moved else {ADA: "active", BOB: "active"})
    assert settled.changed == is_moved
    assert settled.unknown == ([] if is_moved else [f"{BOB}: another subscriber has it here"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"next_slot_at": None}, {"papers_from": TODAY + 2 * DAY}),
        ({"next_slot_at": DIED + timedelta(seconds=1)}, {"papers_from": TODAY + 2 * DAY}),
        ({"next_slot_at": None, "papers_from": TODAY + 3 * DAY}, {"papers_from": TODAY + 3 * DAY}),
        ({}, {"edition": 1, "papers_from": TODAY + 2 * DAY}),
        ({"papers_from": TODAY + 5 * DAY}, {"edition": 1, "papers_from": TODAY + 5 * DAY}),
        ({"paused_until": TODAY + DAY}, {"edition": 1, "papers_from": TODAY + 2 * DAY}),
        ({"paused_until": TODAY + 2 * DAY}, {"edition": 1, "papers_from": None}),
        (
            {"paused_until": TODAY + 2 * DAY, "papers_from": TODAY},
            {"edition": 1, "papers_from": TODAY},
        ),
    ],
)
def test_subscriber_skips_slots_served_before_the_restore(changes, expected):
    found = restore.moved_on(make_subscriber(**changes), DIED)

    assert found.pop("welcome_due") is False
    slot = NOW + DAY
    if edition := expected.pop("edition", None):
        expected |= {
            "last_slot_at": slot,
            "last_edition_on": TODAY + edition * DAY,
            "next_slot_at": slot + DAY,
        }
    assert found == expected
