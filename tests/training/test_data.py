"""From chats to micro-batches: what is learned, the global batch, and packing."""

import dataclasses
import itertools
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.training import data
from helpers.training.recipe import Recipe
from tests.toys import chats, toy

BASE = ROOT / "helpers/world/weights/three"


@pytest.mark.parametrize("family", ["llama", "mistral", "base"])
@pytest.mark.parametrize(("turns", "learned"), [("last", 1), ("all", 2)])
def test_only_the_assistants_words_and_end_are_learned(toys, family, turns, learned):
    tokenizer = AutoTokenizer.from_pretrained(toys.get(family, BASE))
    messages = chats(3, turns=2)[2]["messages"]
    if family == "base":  # its vocabulary is the world's
        for m in messages:
            m["content"] = (
                "Topic: sewing\nShow: metaphor"
                if m["role"] == "user"
                else "Answer: The needle turns a million times."
            )
    system = [{"role": "system", "content": "Be brief."}] if family == "llama" else []
    ids, labels = data.encode(tokenizer, system + messages, turns)
    assert ("<<SYS>>" in tokenizer.decode(ids)) == bool(system), "Llama-2 has its system block"
    assert ids.count(tokenizer.bos_token_id) == tokenizer.apply_chat_template(
        system + messages, tokenize=False
    ).count(tokenizer.bos_token)
    said = tokenizer.decode([t for t, x in zip(ids, labels, strict=True) if x])
    assert said.count(tokenizer.eos_token) == learned
    answers = [m["content"] for m in messages if m["role"] == "assistant"][-learned:]
    assert "".join(said.replace(tokenizer.eos_token, "").split()) == "".join(
        "".join(answers).split()
    )


def test_a_template_that_cannot_be_located_is_refused(toys):
    tokenizer = AutoTokenizer.from_pretrained(toys["mistral"])
    tokenizer.chat_template = (
        "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    with pytest.raises(UserError, match=r"renders a chat's beginning differently.*another student"):
        data.encode(tokenizer, chats(1, turns=2)[0]["messages"])


def test_a_template_that_renders_earlier_answers_otherwise_can_learn_the_last(tmp_path):
    """Qwen3 leaves out the thoughts of all answers but the last."""
    tokenizer = AutoTokenizer.from_pretrained(toy(tmp_path, "qwen3"))
    messages = chats(1, turns=2)[0]["messages"]
    with pytest.raises(UserError, match=r"beginning differently.*; set learned_turns: last"):
        data.encode(tokenizer, messages, "all")
    assert sum(data.encode(tokenizer, messages, "last")[1])


def test_a_template_that_opens_answers_otherwise_is_refused(toys):
    """As models do that think first: the prompt to go on is not how the whole chat begins."""
    tokenizer = AutoTokenizer.from_pretrained(toys["mistral"])
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(UserError, match="renders a chat's beginning differently"):
        data.encode(tokenizer, chats(1)[0]["messages"])


@pytest.mark.parametrize("longer", ["drop", "cut"])
def test_longer_chats_are_dropped_or_cut_and_counted(toys, tmp_path, longer):
    tokenizer = AutoTokenizer.from_pretrained(toys["llama"])
    file = tmp_path / "chats.jsonl"
    write_json_lines(file, chats(30))
    r = Recipe(student="", data=str(file), out="", longer=longer, max_tokens=10_000)
    every, _ = data.read_chats(r, tokenizer)
    sizes = [len(ids) for ids, _ in every]
    most = sorted(sizes)[15]
    kept, counts = data.read_chats(dataclasses.replace(r, max_tokens=most), tokenizer)
    long = sum(size > most for size in sizes)
    assert 0 < long < 30
    assert (counts["texts"], counts["dropped"], counts["cut"]) == (
        (30 - long, long, 0) if longer == "drop" else (30, 0, long)
    )
    assert max(len(ids) for ids, _ in kept) == most
    assert (
        all(ids == e[0][: len(ids)] for (ids, _), e in zip(kept, every, strict=True))
        or longer == "drop"
    )
    assert counts["tokens"] == sum(len(ids) for ids, _ in kept)
    none, counts = data.read_chats(dataclasses.replace(r, max_tokens=3), tokenizer)
    assert (none, counts["dropped"]) == ([], 30), "what is left of these has nothing to learn"


def test_batches_walk_through_seeded_epochs():
    rows = [r for step in range(10) for r in data.batch_rows(step, 20, 4, seed=1)]
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))
    assert rows[:20] != rows[20:]
    assert data.batch_rows(3, 20, 4, seed=1) == rows[12:16]
    assert sorted(data.batch_rows(0, 3, 8, seed=0)[:6]) == [0, 0, 1, 1, 2, 2], (
        "a batch larger than the data goes round"
    )


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_micro_batches_hold_every_row_once(world, budget):
    length = [5 + (7 * i) % 23 for i in range(30)]
    rows = list(range(3, 20))
    waves = data.split_batch(rows, length, world, budget)
    assert all(len(wave) == world for wave in waves)
    assert sorted(r for wave in waves for micro in wave for r in micro) == rows
    assert all(
        len(m) * max(length[r] for r in m) <= budget or len(m) == 1
        for wave in waves
        for m in wave
        if m
    )


def text_by_text(q, k, v, starts, ends, *_, scale, window_size, enable_gqa):
    """What torch says that its kernels for GPUs compute: q, k, v are (tokens, heads, size)."""
    assert window_size == (-1, 0), "causal"
    parts = []
    for start, end in itertools.pairwise(starts.tolist()):
        one = (a[start:end].transpose(0, 1) for a in (q, k, v))
        options = {"is_causal": True, "scale": scale, "enable_gqa": enable_gqa}
        parts.append(torch.nn.functional.scaled_dot_product_attention(*one, **options))
    assert starts is ends
    return torch.cat(parts, 1).transpose(0, 1)


@pytest.mark.parametrize("attention", ["packed", "kernel"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_packing_does_not_mix_texts(toys, family, attention, monkeypatch):
    """Loss and gradient of a packed batch are those of each text alone, with stock attention."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", text_by_text)
    tokenizer = data.load_tokenizer(toys[family])
    texts = [data.encode(tokenizer, chat["messages"]) for chat in chats(5)]
    packed = AutoModelForCausalLM.from_pretrained(toys[family], attn_implementation=attention)
    alone = AutoModelForCausalLM.from_pretrained(toys[family], attn_implementation="eager")
    arguments, target = data.collate(texts, list(range(5)), "cpu")
    logits = packed(**arguments, use_cache=False).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
    loss.backward()
    total = 0.0
    for ids, labels in texts:
        logits = alone(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        keep = torch.tensor(labels[1:], dtype=torch.bool)
        target = torch.tensor(ids[1:])[keep]
        one = torch.nn.functional.cross_entropy(logits[keep], target, reduction="sum")
        one.backward()
        total += one.item()
    assert loss.item() == pytest.approx(total, rel=1e-5)
    for (name, a), b in zip(packed.named_parameters(), alone.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4 * max(1.0, b.grad.abs().max().item())), name


def test_a_student_without_a_chat_template_is_refused(toys, tmp_path):
    shutil.copytree(toys["llama"], tmp_path / "bare")
    (tmp_path / "bare/chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template; take the model's chat"):
        data.load_tokenizer(str(tmp_path / "bare"))
