"""Starts a training as a child process of the notebook, with `accelerate launch`, and watches it."""

import dataclasses
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.progress import Progress
from helpers.training import memory
from helpers.training.recipe import STARTED_BY, Recipe, begun, is_finished, read_log, run_identity

BARS = "▁▂▃▄▅▆▇█"


def run(recipe: Recipe, topology: Path) -> float:
    """Train unless the model is there already; returns the seconds it took.

    The child's output goes to `out/train.txt`; progress and the loss so far are read from its log.

    Raises:
        UserError: the training does not fit this machine, or failed; the message then holds the last lines of its output.
    """
    if is_finished(recipe):
        return 0.0
    out, start = Path(recipe.out), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    memory.check(recipe, topology)
    (out / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=2))
    if begun(out) != run_identity(recipe):
        (out / "log.jsonl").unlink(missing_ok=True)  # another run's: no progress of this one
    with open(out / "train.txt", "w") as output, Progress("steps", recipe.steps) as progress:
        hidden = (
            {"CUDA_VISIBLE_DEVICES": ""} if memory.read_topology(topology).cpu else {}
        )  # torch takes a GPU that it sees
        environment = {**os.environ, **hidden, STARTED_BY: f"{socket.gethostname()}:{os.getpid()}"}
        child = subprocess.Popen(
            command(recipe, topology),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while child.poll() is None:
                time.sleep(0.5)
                if log := read_log(out):
                    losses = [row["loss"] for row in log]
                    progress.note = f", loss {losses[-1]:.3f} {curve(losses)}"
                    progress.advance(log[-1]["step"] - progress.done)
        finally:
            child.terminate()  # an interrupted notebook stops its training too; the last checkpoint stands
            child.wait()
    if child.returncode != 0:
        raise UserError(f"the training in {out} failed: {why((out / 'train.txt').read_text())}")
    return time.monotonic() - start


def command(recipe: Recipe, topology: Path) -> list[str]:
    """What is run: the launcher here, or for several machines once on each of them, through Slurm.

    Raises:
        UserError: the topology is for several machines, and this is no Slurm allocation.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(topology)]
    script = ["-m", "helpers.training.train", str(Path(recipe.out) / "recipe.json")]
    machines = memory.read_topology(topology).machines
    if machines == 1:
        return launcher + script
    if "SLURM_JOB_NODELIST" not in os.environ:
        raise UserError(
            f"topology = {topology.name} is for {machines} machines: run it inside a Slurm job, as params/accelerate/slurm.sbatch does"
        )
    first = 'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
    here = f'{shlex.join(launcher)} --machine_rank "$SLURM_PROCID" --main_process_ip "$first" {shlex.join(script)}'
    return [
        "srun",
        f"--nodes={machines}",
        f"--ntasks={machines}",
        "--ntasks-per-node=1",
        "bash",
        "-c",
        f"{first}; exec {here}",
    ]


def curve(losses: list[float], width: int = 24) -> str:
    """The losses so far as a line of bars, the highest first on most days."""
    n = min(width, len(losses))
    means = [
        sum(part) / len(part)
        for i in range(n)
        if (part := losses[i * len(losses) // n : (i + 1) * len(losses) // n])
    ]
    low, high = min(means), max(means)
    return "".join(BARS[round((m - low) / ((high - low) or 1) * (len(BARS) - 1))] for m in means)


def why(output: str) -> str:
    """The last lines of a training's output, without the launcher's own traceback, which says nothing new."""
    said = output.rpartition("Traceback (most recent call last):")
    own = said[0] if "commands/launch.py" in said[2] else output
    last = [line for line in own.splitlines() if line.strip()][-12:]
    killed = re.search(r"SIGKILL|exitcode\s*: -9", output)
    hint = (
        "a process was killed, most often because the machine ran out of memory; " if killed else ""
    )
    return f"{hint}its last lines were\n" + "\n".join(last)
