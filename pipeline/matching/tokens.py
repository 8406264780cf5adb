"""Tokenize text into folded forms and stems, which compare equal if a reader sees one word."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from pipeline.matching.stemming import base

_COMMON = """
a about above after again all also am an and any are as at be because been before being
between both but by can could did do does doing down during each few for from further had
has have having he her here his how i if in into is it its itself just me more most my no
nor not now of off on once only or other our out over own same she should so some such than
that the their them then there these they this those through to too under until up upon us
very via was we were what when where which while who whom why will with would you your
"""
STOP_WORDS = frozenset(_COMMON.split())
"""Words that do not describe the subject of a paper; they count only inside phrases."""

_FOREIGN = str.maketrans(
    {"\u0131": "i", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe"}
)
_LETTER_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau
upsilon phi chi psi omega
"""
_GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψως", [*_LETTER_NAMES.split(), "sigma"], strict=True))
_GREEK_NAMES = frozenset(_GREEK.values())
# Up to three letters in a row are symbols (beta2 or TNFalpha in Greek); more are a Greek word.
_GREEK_SYMBOLS = re.compile("(?<![\u03b1-\u03c9])[\u03b1-\u03c9]{1,3}(?![\u03b1-\u03c9])")
_MICRO = re.compile(r"μ(?=(?:m|s|l|g|w|v|a|k|mol|m2)$)")  # the unit, not the letter: µm

ACRONYMS = frozenset(
    {"WHO", "IT", "US", "CAN", "ALL", "ME", "NO", "AM", "AS", "DO", "HE", "HER", "IF"}
)
"""Names that equal a stop word in lower case; their forms keep the capitals."""
_ALWAYS_CAPITALS = ACRONYMS | {"AND", "OR", "NOT", "ANDNOT"}
_AN_ACRONYM = re.compile(rf"\b(?:{'|'.join(sorted(ACRONYMS))})\b|(?:[A-Z]\.){{2}}")
_SMALL = str.maketrans({chr(letter): chr(letter + 32) for letter in range(65, 91)})

# TeX writes an accent as a command before its letter: \"o, \'{e}, {\"u}, \c{c}.
_ACCENT = r"\{?\\(?:[\"'`^~=.]\s?\{?\\?[A-Za-z]\}?|[uvHckr]\{[A-Za-z]\})\}?"
_LETTER = rf"(?:[^\W_]|[\u0300-\u036f]|{_ACCENT})"
# Marks that turn the word before them into another word: C++17, PointNet++, C#, A*, RRT*, R&D.
_MARK = (
    r"\+\+(?:\d{2}|\d[a-z])?(?![\w+])|(?<=(?<!\w)[A-Za-z])\#(?!\w)"
    r"|(?:(?<=(?<![\w*])[A-Za-z])|(?<=[A-Z][A-Z0-9]))\*(?![\w*])"
    r"|(?:(?<=(?<![\w&])[A-Za-z])|(?<=(?<![\w&])[A-Za-z]{2}))&[A-Za-z](?![\w&])"
)
_WORD = re.compile(
    rf"\\[A-Za-z]{{2,}}(?![A-Za-z])|(?<!\w)(?:[A-Z]\.){{2,4}}(?!\w)|(?<![\w.])\.(?:NET|net)(?!\w)"
    rf"|{_LETTER}(?:{_LETTER}|['\u2019](?=[^\W_]))*(?:{_MARK})?"
)
_ACCENT_COMMAND = re.compile(r"\\(?:[\"'`^~=.]\s?|[uvHckr](?=\{))|[{}\\]")
_ACCENTS = re.compile("[\u0300-\u036f]+")
_IDEOGRAPHS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
_HYPHENS = frozenset("-\u2010\u2011")

_PLURAL_NUMBER = re.compile(r"[a-z][a-z0-9]*\ds$")  # h100s
_LONGEST_STEMMED = 40  # letters; no English word is longer
_REMEMBERED = 1 << 15  # words of at most 40 letters: about 20 MB at most for three caches


class Word(NamedTuple):
    """One word of a text: its folded form, and the characters it spans."""

    form: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """Return the words of `text` in order, without case, accents, punctuation or TeX markup."""
    found: list[Word] = []
    for match in _WORD.finditer(calm(text)):
        start, end = match.span()
        found.extend(Word(form, start, end) for form in _fold(match.group()))
    return found


def stems(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the stems of the words of `text` in order, and their spans.

    The result equals `stem` of each of `words`, in a third of the time.
    """
    found, spans = [], []
    for match in _WORD.finditer(calm(text)):
        for one in _stems(match.group()):
            found.append(one)
            spans.append(match.span())
    return found, spans


def forms(text: str) -> tuple[str, ...]:
    """Return the folded words of `text` without spans. Idempotent: forms of forms are the same."""
    return forms_as_written(calm(text))


def forms_as_written(text: str) -> tuple[str, ...]:
    """Return the forms of a part of a text; capitals count even if the part is all capitals."""
    return tuple(form for match in _WORD.finditer(text) for form in _fold(match.group()))


def calm(text: str) -> str:
    """Return `text` in lower case if it is all capitals, else unchanged; offsets stay valid.

    "WHO" names an organization, but not in "WHO IS AFRAID OF GRAPHS?". A text without one of the
    acronyms is returned unchanged.
    """
    if _AN_ACRONYM.search(text) is None:
        return text
    others = [raw for raw in _WORD.findall(text) if raw not in _ALWAYS_CAPITALS and _fold(raw)]
    has_small = any(letter.islower() for raw in others for letter in raw)
    has_capitals = any(letter.isupper() for raw in others for letter in raw)
    return text.translate(_SMALL) if has_capitals and not has_small else text


def is_hyphen(text: str) -> bool:
    return text in _HYPHENS


def stem(form: str) -> str:
    """Return the stem that a folded word shares with its plural and its other inflected forms."""
    # Longer words are not cached: visitors can make up any number of them.
    if len(form) > _LONGEST_STEMMED or not form.isascii():
        return form
    return _stem(form)


_ENDINGS = ("", "ing", "ed", "ation")


def ending(form: str) -> int:
    """Return the number of the ending that `stem` removes from a folded word; 0 for a plural.

    Two words with one stem and one ending differ in their spelling or number only: "matching" and
    "matchings", not "matching" and "matched".
    """
    for number, one in enumerate(_ENDINGS[1:], 1):
        if form.removesuffix("s").endswith(one) and not stem(form).endswith(one):
            return number
    return 0


@lru_cache(maxsize=_REMEMBERED)
def _stem(form: str) -> str:
    if form.isalpha():
        return base(form) if form.islower() else form
    return form[:-1] if _PLURAL_NUMBER.search(form) else form


def _stems(raw: str) -> tuple[str, ...]:
    return _known_stems(raw) if len(raw) <= _LONGEST_STEMMED else _make_stems(raw)


def _make_stems(raw: str) -> tuple[str, ...]:
    return tuple(stem(form) for form in _fold(raw))


def _fold(raw: str) -> tuple[str, ...]:
    return _known_forms(raw) if len(raw) <= _LONGEST_STEMMED else _make_forms(raw)


def _make_forms(raw: str) -> tuple[str, ...]:
    if raw.isascii() and raw.isalnum():
        return (raw if raw in ACRONYMS else raw.lower(),)
    if raw.startswith("\\") and raw[1:].isalpha():
        name = raw[1:].lower()
        return (name,) if name in _GREEK_NAMES else ()
    if raw.isascii() and (raw[0] == "." or raw[-1] in "+#*" or "&" in raw or "++" in raw):
        return (raw if raw[-1] == "*" and len(raw) > 2 else raw.lower(),)
    if raw[-1] == ".":  # U.S.
        name = raw.replace(".", "")
        return (name if name in ACRONYMS else name.lower(),)
    return tuple(map(_with_letter_names, _IDEOGRAPHS.findall(_without_marks(raw))))


def _with_letter_names(piece: str) -> str:
    """Replace Greek letters with their names if they are symbols; keep Greek words unchanged."""
    if piece.isascii():
        return piece
    piece = _MICRO.sub("u", piece)
    return _GREEK_SYMBOLS.sub(
        lambda found: "".join(_GREEK[letter] for letter in found.group()), piece
    )


_known_stems = lru_cache(maxsize=_REMEMBERED)(_make_stems)
_known_forms = lru_cache(maxsize=_REMEMBERED)(_make_forms)


def _without_marks(raw: str) -> str:
    text = raw
    if "\\" in text or "{" in text:
        text = _ACCENT_COMMAND.sub("", text)
    text = re.sub(r"['\u2019]s$", "", text)
    return "".join(letter for letter in folded(text) if letter.isalnum())


def folded(text: str) -> str:
    """Return `text` in lower case and without accents."""
    if text.isascii():
        return text.lower()
    for _ in range(2):  # twice: casefold can add marks, and NFKD can add capitals
        text = unicodedata.normalize("NFKD", text).casefold().translate(_FOREIGN)
    return unicodedata.normalize("NFC", _ACCENTS.sub("", text))
