"""The figures of a profile's sweeps: mixes that differ in their size, or in a number of their own.

`caption` says where the numbers are from.
"""

import math
import string
import textwrap
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.figure_style import (
    finish,
    handles_of,
    legend,
    line,
    look_of,
    panels,
    sampled,
    scored,
)
from helpers.results.plots import THIN, full_marks
from helpers.results.scores import student_of, with_parts


def data_efficiency(
    summary: pd.DataFrame,
    sweeps: Collection[str],
    *,
    caption: str,
    over_generations: str = "max",
) -> Figure | None:
    """Full marks against training texts, a line a kind of mix, a panel a setting and k = 3, 4.

    Drawn are the mixes of these sweeps, which differ in size, and the main ones of their student.
    None where there are none, or none was asked for k = 3 or 4.
    """
    swept = with_parts(summary[summary.sweep.isin(sweeps)])
    if swept.empty:
        return None
    student = swept.student.iloc[0]
    settings = swept.setting.unique()
    rows = with_parts(summary[summary.sweep.isin(["", *sweeps])])
    is_shown = (rows.student == student) & rows.k.isin([3, 4]) & rows.setting.isin(settings)
    rows = rows[is_shown]
    if rows.empty:
        return None
    # Mixes of as many texts stand side by side, each 4.5% further: a marker's width.
    equal = rows.groupby(["k", "setting", "texts"]).texts
    place = equal.cumcount() - (equal.transform("size") - 1) / 2
    scores = rows.assign(mix=rows.kind, place=rows.texts * 1.045**place)
    sizes = sorted(set(scores.texts))
    is_wide = scores.setting.nunique() == 1
    turned = {} if is_wide else {"rotation": 45, "ha": "right"}
    height = 0.7 + 1.9 * scores.k.nunique()
    figure, drawn = full_marks(scores, "place", "k", height, sharex=True, sharey=True)
    for axis, k, setting, _ in drawn:
        axis.set_xscale("symlog", linthresh=sizes[1], linscale=0.3)
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], **turned)
        axis.set_title(f"Setting {setting}, k = {k}", loc="left")
        axis.set(ylim=(-0.03, 1.06), xlabel="training texts in all")
        axis.minorticks_off()
    legend(figure, title="fine-tuned on")
    return finish(
        figure,
        f"Full marks{of_base(scores.model)} by number of training texts, at equal steps and batch, "
        f"{scored(scores, over_generations)}; {THIN} ({caption}). Mixes of equally many texts "
        f"stand side by side. Bars and bands: 95% intervals over {sampled(scores)}.",
    )


def of_base(models: pd.Series) -> str:
    """What these models were fine-tuned from, for a caption, if it has a name and is one."""
    (student, *others) = models.map(student_of).unique()
    return f' of students from base "{student}"' if student and not others else ""


def along_sweeps(
    summary: pd.DataFrame,
    unseen: pd.DataFrame,
    sweeps: Mapping[str, Any],
    *,
    claimed: Collection[str] = (),
    caption: str,
    over_generations: str = "max",
) -> Figure | None:
    """Full marks along the number that a sweep's mixes differ in: a panel a sweep and setting.

    A line a k, from 2 on, and one of the pairs of skills that are kept apart. The settings are
    those that all mixes of the sweep were graded in. Single answers are left to the tables: with
    lines of them, too, none could be followed.

    Args:
        summary: of all models.
        unseen: the summary of the queries of k = 2 whose pair is kept apart; may be empty.
        sweeps: by name, each with `at`, a model's number, and `along`, what that is. Those without
            numbers are not drawn; None where there are no others.
        claimed: the sweeps that a claim is about; the caption calls the others exploratory.
    """
    drawn = []
    for name, sweep in sweeps.items():
        rows = summary[(summary.k > 1) & summary.model.isin(sweep.at)]
        for setting, its in rows.groupby("setting", sort=False):
            if its.model.nunique() == len(sweep.at):
                drawn.append((name, setting, its))
    if not drawn:
        return None
    columns = min(2, len(drawn))
    figure, axes = panels(math.ceil(len(drawn) / columns), columns, 1, sharey=True)
    figure.set_figheight(0.9 + 2.1 * len(axes))
    exploring = []
    places = zip(axes.flat, drawn, string.ascii_lowercase, strict=False)
    for axis, (name, setting, rows), letter in places:
        at = sweeps[name].at
        for k, its in rows.groupby("k"):
            its = its.assign(number=its.model.map(at)).sort_values("number")
            line(axis, its, "number", lw=1.6, ms=4.5, **look_of(k))
        if len(unseen):  # an empty table has no columns
            is_its = unseen.model.isin(at) & (unseen.setting == setting)
            pairs_apart(axis, unseen[is_its].assign(number=unseen.model.map(at)))
        axis.set_title(f"({letter}) Setting {setting}", loc="left")
        axis.set_xlabel(textwrap.fill(sweeps[name].along, 45))
        axis.set(ylim=(-0.03, 1.06), xticks=sorted(set(at.values())))
        if name not in claimed:
            exploring.append(f"({letter})")
    for row in axes:
        row[0].set_ylabel("ratio of full marks")
    free = list(axes.flat)[len(drawn) :]
    for axis in free:
        axis.set_axis_off()
    if free:
        looks = handles_of(figure)
        free[0].legend(looks.values(), looks, loc="center")
    else:
        legend(figure)
    shown = pd.concat([rows for _, _, rows in drawn])
    below = (shown["mean"] - shown.single).max()
    apart = ""
    if len(unseen):
        apart = (
            f" Open markers: the {unseen.queries.max()} of these queries at k = 2 whose pair of "
            "skills no training text shows; their intervals are bars."
        )
    words = f" Exploratory, without a claim: {', '.join(exploring)}." if exploring else ""
    return finish(
        figure,
        f"Full marks{of_base(shown.model)} along mixes that differ in one number, at equal steps "
        f"and batch, {scored(shown, over_generations)} ({caption}); single answers, not drawn, "
        f"have up to {below:.2f} less. Bands: 95% intervals over {sampled(shown)}.{apart}{words}",
        label_outer=False,
    )


def pairs_apart(axis: Axes, rows: pd.DataFrame) -> None:
    """The line of `along_sweeps` of pairs kept apart, if there are any: open, and with bars."""
    if rows.empty:
        return
    rows = rows.sort_values("number")
    look = look_of(2)
    axis.errorbar(
        rows.number,
        rows["mean"],
        [rows["mean"] - rows.low, rows.high - rows["mean"]],
        color=look["color"],
        ls=(0, (2, 1.5)),
        lw=1.2,
        elinewidth=0.7,
        marker=look["marker"],
        mfc="white",
        ms=4.5,
        label="k = 2, pairs kept apart",
    )
