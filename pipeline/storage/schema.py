"""SQLAlchemy models of all tables. Statuses and kinds are stored as strings; times are UTC.

A row changes state by one UPDATE with the old state in its WHERE clause. The caller checks the row
count: if it is 0, another process changed the row first.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, date, datetime, time
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Text,
    TextClause,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

LONGEST_SOURCE_ID: Final = 512
UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


class UTCDateTime(TypeDecorator[datetime]):
    """Timezone-aware datetime in UTC.

    Raises ValueError when a naive datetime is bound. SQLite stores no timezone, so it is removed
    before storing and added again when a row is read.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone was about to be stored")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class AnyText(TypeDecorator[str]):
    """Text that both databases can store: NUL and lone surrogates are replaced by U+FFFD."""

    impl = Text()
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return (
            value if value is None or (value.isascii() and "\0" not in value) else storable(value)
        )


class BoundedText(TypeDecorator[str]):
    """Text of at most `length` characters that both databases can store; see `bounded`.

    SQLite stores text of any length; PostgreSQL rejects the whole statement if it is too long.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else bounded(value, self.length)


def bounded(text: str, most: int) -> str:
    """Return `text` sanitised by `storable`; if longer than `most`, its start and its SHA-256.

    Equal texts stay equal and different texts stay different, so a lookup by the bounded text finds
    the stored row. If `most` leaves no room for both, only the end of the hash is returned.
    """
    clean = storable(text)
    if len(clean) <= most:
        return clean
    digest = hashlib.sha256(clean.encode()).hexdigest()
    return f"{clean[: max(0, most - len(digest) - 1)]}#{digest}"[-most:]


def storable(text: str) -> str:
    """Return `text` with U+FFFD for NUL (rejected by PostgreSQL) and surrogates (not UTF-8)."""
    return UNSTORABLE.sub("\ufffd", text)


# SQLite does not autoincrement a BigInteger primary key.
Id: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
Json: TypeEngine[Any] = JSON().with_variant(postgresql.JSONB(), "postgresql")


def _only_where(condition: TextClause) -> dict[str, Any]:
    """Return the keyword arguments of a partial index for both databases."""
    return {"sqlite_where": condition, "postgresql_where": condition}


class Table(DeclarativeBase):
    """Base class of all tables: stable constraint names and column types."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads it as it is)
        datetime: UTCDateTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
        str: AnyText(),
    }


# --- Papers -------------------------------------------------------------------------------------


class PaperRow(Table):
    """A paper: its ids, counts and batches. Its text is stored in `paper_versions`."""

    __tablename__ = "papers"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    arxiv_id: Mapped[str | None] = mapped_column(unique=True)
    doi: Mapped[str | None] = mapped_column(unique=True)
    title_key: Mapped[str] = mapped_column(index=True)  # hash of the normalised title
    author_key: Mapped[str]  # normalised first author, "" when unknown
    version: Mapped[int]  # the newest row in paper_versions
    upvotes: Mapped[int | None]
    comments: Mapped[int | None]
    stars: Mapped[int | None]  # of the code on GitHub
    announced_on: Mapped[date] = mapped_column(index=True)  # the first announcement
    published_at: Mapped[datetime | None]
    batch: Mapped[int] = mapped_column(index=True)  # the batch that added it
    touched_batch: Mapped[int] = mapped_column(index=True)  # the batch in which to match it
    created_at: Mapped[datetime]
    looked_up_at: Mapped[datetime | None]  # last request for it by its id, whatever the answer


class PaperVersionRow(Table):
    """A version of a paper's text. A digest refers to the version that it was compiled with."""

    __tablename__ = "paper_versions"

    paper_id: Mapped[int] = mapped_column(
        Id, ForeignKey("papers.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[dict[str, Any]]  # see storage.papers: title, abstract, authors, links...
    terms: Mapped[bytes | None]  # see matching.profile.Terms; NULL until it is matched


class SightingRow(Table):
    """One source's announcement of a paper."""

    __tablename__ = "sightings"

    source: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    source_id: Mapped[str] = mapped_column(BoundedText(LONGEST_SOURCE_ID), primary_key=True)
    paper_id: Mapped[int] = mapped_column(
        Id, ForeignKey("papers.id", ondelete="CASCADE"), index=True
    )
    announced_on: Mapped[date | None]
    upvotes: Mapped[int | None]
    comments: Mapped[int | None]
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]


class BatchRow(Table):
    """A published batch. The newest visible one is `ingest_state.published_batch`."""

    __tablename__ = "batches"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    published_at: Mapped[datetime] = mapped_column(index=True)
    papers: Mapped[int]  # new papers only
    matches: Mapped[int]


class IngestStateRow(Table):
    """Single row: the newest visible batch, and the lease for writing the next one."""

    __tablename__ = "ingest_state"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    published_batch: Mapped[int]
    token: Mapped[int]  # fencing token, incremented each time the lease is taken
    lease_until: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class SourceStateRow(Table):
    """The state and read position of a source; `arxiv-look-up` has a row after Retry-After only."""

    __tablename__ = "source_states"

    source: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    state: Mapped[str]
    since: Mapped[datetime]  # when it entered this state
    checked_at: Mapped[datetime]
    read_at: Mapped[datetime | None]  # last successful response
    news_at: Mapped[datetime | None]  # last response with new papers
    cursor: Mapped[str | None]  # opaque; only the source itself can interpret it
    error: Mapped[str | None]
    failures: Mapped[int]  # consecutive
    next_try_at: Mapped[datetime | None]


class HTTPValidatorRow(Table):
    """HTTP cache validators of a URL, for conditional requests."""

    __tablename__ = "http_validators"

    url: Mapped[str] = mapped_column(primary_key=True)
    etag: Mapped[str | None]
    last_modified: Mapped[str | None]
    stored_at: Mapped[datetime]


class RateLimitRow(Table):
    """Counter of a rate limit or quota, shared by all processes."""

    __tablename__ = "rate_limits"

    name: Mapped[str] = mapped_column(BoundedText(200), primary_key=True)
    window_start: Mapped[datetime] = mapped_column(index=True)
    used: Mapped[int]
    free_at: Mapped[datetime]  # the next free turn, or the end of the window


# --- Topics -------------------------------------------------------------------------------------


class TopicRow(Table):
    """A query over papers. Topics with the same canonical query share a row."""

    __tablename__ = "topics"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    query: Mapped[str] = mapped_column(unique=True)  # canonical
    kind: Mapped[str]
    matched_through: Mapped[int]  # all batches up to and including this one are matched
    created_at: Mapped[datetime]


class EmbeddingRow(Table):
    """Cached embedding of a text. No other table refers to it, and it can be recomputed."""

    __tablename__ = "embeddings"

    model: Mapped[str] = mapped_column(BoundedText(16), primary_key=True)  # hash of its files
    text_key: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)  # hash of a text
    vector: Mapped[bytes]  # of float16, little endian
    used_on: Mapped[date] = mapped_column(index=True)  # updated once a month


class MatchRow(Table):
    """A paper that matches a topic, with its score and the matched phrases."""

    __tablename__ = "matches"

    topic_id: Mapped[int] = mapped_column(
        Id, ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True
    )
    paper_id: Mapped[int] = mapped_column(
        Id, ForeignKey("papers.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    batch: Mapped[int] = mapped_column(index=True)  # first batch that matched at this breadth
    score: Mapped[float]
    phrases: Mapped[list[Any]]
    breadth: Mapped[int] = mapped_column(SmallInteger, server_default="2")  # see domain.Breadth

    __table_args__ = (Index(None, "topic_id", "batch"),)


# --- Subscribers --------------------------------------------------------------------------------


class SubscriberRow(Table):
    """A subscriber: address, schedule, preferences and the position in the batches."""

    __tablename__ = "subscribers"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    email: Mapped[str]  # as used in the SMTP envelope
    email_key: Mapped[str] = mapped_column(unique=True)  # see storage.addresses.email_key
    address_hash: Mapped[str] = mapped_column(BoundedText(64), index=True)  # as in `suppressions`
    status: Mapped[str]
    at: Mapped[time]
    timezone: Mapped[str]
    frequency: Mapped[str]
    weekday: Mapped[int]
    max_papers: Mapped[int]
    breadth: Mapped[int] = mapped_column(SmallInteger, server_default="2")  # see domain.Breadth
    # Days without a match after which the nearest papers are sent; 0: never.
    near_misses_after: Mapped[int] = mapped_column(SmallInteger, server_default="3")
    secret: Mapped[str] = mapped_column(unique=True)
    paused_until: Mapped[date | None]
    next_slot_at: Mapped[datetime | None]
    last_slot_at: Mapped[datetime | None]
    last_edition_on: Mapped[date | None]
    cursor: Mapped[int]
    created_at: Mapped[datetime]
    confirmed_at: Mapped[datetime | None]
    left_at: Mapped[datetime | None]
    left_reason: Mapped[str | None]  # the answer to the question after unsubscribing, if any
    welcome_due: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Papers announced before this day were sent by another database; NULL if there was none.
    papers_from: Mapped[date | None]
    active_on: Mapped[date | None]  # last action of the reader, or the end of a pause they chose

    __table_args__ = (Index(None, "status", "next_slot_at"),)


class RequestRow(Table):
    """A subscriber's request. It has no effect until its token is POSTed."""

    __tablename__ = "requests"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    kind: Mapped[str]
    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), index=True
    )
    email: Mapped[str]
    email_key: Mapped[str] = mapped_column(index=True)  # as in `subscribers`
    origin: Mapped[str]
    # The version of the consent text that was accepted when the request was used, see
    # signup.subscribe; NULL if none was shown: it is not used yet, or the operator vouches for it.
    wording: Mapped[str | None]
    choices: Mapped[dict[str, Any]]  # see storage.requests
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    ip: Mapped[str | None]  # of the requester; part of the record of consent, kept for days
    # True once `ip` and `choices` are redacted; the other columns stay as long as the subscriber.
    redacted: Mapped[bool] = mapped_column(default=False, server_default=false())

    __table_args__ = (
        Index(None, "redacted", "created_at"),
        Index("ix_requests_open", "created_at", **_only_where(text("used_at IS NULL"))),
        # SQLite reuses the id of a deleted row: an old link would confirm the new request.
        {"sqlite_autoincrement": True},
    )


class PendingConfirmationRow(Table):
    """A confirmation mail that is not answered yet, by the hash of its address."""

    __tablename__ = "pending_confirmations"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    address_hash: Mapped[str] = mapped_column(BoundedText(64), index=True)
    requested_at: Mapped[datetime] = mapped_column(index=True)
    # Hashes for the limits of signup.abuse_limits: of the inbox (several addresses may be aliases
    # of one) and of the requester's network.
    inbox: Mapped[str] = mapped_column(BoundedText(64), index=True, server_default="")
    requester: Mapped[str] = mapped_column(BoundedText(16), server_default="")


class SubscriptionRow(Table):
    """A topic that a subscriber follows."""

    __tablename__ = "subscriptions"

    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), primary_key=True
    )
    topic_id: Mapped[int] = mapped_column(
        Id, ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    label: Mapped[str]  # the reader's name for the topic
    created_at: Mapped[datetime]


class ReactionRow(Table):
    """A paper that a reader liked, disliked or saved, or brought as one of their own."""

    __tablename__ = "reactions"

    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), primary_key=True
    )
    paper_key: Mapped[str] = mapped_column(BoundedText(300), primary_key=True)  # as of `at`
    # NULL if the paper is not stored: the reader brought it.
    paper_id: Mapped[int | None] = mapped_column(
        Id, ForeignKey("papers.id", ondelete="SET NULL"), index=True
    )
    liking: Mapped[int] = mapped_column(SmallInteger)  # 1: more like this, -1: less, 0: neither
    is_own: Mapped[bool]  # from the reader's list of papers to start from
    saved_at: Mapped[datetime | None]
    note: Mapped[str]  # the reader's, one line
    content: Mapped[dict[str, Any]]  # see storage.reactions: title, authors, year, url
    terms: Mapped[bytes]  # see matching.profile.Terms
    at: Mapped[datetime]  # of the latest change of `liking`


class ProfileRow(Table):
    """What a reader's reactions say about the order of papers, and how the reader limits it."""

    __tablename__ = "profiles"

    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), primary_key=True
    )
    is_on: Mapped[bool]  # whether it changes digests
    outside: Mapped[bool]  # whether digests may contain papers outside the topics
    removed: Mapped[list[Any]]  # terms and author keys that the reader removed from it
    likes: Mapped[int]  # liked papers that it is made of
    terms: Mapped[bytes]  # see matching.profile.Profile
    authors: Mapped[dict[str, Any]]  # author key -> name, of liked papers
    liked: Mapped[list[Any]]  # the newest liked papers: [title, [place of a heavy term, ...]]
    vector: Mapped[bytes] = mapped_column(default=b"")  # see matching.semantic.ProfileVector
    vector_model: Mapped[str] = mapped_column(BoundedText(16), default="")  # see `embeddings`
    feed_secret: Mapped[str | None] = mapped_column(unique=True)  # in the URLs of private feeds
    # Whether saved papers are mailed once a week.
    saved_weekly: Mapped[bool] = mapped_column(default=False, server_default=false())
    changed_at: Mapped[datetime]


class SuppressionRow(Table):
    """A suppressed address, by keyed hash. It is kept when the subscriber is erased."""

    __tablename__ = "suppressions"

    hash: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    reason: Mapped[str]
    since: Mapped[datetime]

    __table_args__ = (Index(None, "since", "hash"),)


class KeyRow(Table):
    """A key generated by Paperboy, or the fingerprint of a key in the settings."""

    __tablename__ = "keys"

    name: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)  # of its setting
    value: Mapped[str | None]  # NULL if the key is in the settings only
    fingerprint: Mapped[str] = mapped_column(BoundedText(16))
    made_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]  # when a setting replaced it


class StrikeRow(Table):
    """A strike: an edition that bounced or was refused, at most one for each address and edition.

    The address is stored as its keyed hash.
    """

    __tablename__ = "strikes"

    address_hash: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    edition_on: Mapped[date] = mapped_column(primary_key=True)
    kind: Mapped[str]
    noted_at: Mapped[datetime] = mapped_column(index=True)


class RefusalRow(Table):
    """The latest refusal or bounce of a delivery; `storage.guard` decides if it counts."""

    __tablename__ = "refusals"

    delivery_id: Mapped[int] = mapped_column(
        Id, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    edition_on: Mapped[date | None] = mapped_column(index=True)  # NULL: transactional mail
    address_hash: Mapped[str] = mapped_column(BoundedText(64), index=True)  # as in `suppressions`
    domain: Mapped[str]
    kind: Mapped[str | None]  # see storage.refusals; NULL: never a strike
    ends_as: Mapped[str | None]  # status of the delivery when it counts; NULL: unchanged
    wording: Mapped[str]  # normalised, without addresses
    server: Mapped[str] = mapped_column(BoundedText(255))  # that refused; "" for a bounce
    at: Mapped[datetime] = mapped_column(index=True)
    counted: Mapped[bool] = mapped_column(default=False, server_default=false())


class EventRow(Table):
    """A bounce, complaint or provider event, deduplicated by provider and id. Kept for a month."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    provider: Mapped[str] = mapped_column(BoundedText(32))  # "mail" if it came from a mailbox
    event_id: Mapped[str] = mapped_column(BoundedText(256))  # assigned by the provider
    kind: Mapped[str]  # the provider's name for the event type
    effect: Mapped[str]  # the action taken
    received_at: Mapped[datetime] = mapped_column(index=True)
    # The delivery and subscriber, if known: erasing a reader deletes the events that name them.
    delivery_id: Mapped[int | None] = mapped_column(Id, index=True)
    subscriber_id: Mapped[int | None] = mapped_column(Id, index=True)
    address_hash: Mapped[str | None] = mapped_column(BoundedText(64), index=True)
    raw: Mapped[str]

    __table_args__ = (UniqueConstraint("provider", "event_id"),)


class SkipRow(Table):
    """A slot for which no mail was sent, and the reason."""

    __tablename__ = "skips"

    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), primary_key=True
    )
    edition_on: Mapped[date] = mapped_column(primary_key=True)
    slot_at: Mapped[datetime] = mapped_column(index=True)
    reason: Mapped[str]
    range_from: Mapped[int]
    range_to: Mapped[int]


# --- Deliveries ---------------------------------------------------------------------------------

IS_QUEUED: Final = text("status = 'queued'")
"""Condition of the partial indexes; SQLite uses them only if a query has exactly this text."""


def _outbox(name: str, *columns: str) -> Index:
    return Index(name, *columns, postgresql_where=IS_QUEUED, sqlite_where=IS_QUEUED)


class DeliveryRow(Table):
    """A message to send. The outbox is a query over this table; there is no other queue."""

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    dedupe_key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), index=True
    )
    address: Mapped[str | None]  # recipient, if not the subscriber's address
    request_id: Mapped[int | None] = mapped_column(Id)  # the request that its link confirms
    status: Mapped[str]
    reason: Mapped[str | None]  # the reason of the status; never NULL in a terminal row
    attempts: Mapped[int]  # counted ones; they set the backoff
    precedence: Mapped[int] = mapped_column(server_default="0")  # 0 is sent first; see Precedence
    domain: Mapped[str] = mapped_column(
        server_default=""
    )  # recipient domain, see storage.throttles
    not_before: Mapped[datetime]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]
    # The edition and slot of a digest or notice; NULL for other kinds.
    edition_on: Mapped[date | None] = mapped_column(index=True)
    slot_at: Mapped[datetime | None]
    range_from: Mapped[int | None]  # batches (from, to]
    range_to: Mapped[int | None]
    more: Mapped[int]  # papers that matched but exceeded the reader's maximum
    unpicked: Mapped[list[Any]] = mapped_column(default=list)  # ids of the best 200 of them
    suggestions: Mapped[list[Any]] = mapped_column(default=list)  # see domain.Suggestion
    near_misses: Mapped[bool] = mapped_column(default=False, server_default=false())  # no match
    topics: Mapped[list[Any]]  # labels of the topics followed when it was compiled
    recap: Mapped[list[Any]] = mapped_column(default=list)  # values of domain.Recap; [] if none
    pauses_on: Mapped[date | None]  # set if it asks an inactive reader to go on
    template: Mapped[str | None]  # version of the template it was compiled for
    # The lease of the sender, and the outcome.
    lease: Mapped[str | None] = mapped_column(BoundedText(40), index=True)
    lease_until: Mapped[datetime | None]
    marked_at: Mapped[datetime | None]
    resent_at: Mapped[datetime | None]  # queued again although it may have been accepted
    sent_at: Mapped[datetime | None]
    queue_id: Mapped[str | None]  # assigned by the mail server
    reply: Mapped[str | None]  # the server's last reply, truncated
    # True once its content and replies are redacted; the row and its status are kept.
    redacted: Mapped[bool] = mapped_column(default=False, server_default=false())

    __table_args__ = (
        Index(None, "redacted", "created_at"),
        Index("ix_deliveries_elsewhere", "created_at", **_only_where(text("address <> ''"))),
        # The outbox in claim order: for all domains, and for one domain.
        _outbox("ix_deliveries_outbox", "precedence", "not_before", "id", "domain"),
        _outbox("ix_deliveries_outbox_domain", "domain", "precedence", "not_before", "id"),
        Index(None, "status", "lease_until"),
        # Some providers identify a mail in their events by the queue id alone.
        Index(
            None,
            "queue_id",
            sqlite_where=text("queue_id IS NOT NULL"),
            postgresql_where=text("queue_id IS NOT NULL"),
        ),
    )


class DailyCountRow(Table):
    """Number of events by day and kind of mail: anonymous totals; see storage.daily_counts.

    The number of a day is the sum over its shards.
    """

    __tablename__ = "daily_counts"

    day: Mapped[date] = mapped_column(primary_key=True)  # in UTC, on which they happened
    kind: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)  # "": no mail
    event: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)  # see domain.CountedEvent
    shard: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int]


class OperatorReportRow(Table):
    """The content of a mail to the operator; one row for each day or month with such a mail."""

    __tablename__ = "operator_reports"

    name: Mapped[str] = mapped_column(BoundedText(16), primary_key=True)  # "daily" or "monthly"
    day: Mapped[date] = mapped_column(primary_key=True)
    kind: Mapped[str]  # see domain.DeliveryKind
    lines: Mapped[list[Any]]  # [[finding, advice], ...]


class PickRow(Table):
    """A paper in a digest: its version, reasons and counts as of the time it was compiled."""

    __tablename__ = "picks"

    delivery_id: Mapped[int] = mapped_column(
        Id, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    paper_id: Mapped[int] = mapped_column(
        Id, ForeignKey("papers.id", ondelete="CASCADE"), index=True
    )
    paper_version: Mapped[int]
    score: Mapped[float]
    upvotes: Mapped[int | None]
    comments: Mapped[int | None]
    stars: Mapped[int | None]
    reasons: Mapped[list[Any]]  # [[label, [phrase, ...]], ...]


# --- Throttling and pauses ----------------------------------------------------------------------


class PauseRow(Table):
    """A pause of sending: of all mail, or of the digests of one date."""

    __tablename__ = "pauses"

    # "everything" or "edition:2030-01-02"; see storage.send_controls
    name: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    edition_on: Mapped[date | None]  # NULL: all mail
    since: Mapped[datetime]
    reason: Mapped[str]
    automatic: Mapped[bool] = mapped_column(default=False, server_default=false())  # by code


class DatabaseCopyRow(Table):
    """Single row: the database from which mail was last sent; see storage.restored_copies."""

    __tablename__ = "database_copy"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    identity: Mapped[str]  # of server and tables; a restored dump has a different one
    noted_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class CircuitBreakerRow(Table):
    """The circuit breaker of a mail server; there is no row while it is closed."""

    __tablename__ = "circuit_breakers"

    name: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    refusals: Mapped[int]  # consecutive
    open_until: Mapped[datetime]  # no sender connects before this time
    probed_by: Mapped[str | None] = mapped_column(BoundedText(40))  # lease of the probing sender
    probe_until: Mapped[datetime | None]  # after this the probing sender is considered dead
    since: Mapped[datetime]
    reply: Mapped[str]  # the server's last reply, without addresses


class ThrottleRow(Table):
    """Throttle of a recipient domain that deferred or blocked our mail; others have no row."""

    __tablename__ = "throttles"

    domain: Mapped[str] = mapped_column(BoundedText(255), primary_key=True)
    state: Mapped[str]
    allowance: Mapped[float]  # mails per minute
    not_before: Mapped[datetime]  # earliest time of the next mail
    refusals: Mapped[int]  # since it was last unthrottled
    since: Mapped[datetime]
    refused_at: Mapped[datetime]  # the last time it was slowed
    reply: Mapped[str]  # the server's reply, without addresses


class AuthFailureRow(Table):
    """An authentication failure (SPF, DKIM, DMARC), kept for as long as it counts."""

    __tablename__ = "auth_failures"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    edition_on: Mapped[date | None]
    subscriber_id: Mapped[int] = mapped_column(Id)
    at: Mapped[datetime] = mapped_column(index=True)
