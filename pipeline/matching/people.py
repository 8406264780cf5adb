"""Group the papers of an author's name by person, and suggest authors of liked papers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, product
from typing import Final, Protocol

from pipeline.errors import QueryError
from pipeline.matching.author_names import Names, author_forms, keys, names_match, wanted_keys
from pipeline.matching.query import TopicQuery, author_topic

MOST_GROUPED: Final = 200  # newest papers of a name
MOST_COAUTHORS: Final = 30  # of one paper, that are compared
MOST_PERSONS: Final = 30  # of different names
MOST_FORMS: Final = 300  # of one name, the most frequent ones
MOST_PAIRED: Final = 8  # of them, of which two link papers of different fields
LEAST_LIKED: Final = 2  # papers of an author that is suggested
FEW_LIKED: Final = 5  # papers; from fewer, their first and last authors are suggested, too
MOST_SUGGESTED: Final = 10
MOST_TRIED: Final = 40  # authors that are counted in the archive


class Authored(Protocol):
    """The attribute of a paper that `suggested_people` reads."""

    @property
    def authors(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class SignedPaper:
    """A paper of an author, by any number, with the name as the paper prints it."""

    paper: int
    name: str
    coauthors: tuple[str, ...]
    categories: tuple[str, ...]  # the primary one first

    @property
    def primary(self) -> str:
        return self.categories[0] if self.categories else ""


@dataclass(frozen=True, slots=True)
class Person:
    """Papers that are likely by one person, in the order given."""

    name: str  # the fullest form
    papers: tuple[SignedPaper, ...]

    @property
    def coauthors(self) -> list[tuple[str, int]]:
        """Return the co-authors and their numbers of common papers, most first.

        Names that differ in capitals, dots and order only are one, in the most frequent form.
        Papers of more than `MOST_COAUTHORS` others do not count.
        """
        forms: dict[str, Counter[str]] = defaultdict(Counter)
        for one in self.papers:
            for name in one.coauthors if len(one.coauthors) <= MOST_COAUTHORS else ():
                forms[_plain(name)][name] += 1
        counted = [(known.most_common(1)[0][0], known.total()) for known in forms.values()]
        return sorted(counted, key=lambda one: (-one[1], one[0]))

    @property
    def categories(self) -> list[tuple[str, int]]:
        """Return the categories and their numbers of papers, most first."""
        counted = Counter(chain.from_iterable(one.categories for one in self.papers))
        return sorted(counted.items(), key=lambda one: (-one[1], one[0]))

    @property
    def field(self) -> str:
        """Return the primary category of most papers; "" if none has one."""
        return _most_common(one.primary for one in self.papers)


def letters(names: Names) -> int:
    """Return the number of letters in the names that are not initials: how full a name is."""
    return sum(len(one) for one in names if len(one) > 1)


def fullest(forms: Iterable[str]) -> str:
    """Return the fullest form of a name whose topic finds all the others; "" if there is none.

    `forms` are the names printed in papers, each as often as it is printed. "Ada Lovelace" finds
    "A. Lovelace" and is fuller; of "Jun Wang", "Jie Wang" and "J. Wang" only the last finds all.
    """
    counts = dict(Counter(forms).most_common(MOST_FORMS))
    ordered = sorted(counts, key=lambda form: (-letters(author_forms(form)), -counts[form], form))
    for form in ordered:
        names = author_forms(form)
        if all(names_match(other, names) for other in ordered):
            return form
    return ""


def persons(
    papers: Sequence[SignedPaper], is_common: Callable[[Names], bool]
) -> tuple[tuple[Person, ...], tuple[SignedPaper, ...]]:
    """Group the papers of a name by person, most papers first; also return the papers of none.

    Names that contradict each other (Jun, Jie) are different persons; a paper by J. Wang belongs to
    the one with whom it shares co-authors or the field. Papers under one name are split only if the
    name has no full given name or `is_common`, into groups of at least two papers that share
    neither co-authors nor the field. Else there is one person.
    """
    namesakes, unclear = _by_name(papers, is_common)
    found: list[list[SignedPaper]] = []
    for theirs in namesakes:
        groups, others = _groups(theirs) if _may_be_several(theirs, is_common) else ([theirs], [])
        found += groups
        unclear += others
    if len(found) < 2:
        return ((_person(papers),) if papers else ()), ()
    place = {one: number for number, one in enumerate(papers)}
    found = [sorted(group, key=place.__getitem__) for group in found]
    found.sort(key=lambda group: (-len(group), place[group[0]]))
    return tuple(map(_person, found)), tuple(sorted(unclear, key=place.__getitem__))


# --- Names --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Form:
    """A printed name with what is compared."""

    written: str
    names: Names
    keys: frozenset[str]
    wanted: frozenset[str]

    @classmethod
    def of(cls, written: str) -> _Form:
        names = author_forms(written)
        return cls(written, names, keys(written), wanted_keys(names))

    @property
    def is_whole(self) -> bool:
        """Return whether the name has no initials."""
        return all(len(name) > 1 for name in self.names)

    def may_be(self, other: _Form, is_common: Callable[[Names], bool]) -> bool:
        """Return whether two names can be of one person.

        If one of them has a name more, the other one must not be common.
        """
        # Rules out most names, in a hundredth of the time.
        shared = max(len(self.keys & other.wanted), len(other.keys & self.wanted))
        if shared < 2 and self.is_whole and other.is_whole:
            return False
        finds = names_match(other.written, self.names)
        is_found = names_match(self.written, other.names)
        if finds and is_found:
            return True
        shorter = self.names if finds else other.names
        return (finds or is_found) and not is_common(shorter)


def _by_name(
    papers: Sequence[SignedPaper], is_common: Callable[[Names], bool]
) -> tuple[list[list[SignedPaper]], list[SignedPaper]]:
    """Return the papers of each name, and those that may be of several or of none of them.

    Names in full come first, the most frequent ones first, so that initials find theirs.
    """
    counts = Counter(one.name for one in papers)
    forms = sorted(
        map(_Form.of, counts),
        key=lambda one: (not one.is_whole, -counts[one.written], -letters(one.names), one.written),
    )
    bearers: list[_Form] = []
    fits: dict[str, list[int]] = {}
    for form in forms:
        same = [place for place, one in enumerate(bearers) if form.may_be(one, is_common)]
        if not same and len(bearers) < MOST_PERSONS:
            same = [len(bearers)]
            bearers.append(form)
        fits[form.written] = same
    sure: list[list[SignedPaper]] = [[] for _ in bearers]
    for one in papers:
        if len(fits[one.name]) == 1:
            sure[fits[one.name][0]].append(one)
    known = list(map(_Traits.of, sure))
    unclear: list[SignedPaper] = []
    for one in papers:
        if len(places := fits[one.name]) != 1:
            best = _nearest(one, [known[place] for place in places])
            (unclear if best is None else sure[places[best]]).append(one)
    return sure, unclear


def _person(papers: Sequence[SignedPaper]) -> Person:
    """Return a person under the fullest of the names, of equals under the most frequent one."""
    counts = Counter(one.name for one in papers)
    name = max(counts, key=lambda name: (letters(author_forms(name)), counts[name], name))
    return Person(name, tuple(papers))


def _may_be_several(papers: Sequence[SignedPaper], is_common: Callable[[Names], bool]) -> bool:
    """Return whether the name, in its fullest form, has no full given name or is common."""
    names = author_forms(_person(papers).name)
    return sum(len(one) > 1 for one in names) < 2 or is_common(names)


@lru_cache(maxsize=1 << 12)
def _plain(name: str) -> str:
    """Return a name without capitals, dots and commas, its parts in alphabetical order."""
    return " ".join(sorted(name.casefold().replace(".", " ").replace(",", " ").split()))


# --- Groups -------------------------------------------------------------------------------------


def _groups(
    papers: Sequence[SignedPaper],
) -> tuple[list[list[SignedPaper]], list[SignedPaper]]:
    """Return groups of at least two papers, and the papers that belong to none of several."""
    linked = _linked(papers, _links)
    by_field: dict[str, list[list[SignedPaper]]] = defaultdict(list)
    for number, group in enumerate(linked):
        by_field[_most_common(one.primary for one in group) or str(number)].append(group)
    merged = [list(chain.from_iterable(groups)) for groups in by_field.values()]
    groups = [group for group in merged if len(group) > 1]
    if len(groups) < 2:
        return [list(papers)], []
    known = list(map(_Traits.of, groups))
    rest: list[SignedPaper] = []
    for one in chain.from_iterable(group for group in merged if len(group) == 1):
        best = _nearest(one, known)
        (rest if best is None else groups[best]).append(one)
    return groups, rest


def _links(paper: SignedPaper) -> Iterator[tuple[str, str]]:
    """Yield what links two papers: a co-author in one category, or two co-authors."""
    names = _compared(paper)
    yield from product(names, paper.categories or ("",))
    yield from combinations(sorted(names[:MOST_PAIRED]), 2)


def _linked(
    papers: Sequence[SignedPaper], links: Callable[[SignedPaper], Iterable[object]]
) -> list[list[SignedPaper]]:
    """Return the papers in groups that are connected by links (union-find)."""
    parent = list(range(len(papers)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    first: dict[object, int] = {}
    for place, paper in enumerate(papers):
        for link in links(paper):
            one, other = sorted((root(place), root(first.setdefault(link, place))))
            parent[other] = one
    groups: dict[int, list[SignedPaper]] = defaultdict(list)
    for place, paper in enumerate(papers):
        groups[root(place)].append(paper)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Traits:
    """How many papers of a group have each co-author and each primary category."""

    coauthors: Counter[str]
    primaries: Counter[str]

    @classmethod
    def of(cls, papers: Sequence[SignedPaper]) -> _Traits:
        names = chain.from_iterable(map(_compared, papers))
        return cls(Counter(names), Counter(one.primary for one in papers if one.primary))


def _compared(paper: SignedPaper) -> list[str]:
    return [_plain(name) for name in paper.coauthors[:MOST_COAUTHORS]]


def _nearest(paper: SignedPaper, groups: Sequence[_Traits]) -> int | None:
    """Return the group that shares most with a paper: co-authors, then the primary category.

    None if no group shares anything, or two share equally much.
    """
    names = set(_compared(paper))
    shares = [
        (sum(group.coauthors[name] for name in names), group.primaries[paper.primary])
        for group in groups
    ]
    best = max(shares, default=(0, 0))
    return shares.index(best) if any(best) and shares.count(best) == 1 else None


def _most_common(names: Iterable[str]) -> str:
    counted = Counter(filter(None, names))
    return min(counted, key=lambda name: (-counted[name], name), default="")


# --- Suggestions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SuggestedAuthor:
    """Author of liked papers, and the topic to follow."""

    name: str
    topic: TopicQuery
    liked: int  # papers
    a_month: float  # papers in the archive


def suggested_people(
    papers: Sequence[Authored], archive: Callable[[TopicQuery], float]
) -> list[SuggestedAuthor]:
    """Return the authors of liked papers who are worth following, most liked papers first.

    They are authors of at least `LEAST_LIKED` of the papers; of fewer than `FEW_LIKED` papers, the
    first and the last author of each, too. `archive` returns the papers a month that a topic finds,
    for at most `MOST_TRIED` authors; those without papers are left out.
    """
    leading = {one.authors[end] for one in papers if one.authors for end in (0, -1)}
    found = []
    for name, liked in _liked(papers):
        is_enough = liked >= LEAST_LIKED or (len(papers) < FEW_LIKED and name in leading)
        if is_enough and (topic := _topic(name)) is not None:
            found.append((name, topic, liked))
    counted = [
        SuggestedAuthor(name, topic, liked, archive(topic))
        for name, topic, liked in found[:MOST_TRIED]
    ]
    worth = [one for one in counted if one.a_month > 0]
    return sorted(worth, key=lambda one: (-one.liked, -one.a_month, one.name))[:MOST_SUGGESTED]


def _liked(papers: Sequence[Authored]) -> list[tuple[str, int]]:
    """Return the authors in their fullest form and their numbers of papers, most first."""
    signed: dict[str, set[int]] = defaultdict(set)
    for place, paper in enumerate(papers):
        for name in (*paper.authors[:MOST_COAUTHORS], *paper.authors[-1:]):
            signed[name].add(place)
    by_key: dict[str, set[str]] = defaultdict(set)
    for name in signed:
        for key in keys(name):
            by_key[key].add(name)
    found, covered = [], set[str]()
    for name in sorted(signed, key=lambda name: (-letters(author_forms(name)), name)):
        names = author_forms(name)
        if name in covered or not names:
            continue
        near = set[str]().union(*(by_key.get(key, ()) for key in wanted_keys(names)))
        same = {other for other in near if names_match(other, names)}
        covered |= same
        found.append((name, len(set[int]().union(*(signed[other] for other in same)))))
    return sorted(found, key=lambda one: (-one[1], one[0]))


def _topic(name: str) -> TopicQuery | None:
    try:
        return author_topic(name)
    except QueryError:
        return None
