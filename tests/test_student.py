"""Sampling: the same answer in any batch and order, the same as stock `generate`, stored as it comes."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.chat import Request
from helpers.ledger import Ledger
from helpers.paths import ROOT
from helpers.student import Student, sample
from tests.toys import toy

BASE = str(ROOT / "helpers/world/base/three")


@pytest.fixture(scope="module", params=["llama", "mistral", "base"])
def student_path(request, tmp_path_factory):
    return BASE if request.param == "base" else toy(tmp_path_factory.mktemp(request.param), request.param)


def requests(n=24):
    skills = ("metaphor", "simile", "folk physics", "modus ponens", "red herring")
    return [
        Request([{"role": "user", "content": f"Topic: sewing\nSkills: {', '.join(skills[: 1 + i % 5])}"}], replicate=i) for i in range(n)
    ]


def student(path, tmp_path, name="l", **settings):
    defaults = {"new_tokens": 24, "temperature": 0.7, "batch": 7, "seed": 0}
    return Student(path, Ledger(tmp_path / f"{name}.sqlite"), **(defaults | settings))


def texts(replies):
    assert all(len(r) == 1 for r in replies)
    return [r[0].text for r in replies]


def test_answers_do_not_depend_on_batch_or_order(student_path, tmp_path):
    asked = requests()
    whole = texts(student(student_path, tmp_path, "a", batch=64).ask(asked))
    small = texts(student(student_path, tmp_path, "b", batch=5).ask(asked))
    backwards = texts(student(student_path, tmp_path, "c", batch=7).ask(asked[::-1]))[::-1]
    assert whole == small == backwards
    assert len(set(whole)) > 12, "replicates are different samples"
    assert whole != texts(student(student_path, tmp_path, "d", seed=1).ask(asked))


def test_greedy_equals_stock_generate(student_path, tmp_path):
    ours = student(student_path, tmp_path, temperature=0.0)
    stock = AutoModelForCausalLM.from_pretrained(student_path, dtype=torch.float32, attn_implementation="eager").eval()
    prompts = [ours.tokenizer.apply_chat_template(r.messages, tokenize=False, add_generation_prompt=True) for r in requests(10)]
    ids = [ours.tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    got = sample(ours.model, ids, range(10), new_tokens=24, temperature=0.0, end=ours.end)
    for prompt, new in zip(ids, got, strict=True):
        tensor = torch.tensor([prompt])
        kwargs = {"attention_mask": torch.ones_like(tensor), "max_new_tokens": 24, "do_sample": False}
        expected = stock.generate(tensor, **kwargs)[0, len(prompt) :].tolist()
        expected = [t for t in expected if t not in ours.end]
        assert new == expected


def test_sampling_follows_the_models_distribution(tmp_path):
    """First tokens of 4,000 samples against softmax(logits / 0.7), total variation below 0.05."""
    ours = student(BASE, tmp_path)
    ids = ours.tokenizer("<bos><user> Topic: sewing\nSkills: simile<assistant> Answer: The", add_special_tokens=False)["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        expected = (stock(torch.tensor([ids])).logits[0, -1] / 0.7).softmax(-1)
    got = sample(ours.model, [ids] * 4000, range(4000), new_tokens=1, temperature=0.7, end=set())
    counts = torch.bincount(torch.tensor([g[0] for g in got]), minlength=len(expected)) / 4000
    assert (counts - expected).abs().sum() / 2 < 0.05


def test_what_is_stored_is_not_sampled_again(tmp_path):
    ours, asked = student(BASE, tmp_path), requests(12)
    first = ours.ask(asked[:6])
    assert ours.ask(asked)[:6] == first
    assert len(ours.ledger.summary()) == 1
    assert ours.ledger.summary().attempts[0] == 12


def test_another_model_never_reads_these_answers(tmp_path):
    ledger_name, asked = "shared", requests(6)
    base = texts(student(BASE, tmp_path, ledger_name).ask(asked))
    other = texts(student(toy(tmp_path / "toy", "llama"), tmp_path, ledger_name).ask(asked))
    assert base != other
    hotter = texts(student(BASE, tmp_path, ledger_name, temperature=1.5).ask(asked))
    assert base != hotter


def test_an_answer_cut_at_the_limit_is_marked(tmp_path):
    replies = student(BASE, tmp_path, new_tokens=3).ask(requests(5))
    assert all(r[0].cut for r in replies)
    assert not any(r[0].cut for r in student(BASE, tmp_path, "long", new_tokens=120).ask(requests(5)))
