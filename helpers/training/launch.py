"""Starts a training as a child process of the notebook, by `accelerate launch`, and watches it."""

import dataclasses
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
from helpers.training.recipe import (
    STARTED_BY,
    Recipe,
    begun,
    is_finished,
    read_log,
    run_identity,
    write_json,
)


def run(recipe: Recipe, topology: Path) -> float:
    """Train unless the model is there already; returns the seconds it took.

    The child's output goes to `out/train.txt`; progress and the loss so far are read from its log.

    Raises:
        UserError: the training does not fit this machine, or failed; the message then holds the
            last lines of its output.
    """
    if is_finished(recipe):
        return 0.0
    start = time.monotonic()
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    memory.check(recipe, topology)
    write_json(out / "recipe.json", dataclasses.asdict(recipe))
    if begun(out) != run_identity(recipe):
        (out / "log.jsonl").unlink(missing_ok=True)  # another run's: no progress of this one
    environment = {**os.environ, STARTED_BY: f"{socket.gethostname()}:{os.getpid()}"}
    if memory.read_topology(topology).cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # torch takes a GPU that it sees
    with open(out / "train.txt", "w") as output, Progress("steps", recipe.steps) as progress:
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
                    progress.note = f", loss {log[-1]['loss']:.3f}"
                    progress.advance(log[-1]["step"] - progress.n)
        finally:
            child.terminate()  # so does an interrupted notebook; the last checkpoint stands
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
            f"topology = {topology.name} is for {machines} machines: run it inside a Slurm job, as "
            "params/accelerate/slurm.sbatch does"
        )
    each = (
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1); '
        f'exec {shlex.join(launcher)} --machine_rank "$SLURM_PROCID" '
        f'--main_process_ip "$first" {shlex.join(script)}'
    )
    tasks = [f"--nodes={machines}", f"--ntasks={machines}", "--ntasks-per-node=1"]
    return ["srun", *tasks, "bash", "-c", each]


def why(output: str) -> str:
    """The last lines of a training's output, without the launcher's own traceback.

    That one says nothing new.
    """
    own, _, last = output.rpartition("Traceback (most recent call last):")
    if "commands/launch.py" not in last:
        own = output
    lines = [line for line in own.splitlines() if line.strip()]
    hint = ""
    if re.search(r"SIGKILL|exitcode\s*: -9", output):
        hint = "a process was killed, most often because the machine ran out of memory; "
    return f"{hint}its last lines were\n" + "\n".join(lines[-12:])
