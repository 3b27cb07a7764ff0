"""The benchmarks run, at toy size; `gpu_check` has its test in tests/training."""

import json
import shutil
import subprocess
import sys

import pytest

from helpers.paths import ROOT


@pytest.mark.slow
def test_sampling_beside_generate(tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench.sample",
        "--rounds",
        "1",
        "--prompts",
        "48",
        "--threads",
        "1",
        "--out",
        tmp_path / "sample.json",
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads((tmp_path / "sample.json").read_text())
    assert found["vs_batch_1"] > 1
    assert found["cpu"]["best_of_generate"] in found["cpu"]["rates"]
    assert all(
        rate["tokens_per_s"] > rate["answers_per_s"] > 0 for rate in found["cpu"]["rates"].values()
    )


@pytest.mark.slow
def test_the_dry_run_asks_for_every_grading_and_goes_on(tmp_path):
    """2 queries of the 100: 3 settings x 4 k x 2 x 3 generations x 3 gradings a model."""
    command = [
        sys.executable,
        "-m",
        "bench.dry_run",
        "--queries",
        "2",
        "--out",
        tmp_path / "dry.json",
        "--run",
        "dry-run-for-test",
    ]
    first = subprocess.run([*command, "--models", "1"], cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-2000:]
    asked = json.loads((tmp_path / "dry.json").read_text())["judge_requests"]
    subprocess.run(
        [*command, "--models", "2", "--resume"], cwd=ROOT, check=True, capture_output=True
    )
    found = json.loads((tmp_path / "dry.json").read_text())
    assert 2 * 216 - 8 <= found["gradings"] <= 2 * 216
    assert asked < found["judge_requests"] < 2 * 216 * 1.1, "the first model's are not asked again"
    shutil.rmtree(ROOT / "runs/dry-run-for-test")
