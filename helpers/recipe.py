"""A training run: its recipe, its identity, and starting it as a child process ([ZK24] section 3).

Nothing here needs torch, so that the notebook which starts a training stays light.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.progress import Progress

STARTED_BY = "TRAINING_STARTED_BY"  # environment variable: the process without which a training has no purpose


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training run is made of; `recipe.json` holds one.

    The defaults are those of [ZK24]: 4000 steps, batch 64, Adam, 64 steps of linear warm-up, then constant 2e-5, at
    most 1024 tokens.
    """

    student: str  # folder or hub name of the model to start from
    data: str  # JSON lines, each {"messages": [...]}
    out: str  # folder for checkpoints, the log and the final model
    steps: int = 4000  # optimizer steps of the global batch
    batch: int = 64  # texts per step, over all processes
    learning_rate: float = 2e-5
    warmup: int = 64  # steps of linear warm-up
    decay: bool = False  # after warm-up: linear to zero instead of constant
    max_tokens: int = 1024  # of a chat; longer ones are left out and counted
    turns: str = "last"  # which assistant turns are learned: "last" or "all"
    clip: float = 0.0  # largest gradient norm; 0 means no clipping
    seed: int = 0
    micro_tokens: int = 8192  # padded tokens per process and forward pass
    save_every: int = 500  # steps between checkpoints
    export_dtype: str = "bfloat16"  # of the final weights on disk


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(student: str) -> str:
    """What a student's weights are: the identity of the run that made them, the files' hash, or a hub name.

    Raises:
        FileNotFoundError: `student` looks like a folder and is none, or holds no weights.
    """
    folder = Path(student)
    if (folder / "identity.json").exists():
        return json.loads((folder / "identity.json").read_text())["identity"]
    weights = sorted(folder.glob("*.safetensors"))
    if weights:
        return hashlib.sha256("".join(map(sha256, weights)).encode()).hexdigest()
    if student.startswith((".", "/")) or folder.exists():
        raise FileNotFoundError(f"{student}: no such folder, or no *.safetensors in it")
    return student


def run_identity(recipe: Recipe) -> str:
    """A hash of everything that decides the final weights: settings, data, and the weights started from."""
    skip = {"out", "data", "student", "save_every"}
    settings = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in skip}
    parts = [json.dumps(settings, sort_keys=True), sha256(Path(recipe.data)), fingerprint(recipe.student)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_finished(recipe: Recipe) -> bool:
    """Does `out` hold the model of exactly this run?"""
    made = Path(recipe.out) / "model/identity.json"
    return made.exists() and json.loads(made.read_text())["identity"] == run_identity(recipe)


def read_log(out: Path) -> list[dict]:
    """The training log so far, one row a step; a line that is still being written is left out."""
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")] if log.exists() else []


def launch(recipe: Recipe, topology: Path) -> float:
    """Run `helpers.train` under `accelerate launch` unless its model is there already; returns the seconds it took.

    The child's output goes to `out/train.txt`; progress is read from its log.

    Raises:
        UserError: the training failed; the message holds the last lines of its output.
    """
    if is_finished(recipe):
        return 0.0
    out, start = Path(recipe.out), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=2))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(topology), "-m", "helpers.train"]
    with open(out / "train.txt", "w") as output, Progress("steps", recipe.steps) as progress:
        environment = {**os.environ, STARTED_BY: str(os.getpid())}
        command.append(str(out / "recipe.json"))
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None:
                time.sleep(0.5)
                if log := read_log(out):
                    progress.advance(log[-1]["step"] - progress.done)
        finally:
            child.terminate()  # an interrupted notebook stops its training too; the last checkpoint stands
            child.wait()
    if child.returncode != 0:
        said = (out / "train.txt").read_text().rpartition("Traceback (most recent call last):")
        said = said[0] if "commands/launch.py" in said[2] else "".join(said)  # the launcher's own traceback says nothing new
        last = [line for line in said.splitlines() if line.strip()][-12:]
        raise UserError(f"the training in {out} failed (exit {child.returncode}), its last lines:\n" + "\n".join(last))
    return time.monotonic() - start


def read_logs(folders: dict[str, Path]) -> pd.DataFrame:
    """The logs of several variants: model (the variant without its seed), seed, step, loss, ..."""
    logs = []
    for variant, folder in folders.items():
        model, _, seed = variant.rpartition("-s")
        logs.append(pd.DataFrame(read_log(folder)).assign(model=model, seed=int(seed)))
    return pd.concat(logs)


def facts(out: Path) -> dict:
    """What the training saw: texts, too_long (left out), tokens, labelled tokens, bf16, processes."""
    return json.loads((out / "data.json").read_text())
