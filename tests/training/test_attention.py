"""Blocks of packed texts: every token once, in order, little padding; attention on their grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.training.attention import ALIKE, Grid, blocks, on_grid


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_blocks_hold_every_token_once_and_texts_alike(sizes):
    found, rest = blocks(sizes, "cpu"), list(sizes)
    assert [tokens.start for tokens, _ in found] == [0, *(tokens.stop for tokens, _ in found[:-1])]
    assert found[-1].tokens.stop == sum(sizes)
    for tokens, grid in found:
        some, rest = rest[: grid.rows], rest[grid.rows :]
        assert tokens.stop - tokens.start == sum(some)
        assert grid.length == max(some)
        assert min(some) >= ALIKE * max(some)
        assert grid.place.tolist() == [
            row * grid.length + i for row, n in enumerate(some) for i in range(n)
        ]
    assert rest == []


@pytest.mark.parametrize("shared", [1, 2])
def test_attention_on_the_grid_is_each_texts_own(shared):
    """Against attention of each text alone; `shared`: heads of q for one of k and v."""
    torch.manual_seed(0)
    sizes = [3, 7, 5]
    q, k, v = (torch.randn(heads, sum(sizes), 8) for heads in (4, 4 // shared, 4 // shared))
    place = torch.cat([torch.arange(n) + 7 * row for row, n in enumerate(sizes)])
    found = on_grid(q, k, v, Grid(place, 3, 7), 0.3)
    start = 0
    for n in sizes:
        here = slice(start, start + n)
        keys, values = (a[:, here].repeat_interleave(shared, 0) for a in (k, v))
        scores = (q[:, here] @ keys.transpose(1, 2) * 0.3).masked_fill(
            torch.ones(n, n).triu(1).bool(), float("-inf")
        )
        assert torch.allclose(found[here], (scores.softmax(-1) @ values).transpose(0, 1), atol=1e-5)
        start += n
