"""A pick as pieces of a mail: a paper is made once and kept, for every reader who gets it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from jinja2 import TemplateError

from pipeline.domain import Paper, Pick, Reason
from pipeline.errors import RenderError
from pipeline.rendering import views
from pipeline.rendering.gaps import Part, gap, part
from pipeline.rendering.house import House
from pipeline.rendering.marks import Marks, phrases_of
from pipeline.rendering.recent import Recent
from pipeline.rendering.templates import Templates
from pipeline.rendering.views import Room, Why
from pipeline.rendering.wire import escaped, fragment

PAPERS = 4_096  # of about 4 KB each
REASONS = 16_384  # of about 1 KB each
MARKED = 16_384  # of about 1 KB each
# What the reasons of a paper put into the gaps of both forms, by their place.
GAPS = tuple((f"line_{n}", f"label_{n}", f"phrases_{n}") for n in range(views.REASONS))


@dataclass(frozen=True, slots=True)
class WirePaper:
    """One paper, ready for any mail but for the reader's reasons."""

    title: str
    abstract: str
    text: Part
    html: Part


@dataclass(frozen=True, slots=True)
class WireReason:
    """One reason, for every card that shows it."""

    has_phrases: bool
    wire: tuple[bytes, bytes, bytes]  # its line, label and phrases


class WireCard(NamedTuple):  # made for each pick of each mail, and a tuple is made fastest
    """One paper with a reader's reasons.

    It is not kept: most readers have reasons of their own, and to fill gaps costs next to nothing.
    """

    title: str
    text: bytes
    html: bytes


class Cards:
    """Safe in threads; what two of them make at the same time is the same."""

    def __init__(self, house: House, templates: Templates, marks: Marks) -> None:
        self._house = house
        self._templates = templates
        self._marks = marks
        self._marked: Recent[object, dict[str, bytes]] = Recent(MARKED)
        self._papers: Recent[object, WirePaper] = Recent(PAPERS)

    def get(self, pick: Pick, room: Room) -> WireCard:
        """Raises RenderError for a paper that cannot be shown."""
        kinds: tuple[bool, ...] = ()
        wire: dict[str, bytes] = {}
        for gaps, reason in zip(GAPS, pick.reasons, strict=False):  # as many as are shown
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
        """Its title and abstract, for every reader for whom the same words matched."""
        return {
            "title": fragment(self._marks.marked(paper.title, phrases)),
            "abstract": fragment(self._marks.marked(paper.abstract, phrases)),
        }

    def _paper(self, paper: Paper, kinds: tuple[bool, ...], room: Room) -> WirePaper:
        return self._papers.get(
            (_key(paper), room, kinds), lambda: self._new_paper(paper, _unknown(kinds), room)
        )

    def _new_paper(self, paper: Paper, why: tuple[Why, ...], room: Room) -> WirePaper:
        try:
            card = replace(
                views.card(paper, why, self._house, room),
                title_marked=gap("title"),
                abstract_marked=gap("abstract"),
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
    )


def _unknown(kinds: tuple[bool, ...]) -> tuple[Why, ...]:
    """Stands for reasons of these kinds, with phrases or without, while a paper is made ready."""
    return tuple(
        Why(gap(label), gap(phrases) if has_phrases else "", gap(line))
        for (line, label, phrases), has_phrases in zip(GAPS, kinds, strict=False)
    )


@lru_cache(maxsize=REASONS)
def _wire_reason(reason: Reason, phrases: int) -> WireReason:
    """A reason with at most so many of its phrases.

    Whoever follows a topic gets a paper for the same one, so it is made once for all of them.
    """
    why = views.why(reason, phrases)
    wire = (fragment(why.line), escaped(why.label), escaped(why.phrases))
    return WireReason(bool(why.phrases), wire)
