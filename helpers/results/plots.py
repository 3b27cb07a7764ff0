"""The figures of scores, corpus and training; `caption` says where the numbers are from."""

import pandas as pd
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
