"""Trainings through `accelerate launch`: any layout, and what the notebook is told."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.training import launch, parallel
from helpers.training.recipe import Recipe, facts, read_log
from tests.training.runs import (
    CPU1,
    CPU2,
    distance,
    here,
    recipe,
    topology,
    train_and_kill,
    weights,
)


def test_same_weights_on_any_layout(toys, tmp_path, monkeypatch):
    """One process and one batch, or many micro-batches; two with DDP or FSDP2; 2 turns learned."""
    fp32 = {"mixed_precision": "'no'"}
    one_sharded = topology(tmp_path, "cpu1_fsdp2", like="gpu1", **fp32)
    two_sharded = topology(tmp_path, "cpu2_fsdp2", like="gpu4_fsdp2", num_processes="2", **fp32)
    made, logs = {}, {}
    for name, layout, budget in (
        ("whole", None, 10_000),
        ("micro", None, 200),
        ("two", CPU2, 400),
        ("sharded", two_sharded, 400),
        ("one sharded", one_sharded, 400),
    ):
        (tmp_path / name).mkdir()
        r = recipe(tmp_path / name, toys["mistral"], micro_tokens=budget, turns="all", chat_turns=2)
        if layout:
            assert launch.run(r, layout) > 0
        else:
            here(r)
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


def straight_and_killed(folder: Path, student: str, layout: Path) -> tuple[Recipe, Recipe]:
    """The same training twice: once undisturbed, once killed in the middle and started again."""
    runs = []
    for name in ("straight", "killed"):
        (folder / name).mkdir()
        runs.append(recipe(folder / name, student, steps=60, save_every=10))
    straight, killed = runs
    launch.run(straight, layout)
    failure = train_and_kill(killed, layout, step=15)
    assert "a process was killed" in failure
    assert "its last lines were" in failure
    assert parallel.checkpoints(Path(killed.out))
    assert launch.run(killed, layout) > 0
    assert [row["step"] for row in read_log(Path(killed.out))] == list(range(1, 61))
    return straight, killed


@pytest.mark.slow
def test_a_dying_worker_ends_the_run_and_two_processes_resume(toys, tmp_path):
    """One of two is killed: the other is stopped, the notebook says so, a new start goes on."""
    straight, killed = straight_and_killed(tmp_path, toys["mistral"], CPU2)
    assert distance(weights(straight), weights(killed)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_papers_own_topology(toys, tmp_path, family):
    """Four processes, FSDP2, as gpu4_fsdp2.yaml says; its copy's name alone says CPU.

    In bf16, where the processor has it, one process differs by rounding: by what share of the way
    that the weights went.
    """
    four = tmp_path / "cpu4_fsdp2.yaml"
    shutil.copy(ROOT / "params/accelerate/gpu4_fsdp2.yaml", four)
    straight, killed = straight_and_killed(tmp_path, toys[family], four)
    assert facts(Path(killed.out))["processes"] == 4
    assert distance(weights(straight), weights(killed)) == 0
    (tmp_path / "one").mkdir()
    one = recipe(tmp_path / "one", toys[family], steps=60)
    launch.run(one, topology(tmp_path, "cpu1_fsdp2", like="gpu1"))
    start = load_file(Path(toys[family]) / "model.safetensors")
    way = difference(weights(one), start)
    print(f"{family}: {difference(weights(one), weights(straight)) / way:.1e} of the way")
    assert difference(weights(one), weights(straight)) < 0.01 * way  # measured: 0.0013


def difference(a: dict, b: dict) -> float:
    """The length of the vector between two models."""
    return sum(((a[name] - b[name]) ** 2).sum().item() for name in a) ** 0.5


@pytest.mark.slow
def test_several_machines_are_started_through_slurm(toys, tmp_path, monkeypatch):
    """A stand-in for srun starts the command once a "machine", both here, one CPU process each."""
    r = recipe(tmp_path, toys["llama"], micro_tokens=400)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = topology(
        tmp_path,
        "cpu_machines2",
        like="machines2_gpu4_fsdp2",
        num_processes="2",
        mixed_precision="'no'",
        main_process_port=str(port),
    )
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(
        UserError, match=r"cpu_machines2.yaml is for 2 machines: run it inside a Slurm job"
    ):
        launch.run(r, two)
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
    launch.run(r, two)
    assert facts(Path(r.out))["processes"] == 2
    assert (tmp_path / "srun.said").read_text().split() == [
        "--nodes=2",
        "--ntasks=2",
        "--ntasks-per-node=1",
    ]
    (tmp_path / "one").mkdir()
    one = recipe(tmp_path / "one", toys["llama"])
    launch.run(one, topology(tmp_path, "cpu1_fp32", like="cpu1", mixed_precision="'no'"))
    assert distance(weights(one), weights(r)) < 2e-5


def test_a_failed_training_says_why(toys, tmp_path):
    r = recipe(tmp_path, toys["llama"], max_tokens=3)
    with pytest.raises(UserError, match="no chat of at most max_tokens = 3 tokens"):
        launch.run(r, CPU1)
    assert not (Path(r.out) / "model").exists()
