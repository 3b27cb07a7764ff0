"""`make`, as a user meets it: help, errors before anything runs, nothing done twice.

Killed anywhere it ends the same.
"""

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

from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.results import scores
from tests.toys import chats
from tests.tree import copy_of_the_tree, make

KEPT = (
    "scores.csv",
    "full_marks_by_k.png",
    "full_marks_by_k.svg",
    "training_loss.svg",
    "corpus_by_k.png",
)


@pytest.fixture
def checkout(tmp_path):
    return lambda name: copy_of_the_tree(tmp_path / name)


@pytest.fixture(scope="module")
def checkout_once(tmp_path_factory):
    """One copy for tests that leave it as it is."""
    return copy_of_the_tree(tmp_path_factory.mktemp("checkout") / "a")


def python(folder, *arguments):
    command = [ROOT / ".venv/bin/python", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def until(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def results(folder):
    run = folder / "runs/smoke"
    files = [
        run / "corpus.jsonl",
        run / "split.jsonl",
        *sorted((run / "grades").glob("*.jsonl")),
        *(run / "figures" / name for name in KEPT),
    ]
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in files}


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    for mark, printed in (("##", make(ROOT).stdout), ("#:", make(ROOT, "bench-help").stdout)):
        for target in re.findall(rf"^([a-z-]+):.*{mark} ", makefile, re.M):
            assert f"make {target} " in printed
    assert "mini if not given" in make(ROOT).stdout


def test_make_alone_prints_help_also_after_a_run(checkout):
    folder = checkout("a")
    subprocess.run(
        [ROOT / ".venv/bin/python", "-m", "helpers.run.reruns", "mini"], cwd=folder, check=True
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
    assert [file.name for file in folder.glob("runs/*/*")] == ["lock"]


@pytest.mark.parametrize(
    "name", ["..", "", "mini smoke", "%", "$(shell touch ran)", "`touch ran`", "x;touch ran", "a/b"]
)
@pytest.mark.parametrize("target", ["clean", "reproduce", "help"])
def test_a_profile_is_a_plain_name(checkout_once, target, name):
    """Nothing of PROFILE is expanded, run or removed before it is known as a profile."""
    before = sorted(checkout_once.iterdir())
    refused = make(checkout_once, target, f"PROFILE={name}")
    assert refused.returncode != 0
    assert f"PROFILE={name}: no such profile; the profiles are " in refused.stderr
    assert sorted(checkout_once.iterdir()) == before


@pytest.mark.parametrize("kind", ["file", "loop"])
def test_a_runs_folder_that_cannot_be_written(checkout_once, kind):
    runs = checkout_once / "runs"
    if kind == "file":
        runs.touch()
    else:
        runs.symlink_to("runs")
    refused = make(checkout_once, "reproduce", "PROFILE=smoke")
    runs.unlink()
    assert refused.returncode != 0
    sentences = [line for line in refused.stderr.splitlines() if not line.startswith("make: ")]
    assert len(sentences) == 1, refused.stderr
    assert "cannot be written" in sentences[0]


def test_runs_on_another_disk(checkout_once, tmp_path):
    (checkout_once / "runs").symlink_to(tmp_path)
    prepared = python(checkout_once, "-m", "helpers.run.reruns", "mini")
    (checkout_once / "runs").unlink()
    assert prepared.returncode == 0, prepared.stderr
    assert (tmp_path / "mini/notebooks.mk").exists()


@pytest.mark.slow
def test_nothing_is_done_twice_and_only_what_changed_is_done(reproduced, tmp_path):
    folder = shutil.copytree(reproduced, tmp_path / "a", symlinks=True)

    def reproduce():
        done = make(folder, "reproduce", "PROFILE=smoke")
        assert done.returncode == 0, done.stderr
        return done.stderr

    def edit(path, old, new):
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new, 1))

    before = results(folder)
    page = folder / "runs/smoke/figures/report.html"
    page.unlink()
    assert "done in" not in reproduce()
    assert page.exists()
    edit("helpers/results/findings.py", '"""', '"""Changed. ')
    changed = reproduce()
    assert "04_plot: done in" in changed
    assert changed.count("done in") == 1
    (folder / "runs/smoke/corpus.jsonl").unlink()
    (folder / "runs/smoke/training/k123-s0/model/model.safetensors").unlink()
    (folder / "runs/smoke/grades/base.jsonl").write_text("{")
    changed = reproduce()
    assert "runs/smoke/corpus.jsonl is gone; 01_generate runs again" in changed
    assert (
        "model.safetensors is gone (kept: model.old-1); 02_finetune/k123-s0 runs again" in changed
    )
    assert "base.jsonl was changed (kept: base.jsonl.old-1); 03_grade/base" in changed
    assert results(folder) == before
    assert (folder / "runs/smoke/training/k123-s0/model/model.safetensors").exists()

    def run_again(path, old, new):
        edit(path, old, new)
        looked = python(folder, "-m", "helpers.run.reruns", "smoke")
        assert looked.returncode == 0, looked.stderr
        return set(re.findall(r"; (\S+) runs again", looked.stderr))

    graded = {"03_grade/base", "03_grade/k123-s0"}
    assert run_again("params/smoke/03_grade.yaml", "gradings: 3", "gradings: 1") == graded
    named = run_again("params/prompts/terse/grading.json", "\n", "\n\n")
    assert {"01_generate"} | graded <= named, "a file that parameters name was changed"


@pytest.mark.slow
def test_a_second_make_and_one_whose_first_was_killed(checkout):
    """Whoever still works holds the run; a make that comes then ends with a sentence."""
    folder = checkout("a")
    first = subprocess.Popen(
        ["make", "reproduce", "PROFILE=smoke"], cwd=folder, start_new_session=True
    )
    until((folder / "runs/smoke/01_generate.partial.ipynb").exists)
    for _ in "alive", "killed":
        second = make(folder, "reproduce", "PROFILE=smoke")
        assert second.returncode != 0
        assert "runs/smoke is in use by process " in second.stderr
        assert "Traceback" not in second.stderr
        first.kill()
        first.wait()
    until(lambda: make(folder, "reproduce", "PROFILE=smoke").returncode == 0)
    ledger = sqlite3.connect(folder / "runs/smoke/ledger.sqlite")
    twice = "select count(*) - count(distinct key) from attempt where state = 'replied'"
    assert ledger.execute(twice).fetchone()[0] == 0


@pytest.mark.slow
def test_an_interrupt_is_a_sentence(checkout):
    folder = checkout("a")
    process = subprocess.Popen(
        ["make", "reproduce", "PROFILE=smoke"],
        cwd=folder,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    manifest = folder / "runs/smoke/manifest.jsonl"
    until(lambda: manifest.exists() and "01_generate" in manifest.read_text())
    until(lambda: list((folder / "runs/smoke/02_finetune").glob("*.partial.ipynb")))
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=60)[1]
    assert "interrupted; run again to go on" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_killed_anywhere_it_ends_the_same(reproduced, checkout):
    """SIGKILL of make, alone or with its process group, at random moments; then to the end."""
    killed = checkout("killed")
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
    until(lambda: make(killed, "reproduce", "PROFILE=smoke").returncode == 0)  # orphans end first
    assert results(killed) == results(reproduced)
    ledger = sqlite3.connect(killed / "runs/smoke/ledger.sqlite")
    in_flight = 2 * 16  # two notebooks at once, 16 requests each
    twice = ledger.execute(
        "select count(*) - count(distinct key) from attempt"
        " where state = 'replied' and role != 'student'"
    ).fetchone()[0]
    assert twice <= 8 * in_flight


@pytest.mark.slow
def test_two_judges_a_sweep_and_chats_run_through(checkout):
    """03 and 04 with all that `mini-full` has, at smoke's size; nothing is asked twice.

    Beside them a mix of chats from elsewhere.
    """
    folder = checkout("both")
    write_json_lines(folder / "own.jsonl", chats(40, turns=2))
    profile = shutil.copytree(folder / "params/smoke", folder / "params/both")
    sizes = {"k12n60": {"1": 30, "2": 30}, "k123n60": {"1": 20, "2": 20, "3": 20}}
    poor = {"1": 20, "2": 20, "3": {"texts": 20, "below_full_marks": 0.4}}
    sweeps = {
        "sizes": {"student": "tiny", "mixes": sizes},
        "below": {
            "student": "tiny",
            "mixes": {"pairs9": {"1": 20, "2": {"texts": 12, "pairs": 9}}, "poor": poor},
            "along": "texts below full marks, %",
            "at": {"k123n60": 0, "poor": 40},
        },
    }
    claim = {"claim": "60 texts: k123 teaches more than k12", "setting": "I", "k": [3]}
    claim |= {"model": "k123n60", "against": "k12n60"}
    for name, more in {
        "shared": {
            "judge": {"base_url": "world:?unreadable=0.6", "model": "judge"},
            "mixes": {"k123": {"1": 40, "2": 40, "3": 40}, "own": {"chats": "own.jsonl"}},
            "sweeps": sweeps,
            "sentence_counter": "sentencex",
            "deduct_named_skills": True,
        },
        "02_finetune": {"shown_seeds": []},  # it would ask students too
        "03_grade": {
            "second_judges": {
                "lenient": {"base_url": "world:?lenient=0.5", "model": "judge", "temperature": 1.0}
            }
        },
        "04_plot": {"figures": "runs/both/figures", "over_generations": "mean", "claims": [claim]},
    }.items():
        values = yaml.safe_load((profile / f"{name}.yaml").read_text()) | more
        (profile / f"{name}.yaml").write_text(yaml.safe_dump(values))
    done = make(folder, "reproduce", "PROFILE=both")
    assert done.returncode == 0, done.stderr
    run = folder / "runs/both"
    assert (run / "figures/data_efficiency.png").exists()
    assert (run / "figures/along_sweeps.png").exists()
    table = scores.read_csv(run / "figures/scores.csv")
    assert set(table.judge) == {"first", "lenient"}
    assert set(table.model) == {"base", "k123", "own", "pairs9", "poor", *sizes}
    assert set(table.kind[table.model == "own"]) == {"own"}
    card = (run / "training/own-s0/model/README.md").read_text()
    assert "chats of `own.jsonl`; licence: unknown" in card
    assert "| I | own |" in card
    assert "own: trained on chats without topics" in (run / "04_plot.ipynb").read_text()
    graded = table[table.gradings > 0]
    assert (graded.votes.str.count(" ") + 1 == graded.gradings).all()
    assert len(graded) < len(table), (
        "no answer was without a readable grading: nothing shows that they are left out"
    )
    report = (run / "figures/report.html").read_text()
    for words in ("Judge lenient:", "kappa", "60 texts: k123 teaches more than k12"):
        assert words in report, words
    ledger = sqlite3.connect(run / "ledger.sqlite")
    answers = (
        "select count(*), count(distinct key) from attempt"
        " where role = 'student' and state = 'replied'"
    )
    sampled, distinct = ledger.execute(answers).fetchone()
    assert sampled == distinct == len(table) / 2, "each answer is sampled once, for both judges"
