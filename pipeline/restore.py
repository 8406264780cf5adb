"""Settle a restored copy of the database before any mail is sent from it.

The copy is as old as its dump. Without settling, mails sent after the dump are sent again, also to
subscribers that have unsubscribed since, and new rows reuse ids that are in links of mails already
sent. All sending is held until the copy is settled, from the replaced database if it can be read,
else from the time of its last mail and a list of unsubscribed addresses. Each step is idempotent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine

from pipeline import signup, slots
from pipeline.domain import LIST_MAIL, DeliveryStatus, Subscriber, SubscriberStatus
from pipeline.errors import PaperboyError
from pipeline.signup.csv_lists import Record, SubscriberList, address_in
from pipeline.signup.transfer import Import, ImportReport
from pipeline.storage import (
    addresses,
    deliveries,
    ingest_state,
    restored_copies,
    send_controls,
    subscriber_transfer,
    subscribers,
    suppressions,
)
from pipeline.storage.database import read_only, retry_transaction
from pipeline.storage.deliveries import CancelReason

log = structlog.get_logger(__name__)

REASON: Final = "this database was restored: run `paperboy db settle`"
NOT_TAKEN: Final = frozenset({"id", "cursor", "papers_from", "secret"})  # kept from our own row


class Assume(StrEnum):
    """Assumed sending of the old database after the dump, if it cannot be read."""

    SENT = "sent"  # it kept sending: deliveries due then have reached their readers
    UNSENT = "unsent"  # it sent nothing more: queued deliveries of the copy are still due


@dataclass
class Settled:
    """Counts and addresses of one run."""

    taken_as_sent: int = 0  # deliveries marked uncertain
    settled: int = 0  # deliveries updated to the status in the old database
    copied: int = 0  # digests and notices compiled by the old database after the dump
    moved_on: int = 0  # readers with slots up to that time marked as served
    changed: int = 0  # reader rows updated from the old database
    left: list[str] = field(default_factory=list)
    erased: int = 0
    joined: list[str] = field(default_factory=list)
    suppressed: int = 0
    unknown: list[str] = field(default_factory=list)  # not taken over, with the reason


def hold_if_restored(engine: Engine, now: datetime) -> bool:
    """Hold all sending if this database is a restored copy of the one that last sent mail.

    Return True if this call set the hold. Takes two small queries. Restored copies of SQLite are
    never detected.
    """
    with read_only(engine) as conn:
        found = restored_copies.identity(conn)
        if found is None or found == restored_copies.stored_identity(conn):
            return False
    return _hold(engine, found, now)


@retry_transaction
def _hold(engine: Engine, found: str, now: datetime) -> bool:
    """Store the identity of this database; hold sending if another was stored."""
    with engine.begin() as conn:
        stored = restored_copies.stored_identity(conn)
        restored_copies.store_identity(conn, found, now)
        if stored is None or stored == found:
            return False
        send_controls.pause(conn, None, REASON, now)
    log.critical("database.restored", advice="nothing is sent before `paperboy db settle`")
    return True


@dataclass(frozen=True)
class Settling:
    """One run of settling. `old` is the replaced database, if it can still be read."""

    engine: Engine
    suppression_key: str = field(repr=False)
    sent_until: datetime
    now: datetime
    max_papers: int
    assume: Assume = Assume.SENT
    old: Engine | None = None
    result: Settled = field(default_factory=Settled)

    def run(self, leavers: SubscriberList | None = None) -> Settled:
        """Settle the copy and return the counts; sending stays held.

        Raises PaperboyError if `old` has another history. Without `old`, and if `assume` is SENT,
        marks open deliveries uncertain and slots served, in batches of one transaction each.
        """
        if self.old:
            self._refuse_another(self.old)
        self._once(self._hold_and_reserve)
        if self.old:
            self._take_subscribers(self.old)
            self._take_suppressions(self.old)
            self._take_joined(self.old)
            self._take_deliveries(self.old)
        if leavers:
            self._leave(leavers)
        if self.assume is Assume.SENT and self.old is None:
            while done := self._once(self._take_as_sent):
                self.result.taken_as_sent += done
            while done := self._once(self._move_on):
                self.result.moved_on += done
        log.info("database.settled", assumed=self.assume)
        return self.result

    @retry_transaction
    def _once(self, step: Any) -> int:
        """Run `step` in one transaction, retry it after a deadlock; return its count."""
        with self.engine.begin() as conn:
            return int(step(conn) or 0)

    def _hold_and_reserve(self, conn: Connection) -> None:
        """Hold sending, store this copy's identity, reserve the ids of the replaced database."""
        send_controls.pause(conn, None, REASON, self.now)
        found = restored_copies.identity(conn)
        if found:
            restored_copies.store_identity(conn, found, self.now)
        ours = restored_copies.highest_ids(conn)
        if self.old is None:
            top = {table: id_ + restored_copies.GAP for table, id_ in ours.items()}
        else:
            with read_only(self.old) as theirs:
                old = restored_copies.highest_ids(theirs)
            top = {
                table: max(id_, old[table]) + restored_copies.CHUNK for table, id_ in ours.items()
            }
        restored_copies.reserve_ids(conn, top, self.now)

    def _refuse_another(self, old: Engine) -> None:
        """Raise PaperboyError if the databases have no subscriber secret in common.

        Two databases of one history share secrets, unless one has no subscribers.
        """
        with read_only(old) as theirs, read_only(self.engine) as ours:
            their_rows = restored_copies.subscribers_after(theirs, 0)
            our_rows = restored_copies.subscribers_after(ours, 0)
            shared = restored_copies.by_secret(ours, [row["secret"] for row in their_rows])
            if their_rows and our_rows and not shared:
                raise PaperboyError("--old-database: this copy was not made of that database")

    # --- From the operator ----------------------------------------------------------------------

    def _take_as_sent(self, conn: Connection) -> int:
        return restored_copies.take_as_sent(conn, self.sent_until, self.now)

    def _move_on(self, conn: Connection) -> int:
        due = restored_copies.due_then(conn, self.sent_until)
        for subscriber in due:
            restored_copies.move_on(conn, subscriber.id, moved_on(subscriber, self.sent_until))
        return len(due)

    def _leave(self, leavers: SubscriberList) -> None:
        """Unsubscribe the addresses of the list, except rows with status active or pending."""
        for record in leavers:
            email = address_in(record.cells.get("email", ""))
            status = record.cells.get("status", "").casefold()
            if status in {SubscriberStatus.ACTIVE, SubscriberStatus.PENDING}:
                continue
            if not self._once(partial(self._leave_one, email)):
                self.result.unknown.append(f"{email}: no subscriber has this address")

    def _leave_one(self, email: str, conn: Connection) -> int:
        """Unsubscribe one address and cancel its queued deliveries; return 0 if it is not found."""
        found = subscribers.by_email(conn, email, for_change=True) if "@" in email else None
        if found is None:
            return 0
        if subscribers.leave(conn, found.id, min(self.sent_until, self.now)):
            self.result.left.append(found.email)
        return 1

    # --- From the replaced database -------------------------------------------------------------

    def _take_subscribers(self, old: Engine) -> None:
        last_id = 0
        while True:
            with read_only(old) as conn:
                rows = restored_copies.subscribers_after(conn, last_id)
            if not rows:
                return
            last_id = rows[-1]["id"]
            for row in rows:
                if row["email"] == addresses.ERASED:
                    self._take_erasure(row, old)
                else:
                    self._once(partial(self._take_subscriber, row))

    def _take_subscriber(self, theirs: Mapping[str, Any], conn: Connection) -> None:
        """Copy the columns of one subscriber, matched by secret.

        If another row here has the new address, delete it if it is pending, else report the
        conflict.
        """
        found = restored_copies.by_secret(conn, [theirs["secret"]]).get(theirs["secret"])
        if found is None:
            return
        values = {name: theirs[name] for name in theirs if name not in NOT_TAKEN}
        same = all(found[name] == value for name, value in values.items())
        if same:
            return
        other = subscribers.by_email(conn, theirs["email"])
        if other and other.id != found["id"]:
            if other.status is not SubscriberStatus.PENDING:
                self.result.unknown.append(f"{theirs['email']}: another subscriber has it here")
                return
            subscribers.delete_pending(conn, other.id)
        restored_copies.move_on(conn, found["id"], values)
        if theirs["status"] == SubscriberStatus.UNSUBSCRIBED:
            deliveries.cancel_unsent(conn, [found["id"]], CancelReason.LEFT)
            if found["status"] != SubscriberStatus.UNSUBSCRIBED:
                self.result.left.append(theirs["email"])
        self.result.changed += 1

    def _take_erasure(self, theirs: Mapping[str, Any], old: Engine) -> None:
        """Erase a subscriber erased in the old database; matched by id, as the secret is new."""
        with read_only(self.engine) as conn:
            ours = subscribers.by_id(conn, theirs["id"])
        if ours is None:
            return
        with read_only(old) as conn:
            lives_on = restored_copies.by_secret(conn, [ours.secret])
        if not lives_on:
            signup.erase_by_id(self.engine, ours.id, self.now)
            self.result.erased += 1

    def _take_suppressions(self, old: Engine) -> None:
        with read_only(old) as conn:
            theirs = suppressions.list_all(conn)

        def suppress(conn: Connection) -> int:
            return suppressions.add_imported(conn, theirs)

        self.result.suppressed += self._once(suppress)

    def _take_joined(self, old: Engine) -> None:
        """Import the subscribers that joined after the dump."""
        key = subscriber_transfer.key_fingerprint(self.suppression_key)
        taking = Import(self.engine, self.suppression_key, self.now, self.max_papers)
        with read_only(old) as conn:
            for stored in subscriber_transfer.everyone(conn):
                with read_only(self.engine) as ours:
                    if restored_copies.by_secret(ours, [stored.subscriber.secret]):
                        continue
                cells = {k: v for k, v in signup.transfer.export_row(stored, key).items() if v}
                [done] = taking.take([Record(0, cells, ())], is_ours=True)
                if done.outcome is ImportReport.ADDED:
                    self.result.joined.append(done.email)
                else:
                    self.result.unknown.append(f"{done.email}: {done.reason}")

    def _take_deliveries(self, old: Engine) -> None:
        """Take over the deliveries of the old database in chunks, one transaction each."""
        last_id = 0
        while True:
            with read_only(old) as conn:
                rows = restored_copies.deliveries_after(conn, last_id)
                if not rows:
                    return
                picks = restored_copies.picks_of(conn, [row["id"] for row in rows])
                secrets = {
                    row["subscriber_id"]: one.secret
                    for row in rows
                    if (one := subscribers.by_id(conn, row["subscriber_id"]))
                }
            last_id = rows[-1]["id"]
            self._once(partial(self._take_some, rows, picks, secrets))

    def _take_some(
        self,
        rows: Sequence[dict[str, Any]],
        picks: Sequence[Mapping[str, Any]],
        secrets: Mapping[int, str],
        conn: Connection,
    ) -> None:
        """Update the deliveries known here, and copy digests and notices that are missing here."""
        ours = restored_copies.by_dedupe_key(conn, [row["dedupe_key"] for row in rows])
        readers = restored_copies.by_secret(conn, list(secrets.values()))
        counts: Counter[str] = Counter()
        for row in rows:
            theirs = row | _ended(row)
            existing = ours.get(row["dedupe_key"])
            reader = readers.get(secrets.get(row["subscriber_id"], ""))
            if reader is None or reader["id"] != row["subscriber_id"]:
                continue  # joined after the dump: has another id here
            frozen = [pick for pick in picks if pick["delivery_id"] == row["id"]]
            if existing:
                is_theirs = existing.subscriber_id == reader["id"] and existing.status not in _ENDED
                if is_theirs and existing.status != theirs["status"]:
                    restored_copies.take_over(conn, existing.id, theirs)
                    if not restored_copies.replace_picks(conn, existing.id, frozen):
                        self._pass_over(conn, theirs)
                    counts["settled"] += 1
            elif row["kind"] in LIST_MAIL:
                self._copy(conn, theirs, frozen)
                counts["copied"] += 1
        self.result.settled += counts["settled"]
        self.result.copied += counts["copied"]

    def _copy(
        self, conn: Connection, theirs: Mapping[str, Any], picks: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add a delivery of the old database without its lease, its batch at most ours."""
        through = {"range_to": _within(conn, theirs["range_to"])}
        free = {"lease": None, "lease_until": None}
        if not restored_copies.add_delivery(conn, {**theirs, **free, **through}, picks):
            self._pass_over(conn, theirs)

    def _pass_over(self, conn: Connection, theirs: Mapping[str, Any]) -> None:
        """Skip papers announced up to this digest: some are not ingested here yet."""
        since = subscriber_transfer.papers_from(theirs["created_at"])
        restored_copies.move_on(conn, theirs["subscriber_id"], {"papers_from": since})


_ENDED: Final = frozenset(
    {
        DeliveryStatus.SENT,
        DeliveryStatus.FAILED,
        DeliveryStatus.SUPPRESSED,
        DeliveryStatus.CANCELLED,
        DeliveryStatus.EXPIRED,
    }
)


def _ended(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that end a lease of the old database; empty if it had none."""
    match DeliveryStatus(row["status"]):
        case DeliveryStatus.LEASED:
            return {"status": DeliveryStatus.QUEUED, "reason": "its sender was replaced"}
        case DeliveryStatus.SENDING:
            return {"status": DeliveryStatus.UNCERTAIN, "reason": restored_copies.TAKEN}
        case _:
            return {}


def _within(conn: Connection, batch: int | None) -> int | None:
    """Return the batch, at most the last one published here: this copy has no later ones."""
    return None if batch is None else min(batch, ingest_state.published_batch(conn))


def moved_on(reader: Subscriber, sent_until: datetime) -> dict[str, Any]:
    """Return new columns of a subscriber with slots up to `sent_until` served elsewhere. Pure."""
    if reader.next_slot_at is None or reader.next_slot_at > sent_until:
        since = subscriber_transfer.papers_from(sent_until)  # only the welcome was sent
        return {"welcome_due": False, "papers_from": max(since, reader.papers_from or since)}
    slot = slots.newest_slot(
        reader.schedule,
        sent_until,
        reader.next_slot_at,
        reader.last_slot_at,
        reader.last_edition_on,
    )
    edition_on = slots.local_date(slot, reader.schedule)
    was_paused = reader.paused_until is not None and edition_on < reader.paused_until
    since = subscriber_transfer.papers_from(slot)
    return {
        "welcome_due": False,
        "last_slot_at": slot,
        "last_edition_on": edition_on,
        "next_slot_at": slots.next_slot(reader.schedule, slot, edition_on),
        "papers_from": reader.papers_from
        if was_paused
        else max(since, reader.papers_from or since),
    }
