"""The tables. Statuses and kinds are stored as their words; times are UTC.

A row changes state by one UPDATE that names the state it leaves, and the caller looks at who won.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

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
    TypeDecorator,
    false,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine


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


# A BigInteger primary key does not count up by itself on SQLite.
Id: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
Json: TypeEngine[Any] = JSON().with_variant(postgresql.JSONB(), "postgresql")


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
        str: Text(),
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

    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    source_id: Mapped[str] = mapped_column(String(512), primary_key=True)
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

    source: Mapped[str] = mapped_column(String(64), primary_key=True)
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

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    window_start: Mapped[datetime]
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
    address_hash: Mapped[str] = mapped_column(String(64), index=True)  # as in `suppressions`
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
    wishes: Mapped[dict[str, Any]]  # see storage.requests
    created_at: Mapped[datetime] = mapped_column(index=True)
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    ip: Mapped[str | None]  # of who asked; part of the record of consent, kept for days

    # SQLite gives the number of a deleted row to a new one: an old link would confirm it.
    __table_args__ = ({"sqlite_autoincrement": True},)


class AskedRow(Table):
    """A confirmation that was mailed and not answered yet, under the hash of its address."""

    __tablename__ = "asked"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    address_hash: Mapped[str] = mapped_column(String(64), index=True)
    asked_at: Mapped[datetime]


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

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    reason: Mapped[str]
    since: Mapped[datetime]


class SkipRow(Table):
    """A slot that brought no mail, and why."""

    __tablename__ = "skips"

    subscriber_id: Mapped[int] = mapped_column(
        Id, ForeignKey("subscribers.id", ondelete="CASCADE"), primary_key=True
    )
    edition_on: Mapped[date] = mapped_column(primary_key=True)
    slot_at: Mapped[datetime]
    reason: Mapped[str]
    range_from: Mapped[int]
    range_to: Mapped[int]


# --- Deliveries ---------------------------------------------------------------------------------


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
    lease: Mapped[str | None] = mapped_column(String(40), index=True)
    lease_until: Mapped[datetime | None]
    marked_at: Mapped[datetime | None]
    resent_at: Mapped[datetime | None]  # queued again though it may have been accepted
    sent_at: Mapped[datetime | None]
    queue_id: Mapped[str | None]  # the server's name for it
    reply: Mapped[str | None]  # the server's last words, cut

    __table_args__ = (
        Index(None, "status", "not_before", "id"),
        Index(None, "status", "lease_until"),
    )


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
