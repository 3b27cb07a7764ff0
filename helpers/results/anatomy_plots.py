"""The figures of `anatomy`: small multiples, a row a setting (and student), a column a model."""

import itertools

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.look import (
    OUTCOMES,
    STYLE,
    Captioned,
    finish,
    line,
    panels,
    sampled,
    styles,
    title_of,
)
from helpers.results.scores import mix_of, name_of, student_of

MARKERS = "osD^vPX"  # of k = 1, 2, ...: in grey, what tells the lines apart
SURE = 0.5  # a share whose interval is wider has a colour and no number


def places(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The students and settings of a table, a row of panels each."""
    return sorted(set(zip(table.model.map(student_of), table.setting, strict=True)))


def multiples(
    table: pd.DataFrame, x: str, heights: list[float] = ()
) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """A figure with a panel a model and setting.

    Args:
        x: the column that is drawn from left to right.
        heights: of each row of panels, in inches.

    Returns:
        The figure, and of each panel its axis, its setting and its rows of the table.
    """
    mixes = list(styles(table.model.map(mix_of)))
    rows = places(table)
    heights = heights or [1.3] * len(rows)
    figure, axes = panels(
        len(rows),
        len(mixes),
        0.9 + sum(heights),
        height_ratios=heights,
        sharex=True,
        sharey="row",
    )
    drawn = []
    for (student, setting), row in zip(rows, axes, strict=True):
        row[0].set_ylabel(f"{student}, setting {setting}" if student else f"setting {setting}")
        for mix, axis in zip(mixes, row, strict=True):
            is_its = (table.model == name_of(student, mix)) & (table.setting == setting)
            axis.set_xticks(sorted(table[x].unique()))
            drawn.append((axis, setting, table[is_its]))
    for mix, axis in zip(mixes, axes[0], strict=True):
        axis.set_title(title_of(mix), fontsize=7.5)
    return figure, drawn


def labelled(figure: Captioned, x: str, words: str) -> Figure:
    """With a label below, the legend of the first panel above, and a caption."""
    figure.supxlabel(x, fontsize=9)
    figure.align_ylabels()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        columns = len(labels) if len("".join(labels)) < 80 else 4  # letters on a line
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=7.5)
    return finish(figure, words)


def missing_by_k(missing: pd.DataFrame, *, caption: str) -> Figure:
    """What answers lack, a bar a k. `missing`: the table of that name in `anatomy`."""
    figure, drawn = multiples(missing, "k")
    for axis, _, rows in drawn:
        shares = rows.pivot(index="k", columns="outcome", values="mean")
        left = 0.0
        for outcome in sorted(shares, key=list(OUTCOMES).index):
            axis.bar(
                shares.index,
                shares[outcome],
                bottom=left,
                color=OUTCOMES[outcome],
                lw=0,
                label=outcome,
            )
            left += shares[outcome]
        full = rows[rows.outcome == "full marks"]
        axis.vlines(full.k, full.low, full.high, color="black", lw=1)
        axis.set_ylim(0, 1)
    return labelled(
        figure,
        "skills asked for, k",
        f"Single answers with full marks, and what the others lack ({caption}). "
        f"Lines: 95% intervals of full marks over {sampled(missing)}.",
    )


def points_by_position(positions: pd.DataFrame, *, caption: str) -> Figure:
    """Shares of points by a skill's place in the request, a line a k (`skill_points`)."""
    figure, drawn = multiples(positions, "position")
    ks = sorted(positions.k.unique())
    colours = colormaps["cividis"](np.linspace(0, 0.9, len(ks)))
    looks = list(zip(ks, colours, itertools.cycle(MARKERS), strict=False))
    for axis, _, rows in drawn:
        for k, colour, marker in looks:
            of_k = rows[rows.k == k].sort_values("position")
            line(
                axis,
                of_k.position,
                of_k["mean"],
                of_k.low,
                of_k.high,
                color=colour,
                marker=marker,
                ms=3.5,
                label=f"k = {k}",
            )
        axis.set_ylim(-0.03, 1.06)
    return labelled(
        figure,
        "place of the skill in the request",
        f"Share of points by the skill's place in the request, single answers ({caption}). "
        f"Bands: 95% intervals over {sampled(positions)}.",
    )


def points_by_skill(skills: pd.DataFrame, *, caption: str) -> Figure:
    """Each skill's share of points by k, as a heat map (`skill_points`).

    Setting III, whose skills are those of I and II, is left out beside them.
    """
    if set(skills.setting) > {"III"}:
        skills = skills[skills.setting != "III"]
    names = skills.groupby("setting").criterion.agg(lambda names: sorted(set(names), reverse=True))
    heights = [0.3 + 0.115 * len(names[setting]) for _, setting in places(skills)]
    figure, drawn = multiples(skills, "k", heights)
    ks = sorted(skills.k.unique())
    for axis, setting, rows in drawn:
        shares = rows.pivot(index="criterion", columns="k", values="mean")
        shares = shares.reindex(index=names[setting], columns=ks)
        lines = range(len(shares))
        colours = axis.pcolormesh(ks, lines, shares, vmin=0, vmax=1, cmap="cividis")
        for row in rows[rows.high - rows.low < SURE].sort_values(["k", "criterion"]).itertuples():
            axis.text(
                row.k,
                names[setting].index(row.criterion),
                f"{row.mean * 100:.0f}",
                ha="center",
                va="center",
                fontsize=5,
                color="white" if row.mean < 0.6 else "black",
            )
        axis.set_yticks(lines, names[setting], fontsize=5.5)
        axis.tick_params(length=0)
    figure.colorbar(colours, ax=figure.axes, shrink=0.4, pad=0.01, label="share of points")
    return labelled(
        figure,
        "skills asked for, k",
        f"Each skill's share of points, single answers ({caption}). A number, in percent, where "
        f"the 95% interval is narrower than {SURE:.0%}; a cell has {skills.queries.min()} to "
        f"{skills.queries.max()} queries; white was not asked for.",
    )


def combining_by_k(independent: pd.DataFrame, *, caption: str) -> Figure:
    """Full marks beside what independent points would give (`anatomy.independent`)."""
    figure, drawn = multiples(independent, "k")
    lines = {
        "full marks": ("mean", "low", "high", "k123"),
        "if independent, at rates of the same k": ("at_k", "at_k_low", "at_k_high", "k12"),
        "if independent, at rates of k = 1": ("at_1", "at_1_low", "at_1_high", "base"),
    }
    for axis, _, rows in drawn:
        rows = rows.sort_values("k")
        for label, (*columns, style) in lines.items():
            colour, marker, dash = STYLE[style]
            numbers = [rows[column] for column in columns]
            look = {"color": colour, "marker": marker, "ls": dash, "ms": 3}
            line(axis, rows.k, *numbers, label=label, **look)
        axis.set_ylim(-0.03, 1.06)
    return labelled(
        figure,
        "skills asked for, k",
        "Full marks of single answers, and what they would be if an answer's points were "
        f"independent ({caption}). Bands: 95% intervals over {sampled(independent)}.",
    )
