"""Rendered once for many mails: wire pieces, with gaps for the words of one reader."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.rendering.wire import fragment

# Private-use characters, which `words.clean` takes out of everything that is not ours.
_GAP = re.compile("\ue000([a-z_0-9]+)\ue001")


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


def gap(name: str) -> str:
    """What a template is given in place of words that are not known yet."""
    return f"\ue000{name}\ue001"


def part(rendered: str) -> Part:
    split = _GAP.split(rendered)
    return Part(pieces=tuple(map(fragment, split[::2])), gaps=tuple(split[1::2]))
