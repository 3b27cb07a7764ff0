"""Starts a training as a child process of the notebook, on any topology, and watches it."""

import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

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
from helpers.training.topology import Topology, read_topology


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
    words, environment = command(recipe, read_topology(topology))
    said = out / "train.txt"
    with open(said, "w") as output, Progress("steps", recipe.steps) as progress:
        child = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.5)
                if log := read_log(out):
                    progress.note = f", loss {log[-1]['loss']:.3f}"
                    progress.advance(log[-1]["step"] - progress.n)
        finally:
            child.terminate()  # so does an interrupted notebook; the last checkpoint stands
            child.wait()
    if child.returncode != 0:
        reason = why(said.read_text(), child.returncode)
        raise UserError(f"the training in {out} failed: {reason}")
    return time.monotonic() - start


def command(recipe: Recipe, topology: Topology) -> tuple[list[str], dict[str, str]]:
    """The command to run, and its environment: the script itself, or `accelerate launch`.

    For several machines Slurm starts the command once on each.

    Raises:
        UserError: the topology is for several machines, and this is no Slurm allocation.
    """
    environment = {**os.environ, STARTED_BY: f"{socket.gethostname()}:{os.getpid()}"}
    if topology.cpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # torch takes a GPU that it sees
    script = ["-m", "helpers.training.train", str(Path(recipe.out) / "recipe.json")]
    if not topology.is_launched:  # what the launcher would set and the script reads
        environment["ACCELERATE_MIXED_PRECISION"] = topology.precision
        environment.setdefault("OMP_NUM_THREADS", str(psutil.cpu_count(logical=False) or 1))
        return [sys.executable, *script], environment
    path = str(topology.path)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", path]
    if topology.machines == 1:
        return launcher + script, environment
    if "SLURM_JOB_NODELIST" not in os.environ:
        raise UserError(
            f"topology = {topology.path.name} is for {topology.machines} machines: run it inside a "
            "Slurm job, as params/accelerate/slurm.sbatch does"
        )
    each = (
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1); '
        f'exec {shlex.join(launcher)} --machine_rank "$SLURM_PROCID" '
        f'--main_process_ip "$first" {shlex.join(script)}'
    )
    tasks = [f"--nodes={topology.machines}", f"--ntasks={topology.machines}"]
    return ["srun", *tasks, "--ntasks-per-node=1", "bash", "-c", each], environment


def why(output: str, code: int) -> str:
    """Why a training failed: the last lines of its output, without the launcher's traceback."""
    own, _, last = output.rpartition("Traceback (most recent call last):")
    if "commands/launch.py" not in last:
        own = output
    lines = [line for line in own.splitlines() if line.strip()]
    reason = "its last lines were\n" + "\n".join(lines[-12:])
    if code == -signal.SIGKILL or "SIGKILL" in output:
        return f"a process was killed, most often because the machine ran out of memory; {reason}"
    return reason
