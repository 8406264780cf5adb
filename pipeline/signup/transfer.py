"""Export and import of all subscribers: to another installation, and from other newsletters.

An export has every column that a move needs; importing it keeps each status and sends no mail. In
a foreign list, active addresses get a confirmation mail unless the operator vouches for their
consent; addresses that unsubscribed, bounced or complained there are stored as such and get none.

An import commits after every 500 rows. It is idempotent: if it is killed and run again, rows that
were imported change nothing and it continues with the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from enum import StrEnum
from functools import lru_cache, partial
from secrets import token_urlsafe
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from pipeline import slots
from pipeline.domain import (
    Breadth,
    Frequency,
    Origin,
    RequestKind,
    Schedule,
    SubscriberStatus,
    SuppressionReason,
    Weekday,
)
from pipeline.errors import AddressError, PaperboyError, QueryError
from pipeline.matching.query import TopicQuery, parse_topic
from pipeline.signup import abuse_limits, subscribe
from pipeline.signup.choices import Choices, checked, parse_queries, valid_address
from pipeline.signup.csv_lists import OURS, Record, SubscriberList, join_words, split_words
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
from pipeline.storage.subscriber_transfer import ExistingSubscriber, StoredSubscriber
from pipeline.storage.suppressions import Suppression

log = structlog.get_logger(__name__)

Words = TypeVar("Words", bound=StrEnum)

CHUNK: Final = 500  # rows per transaction
SUPPRESSED: Final = "suppressed"  # status of a row that has only a suppressed hash
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
        "paused_until": subscriber.paused_until,
        "joined_at": record["created_at"],
        "confirmed_at": record["confirmed_at"],
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
    }


def _row(values: Mapping[str, Any]) -> dict[str, str]:
    return {column: _as_cell(values.get(column)) for column in OURS}


def _as_cell(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


# --- Parsing of rows ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Consent:
    """The record of consent: time, origin, version of the wording, network address."""

    requested_at: datetime | None = None
    agreed_at: datetime | None = None
    origin: Origin = Origin.IMPORT
    wording: str | None = None
    ip: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A validated row of a list."""

    email: str
    key: str  # the normalised address
    status: SubscriberStatus
    choices: Choices
    queries: tuple[tuple[str, str], ...]  # (canonical, label)
    needs_confirmation: bool  # pending, and needs a confirmation mail
    suppression: tuple[SuppressionReason, datetime] | None = None
    paused_until: date | None = None
    joined_at: datetime | None = None
    confirmed_at: datetime | None = None
    left_at: datetime | None = None
    left_reason: str | None = None
    consent: Consent = field(default_factory=Consent)
    secret: str = field(default="", repr=False)
    last_slot_at: datetime | None = None
    last_edition_on: date | None = None
    covered_until: datetime | None = None
    welcome_due: bool = False

    @property
    def has_left(self) -> bool:
        return self.status is SubscriberStatus.UNSUBSCRIBED


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


class _Standing(StrEnum):
    """The status of an address in another newsletter, least severe first."""

    ACTIVE = "active"
    PENDING = "pending"
    LEFT = "left"
    BLOCKED = "blocked"
    BOUNCED = "bounced"
    COMPLAINED = "complained"


_GRAVITY: Final = list(_Standing)
_REASONS: Final = {
    _Standing.BLOCKED: SuppressionReason.MANUAL,
    _Standing.BOUNCED: SuppressionReason.HARD,
    _Standing.COMPLAINED: SuppressionReason.COMPLAINT,
}
_WORDS: Final = {
    _Standing.ACTIVE: (
        "active subscribed enabled confirmed regular premium gifted comped complimentary free paid "
        "paying trialed trial trialing member optedin optin yes true 1 verified valid on engaged "
        "pastdue unpaid churning"
    ),
    _Standing.PENDING: (
        "pending unconfirmed unactivated unverified notconfirmed awaitingconfirmation "
        "pendingconfirmation waiting requested upcoming notverified doubleoptin"
    ),
    _Standing.LEFT: (
        "unsubscribed inactive disabled removed left optedout optout churned deleted archived "
        "nonsubscribed notsubscribed neversubscribed cancelled canceled expired paused no false 0 "
        "off transactional nomail unsubscribe"
    ),
    _Standing.BLOCKED: (
        "blocklisted blacklisted blocked suppressed banned donotcontact donotmail spammy malicious "
        "excluded"
    ),
    _Standing.BOUNCED: (
        "cleaned bounced bounce hardbounced hardbounce softbounced softbounce bouncing "
        "undeliverable undelivered invalid dead nonexistent"
    ),
    _Standing.COMPLAINED: (
        "complained complaint complaints complaining spam markedasspam reportedspam abuse junk "
        "reported spamcomplaint"
    ),
}
_STANDINGS: Final = {word: one for one, words in _WORDS.items() for word in words.split()}
_FLAGS: Final = {
    "is_left": _Standing.LEFT,
    "is_bounced": _Standing.BOUNCED,
    "is_complaint": _Standing.COMPLAINED,
    "is_blocked": _Standing.BLOCKED,
}
_MOMENTS: Final = {
    "left_on": _Standing.LEFT,
    "bounced_on": _Standing.BOUNCED,
    "complained_on": _Standing.COMPLAINED,
}
_NO: Final = frozenset({"", "no", "n", "false", "f", "0", "off", "never", "none", "null", "-"})


def parse_member(
    record: Record, *, is_ours: bool, confirmed: bool, max_papers: int, now: datetime
) -> Member:
    """Parse and validate a row. Raise PaperboyError if a cell is invalid, naming its column."""
    if record.problem:
        raise PaperboyError(record.problem)
    cells = record.cells
    if not cells.get("email"):
        raise AddressError("the row has no email address")
    email = valid_address(cells["email"])
    choices = _choices(cells, is_ours=is_ours, max_papers=max_papers)
    member = Member(
        email,
        addresses.email_key(email),
        SubscriberStatus.PENDING,
        choices,
        tuple(checked(choices)),
        needs_confirmation=True,
        joined_at=_moment(cells, "joined_at", strict=is_ours),
    )
    if is_ours and cells.get("status", "").casefold() in set(SubscriberStatus):
        return _as_exported(member, cells)
    return _as_foreign(member, cells, confirmed=confirmed, now=now)


def _as_exported(member: Member, cells: Mapping[str, str]) -> Member:
    status = _one_of(SubscriberStatus, cells["status"].casefold(), "status")
    secret = cells.get("secret", "")
    if secret and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", secret):
        raise PaperboyError("secret: not from a Paperboy export")
    moment, day = partial(_moment, cells), partial(_day, cells)
    suppression = None
    if cells.get("suppressed"):
        reason = _one_of(SuppressionReason, cells["suppressed"], "suppressed")
        suppression = (reason, moment("suppressed_since") or datetime.min.replace(tzinfo=UTC))
    return replace(
        member,
        status=status,
        # A pending subscriber follows no topic: the choices are stored in the request.
        queries=()
        if status is SubscriberStatus.PENDING and not member.choices.topics
        else member.queries,
        needs_confirmation=False,
        suppression=suppression,
        paused_until=day("paused_until"),
        confirmed_at=moment("confirmed_at"),
        left_at=moment("left_at"),
        left_reason=cells.get("left_reason"),
        consent=Consent(
            moment("consent_asked_at"),
            moment("consent_at"),
            _one_of(Origin, cells.get("consent_origin") or Origin.IMPORT, "consent_origin"),
            cells.get("consent_wording"),
            cells.get("consent_ip"),
        ),
        secret=secret,
        last_slot_at=moment("last_slot_at"),
        last_edition_on=day("last_edition_on"),
        covered_until=moment("covered_until"),
        welcome_due=bool(cells.get("welcome_due")),
    )


def _as_foreign(
    member: Member, cells: Mapping[str, str], *, confirmed: bool, now: datetime
) -> Member:
    standing, since = _standing(cells)
    agreed_at = _moment(cells, "consent_at", strict=False) or _moment(
        cells, "confirmed_at", strict=False
    )
    consent = Consent(
        _moment(cells, "consent_asked_at", strict=False),
        agreed_at,
        Origin.IMPORT,
        None,
        cells.get("consent_ip") or cells.get("optin_ip"),
    )
    member = replace(member, consent=consent)
    if standing is _Standing.PENDING:
        return replace(member, needs_confirmation=False)
    if standing is None or standing is _Standing.ACTIVE:
        if not confirmed:
            return member
        return replace(
            member, status=SubscriberStatus.ACTIVE, needs_confirmation=False, confirmed_at=agreed_at
        )
    reason = _REASONS.get(standing)
    return replace(
        member,
        status=SubscriberStatus.UNSUBSCRIBED,
        needs_confirmation=False,
        left_at=since,
        suppression=(reason, since or now) if reason else None,
    )


def _standing(cells: Mapping[str, str]) -> tuple[_Standing | None, datetime | None]:
    """Return the most severe status in a foreign row and its time; None if it has no status."""
    found: list[tuple[_Standing, datetime | None]] = []
    if cells.get("status"):
        word = _STANDINGS.get(_letters(cells["status"]))
        if word is None:
            raise PaperboyError(
                f"status: {cells['status']!r} is not a known status; use active, pending, "
                "unsubscribed, bounced, complained or blocked"
            )
        found.append((word, None))
    kind = _STANDINGS.get(_letters(cells.get("kind", "")))
    if kind:
        found.append((kind, None))
    if "is_subscribed" in cells:
        is_no = _letters(cells["is_subscribed"]) in _NO
        found.append((_Standing.LEFT if is_no else _Standing.ACTIVE, None))
    for column, standing in _FLAGS.items():
        if _letters(cells.get(column, "")) not in _NO:
            found.append((standing, None))
    if _letters(cells.get("suppressed", "")) not in _NO:
        found.append((_Standing.BLOCKED, None))
    for column, standing in _MOMENTS.items():
        if _letters(cells.get(column, "")) not in _NO:
            found.append((standing, _moment(cells, column, strict=False)))
    if _letters(cells.get("left_at", "")) not in _NO:
        found.append((_Standing.LEFT, _moment(cells, "left_at", strict=False)))
    if not found:
        return None, None
    gravest = max(found, key=lambda one: _GRAVITY.index(one[0]))[0]
    return gravest, max((at for _, at in found if at), default=None)


def _letters(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())


def _choices(cells: Mapping[str, str], *, is_ours: bool, max_papers: int) -> Choices:
    topics = split_words(cells.get("topics", ""))
    names = split_words(cells.get("names", "")) if is_ours else ()
    if names and len(names) != len(topics):
        raise PaperboyError(f"names: {len(names)} names of {len(topics)} topics")
    most = _number(cells, "max_papers", max_papers)
    if not 1 <= most <= 50:
        raise PaperboyError(f"max_papers: {most} is not between 1 and 50")
    choices = Choices(
        (),
        Schedule(
            _hour(cells.get("hour", "")),
            _zone(cells.get("timezone", ""), is_ours=is_ours),
            _one_of(Frequency, (cells.get("frequency") or "daily").casefold(), "frequency"),
            weekday(cells.get("weekday") or "monday"),
        ),
        most,
        names=dict(zip(topics, names, strict=False)),
        breadth=breadth(cells.get("breadth") or "balanced"),
    )
    try:
        return replace(choices, topics=parse_queries(topics, _parse))
    except QueryError as error:
        raise PaperboyError(f"topics: {error.message}: {error.query!r}") from error


_parse: Final[Callable[[str], TopicQuery]] = lru_cache(maxsize=10_000)(parse_topic)


def weekday(name: str) -> Weekday:
    """Parse a weekday: its English name, at least 2 first letters, or its number (0 is Monday).

    Raise PaperboyError if it is none.
    """
    folded = name.strip().casefold()
    for day in Weekday:
        if folded == str(int(day)) or (len(folded) >= 2 and day.name.casefold().startswith(folded)):
            return day
    raise PaperboyError(f"weekday: {name!r} is not a day of the week")


def breadth(name: str) -> Breadth:
    try:
        return Breadth[name.strip().upper()]
    except KeyError:
        raise PaperboyError(f"breadth: {name!r} is not fewer, balanced or more") from None


def _hour(text: str) -> time:
    matched = re.fullmatch(r"(\d{1,2})(?:[:.](\d\d))?(?::00)?", text or "8")
    if matched is None or int(matched[1]) > 23 or int(matched[2] or 0) > 59:
        raise PaperboyError(f"hour: {text!r} is not an hour from 0 to 23")
    return time(int(matched[1]), int(matched[2] or 0))


def _zone(name: str, *, is_ours: bool) -> str:
    """Return the time zone; in a foreign list UTC if its name is unknown.

    Other newsletters guess time zones and use their own names for them.
    """
    if not name or is_ours:
        return name or "UTC"
    try:
        slots.zone(name)
    except PaperboyError:
        return "UTC"
    return name


def _number(cells: Mapping[str, str], column: str, default: int) -> int:
    text = cells.get(column)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise PaperboyError(f"{column}: {text!r} is not a number") from None


def _one_of(words: type[Words], text: str, column: str) -> Words:
    try:
        return words(text)
    except ValueError:
        raise PaperboyError(f"{column}: {text!r} is not one of {', '.join(words)}") from None


def _moment(cells: Mapping[str, str], column: str, *, strict: bool = True) -> datetime | None:
    """Parse a time, without a zone as UTC; None if the cell is empty.

    If it is invalid, raise PaperboyError, or return None unless `strict` (foreign lists).
    """
    text = cells.get(column)
    if not text:
        return None
    try:
        parsed = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        if strict:
            raise PaperboyError(f"{column}: {text!r} is not a time") from None
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _day(cells: Mapping[str, str], column: str) -> date | None:
    text = cells.get(column)
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise PaperboyError(f"{column}: {text!r} is not a day") from None


# --- Import -------------------------------------------------------------------------------------


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
        for place, record in enumerate(records):
            try:
                if is_ours and _is_hash(record):
                    hashes[place] = self._hash_of(record)
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
        return [results[place] for place in sorted(results)]

    def _transaction(self) -> Any:
        return read_only(self.engine) if self.dry_run else self.engine.begin()

    def _hash_of(self, record: Record) -> Suppression:
        cells = record.cells
        if cells.get("key") != subscriber_transfer.key_fingerprint(self.suppression_key):
            raise _OtherKeyError
        reason = _one_of(SuppressionReason, cells.get("suppressed", ""), "suppressed")
        since = _moment(cells, "suppressed_since") or self.now
        return Suppression(cells["address_hash"], reason, since)

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
        for _, member in stored:
            self._suppress_member(conn, member)
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
            "secret": member.secret,
            "paused_until": member.paused_until,
            "next_slot_at": None if member.has_left else self._next_slot(member),
            "last_slot_at": member.last_slot_at,
            "last_edition_on": member.last_edition_on,
            "cursor": cursor,
            "papers_from": since,
            "created_at": member.joined_at or self.now,
            "confirmed_at": member.confirmed_at or (self.now if is_active else None),
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
