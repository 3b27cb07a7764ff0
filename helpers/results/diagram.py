"""The method as a figure: boxes and arrows, with a run's own numbers."""

from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from helpers.results.look import finish, panels
from helpers.results.scores import mix_of
from helpers.task.catalog import SETTINGS
from helpers.task.points import KEPT


class Box(NamedTuple):
    """Columns count from the left, rows from the bottom."""

    column: int
    row: int
    heading: str
    words: str
    width: int = 1  # in columns


ARROWS = [  # from, to
    *(((column + 0.97, 1.47), (column + 1.03, 1.47)) for column in range(3)),
    ((3.5, 1.05), (3.5, 0.9)),
    ((3.03, 0.47), (2.97, 0.47)),
    ((2.03, 0.47), (1.97, 0.47)),
]


def boxes(outcomes: pd.DataFrame, table: pd.DataFrame) -> list[Box]:
    """What is done, with the numbers of corpus and scores, in the order of the arrows."""
    kept = outcomes[outcomes.outcome == KEPT].groupby("k").texts.sum()
    fine_tuned = table[table.model.map(mix_of) != "base"].groupby(["model", "seed"]).ngroups
    answers = table.groupby(["model", "seed", "setting", "k", "query", "generation"]).ngroups
    queries = table.groupby(["setting", "k"])["query"].nunique().max()
    settings = [f"{setting}: {SETTINGS[setting]}" for setting in sorted(table.setting.unique())]
    return [
        Box(
            0,
            1,
            "Teacher",
            f"writes {outcomes.texts.sum():,} texts,\n"
            f"each of {min(kept.index)} to {max(kept.index)} skills\non one topic",
        ),
        Box(1, 1, "Judge", f"keeps {kept.sum():,} of those\nwith full marks"),
        Box(2, 1, "Examples", "\n".join(f"D({k}): {n:,} texts" for k, n in kept.items())),
        Box(
            3,
            1,
            "Student",
            f"is fine-tuned on mixes\nof them: {fine_tuned} models,\nbeside the one it was",
        ),
        Box(
            3,
            0,
            "Student",
            f"is asked for k = {table.k.min()} to {table.k.max()};\na k and setting:\n"
            f"{queries} queries × {table.generation.nunique()} answers",
        ),
        Box(2, 0, "Judge", f"grades {answers:,} answers,\neach skill, topic,\nsense and length"),
        Box(
            0,
            0,
            "Does it compose?",
            "\n".join(["ratio of full marks against k, beyond the k of training", *settings]),
            width=2,
        ),
    ]


def draw(axis: Axes, box: Box) -> None:
    """A box, its heading at the top and its words in the middle."""
    axis.add_patch(
        FancyBboxPatch(
            (box.column + 0.06, box.row + 0.08),
            box.width - 0.12,
            0.78,
            boxstyle="round,pad=0.02,rounding_size=0.05",
            fc="#F4F4F4" if box.width == 1 else "#FBE6D9",
            ec="#555555",
            lw=0.8,
        )
    )
    middle = box.column + box.width / 2
    look = {"ha": "center", "va": "center"}
    axis.text(middle, box.row + 0.76, box.heading, weight="bold", fontsize=8.5, **look)
    axis.text(middle, box.row + 0.38, box.words, fontsize=7.2, linespacing=1.35, **look)


def method(outcomes: pd.DataFrame, table: pd.DataFrame, *, caption: str) -> Figure:
    """The experiment as boxes and arrows.

    Args:
        outcomes: what became of the teacher's texts, as `scores.outcomes` counts it.
        table: the tidy scores.
        caption: where the numbers are from.
    """
    figure, [[axis]] = panels(1, 1, 2.5)
    axis.set(xlim=(-0.02, 4.02), ylim=(-0.05, 2.0))
    axis.axis("off")
    for box in boxes(outcomes, table):
        draw(axis, box)
    look = {"arrowstyle": "-|>", "color": "#555555", "lw": 1, "shrinkA": 0, "shrinkB": 0}
    for start, stop in ARROWS:
        axis.annotate("", stop, start, arrowprops=look)
    return finish(figure, f"The method, with the numbers of this run ({caption}).")
