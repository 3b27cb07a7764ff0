"""Figures: every profile's shape can be drawn, and equal scores give equal bytes."""

import numpy as np
import pandas as pd
import pytest

from helpers import plots, scores
from helpers.report import render
from tests.test_scores import simulated


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    means = {"base": 0.1, "k1": 0.1, "k12": 0.4, "k123": 0.7}
    return pd.concat([simulated(rng, means, setting=s, ks=(1, 2, 3, 4, 5)) for s in ("I", "II")])


def figures(table):
    summary = scores.summary(table, samples=50)
    logs = pd.DataFrame(
        [(m, s, t, 2 / t) for m in ("k1", "k123") for s in (0, 1) for t in range(1, 30)], columns=["model", "seed", "step", "loss"]
    )
    counts = pd.DataFrame(
        [(1, "kept", 40), (1, "off topic", 3), (2, "kept", 40), (2, "skill missing", 9)], columns=["k", "outcome", "texts"]
    )
    return {
        "full_marks_by_k": plots.full_marks_by_k(summary, trained_ks=[1, 2, 3], world="in a test"),
        "training_loss": plots.training_loss(logs, world="in a test"),
        "corpus_by_k": plots.corpus_by_k(counts, world="in a test"),
    }


def test_equal_scores_give_equal_bytes(table, tmp_path):
    first = [p.read_bytes() for name, f in figures(table).items() for p in plots.save(f, tmp_path / "a", name)]
    second = [p.read_bytes() for name, f in figures(table).items() for p in plots.save(f, tmp_path / "b", name)]
    assert first == second
    assert len(first) == 6


def test_headline_says_what_it_shows(table):
    figure = figures(table)["full_marks_by_k"]
    words = " ".join(t.get_text() for t in figure.findobj(plots.plt.Text))
    for said in ("Setting I", "Setting II", "never", "in a test", "95% intervals", "40 queries", "3 training seeds", "ratio of full marks"):
        assert said in words, said
    assert len(figure.axes) == 2
    assert all(len(axis.lines) == 4 for axis in figure.axes)


def test_two_students_and_three_settings_have_their_panels(table):
    both = pd.concat([table.assign(model=s + "-" + table.model) for s in ("llama-2-13b", "mistral-7b")])
    summary = scores.summary(pd.concat([both, both[both.setting == "I"].assign(setting="III")]), samples=20)
    figure = plots.full_marks_by_k(summary, trained_ks=[1, 2, 3], world="in a test")
    assert len(figure.axes) == 6
    assert all(len(axis.lines) == 4 for axis in figure.axes)


def test_report_loads_nothing(tmp_path):
    import nbformat

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell("# A question?"), nbformat.v4.new_code_cell("secret_code = 1")]
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="a result")]
    page = render(notebook, "in a test")
    assert "This run: in a test." in page
    assert "A question?" in page
    assert "a result" in page
    assert "secret_code" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
