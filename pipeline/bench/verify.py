"""Check before timing: received mails have the same content as plain rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from typing import Any

from pipeline import mailbox
from pipeline.bootstrap import Services
from pipeline.domain import Delivery, Digest, ListContent
from pipeline.errors import PaperboyError
from pipeline.smtp import SMTPTransport


@dataclass
class Letterbox:
    """SMTP handler (aiosmtpd) that stores messages by recipient, dot-unstuffed."""

    received: dict[str, bytes] = field(default_factory=dict)

    handle_EHLO = staticmethod(mailbox.greet)  # noqa: N815

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.received[envelope.rcpt_tos[0]] = envelope.content
        return "250 2.0.0 Ok"


def check(services: Services, now: datetime) -> list[bytes]:
    """Send all due digests to a local server; return the messages as received.

    Raise PaperboyError unless each has the content that `Renderer.page` returns for its digest.
    """
    box, composed = Letterbox(), dict[str, tuple[Delivery, Digest]]()
    dispatcher = services.dispatcher(now)
    compose = dispatcher.compose

    def remembering(delivery: Delivery, digest: ListContent | None) -> bytes:
        if isinstance(digest, Digest):
            composed[delivery.email] = (delivery, digest)
        return compose(delivery, digest)

    with mailbox.listen(box, "127.0.0.1", 0) as port:
        transport = at_port(services.transport, port)
        replace(dispatcher, transport=transport, compose=remembering).drain(once=True)
    _compare(services, composed, box.received, now)
    return list(box.received.values())


def at_port(transport: SMTPTransport, port: int) -> SMTPTransport:
    return replace(transport, server=replace(transport.server, port=port))


def _compare(
    services: Services,
    composed: Mapping[str, tuple[Delivery, Digest]],
    received: Mapping[str, bytes],
    now: datetime,
) -> None:
    if not composed or composed.keys() != received.keys():
        raise PaperboyError(f"{len(received)} of {len(composed)} digests of the sample arrived")
    for email, (delivery, digest) in composed.items():
        plain = services.renderer.page(digest, services.mail_links(delivery, now))
        if spoken(received[email]) != [_lines(part) for part in plain]:
            raise PaperboyError(f"the digest for {email} does not say what the plain way says")


def spoken(raw: bytes) -> Sequence[str]:
    """Return subject, HTML and text of a message as a mail app decodes them."""
    message = BytesParser(policy=SMTP).parsebytes(raw)
    assert isinstance(message, EmailMessage)  # noqa: S101  (what this policy makes)
    return [message["Subject"], _content(message, "html"), _content(message, "plain")]


def _content(message: EmailMessage, subtype: str) -> str:
    part = message.get_body(preferencelist=(subtype,))
    return "" if part is None else _lines(part.get_content())


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")
