"""The figures of scores, corpus and training; `caption` says where the numbers are from."""

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.look import (
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
from helpers.results.scores import largest, with_parts
from helpers.task.catalog import SETTINGS
from helpers.task.points import KEPT


def full_marks(scores: pd.DataFrame, x: str, row: str, height: float, **shared) -> tuple:
    """The `facets` of full marks against `x`, a column of panels a setting, a line a mix.

    Means have a band; thin is the mean of single answers.
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
    """The part of the axis with k that no training text had, named; none without training."""
    unseen = [k for k in ks if k > max(trained_ks, default=k)]
    if unseen:
        end = max(ks) + 0.35
        axis.axvspan(min(unseen) - 0.5, end, color="#F0F0F0", lw=0, zorder=0)
        axis.text(
            end - 0.05,
            1.15,
            "k never seen in training",
            ha="right",
            va="top",
            fontsize=7,
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
        f"({caption}). Bands: 95% intervals over {sampled(summary)}.",
    )


def data_efficiency(
    summary: pd.DataFrame, *, caption: str, over_generations: str = "max"
) -> Figure | None:
    """Full marks against training texts, a line a kind of mix, a panel a setting and k = 3, 4.

    Drawn is the student that has mixes of several sizes. None where no mixes differ in size alone.
    """
    smaller = with_parts(summary[~summary.model.isin(largest(summary).model)])
    if smaller.empty:
        return None
    student = smaller.student.iloc[0]
    rows = with_parts(summary).query("student == @student and k in (3, 4)")
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


def training_loss(logs: pd.DataFrame, *, caption: str) -> Figure:
    """Loss against step, a line a mix (mean over training seeds), thin lines the seeds.

    `logs` has the columns model, seed, step, loss; a panel a student.
    """
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
        f"Training loss, mean of the last 5 steps ({caption}). "
        "Thin lines: training seeds; thick: their mean.",
    )


def corpus_by_k(counts: pd.DataFrame, *, caption: str) -> Figure:
    """How many texts were written, and why those that were dropped were.

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
        control = " D(1+2): one skill and two things to mention, for the control."
    return finish(figure, f"{words} ({caption}).{control}")
