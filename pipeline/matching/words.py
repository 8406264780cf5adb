"""Text as words that compare equal when a reader would call them the same."""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import lru_cache
from typing import NamedTuple

_COMMON = """
a about above after again all also am an and any are as at be because been before being
between both but by can could did do does doing down during each few for from further had
has have having he her here his how i if in into is it its itself just me more most my no
nor not now of off on once only or other our out over own same she should so some such than
that the their them then there these they this those through to too under until up upon us
very via was we were what when where which while who whom why will with would you your
"""
STOP_WORDS = frozenset(_COMMON.split())
"""Words that say nothing about what a paper is about; they count only inside phrases."""

_FOREIGN = str.maketrans(
    {"\u0131": "i", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe"}
)
_LETTER_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau
upsilon phi chi psi omega
"""
_GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", _LETTER_NAMES.split(), strict=True))
_GREEK_NAMES = frozenset(_GREEK.values())

# TeX writes an accent as a command before its letter: \"o, \'{e}, {\"u}, \c{c}.
_ACCENT = r"\{?\\(?:[\"'`^~=.]\s?\{?\\?[A-Za-z]\}?|[uvHckr]\{[A-Za-z]\})\}?"
_LETTER = rf"(?:[^\W_]|[\u0300-\u036f]|{_ACCENT})"
_WORD = re.compile(
    rf"\\[A-Za-z]{{2,}}(?![A-Za-z])|[A-Za-z](?:\+\+|\#)(?!\w)|{_LETTER}(?:{_LETTER}|['\u2019](?=[^\W_]))*"
)
_ACCENT_COMMAND = re.compile(r"\\(?:[\"'`^~=.]\s?|[uvHckr](?=\{))|[{}\\]")
_IDEOGRAPHS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
_HYPHENS = frozenset("-\u2010\u2011")

_LONGEST_STEMMED = 40  # nothing longer is an English word
_REMEMBERED = 1 << 15  # words; at most 40 letters each, so at most some 20 MB for three caches


class _Stemmer(threading.local):
    """One for each thread: a stemmer keeps the word it is at in itself."""

    def __init__(self) -> None:
        import snowballstemmer  # which brings thirty languages: not before a word is to be stemmed

        self.stem_word = snowballstemmer.stemmer("english").stemWord


_stemmer = _Stemmer()


class Word(NamedTuple):
    """One word of a text: folded, and where it stands there."""

    form: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """The words of `text` in order, without case, accents, punctuation or TeX markup."""
    found: list[Word] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        found.extend(Word(form, start, end) for form in _fold(match.group()))
    return found


def stems(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The stem of each of its words in order, and from where to where that word stands.

    The same as `stem` of each of `words`, in a third of the time.
    """
    found, spans = [], []
    for match in _WORD.finditer(text):
        for one in _stems(match.group()):
            found.append(one)
            spans.append(match.span())
    return found, spans


def forms(text: str) -> tuple[str, ...]:
    """The words of `text` alone. Reading the forms again gives the same forms."""
    return tuple(form for match in _WORD.finditer(text) for form in _fold(match.group()))


def is_hyphen(text: str) -> bool:
    return text in _HYPHENS


def stem(form: str) -> str:
    """What a folded word shares with its plural and its other endings (Snowball English)."""
    # Longer ones are not kept: visitors can invent them without end.
    return form if len(form) > _LONGEST_STEMMED else _stem(form)


@lru_cache(maxsize=_REMEMBERED)
def _stem(form: str) -> str:
    if _is_plural_acronym(form):
        return form[:-1]
    return str(_stemmer.stem_word(form.replace("isation", "ization")))


def _is_plural_acronym(form: str) -> bool:
    """True for llms and gpus, which Snowball leaves alone for want of a vowel before the s."""
    if len(form) < 4 or not form.endswith("s") or form.endswith("ss"):
        return False
    return not set(form) & set("aeiouy") or form in {"cpus", "gpus", "npus", "tpus"}


def _stems(raw: str) -> tuple[str, ...]:
    return _known_stems(raw) if len(raw) <= _LONGEST_STEMMED else _make_stems(raw)


def _make_stems(raw: str) -> tuple[str, ...]:
    return tuple(stem(form) for form in _fold(raw))


def _fold(raw: str) -> tuple[str, ...]:
    return _known_forms(raw) if len(raw) <= _LONGEST_STEMMED else _make_forms(raw)


def _make_forms(raw: str) -> tuple[str, ...]:
    if raw.isascii() and raw.isalnum():
        return (raw.lower(),)
    if raw.startswith("\\") and raw[1:].isalpha():
        name = raw[1:].lower()
        return (name,) if name in _GREEK_NAMES else ()
    if raw[-1] in "+#":
        return (raw.lower(),)
    return tuple(_GREEK.get(piece, piece) for piece in _IDEOGRAPHS.findall(_without_marks(raw)))


_known_stems = lru_cache(maxsize=_REMEMBERED)(_make_stems)
_known_forms = lru_cache(maxsize=_REMEMBERED)(_make_forms)


def _without_marks(raw: str) -> str:
    text = raw
    if "\\" in text or "{" in text:
        text = _ACCENT_COMMAND.sub("", text)
    text = re.sub(r"['\u2019]s$", "", text)
    for _ in range(2):  # folding case can bring marks back, and decomposing can bring capitals
        text = unicodedata.normalize("NFKD", text).casefold().translate(_FOREIGN)
    text = "".join(letter for letter in text if not "\u0300" <= letter <= "\u036f")
    return "".join(letter for letter in unicodedata.normalize("NFC", text) if letter.isalnum())
