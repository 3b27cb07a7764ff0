"""Small trainings for the tests of this room."""

import dataclasses
import json
import os
import re
import resource
import runpy
import sys
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.training import launch, train
from helpers.training.recipe import Recipe, read_log
from tests.forks import forks
from tests.toys import chats

CPU1 = ROOT / "params/accelerate/cpu1.yaml"
CPU2 = ROOT / "params/accelerate/cpu2.yaml"


def recipe(folder: Path, student, *, rows=40, chat_turns=1, **settings) -> Recipe:
    write_json_lines(folder / "chats.jsonl", chats(rows, turns=chat_turns))
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


def topology(folder: Path, name: str, *, like: str, **changes: str) -> Path:
    """A copy of a shipped topology with some of its values replaced."""
    text = (ROOT / f"params/accelerate/{like}.yaml").read_text()
    for key, value in changes.items():
        text, replaced = re.subn(rf"^{key}: .*", f"{key}: {value}", text, flags=re.MULTILINE)
        assert replaced
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


FORKS = forks(__name__)


def alone(r: Recipe, *, largest: int = resource.RLIM_INFINITY) -> BaseProcess:
    """Start the training as one process, without the launcher; what it prints is in `said`.

    Args:
        largest: bytes of a file that it may write.
    """
    path = Path(r.out).parent / "recipe.json"
    path.write_text(json.dumps(dataclasses.asdict(r)))
    child = FORKS.Process(target=as_command, args=(path, largest))
    child.start()
    return child


def as_command(path: Path, largest: int) -> None:
    """`python -m helpers.training.train <path>`, in a process that has imported it."""
    os.chdir(ROOT)
    with open(path.with_name("said.txt"), "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["helpers.training.train", str(path)]
    runpy.run_module("helpers.training.train", run_name="__main__")
    os.abort()  # as the end of an interpreter with a thread of gloo's may


def said(r: Recipe) -> str:
    return (Path(r.out).parent / "said.txt").read_text()


def here(r: Recipe) -> None:
    """Train in this process, which has loaded torch already, to the same bits as `alone`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ACCELERATE_MIXED_PRECISION", "no")
            train.main(r)
    finally:
        torch.set_num_threads(threads)


def until(r: Recipe, step: int, child: BaseProcess) -> None:
    """Wait for a step in the log, or the training's end."""
    while child.is_alive() and last_step(r) < step:
        time.sleep(0.005)


def train_and_kill(r: Recipe, layout: Path, step: int) -> str:
    """Start by the launcher, kill one process after a step; returns the notebook's error."""

    def kill() -> None:
        while last_step(r) < step:
            time.sleep(0.02)
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            launched = str(Path(r.out) / "recipe.json") in words
            if launched and "accelerate.commands.launch" not in words:
                process.kill()
                return

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(UserError) as failure:
        launch.run(r, layout)
    killer.join()
    return str(failure.value)


def last_step(r: Recipe) -> int:
    log = read_log(Path(r.out))
    return log[-1]["step"] if log else 0


def weights(r: Recipe) -> dict:
    return load_file(Path(r.out) / "model/model.safetensors")


def distance(a: dict, b: dict) -> float:
    """The largest difference of two weights of the same name and place."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)
