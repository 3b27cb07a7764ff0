"""params/accelerate/slurm.sbatch: on a Slurm of two nodes where slurmctld is found, else its parts.

Each "node" is a slurmd of this machine; all of Slurm's files lie in the test's folder.
"""

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.paths import ROOT
from helpers.student.child_process import ChildProcess
from helpers.training.recipe import read_log
from tests.training.runs import distance, topology
from tests.tree import copy_of_the_tree

SCRIPT = "params/accelerate/slurm.sbatch"
NAMELESS = "0-without-an-address"  # the first in order, so a job's first machine
CONF = """
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=5
MessageTimeout=60
SlurmctldTimeout=300
SlurmdTimeout=300
SelectType=select/cons_tres
GresTypes=gpu
SlurmdParameters=config_overrides
"""
NODE = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs=32 Gres=gpu:4\n"


def until(condition, seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [s.getsockname()[1] for s in sockets]


def told(*command: str, **options) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=90, **options
    ).stdout.strip()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Two nodes of four pretended GPUs, and a third whose name does not resolve."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.skip("no slurmctld on the PATH (Debian: slurm-wlm and munge)")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    host = socket.gethostname()
    names = [host, f"{host}-2", NAMELESS]
    ports = free_ports(4)
    conf = CONF.format(host=host, ports=ports, folder=folder)
    gpus = ""
    for number, name in enumerate(names):
        conf += NODE.format(name, host, ports[1 + number])
        gpus += f"NodeName={name} Name=gpu File={folder}/gpu{number}[0-3]\n"
        for gpu in range(4):
            (folder / f"gpu{number}{gpu}").touch()
    conf += f"PartitionName=two Nodes={names[0]},{names[1]} Default=YES\n"
    conf += f"PartitionName=nameless Nodes={NAMELESS},{names[0]}\n"
    (folder / "slurm.conf").write_text(conf)
    (folder / "gres.conf").write_text(gpus)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    files = ("key-file=munge.key", "socket=munge.socket", "pid-file=munge.pid")
    files += ("log-file=munge.log", "seed-file=munge.seed")
    munge = [f"--{name}={folder}/{file}" for name, file in (f.split("=") for f in files)]
    daemons = [["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"]]
    daemons += [["slurmd", "-D", "-N", name] for name in names]
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        for number, daemon in enumerate(daemons):  # they end with this test, however it ends
            stack.callback(ChildProcess(daemon, folder / f"daemon{number}.txt").end)
            if number == 0:
                until((folder / "munge.socket").exists, 60)
        stack.callback(end_jobs)
        until(lambda: "3" in told("sinfo", "--noheader", "--states=idle", "-o%D"), 60)
        yield folder


def end_jobs() -> None:
    subprocess.run(["scancel", "--user=root"], check=False)
    until(lambda: not told("squeue", "--noheader"), 60)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the tree, with a profile as small as can be that trains on two machines."""
    folder = copy_of_the_tree(tmp_path / "checkout")
    profile = folder / "params/two"
    shutil.copytree(folder / "params/smoke", profile)
    layout = topology(
        folder / "params/accelerate",
        "cpu_machines2",
        like="machines2_gpu4_fsdp2",
        num_processes="2",
        mixed_precision="'no'",
        main_process_port=str(free_ports(1)[0]),
    )
    change(profile / "02_finetune.yaml", "steps", "60")
    change(profile / "02_finetune.yaml", "save_every", "10")
    change(profile / "02_finetune.yaml", "shown_seeds", "[]")
    change(profile / "02_finetune.yaml", "topology", layout.relative_to(folder).as_posix())
    change(profile / "03_grade.yaml", "settings", "[I]")
    change(profile / "shared.yaml", "evaluation_ks", "[1]")
    change(profile / "shared.yaml", "evaluation_queries", "2")
    return folder


def change(file: Path, key: str, value: str) -> None:
    lines = file.read_text().splitlines()
    (line,) = (i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    lines[line] = f"{key}: {value}"
    file.write_text("\n".join(lines) + "\n")


def submit(folder: Path, *options: str) -> str:
    """The number of a job that runs the profile; what it says is in job.txt."""
    command = ["sbatch", "--parsable", "--output=job.txt", *options, SCRIPT]
    return told(*command, cwd=folder, env={**os.environ, "PROFILE": "two"})


def state(job: str) -> str:
    return told("scontrol", "--oneliner", "show", "job", job).split("JobState=")[1].split()[0]


def is_over(job: str) -> bool:
    return state(job) not in ("PENDING", "RUNNING", "COMPLETING")


@pytest.mark.slow
def test_cancelled_and_submitted_again_it_has_the_weights_of_an_undisturbed_run(slurm, checkout):
    out = checkout / "runs/two/training/k123-s0"
    model = out / "model/model.safetensors"

    def steps() -> int:
        return len(read_log(out)) if (out / "log.jsonl").exists() else 0

    job = submit(checkout)
    until(lambda: steps() >= 15 or is_over(job))
    told("scancel", job)
    until(lambda: is_over(job), 60)
    assert state(job) == "CANCELLED", (checkout / "job.txt").read_text()
    assert 15 <= steps() < 60
    assert not model.exists()
    job = submit(checkout)
    until(lambda: model.exists() or is_over(job))
    assert model.exists(), (checkout / "job.txt").read_text()
    assert [row["step"] for row in read_log(out)] == list(range(1, 61))
    assert "srun" not in (out / "train.txt").read_text(), "no word of a step that failed"
    again = load_file(model)
    told("scancel", job)
    until(lambda: is_over(job), 60)
    shutil.rmtree(checkout / "runs/two/training")
    job = submit(checkout)
    until(lambda: is_over(job))
    assert state(job) == "COMPLETED", (checkout / "job.txt").read_text()
    assert (checkout / "runs/two/report.done").exists()
    assert distance(load_file(model), again) == 0


@pytest.mark.slow
def test_a_first_machine_whose_name_does_not_resolve(slurm, checkout):
    start = time.monotonic()
    job = submit(checkout, "--partition=nameless")
    until(lambda: is_over(job), 90)
    assert time.monotonic() - start < 60
    assert state(job) == "FAILED"
    assert (
        f"{NAMELESS}, the first machine of this job, is not found"
        in (checkout / "job.txt").read_text()
    )
    assert not (checkout / "runs").exists(), "nothing was asked, nothing trained"


@pytest.mark.parametrize("name", [NAMELESS, "localhost"])
def test_the_same_without_slurm(name, tmp_path):
    """Stand-ins for what the script calls: one machine, whose srun runs what it is given here."""
    programs = {
        "scontrol": f"echo {name}; echo other",
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "make": 'echo "made: $*"',
    }
    for program, body in programs.items():
        (tmp_path / program).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / program).chmod(0o755)
    here = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    here |= {"SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NODELIST": "made-up[1-2]"}
    done = subprocess.run(
        ["bash", ROOT / SCRIPT], env=os.environ | here, capture_output=True, text=True, timeout=60
    )
    if name == NAMELESS:
        assert done.returncode == 1
        assert f"{name}, the first machine of this job, is not found" in done.stderr
        assert not done.stdout
    else:
        assert done.stdout == "made: reproduce PROFILE=paper\n"
