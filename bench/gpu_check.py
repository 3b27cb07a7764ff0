"""Does the paper's training and sampling work on this GPU, and which variant is fastest?

`make gpu-check`: one CUDA GPU, no network, about a quarter of an hour. Toy Llama and Mistral are
trained, killed, resumed and sampled, through `helpers.training.launch` (FSDP2 on one process, bf16)
and `helpers.student.local`. Then a model with random weights and Mistral-7B's layers, as many as
fit, is trained for a few steps at 1024 tokens a text in each of `WAYS`: tokens a second, MFU and
memory. At last the loss alone, at once and in chunks, and the sampling of `bench.sample`. With
`--topology cpu1.yaml` all but the sampling runs on a CPU, at toy size: the tests do that. Not run
on a GPU by us.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

from bench import sample
from bench.table import write
from helpers import paths
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.student.local import Student
from helpers.training import launch, memory, train
from helpers.training.recipe import Recipe, facts, read_log
from helpers.training.topology import Topology, read_topology
from tests.toys import chats, toy

STEPS = 60  # of the toys
GPU = torch.cuda.is_available()
# What is timed: steps, texts a step, tokens of a text.
LARGE_STEPS, TEXTS, TOKENS = (6, 64, 1024) if GPU else (3, 16, 64)


def trained_killed_resumed(folder: Path, family: str, topology: Path) -> str:
    """Train a toy straight through and once with a kill; returns the model's folder."""
    student = toy(folder / "toy", family)
    write_json_lines(folder / "chats.jsonl", chats(200, turns=2))
    shape = {
        "steps": STEPS,
        "batch": 16,
        "learning_rate": 1e-3,
        "warmup": 4,
        "turns": "all",
        "micro_tokens": 2048,
        "save_every": 10,
    }
    runs = {
        n: Recipe(student=student, data=str(folder / "chats.jsonl"), out=str(folder / n), **shape)
        for n in ("straight", "killed")
    }
    launch.run(runs["straight"], topology)

    def kill() -> None:
        out = Path(runs["killed"].out)
        while not read_log(out) or read_log(out)[-1]["step"] < STEPS // 2:
            time.sleep(0.02)
        for process in psutil.process_iter(["cmdline"]):
            if (
                str(out / "recipe.json") in (process.info["cmdline"] or [])
                and "accelerate.commands.launch" not in process.info["cmdline"]
            ):
                process.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    said = ""
    try:
        launch.run(runs["killed"], topology)
    except UserError as error:
        said = str(error)
    assert "a process was killed" in said, f"{family}: the training was not killed: {said}"
    killer.join()
    launch.run(runs["killed"], topology)
    losses = {name: [row["loss"] for row in read_log(Path(r.out))] for name, r in runs.items()}
    worst = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    first, last = losses["straight"][0], losses["straight"][-1]
    assert last < first, f"{family}: the loss went from {first} to {last}"
    assert worst < 0.02 * first, f"{family}: after the kill the loss differs by {worst}"
    print(
        f"{family}: loss {first:.3f} to {last:.3f};"
        f" killed and resumed differs by at most {worst:.1e}; {facts(Path(runs['straight'].out))}"
    )
    return str(folder / "killed/model")


def sampled(folder: Path, family: str, model: str) -> None:
    """Sample the trained toy in bf16, in two batch sizes: the answers must be the same."""
    requests = [Request([chats(40)[i]["messages"][0]], replicate=i % 3) for i in range(40)]
    answers = []
    for batch in (40, 7):
        ledger = Ledger(folder / f"ledger-{batch}.sqlite")
        student = Student(
            model, ledger, new_tokens=40, temperature=0.7, batch=batch, seed=0, dtype="bfloat16"
        )
        answers.append([reply.text for reply in student.ask(requests)])
    same = sum(a == b for a, b in zip(*answers, strict=True))
    print(
        f"{family}: {len(requests)} answers sampled on {student.model.device};"
        f" {same} the same in batches of 40 and of 7"
    )
    assert any(answers[0]), f"{family}: every answer is empty"


# Ways of training, by what differs: fields of the recipe, the attention that the environment names,
# and the texts of a micro-batch. A large loss is always computed in chunks.
WAYS = {
    "as it is, 8 texts": {},
    "16 texts": {"texts": 16},
    "compiled": {"compile": True},
    "kernel": {"attention": "kernel"},
    "compiled, kernel, 16 texts": {"compile": True, "attention": "kernel", "texts": 16},
}


def mistral(layers: int) -> MistralConfig:
    """Mistral-7B's shape with so many layers, which transformers has as defaults; else a toy's."""
    shape = {"num_hidden_layers": layers, "num_key_value_heads": 8, "sliding_window": None}
    if not GPU:
        shape |= {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 320}
        shape |= {"num_attention_heads": 8}
    return MistralConfig(**shape)


def saved(folder: Path, topology: Topology) -> tuple[Recipe, int]:
    """A model of as many layers as fit, and texts that fill it; returns its recipe and layers."""
    recipe = Recipe(
        str(folder / "large"),
        str(folder / "long.jsonl"),
        str(folder / "out"),
        steps=LARGE_STEPS,
        batch=TEXTS,
        max_tokens=TOKENS,
        micro_tokens=16 * TOKENS,  # the most of all ways
        longer="cut",
        save_every=LARGE_STEPS,
    )
    free = min(memory.devices(topology), default=0.0)
    for layers in (32, 24, 16, 8, 4, 2):
        config = mistral(layers)
        need = memory.needs(memory.shape_of(config.to_dict()), recipe, topology)
        if need[memory.PROCESS] < free:
            break
    with torch.device("cuda" if GPU else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(recipe.student)
    del model
    torch.cuda.empty_cache()
    base = toy(folder / "tokenizer", "mistral")
    AutoTokenizer.from_pretrained(base).save_pretrained(recipe.student)
    question = {"role": "user", "content": "Write."}
    words = "the needle turns and waits " * 400
    rows = []
    for i in range(TEXTS):
        answer = {"role": "assistant", "content": f"{i} {words}"}
        rows.append({"messages": [question, answer]})
    write_json_lines(Path(recipe.data), rows)
    return recipe, layers


def timed(recipe: Recipe, topology: Path, way: dict) -> dict:
    """Train in one of `WAYS`: tokens a second, MFU, GB; or why it could not be."""
    recipe = dataclasses.replace(
        recipe,
        micro_tokens=way.get("texts", 8) * recipe.max_tokens,
        compile=way.get("compile", False),
    )
    os.environ["TRAINING_ATTENTION"] = way.get("attention", "packed")
    try:
        launch.run(recipe, topology)
        log = read_log(Path(recipe.out))[2:]  # the first steps warm up
    except UserError as error:
        return {"failed": str(error).splitlines()[-1]}
    finally:
        del os.environ["TRAINING_ATTENTION"]
        shutil.rmtree(recipe.out)
    shape = memory.shape_of(memory.config_of(recipe.student))
    need = memory.needs(shape, recipe, read_topology(topology))
    row = {"memory_gb": log[-1]["memory_gb"], "memory_gb_estimated": round(need[memory.PROCESS], 1)}
    for name in ("tokens_per_s", "mfu"):
        values = [line[name] for line in log]
        row[name] = statistics.median(values) if values[0] else None
    return row


def loss_alone() -> dict:
    """The loss of 8 texts and its gradient, at once and in chunks: milliseconds and GB."""
    device = "cuda" if GPU else "cpu"
    size = (8 * TOKENS, mistral(2).vocab_size)
    logits = torch.randn(size, device=device, dtype=torch.bfloat16, requires_grad=True)
    target = torch.randint(size[1], size[:1], device=device)
    row = {}
    for name, chunks in (("at once", 1), ("in chunks", 4)):
        memory.CHUNK = logits.numel() // chunks
        milliseconds = []
        if GPU:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(5):
            start = time.perf_counter()
            torch.autograd.grad(train.nats(logits, target), logits)[0].sum().item()
            milliseconds.append(1000 * (time.perf_counter() - start))
        gb = torch.cuda.max_memory_allocated() / memory.GB  # 0 without a GPU
        row[name] = {"ms": round(statistics.median(milliseconds), 1), "gb": round(gb, 2)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="gpu1.yaml", help="a file of params/accelerate")
    parser.add_argument("--out", type=Path, default=paths.run("bench") / "gpu.json")
    arguments = parser.parse_args()
    topology = ROOT / "params/accelerate" / arguments.topology
    if "cpu" not in topology.name and not GPU:
        sys.exit("gpu-check: torch sees no CUDA GPU here, so nothing was checked")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    print(f"torch {torch.__version__}, {topology.name}")
    with tempfile.TemporaryDirectory() as folder:
        for family in ("llama", "mistral"):
            (Path(folder) / family).mkdir()
            model = trained_killed_resumed(Path(folder) / family, family, topology)
            sampled(Path(folder) / family, family, model)
        (Path(folder) / "large").mkdir()
        recipe, layers = saved(Path(folder) / "large", read_topology(topology))
        rows = {}
        for name, way in WAYS.items():
            rows[name] = timed(recipe, topology, way)
            print(f"{name}: {rows[name]}", flush=True)
    result = {
        "device": torch.cuda.get_device_name() if GPU else "CPU",
        "layers": layers,
        "training": rows,
        "loss": loss_alone(),
    }
    if GPU:
        result["sampling"] = sample.on_gpu(1)
    write(arguments.out, result)
    print(json.dumps(result), f"{time.monotonic() - start:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
