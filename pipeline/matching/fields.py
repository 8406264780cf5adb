"""The fields that filter: who wrote a paper, its categories and its sources."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pipeline.matching.corpus import Readable
from pipeline.matching.query import Field
from pipeline.matching.words import forms


class Fields:
    """Finds the papers, as places in the sequence it was made of, by what stands in a field."""

    def __init__(self, papers: Sequence[Readable]) -> None:
        self._by_category = _by_name((i, one) for i, p in enumerate(papers) for one in p.categories)
        self._by_source = _by_name((i, one) for i, p in enumerate(papers) for one in p.sources)
        self._by_surname: dict[str, set[tuple[int, tuple[str, ...]]]] = defaultdict(set)
        for i, paper in enumerate(papers):
            for author in paper.authors:
                names = forms(author)
                for name in names:
                    self._by_surname[name].add((i, names))

    def find(self, field: Field, wanted: tuple[str, ...]) -> set[int]:
        if field is Field.AUTHOR:
            return self._by_author(wanted)
        if field is Field.SOURCE:
            return self._by_source.get(wanted[0], set())
        return self._in_category(wanted[0])

    def _in_category(self, wanted: str) -> set[int]:
        """`cs` is all of cs.*, `cs.C*` what begins so, `cs.cl` itself."""
        if wanted.endswith("*"):
            names = [name for name in self._by_category if name.startswith(wanted[:-1])]
        else:
            names = [
                name
                for name in self._by_category
                if name == wanted or name.startswith(wanted + ".")
            ]
        return set().union(*(self._by_category[name] for name in names))

    def _by_author(self, wanted: tuple[str, ...]) -> set[int]:
        """Papers by an author who may be called so: any order of names, initials for names."""
        longest = max(wanted, key=len)
        candidates = self._by_surname.get(longest, ())
        return {paper for paper, names in candidates if _may_be_called(names, wanted)}


def _by_name(pairs: Iterable[tuple[int, str]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for paper, name in pairs:
        found[re.sub(r"[^a-z0-9.-]", "", name.lower())].add(paper)
    return dict(found)


def _may_be_called(names: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Every wanted name is one of the author's, each used once; whole names choose first."""
    left = list(names)
    for name in sorted(wanted, key=len, reverse=True):
        same = (
            name if name in left else next((one for one in left if _abbreviates(one, name)), None)
        )
        if same is None:
            return False
        left.remove(same)
    return True


def _abbreviates(one: str, other: str) -> bool:
    return min(len(one), len(other)) == 1 and one[0] == other[0]
