"""Edit distance of short words, to recognise typos."""

from __future__ import annotations

from collections.abc import Iterator

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def edit_distance(one: str, other: str) -> int:
    """Return the number of insertions, deletions, substitutions and swaps of neighbours.

    Optimal string alignment: no letter is edited twice. Takes time proportional to the product of
    the lengths, so compare the lengths first where only small distances matter.
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def neighbours(word: str) -> Iterator[str]:
    """Yield the strings at edit distance 1, some twice: about 73 for each letter of `word`."""
    for i in range(len(word) + 1):
        head, tail = word[:i], word[i:]
        yield from (head + letter + tail for letter in ALPHABET)
        if tail:
            yield head + tail[1:]
            yield from (head + letter + tail[1:] for letter in ALPHABET)
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
