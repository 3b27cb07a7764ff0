"""Causal attention over packed texts: matrix products see real tokens only.

Attention alone sees a grid with padding. It is padded on the right, so a causal mask is enough: no
real token has a pad to its left.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from helpers.errors import UserError

# The shortest text of a block over its longest. With one block for all lengths the embedded base
# trains at 0.84 of the speed, the 2M shape of `bench.train` at 0.97; with 0.9 at 0.91 and 0.98:
# more blocks cost more calls than they save padding (a core of an EPYC; medians of 5).
ALIKE = 0.8


class Grid(NamedTuple):
    """Where packed tokens stand when their texts are laid out, one a row, padded on the right."""

    place: torch.Tensor  # each token's place, (tokens,)
    rows: int
    length: int  # of a row


class Block(NamedTuple):
    """Consecutive texts of one packed row, alike in length."""

    tokens: slice
    grid: Grid


def blocks(sizes: list[int], device) -> list[Block]:
    """Texts of these sizes, in tokens, in blocks; the better sorted they are, the fewer."""
    groups = [[sizes[0]]]
    for size in sizes[1:]:
        group = [*groups[-1], size]
        if min(group) < ALIKE * max(group):
            groups.append([size])
        else:
            groups[-1] = group
    made = []
    start = 0
    for group in groups:
        length = max(group)
        place = torch.cat([torch.arange(n) + row * length for row, n in enumerate(group)])
        stop = start + len(place)
        made.append(Block(slice(start, stop), Grid(place.to(device), len(group), length)))
        start = stop
    return made


def on_grid(q, k, v, grid: Grid, scaling: float) -> torch.Tensor:
    """Attention of T packed tokens, each within its own text.

    Args:
        q, k, v: (heads, T, D); fewer heads for k and v where they are shared.

    Returns:
        (T, heads, D).
    """
    place, rows, length = grid

    def spread(packed):
        heads, _, size = packed.shape
        laid = packed.new_zeros(rows * length, heads, size)
        laid = laid.index_copy(0, place, packed.transpose(0, 1))
        return laid.view(rows, length, heads, size).transpose(1, 2)

    shared = q.shape[0] != k.shape[0]
    out = F.scaled_dot_product_attention(
        spread(q), spread(k), spread(v), is_causal=True, scale=scaling, enable_gqa=shared
    )
    return out.transpose(1, 2).flatten(0, 1)[place]


def by_kernel(q, k, v, starts: torch.Tensor, longest: int, scaling: float) -> torch.Tensor:
    """The same by torch's kernels for texts of any length: on GPUs, in 16 bits. Not run by us."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (a.transpose(0, 1).to(v.dtype) for a in (q, k, v))
    return varlen_attn(
        q,
        k,
        v,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=q.shape[1] != k.shape[1],
    )


def packed_attention(
    module,
    q,
    k,
    v,
    attention_mask,
    scaling=None,
    blocks=None,
    starts=None,
    longest=None,
    softcap=None,
    s_aux=None,
    **_,
):
    """The attentions named "packed" and "kernel" for `from_pretrained`.

    q, k, v: (1, heads, T, D). Returns (1, T, heads, D).

    Raises:
        UserError: the model changes its scores on the way, which would be lost here.
    """
    if softcap is not None or s_aux is not None:
        raise UserError(
            f"{type(module).__name__}: attention with capped scores or sinks is not supported"
        )
    dtype = q.dtype
    q, k, v = q[0], k[0], v[0]
    if module.config._attn_implementation == "kernel":
        return by_kernel(q, k, v, starts, longest, scaling)[None].to(dtype), None
    parts = []
    with torch.autocast(q.device.type, enabled=False):
        if q.device.type == "cpu":  # the CPU's flash kernel is 4x slower in bf16 than in fp32
            q, k, v = q.float(), k.float(), v.float()
        for tokens, grid in blocks:
            parts.append(on_grid(q[:, tokens], k[:, tokens], v[:, tokens], grid, scaling))
    return torch.cat(parts)[None].to(dtype), None


for name in ("packed", "kernel"):
    AttentionInterface.register(name, packed_attention)
    AttentionMaskInterface.register(name, lambda *args, **kwargs: None)
