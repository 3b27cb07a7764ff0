"""The figures of scores, corpus and training; `caption` says where the numbers are from."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.look import (
    OUTCOMES,
    finish,
    legend,
    line,
    panels,
    sampled,
    scored,
    students_of,
    styles,
    title_of,
)
from helpers.results.scores import largest, mix_of, name_of, student_of
from helpers.task.catalog import SETTINGS
from helpers.task.points import DUPLICATE, KEPT, NOT_NEEDED


def draw_line(axis: Axes, scores: pd.DataFrame, x: str, mix: str, style: tuple) -> None:
    """Means against `x` with their intervals as a band, and thin the mean of single answers."""
    colour, marker, dash = style
    look = {"color": colour, "ls": dash}
    axis.plot(scores[x], scores.single, lw=0.7, **look)
    line(
        axis,
        scores[x],
        scores["mean"],
        scores.low,
        scores.high,
        lw=1.6,
        marker=marker,
        ms=4.5,
        label=title_of(mix),
        **look,
    )


def shade_unseen(axis: Axes, ks: list[int], trained_ks: list[int]) -> None:
    """The part of the axis with k that no training text had, named; none without training."""
    unseen = [k for k in ks if k > max(trained_ks, default=k)]
    if unseen:
        end = max(ks) + 0.35
        axis.axvspan(min(unseen) - 0.5, end, color="#F0F0F0", lw=0, zorder=0)
        words = "k never seen in training"
        axis.text(
            end - 0.05,
            1.15,
            words,
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
    settings = sorted(summary.setting.unique())
    students = students_of(summary.model)
    looks = styles(summary.model.map(mix_of))
    ks = sorted(summary.k.unique())
    height = 0.5 + 2.5 * len(students)
    figure, axes = panels(len(students), len(settings), height, sharey=True)
    for row, student in zip(axes, students, strict=True):
        for axis, setting in zip(row, settings, strict=True):
            shade_unseen(axis, ks, trained_ks)
            for mix, style in looks.items():
                is_model = summary.model == name_of(student, mix)
                scores = summary[is_model & (summary.setting == setting)].sort_values("k")
                if len(scores):
                    draw_line(axis, scores, "k", mix, style)
            place = f"{student}, setting {setting}" if student else f"Setting {setting}"
            is_narrow = student or len(settings) > 2
            between = ":\n" if is_narrow else ": "
            axis.set_title(f"{place}{between}{SETTINGS[setting]}", loc="left")
            axis.set(
                xticks=ks,
                xlim=(min(ks) - 0.35, max(ks) + 0.35),
                ylim=(-0.03, 1.17),
            )
            axis.set_xlabel("skills asked for, k")
        row[0].set_ylabel("ratio of full marks")
    legend(figure, looks, title="fine-tuned on" if trained_ks else "model")
    return finish(
        figure,
        f"Ratio of full marks by number of skills, {scored(summary, over_generations)} "
        f"({caption}). Bands: 95% intervals over {sampled(summary)}.",
    )


def data_efficiency(
    summary: pd.DataFrame, *, caption: str, over_generations: str = "max"
) -> Figure:
    """Full marks against training texts, a line a kind of mix, a panel a setting and k = 3, 4.

    Drawn is the student that has mixes of several sizes, at every k if neither 3 nor 4 was asked
    for; the base is where no text is. Without such mixes the figure says so.
    """
    smaller = set(summary.model) - set(largest(summary).model)
    if not smaller:
        figure, [[axis]] = panels(1, 1, 0.1)
        axis.axis("off")
        return finish(
            figure, "This profile has no mixes that differ in size alone: no sweep to draw."
        )
    student = min(map(student_of, smaller))
    rows = summary[summary.model.map(student_of) == student]
    if rows.k.isin([3, 4]).any():
        rows = rows[rows.k.isin([3, 4])]
    ks = sorted(rows.k.unique())
    settings = sorted(rows.setting.unique())
    looks = styles(rows.kind)
    sizes = sorted(set(rows.texts) - {0})
    height = 0.7 + 1.9 * len(ks)
    figure, axes = panels(len(ks), len(settings), height, sharex=True, sharey=True)
    for k, of_k in zip(ks, axes, strict=True):
        of_k[0].set_ylabel("ratio of full marks")
        for setting, axis in zip(settings, of_k, strict=True):
            panel = rows[(rows.k == k) & (rows.setting == setting)].sort_values("texts")
            for kind, style in looks.items():
                scores = panel[panel.kind == kind]
                colour, _, dash = style
                if kind == "base":
                    for level in scores["mean"]:
                        axis.axhline(level, color=colour, ls=dash, lw=1, label=title_of(kind))
                elif len(scores):
                    draw_line(axis, scores, "texts", kind, style)
                    axis.vlines(
                        scores.texts,
                        scores.low,
                        scores.high,
                        color=colour,
                        lw=1.2,
                    )
            axis.set(xscale="log", ylim=(-0.03, 1.06))
            axis.set_title(f"Setting {setting}, k = {k}", loc="left")
            axis.set_xticks(
                sizes,
                [f"{n:,}" for n in sizes],
                rotation=45,
                ha="right",
            )
            axis.minorticks_off()
    for axis in axes[-1]:
        axis.set_xlabel("training texts in all")
    legend(figure, looks)
    which = f" of {student}" if student else ""
    return finish(
        figure,
        f"Full marks{which} by number of training texts, at equal steps and batch, "
        f"{scored(rows, over_generations)} ({caption}). "
        f"Bars and bands: 95% intervals over {sampled(rows)}.",
    )


def training_loss(logs: pd.DataFrame, *, caption: str) -> Figure:
    """Loss against step, a line a mix (mean over training seeds), thin lines the seeds.

    `logs` has the columns model, seed, step, loss; a panel a student.
    """
    students = students_of(logs.model)
    figure, axes = panels(1, len(students), 2.6, sharey=True)
    for axis, student in zip(axes[0], students, strict=True):
        for mix, (colour, _, dash) in styles(logs.model.map(mix_of)).items():
            runs = logs[logs.model == name_of(student, mix)]
            losses = runs.pivot_table(index="step", columns="seed", values="loss")
            smooth = losses.rolling(5, min_periods=1).mean()
            axis.plot(smooth, color=colour, lw=0.5, alpha=0.5)
            if len(runs):
                mean = smooth.mean(axis=1)
                axis.plot(
                    mean,
                    color=colour,
                    ls=dash,
                    lw=1.6,
                    label=title_of(mix),
                )
        axis.set(xlabel="optimizer step", title=student, ylim=(0, None))
    axes[0][0].set_ylabel("loss (nats a token)")
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
    control = ""
    if any("+" in k for k in counts.k):
        control = " D(1+2): one skill and two things to mention, for the control."
    table = counts.pivot_table(index="k", columns="outcome", values="texts", fill_value=0)
    figure, [[axis]] = panels(1, 1, 1.2 + 0.4 * len(table))
    names = [f"D({k})" for k in table.index]
    left = 0.0
    for outcome in sorted(table, key=list(OUTCOMES).index):
        axis.barh(
            names,
            table[outcome],
            left=left,
            color=OUTCOMES[outcome],
            edgecolor="white",
            lw=0.6,
            label=outcome,
        )
        left += table[outcome]
    for i, row in enumerate(table.to_dict("records")):
        kept = row[KEPT]
        written = sum(row.values())
        full = kept + row.get(DUPLICATE, 0) + row.get(NOT_NEEDED, 0)
        axis.text(
            kept / 2,
            i,
            f"{kept:,.0f} kept; {full / written:.0%} of {written:,.0f} had full marks",
            ha="center",
            va="center",
            color="white",
            fontsize=8,
        )
    axis.invert_yaxis()
    axis.set_xlabel("texts written by the teacher")
    figure.legend(loc="outside right center", fontsize=8)
    return finish(
        figure,
        "The teacher's texts, how many were kept, and what the others lacked "
        f"({caption}).{control}",
    )
