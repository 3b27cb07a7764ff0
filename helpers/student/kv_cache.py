"""The KV cache of the answers under way, and the attention that writes and reads it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from helpers.errors import UserError
from helpers.training.attention import on_grid

# Rows, tokens and lengths are padded to multiples of this, so that an answer is the same in any
# batch: a matrix product with few rows, or over an odd length, sums in another order (measured on
# a CPU: below 12 rows in fp32; lengths that are no multiple of 4, or of 16).
UNIT = 32


def rounded(n: int) -> int:
    return n + -n % UNIT


@dataclass
class Answer:
    """A prompt, and its answer as far as it goes."""

    number: int  # by which the caller knows it
    prompt: tuple[int, ...]
    seed: int
    uniform: Iterator[float] | None = None  # one for each token, once it has a slot
    tokens: list[int] = field(default_factory=list)  # without the end token
    is_complete: bool = False

    @property
    def newest(self) -> int:
        """The place of its newest token, the prompt's tokens before it."""
        return len(self.prompt) + len(self.tokens) - 1


class Slots:
    """The answers under way and their keys and values, the answer live[i] in slot i.

    `length` is the most tokens that a slot may hold, the prompt's and the new ones.
    """

    def __init__(self, slots: int, length: int):
        self.shape = (slots + 1, length)  # one more, for padding
        self.kept: dict[int, torch.Tensor] = {}  # by layer
        self.live: list[Answer] = []

    def of_layer(self, layer: int, like: torch.Tensor) -> torch.Tensor:
        """A layer's keys and values, (2, slots + 1, heads, length, head size).

        Heads, head size and kind are those of `like`, (1, heads, T, head size).
        """
        if layer not in self.kept:
            slots, length = self.shape
            _, heads, _, size = like.shape
            self.kept[layer] = like.new_zeros(2, slots, heads, length, size)
        return self.kept[layer]

    def copy(self, to: int | slice, source: int | torch.Tensor, length: int) -> None:
        """Copy the keys and values of slots to slots, those of the first `length` tokens."""
        for kept in self.kept.values():
            kept[:, to, :, :length] = kept[:, source, :, :length]

    def release(self) -> list[Answer]:
        """Give up the slots of complete answers; the last live one moves into each one's place."""
        complete = []
        for slot in reversed(range(len(self.live))):
            if self.live[slot].is_complete:
                complete.append(self.live[slot])
                last = self.live.pop()
                if slot < len(self.live):
                    self.live[slot] = last
                    self.copy(slot, len(self.live), last.newest)
        return complete


def cached_attention(
    module,
    q,
    k,
    v,
    attention_mask,
    scaling=None,
    softcap=None,
    s_aux=None,
    slots=None,
    rows=None,
    at=None,
    mask=None,
    grid=None,
    **_,
):
    """Attention of flattened tokens, (1, heads, T, D), over keys and values in the slots.

    Each token goes to its slot (`rows`) and place (`at`). Prompts come all at once, on a `grid`;
    later each slot has one token, and what it sees is in `mask`, additive, (slots, length).
    """
    if softcap is not None or s_aux is not None or k.shape != v.shape:
        raise UserError(
            "this student's attention caps its scores, has sinks, or has keys and values of"
            " different sizes, and the sampler here supports none of these; give 03_grade a"
            " `serve` command"
        )
    keys, values = slots.of_layer(module.layer_idx, k)
    keys[rows, :, at] = k[0].transpose(0, 1)
    values[rows, :, at] = v[0].transpose(0, 1)
    if grid is not None:
        return on_grid(q[0], k[0], v[0], grid, scaling)[None], None
    n, length = mask.shape
    keys = keys[:n, :, :length]
    values = values[:n, :, :length]
    # (slots, heads of keys, queries of each, head size)
    q = q[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1))
    scores = torch.matmul(q, keys.transpose(2, 3)).float() * scaling
    share = (scores + mask[:, None, None]).softmax(-1)
    mixed = torch.matmul(share.to(values.dtype), values)
    return mixed.flatten(1, 2)[None], None


AttentionInterface.register("cached", cached_attention)
AttentionMaskInterface.register("cached", lambda *args, **kwargs: None)
