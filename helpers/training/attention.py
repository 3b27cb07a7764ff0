"""Causal attention over packed texts: matrix products see real tokens only, and attention alone a grid with padding.

On a grid that is padded on the right a causal mask is enough, since no real token has a pad to its left.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

# The shortest text of a block over its longest. Attention on a CPU costs 140 ms of a step of 540 with one block for all lengths
# (8 to 88 words), 82 ms with this (`bench.train`'s 2M shape); more blocks than that cost more calls than they save padding.
ALIKE = 0.8


class Block(NamedTuple):
    """Consecutive texts of one packed row, alike in length, and the grid they are laid on."""

    start: int  # their first token
    stop: int  # after their last
    place: torch.Tensor  # each token's place on the grid, (stop - start,)
    rows: int
    length: int


def blocks(sizes: list[int], device) -> list[Block]:
    """Texts of these sizes, in tokens, in blocks; the better sorted they are, the fewer."""
    groups = [[sizes[0]]]
    for size in sizes[1:]:
        if min(*groups[-1], size) < ALIKE * max(*groups[-1], size):
            groups.append([])
        groups[-1].append(size)
    found, start = [], 0
    for group in groups:
        length, stop = max(group), start + sum(group)
        place = torch.cat([torch.arange(n) + row * length for row, n in enumerate(group)])
        found.append(Block(start, stop, place.to(device, non_blocking=True), len(group), length))
        start = stop
    return found


def on_grid(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    place: torch.Tensor,
    rows: int,
    length: int,
    scaling: float,
) -> torch.Tensor:
    """q, k, v: (heads, T, D) of T packed tokens, fewer heads for k and v where they are shared. Returns (T, heads, D)."""

    def spread(a):
        flat = a.new_zeros(rows * length, a.shape[0], a.shape[2]).index_copy(
            0, place, a.transpose(0, 1)
        )
        return flat.view(rows, length, a.shape[0], -1).transpose(1, 2)

    shared = q.shape[0] != k.shape[0]
    out = F.scaled_dot_product_attention(
        spread(q), spread(k), spread(v), is_causal=True, scale=scaling, enable_gqa=shared
    )
    return out.transpose(1, 2).reshape(rows * length, q.shape[0], -1)[place]


def packed_attention(module, q, k, v, attention_mask, scaling=None, blocks=None, **_):
    """The attention named "packed" for `from_pretrained`. q, k, v: (1, heads, T, D). Returns (1, T, heads, D)."""
    dtype = q.dtype
    with torch.autocast(q.device.type, enabled=False):
        if q.device.type == "cpu":  # the CPU's flash kernel is 4x slower in bf16 than in fp32
            q, k, v = q.float(), k.float(), v.float()
        parts = [
            on_grid(
                *(a[0, :, b.start : b.stop] for a in (q, k, v)), b.place, b.rows, b.length, scaling
            )
            for b in blocks
        ]
    return torch.cat(parts)[None].to(dtype), None


AttentionInterface.register("packed", packed_attention)
AttentionMaskInterface.register("packed", lambda *args, **kwargs: None)
