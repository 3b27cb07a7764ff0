"""The sampler: continuous batches of one model in this process.

A prompt gets the same tokens in any batch and order: it has its own seed, from which one uniform
random number is drawn for each token. A slot whose answer is complete takes a waiting prompt. A
tiny model on a CPU is sampled by one thread a core.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat

import torch
import torch.nn.functional as F
from transformers import TopPLogitsWarper

from helpers.student.kv_cache import UNIT, Answer, Slots, rounded
from helpers.training.attention import Grid

PREFILL = 16384  # tokens of prompts in one forward pass, unless one alone is longer
REFILL = 8  # slots are filled again once one in this many is free
# Weights of a model: with fewer, one thread a core, each with answers of its own, is faster than
# all cores on each matrix product.
TINY = 2**24


def forward(model, slots: Slots, tokens: list[int], rows, at, **more) -> torch.Tensor:
    """Write each token to its slot and place; the logits after them, (tokens, vocabulary)."""
    tokens = torch.tensor([tokens], device=model.device)
    written = {"slots": slots, "rows": rows, "at": at}
    answer = model(tokens, position_ids=at[None], use_cache=False, **written, **more)
    return answer.logits[0]


def prefill(model, slots: Slots, prompts: list[tuple[int, ...]]) -> torch.Tensor:
    """Write prompts to the slots after the live ones; equal prompts are computed once.

    Returns:
        The logits after each, (prompts, vocabulary).
    """
    on = {"device": model.device}
    live = len(slots.live)
    rows = {}  # the row of each different prompt
    row = torch.tensor([rows.setdefault(prompt, len(rows)) for prompt in prompts])
    spare = (0,) * (-sum(map(len, rows)) % UNIT)  # a last row of nobody fills the tokens up
    tokens = []
    places = []  # row and place in it of each token
    last = []  # token of each row
    for number, prompt in enumerate([*rows, spare]):
        tokens += prompt
        places += [(number, at) for at in range(len(prompt))]
        last.append(len(tokens) - 1)
    to, at = torch.tensor(places, **on).T.contiguous()
    length = rounded(max(map(len, [*rows, spare])))
    keep = F.pad(torch.tensor(last)[row], (0, -len(row) % UNIT)).to(**on)
    grid = Grid(to * length + at, len(last), length)
    logits = forward(model, slots, tokens, to + live, at, logits_to_keep=keep, grid=grid)
    slots.copy(slice(live, live + len(row)), live + row, length)
    return logits[: len(row)]


def decode(model, slots: Slots) -> torch.Tensor:
    """Write each live slot's newest token; the logits after it, (live slots, vocabulary)."""
    on = {"device": model.device}
    spare = [0] * (-len(slots.live) % UNIT)  # of nobody
    tokens = [answer.tokens[-1] for answer in slots.live] + spare
    at = torch.tensor([answer.newest for answer in slots.live] + spare, **on)
    length = rounded(max(answer.newest for answer in slots.live) + 1)
    mask = torch.where(torch.arange(length, **on) > at[:, None], float("-inf"), 0.0)
    logits = forward(model, slots, tokens, torch.arange(len(tokens), **on), at, mask=mask)
    return logits[: len(slots.live)]


def draw(
    logits: torch.Tensor, uniform: torch.Tensor, *, temperature: float, top_p: float
) -> torch.Tensor:
    """One token for each row: the one whose share of [0, 1) its uniform number falls into.

    Only the fewest tokens whose probabilities sum to `top_p` have a share. At temperature 0 it is
    the likeliest token.
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
    answers: Sequence[Answer],
    *,
    batch: int,
    new_tokens: int,
    temperature: float,
    end: set[int],
    top_p: float = 1.0,
) -> Iterator[list[Answer]]:
    """Sample every answer, `batch` at a time: a free slot takes a waiting one.

    Yields:
        The answers completed since the last time, before their slots are filled again: at any time
        at most `batch` answers are begun and not yet yielded.
    """
    longest = max((len(answer.prompt) for answer in answers), default=0)
    slots = Slots(rounded(min(batch, len(answers))), rounded(longest + new_tokens))
    waiting = deque(answers)
    completed = []
    while waiting or slots.live:
        free = batch - len(slots.live)
        refill = waiting and free >= max(1, batch // REFILL)
        if completed and (refill or not waiting):
            yield completed
            completed = []
        if refill:
            under_way = []
            prompts = []
            while waiting and len(prompts) < free and sum(map(len, prompts)) <= PREFILL:
                under_way.append(waiting.popleft())
                prompts.append(under_way[-1].prompt)
            logits = prefill(model, slots, prompts)
            for answer in under_way:
                generator = torch.Generator().manual_seed(answer.seed)
                answer.uniform = iter(torch.rand(new_tokens, generator=generator).tolist())
            slots.live += under_way
        else:
            under_way = slots.live
            logits = decode(model, slots)
        uniform = [next(answer.uniform) for answer in under_way]
        uniform = torch.tensor(uniform, device=model.device)
        tokens = draw(logits, uniform, temperature=temperature, top_p=top_p)
        for answer, token in zip(under_way, tokens.tolist(), strict=True):
            if token not in end:
                answer.tokens.append(token)
            answer.is_complete = token in end or len(answer.tokens) == new_tokens
        completed += slots.release()
    yield completed


def in_threads(
    model, answers: Sequence[Answer], *, batch: int, **settings
) -> Iterator[list[Answer]]:
    """`stream` by several threads, where that is faster, each with a share of answers and slots.

    Equal prompts stay together. A thread goes on once all answers were taken, so the promise on
    `batch` holds for all of them together.
    """
    is_small = model.device.type == "cpu" and model.num_parameters() < TINY
    threads = min(torch.get_num_threads(), batch) if is_small else 1
    if threads == 1:
        yield from stream(model, answers, batch=batch, **settings)
        return
    shares = [[] for _ in range(threads)]
    for answer in answers:
        shares[hash(answer.prompt) % threads].append(answer)
    streams = [stream(model, share, batch=batch // threads, **settings) for share in shares]
    # Each thread uses one core.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while completed := list(chain(*pool.map(next, streams, repeat([])))):
            yield completed
