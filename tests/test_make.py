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
import yaml

from helpers.paths import ROOT
from helpers.results import scores

KEPT = (
    "scores.csv",
    "full_marks_by_k.png",
    "full_marks_by_k.svg",
    "training_loss.svg",
    "corpus_by_k.png",
)


def make(folder, *arguments):
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def checkout(tmp_path):
    """Copies of the tree, without runs and with this venv."""

    def copy(name):
        target = tmp_path / name
        shutil.copytree(
            ROOT,
            target,
            ignore=shutil.ignore_patterns(
                ".git", ".venv*", "runs", "figures", "__pycache__", ".*_cache"
            ),
        )
        (target / ".venv").symlink_to(ROOT / ".venv")
        return target

    return copy


def results(folder):
    run = folder / "runs/smoke"
    files = [
        run / "corpus.jsonl",
        run / "split.jsonl",
        *sorted((run / "grades").iterdir()),
        *(run / "figures" / name for name in KEPT),
    ]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


def test_help_lists_every_target():
    printed = make(ROOT).stdout
    for target in re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M):
        assert f"make {target} " in printed
    assert "mini if not given" in printed


def test_make_alone_prints_help_also_after_a_run(checkout):
    folder = checkout("a")
    subprocess.run(
        [ROOT / ".venv/bin/python", "-m", "helpers.profile.load", "mini"], cwd=folder, check=True
    )
    assert (folder / "runs/mini/notebooks.mk").exists()
    assert "make reproduce " in make(folder).stdout


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
    (folder / "helpers/results/plots.py").write_text(
        (folder / "helpers/results/plots.py").read_text() + "\n# changed\n"
    )
    changed = make(folder, "reproduce", "PROFILE=smoke")
    assert "04_plot: done in" in changed.stderr
    assert changed.stderr.count("done in") == 1
    assert results(folder) == before
    (folder / "helpers/chat/money.py").write_text(
        (folder / "helpers/chat/money.py").read_text() + "\n# changed\n"
    )
    changed = make(folder, "reproduce", "PROFILE=smoke")
    assert "01_generate: done in" in changed.stderr
    assert "02_finetune k123-s0: done in" not in changed.stderr, "the corpus did not change"
    assert results(folder) == before
    pack = folder / "params/prompts/terse/grading.json"
    pack.write_text(pack.read_text() + "\n")
    assert "01_generate: done in" in make(folder, "reproduce", "PROFILE=smoke").stderr, (
        "a file that parameters name was changed"
    )
    shared = folder / "params/smoke/shared.yaml"
    shared.write_text(
        shared.read_text().replace("evaluation_queries: 8 ", "evaluation_queries: 7 ")
    )
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
            ["make", "reproduce", "PROFILE=smoke"],
            cwd=killed,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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
    twice = ledger.execute(
        "select count(*) - count(distinct key) from attempt where state = 'replied' and stage != 'student'"
    ).fetchone()[0]
    assert twice <= 8 * in_flight


@pytest.mark.slow
def test_two_judges_and_a_sweep_run_through(checkout):
    """03 and 04 with all that `mini-full` has, at smoke's size, by the same notebooks; stage by stage nothing is asked twice."""
    folder = checkout("both")
    profile = shutil.copytree(folder / "params/smoke", folder / "params/both")
    sweep = {
        "student": "tiny",
        "mixes": {"k12n60": {"1": 30, "2": 30}, "k123n60": {"1": 20, "2": 20, "3": 20}},
    }
    for name, more in {
        "shared": {
            "judge": {"base_url": "world:?unreadable=0.6", "model": "judge"},
            "sweep": sweep,
            "sentence_counter": "sentencex",
            "deduct_named_skills": True,
        },
        "03_grade": {
            "second_judges": {
                "lenient": {"base_url": "world:?lenient=0.5", "model": "judge", "temperature": 1.0}
            }
        },
        "04_plot": {"figures": "runs/both/figures", "over_generations": "mean"},
    }.items():
        values = yaml.safe_load((profile / f"{name}.yaml").read_text()) | more
        (profile / f"{name}.yaml").write_text(yaml.safe_dump(values))
    done = make(folder, "reproduce", "PROFILE=both")
    assert done.returncode == 0, done.stderr
    run = folder / "runs/both"
    assert (run / "figures/data_efficiency.png").exists()
    table = scores.read_csv(run / "figures/scores.csv")
    assert set(table.judge) == {"first", "lenient"}
    assert set(table.model) == {"base", "k123", "k12n60", "k123n60"}
    graded = table[table.gradings > 0]
    assert (graded.votes.str.count(" ") + 1 == graded.gradings).all()
    assert len(graded) < len(table), (
        "no answer was without a readable grading: nothing shows that they are left out"
    )
    report = (run / "figures/report.html").read_text()
    for words in ("Judge lenient:", "kappa", "60 texts: k123 teaches more than k12"):
        assert words in report, words
    ledger = sqlite3.connect(run / "ledger.sqlite")
    answers = "select count(*), count(distinct key) from attempt where stage = 'student' and state = 'replied'"
    sampled, distinct = ledger.execute(answers).fetchone()
    assert sampled == distinct == len(table) / 2, "each answer is sampled once, for both judges"
