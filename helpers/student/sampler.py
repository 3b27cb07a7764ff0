"""The sampler: continuous batches of one model in this process.

A prompt gets the same tokens in any batch and order: it has its own seed, and one uniform number a
token. A slot whose answer is complete takes a waiting prompt; a tiny model on a CPU is sampled by
one thread a core.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain, repeat

import torch
from transformers import TopPLogitsWarper

from helpers.student.slots import UNIT, Answer, Slots, rounded
from helpers.training.attention import Grid

PREFILL = 16384  # tokens of prompts in one forward pass, unless one alone is longer
REFILL = 8  # slots are filled again once one in this many is free
# Weights: with fewer, one thread a core, each with answers of its own, is faster than all cores on
# each product.
TINY = 2**24


def prefill(model, slots: Slots, prompts: list[tuple[int, ...]]) -> torch.Tensor:
    """Write prompts to the slots after the live ones; of equal ones one is computed.

    Returns:
        The logits after each, (prompts, vocabulary).
    """
    on = {"device": model.device}
    place = {}  # of each different prompt among them
    source = [place.setdefault(prompt, len(place)) for prompt in prompts]
    spare = -sum(map(len, place)) % UNIT
    rows = [*place, (0,) * spare]  # the last is nobody's and fills the tokens up
    length = rounded(max(map(len, rows)))
    places = [(row, at) for row, tokens in enumerate(rows) for at in range(len(tokens))]
    row, at = torch.tensor(places, **on).T.contiguous()
    ends = list(accumulate(map(len, place)))
    last = [ends[row] - 1 for row in source]
    live = len(slots.live)
    logits = model(
        input_ids=torch.tensor([list(chain(*rows))], **on),
        position_ids=at[None],
        logits_to_keep=torch.tensor(last + last[-1:] * (-len(last) % UNIT), **on),
        use_cache=False,
        slots=slots,
        rows=row + live,
        at=at,
        grid=Grid(row * length + at, len(rows), length),
    ).logits
    slots.copy(slice(live, live + len(prompts)), torch.tensor(source) + live, length)
    return logits[0, : len(prompts)]


def decode(model, slots: Slots) -> torch.Tensor:
    """Write each live slot's newest token; the logits after it, (live slots, vocabulary)."""
    on = {"device": model.device}
    live = len(slots.live)
    spare = [0] * (-live % UNIT)  # slots of nobody
    places = [answer.newest for answer in slots.live] + spare
    at = torch.tensor(places, **on)
    length = rounded(max(places) + 1)
    mask = torch.zeros(len(places), length, **on)
    mask.masked_fill_(torch.arange(length, **on) > at[:, None], float("-inf"))
    logits = model(
        input_ids=torch.tensor([[answer.tokens[-1] for answer in slots.live] + spare], **on),
        position_ids=at[None],
        use_cache=False,
        slots=slots,
        rows=torch.arange(len(places), **on),
        at=at,
        mask=mask,
    ).logits
    return logits[0, :live]


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, temperature: float, top_p: float
) -> torch.Tensor:
    """One token a row by its uniform number, among the fewest tokens that hold `top_p`.

    The likeliest at temperature 0.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    mass = logits.softmax(-1).cumsum(-1)
    return (mass < uniform[:, None] * mass[:, -1:]).sum(-1)


@torch.inference_mode()
def stream(
    model,
    prompts: Mapping[int, list[int]],
    seeds: Mapping[int, int] | Sequence[int],
    *,
    batch: int,
    new_tokens: int,
    temperature: float,
    end: set[int],
    top_p: float = 1.0,
) -> Iterator[list[Answer]]:
    """Sample every prompt, by its number, `batch` at a time: a free slot takes a waiting one.

    Yields:
        The answers completed since the last time, before their slots are filled again: never are
        more than `batch` answers begun and not yielded.
    """
    longest = max(map(len, prompts.values()), default=0)
    slots = Slots(rounded(min(batch, len(prompts))), rounded(longest + new_tokens))
    waiting = deque(prompts)
    completed = []
    while waiting or slots.live:
        free = batch - len(slots.live)
        refill = waiting and free >= max(1, batch // REFILL)
        if completed and (refill or not waiting):
            yield completed
            completed = []
        if refill:
            answers = []
            while waiting and len(answers) < free and sum(a.prompt for a in answers) <= PREFILL:
                number = waiting.popleft()
                generator = torch.Generator().manual_seed(seeds[number])
                uniform = torch.rand(new_tokens, generator=generator).tolist()
                answers.append(Answer(number, len(prompts[number]), iter(uniform)))
            logits = prefill(model, slots, [tuple(prompts[a.number]) for a in answers])
            slots.live += answers
        else:
            answers = slots.live
            logits = decode(model, slots)
        uniform = torch.tensor([next(a.uniform) for a in answers], device=model.device)
        tokens = draw(logits, uniform, temperature=temperature, top_p=top_p)
        for answer, token in zip(answers, tokens.tolist(), strict=True):
            if token not in end:
                answer.tokens.append(token)
            answer.is_complete = token in end or len(answer.tokens) == new_tokens
        completed += slots.release()
    yield completed


def in_threads(
    model,
    prompts: Mapping[int, list[int]],
    seeds: Mapping[int, int] | Sequence[int],
    *,
    batch: int,
    **settings,
) -> Iterator[list[Answer]]:
    """`stream` by several threads, where that is faster, each with a share of prompts and slots.

    Equal prompts stay together. A thread goes on once all answers were taken, so the promise on
    `batch` holds for all of them together.
    """
    is_small = model.device.type == "cpu" and model.num_parameters() < TINY
    threads = min(torch.get_num_threads(), batch) if is_small else 1
    if threads == 1 or len(prompts) < threads * UNIT:
        yield from stream(model, prompts, seeds, batch=batch, **settings)
        return
    shares = [{} for _ in range(threads)]
    place = {}  # of each different prompt among them
    for number, prompt in prompts.items():
        which = place.setdefault(tuple(prompt), len(place))
        shares[which % threads][number] = prompt
    streams = [stream(model, s, seeds, batch=batch // threads, **settings) for s in shares]
    # Each thread uses one core.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while completed := list(chain(*pool.map(next, streams, repeat([])))):
            yield completed


def sample(
    model, prompts: Sequence[list[int]], seeds: Sequence[int], *, batch: int = 256, **settings
) -> list[list[int]]:
    """The new tokens of each prompt, the end token left out; settings as `stream` takes them."""
    answers = {}
    for completed in in_threads(model, dict(enumerate(prompts)), seeds, batch=batch, **settings):
        answers |= {answer.number: answer.tokens for answer in completed}
    return [answers[i] for i in range(len(prompts))]
