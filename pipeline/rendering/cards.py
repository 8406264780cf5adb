"""Render picks as fragments of a mail: a paper is rendered once and cached for all its readers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from jinja2 import TemplateError

from pipeline.domain import Paper, Pick, Reason
from pipeline.errors import RenderError
from pipeline.rendering import views
from pipeline.rendering.branding import Branding
from pipeline.rendering.cache import RenderCache
from pipeline.rendering.fragments import Part, escaped, fragment, part, placeholder
from pipeline.rendering.highlight import Marks, phrases_of
from pipeline.rendering.templates import Templates
from pipeline.rendering.views import MatchReason, Room

PAPERS = 4_096  # cached, about 4 KB each
REASONS = 16_384  # cached, about 1 KB each
MARKED = 16_384  # cached, about 1 KB each
# Names of the placeholders for each reason of a paper, in both the HTML and the text.
GAPS = tuple((f"line_{n}", f"label_{n}", f"phrases_{n}") for n in range(views.REASONS))


@dataclass(frozen=True, slots=True)
class WirePaper:
    """One rendered paper, with placeholders for highlighted text and for the reader's reasons."""

    title: str
    abstract: str
    text: Part
    html: Part


@dataclass(frozen=True, slots=True)
class WireReason:
    """One rendered reason, for every card that shows it."""

    has_phrases: bool
    wire: tuple[bytes, bytes, bytes]  # its line, label and phrases


class WireCard(NamedTuple):  # created for each pick of each mail, and a tuple is fastest
    """One paper with a reader's reasons.

    Not cached: most readers have reasons of their own, and filling placeholders is nearly free.
    """

    title: str
    text: bytes
    html: bytes


class Cards:
    """Renderer of cards with caches. Thread-safe: if two threads make a value, both are equal."""

    def __init__(self, branding: Branding, templates: Templates, marks: Marks) -> None:
        self._house = branding
        self._templates = templates
        self._marks = marks
        self._marked: RenderCache[object, dict[str, bytes]] = RenderCache(MARKED)
        self._papers: RenderCache[object, WirePaper] = RenderCache(PAPERS)

    def get(self, pick: Pick, room: Room) -> WireCard:
        """Return the card of a pick. Raise RenderError if its paper cannot be rendered."""
        kinds: tuple[bool, ...] = ()
        wire: dict[str, bytes] = {}
        for gaps, reason in zip(GAPS, pick.reasons, strict=False):  # only the shown ones
            known = _wire_reason(reason, room.phrases)
            kinds += (known.has_phrases,)
            wire.update(zip(gaps, known.wire, strict=True))
        paper = self._paper(pick.paper, kinds, room)
        phrases = phrases_of(pick.reasons, room)
        wire |= self._marked.get(
            (paper.title, paper.abstract, phrases), lambda: self._with_marks(paper, phrases)
        )
        return WireCard(paper.title, paper.text.filled(wire), paper.html.filled(wire))

    def _with_marks(self, paper: WirePaper, phrases: tuple[str, ...]) -> dict[str, bytes]:
        """Return the highlighted title and abstract, for all readers with the same phrases."""
        return {
            "title": fragment(self._marks.marked(paper.title, phrases)),
            "abstract": fragment(self._marks.marked(paper.abstract, phrases)),
        }

    def _paper(self, paper: Paper, kinds: tuple[bool, ...], room: Room) -> WirePaper:
        return self._papers.get(
            (_key(paper), room, kinds), lambda: self._new_paper(paper, _unknown(kinds), room)
        )

    def _new_paper(self, paper: Paper, why: tuple[MatchReason, ...], room: Room) -> WirePaper:
        try:
            card = replace(
                views.card(paper, why, self._house, room),
                title_marked=placeholder("title"),
                abstract_marked=placeholder("abstract"),
            )
            return WirePaper(
                title=card.title,
                abstract=card.abstract,
                text=part(self._templates.digest_text.card.render(pick=card)),
                html=part(self._templates.digest_html.card.render(pick=card)),
            )
        except (TemplateError, TypeError, ValueError, AttributeError) as error:
            raise RenderError(f"paper {paper.id}: {error}") from error


def _key(paper: Paper) -> object:
    """Return the cache key: all values of a card except reasons; `version` stands for the text."""
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
    )


def _unknown(kinds: tuple[bool, ...]) -> tuple[MatchReason, ...]:
    """Return placeholders for reasons, with phrases or without, to render a paper in advance."""
    return tuple(
        MatchReason(
            placeholder(label), placeholder(phrases) if has_phrases else "", placeholder(line)
        )
        for (line, label, phrases), has_phrases in zip(GAPS, kinds, strict=False)
    )


@lru_cache(maxsize=REASONS)
def _wire_reason(reason: Reason, phrases: int) -> WireReason:
    """Return a rendered reason with at most `phrases` of its phrases.

    Cached: all readers of a topic get a paper for the same reason.
    """
    why = views.why(reason, phrases)
    wire = (fragment(why.line), escaped(why.label), escaped(why.phrases))
    return WireReason(bool(why.phrases), wire)
