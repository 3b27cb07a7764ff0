"""The figures of scores, corpus and training; `caption` says where the numbers are from."""

import math
import string
import textwrap
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.figure_style import (
    facets,
    finish,
    handles_of,
    legend,
    line,
    look_of,
    panels,
    sampled,
    scored,
    stack,
    styles,
    title_of,
)
from helpers.results.scores import student_of, with_parts
from helpers.task.catalog import SETTINGS
from helpers.task.points import KEPT, NOT_NEEDED

THIN = "thin lines: mean of single answers"


def full_marks(scores: pd.DataFrame, x: str, row: str, height: float, **shared) -> tuple:
    """The `facets` of full marks against `x`, a column of panels a setting, a line a mix.

    Means have an interval (`line`); a thin line is the mean of single answers.
    """
    looks = styles(scores.mix)
    figure, drawn = facets(scores, row, "setting", height, **shared)
    for axis, _, _, panel in drawn:
        for mix, rows in panel.groupby("mix", sort=False):
            rows = rows.sort_values(x)
            colour, marker, dash = looks[mix]
            look = {"color": colour, "ls": dash}
            dot = "_" if len(rows) == 1 else ""
            axis.plot(rows[x], rows.single, lw=0.7, marker=dot, **look)
            line(
                axis,
                rows,
                x,
                lw=1.6,
                marker=marker,
                ms=4.5,
                label=title_of(mix),
                **look,
            )
        axis.set_ylabel("ratio of full marks")
    return figure, drawn


def shade_unseen(axis: Axes, ks: list[int], trained_ks: list[int]) -> None:
    """Shade and name the part of the axis with k that no training text had, if any was trained."""
    unseen = [k for k in ks if k > max(trained_ks, default=k)]
    if unseen:
        end = max(ks) + 0.35
        axis.axvspan(min(unseen) - 0.5, end, color="#F0F0F0", lw=0, zorder=0)
        axis.text(
            end - 0.05,
            1.15,
            "k in no\ntraining text",  # on one line it is wider than the shade
            ha="right",
            va="top",
            fontsize=7,
            linespacing=1.1,
            color="#555555",
        )


def full_marks_by_k(
    summary: pd.DataFrame, *, trained_ks: list[int], caption: str, over_generations: str = "max"
) -> Figure:
    """The headline: full marks against k, a line a model, 95% bands.

    A panel a setting, a row a student. `caption` says where the numbers are from.
    """
    scores = with_parts(summary)
    ks = sorted(scores.k.unique())
    height = 0.5 + 2.5 * scores.student.nunique()
    figure, drawn = full_marks(scores, "k", "student", height, sharey=True)
    for axis, student, setting, _ in drawn:
        shade_unseen(axis, ks, trained_ks)
        if axis.get_subplotspec().is_first_row():
            between = "\n" if scores.setting.nunique() > 2 else " "
            axis.set_title(f"Setting {setting}:{between}{SETTINGS[setting]}", loc="left")
        if student:
            axis.set_ylabel(f"base {student}\nratio of full marks")
        axis.set(
            xticks=ks,
            xlim=(min(ks) - 0.35, max(ks) + 0.35),
            ylim=(-0.03, 1.17),
        )
        axis.set_xlabel("skills asked for, k")
    legend(figure, title="fine-tuned on" if trained_ks else "model")
    return finish(
        figure,
        f"Ratio of full marks by number of skills, {scored(summary, over_generations)}; {THIN} "
        f"({caption}). Bands: 95% intervals of the thick lines over {sampled(summary)}.",
    )


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


def training_loss(logs: pd.DataFrame, *, caption: str) -> Figure | None:
    """Loss against step, a line a mix (mean over training seeds), thin lines the seeds.

    `logs` has the columns model, seed, step, loss; a panel a student. None without any.
    """
    if logs.empty:
        return None
    logs = with_parts(logs)
    looks = styles(logs.mix)
    students = logs.groupby("student", sort=False)
    figure, axes = panels(1, len(students), 2.6, sharey=True)
    for axis, (student, of_student) in zip(axes.flat, students, strict=True):
        for mix, runs in of_student.groupby("mix", sort=False):
            colour, _, dash = looks[mix]
            losses = runs.pivot(index="step", columns="seed", values="loss")
            smooth = losses.rolling(5, min_periods=1).mean()
            axis.plot(smooth, color=colour, lw=0.5, alpha=0.5)
            mean = smooth.mean(axis=1)
            axis.plot(
                mean,
                color=colour,
                ls=dash,
                lw=1.6,
                label=title_of(mix),
            )
        axis.set(xlabel="optimizer step", ylabel="loss (nats a token)")
        if student:
            axis.set_title(f"base {student}", loc="left")
        axis.set_ylim(0, None)
    axes[0][0].legend(title="fine-tuned on")
    seeds = logs.seed.nunique()
    words = f"Thin lines: the {seeds} training seeds; thick: their mean."
    if seeds == 1:
        words = "One training seed."
    return finish(
        figure,
        "Training loss, each mix on its own texts, so that levels do not compare; mean of the "
        f"last 5 steps ({caption}). {words}",
    )


def corpus_by_k(counts: pd.DataFrame, *, caption: str) -> Figure:
    """How many texts were written, and why some of them were dropped.

    `counts` has the columns k, outcome, texts.
    """
    table = counts.pivot_table(index="k", columns="outcome", values="texts", fill_value=0)
    table[KEPT] = table.get(KEPT, 0)  # where no text of any k was kept
    table.index = [f"D({k})" for k in table.index]
    figure, [[axis]] = panels(1, 1, 1.2 + 0.4 * len(table))
    stack(axis.barh, table, "left", edgecolor="white", lw=0.6)
    said = "{0:,.0f} kept; {2:.0%} of {1:,.0f} had full marks"
    written = table.sum(axis=1)
    full = table[KEPT] + table.filter(like="full marks").sum(axis=1)
    bars = zip(table.index, table[KEPT], written, full / written, strict=True)
    for name, *numbers in bars:
        axis.text(
            numbers[0] / 2,
            name,
            said.format(*numbers),
            ha="center",
            va="center",
            color="white",
            fontsize=8,
        )
    axis.invert_yaxis()
    axis.set_xlabel("texts written by the teacher")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside right center", fontsize=8)
    words = "The teacher's texts, how many were kept, and what the others lacked"
    spare = ""
    if NOT_NEEDED in table:
        spare = " Not needed: more with full marks than were wanted."
    control = ""
    if "D(1+2)" in table.index:
        control = " D(1+1), D(1+2): one skill and one or two things to mention, for the control."
    return finish(figure, f"{words} ({caption}).{spare}{control}")
