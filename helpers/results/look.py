"""What all figures share: colours, panels, legends, captions, and how they are written."""

import base64
import io
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.scores import PADDED, student_of
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
MORE = [  # for models, and mixes of other kinds
    ("#CC79A7", "P", (0, (5, 1, 1, 1, 1, 1))),
    ("#0072B2", "X", (0, (2, 2))),
    ("#999999", "p", (0, (8, 2))),
]
# What becomes of a text, in the order of drawing: one colour an outcome, in every figure.
OUTCOMES = {
    KEPT: "#009E73",
    DUPLICATE: "#5DBFA0",
    NOT_NEEDED: "#B5E3D4",
    "full marks": "#009E73",
    "skill missing": "#0072B2",
    "skill missing, and more": "#7FB7D8",
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
    """Colour, marker and dash of each mix, kind or model.

    Those of `STYLE` come first, in its order; then others as given.
    """
    present = list(dict.fromkeys(mixes))
    looks = {mix: style for mix, style in STYLE.items() if mix in present}
    others = [mix for mix in present if mix not in STYLE]
    free = [*MORE, *(style for mix, style in STYLE.items() if mix not in present)]
    for mix, style in zip(others, itertools.cycle(free), strict=False):
        looks[mix] = style
    return looks


def title_of(mix: str) -> str:
    """`D(1) + D(2)` for `k12`; a mix with another kind of name keeps it."""
    if mix in TITLES:
        return TITLES[mix]
    if not re.fullmatch(r"k[1-9]+", mix):
        return mix
    return " + ".join(f"D({k})" for k in mix[1:])


def line(
    axis: Axes, x: pd.Series, mean: pd.Series, low: pd.Series, high: pd.Series, **look
) -> None:
    """Means with their intervals as a band. `look`: color, marker and the like, as of `plot`."""
    axis.fill_between(x, low, high, color=look["color"], alpha=0.18, lw=0)
    axis.plot(x, mean, **look)


def legend(figure: Figure, mixes: Iterable[str], title: str = "fine-tuned on") -> None:
    """One legend over all panels, whichever of them drew a line."""
    drawn = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    labels = [title for title in map(title_of, mixes) if title in drawn]
    figure.legend(
        [drawn[label] for label in labels],
        labels,
        loc="outside upper center",
        ncols=len(labels),
        title=title,
        title_fontsize=9,
    )


def sampled(summary: pd.DataFrame) -> str:
    """What the intervals are over, in words."""
    seeds = summary.seeds.max()
    queries = f"{summary.queries.max()} queries"
    if seeds > 1:
        return f"{seeds} training seeds and {queries}"
    return f"{queries} alone, not over training seeds"


def scored(summary: pd.DataFrame, over_generations: str) -> str:
    """How a query's score is made of its answers, in words."""
    answers = summary.generations.max()
    if answers == 1:
        return "one answer a query"
    if over_generations == "mean":
        return f"mean of {answers} answers to a query"
    return f"best of {answers} answers to a query; thin lines: mean of single answers"


def finish(figure: Captioned, words: str) -> Figure:
    """The figure with its caption, closed: a notebook shows what a cell ends with, once."""
    figure.caption = words
    figure.text(
        0.01,
        -0.02,
        words,
        ha="left",
        va="top",
        fontsize=7.5,
        color="#444444",
        wrap=True,
    )
    plt.close(figure)
    return figure
