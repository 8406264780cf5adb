"""Export and import of all subscribers: to another installation, and from other newsletters.

An export has every column that a move needs; importing it keeps each status and sends no mail. In
a foreign list, active addresses get a confirmation mail unless the operator vouches for their
consent; addresses that unsubscribed, bounced or complained there are stored as such and get none.

An import commits after every 500 rows. It is idempotent: if it is killed and run again, rows that
were imported change nothing and it continues with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from enum import StrEnum
from secrets import token_urlsafe
from typing import Any, Final

import structlog
from sqlalchemy import Connection, Engine

from pipeline import slots
from pipeline.domain import (
    Origin,
    RequestKind,
    SubscriberStatus,
    SuppressionReason,
)
from pipeline.errors import PaperboyError
from pipeline.signup import abuse_limits, reaction_transfer, subscribe
from pipeline.signup.csv_lists import OURS, Record, SubscriberList, join_words
from pipeline.signup.members import Member, parse_member, suppression_in
from pipeline.storage import (
    addresses,
    deliveries,
    ingest_state,
    subscriber_transfer,
    subscribers,
    suppressions,
)
from pipeline.storage.database import in_chunks, read_only, retry_transaction
from pipeline.storage.deliveries import CancelReason
from pipeline.storage.reactions import Reaction
from pipeline.storage.subscriber_transfer import ExistingSubscriber, StoredSubscriber
from pipeline.storage.suppressions import Suppression

log = structlog.get_logger(__name__)

CHUNK: Final = 500  # rows per transaction
SUPPRESSED: Final = "suppressed"  # status of a row that has only a suppressed hash
REACTION: Final = "reaction"  # status of a row that has a reaction of the reader before it
OTHER_KEY: Final = (
    "the suppressed addresses in this file are hashes made with another SUPPRESSION_KEY: set the "
    "one of the old installation here first, or leave them out with --skip-hashes"
)


# --- Export -------------------------------------------------------------------------------------


def export_rows(engine: Engine, suppression_key: str) -> Iterator[dict[str, str]]:
    """Yield the rows of an export, by column, from one snapshot; suppressed hashes come first."""
    key = subscriber_transfer.key_fingerprint(suppression_key)
    with read_only(engine) as conn:
        if conn.dialect.name == "postgresql":
            conn = conn.execution_options(isolation_level="REPEATABLE READ")
        for suppression in suppressions.without_subscriber(conn):
            yield _row(
                {
                    "status": SUPPRESSED,
                    "suppressed": suppression.reason,
                    "suppressed_since": suppression.since,
                    "address_hash": suppression.hash,
                    "key": key,
                }
            )
        for stored in subscriber_transfer.everyone(conn):
            yield export_row(stored, key)
            for reaction in stored.reactions:
                yield _row(
                    {
                        "email": stored.subscriber.email,
                        "status": REACTION,
                        "reaction": reaction_transfer.reaction_cell(reaction),
                    }
                )


def export_row(stored: StoredSubscriber, key: str) -> dict[str, str]:
    """Return the row of one subscriber; `key` is the fingerprint of the suppression key."""
    return _row(_reported(stored, key))


def _reported(stored: StoredSubscriber, key: str) -> dict[str, Any]:
    subscriber, record = stored.subscriber, stored.record
    schedule, consent = subscriber.schedule, stored.consent or {}
    queries = [subscription.topic.query for subscription in stored.topics]
    labels = [subscription.label for subscription in stored.topics]
    at = schedule.at
    return {
        "email": subscriber.email,
        "status": subscriber.status,
        "topics": join_words(queries),
        "names": join_words(labels) if labels != queries else "",
        "hour": at.hour if at == time(at.hour) else f"{at:%H:%M}",
        "timezone": schedule.timezone,
        "frequency": schedule.frequency,
        "weekday": schedule.weekday.name.casefold(),
        "max_papers": subscriber.max_papers,
        "breadth": subscriber.breadth.name.casefold(),
        "near_misses_after": subscriber.near_misses_after,
        "paused_until": subscriber.paused_until,
        "joined_at": record["created_at"],
        "confirmed_at": record["confirmed_at"],
        "active_on": subscriber.active_on,
        "left_at": record["left_at"],
        "left_reason": record["left_reason"],
        "consent_asked_at": consent.get("created_at"),
        "consent_at": consent.get("used_at"),
        "consent_origin": consent.get("origin"),
        "consent_wording": consent.get("wording"),
        "consent_ip": consent.get("ip"),
        "secret": subscriber.secret,
        "last_slot_at": subscriber.last_slot_at,
        "last_edition_on": subscriber.last_edition_on,
        "covered_until": stored.covered_until,
        "welcome_due": "yes" if subscriber.welcome_due else "",
        "suppressed": stored.suppression.reason if stored.suppression else None,
        "suppressed_since": stored.suppression.since if stored.suppression else None,
        "key": key,
        "profile": reaction_transfer.profile_cell(stored.profile),
    }


def _row(values: Mapping[str, Any]) -> dict[str, str]:
    return {column: _as_cell(values.get(column)) for column in OURS}


def _as_cell(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


# --- Import -------------------------------------------------------------------------------------


class ImportReport(StrEnum):
    """The result of importing a row."""

    ADDED = "added"
    KNOWN = "known"  # the address is stored already, and is left unchanged
    UNSUBSCRIBED = "unsubscribed"  # the address was stored, and the row reports that it left
    LEFT_OUT = "left out"  # erased here, or a hash skipped with --skip-hashes
    REJECTED = "rejected"  # the row is invalid; see `reason`


@dataclass(frozen=True, slots=True)
class Imported:
    """A row of a list and the result of importing it."""

    record: Record
    email: str
    outcome: ImportReport
    status: str = ""  # active, pending, unsubscribed, suppressed; "asked" if a mail is queued
    reason: str = ""


@dataclass(frozen=True)
class Import:
    """One run of an import; with `dry_run` it returns the same results and writes nothing."""

    engine: Engine
    suppression_key: str = field(repr=False)
    now: datetime
    max_papers: int
    confirmed: bool = False  # the operator vouches for the consent of active addresses
    skip_hashes: bool = False
    dry_run: bool = False
    _hashes: dict[str, str] = field(default_factory=dict, repr=False)  # cache for this chunk
    _cursors: dict[datetime | None, int] = field(default_factory=dict, repr=False)
    _seen: set[int] = field(default_factory=set, repr=False)  # by a dry run, which stores nothing

    def run(self, given: SubscriberList) -> Iterator[Imported]:
        """Import a list and yield the result of every row, in order, after it is committed.

        Raise PaperboyError if a suppressed hash was made with another key, unless `skip_hashes` is
        set; the chunks before it stay committed.
        """
        for records in in_chunks(given, CHUNK):
            yield from self.take(records, is_ours=given.is_ours)

    @retry_transaction
    def take(self, records: Sequence[Record], *, is_ours: bool) -> list[Imported]:
        """Import a few records in one transaction, which is retried; return their results."""
        self._hashes.clear()
        self._cursors.clear()
        results: dict[int, Imported] = {}
        members: dict[int, Member] = {}
        hashes: dict[int, Suppression] = {}
        moved: list[tuple[int, str, Reaction]] = []
        for place, record in enumerate(records):
            try:
                if is_ours and _is_hash(record):
                    hashes[place] = self._hash_of(record)
                    continue
                if is_ours and record.cells.get("reaction"):
                    key = addresses.email_key(record.cells["email"])
                    reaction = reaction_transfer.parse_reaction(record.cells["reaction"])
                    moved.append((place, key, reaction))
                    continue
                members[place] = parse_member(
                    record, is_ours=is_ours, confirmed=self.confirmed,
                    max_papers=self.max_papers, now=self.now,
                )  # fmt: skip
            except _OtherKeyError:
                if not self.skip_hashes:
                    raise PaperboyError(OTHER_KEY) from None
                results[place] = _result(
                    record, ImportReport.LEFT_OUT, SUPPRESSED, "its hash is of another key"
                )
            except PaperboyError as error:
                results[place] = _result(record, ImportReport.REJECTED, "", str(error))
        with self._transaction() as conn:
            results |= self._suppress(conn, records, hashes)
            results |= self._store(conn, records, members)
            results |= self._react(conn, records, moved)
        return [results[place] for place in sorted(results)]

    def _transaction(self) -> Any:
        return read_only(self.engine) if self.dry_run else self.engine.begin()

    def _hash_of(self, record: Record) -> Suppression:
        cells = record.cells
        if cells.get("key") != subscriber_transfer.key_fingerprint(self.suppression_key):
            raise _OtherKeyError
        reason, since = suppression_in(cells)
        return Suppression(cells["address_hash"], reason, since or self.now)

    def _suppress(
        self, conn: Connection, records: Sequence[Record], hashes: Mapping[int, Suppression]
    ) -> dict[int, Imported]:
        before = suppressions.by_hashes(conn, [suppression.hash for suppression in hashes.values()])
        if not self.dry_run:
            suppressions.add_imported(conn, hashes.values())
        return {
            place: _result(
                records[place],
                ImportReport.KNOWN if suppression.hash in before else ImportReport.ADDED,
                SUPPRESSED,
                f"{suppression.reason}, by its hash",
            )
            for place, suppression in hashes.items()
        }

    # --- Members --------------------------------------------------------------------------------

    def _store(
        self, conn: Connection, records: Sequence[Record], members: Mapping[int, Member]
    ) -> dict[int, Imported]:
        keys = sorted({member.key for member in members.values()})
        existing = subscriber_transfer.existing(conn, keys, lock=not self.dry_run)
        hashes = {key: self._address_hash(key) for key in keys}
        suppressed = suppressions.by_hashes(conn, list(hashes.values()))
        results: dict[int, Imported] = {}
        new: dict[str, int] = {}  # by key, the position of the row that adds it
        for place, member in members.items():
            record, key = records[place], member.key
            suppression = suppressed.get(hashes[key])
            if _is_erased(suppression, member):
                reason = "was erased here on request"
                results[place] = _result(record, ImportReport.LEFT_OUT, "", reason)
            elif key in new:
                earlier = members[new[key]]
                results[place] = _result(record, ImportReport.KNOWN, reason="is in the file twice")
                if member.has_left and not earlier.has_left:
                    # If one row reports that the address left, it wins over rows before it.
                    first = new[key]
                    results[first] = _result(
                        records[first],
                        ImportReport.KNOWN,
                        reason="another row has it as unsubscribed",
                    )
                    del results[place]
                    new[key] = place
            elif key in existing:
                results[place] = self._meet(conn, record, member, existing[key])
                if results[place].outcome is ImportReport.ADDED:
                    existing[key] = replace(existing[key], status=member.status)
            elif hash(key) in self._seen:
                outcome = ImportReport.UNSUBSCRIBED if member.has_left else ImportReport.KNOWN
                results[place] = _result(record, outcome, reason="is in the file twice")
            else:
                new[key] = place
        added = self._add(conn, [members[place] for place in new.values()])
        for key, place in new.items():
            member, record = members[place], records[place]
            if key not in added:  # added concurrently
                results[place] = _result(record, ImportReport.KNOWN, reason="is already subscribed")
                continue
            requested = member.needs_confirmation and self._ask(
                conn, added[key], member, suppressed.get(hashes[key])
            )
            results[place] = _added(record, member, requested=requested)
            if self.dry_run:
                self._seen.add(hash(key))
        return results

    def _react(
        self,
        conn: Connection,
        records: Sequence[Record],
        moved: Sequence[tuple[int, str, Reaction]],
    ) -> dict[int, Imported]:
        """Store the reactions of stored readers; one that is known stays unchanged."""
        groups = reaction_transfer.by_reader(moved)
        existing = subscriber_transfer.existing(conn, sorted(groups), lock=not self.dry_run)
        results: dict[int, Imported] = {}
        for key, group in groups.items():
            reader, found = existing.get(key), [reaction for _, reaction in group]
            if reader is None and hash(key) not in self._seen:
                for place, _ in group:
                    reason = "its reader is not stored here"
                    results[place] = _result(
                        records[place], ImportReport.LEFT_OUT, REACTION, reason
                    )
                continue
            added = reaction_transfer.restore_reactions(
                conn, reader.id if reader else 0, found, self.now, dry_run=self.dry_run
            )
            for (place, _), is_new in zip(group, added, strict=True):
                outcome = ImportReport.ADDED if is_new else ImportReport.KNOWN
                results[place] = _result(records[place], outcome, REACTION)
        return results

    def _address_hash(self, key: str) -> str:
        if key not in self._hashes:
            self._hashes[key] = addresses.address_hash(key, self.suppression_key)
        return self._hashes[key]

    def _meet(
        self, conn: Connection, record: Record, member: Member, existing: ExistingSubscriber
    ) -> Imported:
        """Return the result for an address that is already stored."""
        if member.has_left:
            return self._part(conn, record, member, existing)
        was_waiting = existing.status is SubscriberStatus.PENDING
        if was_waiting and member.status is SubscriberStatus.ACTIVE:
            return self._activate(conn, record, member, existing)
        if existing.status is SubscriberStatus.UNSUBSCRIBED:
            return _result(
                record,
                ImportReport.KNOWN,
                existing.status,
                "has unsubscribed, and gets no confirmation mail",
            )
        reason = "is not confirmed yet" if was_waiting else "is already subscribed"
        return _result(record, ImportReport.KNOWN, existing.status, reason)

    def _part(
        self, conn: Connection, record: Record, member: Member, existing: ExistingSubscriber
    ) -> Imported:
        """Unsubscribe a known address if it left after its confirmation here, or was imported.

        If the row gives no time, only an address whose requests all come from imports is
        unsubscribed. Suppress the address, too, if the row reports a bounce, complaint or block.
        """
        has_left = existing.status is SubscriberStatus.UNSUBSCRIBED
        left_later = member.left_at is not None and (
            existing.confirmed_at is None or existing.confirmed_at <= member.left_at
        )
        if not (has_left or left_later or existing.is_imported):
            reason = (
                "confirmed here after it unsubscribed there"
                if member.left_at
                else "is subscribed here, and the row has no time of unsubscribing"
            )
            return _result(record, ImportReport.KNOWN, existing.status, reason)
        if not self.dry_run:
            if not has_left:
                subscribers.leave(conn, existing.id, member.left_at or self.now)
            self._suppress_member(conn, member)
        if has_left:
            return _result(record, ImportReport.KNOWN, existing.status, "is already unsubscribed")
        return _result(record, ImportReport.UNSUBSCRIBED, SubscriberStatus.UNSUBSCRIBED)

    def _activate(
        self, conn: Connection, record: Record, member: Member, existing: ExistingSubscriber
    ) -> Imported:
        """Activate a pending address that the list reports as active."""
        if not self.dry_run:
            values = self._values(conn, member)
            secrets = (
                subscriber_transfer.secrets_in_use(conn, [member.secret]) if member.secret else {""}
            )
            del values["email"], values["email_key"], values["address_hash"]
            if member.secret in secrets:
                del values["secret"]
            if subscriber_transfer.begin_anew(conn, existing.id, values):
                deliveries.cancel_unsent(conn, [existing.id], CancelReason.SUPERSEDED)
                subscriber_transfer.unfollow(conn, existing.id)
                subscriber_transfer.follow(conn, {existing.id: member.queries}, self.now)
                subscriber_transfer.add_consents(conn, [self._consent(existing.id, member)])
                self._suppress_member(conn, member)
                reaction_transfer.restore_profile(conn, existing.id, member.profile, self.now)
        return _added(record, member, requested=False)

    def _add(self, conn: Connection, members: Sequence[Member]) -> dict[str, int]:
        """Add subscribers with topics, consents and suppressions; return ids by normalised address.

        Addresses that were added concurrently are missing in the result.
        """
        if self.dry_run:
            return {member.key: 0 for member in members}
        members = sorted(members, key=lambda member: member.key)
        in_use = subscriber_transfer.secrets_in_use(
            conn, [member.secret for member in members if member.secret]
        )
        rows = []
        for member in members:
            values = self._values(conn, member)
            if not member.secret or member.secret in in_use:
                values["secret"] = token_urlsafe(16)
            in_use.add(values["secret"])
            rows.append(values)
        added = subscriber_transfer.add_subscribers(conn, rows)
        stored = [(added[member.key], member) for member in members if member.key in added]
        subscriber_transfer.follow(conn, {id_: member.queries for id_, member in stored}, self.now)
        agreed = [
            (id_, member)
            for id_, member in stored
            if not member.needs_confirmation and _has_agreed(member)
        ]
        subscriber_transfer.add_consents(
            conn, [self._consent(id_, member) for id_, member in agreed]
        )
        for id_, member in stored:
            self._suppress_member(conn, member)
            reaction_transfer.restore_profile(conn, id_, member.profile, self.now)
        return added

    def _values(self, conn: Connection, member: Member) -> dict[str, Any]:
        is_active = member.status is SubscriberStatus.ACTIVE
        schedule = member.choices.schedule
        cursor, since = self._place(conn, member)
        return {
            "email": member.email,
            "email_key": member.key,
            "address_hash": self._address_hash(member.key),
            "status": member.status,
            "at": schedule.at,
            "timezone": schedule.timezone,
            "frequency": schedule.frequency,
            "weekday": int(schedule.weekday),
            "max_papers": member.choices.max_papers,
            "breadth": member.choices.breadth,
            "near_misses_after": member.choices.near_misses_after,
            "secret": member.secret,
            "paused_until": member.paused_until,
            "next_slot_at": None if member.has_left else self._next_slot(member),
            "last_slot_at": member.last_slot_at,
            "last_edition_on": member.last_edition_on,
            "cursor": cursor,
            "papers_from": since,
            "created_at": member.joined_at or self.now,
            "confirmed_at": member.confirmed_at or (self.now if is_active else None),
            "active_on": member.active_on or (self.now.date() if is_active else None),
            "left_at": (member.left_at or self.now) if member.has_left else None,
            "left_reason": member.left_reason if member.has_left else None,
            "welcome_due": member.welcome_due and is_active,
        }

    def _next_slot(self, member: Member) -> datetime:
        schedule = member.choices.schedule
        if member.last_slot_at and member.last_edition_on:
            return slots.next_slot(schedule, member.last_slot_at, member.last_edition_on)
        return slots.first_slot(schedule, self.now, member.last_slot_at, member.last_edition_on)

    def _place(self, conn: Connection, member: Member) -> tuple[int, date | None]:
        """Return the cursor and the first day whose papers are new to this subscriber."""
        until = member.covered_until
        if until not in self._cursors:
            self._cursors[until] = (
                ingest_state.last_before(conn, until)
                if until
                else ingest_state.look_back(conn, self.now, days=subscribe.WELCOME_DAYS)
            )
        return self._cursors[until], subscriber_transfer.papers_from(until) if until else None

    def _consent(self, subscriber_id: int, member: Member) -> dict[str, Any]:
        agreed_at = member.consent.agreed_at or member.confirmed_at or self.now
        return {
            "kind": RequestKind.JOIN,
            "subscriber_id": subscriber_id,
            "email": member.email,
            "email_key": member.key,
            "origin": member.consent.origin,
            "wording": member.consent.wording,
            "choices": {},
            "created_at": member.consent.requested_at or agreed_at,
            "expires_at": agreed_at,
            "used_at": agreed_at,
            "ip": member.consent.ip,
        }

    def _suppress_member(self, conn: Connection, member: Member) -> None:
        if member.suppression:
            reason, since = member.suppression
            suppressions.add_imported(
                conn, [Suppression(self._address_hash(member.key), reason, since)]
            )

    def _ask(
        self, conn: Connection, subscriber_id: int, member: Member, suppressed: Suppression | None
    ) -> bool:
        """Queue a confirmation if the limits per address allow it; return whether it was queued."""
        to = abuse_limits.limit_keys(member.email, None, self.suppression_key)
        wanted = abuse_limits.may_send_mail(
            conn, to, self.now, suppressed.reason if suppressed else None
        )
        if self.dry_run:
            return wanted
        subscribe.ask_to_confirm(
            conn, subscriber_id, member.email, member.choices, to, Origin.IMPORT, self.now,
            wanted=wanted,
        )  # fmt: skip
        return wanted


class _OtherKeyError(PaperboyError):
    """Raised if a hash was made with another suppression key."""


def _is_hash(record: Record) -> bool:
    cells = record.cells
    return not cells.get("email") and bool(cells.get("address_hash"))


def _is_erased(suppression: Suppression | None, member: Member) -> bool:
    """Return whether an address was erased here and has not been confirmed elsewhere since."""
    if suppression is None or suppression.reason is not SuppressionReason.ERASED:
        return False
    return member.confirmed_at is None or member.confirmed_at <= suppression.since


def _has_agreed(member: Member) -> bool:
    return member.status is SubscriberStatus.ACTIVE or member.consent.agreed_at is not None


def _added(record: Record, member: Member, *, requested: bool) -> Imported:
    if requested:
        return _result(record, ImportReport.ADDED, "asked")
    if member.suppression:
        return _result(record, ImportReport.ADDED, SUPPRESSED, member.suppression[0])
    reason = (
        "gets no confirmation mail now: a limit was reached" if member.needs_confirmation else ""
    )
    return _result(record, ImportReport.ADDED, member.status, reason)


def _result(record: Record, outcome: ImportReport, status: str = "", reason: str = "") -> Imported:
    email = record.cells.get("email") or next(iter(record.raw), "")[:100]
    return Imported(record, email, outcome, status, reason)
