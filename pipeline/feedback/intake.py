"""Apply bounces and provider events as they arrive: from mailboxes, files and webhooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pipeline.domain import Notice, NoticeKind
from pipeline.errors import NotFoundError
from pipeline.feedback.imap import is_imap, read_imap
from pipeline.feedback.mailboxes import read_maildir
from pipeline.feedback.process import Effect, Feedback
from pipeline.feedback.webhooks import Provider

log = structlog.get_logger(__name__)

Parser = Callable[[bytes], Notice]


@dataclass(frozen=True, slots=True)
class ReadMail:
    """A mail from a mailbox, with the parsed notice and its effect."""

    name: str
    notice: Notice
    effect: Effect

    @property
    def is_understood(self) -> bool:
        """Whether the mailbox may file it; any other mail is flagged for an operator."""
        return self.notice.kind is not NoticeKind.NONE and self.effect is not Effect.FAILED


def process_mails(
    feedback: Feedback, mails: Iterable[tuple[str, bytes]], parse: Parser, now: datetime
) -> Iterator[ReadMail]:
    """Apply mails, given as name and octets, one by one as the iterator is consumed.

    Idempotent: a mail that was applied before is not applied again. If a mail cannot be applied,
    the error is logged, its effect is FAILED, and the next one follows; if the database is
    unavailable, its exception is raised.
    """
    for name, octets in mails:
        notice = parse(octets)
        try:
            effect = feedback.take_mail(octets, notice, now)
        except (OperationalError, InterfaceError, InternalError, PoolTimeoutError):
            raise
        except Exception:
            log.exception("bounce.not_applied", mail=name[:200], kind=notice.kind)
            effect = Effect.FAILED
        yield ReadMail(name, notice, effect)


def process_mailbox(feedback: Feedback, where: str, parse: Parser, now: datetime) -> list[ReadMail]:
    """Apply the new mails of an imap(s) URL or a Maildir folder, and file them there.

    Raises MailboxError if the mailbox cannot be read; mails that were applied until then are
    committed, and not applied again at the next run.
    """
    applied: list[ReadMail] = []

    def take(name: str, octets: bytes) -> bool:
        applied.extend(process_mails(feedback, [(name, octets)], parse, now))
        return applied[-1].is_understood

    if is_imap(where):
        read_imap(where, take)
    else:
        read_maildir(Path(where), take)
    return applied


def process_webhook(
    feedback: Feedback,
    providers: Mapping[str, Provider],
    name: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> int:
    """Verify and apply the events of one request; return their number.

    Raises NotFoundError if the provider is not configured, and the errors of `Provider.receive`.
    """
    if name not in providers:
        raise NotFoundError("no such provider is set up")
    events = providers[name].receive(headers, body, now)
    for event in events:
        feedback.take(name, event, now)
    return len(events)
