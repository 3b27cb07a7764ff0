"""The sampler: the same tokens in any batch and order, the same as stock `generate`'s."""

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, TopPLogitsWarper

from helpers.student import sampler
from helpers.student.local import prompt_ids
from tests.student.students import BASE, different, requests, sample, stored, student, texts
from tests.toys import toy


@pytest.fixture(scope="module", params=["llama", "mistral", "base"])
def path(request, tmp_path_factory):
    if request.param == "base":
        return BASE
    return toy(tmp_path_factory.mktemp(request.param), request.param)


def stock_model(path):
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers_do_not_depend_on_batch_or_order(path, tmp_path, monkeypatch, dtype):
    """Nor do the logits that they are drawn from, to the bit."""
    drawn = {}
    draw = sampler.draw

    def watched(logits, uniform, **settings):
        # Each answer and step has a uniform number of its own.
        drawn.update(zip(uniform.tolist(), logits.clone(), strict=True))
        return draw(logits, uniform, **settings)

    monkeypatch.setattr(sampler, "draw", watched)
    tasks = requests(14)
    settings = {"dtype": dtype, "new_tokens": 16}
    runs = []
    for name, batch, order in (("a", 64, 1), ("b", 1, 1), ("c", 5, -1)):
        drawn.clear()
        replies = student(path, tmp_path, name, batch=batch, **settings).ask(tasks[::order])
        runs.append((texts(replies)[::order], dict(drawn)))
    whole, logits = runs[0]
    for answers, others in runs[1:]:
        assert answers == whole
        assert set(others) == set(logits)
        assert all(torch.equal(logits[u], others[u]) for u in logits)
    assert len(set(whole)) > 7, "replicates are different samples"
    assert texts(student(path, tmp_path, "d", seed=1, **settings).ask(tasks)) != whole


FAMILIES = ["llama", "mistral", "qwen3", "gemma3", "phi3", "olmo2", "granite"]


@pytest.mark.parametrize("family", [*FAMILIES, "base"])
def test_greedy_equals_stock_generate(family, tmp_path):
    path = BASE if family == "base" else toy(tmp_path / family, family)
    ours = student(path, tmp_path, temperature=0.0)
    stock = stock_model(path)
    prompts = [prompt_ids(ours.tokenizer, r.messages) for r in requests(10)]
    settings = {"batch": 4, "new_tokens": 24, "temperature": 0.0, "end": ours.end}
    answers = sample(ours.model, prompts, **settings)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        tokens = stock.generate(ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
        expected = [token for token in tokens[0, len(prompt) :].tolist() if token not in ours.end]
        assert answer == expected


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_sampling_follows_the_models_distribution(tmp_path, top_p):
    """First tokens of 4,000 samples against the softmax of the logits over 0.7.

    It is cut at `top_p` by transformers; the total variation stays below 0.05.
    """
    ours = student(BASE, tmp_path)
    prompt = ours.tokenizer(
        "<bos><user> Topic: sewing\nSkills: simile<assistant> Answer: The", add_special_tokens=False
    )["input_ids"]
    with torch.inference_mode():
        logits = stock_model(BASE)(torch.tensor([prompt])).logits[:, -1] / 0.7
    if top_p < 1:
        logits = TopPLogitsWarper(top_p)(None, logits)
    expected = logits.softmax(-1)[0]
    settings = {"batch": 256, "new_tokens": 1, "temperature": 0.7, "top_p": top_p, "end": set()}
    answers = sample(ours.model, [prompt] * 4000, **settings)
    first = torch.tensor([answer[0] for answer in answers])
    counts = torch.bincount(first, minlength=len(expected)) / 4000
    assert (counts - expected).abs().sum() / 2 < 0.05
    assert not counts[expected == 0].any()


@pytest.mark.parametrize("after", [3, 20, 45])
def test_an_error_loses_at_most_one_batch(tmp_path, monkeypatch, after):
    path, tasks = toy(tmp_path / "toy", "llama"), different(40)
    whole = texts(student(path, tmp_path, "whole").ask(tasks))
    begun, steps = [], []
    prefill, draw = sampler.prefill, sampler.draw

    def counted(model, slots, prompts):
        begun.extend(prompts)
        return prefill(model, slots, prompts)

    def failing(*arguments, **settings):
        steps.append(1)
        if len(steps) > after:
            raise RuntimeError("out of memory")
        return draw(*arguments, **settings)

    ours = student(path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "prefill", counted)
        patch.setattr(sampler, "draw", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            ours.ask(tasks)
    assert stored(tmp_path / "l.sqlite") >= len(begun) - 7
    assert texts(student(path, tmp_path, batch=5).ask(tasks)) == whole
    assert stored(tmp_path / "l.sqlite") == 40


@pytest.mark.parametrize("fails", [False, True])
def test_two_threads_sample_the_same_and_lose_no_more(tmp_path, monkeypatch, fails):
    path, tasks = toy(tmp_path / "toy", "llama"), different(90)
    whole = texts(student(path, tmp_path, "whole", batch=20).ask(tasks))
    begun, workers = [], set()
    prefill, draw = sampler.prefill, sampler.draw

    def counted(model, slots, prompts):
        begun.extend(prompts)
        workers.add(threading.get_ident())
        return prefill(model, slots, prompts)

    def failing(logits, *arguments, **settings):
        if fails and len(begun) > 60:
            raise RuntimeError("out of memory")
        return draw(logits, *arguments, **settings)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(sampler, "prefill", counted)
    monkeypatch.setattr(sampler, "draw", failing)
    ours = student(path, tmp_path, batch=20)
    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            ours.ask(tasks)
        assert len(begun) - 20 <= stored(tmp_path / "l.sqlite") < 90
    else:
        assert texts(ours.ask(tasks)) == whole
    assert len(workers) == 2
