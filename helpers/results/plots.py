"""The figures, one function each; every one returns a matplotlib Figure. `save` writes PNG and SVG, the same bytes for the same scores."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers.results.scores import mix_of, student_of
from helpers.task.catalog import SETTINGS
from helpers.task.points import DUPLICATE, KEPT, NOT_NEEDED

# Okabe and Ito's colours, told apart with every kind of colour blindness; markers and dashes tell the lines apart in grey.
STYLE = {
    "base": ("#000000", "o", (0, (1, 1.5))),
    "k1": ("#E69F00", "s", (0, (4, 1.5))),
    "k12": ("#56B4E9", "D", (0, (6, 1.5, 1, 1.5))),
    "k123": ("#D55E00", "^", "solid"),
}
MORE = [  # for mixes of other kinds, in the order of their names
    ("#009E73", "v", (0, (3, 1))),
    ("#CC79A7", "P", (0, (5, 1, 1, 1, 1, 1))),
    ("#0072B2", "X", (0, (2, 2))),
    ("#999999", "p", (0, (8, 2))),
]
FAULTS = ["#0072B2", "#E69F00", "#CC79A7", "#999999", "#F0E442", "#D55E00", "#000000"]
WIDTH = 6.5  # inches: a page's text width; readable when shrunk to one column
sns.set_theme(
    context="paper",
    style="ticks",
    rc={
        "figure.dpi": 150,
        "font.size": 9,
        "axes.labelsize": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "savefig.bbox": "tight",
        "svg.hashsalt": "skill-composition",  # the same SVG every time
        "svg.fonttype": "none",
    },
)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png and `name`.svg; nothing for a figure in which nothing is drawn."""
    if not any(axis.has_data() for axis in figure.axes):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    figure.savefig(paths[0], dpi=200)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def students_of(models) -> list[str]:
    """The students in model names `<student>-<mix>`; one empty name where there is only one student."""
    return sorted({student_of(m) for m in models})


def styles(mixes) -> dict[str, tuple]:
    """Colour, marker and dash of each mix (or kind): the four of the paper in their order and always alike, then the others."""
    others = sorted(set(mixes) - set(STYLE))
    more = {mix: MORE[i % len(MORE)] for i, mix in enumerate(others)}
    return {mix: style for mix, style in (STYLE | more).items() if mix in set(mixes)}


def title_of(mix: str) -> str:
    """`D(1) + D(2)` for `k12`; a mix with another kind of name keeps it."""
    if mix == "base":
        return "before fine-tuning"
    return " + ".join(f"D({k})" for k in mix[1:]) if re.fullmatch(r"k[1-9]+", mix) else mix


def legend(figure: Figure, labels) -> None:
    """One legend over all panels, whichever of them drew a line."""
    handles = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [label for label in labels if label in handles]
    figure.legend(
        [handles[x] for x in order],
        order,
        loc="outside upper center",
        ncols=len(order),
        title="fine-tuned on",
        title_fontsize=9,
    )


def sampled(summary: pd.DataFrame) -> str:
    """What the intervals are over, in words."""
    seeds, queries = summary.seeds.max(), f"{summary.queries.max()} queries"
    return (
        f"{seeds} training seeds and {queries}"
        if seeds > 1
        else f"{queries} alone: one training seed, no word on another training"
    )


def write_caption(figure: Figure, words: str) -> None:
    """What the figure shows and where it is from, under it."""
    figure.text(0.01, -0.02, words, ha="left", va="top", fontsize=7.5, color="#444444", wrap=True)


def method(outcomes: pd.DataFrame, table: pd.DataFrame, *, caption: str) -> Figure:
    """The experiment as boxes and arrows, with this run's numbers. `outcomes` as `corpus_by_k` takes them; `table`: the tidy scores."""
    kept = outcomes[outcomes.outcome == KEPT].groupby("k").texts.sum()
    fine_tuned = table[table.model.map(mix_of) != "base"].groupby(["model", "seed"]).ngroups
    answers = table.groupby(["model", "seed", "setting", "k", "query", "generation"]).ngroups
    settings = [f"{s}: {SETTINGS[s]}" for s in sorted(table.setting.unique())]
    a_cell = f"{table.groupby(['setting', 'k'])['query'].nunique().max()} queries × {table.generation.nunique()} answers"
    boxes = [  # column, width in columns, row, heading, words
        (
            0,
            1,
            1,
            "Teacher",
            f"writes {outcomes.texts.sum():,} texts,\neach of {min(kept.index)} to {max(kept.index)} skills\non one topic",
        ),
        (1, 1, 1, "Judge", f"keeps {kept.sum():,} of those\nwith full marks"),
        (2, 1, 1, "Examples", "\n".join(f"D({k}): {n:,} texts" for k, n in kept.items())),
        (
            3,
            1,
            1,
            "Student",
            f"is fine-tuned on mixes\nof them: {fine_tuned} models,\nbeside the one it was",
        ),
        (
            3,
            1,
            0,
            "Student",
            f"is asked for k = {table.k.min()} to {table.k.max()};\na k and setting:\n{a_cell}",
        ),
        (2, 1, 0, "Judge", f"grades {answers:,} answers,\neach skill, topic,\nsense and length"),
        (
            0,
            2,
            0,
            "Does it compose?",
            "ratio of full marks against k, beyond the k of training\n" + "\n".join(settings),
        ),
    ]
    figure, axis = plt.subplots(figsize=(WIDTH, 2.5), layout="constrained")
    axis.set(xlim=(-0.02, 4.02), ylim=(-0.05, 2.0))
    axis.axis("off")
    for column, width, row, heading, words in boxes:
        corner, size = (column + 0.06, row + 0.08), (width - 0.12, 0.78)
        look = {
            "boxstyle": "round,pad=0.02,rounding_size=0.05",
            "fc": "#F4F4F4" if width == 1 else "#FBE6D9",
            "ec": "#555555",
            "lw": 0.8,
        }
        axis.add_patch(FancyBboxPatch(corner, *size, **look))
        axis.text(
            column + width / 2,
            row + 0.76,
            heading,
            ha="center",
            va="center",
            weight="bold",
            fontsize=8.5,
        )
        axis.text(
            column + width / 2,
            row + 0.38,
            words,
            ha="center",
            va="center",
            fontsize=7.2,
            linespacing=1.35,
        )
    ends = [((x + 0.97, 1.47), (x + 1.03, 1.47)) for x in range(3)]
    ends += [((3.5, 1.05), (3.5, 0.9)), ((3.03, 0.47), (2.97, 0.47)), ((2.03, 0.47), (1.97, 0.47))]
    for start, stop in ends:
        axis.annotate(
            "",
            stop,
            start,
            arrowprops={
                "arrowstyle": "-|>",
                "color": "#555555",
                "lw": 1,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )
    write_caption(figure, f"The method, with the numbers of this run ({caption}).")
    plt.close(figure)
    return figure


def full_marks_by_k(
    summary: pd.DataFrame, *, trained_ks: list[int], caption: str, over_generations: str = "max"
) -> Figure:
    """The headline: full marks against k, a line a model, a panel a setting (and a row a student), 95% bands."""
    settings, students = sorted(summary.setting.unique()), students_of(summary.model.unique())
    size = (WIDTH, 0.5 + 2.5 * len(students))
    figure, axes = plt.subplots(
        len(students), len(settings), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    ks = sorted(summary.k.unique())
    for row, student in zip(axes, students, strict=True):
        for axis, setting in zip(row, settings, strict=True):
            if unseen := [k for k in ks if k > max(trained_ks)]:
                axis.axvspan(min(unseen) - 0.5, max(ks) + 0.35, color="#F0F0F0", lw=0, zorder=0)
                axis.text(
                    max(ks) + 0.3,
                    1.15,
                    "k never seen in training",
                    ha="right",
                    va="top",
                    fontsize=7,
                    color="#555555",
                )
            for mix, (colour, marker, dash) in styles(summary.model.map(mix_of)).items():
                line = summary[
                    (summary.model == "-".join(filter(None, [student, mix])))
                    & (summary.setting == setting)
                ].sort_values("k")
                if len(line):
                    axis.fill_between(line.k, line.low, line.high, color=colour, alpha=0.18, lw=0)
                    axis.plot(
                        line.k,
                        line["mean"],
                        color=colour,
                        marker=marker,
                        ms=4.5,
                        ls=dash,
                        lw=1.6,
                        label=title_of(mix),
                    )
            parts = [
                f"{student}, setting {setting}" if student else f"Setting {setting}",
                SETTINGS[setting],
            ]
            axis.set_title(
                (":\n" if student or len(settings) > 2 else ": ").join(parts), loc="left"
            )
            axis.set_xticks(ks)
            axis.set_xlim(min(ks) - 0.35, max(ks) + 0.35)
            axis.set_ylim(-0.03, 1.17)
            axis.set_xlabel("skills asked for, k")
        row[0].set_ylabel("ratio of full marks")
    legend(figure, map(title_of, styles(summary.model.map(mix_of))))
    words = f"Ratio of full marks by number of skills, {'best' if over_generations == 'max' else 'mean'} of a query's generations ({caption})."
    write_caption(figure, f"{words} Bands: 95% intervals over {sampled(summary)}.")
    plt.close(figure)  # a notebook shows the figure that a cell ends with, once
    return figure


def data_efficiency(summary: pd.DataFrame, *, caption: str, ks: tuple[int, ...] = (3, 4)) -> Figure:
    """Full marks at `ks` (at every k if neither was asked) against training texts, a line a kind of mix, a panel a setting and k.

    Drawn is the student that has mixes of several sizes; the base is where no text is. Without such mixes the figure says so.
    """
    sizes = (
        summary[summary.texts > 0].groupby([summary.model.map(student_of), "kind"]).texts.nunique()
    )
    swept = sorted({student for student, kind in sizes[sizes > 1].index})
    if not swept:
        figure, axis = plt.subplots(figsize=(WIDTH, 0.4))
        axis.axis("off")
        axis.text(
            0,
            0.5,
            "This profile has no mixes that differ in size alone: no sweep to draw.",
            va="center",
            color="#444444",
        )
        plt.close(figure)
        return figure
    shown = sorted(set(ks) & set(summary.k)) or sorted(set(summary.k))
    rows = summary[(summary.model.map(student_of) == swept[0]) & summary.k.isin(shown)]
    settings, looks = sorted(rows.setting.unique()), styles(rows.kind)
    size = (WIDTH, 0.7 + 1.9 * len(shown))
    figure, axes = plt.subplots(
        len(shown),
        len(settings),
        figsize=size,
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    ticks = sorted(rows.texts[rows.texts > 0].unique())
    for (k, setting), axis in zip(
        ((k, s) for k in shown for s in settings), axes.flat, strict=True
    ):
        panel = rows[(rows.k == k) & (rows.setting == setting)]
        for kind, (colour, marker, dash) in looks.items():
            line = panel[panel.kind == kind].sort_values("texts")
            if line.empty:
                continue
            if kind == "base":
                axis.axhline(
                    line["mean"].iloc[0], color=colour, ls=dash, lw=1, label=title_of(kind)
                )
                continue
            axis.fill_between(line.texts, line.low, line.high, color=colour, alpha=0.18, lw=0)
            error = [line["mean"] - line.low, line.high - line["mean"]]
            axis.errorbar(
                line.texts,
                line["mean"],
                error,
                color=colour,
                marker=marker,
                ms=4.5,
                ls=dash,
                lw=1.6,
                label=title_of(kind),
            )
        axis.set(xscale="log", ylim=(-0.03, 1.06))
        axis.set_title(f"Setting {setting}, k = {k}", loc="left")
        axis.set_xticks(ticks, [f"{n:,}" for n in ticks], rotation=45, ha="right")
        axis.minorticks_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("ratio of full marks")
    for axis in axes[-1]:
        axis.set_xlabel("training texts in all")
    legend(figure, map(title_of, looks))
    which = f" of {swept[0]}" if swept[0] else ""
    words = f"Full marks{which} by number of training texts, at equal steps and batch ({caption})."
    write_caption(figure, f"{words} Bars and bands: 95% intervals over {sampled(rows)}.")
    plt.close(figure)
    return figure


def training_loss(logs: pd.DataFrame, *, caption: str) -> Figure:
    """Loss against step, a line a mix (mean over training seeds), thin lines the seeds. `logs`: model, seed, step, loss."""
    students = students_of(logs.model.unique())
    size = (WIDTH, 2.6)
    figure, axes = plt.subplots(
        1, len(students), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, student in zip(axes[0], students, strict=True):
        for mix, (colour, _, dash) in styles(logs.model.map(mix_of)).items():
            runs = logs[logs.model == "-".join(filter(None, [student, mix]))]
            for _, run in runs.groupby("seed"):
                axis.plot(
                    run.step,
                    run.loss.rolling(5, min_periods=1).mean(),
                    color=colour,
                    lw=0.5,
                    alpha=0.5,
                )
            if len(runs):
                mean = runs.groupby("step").loss.mean().rolling(5, min_periods=1).mean()
                axis.plot(mean.index, mean, color=colour, ls=dash, lw=1.6, label=title_of(mix))
        axis.set(xlabel="optimizer step", title=student)
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("loss (nats a token)")
    axes[0][0].legend(title="fine-tuned on")
    write_caption(
        figure,
        f"Training loss, mean of the last 5 steps ({caption}). Thin lines: training seeds; thick: their mean.",
    )
    plt.close(figure)
    return figure


def corpus_by_k(counts: pd.DataFrame, *, caption: str) -> Figure:
    """How many texts were written, and why those that were dropped were. `counts`: k, outcome, texts."""
    table = counts.pivot_table(index="k", columns="outcome", values="texts", fill_value=0)
    good = [c for c in (KEPT, DUPLICATE, NOT_NEEDED) if c in table]
    order = [*good, *sorted((c for c in table if c not in good), key=lambda c: -table[c].sum())]
    colours = dict(zip(good, ["#009E73", "#5DBFA0", "#B5E3D4"], strict=False)) | dict(
        zip(order[len(good) :], FAULTS, strict=False)
    )
    figure, axis = plt.subplots(figsize=(WIDTH, 2.4), layout="constrained")
    left = pd.Series(0.0, index=table.index)
    for outcome in order:
        axis.barh(
            [f"D({k})" for k in table.index],
            table[outcome],
            left=left,
            color=colours[outcome],
            edgecolor="white",
            lw=0.6,
            label=outcome,
        )
        left += table[outcome]
    for i, (_, row) in enumerate(table.iterrows()):
        words = f"{row[KEPT]:,.0f} kept; {row[good].sum() / row.sum():.0%} of {row.sum():,.0f} had full marks"
        axis.text(row[KEPT] / 2, i, words, ha="center", va="center", color="white", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("texts written by the teacher")
    figure.legend(loc="outside right center", fontsize=8)
    write_caption(
        figure, f"The teacher's texts, how many were kept, and what the others lacked ({caption})."
    )
    plt.close(figure)
    return figure
