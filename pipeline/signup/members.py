"""Parse the rows of a list of subscribers into validated members, for the import.

A row is from an export of Paperboy, or from a foreign list with the words of another newsletter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from enum import StrEnum
from functools import lru_cache, partial
from typing import Final, TypeVar

from pipeline import slots
from pipeline.domain import (
    BREADTHS,
    NEAR_MISSES_AFTER,
    NEAR_MISSES_CHOICES,
    Breadth,
    Frequency,
    Origin,
    Schedule,
    SubscriberStatus,
    SuppressionReason,
    Weekday,
)
from pipeline.errors import AddressError, PaperboyError, QueryError
from pipeline.matching.query import LONGEST_QUERY, TopicQuery, parse_topic
from pipeline.signup.choices import Choices, checked, parse_queries, valid_address
from pipeline.signup.csv_lists import Record, split_words
from pipeline.signup.reaction_transfer import MovedProfile, parse_profile
from pipeline.storage import addresses

Words = TypeVar("Words", bound=StrEnum)


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
    active_on: date | None = None
    left_at: datetime | None = None
    left_reason: str | None = None
    consent: Consent = field(default_factory=Consent)
    secret: str = field(default="", repr=False)
    last_slot_at: datetime | None = None
    last_edition_on: date | None = None
    covered_until: datetime | None = None
    welcome_due: bool = False
    profile: MovedProfile | None = None

    @property
    def has_left(self) -> bool:
        return self.status is SubscriberStatus.UNSUBSCRIBED


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
        reason, since = suppression_in(cells)
        suppression = (reason, since or datetime.min.replace(tzinfo=UTC))
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
        active_on=day("active_on"),
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
        profile=parse_profile(cells.get("profile", "")),
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


def suppression_in(cells: Mapping[str, str]) -> tuple[SuppressionReason, datetime | None]:
    """Return the reason and time of a suppression. Raise PaperboyError if a cell is invalid."""
    reason = _one_of(SuppressionReason, cells.get("suppressed", ""), "suppressed")
    return reason, _moment(cells, "suppressed_since")


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
    if max(map(len, names), default=0) > LONGEST_QUERY:
        raise PaperboyError(f"names: a name has more than {LONGEST_QUERY} characters")
    if names and len(names) != len(topics):
        raise PaperboyError(f"names: {len(names)} names of {len(topics)} topics")
    most = _number(cells, "max_papers", max_papers)
    if not 1 <= most <= 50:
        raise PaperboyError(f"max_papers: {most} is not between 1 and 50")
    near_misses_after = _number(cells, "near_misses_after", NEAR_MISSES_AFTER)
    if near_misses_after not in NEAR_MISSES_CHOICES:
        raise PaperboyError(f"near_misses_after: {near_misses_after} is not 0, 1, 3 or 7")
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
        near_misses_after=near_misses_after,
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
    for one in BREADTHS:
        if one.name == name.strip().upper():
            return one
    raise PaperboyError(f"breadth: {name!r} is not fewer, balanced or more")


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
