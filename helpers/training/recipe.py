"""A training run: its recipe, its identity, its log ([ZK24] section 3). Nothing here needs torch."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pandas as pd

from helpers.files import sha256
from helpers.training.hub import at_revision

STARTED_BY = "TRAINING_STARTED_BY"  # environment variable, machine:process, without which a training has no purpose


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
    max_tokens: int = 1024  # of a chat
    longer: str = "drop"  # what becomes of longer chats: "drop" or "cut"; both are counted
    turns: str = "last"  # which assistant turns are learned: "last" or "all"
    clip: float = 0.0  # largest gradient norm; 0 means no clipping
    seed: int = 0
    micro_tokens: int = 8192  # padded tokens per process and forward pass
    save_every: int = 500  # steps between checkpoints
    save_minutes: float = 0.0  # and no longer than this between two; 0 means by steps alone
    export_dtype: str = "bfloat16"  # of the final weights on disk
    precision: str = "bf16"  # of the computation, as the topology's file says: bf16 or no; fp32 where there is no bf16


def fingerprint(student: str) -> str:
    """What a student is: the identity of the run that made it, a hash of weights, tokenizer, template and settings, or a hub name.

    Raises:
        FileNotFoundError: `student` looks like a folder and is none, or holds no weights.
    """
    folder = Path(student)
    if (folder / "identity.json").exists():
        return json.loads((folder / "identity.json").read_text())["identity"]
    weights = sorted(folder.glob("*.safetensors"))
    if weights:
        others = sorted(p for kind in ("*.json", "*.jinja", "*.model") for p in folder.glob(kind))
        return hashlib.sha256("".join(map(sha256, [*weights, *others])).encode()).hexdigest()
    if student.startswith((".", "/")) or folder.exists():
        raise FileNotFoundError(f"{student}: no such folder, or no *.safetensors in it")
    return at_revision(student)


def run_identity(recipe: Recipe) -> str:
    """A hash of everything that decides the final weights: settings, data, and the weights started from."""
    skip = {"out", "data", "student", "save_every", "save_minutes"}
    settings = {
        name: value for name, value in dataclasses.asdict(recipe).items() if name not in skip
    }
    parts = [
        json.dumps(settings, sort_keys=True),
        sha256(Path(recipe.data)),
        fingerprint(recipe.student),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_finished(recipe: Recipe) -> bool:
    """Does `out` hold the model of exactly this run?"""
    made, identity = Path(recipe.out) / "model/identity.json", run_identity(recipe)
    return made.exists() and json.loads(made.read_text())["identity"] == identity == begun(
        Path(recipe.out)
    )


def begun(out: Path) -> str | None:
    """The identity of the run that the log in a folder is of."""
    data = out / "data.json"
    return json.loads(data.read_text()).get("identity") if data.exists() else None


def read_log(out: Path) -> list[dict]:
    """The training log so far, one row a step; a line that is still being written is left out."""
    log = out / "log.jsonl"
    return (
        [
            json.loads(line)
            for line in log.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        if log.exists()
        else []
    )


def read_logs(folders: dict[str, Path]) -> pd.DataFrame:
    """The logs of several variants: model (the variant without its seed), seed, step, loss, ..."""
    logs = []
    for variant, folder in folders.items():
        model, _, seed = variant.rpartition("-s")
        logs.append(pd.DataFrame(read_log(folder)).assign(model=model, seed=int(seed)))
    return pd.concat(logs)


def facts(out: Path) -> dict:
    """What the training saw: texts, dropped and cut (longer than max_tokens), tokens, labelled tokens, bf16, processes."""
    return {
        name: value
        for name, value in json.loads((out / "data.json").read_text()).items()
        if name != "identity"
    }
