"""Compose a sample of each kind of mail, and check it as a mailbox does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from pipeline import dkim
from pipeline.doctor import lint
from pipeline.doctor.finding import Check, Finding, Installation, bad, good, unknown
from pipeline.domain import (
    MAIL_KINDS,
    Breadth,
    Delivery,
    DeliveryKind,
    Digest,
    Links,
    ListContent,
    NoMatchNotice,
    Paper,
    Pick,
    Reason,
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
        wrong = list(lint.problems(mail, _expected(installation, kind)))
        if wrong:
            yield bad(check, "; ".join(wrong), OURS)
        else:
            yield good(check, f"{len(mail):,} octets, no problems")


def sample_links(installation: Installation) -> Iterator[Finding]:
    """Check that links lead to the site and to papers only: filters judge a mail by its links."""
    found = lint.links(sample(installation, DeliveryKind.DIGEST))
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
    now = installation.now
    is_list = MAIL_KINDS[kind].is_list
    delivery = Delivery(
        id=0,
        dedupe_key=f"doctor:{kind}",
        kind=kind,
        subscriber_id=0,
        email="reader@example.org",
        attempts=0,
        edition_on=now.date() if is_list else None,
        expires_at=now + timedelta(hours=18),
        created_at=now,
        secret="x" * 22,
        request_id=0,
    )
    told = _told(installation, kind) if is_list else None
    return installation.services.compose(delivery, told, now=now).replace(b"\r\n.", b"\r\n")


def _told(installation: Installation, kind: DeliveryKind) -> ListContent:
    if kind is not DeliveryKind.QUIET_NOTE:
        return _digest(installation, welcome=kind is DeliveryKind.WELCOME)
    today = installation.now.date()
    wider = (("dense retrieval", "retrieval"),)
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
        links=Links(*(f"{where}/{page}/{key}" for page in ("abs", "pdf", "code", "p", "d"))),
        batch=0,
    )


def _expected(installation: Installation, kind: DeliveryKind) -> lint.Expected:
    return lint.Expected(
        is_list=MAIL_KINDS[kind].is_list,
        is_https=urlsplit(installation.settings.site_url).scheme == "https",
        operator_address=installation.settings.operator_address,
    )


CHECKS: tuple[Check, ...] = (templates, samples, sample_links, sample_signatures)
