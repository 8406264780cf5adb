"""Turns a digest into the parts of a mail, cheaply enough for a million readers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog
from jinja2 import Template, TemplateError
from markupsafe import escape

from pipeline.domain import Digest, Pick
from pipeline.errors import RenderError
from pipeline.rendering import frames, templates, views, words
from pipeline.rendering.frames import Frame
from pipeline.rendering.house import House, MailLinks
from pipeline.rendering.recent import Recent
from pipeline.rendering.templates import Form
from pipeline.rendering.views import Edition, Personal, Room
from pipeline.rendering.wire import fragment

CARDS = 8_192  # of about 4 KB each
FRAMES = 512  # of about 15 KB each

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A mail without its headers; `b"".join(text)` is a quoted-printable body."""

    subject: str
    text: tuple[bytes, ...]
    html: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WireCard:
    """One paper, ready for any mail that shows it for the same reasons."""

    title: str
    text: bytes
    html: bytes


@dataclass(frozen=True, slots=True)
class WireFrame:
    text: Frame
    html: Frame


@dataclass(frozen=True, slots=True)
class Words:
    """What a mail says beside its cards."""

    subject: str
    edition: Edition
    personal: Personal


class Renderer:
    """Raises RenderError at once when a template in `folder` is broken."""

    def __init__(self, house: House, folder: Path) -> None:
        self._house = house
        self._templates = templates.load(folder, house)
        self._cards: Recent[object, WireCard] = Recent(CARDS)
        self._frames: Recent[object, WireFrame] = Recent(FRAMES)

    @property
    def template_version(self) -> str:
        return self._templates.version

    def digest(self, digest: Digest, links: MailLinks) -> Rendered:
        """The mail for one reader. A paper that cannot be shown is left out, and logged.

        Raises RenderError when no paper is left, or when a template fails.
        """
        cards = [card for _, card in self._shown(digest)]
        spoken = _words(digest, links, [card.title for card in cards])
        frame = self._frame(spoken.edition, links)
        return Rendered(
            spoken.subject,
            _joined(frame.text, _in_text(spoken.personal), [card.text for card in cards]),
            _joined(frame.html, _in_html(spoken.personal), [card.html for card in cards]),
        )

    def page(self, digest: Digest, links: MailLinks) -> tuple[str, str, str]:
        """Subject, HTML and text of the same mail as plain strings, made the plain way."""
        room = views.room(len(digest.picks))
        cards = [views.card(pick, self._house, room) for pick, _ in self._shown(digest)]
        spoken = _words(digest, links, [card.title for card in cards])
        context = {
            "edition": spoken.edition,
            "links": links,
            "mail": spoken.personal,
            "picks": cards,
        }
        html = _render(self._templates.digest_html.whole, context)
        return spoken.subject, html, _render(self._templates.digest_text.whole, context)

    def confirmation(self, confirm_url: str, *, hours: int = 72) -> Rendered:
        """Asks whether it was the owner of the address who filled in the form.

        Not one word in it comes from whoever that was.
        """
        context = {"confirm_url": confirm_url, "hours": hours}
        return Rendered(
            f"Please confirm: {words.clean(self._house.list_name)}",
            (fragment(_render(self._templates.confirmation_text, context)),),
            (fragment(_render(self._templates.confirmation_html, context)),),
        )

    def _shown(self, digest: Digest) -> Iterator[tuple[Pick, WireCard]]:
        room = views.room(len(digest.picks))
        for pick in digest.picks:
            try:
                yield pick, self._card(pick, room)
            except RenderError as error:
                log.warning("card left out", paper=pick.paper.id, error=str(error))

    def _card(self, pick: Pick, room: Room) -> WireCard:
        key = _card_key(pick, room)
        return self._cards.get(key, lambda: self._new_card(pick, room))

    def _new_card(self, pick: Pick, room: Room) -> WireCard:
        try:
            card = views.card(pick, self._house, room)
            return WireCard(
                title=card.title,
                text=fragment(self._templates.digest_text.card.render(pick=card)),
                html=fragment(self._templates.digest_html.card.render(pick=card)),
            )
        except (TemplateError, TypeError, ValueError, AttributeError) as error:
            raise RenderError(f"paper {pick.paper.id}: {error}") from error

    def _frame(self, edition: Edition, links: MailLinks) -> WireFrame:
        pages = (links.subscribe, links.privacy, links.archive)
        return self._frames.get(
            (edition, pages), lambda: self._new_frame({"edition": edition, "links": links})
        )

    def _new_frame(self, context: Mapping[str, Any]) -> WireFrame:
        try:
            return WireFrame(
                text=_encoded(self._templates.digest_text, context),
                html=_encoded(self._templates.digest_html, context),
            )
        except TemplateError as error:
            raise RenderError(f"digest: {error}") from error


def _card_key(pick: Pick, room: Room) -> object:
    """All that a card shows: the version stands for the paper's words."""
    paper = pick.paper
    return (
        paper.id,
        paper.version,
        paper.upvotes,
        paper.comments,
        paper.links,
        paper.sources,
        paper.withdrawn,
        pick.reasons,
        room,
    )


def _words(digest: Digest, links: MailLinks, titles: list[str]) -> Words:
    if not titles:
        raise RenderError("a digest without a paper that can be shown")
    topics, topics_wrapped = _topics(digest.topics)
    return Words(
        subject=views.subject(digest, titles[0], len(titles)),
        edition=_edition(digest, len(titles)),
        personal=Personal(
            preheader=" · ".join(words.cut_at_word(title, 90) for title in titles[:2]),
            topics=topics,
            topics_wrapped=topics_wrapped,
            more=words.count(digest.more, "more paper", "more papers"),
            unsubscribe=links.unsubscribe,
            preferences=links.preferences,
            view=links.view,
        ),
    )


def _edition(digest: Digest, papers: int) -> Edition:
    return views.edition(
        digest.edition_on,
        digest.announced,
        papers,
        welcome=digest.welcome,
        has_more=digest.more > 0,
        has_topics=bool(digest.topics),
    )


@lru_cache(maxsize=4_096)
def _topics(labels: tuple[str, ...]) -> tuple[str, str]:
    """The reader's topics as a sentence has them, on one line and on several."""
    line = views.topics(labels)
    return line, words.wrap(line)


def _encoded(form: Form, context: Mapping[str, Any]) -> Frame:
    return Frame(head=frames.part(form.head, context), tail=frames.part(form.tail, context))


def _in_text(personal: Personal) -> dict[str, bytes]:
    return {name: fragment(getattr(personal, name)) for name in frames.GAP_NAMES}


def _in_html(personal: Personal) -> dict[str, bytes]:
    return {name: fragment(str(escape(getattr(personal, name)))) for name in frames.GAP_NAMES}


def _joined(
    frame: Frame, personal: Mapping[str, bytes], cards: Iterable[bytes]
) -> tuple[bytes, ...]:
    return (*frame.head.filled(personal), *cards, *frame.tail.filled(personal))


def _render(template: Template, context: Mapping[str, Any]) -> str:
    try:
        return template.render(context)
    except TemplateError as error:
        raise RenderError(str(error)) from error
