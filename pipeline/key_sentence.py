"""Choose the key sentence of an abstract: the one that says best what its authors did.

The score of a sentence is a linear function of the features below and of its frequent words. The
weights are in `key_sentence.json`, written by `paperboy bench sentences FILE --train`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, repeat
from operator import mul
from pathlib import Path
from typing import Final

Span = tuple[int, int]

WEIGHTS: Final = Path(__file__).with_name("key_sentence.json")
USUAL: Final = 25  # words of a summary; a share of `words + USUAL` is half an F score

FEATURES: Final = (
    "is the first",
    "position",  # 0 to 1
    "is the last",
    "words under 12",
    "words up to 30",
    "words over 30",
    "proposes",  # "we propose", "this paper presents"
    "is the first to propose",
    "follows a proposal",
    "proposes in few words",
    "opening brackets",
    "share of the title",
    "mean repetition",  # of its words in other sentences
    "per word: 1",  # of this and the next ones, 100 of `words + USUAL`
    "per word: in the title",
    "per word: repeated",
)
FEW: Final = 15  # words


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


COMMON: Final = _set(
    "a about across all also an and any are as at be been between both but by can do does each"
    " e g for from had has have how i if in into is it its may more most no not of on only or other"
    " our over s so some such than that the their there these they this those through to under"
    " using via was we were what when where which while who will with within 1 2 3"
)
_PROPOSE: Final = _set(
    "propose proposes proposed proposing present presents presented presenting introduce introduces"
    " introduced introducing develop develops developed"
)
_SUBJECTS: Final = frozenset({"we", "paper", "work"})
_PUNCTUATION: Final = ".,:;()-\"'/?!\u2019\u2013\u2014\u201c\u201d"

# --- Sentences ----------------------------------------------------------------------------------

# A mark without a space after it ends a sentence only before a capitalised word ("models.We show"),
# or where a script has no spaces.
_END = re.compile(
    r"([.!?\u0964\u3002\uff01\uff1f][.!?\"')\]\u2019\u201d\u300d\u300f\uff09]*)"
    r"(?:\s+|(?=[A-Z][a-z]*\s)|(?<=[\u3002\uff01\uff1f\u300d\u300f\uff09]))"
)
_OTHER_SCRIPTS = "\u0964\u3002\uff01\uff1f"
_NEVER_LAST = _set("e.g i.e eg ie vs cf ca approx viz dr mr mrs ms prof resp incl")
_BEFORE_NUMBERS = _set(
    "fig figs eq eqs eqn sec secs tab ref refs no nos v vol ch pp thm lem prop def alg app"
)
_BEFORE_LOWER_CASE = _set("al etc")
# After a single letter: "J. Smith" goes on, "vitamin C. We" does not.
_OPENERS = _set(
    "We The This These Our In To It However Here A An For By And But Moreover Furthermore"
)
_LABELS = (
    "Background|Introduction|Context|Rationale|Importance|Motivation|Objectives?|Aims?|Purpose"
    "|Materials|Methods?|Methodology|Design|Setting|Participants|Patients|Interventions?"
    "|Main outcomes?|Measurements|Results?|Findings|Conclusions?|Discussion|Interpretation"
    "|Significance|Summary|Abstract"
)
_LABEL = re.compile(
    rf"(?i:(?:{_LABELS})(?:(?: and |\s?[/&]\s?)[a-z]+){{0,2}}\s?:)\s*(?=\S)"
    rf"|(?:{_LABELS.upper()})(?: AND [A-Z]+)?\s+(?=[A-Z])"
)


# "To close this gap, we propose": what comes before "we" says little.
_LEAD_IN = re.compile(
    r"(?:In this|To|Here|Motivated|Guided|Inspired|Building|Based|Given|Towards?|Specifically"
    r"|However|Therefore|Thus)\b[^,]{0,120}, (?=(?:we|this paper|this work|our)\b)"
)


def without_lead_in(sentence: str) -> str:
    """Return the sentence from "we" on, after an ellipsis, if it begins with a phrase before it."""
    lead_in = _LEAD_IN.match(sentence)
    return f"\u2026 {sentence[lead_in.end() :]}" if lead_in else sentence


def split(text: str) -> list[Span]:
    """Return the sentences of `text` in order, without the labels of sections before them."""
    return [_unlabelled(text, span) for span in _sentences(text)]


def _sentences(text: str) -> Iterator[Span]:
    start = 0
    for end in _END.finditer(text):
        if _is_end(text, start, end):
            yield start, end.end(1)
            start = end.end()
    if start < len(text):
        yield start, len(text)


def _is_end(text: str, start: int, end: re.Match[str]) -> bool:
    """Return whether a mark ends the sentence from `start`, or belongs to an abbreviation."""
    if end.end() == len(text):
        return False  # of `text` itself
    if end[1][0] in _OTHER_SCRIPTS:
        return True
    after = text[end.end()]
    if after.islower():
        return False
    word = text[max(start, text.rfind(" ", start, end.start()) + 1) : end.start()].lstrip("([\"'“")
    if end[0] == end[1]:  # no space
        return word.isalpha() and word[-2:].islower() and len(word) > 2
    following = text[end.end() : end.end() + 12]
    return not (end[1].startswith(".") and _is_abbreviated(word, following))


def _is_abbreviated(word: str, following: str) -> bool:
    """Return whether a sentence goes on after `word` and a full stop, with `following`."""
    after = following[0]
    folded = word.lower()
    if folded in _NEVER_LAST:
        return True
    if folded in _BEFORE_NUMBERS:
        return after.isdigit() or after in "(["
    if folded in _BEFORE_LOWER_CASE:
        return not after.isupper()
    if word[-1:].isupper() and (len(word) == 1 or word[-2] == "."):
        return following.split(" ", 1)[0].rstrip(",") not in _OPENERS
    return False


def _unlabelled(text: str, span: Span) -> Span:
    start, end = span
    if ":" in text[start : start + 40] or text[start : start + 4].isupper():
        label = _LABEL.match(text, start, end)
        return (label.end(), end) if label else span
    return span


# --- Choice -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weights:
    features: tuple[float, ...]  # in the order of FEATURES
    words: Mapping[str, float]


@cache
def shipped() -> Weights:
    """Return the weights of this version; the file is read once."""
    read = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return Weights(tuple(read["features"][name] for name in FEATURES), read["words"])


def find(title: str, abstract: str, weights: Weights | None = None) -> Span:
    """Return the start and end of the key sentence; (0, 0) if there is no text.

    If the text does not seem to be English, that is the first sentence.
    """
    spans = split(abstract)
    if len(spans) < 2:
        return spans[0] if spans else (0, 0)
    words = words_of(abstract, spans)
    rows = features(title, abstract, spans, words)
    if not rows:
        return spans[0]
    scores = list(map(partial(_score, weights or shipped()), rows, words))
    return spans[scores.index(max(scores))]


def words_of(text: str, spans: Sequence[Span]) -> list[list[str]]:
    """Return the words of each span of `text`, in lower case, without punctuation."""
    for mark in _PUNCTUATION:
        text = text.replace(mark, " ")
    return [text[start:end].lower().split() for start, end in spans]


def _score(weights: Weights, row: Sequence[float], words: Sequence[str]) -> float:
    known: float = sum(map(weights.words.get, words, repeat(0.0)))
    rest: float = sum(map(mul, row, weights.features))
    return rest + known * 100 / (len(words) + USUAL)


def features(
    title: str, abstract: str, spans: Sequence[Span], words: Sequence[Sequence[str]]
) -> list[tuple[float, ...]]:
    """Return the values of FEATURES for each sentence of an abstract, given as span and as words.

    Return none if the sentences have too few of the commonest words for English.
    """
    distinct = list(map(frozenset, words))
    own = [known - COMMON for known in distinct]
    if 8 * (sum(map(len, distinct)) - sum(map(len, own))) < sum(map(len, words)):
        return []
    count = Counter(chain.from_iterable(own)).__getitem__
    in_title = frozenset(words_of(title, [(0, len(title))])[0]) - COMMON
    named, size, number = _forms(in_title), len(in_title) or 1, len(spans)
    rows: list[tuple[float, ...]] = []
    has_proposed = False
    for place, (span, said, known) in enumerate(zip(spans, distinct, own, strict=True)):
        length, common = len(words[place]), len(named & known)
        repeated = (sum(map(count, known)) - len(known)) / number
        per_word = 100 / (length + USUAL)
        proposes = not (_SUBJECTS.isdisjoint(said) or _PROPOSE.isdisjoint(said))
        rows.append(
            (
                place == 0,
                place / number,
                place == number - 1,
                12 - length if length < 12 else 0,
                length if length < 30 else 30,
                length - 30 if length > 30 else 0,
                proposes,
                proposes and not has_proposed,
                has_proposed,
                proposes and length < FEW,
                abstract.count("(", *span),
                common / size,
                repeated / (len(known) + 5),
                per_word,
                per_word * common,
                per_word * repeated,
            )
        )
        has_proposed = has_proposed or proposes
    return rows


def _forms(words: frozenset[str]) -> frozenset[str]:
    """Return the words, each also with and without the s of a plural."""
    return words.union(
        [f"{word}s" for word in words], [word[:-1] for word in words if word[-1] == "s"]
    )
