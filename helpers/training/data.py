"""From chats to micro-batches: tokens and labels, the order of texts, packing without padding."""

import functools
import json
from pathlib import Path

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer

from helpers.errors import UserError
from helpers.training.attention import blocks
from helpers.training.hub import revision

Text = tuple[list[int], list[int]]  # token ids, and 1 for each token to learn


def load_tokenizer(student: str):
    """A student's tokenizer, which writes chats in the student's own form.

    Raises:
        UserError: it has no form for chats.
    """
    tokenizer = AutoTokenizer.from_pretrained(student, revision=revision(student))
    if not tokenizer.chat_template:
        raise UserError(
            f"student = {student}: its tokenizer has no chat template; take the model's chat or "
            "instruct version, or put a chat_template.jinja into its folder"
        )
    return tokenizer


def encode(tokenizer, messages: list[dict], turns: str = "last") -> Text:
    """Token ids of a chat, and which to learn: the assistant's words and the end token after them.

    The chat is rendered whole and tokenised once. Labels go by character offset: a prompt that is
    tokenised alone can differ at its border from the same prompt in the chat.

    Raises:
        UserError: the chat template does not render an answer's prompt as the chat's beginning.
    """

    render = functools.partial(tokenizer.apply_chat_template, tokenize=False)
    full = render(messages)
    last = len(messages) - 1
    spans = []  # of characters to learn
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or (turns == "last" and i < last):
            continue
        prompt = ""  # a chat that opens with the assistant is a document, learned whole
        if i > 0:
            prompt = render(messages[:i], add_generation_prompt=True)
        answered = render(messages[: i + 1])
        if not (full.startswith(prompt) and full.startswith(answered.rstrip())):
            advice = "set learned_turns: last" if i < last else "take another student"
            raise UserError(
                "this student's chat template renders a chat's beginning differently from the "
                f"whole chat: answers cannot be told; {advice}"
            )
        spans.append([len(prompt), len(answered)])
    if not full.rstrip().endswith(tokenizer.eos_token):
        full += tokenizer.eos_token
        spans[-1][1] = len(full)
    # The template wrote <bos> already.
    tokens = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in tokens["offset_mapping"]]
    labels = [int(any(start < end <= stop for start, stop in spans)) for end in ends]
    return tokens["input_ids"], labels


def read_chats(
    path: Path, tokenizer, *, turns: str, max_tokens: int, longer: str
) -> tuple[list[Text], dict]:
    """The chats of a file, encoded; longer ones are dropped, or cut to `max_tokens`.

    A cut chat has no end token to learn; one with nothing left to learn is dropped all the same.

    Returns:
        The texts, and how many there are: texts, dropped, cut, tokens, labelled.
    """
    counts = {"texts": 0, "dropped": 0, "cut": 0, "tokens": 0, "labelled": 0}
    texts = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                ids, learned = encode(tokenizer, json.loads(line)["messages"], turns)
            except TemplateError as error:
                raise UserError(
                    f"{path}, line {number}: the student's chat template refuses it ({error})"
                ) from None
            is_long = len(ids) > max_tokens
            ids, learned = ids[:max_tokens], learned[:max_tokens]
            labelled = sum(learned[1:])  # the first token is never predicted
            if not labelled or (is_long and longer == "drop"):
                counts["dropped"] += 1
                continue
            texts.append((ids, learned))
            counts["texts"] += 1
            counts["cut"] += is_long
            counts["tokens"] += len(ids)
            counts["labelled"] += labelled
    return texts, counts


@functools.lru_cache(maxsize=2)
def permutation(n: int, seed: int, epoch: int) -> list[int]:
    """The order of the texts in an epoch."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator).tolist()


def batch_rows(step: int, n: int, batch: int, seed: int) -> list[int]:
    """Row numbers of the global batch `step`: a walk through seeded epochs that needs no state."""
    rows = []
    while len(rows) < batch:
        epoch, i = divmod(step * batch + len(rows), n)
        rows += permutation(n, seed, epoch)[i : i + batch - len(rows)]
    return rows


def split_batch(
    rows: list[int], length: list[int], processes: int, budget: int
) -> list[list[list[int]]]:
    """Micro-batches of at most `budget` padded tokens, in waves of one a process.

    Texts within a wave are alike in length. A micro-batch may be empty: a pass of weight zero.
    """

    def padded(group: list[int]) -> int:
        return len(group) * length[group[0]] if group else 0  # the longest comes first

    groups = [[]]
    for row in sorted(rows, key=lambda r: (-length[r], r)):
        if groups[-1] and padded([*groups[-1], row]) > budget:
            groups.append([])
        groups[-1].append(row)
    while len(groups) % processes:  # halve the largest, or add an empty one where all hold one text
        largest = max(groups, key=lambda group: (len(group) > 1, padded(group)))
        i = groups.index(largest)
        half = len(largest) // 2 or 1
        groups[i : i + 1] = [largest[:half], largest[half:]]
    return [groups[i : i + processes] for i in range(0, len(groups), processes)]


def collate(texts: list[Text], rows: list[int], device) -> tuple[dict, torch.Tensor, float]:
    """The model's arguments, the target tokens, and the micro-batch's weight (0 if it is empty)."""
    weight = 1.0 if rows else 0.0
    ids, position, learned, sizes = [], [], [], []
    for row in rows or [0]:
        tokens, labels = texts[row]
        ids += tokens
        position += range(len(tokens))
        learned += [*labels[1:], 0]  # position t predicts t + 1
        sizes.append(len(tokens))
    keep = torch.tensor(learned).nonzero().squeeze(1)
    ids = torch.tensor(ids)
    arguments = {
        "input_ids": ids[None],
        "position_ids": torch.tensor(position)[None],
        "logits_to_keep": keep,
    }
    arguments = {name: a.to(device, non_blocking=True) for name, a in arguments.items()}
    arguments["blocks"] = blocks(sizes, device)
    return arguments, ids.roll(-1)[keep].to(device, non_blocking=True), weight
