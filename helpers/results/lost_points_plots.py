"""Figures of `lost_points`: small multiples, a row a setting (and student), a column a model."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.figure_style import (
    STYLE,
    Captioned,
    facets,
    finish,
    legend,
    line,
    sampled,
    stack,
    title_of,
)
from helpers.results.scores import with_parts

MARKERS = "osD^vPX"  # of k = 1, 2, ...: in grey, what tells the lines apart
SURE = 0.5  # a share whose interval is wider than this has a colour and no number


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns mix and place: student and setting, which share a row of panels."""
    table = with_parts(table)
    setting = "setting " + table.setting
    return table.assign(place=setting.where(table.student == "", table.student + ", " + setting))


def multiples(
    table: pd.DataFrame, x: str, heights: Sequence[float] = ()
) -> tuple[Captioned, list[tuple[Axes, str, str, pd.DataFrame]]]:
    """The `facets` of a table (`placed`), a row a place and a column a mix.

    Args:
        x: the column that is drawn from left to right.
        heights: of each row of panels, in inches.
    """
    heights = heights or [1.3] * table.place.nunique()
    figure, drawn = facets(
        table,
        "place",
        "mix",
        0.9 + sum(heights),
        height_ratios=heights,
        sharex=True,
        sharey="row",
    )
    for axis, place, mix, _ in drawn:
        axis.set(ylabel=place, xticks=sorted(table[x].unique()))
        if axis.get_subplotspec().is_first_row():
            axis.set_title(title_of(mix), fontsize=7.5)
    return figure, drawn


def labelled(figure: Captioned, x: str, y: str, words: str) -> Figure:
    """The figure with labels below and at the left, a legend above, and a caption."""
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    figure.align_ylabels()
    legend(figure, fontsize=7.5)
    return finish(figure, words)


def missing_by_k(missing: pd.DataFrame, *, caption: str) -> Figure:
    """What answers lack, a bar a k. `missing`: the table of that name in `lost_points`."""
    figure, drawn = multiples(placed(missing), "k")
    for axis, _, _, rows in drawn:
        shares = rows.pivot(index="k", columns="outcome", values="mean")
        stack(axis.bar, shares, "bottom", lw=0)
        full = rows[rows.outcome == "full marks"]
        axis.vlines(full.k, full.low, full.high, color="black", lw=1)
        axis.set_ylim(0, 1)
    return labelled(
        figure,
        "skills asked for, k",
        "share of answers",
        f"Single answers with full marks, and what the others lack ({caption}). "
        f"Lines: 95% intervals of full marks over {sampled(missing)}.",
    )


def curves(table: pd.DataFrame, x: str, by: str, looks: dict[str, dict]) -> Captioned:
    """Shares against `x`, a line for each value of `by`; `looks` has each line's style."""
    figure, panels = multiples(placed(table), x)
    for axis, _, _, rows in panels:
        for name, look in looks.items():
            drawn = rows[rows[by] == name].sort_values(x)
            line(axis, drawn, x, **look)
        axis.set_ylim(-0.03, 1.06)
    return figure


def points_by_position(positions: pd.DataFrame, *, caption: str) -> Figure:
    """Shares of points by a skill's place in the request, a line a k (`skill_points`)."""
    ks = sorted(positions.k.unique())
    colours = colormaps["cividis"](np.linspace(0, 0.9, len(ks)))
    looks = {}
    for k, colour, marker in zip(ks, colours, itertools.cycle(MARKERS), strict=False):
        looks[k] = {
            "color": colour,
            "marker": marker,
            "ms": 3.5,
            "label": f"k = {k}",
        }
    return labelled(
        curves(positions, "position", "k", looks),
        "place of the skill in the request",
        "share of points",
        f"A skill's share of points by its place in the request, single answers ({caption}). "
        f"Bands: 95% intervals over {sampled(positions)}.",
    )


def combining_by_k(independent: pd.DataFrame, *, caption: str) -> Figure:
    """Full marks beside what independent points would give (`lost_points.independent`)."""
    looks = {}
    names = independent["full marks"].unique()
    for name, style in zip(names, ("k123", "k12", "base"), strict=False):
        colour, marker, dash = STYLE[style]
        looks[name] = {
            "color": colour,
            "marker": marker,
            "ls": dash,
            "ms": 3,
            "label": name,
        }
    return labelled(
        curves(independent, "k", "full marks", looks),
        "skills asked for, k",
        "ratio of full marks",
        "Full marks of single answers, and what they would be if an answer's points were "
        f"independent ({caption}). Below the dotted line: lost where several are asked for; below "
        "the dashed one: skills displace each other. "
        f"Bands: 95% intervals over {sampled(independent)}.",
    )


def points_by_skill(skills: pd.DataFrame, *, caption: str) -> Figure:
    """Each skill's share of points by k, as a heat map (`skill_points`).

    Setting III, whose skills are those of I and II, is left out beside them.
    """
    import seaborn as sns  # takes most of a second, and no other figure needs it

    if set(skills.setting) > {"III"}:
        skills = skills[skills.setting != "III"]
    skills = placed(skills)
    sure = skills.high - skills.low < SURE
    skills["number"] = (skills["mean"] * 100).map("{:.0f}".format).where(sure, "")
    named = skills.sort_values("criterion").groupby("place", sort=False)
    names = named.criterion.unique()[skills.place.unique()]
    heights = 0.3 + 0.115 * names.map(len)
    figure, drawn = multiples(skills, "k", list(heights))
    ks = sorted(skills.k.unique())
    figure.set_visible(False)  # seaborn draws the whole figure for each panel
    for axis, place, _, rows in drawn:
        cells = rows.pivot(index="criterion", columns="k").reindex(names[place])
        sns.heatmap(
            cells["mean"].reindex(columns=ks),
            annot=cells["number"].reindex(columns=ks).fillna(""),
            fmt="",
            annot_kws={"size": 5},
            vmin=0,
            vmax=1,
            cmap="cividis",
            cbar=False,
            yticklabels=True,  # every skill's, in whatever space
            ax=axis,
        )
        axis.set(xlabel="", ylabel=place if axis.get_subplotspec().is_first_col() else "")
        axis.tick_params(length=0)
        axis.tick_params(axis="y", labelsize=5.5, labelrotation=0)
    figure.set_visible(True)
    figure.colorbar(
        axis.collections[0],
        ax=figure.axes,
        shrink=0.4,
        pad=0.01,
        label="share of points",
    )
    return labelled(
        figure,
        "skills asked for, k",
        "",
        f"Each skill's share of points, single answers ({caption}). A number, in percent, where "
        f"the 95% interval is narrower than {SURE * 100:.0f} points; a cell has "
        f"{skills.queries.min()} to {skills.queries.max()} queries. White was not asked for.",
    )
