"""Compose the bytes of one delivery, ready for DATA."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.dkim import Signer
from pipeline.domain import Delivery, DeliveryKind, Digest, QuietNote, Told
from pipeline.errors import RenderError
from pipeline.links import SignedLinks
from pipeline.message import Sender, compose_confirmation, compose_digest
from pipeline.rendering import MailLinks, Rendered, Renderer
from pipeline.storage.digests import DIGESTS


@dataclass(frozen=True, slots=True)
class Composer:
    site_url: str
    sender: Sender
    renderer: Renderer
    links: SignedLinks
    signer: Signer | None  # None: mail is not signed with DKIM

    def compose(
        self, delivery: Delivery, content: Told | None, *, now: datetime | None = None
    ) -> bytes:
        """Return the signed mail of a delivery, its dots doubled (RFC 5321, section 4.5.2).

        `content` is None for transactional mail. Raise RenderError if a digest has no content or a
        template fails, AddressError if no envelope can carry the address.
        """
        now = now or datetime.now(UTC)
        mail = self._unsigned(delivery, content, now)
        return self.signer.sign(mail, now) if self.signer else mail

    def mail_links(self, delivery: Delivery, now: datetime) -> MailLinks:
        return MailLinks(
            subscribe=f"{self.site_url}/subscribe",
            privacy=f"{self.site_url}/privacy",
            archive=f"{self.site_url}/papers",
            unsubscribe=self.links.unsubscribe(delivery.secret),
            preferences=self.links.preferences(delivery.subscriber_id, now),
            view=self.links.digest(delivery.id, now),
        )

    def _unsigned(self, delivery: Delivery, content: Told | None, now: datetime) -> bytes:
        if delivery.kind is DeliveryKind.QUIET_NOTE or delivery.kind in DIGESTS:
            return self._list_mail(delivery, content, now)
        return compose_confirmation(
            self.sender,
            self._transactional(delivery, now),
            to=delivery.email,
            dedupe_key=delivery.dedupe_key,
            now=now,
            kind=delivery.kind,
        )

    def _list_mail(self, delivery: Delivery, content: Told | None, now: datetime) -> bytes:
        """Compose a digest or a no-match notice, with the headers of one-click unsubscribing."""
        mail_links = self.mail_links(delivery, now)
        match content:
            case Digest():
                rendered = self.renderer.digest(content, mail_links)
            case QuietNote():
                rendered = self.renderer.quiet_note(content, mail_links)
            case None:
                raise RenderError("the papers of this digest are no longer kept")
        return compose_digest(
            self.sender,
            rendered,
            to=delivery.email,
            dedupe_key=delivery.dedupe_key,
            unsubscribe_url=mail_links.unsubscribe,
            secret=delivery.secret,
            edition_on=content.edition_on,
            now=now,
            kind=DeliveryKind.QUIET_NOTE if isinstance(content, QuietNote) else "digest",
        )

    def _transactional(self, delivery: Delivery, now: datetime) -> Rendered:
        links, renderer = self.links, self.renderer
        match delivery.kind:
            case DeliveryKind.CONFIRMATION:
                # The link expires with the request, however late its mail is sent.
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


def _request_of(delivery: Delivery) -> int:
    if delivery.request_id is None:
        raise RenderError("the request that this mail confirms is unknown")
    return delivery.request_id


def _hours_left(delivery: Delivery, now: datetime) -> int:
    """Return the whole hours until the link expires, at least 1."""
    return max(1, round((delivery.expires_at - now) / timedelta(hours=1)))
