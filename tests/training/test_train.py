"""Fine-tuning: labels, the global batch, equal weights on any layout, resuming, and what `launch` promises."""

import dataclasses
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.corpus import write_json_lines
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.training import data, launch, parallel, train
from helpers.training.recipe import Recipe, facts, fingerprint, is_finished, read_log, run_identity
from tests.toys import chats, toy

BASE = ROOT / "helpers/world/weights/three"
FP32 = {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return {family: toy(tmp_path_factory.mktemp(family), family) for family in ("llama", "mistral")}


def recipe(folder, student, *, rows=40, **settings) -> Recipe:
    write_json_lines(folder / "chats.jsonl", chats(rows, turns=settings.pop("chat_turns", 1)))
    shape = {
        "steps": 6,
        "batch": 12,
        "learning_rate": 1e-3,
        "warmup": 2,
        "save_every": 1000,
        "export_dtype": "float32",
    }
    return Recipe(
        student=str(student),
        data=str(folder / "chats.jsonl"),
        out=str(folder / "out"),
        **(shape | settings),
    )


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
            m["content"] = (
                "Topic: sewing\nSkills: metaphor"
                if m["role"] == "user"
                else "Answer: The needle weighs a million tons."
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
    with pytest.raises(UserError, match="renders a chat's beginning differently"):
        data.encode(tokenizer, chats(1, turns=2)[0]["messages"], "all")


@pytest.mark.parametrize("longer", ["drop", "cut"])
def test_longer_chats_are_dropped_or_cut_and_counted(toys, tmp_path, longer):
    tokenizer = AutoTokenizer.from_pretrained(toys["llama"])
    write_json_lines(tmp_path / "chats.jsonl", chats(30))
    every, _ = data.read_chats(
        tmp_path / "chats.jsonl", tokenizer, turns="last", max_tokens=10_000, longer=longer
    )
    sizes = [len(ids) for ids, _ in every]
    most = sorted(sizes)[15]
    kept, counts = data.read_chats(
        tmp_path / "chats.jsonl", tokenizer, turns="last", max_tokens=most, longer=longer
    )
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
    none, counts = data.read_chats(
        tmp_path / "chats.jsonl", tokenizer, turns="last", max_tokens=3, longer=longer
    )
    assert (none, counts["dropped"]) == ([], 30), "what is left of these has nothing to learn"


def test_a_template_that_opens_answers_otherwise_is_refused(toys):
    """As models do that think first: the prompt to go on is not how the whole chat begins."""
    tokenizer = AutoTokenizer.from_pretrained(toys["mistral"])
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    with pytest.raises(UserError, match="renders a chat's beginning differently"):
        data.encode(tokenizer, chats(1)[0]["messages"])


# The batch.


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


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_packing_does_not_mix_texts(toys, family):
    """Loss and gradient of a packed batch equal those of each text run alone through stock attention."""
    tokenizer = AutoTokenizer.from_pretrained(toys[family])
    data = [data.encode(tokenizer, c["messages"]) for c in chats(5)]
    packed = AutoModelForCausalLM.from_pretrained(toys[family], attn_implementation="packed")
    alone = AutoModelForCausalLM.from_pretrained(toys[family], attn_implementation="eager")
    arguments, target, _ = data.collate(data, list(range(5)), "cpu")
    loss = torch.nn.functional.cross_entropy(
        packed(**arguments, use_cache=False).logits[0], target, reduction="sum"
    )
    loss.backward()
    total = 0.0
    for ids, labels in data:
        logits = alone(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        keep = torch.tensor(labels[1:], dtype=torch.bool)
        one = torch.nn.functional.cross_entropy(
            logits[keep], torch.tensor(ids[1:])[keep], reduction="sum"
        )
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
    """One process and one batch; one with many micro-batches; two, with DDP and FSDP2. Mistral's shape, 2 turns learned."""
    one_cpu = (ROOT / "params/accelerate/cpu1.yaml").read_text().replace("bf16", "'no'")
    (tmp_path / "cpu1_fp32.yaml").write_text(one_cpu)
    one = (ROOT / "params/accelerate/gpu1.yaml").read_text()
    (tmp_path / "cpu1_fsdp2.yaml").write_text(
        one.replace("mixed_precision: bf16", "mixed_precision: 'no'")
    )
    four = (ROOT / "params/accelerate/gpu4_fsdp2.yaml").read_text()
    (tmp_path / "cpu2_fsdp2.yaml").write_text(
        four.replace("num_processes: 4", "num_processes: 2").replace(
            "mixed_precision: bf16", "mixed_precision: 'no'"
        )
    )
    made, logs = {}, {}
    for name, topology, budget in (
        ("whole", tmp_path / "cpu1_fp32.yaml", 10_000),
        ("micro", tmp_path / "cpu1_fp32.yaml", 200),
        ("two", ROOT / "params/accelerate/cpu2.yaml", 400),
        ("sharded", tmp_path / "cpu2_fsdp2.yaml", 400),
        ("one sharded", tmp_path / "cpu1_fsdp2.yaml", 400),
    ):
        (tmp_path / name).mkdir()
        r = recipe(tmp_path / name, toys["mistral"], micro_tokens=budget, turns="all", chat_turns=2)
        launch.run(r, topology)
        assert parallel.checkpoints(Path(r.out)) == []
        made[name], logs[name] = weights(r), read_log(Path(r.out))
        assert json.loads((Path(r.out) / "data.json").read_text())["processes"] == (
            2 if name in ("two", "sharded") else 1
        )
    start = load_file(Path(toys["mistral"]) / "model.safetensors")
    assert distance(made["whole"], start) > 1e-3, "nothing was trained"
    for name in ("micro", "two", "sharded", "one sharded"):
        assert distance(made["whole"], made[name]) < 2e-5, name
        for a, b in zip(logs["whole"], logs[name], strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
            assert a["tokens"] == b["tokens"], "steps mean the global batch"
            assert a["learning_rate"] == b["learning_rate"]


ENVIRONMENT = {**os.environ, **FP32, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def alone(r: Recipe, **options) -> subprocess.Popen:
    """Start the training as one process, without the launcher."""
    path = Path(r.out).parent / "recipe.json"
    path.write_text(json.dumps(dataclasses.asdict(r)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.training.train", str(path)],
        env=ENVIRONMENT,
        cwd=ROOT,
        **pipes,
        **options,
    )


def until(r: Recipe, step: int, child: subprocess.Popen) -> None:
    while child.poll() is None and (
        not read_log(Path(r.out)) or read_log(Path(r.out))[-1]["step"] < step
    ):
        time.sleep(0.005)


def test_killed_and_resumed_is_bit_for_bit_the_same(toys, tmp_path):
    """SIGKILL at a random step; the second start goes on from the checkpoint and ends at the same weights."""
    runs = {}
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        runs[name] = recipe(tmp_path / name, toys["llama"], steps=60, save_every=10)
    assert alone(runs["straight"]).wait() == 0
    out, at = Path(runs["killed"].out), random.randint(11, 50)
    print(f"killed after step {at}")
    child = alone(runs["killed"])
    until(runs["killed"], at, child)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not is_finished(runs["killed"])
    assert parallel.checkpoints(out), "no checkpoint stood when it was killed"
    assert alone(runs["killed"]).wait() == 0
    assert distance(weights(runs["straight"]), weights(runs["killed"])) == 0
    losses = [[row["loss"] for row in read_log(Path(r.out))] for r in runs.values()]
    assert losses[0] == losses[1]
    assert [row["step"] for row in read_log(out)] == list(range(1, 61)), "the log has no step twice"
    assert not list(out.glob("step-*")), "a finished run needs no checkpoint"


def test_checkpoints_by_time_and_a_full_disk(toys, tmp_path):
    """A checkpoint that cannot be written ends the run with a sentence; the one before stands, and the run goes on from it."""
    r = recipe(tmp_path, toys["llama"], steps=400, save_every=1000, save_minutes=1e-6)
    child = alone(r)
    until(r, 20, child)
    child.kill()
    child.wait()
    (stands,) = parallel.checkpoints(Path(r.out))
    # A limit on the size of a file fails as a full disk does, in the middle of a write.
    full = alone(r, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)))
    said, _ = full.communicate()
    assert full.returncode == 1
    assert "cannot be written or read" in said.splitlines()[-1], said[-2000:]
    assert parallel.checkpoints(Path(r.out)) == [stands]
    assert alone(dataclasses.replace(r, save_minutes=0.0)).wait() == 0
    assert [row["step"] for row in read_log(Path(r.out))] == list(range(1, 401))


def test_a_loss_that_is_no_number_ends_the_run(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], steps=40, learning_rate=1e30, warmup=30, save_every=1)
    child = alone(r)
    said, _ = child.communicate()
    assert child.returncode == 1
    assert "lower learning_rate; the last checkpoint stands" in said.splitlines()[-1]
    assert parallel.checkpoints(Path(r.out)) == [len(read_log(Path(r.out)))]
    assert not is_finished(r)


def test_out_of_memory_is_a_sentence():
    r = Recipe(student="", data="", out="runs/x", micro_tokens=4096)
    with pytest.raises(RuntimeError) as failure:
        torch.empty(10**15)
    assert "lower micro_tokens (now 4096)" in train.sentence(failure.value, r)
    assert "lower micro_tokens" in train.sentence(torch.OutOfMemoryError("CUDA out of memory"), r)
    assert train.sentence(ValueError("a bug"), r) is None


@pytest.mark.slow
def test_a_dying_worker_ends_the_run_and_two_processes_resume(toys, tmp_path):
    """One of two workers is killed: the launcher stops the other, the notebook gets a sentence, and a new start goes on."""
    runs = {}
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        runs[name] = recipe(tmp_path / name, toys["mistral"], steps=60, save_every=10)
    topology = ROOT / "params/accelerate/cpu2.yaml"
    launch.run(runs["straight"], topology)
    r = runs["killed"]

    def kill_one():
        while not read_log(Path(r.out)) or read_log(Path(r.out))[-1]["step"] < 15:
            time.sleep(0.02)
        mine = [
            p
            for p in psutil.process_iter(["cmdline"])
            if str(Path(r.out) / "recipe.json") in (p.info["cmdline"] or [])
        ]
        workers = [p for p in mine if "accelerate.commands.launch" not in p.info["cmdline"]]
        workers[-1].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(UserError, match=r"a process was killed.*its last lines were"):
        launch.run(r, topology)
    killer.join()
    assert parallel.checkpoints(Path(r.out))
    assert launch.run(r, topology) > 0
    assert distance(weights(runs["straight"]), weights(r)) < 1e-6
    assert [row["step"] for row in read_log(Path(r.out))] == list(range(1, 61))


@pytest.mark.slow
def test_several_machines_are_started_through_slurm(toys, tmp_path, monkeypatch):
    """A stand-in for srun starts the command once a "machine", both of them here, with one CPU process each."""
    r = recipe(tmp_path, toys["llama"], micro_tokens=400)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = (ROOT / "params/accelerate/machines2_gpu4_fsdp2.yaml").read_text()
    changes = {
        "num_processes: 8": "num_processes: 2",
        "bf16": "'no'",
        "port: 29500": f"port: {port}",
    }
    for old, new in changes.items():
        assert old in two
        two = two.replace(old, new)
    (tmp_path / "cpu_machines2.yaml").write_text(two)
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(
        UserError, match=r"cpu_machines2.yaml is for 2 machines: run it inside a Slurm job"
    ):
        launch.run(r, tmp_path / "cpu_machines2.yaml")
    programs = {
        "scontrol": 'echo "127.0.0.1"; echo other',
        "srun": 'while [[ $1 == --* ]]; do echo "$1" >> "$0.said"; shift; done\n'
        'SLURM_PROCID=1 LOCAL_WORLD_SIZE=1 "$@" & SLURM_PROCID=0 "$@" || exit 1; wait $!',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "made-up[1-2]")
    launch.run(r, tmp_path / "cpu_machines2.yaml")
    assert facts(Path(r.out))["processes"] == 2
    assert (tmp_path / "srun.said").read_text().split() == [
        "--nodes=2",
        "--ntasks=2",
        "--ntasks-per-node=1",
    ]
    (tmp_path / "one").mkdir()
    one = recipe(tmp_path / "one", toys["llama"])
    (tmp_path / "cpu1_fp32.yaml").write_text(
        (ROOT / "params/accelerate/cpu1.yaml").read_text().replace("bf16", "'no'")
    )
    launch.run(one, tmp_path / "cpu1_fp32.yaml")
    assert distance(weights(one), weights(r)) < 2e-5


def test_the_loss_so_far_is_a_line():
    assert launch.curve([3.0, 2.0, 1.0]) == "█▅▁"
    assert len(launch.curve([1.0] * 100)) == 24
    assert launch.curve([1.0]) == "▁"


def test_finished_runs_are_known_by_content(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], steps=2)
    topology = ROOT / "params/accelerate/cpu1.yaml"
    assert launch.run(r, topology) > 0
    assert is_finished(r)
    row = read_log(Path(r.out))[-1]
    assert row.keys() == {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_s",
        "memory_gb",
        "mfu",
    }
    assert 0.1 < row["memory_gb"] < 10
    assert row["tokens_per_s"] > 0
    assert row["mfu"] is None, "no data sheet says what this processor could do"
    assert launch.run(r, topology) == 0, "nothing is trained twice"
    assert is_finished(dataclasses.replace(r, save_every=1)), (
        "a setting that does not change the weights"
    )
    for change in (
        {"learning_rate": 2e-3},
        {"steps": 3},
        {"seed": 1},
        {"student": toys["mistral"]},
        {"precision": "no"},
    ):
        assert not is_finished(dataclasses.replace(r, **change)), change
    write_json_lines(tmp_path / "chats.jsonl", chats(41))
    assert not is_finished(r), "other data is another run"
    model = AutoModelForCausalLM.from_pretrained(Path(r.out) / "model")
    assert model.config.use_cache, "an ordinary folder, ready to sample"


def test_a_log_of_another_run_is_not_shown_as_this_ones(toys, tmp_path):
    """A finished, B begun in the same folder and stopped, back to A: A's model stands, but its log is gone, so A is trained again."""
    r = recipe(tmp_path, toys["llama"], steps=2)
    assert alone(r).wait() == 0
    other = dataclasses.replace(r, steps=4000)
    child = alone(other)
    until(other, 3, child)
    child.kill()
    child.wait()
    assert not is_finished(r)
    half = Path(r.out) / "step-1.tmp"
    half.mkdir()
    assert alone(r).wait() == 0
    assert is_finished(r)
    assert [row["step"] for row in read_log(Path(r.out))] == [1, 2]
    assert not half.exists(), "what a kill in the middle of a save left"


def test_a_failed_training_says_why(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], max_tokens=3)
    with pytest.raises(UserError, match="no chat of at most max_tokens = 3 tokens"):
        launch.run(r, ROOT / "params/accelerate/cpu1.yaml")
    assert not (Path(r.out) / "model").exists()


def test_fingerprints(toys, tmp_path):
    assert fingerprint(toys["llama"]) != fingerprint(toys["mistral"])
    assert fingerprint("owner/model") == "owner/model"
    before = fingerprint(toys["llama"])
    template = Path(toys["llama"]) / "chat_template.jinja"
    said = template.read_text()
    template.write_text(said + " ")
    assert fingerprint(toys["llama"]) != before, "another template is another student"
    template.write_text(said)
    assert fingerprint(toys["llama"]) == before
    with pytest.raises(FileNotFoundError, match="no such folder"):
        fingerprint(str(tmp_path / "none"))
    r = recipe(tmp_path, toys["llama"])
    assert run_identity(r) != run_identity(dataclasses.replace(r, batch=11))
