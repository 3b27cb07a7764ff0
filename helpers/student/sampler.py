"""The sampler: continuous batches of one model in this process, the same tokens for a prompt in any batch and order.

Every prompt has its own seed and one uniform number a token. A slot whose answer is complete takes a waiting prompt; a
tiny model on a CPU is sampled by one thread a core.
"""

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from helpers.errors import UserError
from helpers.training.attention import on_grid

# Rows, tokens and lengths come in multiples of this, the odd ones filled up: a product of few rows, or one over an odd
# length, is summed in another order (measured on a CPU: below 12 rows in fp32; lengths that are no multiple of 4, or of 16).
UNIT = 32
PREFILL = 16384  # tokens of prompts in one forward pass, unless one alone is longer
REFILL = 8  # slots are filled again once one in this many is free
TINY = (
    2**24
)  # weights: below, one thread a core, each with answers of its own, is faster than all cores on each product


def rounded(n: int) -> int:
    return -(-n // UNIT) * UNIT


class Slots:
    """The answers under way, one a slot, the live ones first.

    Keys and values are one tensor a layer, (slots + 1, heads, length, head size); the last slot takes what is computed
    for nobody.
    """

    def __init__(self, model, slots: int, length: int, new_tokens: int):
        config, on = model.config.get_text_config(), {"device": model.device}
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (
            slots + 1,
            getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            length,
            head,
        )
        self.k = [
            torch.zeros(shape, dtype=model.dtype, **on) for _ in range(config.num_hidden_layers)
        ]
        self.v = [torch.zeros_like(k) for k in self.k]
        self.prompt = torch.zeros(slots, dtype=torch.long, **on)  # its number
        self.size, self.count, self.token = (
            torch.zeros_like(self.prompt) for _ in range(3)
        )  # tokens in all, new ones, the newest
        self.new = torch.zeros(slots, new_tokens, dtype=torch.long, **on)
        self.uniform = torch.zeros(slots, new_tokens, **on)
        self.live = 0

    def copy(self, to: torch.Tensor, source: torch.Tensor, length: int) -> None:
        """Keys and values of slots, as far as they are filled."""
        for tensor in (*self.k, *self.v):
            tensor[to, :, :length] = tensor[source, :, :length]

    def release(self, done: torch.Tensor) -> list[tuple[int, list[int]]]:
        """Give up the slots `done`: their prompts' numbers and new tokens. The last live slots move into their places."""
        of, counts, new = (tensor[done].tolist() for tensor in (self.prompt, self.count, self.new))
        left = self.live - len(of)
        stay = torch.ones(self.live, dtype=torch.bool, device=done.device)
        stay[done] = False
        to, source = done[done < left], stay[left:].nonzero()[:, 0] + left
        if len(to):
            for tensor in (self.prompt, self.size, self.count, self.token, self.new, self.uniform):
                tensor[to] = tensor[source]
            self.copy(to, source, int(self.size[source].max()))
        self.live = left
        return [(i, tokens[:n]) for i, n, tokens in zip(of, counts, new, strict=True)]


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
    """Attention of flattened tokens, (1, heads, T, D), that writes to the slots and reads from them.

    Prompts come all at once, `grid` = (their places on the right-padded grid, its rows, its length); later each slot has
    one token and sees `seen`, an additive mask (slots, length).
    """
    if softcap is not None or s_aux is not None:
        raise UserError(
            "this student's attention has soft-capping or sinks, which sampling here has not; give 03_grade a `serve` command"
        )
    keys, values = slots.k[module.layer_idx], slots.v[module.layer_idx]
    keys[rows, :, at], values[rows, :, at] = k[0].transpose(0, 1), v[0].transpose(0, 1)
    if grid is not None:
        return on_grid(q[0], k[0], v[0], *grid, scaling)[None], None
    n, length = seen.shape
    keys, values = keys[:n, :, :length], values[:n, :, :length]
    q = (
        q[0].transpose(0, 1).reshape(n, keys.shape[1], -1, q.shape[3])
    )  # (slots, heads of keys, queries of each, head size)
    scores = torch.matmul(q, keys.transpose(2, 3)).float() * scaling + seen[:, None, None]
    return torch.matmul(scores.softmax(-1).to(values.dtype), values).reshape(
        1, n, -1, q.shape[3]
    ), None


AttentionInterface.register("cached", cached_attention)
AttentionMaskInterface.register("cached", lambda *args, **kwargs: None)


def prefill(model, slots: Slots, prompts: list[list[int]], to: list[int]) -> torch.Tensor:
    """Write the prompts to the slots `to`; the logits after each, (prompts, vocabulary)."""
    sizes = torch.tensor([len(p) for p in prompts])
    last, spare = sizes.cumsum(0) - 1, rounded(int(sizes.sum())) - int(sizes.sum())
    sizes = torch.cat([sizes, torch.tensor([spare])])
    line = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    at = torch.cat([torch.arange(n) for n in sizes.tolist()])
    ids = torch.tensor([t for p in [*prompts, [0] * spare] for t in p])
    rows, length = torch.tensor([*to, len(slots.prompt)])[line], rounded(int(sizes.max()))
    keep = F.pad(last, (0, rounded(len(last)) - len(last)), value=int(last[-1]))
    ids, at, rows, place, keep = (
        t.to(model.device) for t in (ids, at, rows, line * length + at, keep)
    )
    where = {
        "slots": slots,
        "rows": rows,
        "at": at,
        "grid": (place, len(sizes), length),
        "use_cache": False,
    }
    return model(input_ids=ids[None], position_ids=at[None], logits_to_keep=keep, **where).logits[
        0, : len(prompts)
    ]


def decode(model, slots: Slots) -> torch.Tensor:
    """Write each live slot's newest token; the logits after it, (live slots, vocabulary)."""
    n, length = rounded(slots.live), rounded(int(slots.size[: slots.live].max()) + 1)
    at, rows = slots.size[:n].clamp(max=length - 1), torch.arange(n, device=model.device)
    seen = torch.zeros(n, length, device=model.device)
    seen.masked_fill_(torch.arange(length, device=model.device) > at[:, None], float("-inf"))
    where = {"slots": slots, "rows": rows, "at": at, "seen": seen, "use_cache": False}
    logits = model(input_ids=slots.token[None, :n], position_ids=at[None], **where).logits[
        0, : slots.live
    ]
    slots.size[: slots.live] += 1
    return logits


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, temperature: float, top_p: float
) -> torch.Tensor:
    """One token a row by its uniform number, among the fewest tokens that hold `top_p`; at temperature 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    share = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, token = share.sort(dim=-1, descending=True, stable=True)
        share = torch.zeros_like(share).scatter_(
            -1, token, ordered * (ordered.cumsum(-1) - ordered < top_p)
        )
    mass = share.cumsum(-1)
    return (mass < uniform[:, None] * mass[:, -1:]).sum(-1).clamp_(max=logits.shape[-1] - 1)


@torch.inference_mode()
def stream(
    model,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    *,
    batch: int,
    new_tokens: int,
    temperature: float,
    end: set[int],
    top_p: float = 1.0,
) -> Iterator[list[tuple[int, list[int]]]]:
    """Sample every prompt, `batch` at a time: a slot whose answer is complete takes a waiting prompt.

    Yields:
        The answers completed since the last time, (prompt's number, new tokens without the end token), before their
        slots are filled again: never are more than `batch` answers begun and not yielded.
    """
    if not prompts:
        return
    slots = Slots(
        model,
        rounded(min(batch, len(prompts))),
        rounded(max(map(len, prompts)) + new_tokens),
        new_tokens,
    )
    ends, waiting, completed = (
        torch.tensor(sorted(end), device=model.device),
        deque(range(len(prompts))),
        [],
    )
    while waiting or slots.live:
        refill = waiting and batch - slots.live >= max(1, batch // REFILL)
        if completed and (refill or not waiting):
            yield completed
            completed = []
        if refill:
            taken, first = [], {}  # the slot of each different prompt: equal ones are computed once
            while waiting and slots.live + len(taken) < batch and sum(map(len, first)) <= PREFILL:
                first.setdefault(tuple(prompts[waiting[0]]), slots.live + len(taken))
                taken.append(waiting.popleft())
            here = slice(slots.live, slots.live + len(taken))
            logits = prefill(model, slots, [list(p) for p in first], list(first.values()))
            to, source = (
                torch.arange(here.start, here.stop),
                torch.tensor([first[tuple(prompts[i])] for i in taken]),
            )
            slots.copy(to[to != source], source[to != source], max(map(len, first)))
            order = {slot: i for i, slot in enumerate(first.values())}
            logits = logits[[order[slot] for slot in source.tolist()]]
            random = [
                torch.rand(slots.new.shape[1], generator=torch.Generator().manual_seed(seeds[i]))
                for i in taken
            ]
            slots.prompt[here], slots.uniform[here] = (
                torch.tensor(taken),
                torch.stack(random).to(model.device),
            )
            slots.size[here], slots.count[here] = torch.tensor([len(prompts[i]) for i in taken]), 0
            slots.live = here.stop
        else:
            here, logits = slice(0, slots.live), decode(model, slots)
        count = slots.count[here]
        token = draw(
            logits,
            slots.uniform[here].gather(1, count[:, None])[:, 0],
            temperature=temperature,
            top_p=top_p,
        )
        slots.token[here] = token
        slots.new[here].scatter_(1, count[:, None], token[:, None])
        count += ~torch.isin(token, ends)
        done = torch.isin(token, ends) | (count == new_tokens)
        if done.any():
            completed += slots.release(done.nonzero()[:, 0] + here.start)
    yield completed


def in_threads(
    model, prompts: Sequence[list[int]], seeds: Sequence[int], *, batch: int, **settings
) -> Iterator[list[tuple[int, list[int]]]]:
    """`stream` with a share of prompts and slots for each thread, where that is faster; equal prompts stay together.

    A thread goes on once its answers were taken, so the promise on `batch` holds for all of them together.
    """
    cores = (
        torch.get_num_threads()
        if model.device.type == "cpu" and model.num_parameters() < TINY
        else 1
    )
    groups: dict[tuple, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(i)
    shares = [
        [i for group in list(groups.values())[w::cores] for i in group]
        for w in range(min(cores, batch))
    ]
    if len(prompts) < cores * UNIT:
        shares = [range(len(prompts))]
    if len(shares) == 1:
        yield from stream(model, prompts, seeds, batch=batch, **settings)
        return
    done, taken, stopped = (
        queue.Queue(),
        [threading.Semaphore(0) for _ in shares],
        threading.Event(),
    )

    def work(w: int) -> None:
        torch.set_num_threads(1)  # of this thread only
        share = shares[w]
        try:
            for some in stream(
                model,
                [prompts[i] for i in share],
                [seeds[i] for i in share],
                batch=batch // len(shares),
                **settings,
            ):
                done.put((w, [(share[i], tokens) for i, tokens in some]))
                taken[w].acquire()
                if stopped.is_set():
                    return
            done.put((w, None))
        except BaseException as error:
            done.put((w, error))

    threads = [threading.Thread(target=work, args=(w,), daemon=True) for w in range(len(shares))]
    for thread in threads:
        thread.start()
    try:
        going = len(threads)
        while going:
            w, some = done.get()
            if isinstance(some, BaseException):
                raise some
            if some is None:
                going -= 1
            else:
                yield some
                taken[w].release()
    finally:
        stopped.set()
        for semaphore in taken:
            semaphore.release()


def sample(
    model, prompts: Sequence[list[int]], seeds: Sequence[int], *, batch: int = 256, **settings
) -> list[list[int]]:
    """The new tokens of each prompt, the end token left out; settings as `stream` takes them."""
    answers = dict(
        answer
        for some in in_threads(model, prompts, seeds, batch=batch, **settings)
        for answer in some
    )
    return [answers[i] for i in range(len(prompts))]
