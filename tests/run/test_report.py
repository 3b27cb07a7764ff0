"""The report: one page that loads nothing, with what was found, what ran, on what, and its cost."""

import copy
import itertools
import json

import nbformat
import pytest

from helpers import paths
from helpers.errors import UserError
from helpers.files import sha256, write_json_lines
from helpers.profile import load
from helpers.results import scores
from helpers.run import manifest_tables, report

LINE = {
    "started": "2026-11-21T08:42:21Z",
    "seconds": 90.0,
    "parts": {"starting": 30.0, "grading": 45.0},
    "notebook": "03_grade base",
    "state": "done",
    "asked": [
        {
            "role": "judge",
            "model": "j",
            "state": "replied",
            "attempts": 2,
            "prompt_tokens": 1500,
            "completion_tokens": 500,
            "dollars": 0.25,
        }
    ],
    "made": {},
    "commit": "abc1234",
    "changed": False,
    "versions": {"python": "3.12.1", "torch": "2.13.0"},
    "machine": {"system": "Linux", "processor": "A <fast> one", "cores": 2, "gpus": ["H200"]},
}
CELLS = (
    "04-04 04-06 04-08 04-15 04-16 04-18 04-22 8dcea781 f1b7483e lost-missing"
    " lost-position lost-skill lost-combining lost-single lost-pairs"
).split()
HOSTILE = "<script>alert(1)</script> The living dead moon shines."


def text(k, **more):
    skills = ["oxymoron", "metaphor", "simile"][:k]
    return {"k": k, "topic": "<b>moon</b>", "skills": skills, "apart": 0, "text": HOSTILE, **more}


def answer(setting, k, query, generation, given, mix):
    points = [given] * k + [1, 1, 1]
    gradings = [points, points, [1] * len(points)]
    grades = {"gradings": gradings, "points": points, "unreadable": []}
    place = {"setting": setting, "query": query, "generation": generation}
    more = {
        "cut": False,
        "refused": False,
        "thought": False,
        "nearest": 0.0,
        "mix": mix,
        "grades": {"first": grades},
    }
    return text(k, **place, **more)


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Makes a finished run of the smoke profile, in which the trained model always has `given`."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    notebooks = load.load_profile("smoke")

    def make(given=1, second_judge=False, apart=0):
        kept = [text(k, kind=str(k), things=[], dropped="") for k in (1, 2)]
        write_json_lines(paths.corpus("smoke"), kept)
        graded = {}
        for variant, mix in {"base": {}, "k123-s0": {"1": 40, "2": 40, "3": 40}}.items():
            rows = []
            for cell in itertools.product(("I", "II"), (1, 2, 3), range(8), range(3)):
                rows.append(answer(*cell, given if mix else 0, mix) | {"apart": apart})
                if second_judge:
                    rows[-1]["grades"]["other"] = rows[-1]["grades"]["first"]
            write_json_lines(paths.grades("smoke", variant), rows)
            graded[variant] = rows
        figures = tmp_path / "runs/smoke/figures"
        scores.write_csv(scores.tidy(graded), figures / "scores.csv")
        executed = nbformat.v4.new_notebook()
        alt = {"image/png": {"alt": "what <it> shows"}}
        shown = [
            nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata=alt),
            nbformat.v4.new_output("display_data", {"text/html": "<style scoped></style>a table"}),
            nbformat.v4.new_output("stream", text=f"printed {HOSTILE}"),
            nbformat.v4.new_output("stream", text="\n"),
        ]
        for name in CELLS:
            executed.cells.append(nbformat.v4.new_code_cell("secret_code = 1", id=name))
            executed.cells[-1].outputs = shown
        nbformat.write(executed, paths.run("smoke") / "04_plot.ipynb")
        paths.manifest("smoke").write_text(json.dumps(LINE) + "\n")
        return report.render("smoke", notebooks)

    return make


def test_scores_of_another_run_are_not_shown_beside_its_figures(finished):
    """A checkout of `figures/` brings the committed scores back under an executed 04_plot."""
    finished()
    notebooks = load.load_profile("smoke")
    name = "runs/smoke/figures/scores.csv"
    made = {"notebook": "04_plot", "state": "done", "made": {name: sha256(paths.ROOT / name)}}
    lines = json.dumps(LINE) + "\n" + json.dumps(LINE | made) + "\n"
    paths.manifest("smoke").write_text(lines)
    report.render("smoke", notebooks)
    with open(paths.ROOT / name, "a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=f"{name}: not the one that 04_plot wrote in runs/smoke"):
        report.render("smoke", notebooks)


def test_a_page_that_loads_nothing_and_escapes_what_a_model_wrote(finished):
    page = finished()
    for expected in (
        "This run: smoke run in the synthetic world, its numbers mean nothing. Teacher and judge",
        "<h2>The question</h2>",
        "<h2>Limits</h2>",
        'alt="what &lt;it&gt; shows"',
        "&lt;script&gt;alert(1)",
        "&lt;b&gt;moon",
        "<mark",
        "<title>The method:",
    ):
        assert expected in page, expected
    for unwanted in (
        "secret_code",
        "<script",
        "<b>moon",
        "<style scoped",
        "<link",
        "@import",
        'src="http',
        "url(",
    ):
        assert unwanted not in page, unwanted
    assert page == finished(), "the same run, the same bytes"


def test_findings_are_in_words_with_their_numbers(finished):
    page = finished()
    header = page[page.index("<header>") : page.index("</header>")]
    assert "at k = 3, more skills at once than any text of the fine-tuning shows" in header
    assert "<th>base</th>\n      <td>before fine-tuning</td>\n      <td>0.00&nbsp;[" in header
    assert "Of 2 gains that were claimed beforehand, 2 hold, 0 do not hold, 0 are" in header
    assert (
        "the first figure below has the intervals of full marks.\nIn setting I:\nfull marks 100%."
        in page
    )
    assert "What holds: 2 of 2" in page
    assert "What is undecided" not in page
    assert "no control of length" in page, "where there is no control at all, too"
    assert "had shown most of the claims" in page
    assert "Held-out categories of skills improve too" in page
    assert "setting II, 8 queries, 1 training seed: holds at k = 2, 3\n" in page
    assert "lift held-out skills:\n+1.00 [" in page
    assert "at k = 3\n(k123 over base, setting II, 8 queries, 1 training seed)." in page
    page = finished(given=0)
    assert "What holds" not in page
    assert "is undecided" in page


def test_sections_without_content_do_not_appear(finished):
    page = finished()
    for absent in (
        "Other mixes",
        "kept apart",
        "single skills alone",
        "verdicts stay",
        "<p></p>",
        "<pre>\n",
    ):
        assert absent not in page, absent
    assert "2 of 2 verdicts stay" in finished(second_judge=True)
    page = finished(apart=1)
    assert "and no text shows a pair of skills that is kept apart: 04_plot checks it" in page
    assert "Pairs of skills that the texts may show, and pairs kept apart" in page


def test_what_it_took_counts_every_run_of_a_stage_and_tells_its_parts():
    again = copy.deepcopy(LINE) | {"state": "failed", "seconds": 30.0, "parts": {}}
    lost = LINE["asked"][0] | {"state": "HTTP 500", "dollars": 0.0}
    other = LINE | {"notebook": "03_grade k1-s0", "asked": [lost]}
    unpriced = LINE | {"notebook": "01_generate", "asked": [LINE["asked"][0] | {"dollars": None}]}
    table = manifest_tables.stages([LINE, again, other, unpriced])
    columns = "notebooks runs minutes starting grading replies tokens".split()
    assert table.loc["03_grade", columns].tolist() == [2, 3, 3.5, 1.0, 1.5, 4, 6000]
    assert table.loc["03_grade", "US dollars"] == 0.5
    assert table.loc[["01_generate"], "US dollars"].isna().all(), "unknown is not free"


def test_provenance_names_code_machine_packages_seeds_and_parameters(finished):
    other = LINE | {"notebook": "04_plot", "commit": "def5678", "changed": True}
    facts = manifest_tables.facts([LINE, other])[0]
    assert facts["commit"] == "abc1234; def5678"
    assert facts["changed"] == "False; True"
    nowhere = manifest_tables.facts([LINE | {"commit": None, "changed": None}])[0]
    assert (nowhere["commit"], nowhere["changed"]) == ("unknown", "unknown"), "outside of git"
    page = finished()
    for expected in (
        "A &lt;fast&gt; one",
        "<th>versions.torch</th>",
        "2.13.0",
        "the number after -s (k123-s0)",
        "Parameters of 02_finetune",
        "learning_rate",
    ):
        assert expected in page, expected


def test_a_profile_that_was_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "run", lambda profile: paths.ROOT / "runs/never")
    with pytest.raises(
        UserError,
        match=r"runs/never/04_plot.ipynb: no such file; make reproduce PROFILE=mini makes it",
    ):
        report.main("mini")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"cells": 1}', '"x"'])
def test_an_executed_notebook_that_is_none(monkeypatch, tmp_path, content):
    (tmp_path / "04_plot.ipynb").write_text(content)
    monkeypatch.setattr(paths, "run", lambda profile: tmp_path)
    with pytest.raises(UserError, match=r"04_plot.ipynb: damaged, no notebook; remove it, and"):
        report.outputs("smoke")
