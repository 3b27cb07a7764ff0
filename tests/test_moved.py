"""A run that is copied to another folder goes on there: nothing is asked or trained again."""

import contextlib
import os
import random
import shutil
import sqlite3
import time

import pytest

from tests.tree import make


def reproduce(folder):
    made = make(folder, "reproduce", "PROFILE=smoke")
    assert made.returncode == 0, made.stderr
    return made.stderr


def state(folder):
    """What was asked, when each file of a training was written, and every result."""
    run = folder / "runs/smoke"
    with contextlib.closing(sqlite3.connect(run / "ledger.sqlite")) as ledger:
        asked = ledger.execute("select count(*), max(started) from attempt").fetchone()
    training = run / "training/k123-s0"
    model = [file for file in sorted((training / "model").iterdir()) if file.name != "README.md"]
    kept = [training / "log.jsonl", *model]  # the card is written again, with the results
    times = [file.stat().st_mtime_ns for file in kept]
    files = [run / "corpus.jsonl", *sorted((run / "grades").iterdir()), run / "figures/scores.csv"]
    return asked, times, [file.read_bytes() for file in files]


@pytest.mark.slow
def test_a_run_moves(reproduced, tmp_path):
    moved = shutil.copytree(reproduced, tmp_path / "elsewhere/moved", symlinks=True)
    before = state(reproduced)
    away = reproduced.rename(tmp_path / "away")  # who looks where it was, fails
    try:
        nothing = reproduce(moved)
        assert "done in" not in nothing, "a copy runs nothing"
        assert state(moved) == before
        named = [moved / name for name in ("runs", "helpers", "notebooks", "params", "figures")]
        files = [file for folder in named for file in folder.rglob("*") if file.is_file()]
        ages = random.Random(0).sample(range(9999), len(files))  # seconds, in no order
        for file, age in zip(sorted(files), ages, strict=True):
            os.utime(file, (written := time.time() - age, written))
        before = state(moved)
        assert "done in" not in reproduce(moved), "whatever the times of its files"
        for notebook in (moved / "runs/smoke").rglob("*.ipynb"):
            notebook.unlink()
        assert reproduce(moved).count("done in") == 5, "every stage ran again"
        assert state(moved) == before
    finally:
        away.rename(reproduced)
