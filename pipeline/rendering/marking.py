"""Highlight the matched words in the title and abstract of a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from jinja2 import Template, TemplateError
from markupsafe import Markup, escape

from pipeline.domain import Reason
from pipeline.errors import RenderError
from pipeline.rendering.fragments import placeholder
from pipeline.rendering.views import REASONS, Card, Room

MOST = 8  # highlights per text; with more, the whole page would be coloured
WORDS = placeholder("words")  # placeholder, while the template is split


class Find(Protocol):
    """Find phrases in a text: return the start and end of each mention, in order."""

    def __call__(self, text: str, phrases: tuple[str, ...]) -> Sequence[tuple[int, int]]: ...


class Marker:
    """Highlighter of matched words. Raise RenderError at construction if the template fails."""

    def __init__(self, find: Find, mark: Template) -> None:
        self._find = find
        try:
            self._before, found, self._after = mark.render(words=WORDS).partition(WORDS)
        except TemplateError as error:
            raise RenderError(f"mark: {error}") from error
        if not found:
            raise RenderError("mark: it leaves out the words")

    def on(self, card: Card, phrases: tuple[str, ...]) -> Card:
        """Return the card with its text as HTML with highlights."""
        return replace(
            card,
            key_sentence_marked=self.marked(card.key_sentence, phrases),
            excerpt_marked=self.marked(card.excerpt, phrases),
        )

    def has(self, text: str, phrases: tuple[str, ...]) -> bool:
        """Return whether one of the phrases occurs in `text`."""
        return bool(text and phrases and self._find(text, phrases))

    def marked(self, text: str, phrases: tuple[str, ...]) -> Markup:
        pieces, at = [], 0
        for start, end in self._find(text, phrases)[:MOST] if text and phrases else ():
            pieces += [escape(text[at:start]), self._before, escape(text[start:end]), self._after]
            at = end
        return Markup("".join([*pieces, escape(text[at:])]))  # noqa: S704  (each is escaped)


def phrases_of(reasons: Sequence[Reason], room: Room) -> tuple[str, ...]:
    """Return the phrases of all reasons that a card shows, sorted, without duplicates."""
    shown = {phrase for reason in reasons[:REASONS] for phrase in reason.phrases[: room.phrases]}
    return tuple(sorted(shown))
