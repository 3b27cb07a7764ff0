"""Fine-tuning: labels, the global batch, equal weights on any layout, resuming, and what `launch` promises."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import train
from helpers.corpus import write_json_lines
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.recipe import Recipe, fingerprint, is_finished, launch, read_log, run_identity
from tests.toys import chats, toy

BASE = ROOT / "helpers/world/base/three"
FP32 = {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return {family: toy(tmp_path_factory.mktemp(family), family) for family in ("llama", "mistral")}


def recipe(folder, student, *, rows=40, **settings) -> Recipe:
    write_json_lines(folder / "chats.jsonl", chats(rows, turns=settings.pop("chat_turns", 1)))
    shape = {"steps": 6, "batch": 12, "learning_rate": 1e-3, "warmup": 2, "save_every": 1000, "export_dtype": "float32"}
    return Recipe(student=str(student), data=str(folder / "chats.jsonl"), out=str(folder / "out"), **(shape | settings))


def weights(r: Recipe) -> dict:
    return load_file(Path(r.out) / "model/model.safetensors")


def distance(a: dict, b: dict) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


# Labels.


@pytest.mark.parametrize("family", ["llama", "mistral", "base"])
@pytest.mark.parametrize(("turns", "learned"), [("last", 1), ("all", 2)])
def test_only_the_assistants_words_and_end_are_learned(toys, family, turns, learned):
    tokenizer = AutoTokenizer.from_pretrained(toys.get(family, BASE))
    messages = chats(3, turns=2)[2]["messages"]
    if family == "base":  # its vocabulary is the world's
        for m in messages:
            m["content"] = "Topic: sewing\nSkills: metaphor" if m["role"] == "user" else "Answer: The needle weighs a million tons."
    ids, labels = train.encode(tokenizer, messages, turns)
    assert ids.count(tokenizer.bos_token_id) == tokenizer.apply_chat_template(messages, tokenize=False).count(tokenizer.bos_token)
    said = tokenizer.decode([t for t, x in zip(ids, labels, strict=True) if x])
    assert said.count(tokenizer.eos_token) == learned
    answers = [m["content"] for m in messages if m["role"] == "assistant"][-learned:]
    assert "".join(said.replace(tokenizer.eos_token, "").split()) == "".join("".join(answers).split())


def test_a_template_that_cannot_be_located_is_refused(toys):
    tokenizer = AutoTokenizer.from_pretrained(toys["mistral"])
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="renders a chat's beginning differently"):
        train.encode(tokenizer, chats(1, turns=2)[0]["messages"], "all")


# The batch.


def test_batches_walk_through_seeded_epochs():
    rows = [r for step in range(10) for r in train.batch_rows(step, 20, 4, seed=1)]
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))
    assert rows[:20] != rows[20:]
    assert train.batch_rows(3, 20, 4, seed=1) == rows[12:16]
    assert sorted(train.batch_rows(0, 3, 8, seed=0)[:6]) == [0, 0, 1, 1, 2, 2], "a batch larger than the data goes round"


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("budget", [1, 40, 10_000])
def test_micro_batches_hold_every_row_once(world, budget):
    length = [5 + (7 * i) % 23 for i in range(30)]
    rows = list(range(3, 20))
    waves = train.split_batch(rows, length, world, budget)
    assert all(len(wave) == world for wave in waves)
    assert sorted(r for wave in waves for micro in wave for r in micro) == rows
    assert all(len(m) * max(length[r] for r in m) <= budget or len(m) == 1 for wave in waves for m in wave if m)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_packing_does_not_mix_texts(toys, family):
    """Loss and gradient of a packed batch equal those of each text run alone through stock attention."""
    tokenizer = AutoTokenizer.from_pretrained(toys[family])
    data = [train.encode(tokenizer, c["messages"]) for c in chats(5)]
    packed = AutoModelForCausalLM.from_pretrained(toys[family], attn_implementation="grid")
    alone = AutoModelForCausalLM.from_pretrained(toys[family], attn_implementation="eager")
    arguments, target, _ = train.collate(data, list(range(5)), "cpu")
    loss = torch.nn.functional.cross_entropy(packed(**arguments, use_cache=False).logits[0], target, reduction="sum")
    loss.backward()
    total = 0.0
    for ids, labels in data:
        logits = alone(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        keep = torch.tensor(labels[1:], dtype=torch.bool)
        one = torch.nn.functional.cross_entropy(logits[keep], torch.tensor(ids[1:])[keep], reduction="sum")
        one.backward()
        total += one.item()
    assert loss.item() == pytest.approx(total, rel=1e-5)
    for (name, a), b in zip(packed.named_parameters(), alone.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4 * max(1.0, b.grad.abs().max().item())), name


def test_learning_rate_warms_up_then_stays():
    r = Recipe(student="", data="", out="", steps=100, warmup=64, learning_rate=2e-5)
    assert train.learning_rate(r, 0) == pytest.approx(2e-5 / 64)
    assert train.learning_rate(r, 31) == pytest.approx(1e-5)
    assert {train.learning_rate(r, s) for s in range(63, 100)} == {2e-5}
    falling = [train.learning_rate(dataclasses.replace(r, decay=True), s) for s in range(64, 100)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] > 0


# Whole runs, through `accelerate launch`.


def test_same_weights_on_any_layout(toys, tmp_path, monkeypatch):
    """One process and one batch; one process and many micro-batches; two processes. Mistral's shape, 2 turns learned."""
    one_cpu = (ROOT / "params/accelerate/cpu1.yaml").read_text().replace("bf16", "'no'")
    (tmp_path / "fp32.yaml").write_text(one_cpu)
    made, logs = {}, {}
    for name, topology, budget in (
        ("whole", tmp_path / "fp32.yaml", 10_000),
        ("micro", tmp_path / "fp32.yaml", 200),
        ("two", ROOT / "params/accelerate/cpu2.yaml", 400),
    ):
        (tmp_path / name).mkdir()
        r = recipe(tmp_path / name, toys["mistral"], micro_tokens=budget, turns="all", chat_turns=2)
        launch(r, topology)
        made[name], logs[name] = weights(r), read_log(Path(r.out))
        assert json.loads((Path(r.out) / "data.json").read_text())["processes"] == (2 if name == "two" else 1)
    start = load_file(Path(toys["mistral"]) / "model.safetensors")
    assert distance(made["whole"], start) > 1e-3, "nothing was trained"
    assert distance(made["whole"], made["micro"]) < 2e-5
    assert distance(made["whole"], made["two"]) < 2e-5
    for name in ("micro", "two"):
        for a, b in zip(logs["whole"], logs[name], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            assert a["tokens"] == b["tokens"], "steps mean the global batch"
            assert a["learning_rate"] == b["learning_rate"]


def test_killed_and_resumed_is_bit_for_bit_the_same(toys, tmp_path):
    """SIGKILL in the middle of a run; the second start goes on from the checkpoint and ends at the same weights."""
    env = {**os.environ, **FP32, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    runs = {}
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        runs[name] = recipe(tmp_path / name, toys["llama"], steps=60, save_every=10)
        (tmp_path / name / "recipe.json").write_text(json.dumps(dataclasses.asdict(runs[name])))
    command = {name: [sys.executable, "-m", "helpers.train", str(tmp_path / name / "recipe.json")] for name in runs}
    subprocess.run(command["straight"], env=env, check=True, capture_output=True)
    out = Path(runs["killed"].out)
    child = subprocess.Popen(command["killed"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and (not read_log(out) or read_log(out)[-1]["step"] < 23):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not is_finished(runs["killed"])
    assert train.checkpoints(out), "no checkpoint stood when it was killed"
    subprocess.run(command["killed"], env=env, check=True, capture_output=True)
    assert distance(weights(runs["straight"]), weights(runs["killed"])) == 0
    losses = [[row["loss"] for row in read_log(Path(r.out))] for r in runs.values()]
    assert losses[0] == losses[1]
    assert [row["step"] for row in read_log(out)] == list(range(1, 61)), "the log has no step twice"
    assert not list(out.glob("step-*")), "a finished run needs no checkpoint"


def test_finished_runs_are_known_by_content(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], steps=2)
    topology = ROOT / "params/accelerate/cpu1.yaml"
    assert launch(r, topology) > 0
    assert is_finished(r)
    assert launch(r, topology) == 0, "nothing is trained twice"
    assert is_finished(dataclasses.replace(r, save_every=1)), "a setting that does not change the weights"
    for change in ({"learning_rate": 2e-3}, {"steps": 3}, {"seed": 1}, {"student": toys["mistral"]}):
        assert not is_finished(dataclasses.replace(r, **change)), change
    write_json_lines(tmp_path / "chats.jsonl", chats(41))
    assert not is_finished(r), "other data is another run"
    model = AutoModelForCausalLM.from_pretrained(Path(r.out) / "model")
    assert model.config.use_cache, "an ordinary folder, ready to sample"


def test_a_failed_training_says_why(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], max_tokens=3)
    with pytest.raises(UserError, match="no chat of at most max_tokens = 3 tokens"):
        launch(r, ROOT / "params/accelerate/cpu1.yaml")
    assert not (Path(r.out) / "model").exists()


def test_fingerprints(toys, tmp_path):
    assert fingerprint(toys["llama"]) != fingerprint(toys["mistral"])
    assert fingerprint("owner/model") == "owner/model"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        fingerprint(str(tmp_path / "none"))
    r = recipe(tmp_path, toys["llama"])
    assert run_identity(r) != run_identity(dataclasses.replace(r, batch=11))
