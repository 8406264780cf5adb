"""Compare the names of authors with the name in a query."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Final

from pipeline.matching.tokens import forms_as_written

Names = tuple[str, ...]

_SUFFIXES: Final = frozenset({"jr", "sr", "ii", "iii", "iv"})
_PARTICLES: Final = frozenset(
    {
        "van", "der", "den", "de", "del", "della", "di", "da", "do", "dos", "das", "du", "la",
        "le", "von", "zu", "zum", "zur", "af", "av", "bin", "ben", "ibn", "bint", "al", "el",
        "ter", "ten", "te", "und", "abu",
    }
)  # fmt: skip
_PIECE: Final = re.compile(r"[^\s.,;_/-]+\.?")
_ABBREVIATED: Final = re.compile(r"[A-Z][a-z]{1,2}\.")  # Th., Yu., Chr.
_CAPITALS: Final = re.compile(r"(?<![^\s,])[A-Z]{2,3}(?![^\s,])")
_LAST_CAPITALS: Final = re.compile(r"(?<=[\s,])([A-Z]{2,3})$")
_SHORT_SURNAMES: Final = frozenset(
    {
        "li", "lu", "wu", "xu", "yu", "hu", "he", "ma", "bo", "ye", "su", "du", "fu", "gu",
        "qi", "mo", "ho", "ko", "oh", "do", "le", "vo", "an", "ai", "im", "go", "kim", "lee",
        "roe", "doe", "liu", "sun", "zhu", "guo", "gao", "luo", "xie", "han", "tan", "lin",
        "cai", "pan", "yao", "fan", "dai", "ren", "wei", "mai", "ong", "lim", "koh", "teo",
        "goh", "das", "roy", "sen", "rao", "ray", "jha", "hsu", "wen", "min", "jin", "cho",
        "seo", "ahn", "ii", "iii", "iv", "jr", "sr",
    }
)  # fmt: skip
_VOWEL: Final = re.compile(r"[aeiouy]|^ng$")
_LONGEST_JOINED: Final = 6  # parts; nothing is joined if a name has more

_WITH_E: Final = {
    "ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "đ": "dj", "ő": "oe", "ű": "ue",
}  # fmt: skip
# The same letters if an author transcribes them with an e; not if the e begins a syllable
# (Michael, Samuel) or makes another name (Xue, Yuen).
_E: Final = re.compile(
    r"(?<=[b-df-hjkmnprstvwz])([aou])e(?=[b-df-hj-np-tv-z])(?!l\b)(?=\w\w|r\b)"
    r"|\b([aou])e(?=[b-df-hj-np-tv-z]{2})|(?<=[bhkmpg]a)a(?=[krlns])"
)
_SLAVIC: Final = re.compile(r"(?<=[^aeiou])(?:iy|ii|ij|yi)$|(?<=[^aeiou]e)[ij]$")
_CHINESE: Final = {"lv": "lu", "nv": "nu", "lyu": "lu", "nyu": "nu"}


def names_match(author: str, wanted: Names) -> bool:
    """Return whether every wanted name is one of the author's, each used once.

    Names may be in any order, initials match given names, parts may be joined or apart, and
    particles (van der) may be missing. An initial never matches a surname.
    """
    ours = _ways_wanted(wanted)
    return any(_fits(way, names) for way in _ways(author) for names in ours)


def author_forms(written: str) -> Names:
    """Return the names in the author field of a query, one by one; "Doe JP" has two initials."""
    found = _LAST_CAPITALS.findall(written) if any(map(str.islower, written)) else []
    capitals = {one for one in found if one.lower() not in _SHORT_SURNAMES}
    spaced = [" ".join(one) if one in capitals else one for one in written.split()]
    return _fold(" ".join(spaced))


def keys(author: str) -> frozenset[str]:
    """Return lookup keys of an author: `wanted_keys` has one of them if `may_be_called` is true."""
    return _telling(name for way in _ways(author) for name in way.names)


def wanted_keys(wanted: Names) -> frozenset[str]:
    return _telling(name for names in _ways_wanted(wanted) for name in names)


def _telling(names: Iterable[str]) -> frozenset[str]:
    """Return the names that are not initials, or the initials if there are no others."""
    every = frozenset(names)
    return frozenset(name for name in every if len(name) > 1) or every


def _fits(way: _Way, wanted: Names) -> bool:
    ours, theirs = _suffix(wanted), _suffix(way.names)
    if ours and theirs and ours != theirs:
        return False
    left, whole, others = list(way.names), [], []
    for place, name in enumerate(wanted):
        is_inside = 0 < place < len(wanted) - 1  # elsewhere, Le and Ben are names
        if name in left:
            left.remove(name)
            whole.append(name)
        elif name not in _SUFFIXES and not (name in _PARTICLES and is_inside):
            others.append(name)
    if not _telling(whole) & _telling(wanted):
        return False
    if others and way.has_initials and way.surname not in whole:
        return False
    for name in sorted(others, key=len, reverse=True):
        same = next((one for one in left if _abbreviates(one, name)), None)
        if same is None:
            return False
        left.remove(same)
    return True


def _suffix(names: Names) -> str | None:
    return next((one for one in names if one in _SUFFIXES), None)


def _abbreviates(one: str, other: str) -> bool:
    if one.endswith("."):
        return other.startswith(one[:-1])
    return min(len(one), len(other)) == 1 and one[0] == other[0]


# --- Readings of a name -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Way:
    """One reading of an author's name."""

    names: Names
    surname: str  # the last part that is not an initial; if there is a comma, of those before it

    @property
    def has_initials(self) -> bool:
        return any(len(name) == 1 or name.endswith(".") for name in self.names)


@lru_cache(maxsize=1 << 13)
def _ways(author: str) -> tuple[_Way, ...]:
    first = _fold(author.partition(",")[0]) if "," in author else ()
    spelled = dict.fromkeys(_spellings(author))
    joined = dict.fromkeys(names for spelling in spelled for names in _joined(spelling))
    return tuple(_Way(names, _surname(names, first)) for names in joined)


@lru_cache(maxsize=1 << 12)
def _ways_wanted(wanted: Names) -> tuple[Names, ...]:
    """Return the readings of the wanted names; "jp" may be two initials.

    No name is written without a vowel, except Ng.
    """
    ways = dict.fromkeys(_joined(wanted))
    if any(len(name) > 3 or _VOWEL.search(name) for name in wanted):
        ways[tuple(one for name in wanted for one in _initials(name))] = None
    return tuple(ways)


def _initials(name: str) -> Iterable[str]:
    return name if len(name) < 4 and not _VOWEL.search(name) else (name,)


def _surname(names: Names, first: Names) -> str:
    telling = [
        name for name in names if len(name) > 1 and name[-1] != "." and name not in _SUFFIXES
    ]
    listed = [name for name in telling if name in first or name == "".join(first)]
    return (listed or telling or [""])[-1]


def _spellings(author: str) -> Iterator[Names]:
    pieces = [_piece(piece) for piece in _PIECE.findall(unicodedata.normalize("NFC", author))]
    plain = tuple(name for names in pieces for name in names)
    yield plain
    if any(letter.islower() for letter in author):  # Roe KA has initials; ADA ROE has none
        capitals = {raw.lower() for raw in _CAPITALS.findall(author)} - _SUFFIXES
        yield tuple(one for name in plain for one in (name if name in capitals else (name,)))
    yield _fold(_with_e(author))
    yield _fold(_without_e(author))
    yield tuple(_transliterated(name) for name in plain)


def _piece(raw: str) -> Names:
    names = _fold(raw)
    if _ABBREVIATED.fullmatch(raw) and names and names[0] not in _SUFFIXES:
        return (f"{names[0]}.",)
    return names


def _transliterated(name: str) -> str:
    return _CHINESE.get(name, _SLAVIC.sub("y", name) if len(name) > 4 else name)


def _with_e(author: str) -> str:
    text = unicodedata.normalize("NFC", author).lower()
    return "".join(_WITH_E.get(letter, letter) for letter in text)


def _without_e(author: str) -> str:
    return _E.sub(lambda found: found.group(1) or found.group(2) or "", author.lower())


@lru_cache(maxsize=1 << 14)
def _joined(names: Names) -> tuple[Names, ...]:
    """Return the parts as given, and with adjacent ones joined: jaehyun, alharbi, vandermeer."""
    if not 1 < len(names) <= _LONGEST_JOINED:
        return (names,)
    ways: dict[Names, None] = {names: None}
    # Two initials are never joined: A. K. is not Ak.
    gaps = [i for i in range(1, len(names)) if len(names[i - 1]) > 1 or len(names[i]) > 1]
    for taken in (1, 2):
        for removed in combinations(gaps, taken):
            joined: list[str] = []
            for place, name in enumerate(names):
                if place in removed:
                    joined[-1] += name
                else:
                    joined.append(name)
            ways[tuple(joined)] = None
    return tuple(ways)


def _fold(text: str) -> Names:
    return tuple(
        form for part in text.replace(".", ". ").split() for form in forms_as_written(part.lower())
    )
