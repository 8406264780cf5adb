"""Build the real objects and join them, in one place. Tests build their own."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parseaddr
from functools import cache, cached_property, lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pipeline import editions, restore, settings
from pipeline import ingest as ingesting
from pipeline import purge as purging
from pipeline.dispatch import Dispatcher, Rate, Tally
from pipeline.dkim import Signer, aligned, read_keys
from pipeline.domain import (
    Delivery,
    DeliveryKind,
    Digest,
    Notice,
    NoticeKind,
    QuietNote,
    Told,
    Verdict,
)
from pipeline.editions import Outcome
from pipeline.embedding import Model
from pipeline.errors import NotFoundError, RenderError, SettingsError, TransportError
from pipeline.feedback.applying import Effect, Feedback
from pipeline.feedback.imap import is_imap, read_imap
from pipeline.feedback.maildir import read_maildir
from pipeline.feedback.providers import Provider
from pipeline.feedback.providers.fetching import fetch
from pipeline.feedback.providers.generic import Generic
from pipeline.feedback.providers.ses import SES
from pipeline.feedback.providers.sns import SNS
from pipeline.feedback.reading import read_mail
from pipeline.ingest import SourceReport
from pipeline.limits import Bucket, SharedBucket
from pipeline.links import LIFETIME, SignedLinks
from pipeline.matching.mentions import find
from pipeline.message import Sender, compose_confirmation, compose_digest
from pipeline.purge import Purged, Retention
from pipeline.rendering import House, MailLinks, Rendered, Renderer
from pipeline.settings import Settings
from pipeline.signup.asking import Limits
from pipeline.smtp import SMTPTransport, transport_of
from pipeline.smtp.connection import Bounds
from pipeline.sources import Source, Validator
from pipeline.sources.arxiv import Arxiv
from pipeline.sources.http import Client, user_agent
from pipeline.sources.huggingface import HuggingFace
from pipeline.storage import (
    digests,
    embeddings,
    http_validators,
    keys,
    limits,
    migrate,
    subscribers,
)
from pipeline.storage.database import (
    POOL_TIMEOUT,
    in_chunks,
    open_engine,
    reading,
    server_now,
    with_retries,
)
from pipeline.storage.digests import DIGESTS
from pipeline.storage.keys import Keys

log = structlog.get_logger(__name__)

EMAILS = Path(__file__).resolve().parent.parent / "emails"

GAPS = {
    # arXiv's terms of use: one request per 3 s, all machines and interfaces together.
    "arxiv": timedelta(seconds=3),
    # Hugging Face allows 500 requests in 5 minutes; half of that is plenty.
    "huggingface": timedelta(seconds=1.2),
}


CHUNK = 200  # deliveries a claim
EMBEDDED_AT_ONCE = 50  # papers whose vectors are kept together: some seconds of work
TOPICS_KEPT = 4_000  # in memory, 1.5 KB each, and at most 8 KB of text


@dataclass(frozen=True, slots=True)
class Preview:
    """A digest as its reader would see it."""

    subject: str
    html: str
    text: str
    eml: bytes  # as it would be sent, without SMTP's doubled dots


@dataclass(frozen=True, slots=True)
class ReadMail:
    """A mail that came back: what it says, and what was done about it."""

    name: str
    notice: Notice
    effect: Effect

    @property
    def is_understood(self) -> bool:
        """Whether the mailbox may put it away; any other is flagged for an operator to look at."""
        return self.notice.kind is not NoticeKind.NONE and self.effect is not Effect.FAILED


@dataclass(frozen=True)
class Services:
    """The parts of one process, each made when it is first asked for. Make it after a fork."""

    settings: Settings
    engine: Engine
    other_keys: Keys | None = None  # instead of those of the installation

    @cached_property
    def keys(self) -> Keys:
        """The keys of this installation, from the settings or the database; see `storage.keys`.

        Makes those that are missing. Raises SettingsError for a changed SUPPRESSION_KEY.
        """
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
        """The live sources of these names, else all that are switched on.

        Raises SettingsError for one we do not have.
        """
        wanted = list(names) or list(self.settings.sources)
        makers: dict[str, Callable[[], Source]] = {
            "huggingface": self._huggingface,
            "arxiv": self._arxiv,
        }
        if unknown := [name for name in wanted if name not in makers]:
            known = ", ".join(makers)
            raise SettingsError(f"unknown source: {', '.join(unknown)}; there are {known}")
        return [makers[name]() for name in wanted]

    def ingest(self, now: datetime) -> list[SourceReport]:
        return ingesting.ingest(self.engine, self.sources(), now=now, embedder=self.meanings)

    def _huggingface(self) -> Source:
        token = self.settings.huggingface_token
        return HuggingFace(self._client, token.get_secret_value() if token else None)

    def _arxiv(self) -> Source:
        return Arxiv(self._client, self.settings.arxiv_categories)

    @cached_property
    def _client(self) -> Client:
        loaded = self.settings
        return Client(
            user_agent(version("paperboy"), loaded.site_url, loaded.contact),
            wait_turn=self._wait_turn,
            validators=StoredValidators(self.engine),
        )

    def _wait_turn(self, limit: str) -> None:
        """Sleep until it is our turn; the turns are rows, so all workers take them together."""
        with self.engine.begin() as conn:
            wait = limits.take_turn(conn, limit, gap=GAPS.get(limit, timedelta(seconds=1)))
        time.sleep(wait.total_seconds())

    # --- Meaning --------------------------------------------------------------------------------

    @cached_property
    def meanings(self) -> KeptEmbeddings | None:
        """None where words decide alone. Raises SettingsError where the model cannot be read."""
        places = self.settings.semantic_model
        return KeptEmbeddings(self.engine, Model(places)) if places else None

    @property
    def known_meanings(self) -> KeptEmbeddings | None:
        """The same for who cannot wait: what is not known yet stays unknown."""
        return replace(self.meanings, makes=False) if self.meanings else None

    # --- Editions -------------------------------------------------------------------------------

    def publish(self, now: datetime, *, everyone: bool = False) -> Iterator[Outcome]:
        return editions.publish(
            self.engine,
            now=now,
            expiry=timedelta(hours=self.settings.digest_expiry_hours),
            template=self.renderer.template_version,
            everyone=everyone,
            longest_spread=timedelta(minutes=self.settings.digest_spread_minutes),
            quiet_days=self.settings.quiet_note_days,
            embedder=self.meanings,
        )

    def preview(self, email: str, now: datetime) -> Preview:
        """The digest this subscriber would get next; nothing moves. Raises NotFoundError."""
        digest, delivery = self._next_digest(email, now)
        subject, html, text = self.renderer.page(digest, self.mail_links(delivery, now))
        eml = self.compose(delivery, digest, now=now)
        return Preview(subject, html, text, eml.replace(b"\r\n..", b"\r\n."))

    def send_preview(self, email: str, address: str, now: datetime) -> None:
        """Send what `preview` shows to `address`. Raises TransportError with the server's words.

        It is no delivery: nothing is recorded, and it is not tried again.
        """
        self.settings.check_real_mail()
        digest, delivery = self._next_digest(email, now)
        body = self.compose(replace(delivery, email=address), digest, now=now)
        connection = self.transport.open()
        try:
            outcome = connection.begin(self.sender.address, address, body) or connection.finish()
        finally:
            connection.close()
        if outcome.verdict is not Verdict.ACCEPTED:
            raise TransportError(f"the preview was not taken: {outcome.reply or outcome.verdict}")

    def _next_digest(self, email: str, now: datetime) -> tuple[Digest, Delivery]:
        """A subscriber's next digest, and the delivery it would be: one without a row."""
        digest = editions.preview(self.engine, email, now=now, embedder=self.meanings)
        with reading(self.engine) as conn:
            subscriber = subscribers.by_email(conn, email)
        if subscriber is None:
            raise NotFoundError("no subscriber has this address")
        return digest, Delivery(
            id=0,
            dedupe_key=f"preview:{now.isoformat()}:{subscriber.id}",
            kind=DeliveryKind.DIGEST,
            subscriber_id=subscriber.id,
            email=subscriber.email,
            attempts=0,
            edition_on=digest.edition_on,
            expires_at=now,
            created_at=now,
            secret=subscriber.secret,
        )

    def purge(self, now: datetime) -> Purged:
        """Forget what nobody needs any more."""
        return purging.purge(self.engine, now, self.retention)

    @property
    def retention(self) -> Retention:
        loaded = self.settings
        return Retention(
            pending=timedelta(days=loaded.pending_days),
            ip=timedelta(days=loaded.ip_days),
            digest=timedelta(days=loaded.digest_days),
            delivery=timedelta(days=loaded.delivery_days),
            event=timedelta(days=loaded.event_days),
        )

    # --- Mail -----------------------------------------------------------------------------------

    @cached_property
    def renderer(self) -> Renderer:
        loaded = self.settings
        return Renderer(
            House(
                site_url=loaded.site_url,
                list_name=loaded.list_name,
                operator_name=loaded.operator_name,
                operator_address=loaded.operator_address,
                accent_color=loaded.accent_color,
                logo_url=loaded.logo_url,
                note=loaded.note,
            ),
            EMAILS,
            find,
        )

    @cached_property
    def links(self) -> SignedLinks:
        return SignedLinks(self.settings.site_url, self.keys.secret, view=self.retention.digest)

    @cached_property
    def sender(self) -> Sender:
        loaded = self.settings
        return Sender(
            mail_from=loaded.mail_from,
            list_name=loaded.list_name,
            site_url=loaded.site_url,
            # The one key that is never rotated: a delivery keeps its Message-ID for good.
            key=self.suppression_key,
            contact=parseaddr(loaded.contact)[1] if loaded.contact else None,
            reply_to=loaded.reply_to,
            bounce_address=loaded.bounce_address,
            unsubscribe_mailbox=loaded.unsubscribe_mailbox,
        )

    @cached_property
    def signer(self) -> Signer | None:
        """Who signs every mail; None without keys. Raises SettingsError for one that is no good."""
        given = self.settings.dkim_keys
        if given is None:
            return None
        signer = Signer(read_keys(given.get_secret_value()), self.signing_domain)
        for key in filter(lambda key: key.is_short, signer.signing):
            log.warning("DKIM key is short", selector=key.selector, bits=key.bits)
        return signer

    @property
    def signing_domain(self) -> str:
        """The domain that answers for our mail. Raises SettingsError for a stranger's."""
        host = self.sender.host
        domain = self.settings.dkim_domain or host
        if not aligned(domain, host):
            raise SettingsError(f"DKIM_DOMAIN: {domain} says nothing about mail from {host}")
        return domain

    @property
    def signup_limits(self) -> Limits:
        loaded = self.settings
        return Limits(loaded.signups_per_hour, loaded.signups_per_day, loaded.site_signups_per_hour)

    @property
    def suppression_key(self) -> str:
        return self.keys.suppression

    def message_id(self, dedupe_key: str) -> str:
        return self.sender.message_id(dedupe_key)

    def mail_links(self, delivery: Delivery, now: datetime) -> MailLinks:
        site = self.settings.site_url
        return MailLinks(
            subscribe=f"{site}/subscribe",
            privacy=f"{site}/privacy",
            archive=f"{site}/papers",
            unsubscribe=self.links.unsubscribe(delivery.secret),
            preferences=self.links.preferences(delivery.subscriber_id, now),
            view=self.links.digest(delivery.id, now),
        )

    def load(self, conn: Connection, claimed: Sequence[Delivery]) -> Mapping[int, Told]:
        """What digests tell, as it was frozen, and notes, as it is now; by delivery."""
        told: dict[int, Told] = {**digests.load(conn, [delivery.id for delivery in claimed])}
        quiet = [one.id for one in claimed if one.kind is DeliveryKind.QUIET_NOTE]
        if quiet:
            told |= editions.load_notes(conn, quiet, self.settings.quiet_note_days)
        return told

    def compose(
        self, delivery: Delivery, told: Told | None, *, now: datetime | None = None
    ) -> bytes:
        """The bytes of one delivery, ready for DATA. Raises RenderError or AddressError."""
        now = now or datetime.now(UTC)
        mail = self._unsigned(delivery, told, now)
        return self.signer.sign(mail, now) if self.signer else mail

    def _unsigned(self, delivery: Delivery, told: Told | None, now: datetime) -> bytes:
        if delivery.kind is DeliveryKind.QUIET_NOTE or delivery.kind in DIGESTS:
            return self._edition_mail(delivery, told, now)
        return compose_confirmation(
            self.sender,
            self._letter(delivery, now),
            to=delivery.email,
            dedupe_key=delivery.dedupe_key,
            now=now,
            kind=delivery.kind,
        )

    def _edition_mail(self, delivery: Delivery, told: Told | None, now: datetime) -> bytes:
        """What a slot brings its reader: list mail, which can be left by one click."""
        mail_links = self.mail_links(delivery, now)
        match told:
            case Digest():
                content = self.renderer.digest(told, mail_links)
            case QuietNote():
                content = self.renderer.quiet_note(told, mail_links)
            case None:
                raise RenderError("the papers of this digest are no longer kept")
        return compose_digest(
            self.sender,
            content,
            to=delivery.email,
            dedupe_key=delivery.dedupe_key,
            unsubscribe_url=mail_links.unsubscribe,
            secret=delivery.secret,
            edition_on=told.edition_on,
            now=now,
            kind=DeliveryKind.QUIET_NOTE if isinstance(told, QuietNote) else "digest",
        )

    def _letter(self, delivery: Delivery, now: datetime) -> Rendered:
        """What a mail says that is no digest."""
        links, renderer = self.links, self.renderer
        match delivery.kind:
            case DeliveryKind.CONFIRMATION:
                # The link ends with the request, however late its mail goes out.
                url = links.confirm(_request_of(delivery), delivery.created_at)
                return renderer.confirmation(url, hours=_hours_left(delivery, now))
            case DeliveryKind.NEW_ADDRESS:
                url = links.new_address(_request_of(delivery), delivery.created_at)
                return renderer.new_address(url, hours=_hours_left(delivery, now))
            case DeliveryKind.DATA_LINK:
                return renderer.data_link(links.data(delivery.subscriber_id, now))
        preferences = links.preferences(delivery.subscriber_id, now)
        unsubscribe = links.unsubscribe(delivery.secret)
        if delivery.kind is DeliveryKind.LINK:
            return renderer.link(preferences, unsubscribe)
        return renderer.already_in(preferences, unsubscribe)

    # --- Feedback -------------------------------------------------------------------------------

    @cached_property
    def feedback(self) -> Feedback:
        return Feedback(self.engine, self.sender, self.suppression_key)

    @cached_property
    def providers(self) -> dict[str, Provider]:
        """Who may tell of deliveries at /hooks/<name>: those the operator has set up."""
        loaded = self.settings
        providers: dict[str, Provider] = {}
        if loaded.ses_topics:
            providers["ses"] = SES(SNS(loaded.ses_topics, fetch))
        if loaded.hook_secret:
            providers["generic"] = Generic(loaded.hook_secret)
        return providers

    def receive_news(
        self, name: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> int:
        """Take what a provider posted; how many events there were.

        Raises NotFoundError for a provider that is not set up, and what `Provider.receive` does.
        """
        if name not in self.providers:
            raise NotFoundError("no such provider is set up")
        events = self.providers[name].receive(headers, body, now)
        for event in events:
            self.feedback.take(name, event, now)
        return len(events)

    def read_bounces(
        self, mails: Iterable[tuple[str, bytes]], read: Callable[[bytes], Notice], now: datetime
    ) -> Iterator[ReadMail]:
        """Apply mails that came back, given by name and octets, one by one as they are asked for.

        `read` tells what a mail says. A mail that was applied before is not applied again. One
        that cannot be applied is FAILED, and the others go on; a database that is away raises.
        """
        for name, octets in mails:
            notice = read(octets)
            try:
                effect = self.feedback.take_mail(octets, notice, now)
            except (OperationalError, InterfaceError, InternalError, PoolTimeoutError):
                raise
            except Exception:
                log.exception("bounce.not_applied", mail=name[:200], kind=notice.kind)
                effect = Effect.FAILED
            yield ReadMail(name, notice, effect)

    def read_mailbox(
        self, where: str, read: Callable[[bytes], Notice], now: datetime
    ) -> list[ReadMail]:
        """Apply what is new in a mailbox, an imap(s) address or a Maildir, and put it away there.

        Raises MailboxError; what was applied until then is, and is not again the next time.
        """
        taken: list[ReadMail] = []

        def take(name: str, octets: bytes) -> bool:
            taken.extend(self.read_bounces([(name, octets)], read, now))
            return taken[-1].is_understood

        if is_imap(where):
            read_imap(where, take)
        else:
            read_maildir(Path(where), take)
        return taken

    def read_own_mailbox(self, now: datetime) -> None:
        """Apply what is new in the mailbox of the settings, if there is one. MailboxError."""
        if self.settings.bounce_mailbox:
            self.read_mailbox(self.settings.mailbox_url(), read_mail, now)

    # --- Dispatch -------------------------------------------------------------------------------

    @cached_property
    def transport(self) -> SMTPTransport:
        bounds = Bounds(messages=self.settings.smtp_messages_per_connection)
        return transport_of(self.settings, bounds)

    def dispatch(
        self,
        *,
        once: bool = False,
        until: datetime | None = None,
        stop: Callable[[], bool] = lambda: False,
        clock: datetime | None = None,
    ) -> Tally:
        """Drain the outbox; `clock` replaces the database's. Raises DispatchStoppedError."""
        self.settings.check_real_mail()
        restore.hold_if_restored(self.engine, clock or datetime.now(UTC))
        return self.dispatcher(clock).drain(once=once, until=until, stop=stop)

    def dispatcher(self, clock: datetime | None = None) -> Dispatcher:
        _spare_what_stays()
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
    def _counted_rates(self) -> list[Rate]:
        """Those that are rows. A second is too short for one, and smoothed instead."""
        return [
            Rate(f"smtp:{rate.unit}", rate.most, rate.window)
            for rate in self.settings.rates
            if rate.unit != "second"
        ]

    @cached_property
    def _bucket(self) -> Bucket | None:
        rates = [rate for rate in self.settings.rates if rate.unit == "second"]
        if not rates:
            return None
        loaded = self.settings
        return SharedBucket(loaded.redis_url, "smtp", rates[0].most, loaded.smtp_senders)


def _request_of(delivery: Delivery) -> int:
    if delivery.request_id is None:
        raise RenderError("nobody knows what this mail was to confirm")
    return delivery.request_id


def _hours_left(delivery: Delivery, now: datetime) -> int:
    """Until its link ends, as a mail says it."""
    return max(1, round((delivery.expires_at - now) / timedelta(hours=1)))


@dataclass(frozen=True)
class KeptEmbeddings:
    """What a model makes of papers, made once and kept; see `matching.meaning.Embedder`.

    May run twice and beside itself: both make the same. No transaction is open while it works.
    """

    engine: Engine
    model: Model
    makes: bool = True

    def papers(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        by_key = {embeddings.key(text): text for text in texts}
        with reading(self.engine) as conn:
            known = embeddings.get(conn, self.model.name, by_key)
        missing = [key for key in by_key if key not in known] if self.makes else []
        for chunk in in_chunks(missing, EMBEDDED_AT_ONCE):
            made = self.model.embed([by_key[key] for key in chunk]).astype("<f2")
            new = {key: vector.tobytes() for key, vector in zip(chunk, made, strict=True)}
            with_retries(partial(self._keep, new))
            known |= new
        unknown = np.full(self.model.size, np.nan, dtype="<f2").tobytes()
        rows = [known.get(embeddings.key(text), unknown) for text in texts]
        rows = [row if len(row) == len(unknown) else unknown for row in rows]  # a broken one
        vectors = np.frombuffer(b"".join(rows), dtype="<f2").reshape(len(rows), -1)
        return vectors.astype(np.float32)

    def topic(self, text: str) -> npt.NDArray[np.float32]:
        return self._topic(text)

    @cached_property
    def _topic(self) -> Callable[[str], npt.NDArray[np.float32]]:
        """Topics are few and short, and those of visitors are nobody's business: not stored."""
        return lru_cache(maxsize=TOPICS_KEPT)(lambda text: self.model.embed([text])[0])

    def _keep(self, vectors: Mapping[str, bytes]) -> None:
        with self.engine.begin() as conn:
            embeddings.add(conn, self.model.name, vectors)


@dataclass(frozen=True, slots=True)
class StoredValidators:
    """The memory of the polite client. What it learns is stored by ingest, with the papers."""

    engine: Engine

    def get(self, url: str) -> Validator | None:
        with reading(self.engine) as conn:
            known = http_validators.get(conn, url)
        return Validator(*known) if known else None


@cache
def _spare_what_stays() -> None:
    """Take what was imported and built so far out of the garbage collector's rounds.

    Loading digests makes so many objects that it walks through all of them every few claims, which
    takes more CPU than the loading itself. Once a process, since what is frozen is never freed.
    """
    gc.collect()
    gc.freeze()


def build(loaded: Settings, *, check: bool = True, pool_timeout: float = POOL_TIMEOUT) -> Services:
    """The services of this process.

    `pool_timeout` is how many seconds a thread waits for a free connection to the database.
    Raises SchemaError unless the database fits this code, and SettingsError for keys that cannot
    be used: better now than when the first mail is due.
    """
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


def warn_of_settings() -> None:
    """Log what is doubtful about the settings, once at the start of a service."""
    for suspicion in settings.suspicions():
        log.warning("doubtful setting", detail=suspicion.text)


def tell_keys(built: Services) -> None:
    """Log where the keys come from, once at the start of a service. Never the keys."""
    loaded = built.settings
    log.info(
        "keys in use",
        secret_key="settings" if loaded.secret_key else "made once, in the database",
        suppression_key="settings" if loaded.suppression_key else "made once, in the database",
        suppression_fingerprint=keys.fingerprint(built.suppression_key),
    )


@cache
def services() -> Services:
    """The services of a command of one process, from the environment."""
    return build(settings.load())
