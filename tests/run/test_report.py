"""The report: one page that loads nothing, with what was found, what ran, on what, and its cost."""

import copy
import itertools
import json

import nbformat
import pytest

from helpers import paths
from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.profile import load
from helpers.results import scores
from helpers.run import report, took

LINE = {
    "started": "2026-11-21T08:42:21Z",
    "seconds": 90.0,
    "notebook": "03_grade base",
    "state": "done",
    "asked": [
        {
            "role": "judge",
            "model": "j",
            "attempts": 3,
            "replies": 2,
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
HOSTILE = "<script>alert(1)</script> A deafening silence fills the moon."


def text(k, **more):
    skills = ["oxymoron", "metaphor", "simile"][:k]
    return {"k": k, "topic": "<b>moon</b>", "skills": skills, "text": HOSTILE, **more}


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

    def make(given=1, second_judge=False):
        kept = [text(k, kind=str(k), things=[], dropped="") for k in (1, 2)]
        write_json_lines(paths.corpus("smoke"), kept)
        for variant, mix in {"base": {}, "k123-s0": {"1": 40, "2": 40, "3": 40}}.items():
            rows = []
            for cell in itertools.product(("I", "II"), (1, 2, 3), range(8), range(3)):
                rows.append(answer(*cell, given if mix else 0, mix))
                if second_judge:
                    rows[-1]["grades"]["other"] = rows[-1]["grades"]["first"]
            write_json_lines(paths.grades("smoke", variant), rows)
        files = [paths.grades("smoke", variant) for variant in ("base", "k123-s0")]
        figures = tmp_path / "runs/smoke/figures"
        scores.write_csv(scores.tidy(files), figures / "scores.csv")
        executed = nbformat.v4.new_notebook()
        for name in ("04-06", "04-15", "04-16", "8dcea781", *report.FIGURES):
            cell = nbformat.v4.new_code_cell("secret_code = 1", id=name)
            picture = {"image/png": "iVBORw0KGgo="}
            alt = {"image/png": {"alt": "what <it> shows"}}
            cell.outputs = [nbformat.v4.new_output("display_data", picture, metadata=alt)]
            executed.cells.append(cell)
        nbformat.write(executed, paths.run("smoke") / "04_plot.ipynb")
        paths.manifest("smoke").write_text(json.dumps(LINE) + "\n")
        return report.render(report.Run("smoke", notebooks), [LINE])

    return make


def test_a_page_that_loads_nothing_and_escapes_what_a_model_wrote(finished):
    page = finished()
    for expected in (
        "This run: in miniature, synthetic world. Teacher and judge are small programs",
        "<h2>The question</h2>",
        'alt="what &lt;it&gt; shows"',
        "&lt;script&gt;alert(1)",
        "&lt;b&gt;moon",
        "<mark",
        "<title>The method:",
    ):
        assert expected in page, expected
    for unwanted in ("secret_code", "<script", "<b>moon", "<link", "@import", 'src="http', "url("):
        assert unwanted not in page, unwanted
    assert page == finished(), "the same run, the same bytes"


def test_findings_are_in_words_with_their_numbers(finished):
    page = finished()
    assert "at k = 3, of queries and, after the stroke, of answers. Setting I, base: 0.00 [" in page
    assert "What holds: 2 of 2" in page
    assert "What is undecided" not in page
    assert "Held-out categories of skills improve too" in page
    assert "holds at k = 2, 3 (k123, setting II)" in page
    page = finished(given=0)
    assert "What holds" not in page
    assert "is undecided" in page


def test_sections_without_content_do_not_appear(finished):
    page = finished()
    for absent in ("Equal numbers of texts", "verdicts stay", "<p></p>", "<td></td></tr></tbody>"):
        assert absent not in page, absent
    assert "2 of 2 verdicts stay" in finished(second_judge=True)


def test_what_it_took_counts_every_run_of_a_stage():
    again = copy.deepcopy(LINE) | {"state": "failed", "seconds": 30.0, "sentence": "no room"}
    other = LINE | {"notebook": "03_grade k1-s0", "asked": []}
    unpriced = LINE | {"notebook": "01_generate", "asked": [LINE["asked"][0] | {"dollars": None}]}
    unread = LINE | {"notebook": "04_plot", "asked": "the ledger cannot be read"}
    table = took.stages([LINE, again, other, unpriced, unread]).set_index("stage")
    assert table.loc[
        "03_grade", ["notebooks", "runs", "minutes", "replies", "tokens", "US dollars"]
    ].tolist() == [2, 3, 3.5, 4, 4000, 0.5]
    assert table.loc[["01_generate", "04_plot"], "US dollars"].isna().all(), "unknown is not free"


def test_provenance_names_code_machine_packages_seeds_and_parameters():
    other = LINE | {"notebook": "04_plot", "commit": "def5678", "changed": True}
    said = took.provenance([LINE, other], load.load_profile("mini"))
    for expected in (
        "abc1234; def5678 with changes",
        "A &lt;fast&gt; one, 2 cores, H200",
        "torch 2.13.0",
        "training 0, 1, 2",
        "02_finetune",
        "learning_rate",
    ):
        assert expected in said, expected


def test_a_profile_that_was_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "run", lambda profile: paths.ROOT / "runs/never")
    with pytest.raises(
        UserError,
        match=r"runs/never/04_plot.ipynb: no such file; make reproduce PROFILE=mini makes it",
    ):
        report.main("mini")
