"""Test the templates on made-up digests, so that an error stops the start and not an edition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date, timedelta

from pipeline.domain import (
    Breadth,
    Digest,
    Links,
    NoMatchNotice,
    OperatorReport,
    Paper,
    Pick,
    Reason,
    Recap,
    SavedPaper,
    SavedWeek,
    Suggestion,
)
from pipeline.errors import RenderError
from pipeline.rendering.branding import MailLinks
from pipeline.rendering.fragments import Rendered, plain

SITE = "https://papers.example.org"
LINKS = MailLinks(*(f"{SITE}/{page}" for page in "abcdefg"))
DAY = date(2030, 1, 2)


def check_templates(
    fast: Callable[[Digest, MailLinks], Rendered],
    slow: Callable[[Digest, MailLinks], tuple[str, str, str]],
    mails: Iterable[Callable[[], Rendered]],
) -> None:
    """Raise RenderError if a template fails, or if the two ways to render a digest differ."""
    for render in mails:
        render()
    for digest in (FULL, BARE, replace(FULL, welcome=False, near_misses=True), RECAP):
        joined, (_, html, text) = fast(digest, LINKS), slow(digest, LINKS)
        for form, pieces, whole in (("mjml", joined.html, html), ("txt", joined.text, text)):
            if plain(pieces) != whole:
                raise RenderError(
                    f"digest.{form}: something tests or changes words of one reader, "
                    "or reaches across the loop over picks; see docs/mail.md"
                )


def _paper(**changes: object) -> Paper:
    bare = {
        "id": -1,  # not an id of the database
        "key": "trial",
        "version": 1,
        "title": "A Title",
        "abstract": "",
        "authors": (),
        "author_count": 0,
        "categories": (),
        "keywords": (),
        "sources": ("arxiv",),
        "announced_on": DAY,
        "upvotes": None,
        "comments": None,
        "links": Links(),
        "batch": 0,
    }
    return Paper(**{**bare, **changes})  # type: ignore[arg-type]


WIDER = (Suggestion("Search", "a b", 1.0),)
NOTES = (
    NoMatchNotice(DAY, DAY, 1, ("Search",), Breadth.FEWER, 2, WIDER, False),
    NoMatchNotice(DAY, DAY, 0, (), Breadth.MORE, 0, (), True),
)

WEEKS = (
    SavedWeek(DAY, (SavedPaper("trial", "A Title", ("Ada Lovelace",), "A note", True),), 2),
    SavedWeek(DAY, (SavedPaper("trial", "A Title", (), "", False),), 0),
)

REPORT = OperatorReport((("A finding", "An advice"), ("Another", "")))

BARE = Digest(DAY, (Pick(_paper(), (), 1.0),))
MATCHES = (Reason("Search", ("dense retrieval", "title")), Reason("Trending"), Reason("B", ("b",)))
FULL = Digest(
    DAY,
    (
        Pick(
            _paper(
                abstract="An abstract.",
                authors=("Ada Lovelace", "Charles Babbage"),
                author_count=2,
                categories=("cs.IR",),
                upvotes=2,
                comments=1,
                stars=1,
                key="3001.00001",
                sources=("huggingface",),
                links=Links(*(f"{SITE}/{name}" for name in "abcde")),
                withdrawn=True,
            ),
            MATCHES,
            1.0,
        ),
        Pick(_paper(id=-2, abstract="Another abstract."), MATCHES[::-1], 1.0),
        Pick(_paper(id=-3, title="Another"), (MATCHES[2], MATCHES[0]), 1.0),
        Pick(_paper(id=-4), (), 1.0),
    ),
    more=2,
    topics=("Search", "Trending"),
    announced=(DAY, DAY),
    welcome=True,
)
RECAP = replace(
    FULL,
    welcome=False,
    pauses_on=DAY,
    recap=Recap(DAY - timedelta(days=6), True, (("Search", 3), ("Trending", None))),
)
