"""A pick as a piece of a mail: made once, kept, and given to every reader who gets it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from jinja2 import TemplateError

from pipeline.domain import Paper, Pick
from pipeline.errors import RenderError
from pipeline.rendering import views
from pipeline.rendering.gaps import Part, gap, part
from pipeline.rendering.house import House
from pipeline.rendering.recent import Recent
from pipeline.rendering.templates import Templates
from pipeline.rendering.views import Room, Why
from pipeline.rendering.wire import escaped, fragment

CARDS = 8_192  # of about 4 KB each
PAPERS = 4_096  # of about 4 KB each


@dataclass(frozen=True, slots=True)
class WirePaper:
    """One paper, ready for any mail but for the reader's reasons."""

    title: str
    text: Part
    html: Part


@dataclass(frozen=True, slots=True)
class WireCard:
    """One paper, ready for any mail that shows it for the same reasons."""

    title: str
    text: bytes
    html: bytes


class Cards:
    """Safe in threads; what two of them make at the same time is the same."""

    def __init__(self, house: House, templates: Templates) -> None:
        self._house = house
        self._templates = templates
        self._cards: Recent[object, WireCard] = Recent(CARDS)
        self._papers: Recent[object, WirePaper] = Recent(PAPERS)

    def get(self, pick: Pick, room: Room) -> WireCard:
        """Raises RenderError for a paper that cannot be shown."""
        key = _key(pick.paper, room)
        return self._cards.get((key, pick.reasons), lambda: self._new_card(pick, room))

    def _new_card(self, pick: Pick, room: Room) -> WireCard:
        """Cheap where only the reasons are new: most readers have topics of their own."""
        why = views.reasons(pick.reasons, room)
        kinds = tuple(bool(reason.phrases) for reason in why)
        paper = self._papers.get(
            (_key(pick.paper, room), kinds),
            lambda: self._new_paper(pick.paper, _unknown(kinds), room),
        )
        in_text, in_html = _reasons_wire(why)
        return WireCard(
            paper.title,
            b"".join(paper.text.filled(in_text)),
            b"".join(paper.html.filled(in_html)),
        )

    def _new_paper(self, paper: Paper, why: tuple[Why, ...], room: Room) -> WirePaper:
        try:
            card = views.card(paper, why, self._house, room)
            return WirePaper(
                title=card.title,
                text=part(self._templates.digest_text.card.render(pick=card)),
                html=part(self._templates.digest_html.card.render(pick=card)),
            )
        except (TemplateError, TypeError, ValueError, AttributeError) as error:
            raise RenderError(f"paper {paper.id}: {error}") from error


def _key(paper: Paper, room: Room) -> object:
    """All that a card shows but its reasons: the version stands for the paper's words."""
    return (
        paper.id,
        paper.version,
        paper.upvotes,
        paper.comments,
        paper.links,
        paper.sources,
        paper.categories,
        paper.announced_on,
        paper.withdrawn,
        room,
    )


def _unknown(kinds: tuple[bool, ...]) -> tuple[Why, ...]:
    """Stands for reasons of these kinds, with phrases or without, while a paper is made ready."""
    return tuple(
        Why(gap(f"label_{n}"), gap(f"phrases_{n}") if has_phrases else "", gap(f"line_{n}"))
        for n, has_phrases in enumerate(kinds)
    )


@lru_cache(maxsize=8_192)
def _reasons_wire(why: tuple[Why, ...]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What fills the gaps of a card: in the text, in the HTML."""
    in_text = {f"line_{n}": fragment(reason.line) for n, reason in enumerate(why)}
    in_html = {}
    for n, reason in enumerate(why):
        in_html[f"label_{n}"] = escaped(reason.label)
        in_html[f"phrases_{n}"] = escaped(reason.phrases)
    return in_text, in_html
