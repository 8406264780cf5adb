"""Render picks as fragments of a mail: a paper is rendered once and cached for all its readers."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from jinja2 import TemplateError
from markupsafe import Markup

from pipeline.domain import Paper, Pick
from pipeline.errors import RenderError
from pipeline.rendering import views
from pipeline.rendering.branding import Branding
from pipeline.rendering.fragments import Part, escaped, fragment, part, placeholder
from pipeline.rendering.marking import Marker, phrases_of
from pipeline.rendering.templates import Templates
from pipeline.rendering.views import Card, Entry, Place, Room

PAPERS = 4_096  # cached, about 4 KB each
MARKED = 16_384  # cached, about 1 KB each
ENTRIES = 16_384  # cached, about 0.3 KB each
TEXTS = 16_384  # cached, about 0.2 KB each


class Shape(NamedTuple):
    """Personal values that a card has: the rendered paper has a placeholder for each of them."""

    heading: bool
    counts: bool
    also: bool
    matched: bool
    unmarked: bool  # no highlighted word is visible
    liked: bool
    reactions: bool
    lead: bool


@dataclass(frozen=True, slots=True)
class WirePaper:
    """One rendered paper, with placeholders for highlighted text and for the reader's place."""

    text: Part
    html: Part


@dataclass(frozen=True, slots=True)
class MarkedText:
    """The texts of a card with highlights."""

    wire: dict[str, bytes]  # by placeholder
    is_visible: bool  # whether a matched word is in one of them, or in the title


@dataclass(frozen=True, slots=True)
class CachedPaper:
    """The texts of a paper, and its rendered forms by shape."""

    card: Card
    forms: dict[Shape, WirePaper]


class WireCard(NamedTuple):  # created for each pick of each mail, and a tuple is fastest
    """One paper in its place in a reader's mail.

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
        self._marked: RenderCache[object, MarkedText] = RenderCache(MARKED)
        self._papers: RenderCache[object, CachedPaper] = RenderCache(PAPERS)
        self._entries: RenderCache[Entry, tuple[str, str]] = RenderCache(ENTRIES)

    def get(self, pick: Pick, place: Place, room: Room) -> WireCard:
        """Return the card of a pick. Raise RenderError if its paper cannot be rendered."""
        paper = self._paper(pick.paper, room)
        phrases = phrases_of(pick.reasons, room)
        card = paper.card
        marked = self._marked.get(
            (card.title, card.key_sentence, card.excerpt, phrases),
            lambda: self._mark(paper.card, phrases),
        )
        shape = Shape(
            heading=bool(place.heading),
            counts=bool(place.counts),
            also=bool(place.also),
            matched=bool(place.matched),
            unmarked=not marked.is_visible,
            liked=bool(place.liked),
            reactions=bool(place.reactions),
            lead=place.lead,
        )
        form = paper.forms.get(shape)
        if form is None:
            form = paper.forms[shape] = self._form(pick.paper, paper.card, shape)
        in_text = {name: _wire(getattr(place, name)) for name in form.text.gaps}
        in_html = {
            name: marked.wire[name] if name in marked.wire else _wire_escaped(getattr(place, name))
            for name in form.html.gaps
        }
        return WireCard(paper.card.title, form.text.filled(in_text), form.html.filled(in_html))

    def page(self, pick: Pick, place: Place, room: Room) -> Card:
        """Return the same card with its values, for templates that are rendered as a whole."""
        card = views.card(pick.paper, (), self._house, room)
        phrases = phrases_of(pick.reasons, room)
        return replace(
            self._marks.on(card, phrases),
            place=place,
            is_marked=self._is_marked(card, phrases),
        )

    def entry(self, entry: Entry) -> tuple[str, str]:
        """Return a line of the contents in HTML and text."""
        return self._entries.get(
            entry,
            lambda: (
                Markup(self._templates.entry_html.render(entry=entry)),  # noqa: S704
                self._templates.entry_text.render(entry=entry),
            ),
        )

    def _mark(self, card: Card, phrases: tuple[str, ...]) -> MarkedText:
        on = self._marks.on(card, phrases)
        return MarkedText(
            wire={
                "key_sentence": fragment(on.key_sentence_marked),
                "excerpt": fragment(on.excerpt_marked),
            },
            is_visible=self._is_marked(card, phrases),
        )

    def _is_marked(self, card: Card, phrases: tuple[str, ...]) -> bool:
        texts = (card.title, card.key_sentence, card.excerpt)
        return any(self._marks.has(text, phrases) for text in texts)

    def _paper(self, paper: Paper, room: Room) -> CachedPaper:
        return self._papers.get((_key(paper), room), lambda: self._new_paper(paper, room))

    def _new_paper(self, paper: Paper, room: Room) -> CachedPaper:
        try:
            return CachedPaper(views.card(paper, (), self._house, room), {})
        except (TypeError, ValueError, AttributeError) as error:
            raise RenderError(f"paper {paper.id}: {error}") from error

    def _form(self, paper: Paper, card: Card, shape: Shape) -> WirePaper:
        place = Place(
            number=placeholder("number"),
            heading=placeholder("heading") if shape.heading else "",
            counts=placeholder("counts") if shape.counts else "",
            also=placeholder("also") if shape.also else "",
            matched=placeholder("matched") if shape.matched else "",
            liked=placeholder("liked") if shape.liked else "",
            lines=placeholder("lines") if shape.also or shape.matched or shape.liked else "",
            reactions=placeholder("reactions") if shape.reactions else "",
            lead=shape.lead,
        )
        unknown = replace(
            card,
            key_sentence_marked=placeholder("key_sentence"),
            excerpt_marked=placeholder("excerpt"),
            is_marked=not shape.unmarked,
            place=place,
        )
        try:
            return WirePaper(
                text=part(self._templates.digest_text.card.render(pick=unknown)),
                html=part(self._templates.digest_html.card.render(pick=unknown)),
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
        paper.stars,
        paper.links,
        paper.sources,
        paper.categories,
        paper.announced_on,
        paper.withdrawn,
    )


@lru_cache(maxsize=TEXTS)
def _wire(text: str) -> bytes:
    return fragment(text)


@lru_cache(maxsize=TEXTS)
def _wire_escaped(text: str) -> bytes:
    return escaped(text)


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
