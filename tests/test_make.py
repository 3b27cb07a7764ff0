"""`make`, as a user meets it: help, errors before anything runs, nothing done twice, killed anywhere it ends the same."""

import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

from helpers.paths import ROOT

KEPT = ("scores.csv", "full_marks_by_k.png", "full_marks_by_k.svg", "training_loss.svg", "corpus_by_k.png")


def make(folder, *arguments):
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture
def checkout(tmp_path):
    """Copies of the tree, without runs and with this venv."""

    def copy(name):
        target = tmp_path / name
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "figures", "__pycache__", ".*_cache"))
        (target / ".venv").symlink_to(ROOT / ".venv")
        return target

    return copy


def results(folder):
    run = folder / "runs/smoke"
    files = [run / "corpus.jsonl", run / "split.jsonl", *sorted((run / "grades").iterdir()), *(run / "figures" / name for name in KEPT)]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


def test_help_lists_every_target():
    printed = make(ROOT).stdout
    for target in re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M):
        assert f"make {target} " in printed
    assert "mini if not given" in printed


def test_an_unknown_profile_or_key_stops_before_anything(checkout):
    folder = checkout("a")
    refused = make(folder, "reproduce", "PROFILE=nowhere")
    assert refused.returncode != 0
    assert "PROFILE=nowhere: no such profile; the profiles are " in refused.stderr
    with open(folder / "params/smoke/03_grade.yaml", "a") as file:
        file.write("gradigns: 3\n")
    refused = make(folder, "reproduce", "PROFILE=smoke")
    assert refused.returncode != 0
    assert "03_grade.yaml: unknown key gradigns; did you mean gradings?" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(folder.glob("runs/*/*"))


@pytest.mark.slow
def test_nothing_is_done_twice_and_only_what_changed_is_done(checkout):
    folder = checkout("a")
    first = make(folder, "reproduce", "PROFILE=smoke")
    assert first.returncode == 0, first.stderr
    before = results(folder)
    start = time.monotonic()
    again = make(folder, "reproduce", "PROFILE=smoke")
    assert time.monotonic() - start < 5
    assert "done in" not in again.stderr
    (folder / "helpers/plots.py").write_text((folder / "helpers/plots.py").read_text() + "\n# changed\n")
    changed = make(folder, "reproduce", "PROFILE=smoke")
    assert "04_plot: done in" in changed.stderr
    assert changed.stderr.count("done in") == 1
    assert results(folder) == before
    shared = folder / "params/smoke/shared.yaml"
    shared.write_text(shared.read_text().replace("evaluation_queries: 8 ", "evaluation_queries: 7 "))
    grown = make(folder, "reproduce", "PROFILE=smoke")
    assert grown.returncode == 0, grown.stderr
    assert results(folder) != before


@pytest.mark.slow
def test_killed_anywhere_it_ends_the_same(checkout):
    """SIGKILL of make alone, or of its whole process group, at random moments; then to the end. Nothing is paid twice."""
    straight, killed = checkout("straight"), checkout("killed")
    assert make(straight, "reproduce", "PROFILE=smoke").returncode == 0
    rng = random.Random(time.time_ns())
    for attempt in range(8):
        child = subprocess.Popen(
            ["make", "reproduce", "PROFILE=smoke"], cwd=killed, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(2, 14))
        if attempt % 2:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
        child.wait()
    finished = make(killed, "reproduce", "PROFILE=smoke")
    assert finished.returncode == 0, finished.stderr
    assert results(killed) == results(straight)
    ledger = sqlite3.connect(killed / "runs/smoke/ledger.sqlite")
    in_flight = 2 * 16  # two notebooks at once, 16 requests each
    twice = ledger.execute("select count(*) - count(distinct key) from attempt where state = 'replied' and stage != 'student'").fetchone()[
        0
    ]
    assert twice <= 8 * in_flight
