"""The report: one page that loads nothing, with what ran, on what, and what it cost."""

import copy

import nbformat
import pytest

from helpers import paths
from helpers.errors import UserError
from helpers.profile import load
from helpers.run import report

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


def test_a_page_that_loads_nothing():
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# A question?"),
        nbformat.v4.new_code_cell("secret_code = 1"),
    ]
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="a result")]
    more = report.provenance([LINE], load.load_profile("mini"))
    page = report.render(notebook, "in a test", more)
    for expected in ("This run: in a test.", "A question?", "a result", "<h2>Provenance</h2>"):
        assert expected in page, expected
    for unwanted in ("secret_code", "<script", "<link", "@import", 'src="http', "url("):
        assert unwanted not in page, unwanted


def test_what_it_took_counts_every_run_of_a_stage():
    again = copy.deepcopy(LINE) | {"state": "failed", "seconds": 30.0, "sentence": "no room"}
    other = LINE | {"notebook": "03_grade k1-s0", "asked": []}
    unpriced = LINE | {"notebook": "01_generate", "asked": [LINE["asked"][0] | {"dollars": None}]}
    unread = LINE | {"notebook": "04_plot", "asked": "the ledger cannot be read"}
    table = report.stages([LINE, again, other, unpriced, unread]).set_index("stage")
    assert table.loc[
        "03_grade", ["notebooks", "runs", "minutes", "replies", "tokens", "US dollars"]
    ].tolist() == [2, 3, 3.5, 4, 4000, 0.5]
    assert table.loc[["01_generate", "04_plot"], "US dollars"].isna().all(), "unknown is not free"


def test_provenance_names_code_machine_packages_seeds_and_parameters():
    other = LINE | {"notebook": "04_plot", "commit": "def5678", "changed": True}
    said = report.provenance([LINE, other], load.load_profile("mini"))
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
