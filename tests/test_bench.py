"""The benchmarks run, at toy size; `gpu_check` has its test in tests/training."""

import json
import shutil
import subprocess
import sys

import pytest

from bench import dry_run, table
from helpers import paths
from helpers.errors import UserError
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


@pytest.mark.parametrize("more", [[], ["--resume"]])
@pytest.mark.parametrize("name", ["mini", "dry-run/../mini", "", "."])
def test_a_dry_run_removes_no_other_runs_folder(tmp_path, monkeypatch, name, more):
    """Least of all a ledger that was paid for; nor does it write there."""
    monkeypatch.setattr(paths, "run", lambda run: tmp_path / run)
    monkeypatch.setattr(dry_run, "Ledger", lambda path: pytest.fail("it began"))
    (tmp_path / "dry-run").mkdir()
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini/ledger.sqlite").write_text("paid")
    monkeypatch.setattr(sys, "argv", ["dry_run", "--run", name, *more])
    with pytest.raises(SystemExit, match="the name of a dry run's folder begins with dry-run"):
        dry_run.main()
    assert (tmp_path / "mini/ledger.sqlite").read_text() == "paid"


def test_the_table_leaves_out_what_has_no_number(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="nothing has been measured yet; make bench does"):
        table.main()
    table.write(tmp_path / "dry_run.json", {"peak_mib": 500})
    for way in ({"mfu": None, "tokens_per_s": 9}, {"failed": "out of memory"}):
        table.write(tmp_path / "gpu.json", {"training": {"as it is, 8 texts": way}})
        table.main()
        shown = capsys.readouterr().out
        assert "peak MiB | 500 |" in shown
        assert "MFU" not in shown
    table.write(tmp_path / "gpu.json", {"training": {"as it is, 8 texts": {"mfu": 0.6}}})
    table.main()
    assert "MFU | 0.6 |" in capsys.readouterr().out


def test_a_peer_that_was_not_measured_is_none_of_the_best():
    row = table.Row("chat", "chat", "ours", "peers/*/ratio")
    found = {"ours": 2.0, "peers": {"one": {"ratio": None}, "two": {"ratio": 3.0}}}
    assert table.line(row, found)["best peer"] == "3.0 (two)"
    assert table.line(row, {"ours": 2.0, "peers": {"one": {"ratio": None}}})["best peer"] == ""
