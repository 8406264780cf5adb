"""Propose topics to follow from a reader's own papers: phrases that the papers share. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.matching.corpus import CorpusStatistics, Readable
from pipeline.matching.query import TopicQuery
from pipeline.matching.suggestions import Count, parsed
from pipeline.matching.tokens import STOP_WORDS, forms_as_written, stem

MOST_PROPOSED: Final = 6
ENOUGH: Final = 4  # topics, to which phrases of a single paper are added at most
FEW: Final = 4  # papers; of fewer, phrases of a single paper are added up to `MOST_PROPOSED`
MOST_READ: Final = 100  # papers, the first ones
ABSTRACT: Final = 2_000  # characters of each abstract
MOST_TRIED: Final = 60  # queries; each one costs a search
LONGEST: Final = 4  # words of a phrase
TITLED: Final = 2.0  # a paper with the phrase in its title counts as three
REPEATED: Final = 3  # mentions of a phrase in the abstract of a single paper
LEAST_ALONE: Final = 3  # recent papers with a phrase of a single paper
MOST_SHARE: Final = 0.12  # of the recent papers; a topic with more of them is no choice
MOST_SHARE_OF_WORD: Final = 0.06  # for a topic of one word
ALIKE: Final = 0.5  # share of common papers from which two topics count as one

_CLAUSE: Final = re.compile(
    r"[.,;:!?()\[\]\"\u201c\u201d\u2013\u2014/]+\s|[()\[\]\"\u201c\u201d]|\s[\u2013\u2014-]+\s|\n"
)
_LINK: Final = re.compile(r"(?:https?://|www\.)\S+")
_NUMBER: Final = re.compile(r"\d+[bkmx]?")
_INSIDE: Final = frozenset({"of", "to"})  # stop words that a subject may have: chain of thought
_COMMON: Final = """
ability able accuracy accurate achieve achieving across additional address advance advanced advances
ai aim aligning analysis analyze application applied apply approach approaches around art available
average based baseline baselines benchmark benchmarking best better beyond billion bridge build
capabilities capability capture challenge challenges challenging code combine common comparable
compared comparison competitive complex component comprehensive conduct consider consistent
consistently contrast cost critical current dataset datasets demonstrate demonstrated design
designed despite develop different difficult directly diverse due effective effectively
effectiveness efficiency efficient effort enable enabling end enhance evaluate evaluated evaluating
evaluation existing experiment experimental experiments explore extensive face facilitate fail field
final find findings first focus following framework frameworks fully fundamental furthermore future
gain gap general generally generate generating github given good help high higher highly however
https hugging identify impact implement important improve improved improvement improvements
improving include including increase increasing insight insights introduce introducing investigate
issue issues key known large largely lead leading least less level leverage leveraging limitation
limitations limited low lower main make many method methodology methods metric million multiple
namely need new notably novel number obtain offer often one open outperform outperforming
outperforms overall paper paradigm particular perform performance pipeline possible potential
practical present presented previous primarily prior problem problems project promising propose
proposed provide provides providing real recent recently reduce reduction release released remain
remains require requirement requires research researcher result results reveal robust robustness
show shows significant significantly simple single source specific specifically standard state step
still strategy strong struggle study substantial substantially success suggest suite superior
support survey task tasks technical technique techniques term test three time tool toward towards
traditional trillion truth two type typically unified use used useful user using utilize valid
validate variety various way well whether wide widely within without work works year years yet
"""
_OF_ANY_PAPER: Final = frozenset(map(stem, _COMMON.split()))

Stems = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """The recent papers that a query finds: how many, and which ones."""

    count: Count
    papers: frozenset[int]


@dataclass(frozen=True, slots=True)
class ProposedTopic:
    """A topic that was tried, and how many of the reader's papers have it."""

    query: TopicQuery
    count: Count
    shared: int


@dataclass(frozen=True, slots=True)
class _Phrase:
    """A phrase of the reader's papers."""

    stems: Stems
    written: str
    papers: int
    titled: int  # papers with it in the title

    @property
    def support(self) -> float:
        return self.papers + TITLED * self.titled

    @property
    def is_shared(self) -> bool:
        """Return whether several papers share it: two of them only if it is in a title."""
        return self.papers >= (2 if self.titled else 3)


@dataclass(frozen=True, slots=True)
class _Word:
    """A word between spaces, and where it may stand in a phrase."""

    raw: str
    stems: Stems
    begins: bool
    ends: bool
    is_inside: bool


def proposed_topics(
    papers: Sequence[Readable],
    corpus: CorpusStatistics,
    archive: Callable[[TopicQuery], Tried],
    recent: int,
) -> list[ProposedTopic]:
    """Return at most `MOST_PROPOSED` topics that a reader of these papers may want to follow.

    They are phrases that several of the papers share, then telling ones of a single paper, and the
    category that most of the papers have. `archive` tries a query, at most `MOST_TRIED`, on the
    `recent` newest papers, about a month of them: a topic finds at least one of them, at most
    `MOST_SHARE` of them and no flood, and mostly other papers than the topics before it.
    """
    tried = [
        (phrase, query, found)
        for phrase in _candidates(papers, corpus, recent)
        if (query := parsed(phrase.written)) is not None
        and _has_volume(found := archive(query), phrase, recent)
    ]
    tried.sort(key=lambda one: (not one[0].is_shared, -_worth(one[0], one[2], recent)))
    most_alone = MOST_PROPOSED if len(papers) < FEW else ENOUGH
    chosen: list[tuple[_Phrase, TopicQuery, Tried]] = []
    for phrase, query, found in tried:
        most = MOST_PROPOSED if phrase.is_shared else most_alone
        if len(chosen) < most and not any(
            _is_same(phrase, found, other, theirs) for other, _, theirs in chosen
        ):
            chosen.append((phrase, query, found))
    return [ProposedTopic(query, found.count, phrase.papers) for phrase, query, found in chosen]


def _candidates(papers: Sequence[Readable], corpus: CorpusStatistics, recent: int) -> list[_Phrase]:
    """Return the phrases and the category to try, the most telling first."""
    least = corpus.papers / max(1, recent)  # papers with a word of which one or more are recent
    phrases = [
        one
        for one in _phrases(papers)
        if all(corpus.frequencies.get(word, 0) >= least for word in one.stems if _tells(word))
    ]
    phrases.sort(key=lambda one: (-one.support * math.sqrt(_idf(one.stems, corpus)), one.stems))
    return [*phrases[: MOST_TRIED - 1], *_category(papers)]


def _category(papers: Sequence[Readable]) -> Iterator[_Phrase]:
    counts = Counter(name for paper in papers for name in set(paper.categories))
    for name, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:1]:
        if count > 1 and count >= len(papers) / 2:
            yield _Phrase((f"cat:{name.lower()}",), f"cat:{name}", count, 0)


def _has_volume(tried: Tried, phrase: _Phrase, recent: int) -> bool:
    least = 1 if phrase.is_shared else LEAST_ALONE
    most = MOST_SHARE if len(phrase.stems) > 1 else MOST_SHARE_OF_WORD
    return least <= tried.count.papers <= max(least, most * recent) and not tried.count.is_flood


def _worth(phrase: _Phrase, tried: Tried, recent: int) -> float:
    """Return how much a topic says of the reader, and how much it brings."""
    found = tried.count.papers
    return phrase.support * math.log(1 + recent / found) * math.log2(1 + found)


def _is_same(one: _Phrase, found: Tried, other: _Phrase, theirs: Tried) -> bool:
    stems, others = set(one.stems), set(other.stems)
    return stems <= others or others <= stems or _overlap(found.papers, theirs.papers) >= ALIKE


def _overlap(one: Collection[int], other: Collection[int]) -> float:
    return len({*one} & {*other}) / max(1, min(len(one), len(other)))


# --- Phrases ------------------------------------------------------------------------------------


def _phrases(papers: Sequence[Readable]) -> Iterator[_Phrase]:
    """Yield the phrases of several papers, of a title, or repeated in one abstract."""
    within: defaultdict[Stems, set[int]] = defaultdict(set)
    titled: defaultdict[Stems, set[int]] = defaultdict(set)
    written: defaultdict[Stems, Counter[str]] = defaultdict(Counter)
    known: dict[str, _Word] = {}
    for place, paper in enumerate(papers[:MOST_READ]):
        for stems, spelled in _spelled(paper.title, known):
            titled[stems].add(place)
            within[stems].add(place)
            written[stems][_in_small_letters(spelled)] += 1
        for stems, spelled in _spelled(paper.abstract[:ABSTRACT], known):
            within[stems].add(place)
            written[stems][spelled] += 1
    for stems, places in within.items():
        spelled = min(written[stems], key=lambda text: (-written[stems][text], text))
        phrase = _Phrase(stems, spelled, len(places), len(titled[stems]))
        if len(stems) == 1:
            is_telling = len(places) > 1 and _is_name(spelled)
        else:
            is_telling = len(places) > 1 or bool(titled[stems])
        if is_telling or (len(stems) > 1 and written[stems].total() >= REPEATED):
            yield phrase


def _spelled(text: str, known: dict[str, _Word]) -> Iterator[tuple[Stems, str]]:
    """Yield each phrase of a text: its stems, and as it is written there; `known` is a cache.

    "multi-view" is none and needs another word, "text-to-image" is one.
    """
    for clause in _CLAUSE.split(_LINK.sub(" . ", text)):
        words = [known.get(raw) or known.setdefault(raw, _word(raw)) for raw in clause.split()]
        for start in range(len(words)):
            if not words[start].begins:
                continue
            stems: Stems = ()
            for end in range(start, min(start + LONGEST, len(words))):
                stems += words[end].stems
                if len(stems) > LONGEST or not words[end].is_inside:
                    break
                if words[end].ends and not (end == start and len(stems) == 2):
                    yield stems, " ".join(word.raw for word in words[start : end + 1])


def _word(raw: str) -> _Word:
    stems = tuple(map(stem, forms_as_written(raw)))
    return _Word(
        raw,
        stems,
        begins=bool(stems) and _tells(stems[0]),
        ends=bool(stems) and _tells(stems[-1]),
        is_inside=bool(stems) and all(one in _INSIDE or _tells(one) for one in stems),
    )


def _tells(word: str) -> bool:
    is_common = word in STOP_WORDS or word in _OF_ANY_PAPER
    return not (is_common or len(word) < 2 or _NUMBER.fullmatch(word))


def _is_name(word: str) -> bool:
    """Return whether a word is an abbreviation or another name: GUI, LoRA, 3D."""
    return len(word) > 1 and any(one.isupper() or one.isdecimal() for one in word[1:])


def _in_small_letters(title: str) -> str:
    return " ".join(
        "-".join(part.lower() if part.istitle() else part for part in word.split("-"))
        for word in title.split()
    )


def _idf(stems: Stems, corpus: CorpusStatistics) -> float:
    """Return the idf of the rarest word and half of that of the others."""
    idfs = sorted((corpus.idf(one) for one in stems if _tells(one)), reverse=True)
    return idfs[0] + 0.5 * sum(idfs[1:])
