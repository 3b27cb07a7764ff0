"""The figures of scores, corpus and training; `caption` says where the numbers are from."""

import itertools
import math
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.figure_style import (
    facets,
    finish,
    legend,
    line,
    panels,
    sampled,
    scored,
    stack,
    styles,
    title_of,
)
from helpers.results.scores import with_parts
from helpers.task.catalog import SETTINGS
from helpers.task.points import KEPT


def full_marks(scores: pd.DataFrame, x: str, row: str, height: float, **shared) -> tuple:
    """The `facets` of full marks against `x`, a column of panels a setting, a line a mix.

    Means have an interval as a band; a thin line is the mean of single answers.
    """
    looks = styles(scores.mix)
    figure, drawn = facets(scores, row, "setting", height, **shared)
    for axis, _, _, panel in drawn:
        for mix, rows in panel.groupby("mix", sort=False):
            rows = rows.sort_values(x)
            colour, marker, dash = looks[mix]
            look = {"color": colour, "ls": dash}
            axis.plot(rows[x], rows.single, lw=0.7, **look)
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
            "k not in the\nfine-tuning",  # on one line it is wider than the shade
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
        place = f"{student}, setting {setting}" if student else f"Setting {setting}"
        letters = 80 // scores.setting.nunique()  # in a panel's width
        title = f"{place}: {SETTINGS[setting]}"
        title = textwrap.fill(title, letters, break_on_hyphens=False)
        axis.set_title(title, loc="left")
        axis.set(
            xticks=ks,
            xlim=(min(ks) - 0.35, max(ks) + 0.35),
            ylim=(-0.03, 1.17),
        )
        axis.set_xlabel("skills asked for, k")
    legend(figure, title="fine-tuned on" if trained_ks else "model")
    return finish(
        figure,
        f"Ratio of full marks by number of skills, {scored(summary, over_generations)} "
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
    scores = rows.assign(mix=rows.kind)
    sizes = sorted(set(scores.texts))
    height = 0.7 + 1.9 * scores.k.nunique()
    figure, drawn = full_marks(scores, "texts", "k", height, sharex=True, sharey=True)
    for axis, k, setting, rows in drawn:
        axis.vlines(
            rows.texts,
            rows.low,
            rows.high,
            color="#999999",
            lw=1,
            zorder=1,
        )
        axis.set_xscale("symlog", linthresh=sizes[1], linscale=0.3)
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45, ha="right")
        axis.set_title(f"Setting {setting}, k = {k}", loc="left")
        axis.set(ylim=(-0.03, 1.06), xlabel="training texts in all")
        axis.minorticks_off()
    legend(figure, title="fine-tuned on")
    which = f" of {student}" if student else ""
    return finish(
        figure,
        f"Full marks{which} by number of training texts, at equal steps and batch, "
        f"{scored(scores, over_generations)} ({caption}). "
        f"Bars and bands: 95% intervals over {sampled(scores)}.",
    )


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
    those that all mixes of the sweep were graded in.

    Args:
        summary: of all models.
        unseen: the summary of the queries of k = 2 whose pair is kept apart; may be empty.
        sweeps: by name, each with `at`, a model's number, and `along`, what that is. Those without
            numbers are not drawn; None where there are no others.
        claimed: the sweeps that a claim is about; the caption calls the others exploratory.
    """
    every = summary[summary.k > 1].assign(of="all")
    if len(unseen):  # an empty table has no numbers, and would make the others none
        every = pd.concat([every, unseen.assign(of="apart")])
    drawn = []
    for name, sweep in sweeps.items():
        rows = every.assign(number=every.model.map(sweep.at)).dropna(subset="number")
        for setting, its in rows.groupby("setting", sort=False):
            if its.model.nunique() == len(sweep.at):
                drawn.append((name, setting, its))
    if not drawn:
        return None
    columns = min(2, len(drawn))
    figure, axes = panels(math.ceil(len(drawn) / columns), columns, 1, sharey=True)
    figure.set_figheight(0.9 + 2.1 * len(axes))
    for axis, (name, setting, rows) in zip(axes.flat, drawn, strict=False):
        for look, its in by_k_and_pairs(rows):
            axis.plot(its.number, its.single, lw=0.7, color=look["color"], ls=look["ls"])
            line(axis, its, "number", lw=1.6, ms=4, **look)
        axis.set_title(f"{name}, setting {setting}", loc="left")
        axis.set_xlabel(textwrap.fill(sweeps[name].along, 45))
        axis.set(ylim=(-0.03, 1.06), xticks=sorted(set(rows.number)))
    for axis in list(axes.flat)[len(drawn) :]:
        axis.remove()
    for row in axes:
        row[0].set_ylabel("ratio of full marks")
    legend(figure)
    exploring = ", ".join(dict.fromkeys(name for name, _, _ in drawn if name not in claimed))
    words = f" Exploratory, without a claim: {exploring}." if exploring else ""
    shown = pd.concat([rows for _, _, rows in drawn])
    return finish(
        figure,
        f"Full marks of mixes that differ in one number, at equal steps and batch, "
        f"{scored(shown, over_generations)} ({caption}). "
        f"Bands: 95% intervals over {sampled(shown)}.{words}",
        label_outer=False,
    )


def by_k_and_pairs(rows: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """The rows of each line of `along_sweeps`, in the order of their numbers, and its look."""
    ks = sorted(set(rows.k))
    colours = colormaps["cividis"](np.linspace(0, 0.9, len(ks)))
    for k, colour, marker in zip(ks, colours, itertools.cycle("osD^v"), strict=False):
        for of, dash in (("all", "solid"), ("apart", (0, (2, 1.5)))):
            its = rows[(rows.k == k) & (rows.of == of)].sort_values("number")
            if its.empty:
                continue
            label = f"k = {k}"
            if of == "apart":
                label += f", pairs kept apart ({its.queries.max()} queries)"
            yield {"color": colour, "marker": marker, "ls": dash, "label": label}, its


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
        axis.set(xlabel="optimizer step", ylabel="loss (nats a token)", title=student)
        axis.set_ylim(0, None)
    axes[0][0].legend(title="fine-tuned on")
    return finish(
        figure,
        "Training loss, each mix on its own texts, so that levels do not compare; mean of the "
        f"last 5 steps ({caption}). Thin lines: training seeds; thick: their mean.",
    )


def corpus_by_k(counts: pd.DataFrame, *, caption: str) -> Figure:
    """How many texts were written, and why some of them were dropped.

    `counts` has the columns k, outcome, texts.
    """
    table = counts.pivot_table(index="k", columns="outcome", values="texts", fill_value=0)
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
    figure.legend(loc="outside right center", fontsize=8)
    words = "The teacher's texts, how many were kept, and what the others lacked"
    control = ""
    if "D(1+2)" in table.index:
        control = " D(1+1), D(1+2): one skill and one or two things to mention, for the control."
    return finish(figure, f"{words} ({caption}).{control}")
