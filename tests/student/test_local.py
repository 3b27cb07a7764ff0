"""Sampling: the same answer in any batch and order, the same as stock `generate`, stored as it comes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, TopPLogitsWarper

from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.student import sampler
from helpers.student.local import Student, context, prompt_ids
from helpers.student.sampler import sample
from tests.toys import toy

BASE = str(ROOT / "helpers/world/weights/three")


@pytest.fixture(scope="module", params=["llama", "mistral", "base"])
def student_path(request, tmp_path_factory):
    return (
        BASE
        if request.param == "base"
        else toy(tmp_path_factory.mktemp(request.param), request.param)
    )


def requests(n=24):
    skills = ("metaphor", "simile", "folk physics", "modus ponens", "red herring")
    return [
        Request(
            [
                {
                    "role": "user",
                    "content": f"Topic: sewing\nSkills: {', '.join(skills[: 1 + i % 5])}",
                }
            ],
            replicate=i,
        )
        for i in range(n)
    ]


def student(path, tmp_path, name="l", **settings):
    defaults = {"new_tokens": 24, "temperature": 0.7, "batch": 7, "seed": 0}
    return Student(path, Ledger(tmp_path / f"{name}.sqlite"), **(defaults | settings))


def texts(replies):
    assert all(len(r) == 1 for r in replies)
    return [r[0].text for r in replies]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_do_not_depend_on_batch_or_order(student_path, tmp_path, monkeypatch, dtype):
    """Nor do the logits that they are drawn from, to the bit."""
    drawn, draw = {}, sampler.draw

    def watched(logits, uniform, **settings):
        drawn.update(
            zip(uniform.tolist(), logits.clone(), strict=True)
        )  # a number of its own for each answer and step
        return draw(logits, uniform, **settings)

    monkeypatch.setattr(sampling, "draw", watched)
    asked, seen = requests(14), []
    for name, batch, order in (("a", 64, 1), ("b", 1, 1), ("c", 5, -1)):
        drawn.clear()
        said = texts(
            student(student_path, tmp_path, name, batch=batch, dtype=dtype, new_tokens=16).ask(
                asked[::order]
            )
        )[::order]
        seen.append((said, dict(drawn)))
    whole, logits = seen[0]
    for said, others in seen[1:]:
        assert said == whole
        assert set(others) == set(logits)
        assert all(torch.equal(logits[u], others[u]) for u in logits)
    assert len(set(whole)) > 7, "replicates are different samples"
    assert whole != texts(
        student(student_path, tmp_path, "d", seed=1, dtype=dtype, new_tokens=16).ask(asked)
    )


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "granite", "base"])
def test_greedy_equals_stock_generate(family, tmp_path):
    path = BASE if family == "base" else toy(tmp_path / family, family)
    ours = student(path, tmp_path, temperature=0.0)
    stock = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = [prompt_ids(ours.tokenizer, r.messages) for r in requests(10)]
    got = sample(ours.model, ids, range(10), batch=4, new_tokens=24, temperature=0.0, end=ours.end)
    for prompt, new in zip(ids, got, strict=True):
        tensor = torch.tensor([prompt])
        kwargs = {
            "attention_mask": torch.ones_like(tensor),
            "max_new_tokens": 24,
            "do_sample": False,
        }
        expected = stock.generate(tensor, **kwargs)[0, len(prompt) :].tolist()
        expected = [t for t in expected if t not in ours.end]
        assert new == expected


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_sampling_follows_the_models_distribution(tmp_path, top_p):
    """First tokens of 4,000 samples against softmax(logits / 0.7), cut at `top_p` by transformers: total variation below 0.05."""
    ours = student(BASE, tmp_path)
    ids = ours.tokenizer(
        "<bos><user> Topic: sewing\nSkills: simile<assistant> Answer: The", add_special_tokens=False
    )["input_ids"]
    stock = AutoModelForCausalLM.from_pretrained(
        BASE, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        logits = stock(torch.tensor([ids])).logits[:, -1] / 0.7
    expected = (TopPLogitsWarper(top_p)(None, logits) if top_p < 1 else logits).softmax(-1)[0]
    got = sample(
        ours.model, [ids] * 4000, range(4000), new_tokens=1, temperature=0.7, top_p=top_p, end=set()
    )
    counts = torch.bincount(torch.tensor([g[0] for g in got]), minlength=len(expected)) / 4000
    assert (counts - expected).abs().sum() / 2 < 0.05
    assert not counts[expected == 0].any()


def test_top_p_1_is_what_was_sampled_without_it(tmp_path):
    asked = requests(8)
    without = student(BASE, tmp_path, "a")
    said = texts(without.ask(asked))
    again = Student(
        BASE, without.ledger, new_tokens=24, temperature=0.7, batch=7, seed=0, top_p=1.0
    )
    assert texts(again.ask(asked)) == said
    assert len(without.ledger.summary()) == 1
    assert without.ledger.summary().attempts[0] == 8, "the same questions to the ledger"
    assert texts(student(BASE, tmp_path, "b", top_p=0.3).ask(asked)) != said


def test_what_is_stored_is_not_sampled_again(tmp_path):
    ours, asked = student(BASE, tmp_path), requests(12)
    first = ours.ask(asked[:6])
    assert ours.ask(asked)[:6] == first
    assert ours.ask([]) == []
    assert len(ours.ledger.summary()) == 1
    assert ours.ledger.summary().attempts[0] == 12


def different(n):
    words = "loom kite oven canoe hedge violin".split()
    return [
        Request([{"role": "user", "content": f"Topic: sewing\nSkills: simile, {words[i % 6]} {i}"}])
        for i in range(n)
    ]


def stored(path):
    summary = Ledger(path).summary()
    return int(summary.attempts.sum()) if len(summary) else 0


@pytest.mark.parametrize("after", [3, 20, 45])
def test_an_error_loses_at_most_one_batch(tmp_path, monkeypatch, after):
    path, asked = toy(tmp_path / "toy", "llama"), different(40)
    whole = texts(student(path, tmp_path, "whole").ask(asked))
    begun, steps, prefill, draw = [], [], sampler.prefill, sampler.draw

    def counted(model, slots, prompts, to):
        begun.extend(prompts)
        return prefill(model, slots, prompts, to)

    def failing(*arguments, **settings):
        steps.append(1)
        if len(steps) > after:
            raise RuntimeError("out of memory")
        return draw(*arguments, **settings)

    ours = student(path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "prefill", counted)
        patch.setattr(sampling, "draw", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            ours.ask(asked)
    assert stored(tmp_path / "l.sqlite") >= len(begun) - 7
    assert texts(student(path, tmp_path, batch=5).ask(asked)) == whole
    assert stored(tmp_path / "l.sqlite") == 40


@pytest.mark.parametrize("fails", [False, True])
def test_two_threads_sample_the_same_and_lose_no_more(tmp_path, monkeypatch, fails):
    path, asked = toy(tmp_path / "toy", "llama"), different(90)
    whole = texts(student(path, tmp_path, "whole", batch=20).ask(asked))
    begun, workers, prefill, draw = [], set(), sampler.prefill, sampler.draw

    def counted(model, slots, prompts, to):
        begun.extend(prompts)
        workers.add(threading.get_ident())
        return prefill(model, slots, prompts, to)

    def failing(logits, *arguments, **settings):
        if fails and len(begun) > 60:
            raise RuntimeError("out of memory")
        return draw(logits, *arguments, **settings)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(sampling, "prefill", counted)
    monkeypatch.setattr(sampling, "draw", failing)
    ours = student(path, tmp_path, batch=20)
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            ours.ask(asked)
        assert len(begun) - 20 <= stored(tmp_path / "l.sqlite") < 90
    else:
        assert texts(ours.ask(asked)) == whole
    assert len(workers) == 2


CHILD = """
import sys
from helpers.chat.ledger import Ledger
from helpers.student.local import Student
from tests.test_student import different
print("ready", flush=True)
Student(sys.argv[1], Ledger(__import__("pathlib").Path(sys.argv[2])), new_tokens=24, temperature=0.7, batch=7, seed=0).ask(different(150))
"""


def test_killed_in_the_middle_it_goes_on(tmp_path):
    path, file = toy(tmp_path / "toy", "mistral"), tmp_path / "l.sqlite"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, path, file],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (file.exists() and stored(file) >= 20):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = stored(file)
    assert 20 <= before < 150, "killed in the middle"
    asked = different(150)
    assert texts(student(path, tmp_path, batch=64).ask(asked)) == texts(
        student(path, tmp_path, "whole", batch=64).ask(asked)
    )
    assert stored(file) == 150


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
    assert not any(
        r[0].cut for r in student(BASE, tmp_path, "long", new_tokens=120).ask(requests(5))
    )


def test_what_cannot_be_sampled_is_a_sentence(tmp_path):
    ours = student(BASE, tmp_path)
    long = [Request([{"role": "user", "content": "sewing " * 500}])]
    with pytest.raises(
        UserError,
        match=r"a prompt of 50\d tokens and new_tokens = 24 are more than its context of 512; shorten the prompts",
    ):
        ours.ask([*requests(3), *long])
    assert stored(tmp_path / "l.sqlite") == 0, "nothing was sampled"
    with pytest.raises(UserError, match="sample_device = cuda:9: cannot be used"):
        student(BASE, tmp_path, device="cuda:9")
    config = AutoConfig.from_pretrained(toy(tmp_path / "toy", "granite"))
    config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(
        UserError,
        match=r"has layers of linear_attention, which are not sampled here; give 03_grade a `serve` command",
    ):
        context(config, "toy")
