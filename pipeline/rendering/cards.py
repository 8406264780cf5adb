"""Render picks as fragments of a mail: a paper is rendered once and cached for all its readers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from jinja2 import TemplateError

from pipeline.domain import Paper, Pick, Reason
from pipeline.errors import RenderError
from pipeline.rendering import views
from pipeline.rendering.branding import Branding
from pipeline.rendering.fragments import Part, escaped, fragment, part, placeholder
from pipeline.rendering.marking import Marker, phrases_of
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

    def __init__(self, branding: Branding, templates: Templates, marks: Marker) -> None:
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


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RenderCache(Generic[Key, Value]):
    """Cache of at most `limit` values; it keeps the `limit` / 2 used last. Thread-safe.

    It has two halves: when the young one is full, it replaces the old one, and values that were not
    used since are dropped. A hit in the young half costs one lookup, and no lock; a hit in the old
    half takes the lock to copy the value to the young one.
    """

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the cached value, or call `make` and cache the result; if that raises, nothing."""
        try:
            return self._young[key]
        except KeyError:
            pass  # not called here: an error of `make` would be chained to this one
        try:
            value = self._old[key]
        except KeyError:
            value = make()  # outside the lock: two threads may make a value twice, and none waits
        self._keep(key, value)
        return value

    def _keep(self, key: Key, value: Value) -> None:
        with self._lock:
            if len(self._young) >= self._half:
                self._young, self._old = {}, self._young
            self._young[key] = value
