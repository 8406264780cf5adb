"""Preview a subscriber's next digest, and mail a preview. Neither changes a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Engine

from pipeline import editions
from pipeline.dispatch.compose import Composer
from pipeline.domain import Delivery, DeliveryKind, Digest, Verdict
from pipeline.errors import NotFoundError, TransportError
from pipeline.matching.semantic import Embedder
from pipeline.smtp import Transport
from pipeline.storage import subscribers
from pipeline.storage.database import read_only


@dataclass(frozen=True, slots=True)
class Preview:
    """A digest in the form its reader would get."""

    subject: str
    html: str
    text: str
    eml: bytes  # wire bytes, without SMTP's doubled dots


@dataclass(frozen=True, slots=True)
class Previewer:
    engine: Engine
    composer: Composer
    embedder: Embedder | None

    def preview(self, email: str, now: datetime) -> Preview:
        """Return the subscriber's next digest. Raises NotFoundError if the address is unknown."""
        digest, delivery = self._next_digest(email, now)
        links = self.composer.mail_links(delivery, now)
        subject, html, text = self.composer.renderer.page(digest, links)
        eml = self.composer.compose(delivery, digest, now=now)
        return Preview(subject, html, text, eml.replace(b"\r\n..", b"\r\n."))

    def send(self, transport: Transport, email: str, address: str, now: datetime) -> None:
        """Mail the preview of a subscriber's digest to `address`: no delivery row, no retry.

        Raises NotFoundError if no subscriber has `email`, and TransportError with the server's
        reply if the mail is rejected.
        """
        digest, delivery = self._next_digest(email, now)
        body = self.composer.compose(replace(delivery, email=address), digest, now=now)
        send_once(transport, self.composer.sender.address, address, body)

    def _next_digest(self, email: str, now: datetime) -> tuple[Digest, Delivery]:
        """Return the next digest and an unsaved delivery for it."""
        digest = editions.preview(self.engine, email, now=now, embedder=self.embedder)
        with read_only(self.engine) as conn:
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


def send_once(transport: Transport, mail_from: str, address: str, body: bytes) -> None:
    """Send one mail without a retry. Raises TransportError with the reply if it is rejected."""
    connection = transport.open()
    try:
        decision = connection.begin(mail_from, address, body) or connection.finish()
    finally:
        connection.close()
    if decision.verdict is not Verdict.ACCEPTED:
        raise TransportError(f"the mail was not taken: {decision.reply or decision.verdict}")
