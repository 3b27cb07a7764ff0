"""The figures of scores, corpus and training; `caption` says where the numbers are from."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.look import (
    OUTCOMES,
    band,
    finish,
    legend,
    panels,
    sampled,
    scored,
    students_of,
    styles,
    title_of,
)
from helpers.results.scores import mix_of, name_of, student_of
from helpers.task.catalog import SETTINGS
from helpers.task.points import DUPLICATE, KEPT, NOT_NEEDED


def draw_line(axis: Axes, line: pd.DataFrame, x: str, mix: str, style: tuple) -> None:
    """Means against `x` with their intervals as a band, and thin the mean of single answers."""
    colour, marker, dash = style
    look = {"color": colour, "ls": dash}
    axis.plot(line[x], line.single, lw=0.7, **look)
    band(axis, line[x], line.low, line.high, colour)
    axis.plot(
        line[x],
        line["mean"],
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
                is_setting = summary.setting == setting
                line = summary[is_model & is_setting].sort_values("k")
                if len(line):
                    draw_line(axis, line, "k", mix, style)
            place = f"{student}, setting {setting}" if student else f"Setting {setting}"
            is_narrow = student or len(settings) > 2
            between = ":\n" if is_narrow else ": "
            axis.set_title(f"{place}{between}{SETTINGS[setting]}", loc="left")
            axis.set_xticks(ks)
            axis.set_xlim(min(ks) - 0.35, max(ks) + 0.35)
            axis.set_ylim(-0.03, 1.17)
            axis.set_xlabel("skills asked for, k")
        row[0].set_ylabel("ratio of full marks")
    legend(figure, looks, title="fine-tuned on" if trained_ks else "model")
    return finish(
        figure,
        f"Ratio of full marks by number of skills, {scored(summary, over_generations)} "
        f"({caption}). Bands: 95% intervals over {sampled(summary)}.",
    )


def data_efficiency(
    summary: pd.DataFrame,
    *,
    caption: str,
    ks: tuple[int, ...] = (3, 4),
    over_generations: str = "max",
) -> Figure:
    """Full marks against training texts, a line a kind of mix, a panel a setting and k.

    Drawn is the student that has mixes of several sizes; the base is where no text is. Without such
    mixes the figure says so. `ks`: which k; every k if none of them was asked for.
    """
    trained = summary[summary.texts > 0]
    sizes = trained.groupby([trained.model.map(student_of), "kind"]).texts.nunique()
    swept = sorted({student for student, kind in sizes[sizes > 1].index})
    if not swept:
        figure, [[axis]] = panels(1, 1, 0.1)
        axis.axis("off")
        return finish(
            figure, "This profile has no mixes that differ in size alone: no sweep to draw."
        )
    shown = sorted(set(ks) & set(summary.k)) or sorted(set(summary.k))
    is_swept = summary.model.map(student_of) == swept[0]
    rows = summary[is_swept & summary.k.isin(shown)]
    settings = sorted(rows.setting.unique())
    looks = styles(rows.kind)
    sizes = sorted(rows.texts[rows.texts > 0].unique())
    height = 0.7 + 1.9 * len(shown)
    figure, axes = panels(len(shown), len(settings), height, sharex=True, sharey=True)
    for k, of_k in zip(shown, axes, strict=True):
        for setting, axis in zip(settings, of_k, strict=True):
            panel = rows[(rows.k == k) & (rows.setting == setting)]
            for kind, style in looks.items():
                line = panel[panel.kind == kind].sort_values("texts")
                colour, _, dash = style
                if line.empty:
                    continue
                if kind == "base":
                    level = line["mean"].item()
                    axis.axhline(level, color=colour, ls=dash, lw=1, label=title_of(kind))
                else:
                    draw_line(axis, line, "texts", kind, style)
                    axis.vlines(line.texts, line.low, line.high, color=colour, lw=1.2)
            axis.set(xscale="log", ylim=(-0.03, 1.06))
            axis.set_title(f"Setting {setting}, k = {k}", loc="left")
            axis.set_xticks(sizes, [f"{n:,}" for n in sizes], rotation=45, ha="right")
            axis.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("ratio of full marks")
    for axis in axes[-1]:
        axis.set_xlabel("training texts in all")
    legend(figure, looks)
    which = f" of {swept[0]}" if swept[0] else ""
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

    def smooth(loss: pd.Series) -> pd.Series:
        return loss.rolling(5, min_periods=1).mean()

    students = students_of(logs.model)
    figure, axes = panels(1, len(students), 2.6, sharey=True)
    for axis, student in zip(axes[0], students, strict=True):
        for mix, (colour, _, dash) in styles(logs.model.map(mix_of)).items():
            runs = logs[logs.model == name_of(student, mix)]
            for _, run in runs.groupby("seed"):
                axis.plot(run.step, smooth(run.loss), color=colour, lw=0.5, alpha=0.5)
            if len(runs):
                mean = smooth(runs.groupby("step").loss.mean())
                axis.plot(
                    mean.index,
                    mean,
                    color=colour,
                    ls=dash,
                    lw=1.6,
                    label=title_of(mix),
                )
        axis.set(xlabel="optimizer step", title=student)
        axis.set_ylim(bottom=0)
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
    unknown = set(counts.outcome) - set(OUTCOMES)
    assert not unknown, f"outcomes without a colour in look.OUTCOMES: {unknown}"
    control = ""
    if any("+" in k for k in counts.k):
        control = " D(1+2): one skill and two things to mention, for the control."
    table = counts.pivot_table(index="k", columns="outcome", values="texts", fill_value=0)
    good = [outcome for outcome in (KEPT, DUPLICATE, NOT_NEEDED) if outcome in table]
    figure, [[axis]] = panels(1, 1, 1.2 + 0.4 * len(table))
    names = [f"D({k})" for k in table.index]
    left = pd.Series(0.0, index=table.index)
    for outcome, colour in OUTCOMES.items():
        if outcome in table:
            texts = table[outcome]
            axis.barh(
                names, texts, left=left, color=colour, edgecolor="white", lw=0.6, label=outcome
            )
            left += texts
    for i, (_, row) in enumerate(table.iterrows()):
        share = row[good].sum() / row.sum()
        words = f"{row[KEPT]:,.0f} kept; {share:.0%} of {row.sum():,.0f} had full marks"
        axis.text(
            row[KEPT] / 2,
            i,
            words,
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
