"""The words of the newsletter, as plain values.

Everything else in the project speaks in these types; this module imports none of it. Times are
aware and in UTC; a date is the local date of whoever it is about.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time
from enum import IntEnum, StrEnum

# --- Papers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Links:
    """Where a paper lives. Every address is http(s), or None."""

    abstract: str | None = None
    pdf: str | None = None
    code: str | None = None
    project: str | None = None
    discussion: str | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """One source's announcement of a paper, cleaned: plain text, no control characters, no markup.

    Only `source`, `source_id` and `title` are sure; an unknown count is None, not 0.
    """

    source: str
    source_id: str  # the source's own name for it, without a version; "" when it gave none
    title: str
    abstract: str = ""
    authors: tuple[str, ...] = ()
    author_count: int | None = None  # where a source tells only how many; else len(authors)
    categories: tuple[str, ...] = ()  # arXiv's, primary first
    keywords: tuple[str, ...] = ()
    arxiv_id: str | None = None  # "2503.02130" or "astro-ph/0601001": a string, no version
    doi: str | None = None  # lower case, no resolver in front
    version: int | None = None
    announced_on: date | None = None  # the day the source announced it
    published_at: datetime | None = None  # when its first version appeared
    upvotes: int | None = None
    comments: int | None = None
    links: Links = Links()
    note: str = ""  # arXiv's comment: "12 pages, accepted at ..."
    withdrawn: bool = False
    update_only: bool = False  # a replacement: may change a paper we know, never makes a new one


@dataclass(frozen=True, slots=True)
class Paper:
    """One work, whatever sources announced it, as it stands at `version` of our record."""

    id: int
    key: str  # outside name: the arXiv id, else "doi:...", else "title:<hash>"
    version: int  # of our record of its words, 1, 2, 3...; not the version at arXiv
    title: str
    abstract: str
    authors: tuple[str, ...]
    author_count: int
    categories: tuple[str, ...]
    keywords: tuple[str, ...]
    sources: tuple[str, ...]
    announced_on: date
    upvotes: int | None
    comments: int | None
    links: Links
    batch: int
    note: str = ""
    withdrawn: bool = False


class SourceState(StrEnum):
    """What people can see of a source."""

    FRESH = "fresh"  # it gave something new the last time news was due
    QUIET = "quiet"  # nothing new, and nothing was due: a weekend or a holiday
    STALE = "stale"  # news was due and it gave yesterday's again, or nothing
    FAILED = "failed"  # it could not be read; why, since when and when we try again are kept


# --- Topics and matches -------------------------------------------------------------------------

TRENDING = "trending"  # the query of the built-in topic: most upvotes first, no words to match


class TopicKind(StrEnum):
    QUERY = "query"
    TRENDING = "trending"


@dataclass(frozen=True, slots=True)
class Topic:
    """A query over papers; equal queries are one topic, however many follow it."""

    id: int
    query: str  # the canonical form that `matching.query` writes
    kind: TopicKind = TopicKind.QUERY


class Breadth(IntEnum):
    """How much a reader wants to see: which matches are sure enough to be sent.

    A reader gets every match whose breadth is at most their own.
    """

    FEWER = 1  # the paper is about the topic: in its title, or more than once
    BALANCED = 2
    MORE = 3  # mentions in passing, and words further apart


@dataclass(frozen=True, slots=True)
class Match:
    """Why a paper belongs to a topic."""

    topic_id: int
    paper_id: int
    score: float
    phrases: tuple[str, ...]  # the very words of the paper that matched, best first
    breadth: Breadth = Breadth.BALANCED  # the narrowest that lets it through


# --- Subscribers --------------------------------------------------------------------------------


class SubscriberStatus(StrEnum):
    PENDING = "pending"  # asked to subscribe, has not proved that the address is theirs
    ACTIVE = "active"
    UNSUBSCRIBED = "unsubscribed"  # their choice; our own decision is a suppression


class Frequency(StrEnum):
    DAILY = "daily"
    WEEKDAYS = "weekdays"  # Monday to Friday, by the reader's calendar
    WEEKLY = "weekly"  # on `Schedule.weekday`


class Weekday(IntEnum):
    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a reader wants the digest, by the reader's own clock."""

    at: time = time(8)
    timezone: str = "UTC"  # IANA name
    frequency: Frequency = Frequency.DAILY
    weekday: Weekday = Weekday.MONDAY


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscriber follows a topic, under the name they know it by."""

    topic: Topic
    label: str


@dataclass(frozen=True, slots=True)
class Subscriber:
    id: int
    email: str
    status: SubscriberStatus
    schedule: Schedule
    max_papers: int
    secret: str = field(
        repr=False
    )  # random; the one-click link carries it, so it outlives every key
    paused_until: date | None = None
    next_slot_at: datetime | None = None
    last_slot_at: datetime | None = None
    last_edition_on: date | None = None
    cursor: int = 0  # the last batch that a digest of theirs has covered
    welcome_due: bool = False  # has confirmed, and waits for the first digest
    breadth: Breadth = Breadth.BALANCED
    papers_from: date | None = None  # those announced before were sent by another database


# --- Digests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a paper was picked: a topic the reader follows, and the words that matched it."""

    label: str
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pick:
    """One paper in a digest, with the counts as they were when it was compiled."""

    paper: Paper
    reasons: tuple[Reason, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Digest:
    """One subscriber's share of an edition."""

    edition_on: date  # the reader's local date of the slot
    picks: tuple[Pick, ...]
    more: int = 0  # papers that matched too and found no place
    topics: tuple[str, ...] = ()  # labels of what the reader follows
    announced: tuple[date, date] | None = None  # first and last announcement it covers
    welcome: bool = False  # the first digest, from the last days


@dataclass(frozen=True, slots=True)
class QuietNote:
    """Why a reader got no digest for a while, and what would bring one."""

    edition_on: date
    since: date  # the first of the quiet days
    announced: int  # papers of these days
    topics: tuple[str, ...]  # labels of what the reader follows
    breadth: Breadth
    in_passing: int  # papers of these days that the broadest setting lets through
    wider: tuple[tuple[str, str], ...]  # a label, and a query that finds more
    follows_trending: bool


Told = Digest | QuietNote
"""What a slot may bring its reader."""


class Origin(StrEnum):
    """Who says that somebody wants our mail, before the owner of the address has."""

    FORM = "form"  # whoever filled it in
    OPERATOR = "operator"
    IMPORT = "import"  # a file of the operator's


class RequestKind(StrEnum):
    """What a request becomes when its own token is POSTed."""

    JOIN = "join"
    NEW_ADDRESS = "new-address"


class SkipReason(StrEnum):
    """Why a slot brought no mail."""

    NOTHING_NEW = "nothing new"  # no batch was published since the last digest
    NOTHING_MATCHED = "nothing matched"
    ALL_SENT_BEFORE = "all sent before"
    PAUSED = "paused"
    SUPPRESSED = "suppressed"  # we do not write to this address


# --- Deliveries ---------------------------------------------------------------------------------


class Precedence(IntEnum):
    """What leaves first, however long the others have waited."""

    AWAITED = 0  # somebody has just asked for it and looks into their mailbox
    DIGEST = 1


class DeliveryKind(StrEnum):
    DIGEST = "digest"
    WELCOME = "welcome"  # the first digest, right after confirming
    CONFIRMATION = "confirmation"
    ALREADY_IN = "already-in"  # somebody asked to join an address that has
    LINK = "link"  # the way back to the preferences, asked for by hand
    DATA_LINK = "data-link"  # the way to export and erase, only ever mailed
    NEW_ADDRESS = "new-address"  # asks the new address of a subscriber whether it is theirs
    QUIET_NOTE = "quiet-note"  # says why no digest came for a while, and what to widen

    @property
    def precedence(self) -> Precedence:
        is_awaited = self not in {DeliveryKind.DIGEST, DeliveryKind.QUIET_NOTE}
        return Precedence.AWAITED if is_awaited else Precedence.DIGEST


class DeliveryStatus(StrEnum):
    QUEUED = "queued"  # owed, waiting for its turn
    LEASED = "leased"  # claimed by a sender; nothing that counts is on the wire
    SENDING = "sending"  # marked: the final dot may be on the wire
    SENT = "sent"  # accepted by the mail server
    UNCERTAIN = "uncertain"  # the reply to the dot was lost: it may have been accepted
    FAILED = "failed"  # refused for good, or impossible to build
    SUPPRESSED = "suppressed"  # refused for good because of the address
    CANCELLED = "cancelled"  # its subscriber left, or a newer digest covers it
    EXPIRED = "expired"  # its time was over before a server took it


OWED = frozenset({DeliveryStatus.QUEUED, DeliveryStatus.LEASED})
"""Statuses in which nothing can have reached the reader yet."""

TERMINAL = frozenset(
    {
        DeliveryStatus.SENT,
        DeliveryStatus.FAILED,
        DeliveryStatus.SUPPRESSED,
        DeliveryStatus.CANCELLED,
        DeliveryStatus.EXPIRED,
    }
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message owed to one subscriber, claimed from the outbox under a lease."""

    id: int
    dedupe_key: str  # "digest:2030-01-02:17"
    kind: DeliveryKind
    subscriber_id: int
    email: str
    attempts: int  # tries charged to it so far, this one not counted
    edition_on: date | None
    expires_at: datetime
    created_at: datetime
    secret: str = field(repr=False)  # the subscriber's, for the one-click link
    request_id: int | None = None  # what its link confirms, if anything
    domain: str = ""  # whose servers take it in the end; see storage.mail_domains


class Verdict(StrEnum):
    """What the mail server said about one message, in the words of the reply table."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"  # again later: a 4xx, or trouble on the way; never counts for a reader
    GREYLISTED = "greylisted"  # again after at least five minutes, same server
    THROTTLED = "throttled"  # we are too fast, or over a quota of ours
    CONNECTION = "connection"  # 421, EOF or a timeout before the dot: reopen, nobody is charged
    CONFIGURATION = "configuration"  # our login, account or sender address: stop and alert
    AUTHENTICATION = "authentication"  # SPF, DKIM, DMARC or PTR: alert
    BLOCKED = "blocked"  # policy, reputation, content or blocklist: never punish the person
    TOO_LARGE = "too large"  # ours: fail, alert, keep the person
    FULL = "full"  # the mailbox is full
    HARD = "hard"  # no such address: suppress
    NO_DOMAIN = "no domain"  # its domain is not found: one strike, gone at the second edition
    DISABLED = "disabled"  # switched off, perhaps for a while: like the one before
    SOFT = "soft"  # any other 5xx that may be about the mailbox
    UNKNOWN = "unknown"  # the reply to the dot was lost: nobody can tell


class SuppressionReason(StrEnum):
    HARD = "hard"  # the address does not exist
    FULL = "full"  # full for weeks
    SOFT = "soft"  # refused edition after edition
    COMPLAINT = "complaint"  # called spam by its owner; only an operator lifts it
    MANUAL = "manual"  # put there by the operator
    ERASED = "erased"  # erased on request: no import brings it back, but its owner may join again


# --- Feedback -----------------------------------------------------------------------------------


DISABLED = "5.2.1"  # the enhanced code of a mailbox that is switched off, perhaps for a while


class StrikeKind(StrEnum):
    """What counts against an address, once for each edition."""

    FULL = "full"
    SOFT = "soft"
    DISABLED = "disabled"  # switched off, or its domain is not found: the first is only counted


STRIKES: dict[Verdict, StrikeKind] = {
    Verdict.FULL: StrikeKind.FULL,
    Verdict.SOFT: StrikeKind.SOFT,
    Verdict.DISABLED: StrikeKind.DISABLED,
    Verdict.NO_DOMAIN: StrikeKind.DISABLED,
}
"""Verdicts that count against an address, and how. All others are about us, or mere information."""


class NoticeKind(StrEnum):
    """What came back about a delivery, after the server had taken it or refused it later."""

    HARD = "hard"  # the address does not exist
    SOFT = "soft"  # not delivered, for any other reason; `Notice.verdict` says which
    COMPLAINT = "complaint"  # its reader called it spam
    AUTO_REPLY = "auto-reply"  # out of office, and other machines that answer
    DELAYED = "delayed"  # a server is still trying
    UNSUBSCRIBE = "unsubscribe"  # a mail that asks to leave
    NONE = "none"  # none of these: left alone, never deleted


@dataclass(frozen=True, slots=True)
class Notice:
    """One piece of news about a delivery, as a mail or a webhook brought it.

    Strangers can write one, so what it names is a claim: whose delivery it is about is only known
    once `message_id` or `envelope` has been found to be ours.
    """

    kind: NoticeKind
    recipients: tuple[str, ...] = ()  # the addresses it is about, in its own spelling
    status: str | None = None  # the enhanced code, "5.1.1"
    reason: str = ""  # in its own words, cut
    verdict: Verdict | None = None  # of a bounce, in the words of the reply table
    message_id: str | None = None  # of the mail it is about, with its angle brackets
    envelope: str | None = None  # the address it came back to, which may carry our token
    secret: str | None = field(default=None, repr=False)  # of a wish to leave: from its link
