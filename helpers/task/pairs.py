"""Pairs of skills, and those that are kept apart: no text for training shows both."""

import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator


def pairs_of(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every two of the skills, in the order of their names."""
    return itertools.combinations(sorted(names), 2)


def count_apart(names: Iterable[str], share: float) -> int:
    """How many pairs of these skills are kept apart: no text for training shows both.

    The names of a pair decide, whatever else the catalog holds; about `share` of all are apart.
    """
    return sum(zlib.crc32("+".join(pair).encode()) < share * 2**32 for pair in pairs_of(names))


@functools.cache
def sets_together(names: tuple[str, ...], k: int, pairs_apart: float) -> int:
    """How many sets of k of these skills hold no pair that is kept apart."""
    if k == 1:
        return len(names)
    total = 0
    for number, name in enumerate(names):
        joined = [other for other in names[:number] if not count_apart((name, other), pairs_apart)]
        total += sets_together(tuple(joined), k - 1, pairs_apart)
    return total
