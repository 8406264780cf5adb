"""Compose the bytes of one delivery, ready for DATA."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.dkim import Signer
from pipeline.domain import (
    MAIL_KINDS,
    Delivery,
    Digest,
    MailContent,
    MailKind,
    NoMatchNotice,
    OperatorReport,
    PauseNotice,
    SavedWeek,
)
from pipeline.errors import RenderError
from pipeline.links import SignedLinks
from pipeline.message import Sender, compose_list_mail, compose_transactional
from pipeline.rendering import MailLinks, Rendered, Renderer


@dataclass(frozen=True, slots=True)
class Composer:
    site_url: str
    sender: Sender
    renderer: Renderer
    links: SignedLinks
    signer: Signer | None  # None: mail is not signed with DKIM

    def compose(
        self, delivery: Delivery, content: MailContent | None, *, now: datetime | None = None
    ) -> bytes:
        """Return the signed mail of a delivery, its dots doubled (RFC 5321, section 4.5.2).

        `content` is None for transactional mail, except that to the operator. Raise RenderError if
        a digest has no content or a template fails, AddressError if no envelope can carry the
        address.
        """
        now = now or datetime.now(UTC)
        mail = self._unsigned(delivery, content, now)
        return self.signer.sign(mail, now) if self.signer else mail

    def mail_links(self, delivery: Delivery, now: datetime) -> MailLinks:
        view = self.links.digest(delivery.id, now)
        preferences = self.links.preferences(delivery.subscriber_id, now)
        return MailLinks(
            subscribe=f"{self.site_url}/subscribe",
            privacy=f"{self.site_url}/privacy",
            more=f"{view}/more",
            unsubscribe=self.links.unsubscribe(delivery.secret),
            preferences=preferences,
            view=view,
            papers=f"{preferences}/papers",
        )

    def _unsigned(self, delivery: Delivery, content: MailContent | None, now: datetime) -> bytes:
        mail = MAIL_KINDS[delivery.kind]
        if mail.is_list:
            return self._list_mail(delivery, mail, content, now)
        return compose_transactional(
            self.sender,
            self._transactional(delivery, mail, content, now),
            to=delivery.email,
            dedupe_key=delivery.dedupe_key,
            now=now,
            feedback_name=mail.feedback_name,
        )

    def _list_mail(
        self, delivery: Delivery, mail: MailKind, content: MailContent | None, now: datetime
    ) -> bytes:
        """Compose a digest or a notice, with the headers of one-click unsubscribing."""
        mail_links = self.mail_links(delivery, now)
        match content:
            case Digest():
                rendered = self.renderer.digest(content, mail_links)
            case NoMatchNotice():
                rendered = self.renderer.quiet_note(content, mail_links)
            case PauseNotice():
                rendered = self.renderer.pause_note(mail_links)
            case SavedWeek():
                rendered = self.renderer.saved_papers(content, mail_links)
            case OperatorReport() | None:
                raise RenderError("the papers of this digest are no longer kept")
        return compose_list_mail(
            self.sender,
            rendered,
            to=delivery.email,
            dedupe_key=delivery.dedupe_key,
            unsubscribe_url=mail_links.unsubscribe,
            secret=delivery.secret,
            edition_on=content.edition_on,
            now=now,
            feedback_name=mail.feedback_name,
        )

    def _transactional(
        self, delivery: Delivery, mail: MailKind, content: MailContent | None, now: datetime
    ) -> Rendered:
        unsubscribe = self.links.unsubscribe(delivery.secret)
        url, lasts = None, timedelta(0)
        if mail.link and mail.link.confirms_request:
            # The link expires with the request, however late its mail is sent.
            url = self.links.signed(mail.link, _request_of(delivery), delivery.created_at)
            lasts = delivery.expires_at - now
        elif mail.link:
            url = self.links.signed(mail.link, delivery.subscriber_id, now)
            lasts = self.links.lifetime(mail.link)
        paper = delivery.about_paper
        if url and paper is not None:
            url = f"{url}/papers/id:{paper}"
        return self.renderer.transactional(
            delivery.kind,
            unsubscribe,
            url=url,
            lasts=lasts,
            is_for_paper=paper is not None,
            report=content if isinstance(content, OperatorReport) else None,
        )


def _request_of(delivery: Delivery) -> int:
    if delivery.request_id is None:
        raise RenderError("the request that this mail confirms is unknown")
    return delivery.request_id
