"""Figures: every profile's shape can be drawn, and equal scores give equal bytes."""

import base64
import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from helpers.results import figure_style, plots, scores, sweep_plots
from helpers.task.points import Points


@pytest.fixture(scope="module")
def table(simulated):
    rng = np.random.default_rng(0)
    means = {"base": 0.1, "k1": 0.1, "k12": 0.4, "k123": 0.7}
    return pd.concat([simulated(rng, means, setting=s, ks=(1, 2, 3, 4, 5)) for s in ("I", "II")])


@pytest.fixture(scope="module")
def swept(simulated, sweep):
    means = {
        "base": 0.1,
        "k12": 0.6,
        "k123": 0.8,
        "k12n300": 0.1,
        "k123n300": 0.3,
        "k12n600": 0.4,
        "k123n600": 0.7,
    }
    tables = [
        simulated(np.random.default_rng(1), means, setting=s, ks=(2, 3, 4), texts=sweep, apart=15)
        for s in ("I", "II", "III")
    ]
    return pd.concat(tables)


@pytest.fixture(scope="module")
def figures(table, swept):
    return drawn(table, swept)


def drawn(table, swept) -> dict:
    """Every figure, drawn anew."""
    logs = pd.DataFrame(
        [(m, s, t, 2 / t) for m in ("k1", "k123") for s in (0, 1) for t in range(1, 30)],
        columns=["model", "seed", "step", "loss"],
    )
    counts = pd.DataFrame(
        [("1", "kept", 40), ("1", "off topic", 3), ("2", "kept", 40), ("2", "skill missing", 9)],
        columns=["k", "outcome", "texts"],
    )
    here = {"caption": "in a test"}
    return {
        "data_efficiency": sweep_plots.data_efficiency(scores.summary(swept), ["sizes"], **here),
        "along_sweeps": along(swept, caption="in a test"),
        "full_marks_by_k": plots.full_marks_by_k(
            scores.summary(table), trained_ks=[1, 2, 3], **here
        ),
        "training_loss": plots.training_loss(logs, **here),
        "corpus_by_k": plots.corpus_by_k(counts, **here),
    }


DOSE = {"k12n300": 0, "k123n300": 25, "k123": 100}
SWEEPS = {
    "sizes": SimpleNamespace(along="", at={}),
    "dose": SimpleNamespace(along="share of D(3), %", at=DOSE),
}


def along(swept, sweeps=SWEEPS, **look):
    """Of the sweep `sizes` two models are at numbers of the sweep `dose`, which has k123n600."""
    table = swept.assign(sweep=swept.sweep.where(swept.model != "k123n300", "dose"))
    unseen = scores.summary(scores.all_apart(table).query("k == 2"))
    return sweep_plots.along_sweeps(scores.summary(table), unseen, sweeps, **look)


def said(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text))


def test_equal_scores_give_equal_bytes(figures, table, swept, tmp_path):
    for folder, drawing in (("a", figures), ("b", drawn(table, swept))):
        for name, figure in drawing.items():
            figure_style.save(figure, tmp_path / folder, name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 2 * len(figures)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_headline_says_what_it_shows(figures):
    figure = figures["full_marks_by_k"]
    for words in (
        "Setting I",
        "Setting II",
        "k in no\ntraining text",
        "in a test",
        "95% intervals",
        "40 queries",
        "3 training seeds",
        "ratio of full marks",
    ):
        assert words in said(figure), words
    assert len(figure.axes) == 2
    assert all(len(axis.lines) == 8 for axis in figure.axes)


def test_two_students_and_three_settings_have_their_panels(table):
    both = pd.concat(
        [table.assign(model=s + "-" + table.model) for s in ("llama-2-13b", "mistral-7b")]
    )
    summary = scores.summary(pd.concat([both, both[both.setting == "I"].assign(setting="III")]))
    figure = plots.full_marks_by_k(summary, trained_ks=[1, 2, 3], caption="in a test")
    assert len(figure.axes) == 6
    assert all(len(axis.lines) == 8 for axis in figure.axes)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "Setting I:\ntraining skills and topics",
        "Setting II:\nheld-out skills and topics",
        "Setting III:\nall skills and topics",
        *[""] * 3,
    ]
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == [
        "base llama-2-13b\nratio of full marks",
        "base mistral-7b\nratio of full marks",
    ]


def test_best_answers_never_stand_without_single_ones(table):
    summary = scores.summary(table).assign(generations=3, single=lambda s: s["mean"] / 2)
    look = {"trained_ks": [1, 2, 3], "caption": "in a test"}
    best = plots.full_marks_by_k(summary, **look)
    assert "best of 3 answers to a query; thin lines: mean of single answers" in said(best)
    assert "mean of 3 answers" in said(
        plots.full_marks_by_k(summary, over_generations="mean", **look)
    )


def test_the_control_has_a_line_and_a_name(table):
    control = table[table.model == "k1"].assign(model="padded", kind="padded", texts=3600)
    summary = scores.summary(pd.concat([table, control]))
    figure = plots.full_marks_by_k(summary, trained_ks=[1, 2, 3], caption="in a test")
    assert all(len(axis.lines) == 10 for axis in figure.axes)
    assert "D(1) padded (control)" in said(figure)
    figure.draw_without_rendering()
    width = figure.legends[0].get_window_extent().width
    assert width < figure.bbox.width, "in two lines where one would be too long"
    assert figure_style.title_of("k1") == "D(1)"


def test_the_corpus_says_what_was_not_needed(figures):
    assert "Not needed" not in figures["corpus_by_k"].caption
    counts = [("1", "kept", 1200), ("1", "full marks, not needed", 9)]
    table = pd.DataFrame(counts, columns=["k", "outcome", "texts"])
    figure = plots.corpus_by_k(table, caption="in a test")
    assert "Not needed: more with full marks than were wanted." in figure.caption
    figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert "1,000" in ticks, "as the numbers in the bars are written"


def test_a_corpus_of_which_nothing_was_kept_is_drawn():
    table = pd.DataFrame({"k": ["1"], "outcome": ["off topic"], "texts": [9]})
    (axis,) = plots.corpus_by_k(table, caption="in a test").axes
    assert "0 kept; 0% of 9 had full marks" in [text.get_text() for text in axis.texts]


def test_the_number_of_training_seeds_is_said(figures):
    assert "Thin lines: the 2 training seeds" in figures["training_loss"].caption
    logs = pd.DataFrame({"model": ["k1"], "seed": 0, "step": 1, "loss": 1.0})
    words = plots.training_loss(logs, caption="in a test").caption
    assert "One training seed." in words
    assert "Thin lines" not in words


def test_a_fault_has_one_colour_whatever_else_there_is():
    """And every outcome that a text can have has one."""

    def colours(*outcomes) -> dict:
        counts = [("1", outcome, n + 1) for n, outcome in enumerate(("kept", *outcomes))]
        table = pd.DataFrame(counts, columns=["k", "outcome", "texts"])
        axis = plots.corpus_by_k(table, caption="in a test").axes[0]
        return {bar.get_label(): bar.patches[0].get_facecolor() for bar in axis.containers}

    faults = [Points.of(numbers).fault() for numbers in itertools.product((0, 1), repeat=4)]
    every = sorted({*filter(None, faults), "grade unreadable", "no answer"})
    together = colours(*every)
    assert set(together) == {"kept", *every}
    assert len(set(together.values())) == len(together)
    for fault in every:
        assert colours(fault)[fault] == together[fault]


def test_a_figure_says_what_it_shows_to_who_cannot_see_it(figures):
    for name, figure in figures.items():
        data, metadata = figure._repr_mimebundle_()
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG"), name
        assert metadata["image/png"]["alt"] in said(figure), name
        assert "in a test" in metadata["image/png"]["alt"], name


def test_mixes_of_any_name_are_drawn(table):
    """Each with a style of its own, whatever else is drawn, and a name in the legend."""
    other = table.assign(
        model=table.model.replace({"k1": "single", "k12": "k23", "k123": "everything"})
    )
    figure = plots.full_marks_by_k(scores.summary(other), trained_ks=[1, 2, 3], caption="in a test")
    assert all(len(axis.lines) == 8 for axis in figure.axes)
    looks = {
        (line.get_color(), line.get_marker(), str(line.get_linestyle()))
        for line in figure.axes[0].lines
    }
    assert len(looks) == 8, "each model has a line, and a thin one of single answers"
    assert all(
        name in said(figure)
        for name in ("single", "D(2) + D(3)", "everything", "before fine-tuning")
    )
    assert figure_style.styles(["k123", "base"]) == {
        mix: figure_style.STYLE[mix] for mix in ("base", "k123")
    }
    assert len(figure_style.styles([f"mix{i}" for i in range(9)])) == 9


def test_one_training_seed_is_said(table):
    one = plots.full_marks_by_k(
        scores.summary(table[table.seed == 0]), trained_ks=[1, 2, 3], caption="in a test"
    )
    assert "40 queries alone" in said(one)
    assert "not over training seeds" in said(one)


def test_data_efficiency_draws_each_kind_against_its_texts(swept):
    summary = scores.summary(swept)
    figure = sweep_plots.data_efficiency(summary, ["sizes"], caption="in a test")
    assert len(figure.axes) == 6, "two k, three settings"
    lines = {tuple(map(float, line.get_xdata())) for axis in figure.axes for line in axis.lines}
    aside = 1.045**0.5  # of two mixes with equally many texts
    for texts in (
        (0,),
        (300 / aside, 600 / aside, 2400),
        (300 * aside, 600 * aside, 3600),
    ):
        assert any(x == pytest.approx(texts) for x in lines if len(x) == len(texts)), texts
    assert "Mixes of equally many texts stand side by side." in figure.caption
    for words in (
        "D(1) + D(2)",
        "D(1) + D(2) + D(3)",
        "before fine-tuning",
        "k = 3",
        "k = 4",
        "Setting III",
        "in a test",
        "95% intervals",
        "40 queries",
    ):
        assert words in said(figure), words
    two = pd.concat(
        [
            summary.assign(model="three-" + summary.model),
            scores.main_models(summary).assign(model=lambda s: "five-" + s.model),
        ],
        ignore_index=True,
    )
    figure = sweep_plots.data_efficiency(two, ["sizes"], caption="in a test")
    assert 'Full marks of students from base "three" by number' in figure.caption


def test_a_mix_of_one_size_is_a_marker_with_its_interval(swept):
    """No line in the legend either; a dash is the mean of its single answers."""
    in_one = scores.summary(swept[swept.setting == "I"])
    figure = sweep_plots.data_efficiency(in_one, ["sizes"], caption="in a test")
    for axis in figure.axes:
        single, mean = axis.lines[:2]
        assert (mean.get_label(), mean.get_linestyle()) == ("before fine-tuning", "None")
        assert single.get_marker() == "_"
        (bar,) = [c for c in axis.collections if isinstance(c, LineCollection)]
        row = in_one[(in_one.model == "base") & (in_one.k == 3 + figure.axes.index(axis))].iloc[0]
        assert bar.get_segments()[0][:, 1].tolist() == [row.low, row.high]
    ticks = figure.axes[-1].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["0", "300", "600", "2,400", "3,600"]
    assert {tick.get_rotation() for tick in ticks} == {0}


def test_without_a_sweep_there_is_no_figure(table, tmp_path):
    figure = sweep_plots.data_efficiency(scores.summary(table), ["sizes"], caption="in a test")
    assert figure is None
    figure_style.save(figure, tmp_path, "data_efficiency")
    assert not list(tmp_path.iterdir())


def test_where_nothing_is_to_be_drawn_there_is_no_figure(swept):
    """Nobody was asked for k = 3 or 4; nothing was trained but the mixes of sweeps."""
    two = scores.summary(swept[swept.k == 2])
    assert sweep_plots.data_efficiency(two, ["sizes"], caption="in a test") is None
    logs = pd.DataFrame(columns=["model", "seed", "step", "loss"])
    assert plots.training_loss(logs, caption="in a test") is None


def test_a_sweep_is_drawn_along_its_number(swept):
    """A line a k, with a band, and one of the pairs kept apart, with bars and open markers."""
    figure = along(swept, claimed=["dose"], caption="in a test")
    *drawn, free = figure.axes
    assert [axis.get_title(loc="left") for axis in drawn] == [
        "(a) Setting I",
        "(b) Setting II",
        "(c) Setting III",
    ]
    for axis in drawn:
        assert len(axis.lines) == 4, "none of single answers"
        assert all(list(line.get_xdata()) == [0, 25, 100] for line in axis.lines)
        assert [line.get_markerfacecolor() for line in axis.lines].count("white") == 1
        bars = [c for c in axis.collections if isinstance(c, LineCollection)]
        assert (len(axis.collections), len(bars)) == (4, 1)
        assert axis.get_xlabel() == "share of D(3), %"
        assert list(axis.get_xticks()) == [0, 25, 100]
    assert not free.axison
    names = [text.get_text() for text in free.get_legend().get_texts()]
    assert names == ["k = 2", "k = 3", "k = 4", "k = 2, pairs kept apart"]
    assert not figure.legends, "the legend stands in the empty panel"
    for words in ("the 15 of these queries at k = 2", "40 queries", "95% intervals"):
        assert words in figure.caption, words
    assert "xploratory" not in figure.caption


def test_single_answers_that_are_not_drawn_are_told_in_words(swept):
    """Best answers never stand without them."""
    summary = scores.summary(swept).assign(generations=3, single=lambda s: s["mean"] / 4)
    shown = summary[summary.model.isin(DOSE) & (summary.k > 1)]
    figure = sweep_plots.along_sweeps(summary, pd.DataFrame(), SWEEPS, caption="in a test")
    most = 0.75 * shown["mean"].max()
    assert "best of 3 answers to a query" in figure.caption
    assert f"single answers, not drawn, have up to {most:.2f} less" in figure.caption
    assert "hin lines" not in figure.caption


def test_whose_sweeps_they_are_is_said(swept):
    assert "of students" not in along(swept, caption="in a test").caption
    named = swept.assign(model="three-" + swept.model)
    at = {f"three-{model}": number for model, number in DOSE.items()}
    figure = along(named, {"dose": SimpleNamespace(along="", at=at)}, caption="in a test")
    assert 'Full marks of students from base "three" along mixes' in figure.caption


def test_a_sweep_is_drawn_in_the_settings_of_all_its_mixes(swept):
    """And may be of main ones alone."""
    some = swept[(swept.model != "k123n300") | (swept.setting == "II")]
    (axis,) = along(some, caption="in a test").axes
    assert axis.get_title(loc="left") == "(a) Setting II"
    main = {"main": SimpleNamespace(along="kind", at={"base": 0, "k123": 3})}
    figure = along(swept, main, caption="in a test")
    assert sum(axis.axison for axis in figure.axes) == 3
    two = along(swept[swept.setting != "II"], main, caption="in a test")
    assert len(two.legends) == 1, "over the panels, where none is empty"


def test_a_sweep_without_a_claim_is_called_exploratory(swept):
    figure = along(swept, caption="in a test")
    assert "Exploratory, without a claim: (a), (b), (c)." in figure.caption


def test_a_sweep_needs_numbers_for_this_figure_and_no_pairs_apart(swept):
    assert along(swept, {"sizes": SWEEPS["sizes"]}, caption="in a test") is None
    assert sweep_plots.along_sweeps(scores.summary(swept), pd.DataFrame(), {}, caption="") is None
    figure = along(swept.assign(apart=0), caption="in a test")
    assert all(len(axis.lines) == 3 for axis in figure.axes if axis.axison)
    assert "open markers" not in figure.caption.lower()


def test_models_are_drawn_in_the_order_given(swept):
    """In the legends of every figure of models, whatever their names and usual colours."""
    given = ["k123", "zeta", "base", "alpha"]
    logs = pd.DataFrame({"model": given, "seed": 0, "step": 1, "loss": 1.0})
    assert labels_of(plots.training_loss(logs, caption="").axes[0]) == TITLES
    table = swept.replace({"model": {"k12": "zeta", "k12n300": "alpha"}})
    models = pd.concat(table[table.model == name] for name in given)
    figure = plots.full_marks_by_k(scores.summary(models), trained_ks=[], caption="")
    assert labels_of(figure) == TITLES
    kinds = pd.concat([swept[swept.kind == kind] for kind in ("k123", "base", "k12")])
    figure = sweep_plots.data_efficiency(scores.summary(kinds), ["sizes"], caption="")
    assert labels_of(figure) == [TITLES[0], TITLES[2], "D(1) + D(2)"]


TITLES = ["D(1) + D(2) + D(3)", "zeta", "before fine-tuning", "alpha"]


def labels_of(drawing) -> list[str]:
    """What its legend names, in order."""
    (legend,) = drawing.legends if hasattr(drawing, "legends") else [drawing.get_legend()]
    return [text.get_text() for text in legend.get_texts()]
