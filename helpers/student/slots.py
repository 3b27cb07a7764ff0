"""The answers under way: their keys and values, and the attention that writes and reads these."""

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from helpers.errors import UserError
from helpers.training.attention import on_grid

# Rows, tokens and lengths come in multiples of this, the odd ones filled up: a product of few rows,
# or one over an odd length, is summed in another order (measured on a CPU: below 12 rows in fp32;
# lengths that are no multiple of 4, or of 16).
UNIT = 32

# A prompt's number, and its new tokens without the end token.
Answer = tuple[int, list[int]]


def rounded(n: int) -> int:
    return -(-n // UNIT) * UNIT


class Slots:
    """The answers under way, one a slot, the live ones first.

    `length` is the most tokens that a slot may hold, the prompt's and `new_tokens`.
    """

    def __init__(self, slots: int, length: int, new_tokens: int, device):
        on = {"device": device}
        self.shape = (slots + 1, length)  # the last slot takes what is computed for nobody
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # keys and values, by layer
        self.prompt = torch.zeros(slots, dtype=torch.long, **on)  # its number
        self.size = torch.zeros_like(self.prompt)  # tokens in all
        self.count = torch.zeros_like(self.prompt)  # new tokens
        self.token = torch.zeros_like(self.prompt)  # the newest
        self.new = torch.zeros(slots, new_tokens, dtype=torch.long, **on)
        self.uniform = torch.zeros(slots, new_tokens, **on)
        self.live = 0

    def of_layer(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, each (slots + 1, heads, length, head size).

        Heads, head size and kind are those of `like`, (1, heads, T, head size).
        """
        if layer not in self.kept:
            slots, length = self.shape
            shape = (slots, like.shape[1], length, like.shape[3])
            self.kept[layer] = like.new_zeros(shape), like.new_zeros(shape)
        return self.kept[layer]

    def copy(self, to: torch.Tensor | int, source: torch.Tensor | int, length: int) -> None:
        """Copy keys and values of slots to slots, the first `length` tokens."""
        for layer in self.kept.values():
            for tensor in layer:
                tensor[to, :, :length] = tensor[source, :, :length]

    def release(self, done: list[int]) -> list[Answer]:
        """Give up the slots `done`; the last live slot moves into the place of each."""
        answers = []
        for slot in sorted(done, reverse=True):
            new = self.new[slot, : self.count[slot]].tolist()
            answers.append((int(self.prompt[slot]), new))
            self.live -= 1
            for tensor in (self.prompt, self.size, self.count, self.token, self.new, self.uniform):
                tensor[slot] = tensor[self.live]
            self.copy(slot, self.live, int(self.size[slot]))
        return answers


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
    seen=None,
    grid=None,
    **_,
):
    """Attention of flattened tokens, (1, heads, T, D), over keys and values in the slots.

    Prompts come all at once, on a `grid`; later each slot has one token and sees `seen`, an
    additive mask (slots, length).
    """
    of_its_own = softcap is not None or s_aux is not None
    if of_its_own or k.shape != v.shape:
        raise UserError(
            "this student's attention has soft-capping, sinks or keys unlike its values, which"
            " sampling here has not; give 03_grade a `serve` command"
        )
    keys, values = slots.of_layer(module.layer_idx, k)
    keys[rows, :, at] = k[0].transpose(0, 1)
    values[rows, :, at] = v[0].transpose(0, 1)
    if grid is not None:
        return on_grid(q[0], k[0], v[0], grid, scaling)[None], None
    n, length = seen.shape
    keys = keys[:n, :, :length]
    values = values[:n, :, :length]
    # (slots, heads of keys, queries of each, head size)
    q = q[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1))
    scores = torch.matmul(q, keys.transpose(2, 3)).float() * scaling
    share = (scores + seen[:, None, None]).softmax(-1)
    mixed = torch.matmul(share.to(values.dtype), values)
    return mixed.flatten(1, 2)[None], None


AttentionInterface.register("cached", cached_attention)
AttentionMaskInterface.register("cached", lambda *args, **kwargs: None)
