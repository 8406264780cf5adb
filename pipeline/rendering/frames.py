"""Everything in a mail but the cards, encoded once, with gaps for the words of one reader."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from jinja2 import Template

from pipeline.rendering.views import Personal
from pipeline.rendering.wire import fragment

# Private-use characters, which `words.clean` takes out of everything that is not ours.
_GAP = re.compile("\ue000([a-z_]+)\ue001")

GAP_NAMES = tuple(field.name for field in fields(Personal))
GAPS = Personal(**{name: f"\ue000{name}\ue001" for name in GAP_NAMES})
"""Stands for the words of a reader while a frame is made."""


@dataclass(frozen=True, slots=True)
class Part:
    """Wire pieces; between each two stands the name of the gap there."""

    pieces: tuple[bytes, ...]
    gaps: tuple[str, ...]

    def filled(self, wire: Mapping[str, bytes]) -> Iterator[bytes]:
        yield self.pieces[0]
        for gap, piece in zip(self.gaps, self.pieces[1:], strict=True):
            yield wire[gap]
            yield piece


@dataclass(frozen=True, slots=True)
class Frame:
    """The head and the tail of one form (HTML or text) of a mail."""

    head: Part
    tail: Part


def part(template: Template, context: Mapping[str, Any]) -> Part:
    """`template` filled with `context` but for the personal words."""
    split = _GAP.split(template.render(context, mail=GAPS))
    return Part(pieces=tuple(map(fragment, split[::2])), gaps=tuple(split[1::2]))
