"""Domain types: frozen dataclasses and enums without behaviour of their own.

Every other module uses these types; this module imports only `translations`, to mark the subjects
of mails. Each datetime is aware and in UTC. Each date is a local date: of the reader, or of the
source that announced a paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

from pipeline.translations import gettext_noop

# --- Papers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Links:
    """URLs of a paper. Each is http(s), or None if unknown."""

    abstract: str | None = None
    pdf: str | None = None
    code: str | None = None
    project: str | None = None
    discussion: str | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """One source's announcement of a paper: plain text, no markup, no control characters.

    Only `source`, `source_id` and `title` are always given. A count is None, not 0, if unknown.
    """

    source: str
    source_id: str  # the source's id, without a version; "" if it gave none
    title: str
    abstract: str = ""
    authors: tuple[str, ...] = ()
    author_count: int | None = None  # set if a source gives only a count; else len(authors)
    categories: tuple[str, ...] = ()  # arXiv's, primary first
    keywords: tuple[str, ...] = ()
    arxiv_id: str | None = None  # "2503.02130" or "astro-ph/0601001": a string, no version
    doi: str | None = None  # lower case, without a resolver URL
    version: int | None = None
    announced_on: date | None = None  # the day the source announced it
    published_at: datetime | None = None  # publication time of the first version
    upvotes: int | None = None
    comments: int | None = None
    links: Links = Links()
    note: str = ""  # arXiv's comment: "12 pages, accepted at ..."
    withdrawn: bool = False
    update_only: bool = False  # a replacement: may update a known paper, never adds one
    organization: str = ""  # of the authors, as the source names it
    stars: int | None = None  # of the code on GitHub


@dataclass(frozen=True, slots=True)
class Paper:
    """One work, merged from all its sightings, at `version` of our record."""

    id: int
    key: str  # public identifier: the arXiv id, else "doi:...", else "title:<hash>"
    version: int  # of our record of its text: 1, 2, 3...; not the version at arXiv
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
    organization: str = ""
    stars: int | None = None  # of the code on GitHub


class SourceState(StrEnum):
    """State of a source, as shown by the command line and the metrics."""

    FRESH = "fresh"  # it returned new papers the last time they were due
    QUIET = "quiet"  # nothing new, and nothing was due: a weekend or a holiday
    STALE = "stale"  # papers were due and it returned nothing new
    FAILED = "failed"  # reading it failed; the error, its start and the next retry are stored


# --- Topics and matches -------------------------------------------------------------------------

TRENDING = "trending"  # query of the built-in topic: most upvotes first, no text matching


class TopicKind(StrEnum):
    QUERY = "query"
    TRENDING = "trending"


@dataclass(frozen=True, slots=True)
class Topic:
    """A query over papers. Equal queries are one topic, shared by all its followers."""

    id: int
    query: str  # canonical form, as `matching.query` writes it
    kind: TopicKind = TopicKind.QUERY


class Breadth(IntEnum):
    """Minimum certainty of a match before it is sent to a reader.

    A reader chooses one of `BREADTHS`, and gets every match if its breadth is at most their own.
    """

    FEWER = 1  # the paper is about the topic: matched in its title, or more than once
    BALANCED = 2
    MORE = 3  # also passing mentions, and words further apart
    NEAR_MISS = 4  # no match: some of the words; sent only if nothing matched for days


BREADTHS: Final = (Breadth.FEWER, Breadth.BALANCED, Breadth.MORE)
NEAR_MISSES: Final = 2  # in one digest, and stored per topic if no paper of a batch matches
NEAR_MISSES_AFTER: Final = 3  # days without a match, unless the reader chose otherwise
NEAR_MISSES_CHOICES: Final = (0, 1, 3, 7)  # days; 0: never


@dataclass(frozen=True, slots=True)
class Match:
    """A paper that matches a topic, with its score and the matched phrases."""

    topic_id: int
    paper_id: int
    score: float
    phrases: tuple[str, ...]  # phrases as the paper spells them, best first
    breadth: Breadth = Breadth.BALANCED  # the narrowest breadth that includes it


# --- Subscribers --------------------------------------------------------------------------------


class SubscriberStatus(StrEnum):
    PENDING = "pending"  # signed up, address not confirmed yet
    ACTIVE = "active"
    UNSUBSCRIBED = "unsubscribed"  # by their own choice; our decision is a suppression


class Frequency(StrEnum):
    DAILY = "daily"
    WEEKDAYS = "weekdays"  # Monday to Friday in the reader's time zone
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
    """Delivery time of a reader's digests, in the reader's local time."""

    at: time = time(8)
    timezone: str = "UTC"  # IANA name
    frequency: Frequency = Frequency.DAILY
    weekday: Weekday = Weekday.MONDAY


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic that a subscriber follows, with the subscriber's label for it."""

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
    )  # random; part of the one-click link, so it is not derived from a key that may be rotated
    paused_until: date | None = None
    next_slot_at: datetime | None = None
    last_slot_at: datetime | None = None
    last_edition_on: date | None = None
    cursor: int = 0  # the last batch covered by their digests
    welcome_due: bool = False  # confirmed, first digest not compiled yet
    breadth: Breadth = Breadth.BALANCED
    near_misses_after: int = NEAR_MISSES_AFTER  # days without a match; 0: no near misses
    papers_from: date | None = None  # skip papers announced before: another database sent them
    active_on: date | None = None  # last day with an action of the reader, or end of their pause


UNTIL_ACTIVE: Final = date.max
"""The end of a pause because of inactivity: the next action of the reader ends it."""


class Liking(IntEnum):
    """A reader's reaction to a paper: whether the digests should have more or less like it."""

    MORE = 1
    NEITHER = 0
    LESS = -1


# --- Digests ------------------------------------------------------------------------------------


class ReasonKind(StrEnum):
    """What a reason names; the values are stored with each pick."""

    TOPIC = "topic"  # a followed topic
    LIKED = "liked"  # a similar paper that the reader liked
    LIKED_AUTHOR = "author"  # an author of both this and a liked paper


@dataclass(frozen=True, slots=True)
class Reason:
    """Reason for a pick: the label of a followed topic, and the phrases that matched it.

    Or a title or a name, for the other kinds. A pick without a topic is outside the topics.
    """

    label: str
    phrases: tuple[str, ...] = ()
    kind: ReasonKind = ReasonKind.TOPIC


@dataclass(frozen=True, slots=True)
class Pick:
    """One paper in a digest, with its counts as of compilation."""

    paper: Paper
    reasons: tuple[Reason, ...]
    score: float

    @property
    def topics(self) -> tuple[Reason, ...]:
        return tuple(reason for reason in self.reasons if reason.kind is ReasonKind.TOPIC)


@dataclass(frozen=True, slots=True)
class Recap:
    """Summary of a digest that covers more than one day, frozen with it."""

    since: date  # first day covered; the last is that of the edition
    after_pause: bool
    # Label of each followed topic, and papers that matched it; None for Trending, which has no end.
    matched: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Digest:
    """One subscriber's content of an edition."""

    edition_on: date  # local date of the slot, in the reader's time zone
    picks: tuple[Pick, ...]
    more: int = 0  # further matches, left out because `max_papers` was reached
    unpicked: tuple[int, ...] = ()  # their paper ids, best first; at most 200 are stored
    topics: tuple[str, ...] = ()  # labels of the followed topics
    announced: tuple[date, date] | None = None  # first and last announcement date covered
    welcome: bool = False  # first digest, compiled from recent papers
    near_misses: bool = False  # no paper matched; `picks` are the nearest ones
    recap: Recap | None = None  # None if it covers one day, and in a first digest
    pauses_on: date | None = None  # asks an inactive reader to go on, and pauses otherwise


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A query that finds more papers than a topic of the reader; it was tried."""

    label: str  # of the topic
    query: str
    papers_a_week: float


@dataclass(frozen=True, slots=True)
class NoMatchNotice:
    """Content of a no-match notice: the reader got no digest for a while, and how to get one."""

    edition_on: date
    since: date  # first day without a digest
    announced: int  # papers announced from then to `edition_on`
    topics: tuple[str, ...]  # labels of the followed topics
    breadth: Breadth
    in_passing: int  # those of them that the broadest setting includes
    wider: tuple[Suggestion, ...]
    follows_trending: bool


@dataclass(frozen=True, slots=True)
class PauseNotice:
    """Content of the mail that says that the digests pause because of inactivity."""

    edition_on: date


@dataclass(frozen=True, slots=True)
class SavedPaper:
    """A paper in a weekly mail of saved papers."""

    key: str
    title: str
    authors: tuple[str, ...]
    note: str  # the reader's, one line
    is_stored: bool  # False: a paper that the reader brought; it has no page here
    url: str = ""  # of such a paper, if known


@dataclass(frozen=True, slots=True)
class SavedWeek:
    """Content of a weekly mail of saved papers: those saved since the last one."""

    edition_on: date
    papers: tuple[SavedPaper, ...]  # the last saved first
    more: int  # further papers, left out because of the limit


@dataclass(frozen=True, slots=True)
class OperatorReport:
    """Content of a mail to the operator."""

    lines: tuple[tuple[str, str], ...]  # finding and advice, or figure and value


ListContent = Digest | NoMatchNotice | PauseNotice | SavedWeek
"""Content that a slot may produce for its reader."""

MailContent = ListContent | OperatorReport
"""Content that is stored apart from its delivery."""


class Origin(StrEnum):
    """Origin of a sign-up, before the owner of the address has confirmed it."""

    FORM = "form"  # entered by an unverified visitor
    OPERATOR = "operator"
    IMPORT = "import"  # from a file of the operator


class RequestKind(StrEnum):
    """Effect of a request when its token is sent back by POST."""

    JOIN = "join"
    NEW_ADDRESS = "new-address"


class SkipReason(StrEnum):
    """Reason for a slot without mail."""

    NOTHING_NEW = "nothing new"  # no batch was published since the last digest
    NOTHING_MATCHED = "nothing matched"
    ALL_SENT_BEFORE = "all sent before"
    PAUSED = "paused"
    SUPPRESSED = "suppressed"  # the address is on the suppression list


# --- Mails --------------------------------------------------------------------------------------


class Precedence(IntEnum):
    """Sending order: a lower value is sent first, however long the others have waited."""

    AWAITED = 0  # transactional mail: the recipient is waiting for it
    DIGEST = 1


class DeliveryKind(StrEnum):
    DIGEST = "digest"
    WELCOME = "welcome"  # first digest, right after confirmation
    CONFIRMATION = "confirmation"
    ALREADY_IN = "already-in"  # sent if an address signs up that is subscribed already
    LINK = "link"  # link to the preferences page, on request
    DATA_LINK = "data-link"  # link to export and erase personal data; only ever mailed
    NEW_ADDRESS = "new-address"  # asks the new address of a subscriber for confirmation
    QUIET_NOTE = "quiet-note"  # no-match notice: why no digest came, and how to widen the topics
    PAUSE_NOTE = "pause-note"  # the digests pause because of inactivity, and how to resume them
    SAVED = "saved"  # once a week, if wanted: the papers that the reader saved since the last one
    ALERT = "alert"  # to the operator, at most once a day: what is wrong
    ALL_WELL = "all-well"  # to the operator: nothing is wrong any more
    REPORT = "report"  # to the operator, once a month: figures

    @property
    def precedence(self) -> Precedence:
        return MAIL_KINDS[self].precedence


class LinkPurpose(StrEnum):
    """Purpose of a signed link, as in its URL. A token is valid for one purpose only."""

    CONFIRM = "confirm"  # confirms a request to subscribe or to change preferences
    PREFERENCES = "preferences"  # changes preferences; no export, no erasure
    DIGEST = "digests"  # view in browser
    DATA = "data"  # exports and erases; only ever mailed on request
    NEW_ADDRESS = "new-address"  # confirms a change of address

    @property
    def confirms_request(self) -> bool:
        """Return whether its token carries a request id; else a subscriber's or a delivery's."""
        return self in {LinkPurpose.CONFIRM, LinkPurpose.NEW_ADDRESS}


@dataclass(frozen=True, slots=True)
class MailKind:
    """Template, headers and recipients of one kind of mail."""

    template: str  # emails/<template>.mjml and emails/<template>.txt
    subject: (
        str | None
    )  # may use %(name)s, that of the list; None: it is composed from the content of the mail
    link: LinkPurpose | None = None  # of a transactional mail: <purpose>_url in its templates
    # List mail has the List- headers and one-click unsubscribing (RFC 8058). It is composed from
    # stored content; a transactional mail only from its delivery.
    is_list: bool = False
    precedence: Precedence = Precedence.AWAITED
    # Active subscribers get every kind of mail. Former ones get only mail requested since they
    # left.
    also_to: frozenset[SubscriberStatus] = frozenset()
    overrides_suppression: bool = False  # if requested after it; never a complaint
    to_operator: bool = False  # sent while sending is paused, too; see docs/decisions

    @property
    def feedback_name(self) -> str:
        """Return the name in Feedback-ID: Gmail counts complaints for each template."""
        return self.template.replace("_", "-")


_NOT_ACTIVE = frozenset({SubscriberStatus.PENDING, SubscriberStatus.UNSUBSCRIBED})

MAIL_KINDS: Mapping[DeliveryKind, MailKind] = MappingProxyType(
    {
        DeliveryKind.DIGEST: MailKind(
            "digest", subject=None, is_list=True, precedence=Precedence.DIGEST
        ),
        DeliveryKind.WELCOME: MailKind("digest", subject=None, is_list=True),
        DeliveryKind.QUIET_NOTE: MailKind(
            "quiet_note",
            subject=gettext_noop("No papers matched your topics, %(days)s"),
            is_list=True,
            precedence=Precedence.DIGEST,
        ),
        DeliveryKind.PAUSE_NOTE: MailKind(
            "pause_note",
            subject=gettext_noop("%(name)s is paused"),
            is_list=True,
            precedence=Precedence.DIGEST,
        ),
        DeliveryKind.SAVED: MailKind(
            "saved_papers",
            subject=gettext_noop("Your saved papers of the week"),
            is_list=True,
            precedence=Precedence.DIGEST,
        ),
        DeliveryKind.CONFIRMATION: MailKind(
            "confirmation",
            subject=gettext_noop("Confirm your subscription to %(name)s"),
            link=LinkPurpose.CONFIRM,
            also_to=_NOT_ACTIVE,
            overrides_suppression=True,
        ),
        DeliveryKind.ALREADY_IN: MailKind(
            "already_in",
            subject=gettext_noop("You are already subscribed to %(name)s"),
            link=LinkPurpose.PREFERENCES,
        ),
        DeliveryKind.LINK: MailKind(
            "link",
            subject=gettext_noop("Your preferences link for %(name)s"),
            link=LinkPurpose.PREFERENCES,
        ),
        DeliveryKind.DATA_LINK: MailKind(
            "data_link",
            subject=gettext_noop("Your data at %(name)s"),
            link=LinkPurpose.DATA,
            also_to=frozenset({SubscriberStatus.UNSUBSCRIBED}),
        ),
        DeliveryKind.NEW_ADDRESS: MailKind(
            "new_address",
            subject=gettext_noop("Confirm your new address for %(name)s"),
            link=LinkPurpose.NEW_ADDRESS,
        ),
        DeliveryKind.ALERT: MailKind(
            "alert",
            subject=gettext_noop("%(name)s needs your attention"),
            also_to=_NOT_ACTIVE,
            to_operator=True,
        ),
        DeliveryKind.ALL_WELL: MailKind(
            "alert",
            subject=gettext_noop("All is well again at %(name)s"),
            also_to=_NOT_ACTIVE,
            to_operator=True,
        ),
        DeliveryKind.REPORT: MailKind(
            "report",
            subject=gettext_noop("%(name)s: figures of the last month"),
            also_to=_NOT_ACTIVE,
            to_operator=True,
        ),
    }
)
"""The only place that knows what differs between the kinds of mail."""

LIST_MAIL = tuple(kind for kind, mail in MAIL_KINDS.items() if mail.is_list)
OPERATOR_MAIL = tuple(kind for kind, mail in MAIL_KINDS.items() if mail.to_operator)


# --- Deliveries ---------------------------------------------------------------------------------


class DeliveryStatus(StrEnum):
    QUEUED = "queued"  # waiting to be claimed, at once or later
    LEASED = "leased"  # claimed by a sender; no data that matters has been sent yet
    SENDING = "sending"  # marked in flight: the final dot may have been sent
    SENT = "sent"  # accepted by the mail server
    UNCERTAIN = "uncertain"  # reply to the final dot lost: may have been accepted
    FAILED = "failed"  # permanently rejected, or impossible to compose
    SUPPRESSED = "suppressed"  # permanently rejected because of the address
    CANCELLED = "cancelled"  # the subscriber left, or a newer digest covers it
    EXPIRED = "expired"  # `expires_at` passed before a server accepted it


UNSENT = frozenset({DeliveryStatus.QUEUED, DeliveryStatus.LEASED})
"""Statuses of deliveries that cannot have reached the reader yet."""

TERMINAL = frozenset(
    {
        DeliveryStatus.SENT,
        DeliveryStatus.FAILED,
        DeliveryStatus.SUPPRESSED,
        DeliveryStatus.CANCELLED,
        DeliveryStatus.EXPIRED,
    }
)


class CountedEvent(StrEnum):
    """Events with a daily count, see storage.daily_counts."""

    SENT = "sent"  # accepted by the mail server
    REFUSED = "refused"  # permanently rejected by the mail server
    EXPIRED = "expired"  # not accepted in time
    BOUNCED = "bounced"  # accepted, and returned later
    COMPLAINED = "complained"  # reported as spam by the recipient
    JOINED = "joined"  # a subscriber became active
    LEFT = "left"  # an active subscriber unsubscribed, or was erased
    FINISHED = "finished"  # an edition, on its date: each of its mails has a result


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one subscriber, claimed from the outbox under a lease."""

    id: int
    dedupe_key: str  # "digest:2030-01-02:17"
    kind: DeliveryKind
    subscriber_id: int
    email: str
    attempts: int  # attempts counted so far, without the current one
    edition_on: date | None
    expires_at: datetime
    created_at: datetime
    secret: str = field(repr=False)  # the subscriber's secret, for the one-click link
    request_id: int | None = None  # the request that its link confirms, if any
    domain: str = ""  # recipient's mail provider, for throttling; see storage.throttles

    @property
    def about_paper(self) -> int | None:
        """Return the id of the paper that a mailed link leads to; None for most deliveries."""
        if self.kind is not DeliveryKind.LINK:
            return None
        paper = self.dedupe_key.rpartition("-paper")[2]
        return int(paper) if paper.isdecimal() else None


class Verdict(StrEnum):
    """Classification of a mail server's reply to one message; see the reply table."""

    ACCEPTED = "accepted"
    DEFERRED = "deferred"  # retry later: a 4xx or a network error; never counts against a reader
    GREYLISTED = "greylisted"  # retry after at least five minutes, on the same server
    THROTTLED = "throttled"  # we send too fast, or exceed a quota of our account
    CONNECTION = "connection"  # 421, EOF or timeout before the dot: reconnect, charge no attempt
    CONFIGURATION = "configuration"  # our login, account or sender address: stop sending and alert
    AUTHENTICATION = "authentication"  # SPF, DKIM, DMARC or PTR: alert
    BLOCKED = "blocked"  # policy, reputation, content or blocklist: never penalise the reader
    TOO_LARGE = "too large"  # our fault: fail and alert, keep the subscriber
    FULL = "full"  # the mailbox is full
    HARD = "hard"  # hard bounce, no such address: suppress
    NO_DOMAIN = "no domain"  # domain not found: one strike, suppressed at the second edition
    DISABLED = "disabled"  # mailbox disabled, perhaps temporarily: counted like NO_DOMAIN
    SOFT = "soft"  # soft bounce: any other 5xx that may be about the mailbox
    UNKNOWN = "unknown"  # reply to the dot lost: result unknown


class SuppressionReason(StrEnum):
    """Reason for sending no more mail to an address."""

    HARD = "hard"  # the address does not exist
    FULL = "full"  # the mailbox has been full for weeks
    SOFT = "soft"  # soft bounces, edition after edition
    COMPLAINT = "complaint"  # reported as spam by the recipient; only an operator lifts it
    MANUAL = "manual"  # added by the operator
    ERASED = "erased"  # erased on request: imports skip it, but its owner may subscribe again


# --- Feedback -----------------------------------------------------------------------------------


class StrikeKind(StrEnum):
    """How a refusal or bounce counts against an address; see `smtp.decision.strike_of`.

    All kinds but HARD are counted once per edition, and suppress the address at a threshold.
    """

    HARD = "hard"  # no such address: suppressed at once
    FULL = "full"
    SOFT = "soft"
    DISABLED = "disabled"  # mailbox disabled or domain not found: the second suppresses


class NoticeKind(StrEnum):
    """Kinds of feedback about a delivery that arrive after the SMTP session."""

    HARD = "hard"  # hard bounce: the address does not exist
    SOFT = "soft"  # soft bounce, any other reason: see `Notice.verdict`
    COMPLAINT = "complaint"  # reported as spam by the recipient
    AUTO_REPLY = "auto-reply"  # out of office and other automatic replies
    DELAYED = "delayed"  # a server is still trying
    UNSUBSCRIBE = "unsubscribe"  # a mail that asks to unsubscribe
    NONE = "none"  # none of these: left in the mailbox, never deleted


@dataclass(frozen=True, slots=True)
class Notice:
    """One bounce, complaint, automatic reply or unsubscribe request, from a mail or a webhook.

    Anyone can send one, so its fields are claims: the delivery is known only after `message_id` or
    `envelope` has been verified as made by us.
    """

    kind: NoticeKind
    recipients: tuple[str, ...] = ()  # addresses it is about, as spelled there
    status: str | None = None  # enhanced status code, "5.1.1"
    reason: str = ""  # diagnostic text, truncated
    verdict: Verdict | None = None  # of a bounce
    message_id: str | None = None  # Message-ID of the mail it is about, with angle brackets
    envelope: str | None = None  # envelope address it was returned to, which may carry our token
    secret: str | None = field(default=None, repr=False)  # UNSUBSCRIBE: from its link
