"""From chats to micro-batches: tokens and labels, the order of the texts, and their packing without padding."""

import functools
import json
from pathlib import Path

import torch

from helpers.errors import UserError
from helpers.training.attention import blocks

Text = tuple[list[int], list[int]]  # token ids, and 1 for each token to learn


def encode(tokenizer, messages: list[dict], turns: str = "last") -> Text:
    """Token ids of a chat and a 0/1 list of the tokens to learn: the assistant's words and the end token after them.

    The chat is rendered whole and tokenised once; labels go by character offset, since a prompt tokenised apart can
    differ at its border from the same prompt in the chat.
    """
    full = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and (turns == "all" or i == len(messages) - 1):
            # A chat that opens with the assistant is a document, learned whole.
            asked = (
                tokenizer.apply_chat_template(
                    messages[:i], tokenize=False, add_generation_prompt=True
                )
                if i
                else ""
            )
            until = (
                full
                if i == len(messages) - 1
                else tokenizer.apply_chat_template(messages[: i + 1], tokenize=False)
            )
            if not (full.startswith(asked) and full.startswith(until.rstrip())):
                raise UserError(
                    "this student's chat template renders a chat's beginning differently from the whole chat: answers cannot be told"
                )
            spans.append([len(asked), len(until)])
    if not full.rstrip().endswith(tokenizer.eos_token):
        full += tokenizer.eos_token
        spans[-1][1] = len(full)
    tokens = tokenizer(
        full, add_special_tokens=False, return_offsets_mapping=True
    )  # the template wrote <bos> already
    labels = [
        int(any(start < end <= stop for start, stop in spans))
        for _, end in tokens["offset_mapping"]
    ]
    return tokens["input_ids"], labels


def read_chats(
    path: Path, tokenizer, *, turns: str, max_tokens: int, longer: str
) -> tuple[list[Text], dict]:
    """The chats of a file, encoded. A chat of more than `max_tokens` is dropped, or cut at its end if `longer` is "cut".

    A cut chat has no end token to learn any more; one with nothing left to learn is dropped all the same.

    Returns:
        The texts, and how many there are: texts, dropped, cut, tokens, labelled.
    """
    with open(path, encoding="utf-8") as file:
        every = [encode(tokenizer, json.loads(line)["messages"], turns) for line in file]
    kept = [
        (ids[:max_tokens], learned[:max_tokens])
        for ids, learned in every
        if longer == "cut" or len(ids) <= max_tokens
    ]
    kept = [text for text in kept if any(text[1][1:])]  # the first token is never predicted
    counts = {"texts": len(kept), "dropped": len(every) - len(kept), "cut": 0}
    if longer == "cut":
        counts["cut"] = sum(
            len(ids) > max_tokens and any(learned[1:max_tokens]) for ids, learned in every
        )
    return kept, {
        **counts,
        "tokens": sum(len(ids) for ids, _ in kept),
        "labelled": sum(sum(learned[1:]) for _, learned in kept),
    }


@functools.lru_cache(maxsize=2)
def permutation(n: int, seed: int, epoch: int) -> list[int]:
    """The order of epoch `epoch`."""
    return torch.randperm(
        n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    ).tolist()


def batch_rows(step: int, n: int, batch: int, seed: int) -> list[int]:
    """Row numbers of global step `step`, a stateless walk through seeded epochs: resuming needs only `step`."""
    rows = []
    while len(rows) < batch:
        epoch, i = divmod(step * batch + len(rows), n)
        rows += permutation(n, seed, epoch)[i : i + batch - len(rows)]
    return rows


def split_batch(
    rows: list[int], length: list[int], world: int, budget: int
) -> list[list[list[int]]]:
    """Micro-batches of at most `budget` padded tokens, in waves of one per process, alike in length within a wave."""
    groups, current = [], []
    for row in sorted(rows, key=lambda r: (-length[r], r)):
        if current and (len(current) + 1) * length[current[0]] > budget:
            groups.append(current)
            current = []
        current.append(row)
    groups.append(current)
    while len(groups) % world:
        i = max(
            range(len(groups)),
            key=lambda j: (
                len(groups[j]) > 1,
                len(groups[j]) * length[groups[j][0]] if groups[j] else 0,
            ),
        )
        whole = groups.pop(i)
        half = len(whole) // 2
        groups[i:i] = (
            [whole[:half], whole[half:]] if half else [whole, []]
        )  # []: a pass of weight zero
    return [groups[i : i + world] for i in range(0, len(groups), world)]


def collate(data, rows: list[int], device) -> tuple[dict, torch.Tensor, float]:
    """The model's arguments, the target tokens, and the micro-batch's weight (0 for an empty one)."""
    weight, rows = (1.0, rows) if rows else (0.0, [0])
    sizes = [len(data[r][0]) for r in rows]
    ids = torch.tensor([t for r in rows for t in data[r][0]])
    position = torch.cat([torch.arange(n) for n in sizes])
    learned = torch.tensor(
        [x for r in rows for x in [*data[r][1][1:], 0]], dtype=torch.bool
    )  # position t predicts t + 1
    keep = learned.nonzero().squeeze(1)
    target = ids.roll(-1)[keep]
    arguments = {"input_ids": ids[None], "position_ids": position[None], "logits_to_keep": keep}
    arguments = {name: a.to(device, non_blocking=True) for name, a in arguments.items()}
    return (
        {**arguments, "blocks": blocks(sizes, device)},
        target.to(device, non_blocking=True),
        weight,
    )
