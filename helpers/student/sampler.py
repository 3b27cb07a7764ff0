"""The sampler: continuous batches of one model in this process.

A prompt gets the same tokens in any batch and order: it has its own seed, and one uniform number a
token. A slot whose answer is complete takes a waiting prompt; a tiny model on a CPU is sampled by
one thread a core.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import torch
import torch.nn.functional as F

from helpers.student.slots import UNIT, Answer, Slots, rounded
from helpers.training.attention import Grid

PREFILL = 16384  # tokens of prompts in one forward pass, unless one alone is longer
REFILL = 8  # slots are filled again once one in this many is free
# Weights: with fewer, one thread a core, each with answers of its own, is faster than all cores on
# each product.
TINY = 2**24


def prefill(model, slots: Slots, prompts: list[tuple[int, ...]]) -> torch.Tensor:
    """Write prompts to the slots after the live ones; the logits after each.

    Returns:
        (prompts, vocabulary).
    """
    device = model.device
    tokens = [token for prompt in prompts for token in prompt]
    spare = rounded(len(tokens)) - len(tokens)  # a last row of nobody fills the tokens up
    sizes = [*map(len, prompts), spare]
    length = rounded(max(sizes))
    row = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    at = torch.cat([torch.arange(size) for size in sizes])
    last = torch.tensor(sizes[:-1]).cumsum(0) - 1
    keep = F.pad(last, (0, rounded(len(last)) - len(last)), value=int(last[-1]))
    slot = torch.where(row < len(prompts), row + slots.live, len(slots.prompt))
    at_device = at.to(device)
    logits = model(
        input_ids=torch.tensor([tokens + [0] * spare], device=device),
        position_ids=at_device[None],
        logits_to_keep=keep.to(device),
        use_cache=False,
        slots=slots,
        rows=slot.to(device),
        at=at_device,
        grid=Grid((row * length + at).to(device), len(sizes), length),
    ).logits
    return logits[0, : len(prompts)]


def decode(model, slots: Slots) -> torch.Tensor:
    """Write each live slot's newest token; the logits after it, (live slots, vocabulary)."""
    on = {"device": model.device}
    n = rounded(slots.live)
    length = rounded(int(slots.size[: slots.live].max()) + 1)
    at = slots.size[:n].clamp(max=length - 1)
    seen = torch.zeros(n, length, **on)
    seen.masked_fill_(torch.arange(length, **on) > at[:, None], float("-inf"))
    logits = model(
        input_ids=slots.token[None, :n],
        position_ids=at[None],
        use_cache=False,
        slots=slots,
        rows=torch.arange(n, **on),
        at=at,
        seen=seen,
    ).logits
    slots.size[: slots.live] += 1
    return logits[0, : slots.live]


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, temperature: float, top_p: float
) -> torch.Tensor:
    """One token a row by its uniform number, among the fewest tokens that hold `top_p`.

    The likeliest at temperature 0.
    """
    if temperature == 0:
        return logits.argmax(-1)
    share = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, token = share.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        kept = ordered * (before < top_p)
        share = torch.zeros_like(share).scatter_(-1, token, kept)
    mass = share.cumsum(-1)
    target = uniform[:, None] * mass[:, -1:]
    token = (mass < target).sum(-1)
    return token.clamp_(max=logits.shape[-1] - 1)


def admit(model, slots: Slots, prompts: dict[int, tuple], seeds: Sequence[int]) -> torch.Tensor:
    """Give each prompt, by its number, a slot after the live ones; the logits after each."""
    row = {}  # of each different prompt: equal ones are computed once
    source = torch.tensor([row.setdefault(prompt, len(row)) for prompt in prompts.values()])
    logits = prefill(model, slots, list(row))
    if len(row) < len(prompts):
        to = slots.live + torch.arange(len(prompts))
        slots.copy(to, slots.live + source, max(map(len, row)))
    for number, prompt in prompts.items():
        generator = torch.Generator().manual_seed(seeds[number])
        slots.prompt[slots.live] = number
        slots.size[slots.live] = len(prompt)
        slots.count[slots.live] = 0
        slots.uniform[slots.live] = torch.rand(slots.new.shape[1], generator=generator)
        slots.live += 1
    return logits[source]


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
) -> Iterator[list[Answer]]:
    """Sample every prompt, `batch` at a time: a free slot takes a waiting prompt.

    Yields:
        The answers completed since the last time, before their slots are filled again: never are
        more than `batch` answers begun and not yielded.
    """
    if not prompts:
        return
    length = rounded(max(map(len, prompts)) + new_tokens)
    slots = Slots(rounded(min(batch, len(prompts))), length, new_tokens, model.device)
    ends = torch.tensor(sorted(end), device=model.device)
    waiting = deque(range(len(prompts)))  # their numbers
    completed = []
    while waiting or slots.live:
        free = batch - slots.live
        refill = waiting and free >= max(1, batch // REFILL)
        if completed and (refill or not waiting):
            yield completed
            completed = []
        if refill:
            begin = slots.live
            taken = {}
            while waiting and len(taken) < free and sum(map(len, taken.values())) <= PREFILL:
                number = waiting.popleft()
                taken[number] = tuple(prompts[number])
            logits = admit(model, slots, taken, seeds)
        else:
            begin = 0
            logits = decode(model, slots)
        here = slice(begin, slots.live)
        count = slots.count[here]
        uniform = slots.uniform[here].gather(1, count[:, None])[:, 0]
        token = draw(logits, uniform, temperature=temperature, top_p=top_p)
        slots.token[here] = token
        slots.new[here].scatter_(1, count[:, None], token[:, None])
        ended = torch.isin(token, ends)
        count += ~ended
        done = ended | (count == new_tokens)
        completed += slots.release((done.nonzero()[:, 0] + begin).tolist())
    yield completed


def in_threads(
    model, prompts: Sequence[list[int]], seeds: Sequence[int], *, batch: int, **settings
) -> Iterator[list[Answer]]:
    """`stream` with a share of prompts and slots for each thread, where that is faster.

    Equal prompts stay together. A thread goes on once its answers were taken, so the promise on
    `batch` holds for all of them together.
    """
    small = model.device.type == "cpu" and model.num_parameters() < TINY
    cores = torch.get_num_threads() if small else 1
    threads = min(cores, batch)
    if threads == 1 or len(prompts) < cores * UNIT:
        yield from stream(model, prompts, seeds, batch=batch, **settings)
        return
    shares = [[] for _ in range(threads)]
    different = {}
    for i, prompt in enumerate(prompts):
        which = different.setdefault(tuple(prompt), len(different))
        shares[which % threads].append(i)
    streams = [
        stream(
            model,
            [prompts[i] for i in share],
            [seeds[i] for i in share],
            batch=batch // threads,
            **settings,
        )
        for share in shares
    ]
    # Each thread uses one core.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        going = {pool.submit(next, streams[t], None): t for t in range(threads)}
        while going:
            ready, _ = wait(going, return_when=FIRST_COMPLETED)
            for future in ready:
                t = going.pop(future)
                if completed := future.result():
                    yield [(shares[t][i], tokens) for i, tokens in completed]
                    going[pool.submit(next, streams[t], None)] = t


def sample(
    model, prompts: Sequence[list[int]], seeds: Sequence[int], *, batch: int = 256, **settings
) -> list[list[int]]:
    """The new tokens of each prompt, the end token left out; settings as `stream` takes them."""
    answers = {}
    for completed in in_threads(model, prompts, seeds, batch=batch, **settings):
        answers.update(completed)
    return [answers[i] for i in range(len(prompts))]
