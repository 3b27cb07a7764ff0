"""What all figures share: colours, panels, legends, captions, and how they are written."""

import base64
import io
import itertools
import math
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.lost_points import SKILL_AND_MORE
from helpers.results.scores import PADDED
from helpers.task.points import DUPLICATE, KEPT, NOT_NEEDED

# Okabe and Ito's colours, told apart with every kind of colour blindness; markers and dashes tell
# the lines apart in grey.
STYLE = {
    "base": ("#000000", "o", (0, (1, 1.5))),
    "k1": ("#E69F00", "s", (0, (4, 1.5))),
    "k12": ("#56B4E9", "D", (0, (6, 1.5, 1, 1.5))),
    "k123": ("#D55E00", "^", "solid"),
    PADDED: ("#009E73", "v", (0, (3, 1))),
    # For models, and mixes of other kinds; taken from the end.
    "others, 3": ("#999999", "p", (0, (8, 2))),
    "others, 2": ("#0072B2", "X", (0, (2, 2))),
    "others, 1": ("#CC79A7", "P", (0, (5, 1, 1, 1, 1, 1))),
}
TITLES = {"base": "before fine-tuning", PADDED: "D(1) padded (control)"}
# Of k = 1, 2, ...: the same colours, in an order in which neighbours differ in grey, too.
OF_K = [
    ("#000000", "o"),
    ("#0072B2", "s"),
    ("#E69F00", "D"),
    ("#009E73", "^"),
    ("#CC79A7", "v"),
    ("#D55E00", "P"),
    ("#56B4E9", "X"),
]
# What becomes of a text, in the order of drawing: one colour an outcome, in every figure.
OUTCOMES = {
    KEPT: "#009E73",
    DUPLICATE: "#5DBFA0",
    NOT_NEEDED: "#B5E3D4",
    "full marks": "#009E73",
    "skill missing": "#0072B2",
    SKILL_AND_MORE: "#7FB7D8",
    "off topic": "#E69F00",
    "makes no sense": "#CC79A7",
    "too many sentences": "#F0E442",
    "several faults": "#666666",
    "grade unreadable": "#BBBBBB",
    "no answer": "#000000",
}
WIDTH = 6.5  # inches: a page's text width; readable when shrunk to one column
plt.style.use(Path(__file__).with_suffix(".mplstyle"))


class Captioned(Figure):
    """A figure whose caption is its alternative text too, in a notebook and in the report."""

    caption = ""

    def _repr_mimebundle_(self, **_) -> tuple[dict, dict]:
        """What Jupyter shows: the picture, and the caption as its alternative text."""
        png = io.BytesIO()
        self.savefig(png)
        picture = base64.b64encode(png.getvalue()).decode()
        return {"image/png": picture}, {"image/png": {"alt": self.caption}}


def save(figure: Figure | None, folder: Path, name: str) -> None:
    """Write `name`.png and `name`.svg, where there is a figure."""
    if figure:
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


def facets(
    table: pd.DataFrame, row: str, column: str, height: float, **shared
) -> tuple[Figure, list]:
    """A figure with a panel for each value of two columns of a table, in the table's order.

    Returns:
        The figure; and of each panel its axis, the two values, and their rows of the table.
    """
    rows = table[row].unique()
    columns = table[column].unique()
    figure, axes = panels(len(rows), len(columns), height, **shared)
    drawn = []
    places = itertools.product(rows, columns)
    for axis, (a, b) in zip(axes.flat, places, strict=True):
        is_its = (table[row] == a) & (table[column] == b)
        drawn.append((axis, a, b, table[is_its]))
    return figure, drawn


def styles(mixes: Iterable[str]) -> dict[str, tuple]:
    """Colour, marker and dash of each mix, kind or model, in the order given.

    Those named in `STYLE` have their own; others get one that is free.
    """
    mixes = list(dict.fromkeys(mixes))
    unused = [style for mix, style in STYLE.items() if mix not in mixes]
    free = itertools.cycle(reversed(unused))
    return {mix: STYLE.get(mix) or next(free) for mix in mixes}


def title_of(mix: str) -> str:
    """`D(1) + D(2)` for `k12`; a mix with another kind of name keeps it."""
    if re.fullmatch(r"k[1-9]+", mix):
        return " + ".join(f"D({k})" for k in mix[1:])
    return TITLES.get(mix, mix)


def in_lines(words: str, letters: int) -> str:
    """The words in lines of at most so many letters; a `+` stays with what it adds."""
    joined = words.replace("+ ", "+\xa0")
    return textwrap.fill(joined, letters, break_on_hyphens=False).replace("\xa0", " ")


def look_of(k: int) -> dict[str, str]:
    """Colour, marker and label of a line of this k, in every figure."""
    colour, marker = OF_K[(k - 1) % len(OF_K)]
    return {"color": colour, "marker": marker, "label": f"k = {k}"}


def line(axis: Axes, rows: pd.DataFrame, x: str, **look) -> None:
    """Means with their intervals as a band; a single one is a marker with a bar, and no line.

    `look`: color, marker and the like, as of `plot`.
    """
    interval = (rows[x], rows.low, rows.high)
    if len(rows) == 1:
        look["ls"] = "none"
        axis.vlines(*interval, color=look["color"], lw=1)
    else:
        axis.fill_between(*interval, color=look["color"], alpha=0.18, lw=0)
    axis.plot(rows[x], rows["mean"], **look)


def stack(bars, shares: pd.DataFrame, base: str, **look) -> None:
    """An outcome's bars beside or upon those of the one before.

    Args:
        bars: `axis.bar` or `axis.barh`.
        shares: a row a bar, a column an outcome.
        base: what `bars` calls the place where a bar begins.
    """
    start = 0.0
    for outcome in sorted(shares, key=list(OUTCOMES).index):
        look |= {"color": OUTCOMES[outcome], "label": outcome, base: start}
        bars(shares.index, shares[outcome], **look)
        start += shares[outcome]


def handles_of(figure: Figure) -> dict:
    """What a legend of all panels shows, by label, whichever of them drew it."""
    drawn = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    return drawn


def legend(figure: Figure, **look) -> None:
    """One legend over all panels."""
    drawn = handles_of(figure)
    letters = sum(len(label) + 8 for label in drawn)  # a handle is as wide as eight letters
    inches = 0.0072 * letters * look.get("fontsize", 8.8)
    columns = len(drawn) if inches < WIDTH else min(4, math.ceil(len(drawn) / 2))
    if drawn:
        look |= {"loc": "outside upper center", "ncols": columns}
        figure.legend(drawn.values(), drawn, **look)


def sampled(summary: pd.DataFrame) -> str:
    """In words: how many seeds and queries the intervals are over."""
    seeds = summary.seeds.max()
    fewest, most = summary.queries.min(), summary.queries.max()
    queries = f"{most} queries" if fewest == most else f"{fewest} to {most} queries"
    if seeds > 1:
        of_one = " (of a model of one seed: queries alone)" if summary.seeds.min() == 1 else ""
        return f"{seeds} training seeds and {queries}{of_one}"
    return f"{queries} alone, not over training seeds"


def scored(summary: pd.DataFrame, over_generations: str) -> str:
    """How a query's score is made of its answers, in words."""
    best = {"max": "best", "mean": "mean"}[over_generations]
    answers = summary.generations.max()
    return f"{best} of {answers} answers to a query"


def finish(figure: Captioned, words: str, *, label_outer: bool = True) -> Figure:
    """The figure with its caption, closed, so that a notebook shows it once, as a cell's result.

    Args:
        label_outer: keep the axis labels of the outer panels only, where all have the same axes.
    """
    for axis in figure.axes if label_outer else ():
        axis.label_outer()
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
