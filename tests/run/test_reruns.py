"""What make runs again: what an edit reaches, and stages whose results are not what they were."""

import os
import shutil
import subprocess
import sys
import time

import grimp
import pytest

from helpers import paths
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.run import manifest, reruns

MAKE_STAGES = """#!/bin/sh
# In place of python: notes which stage make runs, and what a stage would leave.
echo "$5" >> stages.txt
touch "$5"
case "$5" in $CHANGES) touch $RESULTS;; esac
"""
STAMPS = {
    "01": "01_generate.ipynb",
    "02": "02_finetune/k123-s0.ipynb",
    "03": "03_grade/k123-s0.ipynb",
    "03 base": "03_grade/base.ipynb",
    "04": "04_plot.ipynb",
}
RESULTS = (
    "corpus.jsonl",
    "training/k123-s0/model/identity.json",
    "grades/k123-s0.jsonl",
    "grades/base.jsonl",
    "report.done",
)


class Finished:
    """A copy of the tree with a finished run of smoke that nobody has run."""

    def __init__(self, folder):
        self.folder, self.run = folder, folder / "runs/smoke"
        for name in ("helpers", "notebooks", "params", "Makefile", "requirements.txt"):
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder / name)
        (folder / ".venv/bin").mkdir(parents=True)
        (folder / ".venv/done").touch()
        (folder / "python").write_text(MAKE_STAGES)
        (folder / "python").chmod(0o755)
        command = [sys.executable, "-m", "helpers.run.reruns", "smoke"]
        subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": ""})
        for name in (*STAMPS.values(), *RESULTS):
            (self.run / name).parent.mkdir(parents=True, exist_ok=True)
            (self.run / name).touch()

    def reruns(self, edited: str, *, changes: str = "none", results: str = "") -> set[str]:
        """Which stages make runs after an edit.

        Args:
            changes: the stamp of a stage that writes `results` anew.
        """
        now = time.time()
        for file in self.folder.rglob("*"):
            if file.is_file():
                age = 500 if file.is_relative_to(self.run) and file.parent.name != "params" else 900
                os.utime(file, (now - age, now - age))
        for file in (self.run / "params").rglob("*.yaml"):
            os.utime(file, (now - 900, now - 900))
        os.utime(self.folder / edited, (now - 100, now - 100))
        log = self.folder / "stages.txt"
        log.unlink(missing_ok=True)
        done = subprocess.run(
            ["make", "runs/smoke/report.done", "PROFILE=smoke", "PY=./python"],
            cwd=self.folder,
            env={**os.environ, "CHANGES": f"runs/smoke/{changes}", "RESULTS": results},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = set(log.read_text().splitlines()) if log.exists() else set()
        return {stage for stage, name in STAMPS.items() if f"runs/smoke/{name}" in lines}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("finished"))


def test_an_edit_reruns_the_stages_that_reach_it_and_no_other(finished):
    graph = grimp.build_graph("helpers", cache_dir=None)
    reach = {
        stage: set(reruns.reached(reruns.imports(ROOT / f"notebooks/{name}.ipynb"), graph))
        for stage, name in (
            ("01", "01_generate"),
            ("02", "02_finetune"),
            ("03", "03_grade"),
            ("03 base", "03_grade"),
            ("04", "04_plot"),
        )
    }
    modules = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("helpers/**/*.py"))
    assert len(modules) > 50
    for module in modules:
        expected = {stage for stage, files in reach.items() if module in files}
        assert finished.reruns(module) == expected, module


@pytest.mark.parametrize(
    ("edited", "stages"),
    [
        ("helpers/chat/ledger.sql", {"01", "02", "03", "03 base"}),
        ("helpers/results/plots.py", {"01", "02", "04"}),
        ("helpers/results/findings.py", {"04"}),
        ("helpers/evaluate.py", {"03", "03 base"}),
        ("helpers/corpus.py", {"01", "02"}),
        ("helpers/training/train.py", set()),  # of a training; its notebook says what is new
        ("helpers/run/stage.py", set()),
        ("notebooks/03_grade.ipynb", {"03", "03 base"}),
        ("notebooks/explore.ipynb", set()),
        ("runs/smoke/params/03_grade/base.yaml", {"03 base"}),
        ("params/prices.yaml", set()),
    ],
)
def test_what_an_edit_reaches(finished, edited, stages):
    assert finished.reruns(edited) == stages


def test_followers_run_only_where_their_input_changed(finished):
    notebook, run = "notebooks/01_generate.ipynb", "runs/smoke"
    assert finished.reruns(notebook) == {"01"}
    first = STAMPS["01"]
    written = finished.reruns(notebook, changes=first, results=f"{run}/corpus.jsonl")
    assert written == {"01", "02", "04"}
    notebook, model = "notebooks/02_finetune.ipynb", f"{run}/training/k123-s0/model/identity.json"
    assert finished.reruns(notebook) == {"02"}
    assert finished.reruns(notebook, changes=STAMPS["02"], results=model) == {"02", "03", "04"}
    grades = f"{run}/grades/base.jsonl"
    again = finished.reruns("notebooks/03_grade.ipynb", changes=STAMPS["03 base"], results=grades)
    assert again == {"03", "03 base", "04"}


def test_a_parameter_may_be_longer_than_a_files_name():
    plot = load_profile("smoke")["04_plot"]
    longer = plot.model_copy(update={"about": "A sentence. " * 500})
    assert reruns.named_files(longer) == reruns.named_files(plot)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("%load_ext autoreload\\n", r"a cell is not plain Python \(.*: %load_ext autoreload\)"),
        ("!ls", r"a cell is not plain Python \(.*: !ls\)"),
        ("x = '", "a cell is not plain Python"),
        ("\\u0000", "a cell is not plain Python"),
        (None, "damaged, no notebook"),
    ],
)
def test_a_notebook_that_make_cannot_read_is_a_sentence(monkeypatch, tmp_path, text, said):
    monkeypatch.setattr(reruns, "ROOT", tmp_path)
    notebook = tmp_path / "01_generate.ipynb"
    notebook.write_text(f'{{"cells": [{{"cell_type": "code", "source": ["{text}"]}}]}}')
    if text is None:
        notebook.write_text('{"cells": [')
    with pytest.raises(UserError, match=f"^01_generate.ipynb: {said}") as error:
        reruns.imports(notebook)
    assert "\n" not in str(error.value)
    for damaged in ("[]", '{"cells": [1]}', '{"cells": null}', "{}"):
        notebook.write_text(damaged)
        with pytest.raises(UserError, match="damaged, no notebook"):
            reruns.imports(notebook)


def test_what_a_notebook_loads_is_reached():
    """By Python itself, in place of the graph; nothing heavy before there is work for it."""
    graph = grimp.build_graph("helpers", cache_dir=None)
    stages = ("01_generate", "02_finetune", "03_grade", "04_plot")
    names = {stage: reruns.imports(ROOT / f"notebooks/{stage}.ipynb") for stage in stages}
    loading = {}
    for stage in stages:  # at once
        modules = sorted(names[stage] & graph.modules)
        script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
        pipe = {"stdout": subprocess.PIPE, "text": True}
        loading[stage] = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, **pipe)
    for stage, process in loading.items():
        printed = process.communicate()[0].split()
        assert process.returncode == 0
        assert not {"torch", "transformers", "openai", "seaborn"} & set(printed), stage
        reached = set(reruns.reached(names[stage], graph))
        for name in printed:
            if name.startswith("helpers."):
                place = name.replace(".", "/")
                assert {f"{place}.py", f"{place}/__init__.py"} & reached, f"{stage}: {name}"


# ---- results that are not what they were ----

PROFILE = "reruns-for-test"
NOTEBOOK = '{"cells": []}'


@pytest.fixture
def run(monkeypatch):
    """A profile's run of 01 and of 03's base, done and noted."""
    folder = paths.run(PROFILE)
    shutil.rmtree(folder, ignore_errors=True)
    smoke = load_profile("smoke")
    notebooks = {
        name: smoke[name].model_copy(update={"profile": PROFILE})
        for name in ("01_generate", "03_grade/base")
    }
    texts = [paths.split(PROFILE), paths.corpus(PROFILE), paths.dataset(PROFILE) / "D1.jsonl"]
    for path in (*texts, paths.grades(PROFILE, "base")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("made")
    for name, parameters in notebooks.items():
        stamp = folder / f"{name}.ipynb"
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(NOTEBOOK)
        made = manifest.results(name.split("/")[0], parameters.model_dump())
        label = name.replace("/", " ")
        manifest.note(PROFILE, "r", notebook=label, started=0.0, state="done", made=made)
    yield folder, notebooks
    shutil.rmtree(folder, ignore_errors=True)


def void(notebooks):
    lines = manifest.read(PROFILE) if paths.manifest(PROFILE).exists() else []
    reruns.void(PROFILE, notebooks, lines)


def test_a_finished_run_stays_as_it_is(run, capsys):
    folder, notebooks = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    void(notebooks)
    assert capsys.readouterr().err == ""
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before


def test_a_result_that_is_gone_runs_again(run, capsys):
    folder, notebooks = run
    paths.grades(PROFILE, "base").unlink()
    void(notebooks)
    said = f"runs/{PROFILE}/grades/base.jsonl is gone; 03_grade/base runs again"
    assert said in capsys.readouterr().err
    assert not (folder / "03_grade/base.ipynb").exists()
    assert (folder / "01_generate.ipynb").exists()


@pytest.mark.parametrize("name", ["corpus.jsonl", "dataset/D1.jsonl"])
def test_what_a_user_changed_is_kept_beside(run, capsys, name):
    folder, notebooks = run
    file = folder / name
    for number in (1, 2):
        file.write_text(f"mine {number}")
        void(notebooks)
        kept = file.with_name(f"{file.name}.old-{number}")
        assert f"was changed (kept: {kept.name}); 01_generate runs" in capsys.readouterr().err
        assert kept.read_text() == f"mine {number}"
        assert not file.exists()


def test_what_a_killed_stage_wrote_is_not_a_users(run, capsys):
    folder, notebooks = run
    (folder / "01_generate.partial.ipynb").write_text(NOTEBOOK)
    paths.corpus(PROFILE).write_text("newer")
    void(notebooks)
    assert "of a run that did not end; 01_generate runs again" in capsys.readouterr().err
    assert paths.corpus(PROFILE).read_text() == "newer"


def test_a_damaged_notebook_runs_again(run, capsys):
    folder, notebooks = run
    for damaged in ("", NOTEBOOK[:-5]):
        (folder / "01_generate.ipynb").write_text(damaged)
        void(notebooks)
        assert "01_generate.ipynb is damaged; 01_generate runs again" in capsys.readouterr().err
        assert not (folder / "01_generate.ipynb").exists()


def test_a_file_that_no_stage_made_is_not_overwritten(run):
    folder, notebooks = run
    paths.manifest(PROFILE).unlink()
    (folder / "01_generate.ipynb").unlink()
    with pytest.raises(UserError, match=r"split.jsonl: 01_generate would overwrite this file"):
        void(notebooks)
    assert paths.corpus(PROFILE).read_text() == "made"


def test_parameters_change_only_with_their_values(run):
    folder, notebooks = run
    reruns.write_parameters(PROFILE, notebooks)
    files = {path: path.stat().st_mtime_ns for path in (folder / "params").rglob("*.yaml")}
    assert len(files) == 2
    reruns.write_parameters(PROFILE, notebooks)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    fewer = {"01_generate": notebooks["01_generate"].model_copy(update={"seed": 7})}
    reruns.write_parameters(PROFILE, fewer)
    changed = folder / "params/01_generate.yaml"
    assert changed.stat().st_mtime_ns != files[changed]
    assert "seed: 7" in changed.read_text()


def test_an_edit_of_your_own_texts_or_chats_runs_again_what_reads_them(run, tmp_path):
    """A file, or a folder of them; other files beside it are none of it."""
    _, notebooks = run
    (tmp_path / "texts").mkdir()
    file = tmp_path / "texts/own.jsonl"
    generate = notebooks["01_generate"].model_copy(update={"corpus": str(file.parent)})
    finetune = load_profile("smoke")["02_finetune/k123-s0"]
    of_a_file = finetune.model_copy(update={"mix": {"chats": str(file)}})
    of_a_folder = finetune.model_copy(update={"mix": {"chats": str(file.parent), "split": "train"}})
    readers = (generate, of_a_file, of_a_folder)
    hashes = []
    for text in ("one", "two", "two"):
        file.write_text(text)
        (tmp_path / "beside").write_text(f"{len(hashes)}")
        hashes.append([reruns.named_files(p) for p in readers])
    first, second, third = hashes
    assert all(a != b for a, b in zip(first, second, strict=True))
    assert second == third


# ---- what a stage read, and the times that make goes by ----


@pytest.fixture
def stage_that_read(run):
    """01, with two files that it read; returns its stamp, these, and what looks at them."""
    folder, notebooks = run
    read = [folder / "params/01_generate.yaml", folder / "module.py"]
    for file in read:
        file.parent.mkdir(exist_ok=True)
        file.write_text("as it was")
    manifest.note(
        PROFILE, "r", notebook="01_generate", started=0.0, state="done",
        read=manifest.checksums(read), made=[paths.corpus(PROFILE)],
    )  # fmt: skip
    return (
        folder / "01_generate.ipynb",
        read,
        lambda: reruns.set_times(PROFILE, notebooks, manifest.read(PROFILE)),
    )


def is_done(stamp, read):
    """As make sees it."""
    return all(stamp.stat().st_mtime > file.stat().st_mtime for file in read)


def test_files_of_other_times_run_nothing_again(stage_that_read, capsys):
    """As a copy leaves them, or git where one looks at another branch and comes back."""
    stamp, read, look = stage_that_read
    now = time.time()
    for old in (stamp, *read):
        for file in (stamp, *read):
            os.utime(file, (now - 500, now - 900 if file == old else now - 500))
        look()
        assert is_done(stamp, read)
        before = stamp.stat().st_mtime_ns
        look()
        assert stamp.stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("edit", ["an edit", None])
def test_a_changed_file_runs_its_stage_again_even_if_it_is_older(stage_that_read, capsys, edit):
    stamp, read, look = stage_that_read
    read[1].write_text(edit or "")
    os.utime(read[1], (1, 1))
    what = "was changed"
    if edit is None:
        read[1].unlink()
        what = "is gone"
    look()
    assert not is_done(stamp, read[:1])
    assert stamp.read_text() == NOTEBOOK, "what was made stays until it is made anew"
    assert f"runs/{PROFILE}/module.py {what}; 01_generate runs again" in capsys.readouterr().err


def test_a_stage_that_noted_nothing_is_left_to_the_times(run, capsys):
    folder, notebooks = run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    reruns.set_times(PROFILE, notebooks, manifest.read(PROFILE))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before
    assert capsys.readouterr().err == ""
