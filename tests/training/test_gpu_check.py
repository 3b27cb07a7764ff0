"""`make gpu-check`, on a CPU."""

import json
import subprocess
import sys

import pytest

from helpers.paths import ROOT


@pytest.mark.slow
def test_the_gpu_check_goes_through_on_a_cpu(tmp_path):
    """The same steps as on a GPU: train, kill, resume, sample, time.

    Without a GPU the check itself says so and checks nothing.
    """
    measured = ROOT / "runs/bench/gpu.json"
    before = measured.read_bytes() if measured.exists() else None
    out = ["--out", tmp_path / "gpu.json"]
    run = subprocess.run(
        [sys.executable, "-m", "bench.gpu_check", "--topology", "cpu1.yaml", *out],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.splitlines()
    assert sum("killed and resumed differs by at most" in line for line in lines) == 2
    found = json.loads((tmp_path / "gpu.json").read_text())
    for name, row in found["training"].items():
        if "kernel" in name:
            assert "failed" in row, "these are kernels of GPUs"
        else:
            assert row["tokens_per_s"] > 0
    assert found["loss"]["in chunks"]["ms"] > 0
    after = measured.read_bytes() if measured.exists() else None
    assert after == before, "what was measured on a GPU stays"
