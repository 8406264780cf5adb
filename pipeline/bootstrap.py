"""Build the services of a process and connect them. Tests build their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from pipeline import settings
from pipeline.errors import SettingsError
from pipeline.storage.database import POOL_TIMEOUT, open_engine

# Import each part lazily, where it is built: a command needs few of them, and importing all takes a
# second.
if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from pipeline.dispatch import Dispatcher, Quota, Tally
    from pipeline.dispatch.compose import Composer
    from pipeline.dkim import Signer
    from pipeline.domain import Delivery, MailContent, Notice
    from pipeline.editions import SlotResult
    from pipeline.feedback.intake import ReadMail
    from pipeline.feedback.process import Feedback
    from pipeline.feedback.webhooks import Provider
    from pipeline.ingest import SourceReport
    from pipeline.links import SignedLinks
    from pipeline.message import Sender
    from pipeline.preview import Preview, Previewer
    from pipeline.purge import Purged, Retention
    from pipeline.rendering import MailLinks, Renderer
    from pipeline.settings import Settings
    from pipeline.signup.abuse_limits import Limits
    from pipeline.smtp import SMTPTransport
    from pipeline.sources import Source
    from pipeline.sources.arxiv import ArxivAPI
    from pipeline.sources.client import Client
    from pipeline.storage.embeddings import CachedEmbeddings
    from pipeline.storage.keys import Keys
    from pipeline.token_bucket import Bucket
    from pipeline.watch import Failure

log = structlog.get_logger(__name__)

EMAILS = Path(__file__).resolve().parent.parent / "emails"

CHUNK = 200  # deliveries claimed at once


@dataclass(frozen=True)
class Services:
    """Services of one process, each built on first use. Build it after a fork."""

    settings: Settings
    engine: Engine
    other_keys: Keys | None = None  # override the keys of the installation

    @cached_property
    def keys(self) -> Keys:
        """Return this installation's keys, from the settings or the database; see `storage.keys`.

        Generates and stores missing keys. Raises SettingsError if SUPPRESSION_KEY has changed.
        """
        from pipeline.links import LIFETIME
        from pipeline.storage import keys

        if self.other_keys is not None:
            return self.other_keys
        loaded = self.settings
        hidden = loaded.suppression_key
        return keys.in_use(
            self.engine,
            loaded.secret_key,
            hidden.get_secret_value() if hidden else None,
            now=datetime.now(UTC),
            link_life=max(self.retention.digest, *LIFETIME.values()),
        )

    # --- Sources --------------------------------------------------------------------------------

    def sources(self, names: Iterable[str] = ()) -> list[Source]:
        """Return the live sources with these names, by default those in SOURCES.

        Raises SettingsError for an unknown name.
        """
        from pipeline import sources

        wanted = list(names) or self.settings.sources
        return sources.build(wanted, self._client, self.settings)

    def ingest(self, now: datetime) -> list[SourceReport]:
        """Read all enabled sources and publish a batch; see `ingest.ingest`."""
        from pipeline.ingest import ingest

        return ingest(
            self.engine, self.sources(), now=now, embedder=self.embeddings, arxiv=self.arxiv
        )

    @property
    def arxiv(self) -> ArxivAPI:
        """Return arXiv's API, under the rate limit of the source; needed without it, too."""
        from pipeline.sources.arxiv import ArxivAPI

        return ArxivAPI(self._client)

    @cached_property
    def _client(self) -> Client:
        from pipeline.ingest import StoredValidators
        from pipeline.sources.client import Client, user_agent
        from pipeline.sources.public_addresses import Proxy

        loaded = self.settings
        return Client(
            user_agent(version("paperboy"), loaded.site_url, loaded.contact),
            wait_turn=self._wait_turn,
            validators=StoredValidators(self.engine),
            proxy=Proxy.of(loaded),
        )

    def _wait_turn(self, limit: str) -> None:
        """Sleep until a request fits the rate limit `limit`.

        Turns are database rows, so all workers share the limit.
        """
        from pipeline.sources import request_gap
        from pipeline.storage import rate_limits

        with self.engine.begin() as conn:
            wait = rate_limits.take_turn(conn, limit, gap=request_gap(limit))
        time.sleep(wait.total_seconds())

    # --- Embeddings -----------------------------------------------------------------------------

    @cached_property
    def embeddings(self) -> CachedEmbeddings | None:
        """Return the cached embedding model; None without SEMANTIC_MODEL.

        Raises SettingsError if the model cannot be loaded.
        """
        places = self.settings.semantic_model
        if not places:
            return None
        from pipeline.embedding import Model
        from pipeline.storage.embeddings import CachedEmbeddings

        return CachedEmbeddings(self.engine, Model(places))

    @property
    def known_embeddings(self) -> CachedEmbeddings | None:
        """Return the embeddings for web requests, which cannot wait for the model to embed papers.

        Papers that are not cached get vectors of NaN. None without SEMANTIC_MODEL.
        """
        return replace(self.embeddings, makes=False) if self.embeddings else None

    # --- Editions -------------------------------------------------------------------------------

    def publish(self, now: datetime, *, everyone: bool = False) -> Iterator[SlotResult]:
        """Compile due digests, chunk by chunk as the result is iterated; see `editions.publish`."""
        from pipeline import editions

        return editions.publish(
            self.engine,
            now=now,
            expiry=timedelta(hours=self.settings.digest_expiry_hours),
            template=self.renderer.template_version,
            everyone=everyone,
            longest_spread=timedelta(minutes=self.settings.digest_spread_minutes),
            quiet_days=self.settings.quiet_note_days,
            inactivity_months=self.settings.inactivity_months,
            embedder=self.embeddings,
        )

    def preview(self, email: str, now: datetime) -> Preview:
        return self._previewer.preview(email, now)

    def send_preview(self, email: str, address: str, now: datetime) -> None:
        """Mail a preview to `address`; raise SettingsError if real mail lacks a setting."""
        self.settings.check_real_mail()
        self._previewer.send(self.transport, email, address, now)

    @property
    def _previewer(self) -> Previewer:
        from pipeline.preview import Previewer

        return Previewer(self.engine, self.composer, self.embeddings)

    def purge(self, now: datetime) -> Purged:
        """Delete rows whose retention period is over."""
        from pipeline.purge import purge

        return purge(self.engine, now, self.retention)

    def watch(self, now: datetime, check: Callable[[], Iterable[Failure]]) -> None:
        """Log the editions that are over, and mail failed checks and reports; see `watch`."""
        from email.utils import parseaddr

        from pipeline import watch

        watch.finish_editions(self.engine, now)
        if self.settings.operator_email:
            address = parseaddr(self.settings.operator_email)[1]
            operator = watch.Operator(address, self.suppression_key)
            watch.alert(self.engine, operator, now, check)
            watch.report_month(self.engine, operator, now)

    @property
    def retention(self) -> Retention:
        from pipeline.purge import Retention

        loaded = self.settings
        return Retention(
            pending=timedelta(days=loaded.pending_days),
            ip=timedelta(days=loaded.ip_days),
            digest=timedelta(days=loaded.digest_days),
            delivery=timedelta(days=loaded.delivery_days),
            event=timedelta(days=loaded.event_days),
            paper=timedelta(days=loaded.paper_days) if loaded.paper_days else None,
        )

    # --- Mail -----------------------------------------------------------------------------------

    @cached_property
    def renderer(self) -> Renderer:
        from pipeline.matching.highlights import find
        from pipeline.rendering import Branding, Renderer

        return Renderer(Branding.of(self.settings), EMAILS, find)

    @cached_property
    def links(self) -> SignedLinks:
        from pipeline.links import SignedLinks

        return SignedLinks(self.settings.site_url, self.keys.secret, view=self.retention.digest)

    @cached_property
    def sender(self) -> Sender:
        from email.utils import parseaddr

        from pipeline.message import Sender

        loaded = self.settings
        return Sender(
            mail_from=loaded.mail_from,
            list_name=loaded.list_name,
            site_url=loaded.site_url,
            # Use the only key that is never rotated: the Message-ID of a delivery must never
            # change.
            key=self.suppression_key,
            contact=parseaddr(loaded.contact)[1] if loaded.contact else None,
            reply_to=loaded.reply_to,
            bounce_address=loaded.bounce_address,
            unsubscribe_mailbox=loaded.unsubscribe_mailbox,
        )

    @cached_property
    def signer(self) -> Signer | None:
        """Return the DKIM signer; None without DKIM_KEYS. Log a warning for each short key.

        Raises SettingsError if a key cannot sign.
        """
        from pipeline.dkim import Signer, read_keys

        given = self.settings.dkim_keys
        if given is None:
            return None
        signer = Signer(read_keys(given.get_secret_value()), self.signing_domain)
        for key in filter(lambda key: key.is_short, signer.signing):
            log.warning("dkim_key.short", selector=key.selector, bits=key.bits)
        return signer

    @property
    def signing_domain(self) -> str:
        """Return the DKIM domain. Raises SettingsError if it is not aligned with MAIL_FROM."""
        from pipeline.dkim import aligned

        host = self.sender.host
        domain = self.settings.dkim_domain or host
        if not aligned(domain, host):
            raise SettingsError(f"DKIM_DOMAIN: {domain} says nothing about mail from {host}")
        return domain

    @property
    def signup_limits(self) -> Limits:
        from pipeline.signup.abuse_limits import Limits

        loaded = self.settings
        return Limits(loaded.signups_per_hour, loaded.signups_per_day, loaded.site_signups_per_hour)

    @property
    def suppression_key(self) -> str:
        return self.keys.suppression

    def message_id(self, dedupe_key: str) -> str:
        return self.sender.message_id(dedupe_key)

    @cached_property
    def composer(self) -> Composer:
        from pipeline.dispatch.compose import Composer

        return Composer(self.settings.site_url, self.sender, self.renderer, self.links, self.signer)

    def mail_links(self, delivery: Delivery, now: datetime) -> MailLinks:
        return self.composer.mail_links(delivery, now)

    def compose(
        self, delivery: Delivery, content: MailContent | None, *, now: datetime | None = None
    ) -> bytes:
        return self.composer.compose(delivery, content, now=now)

    def load(self, conn: Connection, claimed: Sequence[Delivery]) -> Mapping[int, MailContent]:
        from pipeline import editions
        from pipeline.storage import operator_reports

        reports = operator_reports.load(conn, claimed)
        return reports | editions.load_content(conn, claimed, self.settings.quiet_note_days)

    # --- Feedback -------------------------------------------------------------------------------

    @cached_property
    def feedback(self) -> Feedback:
        from pipeline.feedback.process import Feedback

        return Feedback(self.engine, self.sender, self.suppression_key)

    @cached_property
    def providers(self) -> dict[str, Provider]:
        """Return the configured providers by name; their webhooks are accepted at /hooks/<name>."""
        from pipeline.feedback import webhooks

        return webhooks.configured(self.settings)

    def receive_news(
        self, name: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> int:
        from pipeline.feedback.intake import process_webhook

        return process_webhook(self.feedback, self.providers, name, headers, body, now)

    def read_bounces(
        self, mails: Iterable[tuple[str, bytes]], read: Callable[[bytes], Notice], now: datetime
    ) -> Iterator[ReadMail]:
        """Process `mails` with the parser `read`; yield a result for each."""
        from pipeline.feedback.intake import process_mails

        return process_mails(self.feedback, mails, read, now)

    def read_mailbox(
        self, where: str, read: Callable[[bytes], Notice], now: datetime
    ) -> list[ReadMail]:
        from pipeline.feedback.intake import process_mailbox

        return process_mailbox(self.feedback, where, read, now)

    def read_own_mailbox(self, now: datetime) -> None:
        """Process the new mails of BOUNCE_MAILBOX, if it is set. Raises MailboxError."""
        from pipeline.feedback.bounces import read_mail

        if self.settings.bounce_mailbox:
            self.read_mailbox(self.settings.mailbox_url(), read_mail, now)

    # --- Dispatch -------------------------------------------------------------------------------

    @cached_property
    def transport(self) -> SMTPTransport:
        from pipeline.smtp import transport_of
        from pipeline.smtp.session import SessionLimits

        bounds = SessionLimits(messages=self.settings.smtp_messages_per_connection)
        return transport_of(self.settings, bounds)

    def dispatch(
        self,
        *,
        once: bool = False,
        limit: timedelta | None = None,
        stop: Callable[[], bool] = lambda: False,
        clock: datetime | None = None,
    ) -> Tally:
        """Send due deliveries; see `Dispatcher.drain`. `clock` replaces the database's clock.

        Holds all sending first if the database is a restored copy. Raises SettingsError if a
        setting that real mail needs is missing, and DispatchStoppedError if no server can be used.
        """
        from pipeline import restore

        self.settings.check_real_mail()
        restore.hold_if_restored(self.engine, clock or datetime.now(UTC))
        return self.dispatcher(clock).drain(once=once, limit=limit, stop=stop)

    def dispatcher(self, clock: datetime | None = None) -> Dispatcher:
        """Build a dispatcher; once per process, exclude existing objects from garbage collection.

        A claim is never larger than the smallest quota. Uncertain confirmations are sent again,
        uncertain digests only with RESEND_UNCERTAIN_DIGESTS.
        """
        from pipeline.dispatch import Dispatcher
        from pipeline.dispatch.dispatcher import freeze_gc_once
        from pipeline.domain import DeliveryKind
        from pipeline.storage.database import server_now

        freeze_gc_once()
        resend = {DeliveryKind.CONFIRMATION}
        if self.settings.resend_uncertain_digests:
            resend |= {DeliveryKind.DIGEST, DeliveryKind.WELCOME}
        return Dispatcher(
            engine=self.engine,
            transport=self.transport,
            compose=partial(self.compose, now=clock),
            load=self.load,
            sender=lambda delivery: self.sender.envelope(delivery.id, delivery.dedupe_key),
            server=f"{self.settings.smtp.host}:{self.settings.smtp.port}"[:255],
            connections=self.settings.smtp_connections,
            chunk=min([CHUNK, *(rate.most for rate in self.settings.rates)]),
            rates=self._counted_rates,
            bucket=self._bucket,
            resend=frozenset(resend),
            clock=server_now if clock is None else lambda _conn: clock,
        )

    @property
    def _counted_rates(self) -> list[Quota]:
        """Return the quotas that are counted in rows.

        A window of one second is too short for that: see `_bucket`.
        """
        from pipeline.dispatch import Quota

        return [
            Quota(f"smtp:{rate.unit}", rate.most, rate.window)
            for rate in self.settings.rates
            if rate.unit != "second"
        ]

    @cached_property
    def _bucket(self) -> Bucket | None:
        """Return the shared token bucket of the limit per second; None without such a limit."""
        rates = [rate for rate in self.settings.rates if rate.unit == "second"]
        if not rates:
            return None
        from pipeline.token_bucket import SharedBucket

        loaded = self.settings
        return SharedBucket(loaded.redis_url, "smtp", rates[0].most, loaded.smtp_senders)


def build(loaded: Settings, *, check: bool = True, pool_timeout: float = POOL_TIMEOUT) -> Services:
    """Build the services of this process.

    `pool_timeout` is the time in seconds that a thread waits for a free database connection. With
    `check`, raises SchemaError if the database does not fit this code, and SettingsError if the
    keys cannot be used: at start instead of when the first mail is due.
    """
    from pipeline.storage import migrate

    engine = open_engine(loaded.database_url, pool_timeout=pool_timeout)
    built = Services(loaded, engine)
    if check:
        try:
            migrate.check(engine)
            _ = built.keys, built.signer
        except Exception:
            engine.dispose()
            raise
    return built


@cache
def services() -> Services:
    """Return the cached services of a single-process command, from the environment."""
    return build(settings.load())
