"""Compose a sample of each kind of mail, and check it as a mailbox does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from typing import Final
from urllib.parse import urlsplit

from pipeline import dkim
from pipeline.doctor.finding import Check, Finding, Installation, bad, good, unknown
from pipeline.domain import (
    MAIL_KINDS,
    Breadth,
    Delivery,
    DeliveryKind,
    Digest,
    Links,
    ListContent,
    MailContent,
    NoMatchNotice,
    OperatorReport,
    Paper,
    PauseNotice,
    Pick,
    Reason,
    SavedPaper,
    SavedWeek,
    Suggestion,
)
from pipeline.errors import PaperboyError, RenderError

OURS: Final = "this is a bug in Paperboy, or in a template changed in emails/"
PAPER_HOST: Final = "arxiv.org"


def templates(installation: Installation) -> Iterator[Finding]:
    try:
        version = installation.services.renderer.template_version
        yield good("templates", f"all templates are valid (version {version})")
    except RenderError as error:
        yield bad("templates", str(error), "correct it, or restore the original template")


def samples(installation: Installation) -> Iterator[Finding]:
    """Yield one finding for each kind of mail."""
    for kind in DeliveryKind:
        check = f"sample {kind}"
        try:
            mail = sample(installation, kind)
        except PaperboyError as error:
            yield bad(check, f"cannot be composed: {error}", OURS)
            continue
        wrong = list(problems(mail, _expected(installation, kind)))
        if wrong:
            yield bad(check, "; ".join(wrong), OURS)
        else:
            yield good(check, f"{len(mail):,} octets, no problems")


def sample_links(installation: Installation) -> Iterator[Finding]:
    """Check that links lead to the site and to papers only: filters judge a mail by its links."""
    found = links(sample(installation, DeliveryKind.DIGEST))
    strangers = found - {installation.settings.site_host, PAPER_HOST}
    if strangers:
        yield bad("sample links", f"links lead to {', '.join(sorted(strangers))}", OURS)
    else:
        yield good("sample links", "links lead only to the site and to papers")


def sample_signatures(installation: Installation) -> Iterator[Finding]:
    signer = installation.services.signer
    if signer is None:
        yield unknown("sample signatures", "no key is set")
        return
    records = [key.record(signer.domain) for key in signer.signing]
    published = {record.name: record.value for record in records}
    checked = dkim.check(sample(installation, DeliveryKind.DIGEST), published.get)
    broken = [f"{found.name}: {found.problem}" for found in checked if found.problem]
    if broken or len(checked) != len(records):
        yield bad("sample signatures", "; ".join(broken) or "the mail is not signed", OURS)
    else:
        yield good("sample signatures", f"{len(checked)} valid")


def sample(installation: Installation, kind: DeliveryKind) -> bytes:
    """Return a sample mail as it is received. Raise PaperboyError if it cannot be composed."""
    return wire_sample(installation, kind, "reader@example.org").replace(b"\r\n.", b"\r\n")


def wire_sample(installation: Installation, kind: DeliveryKind, email: str) -> bytes:
    """Return a sample mail to `email` as it is sent. Raise PaperboyError as `sample` does."""
    now = installation.now
    is_list = MAIL_KINDS[kind].is_list
    delivery = Delivery(
        id=0,
        dedupe_key=f"doctor:{kind}",
        kind=kind,
        subscriber_id=0,
        email=email,
        attempts=0,
        edition_on=now.date() if is_list else None,
        expires_at=now + timedelta(hours=18),
        created_at=now,
        secret="x" * 22,
        request_id=0,
    )
    content: MailContent | None = _list_content(installation, kind) if is_list else None
    if MAIL_KINDS[kind].to_operator:
        content = OperatorReport(((("a finding of the doctor, " * 5).strip(), "an advice"),) * 20)
    return installation.services.compose(delivery, content, now=now)


def _list_content(installation: Installation, kind: DeliveryKind) -> ListContent:
    today = installation.now.date()
    if kind is DeliveryKind.PAUSE_NOTE:
        return PauseNotice(today)
    if kind is DeliveryKind.SAVED:
        papers = [_paper(number, installation) for number in range(1, 31)]
        saved = (SavedPaper(p.key, p.title, p.authors, "A note on it", True) for p in papers)
        return SavedWeek(today, tuple(saved), 7)
    if kind is not DeliveryKind.QUIET_NOTE:
        return _digest(installation, welcome=kind is DeliveryKind.WELCOME)
    wider = (Suggestion("dense retrieval", "retrieval", 3.0),)
    return NoMatchNotice(
        today, today, 7, ("dense retrieval",), Breadth.BALANCED, 2, wider, follows_trending=False
    )


def _digest(installation: Installation, *, welcome: bool) -> Digest:
    """Return a digest with the default number of papers, each of typical maximum length."""
    today = installation.now.date()
    picks = tuple(
        Pick(_paper(number, installation), (Reason("retrieval", ("dense retrieval",)),), 1.0)
        for number in range(1, installation.settings.max_papers + 1)
    )
    return Digest(
        today, picks, more=7, topics=("retrieval",), announced=(today, today), welcome=welcome
    )


def _paper(number: int, installation: Installation) -> Paper:
    where = f"https://{PAPER_HOST}"
    key = f"3001.{number:05}"
    return Paper(
        id=-number,  # never the id of a stored paper
        key=key,
        version=1,
        title=f"Dense Retrieval with a Title That Takes Two Lines in Most Mail Apps, {number}",
        abstract="An abstract that says, at some length, what was done and what came of it. " * 20,
        authors=("Ada Lovelace", "Charles Babbage", "Mary Somerville"),
        author_count=12,
        categories=("cs.IR", "cs.CL"),
        keywords=(),
        sources=("arxiv", "huggingface"),
        announced_on=installation.now.date(),
        upvotes=120,
        comments=7,
        stars=1_200,
        links=Links(*(f"{where}/{page}/{key}" for page in ("abs", "pdf", "code", "p", "d"))),
        batch=0,
    )


def _expected(installation: Installation, kind: DeliveryKind) -> Expected:
    return Expected(
        is_list=MAIL_KINDS[kind].is_list,
        is_https=urlsplit(installation.settings.site_url).scheme == "https",
        operator_address=installation.settings.operator_address,
    )


# --- Problems in the bytes of a mail ------------------------------------------------------------

LARGEST: Final = 90_000  # octets: Gmail clips mails longer than 102 KB, including its additions
LONGEST_LINE: Final = 998  # RFC 5322, section 2.1.1
LONGEST_SUBJECT: Final = 150  # characters; every mailbox truncates longer ones
ONCE: Final = ("From", "To", "Subject", "Date", "Message-ID", "MIME-Version")  # RFC 5322, 3.6

_LINK = re.compile(r'\bhref="([^"]+)"')
_ADDRESS = re.compile(rb"<(?:https?|mailto):[^>]*>")
_LEFTOVERS = ("<mj-", "{{", "{%")


@dataclass(frozen=True, slots=True)
class Expected:
    """Properties that a mail must have."""

    is_list: bool  # a digest: has one-click unsubscribing
    is_https: bool
    operator_address: str = ""


def problems(mail: bytes, expected: Expected) -> Iterator[str]:
    """Yield each problem of a received mail (dot-unstuffed); nothing if there is none."""
    head, _, body = mail.partition(b"\r\n\r\n")
    message = message_from_bytes(mail, policy=SMTP)
    assert isinstance(message, EmailMessage)  # noqa: S101  (the policy makes them)
    yield from _of_bytes(mail)
    yield from _of_headers(head, message)
    yield from _of_parts(message, expected)
    if expected.is_list:
        yield from _of_the_way_out(head, expected)
    if not body:
        yield "the body is empty"


def links(mail: bytes) -> set[str]:
    """Return the hosts of the links in the HTML part; links within the mail have none."""
    message = message_from_bytes(mail, policy=SMTP)
    assert isinstance(message, EmailMessage)  # noqa: S101  (the policy makes them)
    addresses = _LINK.findall(_text_of(message, "html"))
    return {urlsplit(to).hostname or to for to in addresses if not to.startswith("#")}


def _of_bytes(mail: bytes) -> Iterator[str]:
    if len(mail) > LARGEST:
        yield f"it has {len(mail)} octets, and Gmail clips it"
    lines = mail.split(b"\r\n")
    if max(map(len, lines)) > LONGEST_LINE:
        yield f"a line is longer than {LONGEST_LINE} octets"
    if any(b"\r" in line or b"\n" in line for line in lines):
        yield "a line does not end in CRLF"


def _of_headers(head: bytes, message: EmailMessage) -> Iterator[str]:
    for name in ONCE:
        count = len(message.get_all(name, []))
        if count != 1:
            yield f"it has {count or 'no'} {name}"
    if len(str(message.get("Subject", ""))) > LONGEST_SUBJECT:
        yield f"its subject is longer than {LONGEST_SUBJECT} characters"
    if any(re.search(rb"\s", address) for address in _ADDRESS.findall(head)):
        yield "a URL in a header is folded, and mail apps truncate it"


def _of_parts(message: EmailMessage, expected: Expected) -> Iterator[str]:
    kinds = [part.get_content_type() for part in message.walk() if not part.is_multipart()]
    if kinds != ["text/plain", "text/html"]:
        yield f"its parts are {' and '.join(kinds)}, not text/plain and then text/html"
        return
    plain, html = _text_of(message, "plain"), _text_of(message, "html")
    if not plain.strip():
        yield "its text part is empty"
    yield from (
        f"it contains {left} from a template" for left in _LEFTOVERS if left in plain + html
    )
    for form, text in (("text", plain), ("HTML", html)):
        if expected.is_list and "/unsubscribe/" not in text:
            yield f"its {form} part has no unsubscribe link"
    if expected.operator_address and expected.operator_address not in " ".join(plain.split()):
        yield "it lacks the postal address of the operator"


def _of_the_way_out(head: bytes, expected: Expected) -> Iterator[str]:
    unfolded = re.sub(rb"\r\n[ \t]", b" ", head)
    leave = re.search(rb"(?m)^List-Unsubscribe: (.*)", unfolded)
    if leave is None:
        yield "it has no List-Unsubscribe header"
    elif expected.is_https and b"<https://" not in leave[1]:
        yield "its List-Unsubscribe has no https URL"
    post = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click"
    if expected.is_https and post not in unfolded.split(b"\r\n"):
        yield "it has no List-Unsubscribe-Post header"


def _text_of(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return str(part.get_content()) if part else ""


CHECKS: tuple[Check, ...] = (templates, samples, sample_links, sample_signatures)
