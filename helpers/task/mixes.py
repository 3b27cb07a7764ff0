"""What a mix takes of a kind of texts: a number of them, or a part.

A part is `{texts: 100, pairs: 9}`: 100 texts of the 9 pairs of skills that most texts show, one of
each pair in turn. Or it is `{texts: 400, below_full_marks: 0.2}`: 400 texts, of which a fifth lack
something.
"""

from collections.abc import Mapping
from typing import TypeAlias

Part: TypeAlias = dict[str, int | float]
Amount: TypeAlias = int | Part


def part_of(amount: Amount) -> Part:
    """An amount in its long form: a plain number n is `{texts: n}`."""
    return {"texts": amount} if isinstance(amount, int) else amount


def texts_in(mix: Mapping[str, Amount]) -> int:
    """How many texts, of all kinds together."""
    return sum(part_of(amount)["texts"] for amount in mix.values())


def below_in(amount: Amount) -> int:
    """How many of the texts are below full marks."""
    part = part_of(amount)
    return round(part["texts"] * part.get("below_full_marks", 0))


def in_words(kind: str, amount: Amount) -> str:
    """`100 texts of k = 2 from 9 pairs of skills`."""
    part = part_of(amount)
    words = f"{part['texts']:,} texts of k = {kind}"
    if "pairs" in part:
        words += f" from {part['pairs']} pairs of skills"
    if below := below_in(part):
        words += f", {below:,} of them below full marks"
    return words


def counts_of(kind: str) -> tuple[int, int]:
    """How many skills and things a kind of texts has: `3` is (3, 0), `1+2` is (1, 2)."""
    skills, _, things = kind.partition("+")
    return int(skills), int(things or 0)
