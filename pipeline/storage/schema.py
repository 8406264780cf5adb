"""The tables. Statuses and kinds are stored as their words; times are UTC.

A row changes state by one UPDATE that names the state it leaves, and the caller looks at who won.
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
    """An aware datetime in UTC. SQLite keeps no zone, so it is taken off and put back."""

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
    """Text that both databases take: NUL and half a surrogate pair become U+FFFD."""

    impl = Text()
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return (
            value if value is None or (value.isascii() and "\0" not in value) else storable(value)
        )


class BoundedText(TypeDecorator[str]):
    """Text of at most `length` characters that both databases take: see `bounded`.

    SQLite stores any length, PostgreSQL refuses the whole statement.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else bounded(value, self.length)


def bounded(text: str, most: int) -> str:
    """`text` as it can be stored, where it is too long its beginning and a hash of all of it.

    Equal texts stay equal, and different ones different: what is stored is found again.
    """
    clean = storable(text)
    if len(clean) <= most:
        return clean
    digest = hashlib.sha256(clean.encode()).hexdigest()
    return f"{clean[: max(0, most - len(digest) - 1)]}#{digest}"[-most:]


def storable(text: str) -> str:
    """`text` without what PostgreSQL refuses, and what cannot be written as UTF-8."""
    return UNSTORABLE.sub("\ufffd", text)


# A BigInteger primary key does not count up by itself on SQLite.
Id: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
Json: TypeEngine[Any] = JSON().with_variant(postgresql.JSONB(), "postgresql")


def _only_where(condition: TextClause) -> dict[str, Any]:
    """Of an index that leaves the other rows out."""
    return {"sqlite_where": condition, "postgresql_where": condition}


class Table(DeclarativeBase):
    """What every table shares: stable constraint names, and the types of its columns."""

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
    """One work. Its words live in `paper_versions`; here is what changes from day to day."""

    __tablename__ = "papers"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    arxiv_id: Mapped[str | None] = mapped_column(unique=True)
    doi: Mapped[str | None] = mapped_column(unique=True)
    title_key: Mapped[str] = mapped_column(index=True)  # hash of the normalised title
    author_key: Mapped[str]  # normalised first author, "" when unknown
    version: Mapped[int]  # the newest row in paper_versions
    upvotes: Mapped[int | None]
    comments: Mapped[int | None]
    announced_on: Mapped[date] = mapped_column(index=True)  # the first announcement
    published_at: Mapped[datetime | None]
    batch: Mapped[int] = mapped_column(index=True)  # the batch that brought it
    touched_batch: Mapped[int] = mapped_column(index=True)  # the batch it is to be matched under
    created_at: Mapped[datetime]


class PaperVersionRow(Table):
    """The words of a paper as they once stood; a digest names the version it froze."""

    __tablename__ = "paper_versions"

    paper_id: Mapped[int] = mapped_column(
        Id, ForeignKey("papers.id", ondelete="CASCADE"), primary_key=True
    )
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[dict[str, Any]]  # see storage.papers: title, abstract, authors, links...


class SightingRow(Table):
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
    """A published batch. The number that counts is `ingest_state.published_batch`."""

    __tablename__ = "batches"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    published_at: Mapped[datetime] = mapped_column(index=True)
    papers: Mapped[int]  # new ones
    matches: Mapped[int]


class IngestStateRow(Table):
    """One row: the batch readers may see, and who may write the next one."""

    __tablename__ = "ingest_state"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    published_batch: Mapped[int]
    token: Mapped[int]  # fencing token: counts up with every taking of the lease
    lease_until: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class SourceStateRow(Table):
    __tablename__ = "source_states"

    source: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    state: Mapped[str]
    since: Mapped[datetime]  # when it entered this state
    checked_at: Mapped[datetime]
    read_at: Mapped[datetime | None]  # the last time it answered
    news_at: Mapped[datetime | None]  # the last time it had something new
    cursor: Mapped[str | None]  # the source's own; means nothing outside it
    error: Mapped[str | None]
    failures: Mapped[int]  # in a row
    next_try_at: Mapped[datetime | None]


class HTTPValidatorRow(Table):
    """What a server gave us to ask "has it changed?" with."""

    __tablename__ = "http_validators"

    url: Mapped[str] = mapped_column(primary_key=True)
    etag: Mapped[str | None]
    last_modified: Mapped[str | None]
    stored_at: Mapped[datetime]


class LimitRow(Table):
    """A limit that protects people or contracts, shared by every process."""

    __tablename__ = "limits"

    name: Mapped[str] = mapped_column(BoundedText(200), primary_key=True)
    window_start: Mapped[datetime] = mapped_column(index=True)
    used: Mapped[int]
    free_at: Mapped[datetime]  # nobody may go before this


# --- Topics -------------------------------------------------------------------------------------


class TopicRow(Table):
    __tablename__ = "topics"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    query: Mapped[str] = mapped_column(unique=True)  # canonical
    kind: Mapped[str]
    matched_through: Mapped[int]  # every batch up to this one has been matched
    created_at: Mapped[datetime]


class EmbeddingRow(Table):
    """What a model made of a text; nothing refers to it, and it can be made again."""

    __tablename__ = "embeddings"

    model: Mapped[str] = mapped_column(BoundedText(16), primary_key=True)  # hash of its files
    text_key: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)  # hash of a text
    vector: Mapped[bytes]  # of float16, little endian


class MatchRow(Table):
    __tablename__ = "matches"

    topic_id: Mapped[int] = mapped_column(
        Id, ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True
    )
    paper_id: Mapped[int] = mapped_column(
        Id, ForeignKey("papers.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    batch: Mapped[int] = mapped_column(index=True)  # in which it first arose under its breadth
    score: Mapped[float]
    phrases: Mapped[list[Any]]
    breadth: Mapped[int] = mapped_column(SmallInteger, server_default="2")  # see domain.Breadth

    __table_args__ = (Index(None, "topic_id", "batch"),)


# --- Subscribers --------------------------------------------------------------------------------


class SubscriberRow(Table):
    __tablename__ = "subscribers"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    email: Mapped[str]  # as we write it on the envelope
    email_key: Mapped[str] = mapped_column(unique=True)  # see storage.subscribers.email_key
    address_hash: Mapped[str] = mapped_column(BoundedText(64), index=True)  # as in `suppressions`
    status: Mapped[str]
    at: Mapped[time]
    timezone: Mapped[str]
    frequency: Mapped[str]
    weekday: Mapped[int]
    max_papers: Mapped[int]
    breadth: Mapped[int] = mapped_column(SmallInteger, server_default="2")  # see domain.Breadth
    secret: Mapped[str] = mapped_column(unique=True)
    paused_until: Mapped[date | None]
    next_slot_at: Mapped[datetime | None]
    last_slot_at: Mapped[datetime | None]
    last_edition_on: Mapped[date | None]
    cursor: Mapped[int]
    created_at: Mapped[datetime]
    confirmed_at: Mapped[datetime | None]
    left_at: Mapped[datetime | None]
    left_reason: Mapped[str | None]  # one of the answers to the one question, if they gave it
    welcome_due: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Papers announced before this day were sent by another database; NULL: there was none.
    papers_from: Mapped[date | None]

    __table_args__ = (Index(None, "status", "next_slot_at"),)


class RequestRow(Table):
    """What somebody asked for. Nothing is changed by it before its own token is POSTed."""

    __tablename__ = "requests"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    kind: Mapped[str]
    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), index=True
    )
    email: Mapped[str]
    email_key: Mapped[str] = mapped_column(index=True)  # as in `subscribers`
    origin: Mapped[str]
    # The version of the words they agreed to by using it, see signup.consent; NULL where we showed
    # them none: nobody has agreed yet, or the operator says that they did.
    wording: Mapped[str | None]
    wishes: Mapped[dict[str, Any]]  # see storage.requests
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    ip: Mapped[str | None]  # of who asked; part of the record of consent, kept for days
    # `ip` and `wishes` are no longer kept; what else is here stays as long as its reader.
    blanked: Mapped[bool] = mapped_column(default=False, server_default=false())

    __table_args__ = (
        Index(None, "blanked", "created_at"),
        Index("ix_requests_open", "created_at", **_only_where(text("used_at IS NULL"))),
        # SQLite gives the number of a deleted row to a new one: an old link would confirm it.
        {"sqlite_autoincrement": True},
    )


class AskedRow(Table):
    """A confirmation that was mailed and not answered yet, under the hash of its address."""

    __tablename__ = "asked"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    address_hash: Mapped[str] = mapped_column(BoundedText(64), index=True)
    asked_at: Mapped[datetime] = mapped_column(index=True)
    # Hashes for limits, see signup.asking: of the inbox, which several addresses may lead to, and
    # of the network that asked.
    inbox: Mapped[str] = mapped_column(BoundedText(64), index=True, server_default="")
    requester: Mapped[str] = mapped_column(BoundedText(16), server_default="")


class SubscriptionRow(Table):
    __tablename__ = "subscriptions"

    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), primary_key=True
    )
    topic_id: Mapped[int] = mapped_column(
        Id, ForeignKey("topics.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    label: Mapped[str]  # what the reader calls it
    created_at: Mapped[datetime]


class SuppressionRow(Table):
    """Addresses we do not write to, by keyed hash; outlives the subscriber."""

    __tablename__ = "suppressions"

    hash: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    reason: Mapped[str]
    since: Mapped[datetime]
    # From before migration 0011, which told apart domains that case folding had made one: it
    # counts for each address that it may have been made for.
    folded: Mapped[bool] = mapped_column(default=False, server_default=false())


class KeyRow(Table):
    """A key that Paperboy made itself, or the fingerprint of one in the settings."""

    __tablename__ = "keys"

    name: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)  # of its setting
    value: Mapped[str | None]  # NULL: it stands in the settings only
    fingerprint: Mapped[str] = mapped_column(BoundedText(16))
    made_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]  # since when a setting stands in its place


class StrikeRow(Table):
    """An edition that an address did not take, under its keyed hash: one for each edition."""

    __tablename__ = "strikes"

    address_hash: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    edition_on: Mapped[date] = mapped_column(primary_key=True)
    kind: Mapped[str]
    noted_at: Mapped[datetime] = mapped_column(index=True)


class RefusalRow(Table):
    """The last refusal or bounce of a delivery; see `storage.guard` for when it counts."""

    __tablename__ = "refusals"

    delivery_id: Mapped[int] = mapped_column(
        Id, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    edition_on: Mapped[date | None] = mapped_column(index=True)  # NULL: a single mail
    address_hash: Mapped[str] = mapped_column(BoundedText(64), index=True)  # as in `suppressions`
    domain: Mapped[str]
    kind: Mapped[str | None]  # see storage.refusals; NULL: it counts against no address
    ends_as: Mapped[str | None]  # the status of its delivery once it counts; NULL: unchanged
    wording: Mapped[str]  # normalised, without addresses
    server: Mapped[str] = mapped_column(BoundedText(255))  # that refused; "" for a bounce
    at: Mapped[datetime] = mapped_column(index=True)
    counted: Mapped[bool] = mapped_column(default=False, server_default=false())


class EventRow(Table):
    """News about a delivery as it came, so that the same is taken once. Kept for a month."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    provider: Mapped[str] = mapped_column(BoundedText(32))  # "mail" for what a mailbox brought
    event_id: Mapped[str] = mapped_column(BoundedText(256))  # the provider's own
    kind: Mapped[str]  # the provider's word for it
    effect: Mapped[str]  # what was done about it
    received_at: Mapped[datetime] = mapped_column(index=True)
    # Whose news it is, where that is known: erasing a reader must find what names them.
    delivery_id: Mapped[int | None] = mapped_column(Id, index=True)
    subscriber_id: Mapped[int | None] = mapped_column(Id, index=True)
    address_hash: Mapped[str | None] = mapped_column(BoundedText(64), index=True)
    raw: Mapped[str]

    __table_args__ = (UniqueConstraint("provider", "event_id"),)


class SkipRow(Table):
    """A slot that brought no mail, and why."""

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
"""What the indexes of the outbox hold; SQLite uses them only where a query says just this."""


def _outbox(name: str, *columns: str) -> Index:
    return Index(name, *columns, postgresql_where=IS_QUEUED, sqlite_where=IS_QUEUED)


class DeliveryRow(Table):
    """One message owed. The outbox is a query over this table, and the only queue there is."""

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    dedupe_key: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), index=True
    )
    address: Mapped[str | None]  # where it goes, if not to its subscriber's address
    request_id: Mapped[int | None] = mapped_column(Id)  # what its link confirms, if anything
    status: Mapped[str]
    reason: Mapped[str | None]  # why it is where it is; every terminal row has one
    attempts: Mapped[int]  # those that count against it
    precedence: Mapped[int] = mapped_column(server_default="0")  # 0 leaves before 1; see Precedence
    domain: Mapped[str] = mapped_column(server_default="")  # whose servers take it in the end
    not_before: Mapped[datetime]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]
    # The digest's place in its reader's calendar; NULL for other kinds.
    edition_on: Mapped[date | None] = mapped_column(index=True)
    slot_at: Mapped[datetime | None]
    range_from: Mapped[int | None]  # batches (from, to]
    range_to: Mapped[int | None]
    more: Mapped[int]  # papers that found no place
    topics: Mapped[list[Any]]  # labels followed at that moment
    template: Mapped[str | None]  # version of the template it was compiled for
    # The lease, and what became of it.
    lease: Mapped[str | None] = mapped_column(BoundedText(40), index=True)
    lease_until: Mapped[datetime | None]
    marked_at: Mapped[datetime | None]
    resent_at: Mapped[datetime | None]  # queued again though it may have been accepted
    sent_at: Mapped[datetime | None]
    queue_id: Mapped[str | None]  # the server's name for it
    reply: Mapped[str | None]  # the server's last words, cut
    # What it said, and what was said about it, is no longer kept; that it was sent is.
    blanked: Mapped[bool] = mapped_column(default=False, server_default=false())

    __table_args__ = (
        Index(None, "blanked", "created_at"),
        Index("ix_deliveries_elsewhere", "created_at", **_only_where(text("address <> ''"))),
        # The outbox, in the order it is claimed in: as a whole, and for one domain.
        _outbox("ix_deliveries_outbox", "precedence", "not_before", "id", "domain"),
        _outbox("ix_deliveries_outbox_domain", "domain", "precedence", "not_before", "id"),
        Index(None, "status", "lease_until"),
        # Some providers name a mail in their news by nothing else.
        Index(
            None,
            "queue_id",
            sqlite_where=text("queue_id IS NOT NULL"),
            postgresql_where=text("queue_id IS NOT NULL"),
        ),
    )


class DailyCountRow(Table):
    """How many deliveries of a day are no longer kept: a number without a name, for charts."""

    __tablename__ = "daily_counts"

    day: Mapped[date] = mapped_column(primary_key=True)  # in UTC, on which they were owed
    kind: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)
    status: Mapped[str] = mapped_column(BoundedText(32), primary_key=True)
    count: Mapped[int]


class PickRow(Table):
    """A paper in a digest, frozen: which words of it, why, and the counts of that moment."""

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
    reasons: Mapped[list[Any]]  # [[label, [phrase, ...]], ...]


# --- The pace of sending ------------------------------------------------------------------------


class HoldRow(Table):
    """What must not be sent for now: everything, or the digests of one date."""

    __tablename__ = "holds"

    name: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)  # see storage.holds
    edition_on: Mapped[date | None]  # NULL: everything
    since: Mapped[datetime]
    reason: Mapped[str]
    automatic: Mapped[bool] = mapped_column(default=False, server_default=false())  # not by hand


class DatabaseCopyRow(Table):
    """One row: where this database was when mail was last sent from it; see storage.copies."""

    __tablename__ = "database_copy"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    identity: Mapped[str]  # of server and tables; a restored dump has another
    noted_at: Mapped[datetime]

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class BreakerRow(Table):
    """A mail server that refuses us as a whole; there is no row while it does not."""

    __tablename__ = "breakers"

    name: Mapped[str] = mapped_column(BoundedText(64), primary_key=True)
    refusals: Mapped[int]  # in a row
    open_until: Mapped[datetime]  # nobody connects before this
    probed_by: Mapped[str | None] = mapped_column(BoundedText(40))  # the lease of who tries it now
    probe_until: Mapped[datetime | None]  # who tries it is taken for dead after this
    since: Mapped[datetime]
    reply: Mapped[str]  # the server's last words, without addresses


class DomainPaceRow(Table):
    """A recipient domain that found us too fast, or blocked us; there is no row for the others."""

    __tablename__ = "domain_paces"

    domain: Mapped[str] = mapped_column(BoundedText(255), primary_key=True)
    state: Mapped[str]
    allowance: Mapped[float]  # mails a minute
    not_before: Mapped[datetime]  # the next mail to it
    refusals: Mapped[int]  # since it was last free
    since: Mapped[datetime]
    refused_at: Mapped[datetime]  # the last time it was slowed
    reply: Mapped[str]  # the server's words, without addresses


class DistrustRow(Table):
    """A refusal for want of authentication (SPF, DKIM, DMARC), kept for as long as it counts."""

    __tablename__ = "distrusts"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    edition_on: Mapped[date | None]
    subscriber_id: Mapped[int] = mapped_column(Id)
    at: Mapped[datetime] = mapped_column(index=True)
