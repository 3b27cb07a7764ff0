"""The figures, one function each; every one returns a matplotlib Figure.

`save` writes PNG and SVG, the same bytes for the same scores. All are closed when they are
returned, so that a notebook shows the figure that a cell ends with, once.
"""

import base64
import io
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.scores import PADDED, mix_of, student_of
from helpers.task.catalog import SETTINGS
from helpers.task.points import DUPLICATE, KEPT, NOT_NEEDED

# Okabe and Ito's colours, told apart with every kind of colour blindness; markers and dashes tell
# the lines apart in grey.
STYLE = {
    "base": ("#000000", "o", (0, (1, 1.5))),
    "k1": ("#E69F00", "s", (0, (4, 1.5))),
    PADDED: ("#009E73", "v", (0, (3, 1))),
    "k12": ("#56B4E9", "D", (0, (6, 1.5, 1, 1.5))),
    "k123": ("#D55E00", "^", "solid"),
}
TITLES = {"base": "before fine-tuning", PADDED: "D(1) padded"}
MORE = [  # for mixes of other kinds, in the order of their names
    ("#CC79A7", "P", (0, (5, 1, 1, 1, 1, 1))),
    ("#0072B2", "X", (0, (2, 2))),
    ("#999999", "p", (0, (8, 2))),
]
# What becomes of a text, in the order of drawing: one colour an outcome, in every figure.
FULL_MARKS = {KEPT: "#009E73", DUPLICATE: "#5DBFA0", NOT_NEEDED: "#B5E3D4"}
FAULTS = {
    "skill missing": "#0072B2",
    "off topic": "#E69F00",
    "makes no sense": "#CC79A7",
    "too many sentences": "#F0E442",
    "several faults": "#666666",
    "grade unreadable": "#BBBBBB",
    "no answer": "#000000",
}
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


class Captioned(Figure):
    """A figure whose caption is its alternative text too, in a notebook and in the report."""

    caption = ""

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        """What Jupyter shows: the picture, and the words for those who do not see it."""
        png = io.BytesIO()
        self.savefig(png)
        picture = base64.b64encode(png.getvalue()).decode()
        return {"image/png": picture}, {"image/png": {"alt": self.caption}}


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.svg; nothing for a figure in which nothing is drawn."""
    if any(axis.has_data() for axis in figure.axes):
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=200)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def panels(rows: int, columns: int, height: float, **shared) -> tuple[Figure, list]:
    """A figure of the page's width and this height in inches, and its axes, a list a row."""
    return plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, height),
        squeeze=False,
        layout="constrained",
        FigureClass=Captioned,
        **shared,
    )


def students_of(models: pd.Series) -> list[str]:
    """The students in model names; one empty name where there is only one student."""
    return sorted(set(models.map(student_of)))


def styles(mixes: Iterable[str]) -> dict[str, tuple]:
    """Colour, marker and dash of each mix (or kind): those of `STYLE` in its order, then others."""
    present = set(mixes)
    looks = {mix: style for mix, style in STYLE.items() if mix in present}
    for i, mix in enumerate(sorted(present - set(STYLE))):
        looks[mix] = MORE[i % len(MORE)]
    return looks


def title_of(mix: str) -> str:
    """`D(1) + D(2)` for `k12`; a mix with another kind of name keeps it."""
    if mix in TITLES:
        return TITLES[mix]
    if not re.fullmatch(r"k[1-9]+", mix):
        return mix
    return " + ".join(f"D({k})" for k in mix[1:])


def name_of(student: str, mix: str) -> str:
    """The model's name."""
    return f"{student}-{mix}" if student else mix


def legend(figure: Figure, mixes: Iterable[str]) -> None:
    """One legend over all panels, whichever of them drew a line."""
    handles = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    labels = [title_of(mix) for mix in mixes if title_of(mix) in handles]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper center",
        ncols=len(labels),
        title="fine-tuned on",
        title_fontsize=9,
    )


def sampled(summary: pd.DataFrame) -> str:
    """What the intervals are over, in words."""
    seeds = summary.seeds.max()
    queries = f"{summary.queries.max()} queries"
    if seeds > 1:
        return f"{seeds} training seeds and {queries}"
    return f"{queries} alone: one training seed, no word on another training"


def scored(summary: pd.DataFrame, over_generations: str) -> str:
    """How a query's score is made of its answers, in words."""
    answers = summary.generations.max()
    if answers == 1:
        return "one answer a query"
    if over_generations == "mean":
        return f"mean of {answers} answers to a query"
    return f"best of {answers} answers to a query; thin lines: mean of single answers"


def write_caption(figure: Captioned, words: str) -> None:
    """What the figure shows and where it is from, under it."""
    figure.caption = words
    figure.text(0.01, -0.02, words, ha="left", va="top", fontsize=7.5, color="#444444", wrap=True)


def draw_line(axis: Axes, line: pd.DataFrame, x: str, mix: str, style: tuple) -> None:
    """Means against `x` with their intervals as a band, and thin the mean of single answers."""
    colour, marker, dash = style
    axis.plot(line[x], line.single, color=colour, ls=dash, lw=0.7)
    axis.fill_between(line[x], line.low, line.high, color=colour, alpha=0.18, lw=0)
    axis.plot(
        line[x],
        line["mean"],
        color=colour,
        marker=marker,
        ms=4.5,
        ls=dash,
        lw=1.6,
        label=title_of(mix),
    )


def shade_unseen(axis: Axes, ks: list[int], trained_ks: list[int]) -> None:
    """The part of the axis with k that no training text had, named."""
    unseen = [k for k in ks if k > max(trained_ks)]
    if unseen:
        end = max(ks) + 0.35
        axis.axvspan(min(unseen) - 0.5, end, color="#F0F0F0", lw=0, zorder=0)
        words = "k never seen in training"
        axis.text(end - 0.05, 1.15, words, ha="right", va="top", fontsize=7, color="#555555")


def full_marks_by_k(
    summary: pd.DataFrame, *, trained_ks: list[int], caption: str, over_generations: str = "max"
) -> Figure:
    """The headline: full marks against k, a line a model, 95% bands.

    A panel a setting, a row a student. `caption` says where the numbers are from.
    """
    settings, students = sorted(summary.setting.unique()), students_of(summary.model)
    looks = styles(summary.model.map(mix_of))
    ks = sorted(summary.k.unique())
    figure, axes = panels(len(students), len(settings), 0.5 + 2.5 * len(students), sharey=True)
    for row, student in zip(axes, students, strict=True):
        for axis, setting in zip(row, settings, strict=True):
            shade_unseen(axis, ks, trained_ks)
            for mix, style in looks.items():
                of_model = summary.model == name_of(student, mix)
                line = summary[of_model & (summary.setting == setting)].sort_values("k")
                if len(line):
                    draw_line(axis, line, "k", mix, style)
            words = [f"{student}, setting {setting}" if student else f"Setting {setting}"]
            between = ":\n" if student or len(settings) > 2 else ": "
            axis.set_title(between.join([*words, SETTINGS[setting]]), loc="left")
            axis.set_xticks(ks)
            axis.set_xlim(min(ks) - 0.35, max(ks) + 0.35)
            axis.set_ylim(-0.03, 1.17)
            axis.set_xlabel("skills asked for, k")
        row[0].set_ylabel("ratio of full marks")
    legend(figure, looks)
    write_caption(
        figure,
        f"Ratio of full marks by number of skills, {scored(summary, over_generations)} "
        f"({caption}). Bands: 95% intervals over {sampled(summary)}.",
    )
    plt.close(figure)
    return figure


def nothing_to_draw(words: str) -> Figure:
    """A figure that says why it is empty."""
    figure, [[axis]] = panels(1, 1, 0.4)
    axis.axis("off")
    axis.text(0, 0.5, words, va="center", color="#444444")
    figure.caption = words
    plt.close(figure)
    return figure


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
        return nothing_to_draw(
            "This profile has no mixes that differ in size alone: no sweep to draw."
        )
    shown = sorted(set(ks) & set(summary.k)) or sorted(set(summary.k))
    rows = summary[(summary.model.map(student_of) == swept[0]) & summary.k.isin(shown)]
    settings, looks = sorted(rows.setting.unique()), styles(rows.kind)
    sizes = sorted(rows.texts[rows.texts > 0].unique())
    height = 0.7 + 1.9 * len(shown)
    figure, axes = panels(len(shown), len(settings), height, sharex=True, sharey=True)
    for k, of_k in zip(shown, axes, strict=True):
        for setting, axis in zip(settings, of_k, strict=True):
            panel = rows[(rows.k == k) & (rows.setting == setting)]
            for kind, style in looks.items():
                line = panel[panel.kind == kind].sort_values("texts")
                if kind == "base" and len(line):
                    level = line["mean"].iloc[0]
                    axis.axhline(level, color=style[0], ls=style[2], lw=1, label=title_of(kind))
                elif len(line):
                    draw_line(axis, line, "texts", kind, style)
                    axis.vlines(line.texts, line.low, line.high, color=style[0], lw=1.2)
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
    write_caption(
        figure,
        f"Full marks{which} by number of training texts, at equal steps and batch, "
        f"{scored(rows, over_generations)} ({caption}). "
        f"Bars and bands: 95% intervals over {sampled(rows)}.",
    )
    plt.close(figure)
    return figure


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
                axis.plot(mean.index, mean, color=colour, ls=dash, lw=1.6, label=title_of(mix))
        axis.set(xlabel="optimizer step", title=student)
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("loss (nats a token)")
    axes[0][0].legend(title="fine-tuned on")
    write_caption(
        figure,
        f"Training loss, mean of the last 5 steps ({caption}). "
        "Thin lines: training seeds; thick: their mean.",
    )
    plt.close(figure)
    return figure


def corpus_by_k(counts: pd.DataFrame, *, caption: str) -> Figure:
    """How many texts were written, and why those that were dropped were.

    `counts` has the columns k, outcome, texts.
    """
    table = counts.pivot_table(index="k", columns="outcome", values="texts", fill_value=0)
    good = [outcome for outcome in FULL_MARKS if outcome in table]
    figure, [[axis]] = panels(1, 1, 2.4)
    names = [f"D({k})" for k in table.index]
    left = pd.Series(0.0, index=table.index)
    for outcome, colour in (FULL_MARKS | FAULTS).items():
        if outcome not in table:
            continue
        axis.barh(
            names,
            table[outcome],
            left=left,
            color=colour,
            edgecolor="white",
            lw=0.6,
            label=outcome,
        )
        left += table[outcome]
    for i, (_, row) in enumerate(table.iterrows()):
        share = row[good].sum() / row.sum()
        words = f"{row[KEPT]:,.0f} kept; {share:.0%} of {row.sum():,.0f} had full marks"
        axis.text(row[KEPT] / 2, i, words, ha="center", va="center", color="white", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("texts written by the teacher")
    figure.legend(loc="outside right center", fontsize=8)
    write_caption(
        figure, f"The teacher's texts, how many were kept, and what the others lacked ({caption})."
    )
    plt.close(figure)
    return figure
