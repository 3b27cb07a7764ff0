"""Does the paper's path work on this GPU? Toy students go through it, then a large one is timed.

`make gpu-check`: one CUDA GPU, no network, under 8 minutes. Toy Llama and Mistral are trained,
killed, resumed and sampled, through `helpers.training.launch` (FSDP2 on one process, bf16) and
`helpers.student.local`; then a model with random weights and Mistral-7B's layers, as many as fit,
is trained for a few steps at 1024 tokens a text, and its tokens a second, MFU and memory are
printed. With `--topology cpu1.yaml` all of it runs on a CPU, at toy size: the tests do that.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

from bench.table import write
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.student.local import Student
from helpers.training import launch, memory
from helpers.training.recipe import Recipe, facts, read_log
from tests.toys import chats, toy

STEPS = 60


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


def timed(folder: Path, topology: Path) -> dict:
    """The benchmark's row: Mistral-7B's layers, as many as fit, at 1024 tokens a text."""
    gpu = torch.cuda.is_available()
    free = min(memory.devices(memory.read_topology(topology)), default=0.0)
    size = {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    size = (
        size
        if gpu
        else {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        }
    )
    base = toy(folder / "tokenizer", "mistral")
    tokenizer = AutoTokenizer.from_pretrained(base)
    steps, texts = (8, 64) if gpu else (3, 8)
    recipe = Recipe(
        str(folder / "large"),
        str(folder / "long.jsonl"),
        str(folder / "out"),
        steps=steps,
        batch=texts,
        save_every=steps,
    )
    for layers in (32, 24, 16, 8, 4, 2):
        config = MistralConfig(
            **size, num_hidden_layers=layers, vocab_size=32000 if gpu else 320, sliding_window=None
        )
        needed = memory.memory(
            memory.needs(memory.shape_of(config.to_dict()), recipe, memory.read_topology(topology))
        )
        if needed < free:
            break
    with torch.device("cuda" if gpu else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    weights = model.num_parameters()
    model.save_pretrained(folder / "large")
    tokenizer.save_pretrained(folder / "large")
    del model
    torch.cuda.empty_cache()
    words = "the needle turns and waits " * 400
    asked = {"role": "user", "content": "Write."}
    write_json_lines(
        folder / "long.jsonl",
        [
            {"messages": [asked, {"role": "assistant", "content": f"{i} {words}"}]}
            for i in range(texts)
        ],
    )
    recipe = dataclasses.replace(
        recipe, longer="cut", micro_tokens=recipe.micro_tokens if gpu else 2048
    )
    launch.run(recipe, topology)
    log = read_log(Path(recipe.out))[2:]  # the first steps warm up
    name = torch.cuda.get_device_name() if gpu else "CPU"
    return {
        "device": name,
        "layers": layers,
        "weights": weights,
        "tokens_per_s": round(statistics.median(row["tokens_per_s"] for row in log)),
        "mfu": statistics.median(row["mfu"] for row in log) if log[0]["mfu"] else None,
        "memory_gb": log[-1]["memory_gb"],
        "memory_gb_estimated": round(needed, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="gpu1.yaml", help="a file of params/accelerate")
    topology = ROOT / "params/accelerate" / parser.parse_args().topology
    if "cpu" not in topology.name and not torch.cuda.is_available():
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
        row = timed(Path(folder) / "large", topology)
    target = ROOT / "runs/bench/gpu.json"
    write(target, row)
    print(json.dumps(row), f"{time.monotonic() - start:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
