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
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Final

Span = tuple[int, int]

WEIGHTS: Final = Path(__file__).with_name("key_sentence.json")
USUAL: Final = 25  # words of a summary; a share of `words + USUAL` is half an F score

FEATURES: Final = (
    "is the first",
    "position",  # 0 to 1
    "words under 12",
    "words up to 30",
    "words over 30",
    "proposes",  # "we propose", "this paper presents"
    "is the first to propose",
    "follows a proposal",
    "proposes in few words",
    "share of the title",
    "per word: 1",  # of this and the next ones, 100 of `words + USUAL`
    "per word: in the title",
    "per word: repeated",  # in other sentences
)
FEW: Final = 15  # words
LONGEST: Final = 500  # words; longer sentences count as that long


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
# or where a script has no spaces. `_STOP` is for texts with full stops only: a pattern that begins
# with a fixed character is found in a third of the time.
_CLOSING = r"[.!?\"')\]\u2019\u201d\u300d\u300f\uff09]*"
_AFTER = r"\s+|(?=[A-Z][a-z]*\s)"
_STOP = re.compile(rf"(\.{_CLOSING})(?:{_AFTER})")
_END = re.compile(
    rf"([.!?\u0964\u3002\uff01\uff1f]{_CLOSING})"
    rf"(?:{_AFTER}|(?<=[\u3002\uff01\uff1f\u300d\u300f\uff09]))"
)
_OTHER_SCRIPTS = "\u0964\u3002\uff01\uff1f"
_NEVER_LAST = _set("e.g i.e eg ie vs cf ca approx viz dr mr mrs ms prof resp incl")
_BEFORE_NUMBERS = _set(
    "fig figs eq eqs eqn sec secs tab ref refs no nos v vol ch pp thm lem prop def alg app"
)
_BEFORE_LOWER_CASE = _set("al etc")
_ABBREVIATIONS = _NEVER_LAST | _BEFORE_NUMBERS | _BEFORE_LOWER_CASE
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
    for end in _ends(text):
        if _is_end(text, start, end):
            yield start, end.end(1)
            start = end.end()
    if start < len(text):
        yield start, len(text)


def _ends(text: str) -> Iterator[re.Match[str]]:
    if any(mark in text for mark in _OTHER_SCRIPTS):
        return _END.finditer(text)
    return _STOP.finditer(text.replace("!", ".").replace("?", "."))


def _is_end(text: str, start: int, end: re.Match[str]) -> bool:
    """Return whether a mark ends the sentence from `start`, or belongs to an abbreviation."""
    at, after = end.span()
    if after == len(text):
        return False  # of `text` itself
    if text[at] in _OTHER_SCRIPTS:
        return True
    if text[after].islower():
        return False
    word = text[max(start, text.rfind(" ", start, at) + 1) : at].lstrip("([\"'“")
    if after == end.end(1):  # no space
        return word.isalpha() and word[-2:].islower() and len(word) > 2
    if text[at] != "." or (word[-1:].islower() and word.lower() not in _ABBREVIATIONS):
        return True
    return not _is_abbreviated(word, text[after : after + 12])


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
    if text.find(":", start, start + 40) >= 0 or text[start : start + 4].isupper():
        label = _LABEL.match(text, start, end)
        return (label.end(), end) if label else span
    return span


# --- Choice -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    features: tuple[float, ...]  # in the order of FEATURES
    words: Mapping[str, float]

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        return frozenset(self.words)

    @cached_property
    def by_length(self) -> list[float]:
        """Return what a sentence adds by its number of words, for 0 to LONGEST words."""
        under, up_to, over = self.features[2:5]
        return [
            under * max(12 - length, 0) + up_to * min(length, 30) + over * max(length - 30, 0)
            for length in range(LONGEST + 1)
        ]


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
    found = scores(title, words_of(abstract, spans), weights or shipped())
    return spans[found.index(max(found))] if found else spans[0]


def words_of(text: str, spans: Sequence[Span]) -> list[list[str]]:
    """Return the words of each span of `text`, in lower case, without punctuation."""
    for mark in _PUNCTUATION:
        text = text.replace(mark, " ")
    return [text[start:end].lower().split() for start, end in spans]


def scores(title: str, words: Sequence[Sequence[str]], weights: Weights) -> list[float]:
    """Return the score of each sentence of an abstract, given as words: linear in the weights.

    Return none if the sentences have too few of the commonest words for English.
    """
    distinct = list(map(frozenset, words))
    own = [known - COMMON for known in distinct]
    if 8 * (sum(map(len, distinct)) - sum(map(len, own))) < sum(map(len, words)):
        return []
    first, position, _, _, _, again, proposal, follows, in_few, share, one, titled, repeated = (
        weights.features
    )
    in_title = frozenset(words_of(title, [(0, len(title))])[0]) - COMMON
    share /= len(in_title) or 1
    position, repeated = position / len(words), repeated / len(words)
    count = Counter(chain.from_iterable(own)).__getitem__
    value, valued, by_length = weights.words.__getitem__, weights.vocabulary, weights.by_length
    proposal, after = proposal + again, 0.0
    found: list[float] = []
    for place, (said, known) in enumerate(zip(distinct, own, strict=True)):
        length, common = len(words[place]), len(in_title & known)
        per_word = one + titled * common + repeated * (sum(map(count, known)) - len(known))
        per_word += sum(map(value, said & valued))
        score = position * place + by_length[min(length, LONGEST)] + share * common + after
        if not (_SUBJECTS.isdisjoint(said) or _PROPOSE.isdisjoint(said)):
            score += proposal + (in_few if length < FEW else 0.0)
            proposal, after = again, follows
        found.append(score + per_word * 100 / (length + USUAL))
    found[0] += first
    return found
