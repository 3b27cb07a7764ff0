"""From chats to micro-batches: tokens and labels, the order of texts, packing without padding."""

import functools
import json
from itertools import accumulate

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer

from helpers.errors import UserError
from helpers.training.attention import blocks
from helpers.training.hub import revision
from helpers.training.recipe import COUNTS, Recipe

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
    spans = []  # of characters to learn
    for i, message in enumerate(messages, 1):
        is_learned = turns == "all" or i == len(messages)
        if message["role"] != "assistant" or not is_learned:
            continue
        prompt = ""  # a chat that opens with the assistant is a document, learned whole
        if i > 1:
            prompt = render(messages[: i - 1], add_generation_prompt=True)
        answered = render(messages[:i])
        if not (full.startswith(prompt) and full.startswith(answered.rstrip())):
            raise UserError(
                "this student's chat template renders a chat's beginning differently from the "
                "whole chat: answers cannot be told; set learned_turns: last, or take another "
                "student"
            )
        spans.append([len(prompt), len(answered)])
    if not full.rstrip().endswith(tokenizer.eos_token):
        full += tokenizer.eos_token
        spans[-1][1] = len(full)
    # The template wrote <bos> already.
    tokens = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    labels = []
    for _, end in tokens["offset_mapping"]:
        is_learned = any(start < end <= stop for start, stop in spans)
        labels.append(int(is_learned))
    return tokens["input_ids"], labels


def read_chats(recipe: Recipe, tokenizer) -> tuple[list[Text], dict]:
    """The chats of the recipe's file, encoded; longer ones are dropped or cut, as it says.

    A cut chat has no end token to learn; one with nothing left to learn is dropped all the same.

    Returns:
        The texts, and how many there are: texts, dropped, cut, tokens, labelled.
    """
    counts = dict.fromkeys(COUNTS, 0)
    texts = []
    with open(recipe.data, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                ids, learned = encode(tokenizer, json.loads(line)["messages"], recipe.turns)
            except TemplateError as error:
                raise UserError(
                    f"{recipe.data}, line {number}: the student's chat template refuses it "
                    f"({error})"
                ) from None
            is_long = len(ids) > recipe.max_tokens
            ids, learned = ids[: recipe.max_tokens], learned[: recipe.max_tokens]
            labelled = sum(learned[1:])  # the first token is never predicted
            if not labelled or (is_long and recipe.longer == "drop"):
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
    for place in range(step * batch, (step + 1) * batch):
        epoch, i = divmod(place, n)
        rows.append(permutation(n, seed, epoch)[i])
    return rows


def split_batch(
    rows: list[int], length: list[int], processes: int, budget: int
) -> list[list[list[int]]]:
    """Micro-batches of at most `budget` padded tokens, in waves of one a process.

    Texts within a wave are alike in length, the longest first. In the last wave a micro-batch may
    be empty.
    """
    rows = sorted(rows, key=lambda row: (-length[row], row))
    waves = []
    while rows:
        each = max(1, budget // length[rows[0]])
        wave = rows[: each * processes]
        waves.append([wave[i::processes] for i in range(processes)])
        rows = rows[len(wave) :]
    return waves


def collate(texts: list[Text], rows: list[int], device) -> tuple[dict, torch.Tensor]:
    """The model's arguments, and the target tokens; of no rows those of some text."""
    ids = []
    position = []
    learned = []
    sizes = []
    for row in rows or [0]:
        tokens, labels = texts[row]
        ids += tokens
        position += range(len(tokens))
        learned += [*labels[1:], 0]  # position t predicts t + 1
        sizes.append(len(tokens))
    keep = torch.tensor(learned).nonzero().squeeze(1)
    tensors = {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([position]),
        "logits_to_keep": keep,
        "starts": torch.tensor([0, *accumulate(sizes)], dtype=torch.int32),
    }
    arguments = {name: tensor.to(device) for name, tensor in tensors.items()}
    arguments["blocks"] = blocks(sizes, device)
    arguments["longest"] = max(sizes)
    target = tensors["input_ids"][0].roll(-1)[keep]
    return arguments, target.to(device)
