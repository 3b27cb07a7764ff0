"""What a mix takes, counted and in words."""

import pytest

from helpers.task.mixes import below_in, in_words, texts_in


@pytest.mark.parametrize(
    ("amount", "texts", "below", "words"),
    [
        (1200, 1200, 0, "1,200 texts of k = 2"),
        ({"texts": 1200}, 1200, 0, "1,200 texts of k = 2"),
        ({"texts": 100, "pairs": 9}, 100, 0, "100 texts of k = 2 from 9 pairs of skills"),
        (
            {"texts": 1000, "below_full_marks": 1.0},
            1000,
            1000,
            "1,000 texts of k = 2, 1,000 of them below full marks",
        ),
        (
            {"texts": 7, "below_full_marks": 0.4},
            7,
            3,
            "7 texts of k = 2, 3 of them below full marks",
        ),
    ],
)
def test_a_part_is_counted_and_named(amount, texts, below, words):
    assert texts_in({"1": 5, "2": amount}) == 5 + texts
    assert below_in(amount) == below
    assert in_words("2", amount) == words
