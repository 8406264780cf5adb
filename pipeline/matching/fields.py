"""Filter papers by author, category and source."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.matching.author_names import keys, names_match, wanted_keys
from pipeline.matching.corpus import Readable
from pipeline.matching.query import Field

Numbers = npt.NDArray[np.int64]

MOST_AUTHORS = 1 << 20  # of one paper


class Fields:
    """Lookup of papers by field; a paper is its index in the sequence passed in."""

    def __init__(self, papers: Sequence[Readable]) -> None:
        self._by_category = _by_name((i, one) for i, p in enumerate(papers) for one in p.categories)
        self._by_source = _by_name((i, one) for i, p in enumerate(papers) for one in p.sources)
        self._authors = [paper.authors for paper in papers]

    def find(self, field: Field, wanted: tuple[str, ...]) -> set[int]:
        if field is Field.AUTHOR:
            return set(self.written_by(wanted))
        if field is Field.SOURCE:
            return self._by_source.get(wanted[0], set())
        return self._in_category(wanted[0])

    def _in_category(self, wanted: str) -> set[int]:
        """Return papers by category: `cs` is all of cs.*, `cs.c*` a prefix, `cs.cl` one name."""
        if wanted.endswith("*"):
            names = [name for name in self._by_category if name.startswith(wanted[:-1])]
        else:
            names = [
                name
                for name in self._by_category
                if name == wanted or name.startswith(wanted + ".")
            ]
        return set().union(*(self._by_category[name] for name in names))

    def index_authors(self) -> None:
        """Build the lookup of authors now instead of for the first query that filters by them.

        It takes about 80 microseconds for each author of a paper.
        """
        _ = self._by_key

    @cached_property
    def _by_key(self) -> tuple[Numbers, Numbers]:
        """Authors by `keys`: the hashes of the keys, ascending, and the author that has each key.

        An author is the paper and the position in its list in one number. As words in a dictionary,
        the names of a paper would take three kilobytes.
        """
        hashes, authors = array("q"), array("q")
        for paper, names in enumerate(self._authors):
            for position, name in enumerate(names):
                for key in keys(name):
                    hashes.append(hash(key))
                    authors.append(paper * MOST_AUTHORS + position)
        found = np.array(hashes, dtype=np.int64)
        order = np.argsort(found, kind="stable")
        return found[order], np.array(authors, dtype=np.int64)[order]

    def _with_key(self, key: str) -> Numbers:
        hashes, authors = self._by_key
        wanted = hash(key)
        first, end = np.searchsorted(hashes, wanted), np.searchsorted(hashes, wanted, side="right")
        return authors[first:end]

    def written_by(self, wanted: tuple[str, ...]) -> dict[int, str]:
        """Return the papers of an author, ascending, with the name as the paper prints it."""
        candidates = set().union(*(self._with_key(key).tolist() for key in wanted_keys(wanted)))
        is_wanted: dict[str, bool] = {}  # a name is compared once, however many papers have it
        found: dict[int, str] = {}
        for candidate in sorted(candidates):
            paper, position = divmod(candidate, MOST_AUTHORS)
            name = self._authors[paper][position]
            if name not in is_wanted:
                is_wanted[name] = names_match(name, wanted)
            if is_wanted[name]:
                found.setdefault(paper, name)
        return found

    @cached_property
    def _everybody(self) -> int:
        return sum(map(len, self._authors))

    def bearers(self, wanted: tuple[str, ...]) -> list[int]:
        """Return for each name how many authors of papers have it, and the number of all authors.

        An author counts once for each paper.
        """
        counts = [self._with_key(name).size for name in wanted]
        return [*counts, self._everybody]


def _by_name(pairs: Iterable[tuple[int, str]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for paper, name in pairs:
        found[re.sub(r"[^a-z0-9.-]", "", name.lower())].add(paper)
    return dict(found)
