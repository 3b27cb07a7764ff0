"""Figures of `lost_points`: small multiples, a row a setting (and student), a column a model."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.results.figure_style import (
    STYLE,
    Captioned,
    facets,
    finish,
    in_lines,
    legend,
    line,
    look_of,
    sampled,
    stack,
    title_of,
)
from helpers.results.lost_points import SKILL_AND_MORE
from helpers.results.scores import with_parts

SURE = 0.5  # a share whose interval is wider than this has a colour and no number


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns mix and place: student and setting, which share a row of panels."""
    table = with_parts(table)
    setting = "setting " + table.setting
    both = "base " + table.student + ",\n" + setting
    return table.assign(place=setting.where(table.student == "", both))


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
            letters = 80 // table.mix.nunique()  # in a panel's width
            axis.set_title(in_lines(title_of(mix), letters), fontsize=7.5)
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
        stack(axis.bar, shares, "bottom", edgecolor="white", lw=0.25)  # some are alike in grey
        full = rows[rows.outcome == "full marks"]
        axis.vlines(full.k, full.low, full.high, color="black", lw=1)
        axis.set_ylim(0, 1)
    several = ""
    if SKILL_AND_MORE in set(missing.outcome):
        name = SKILL_AND_MORE.capitalize()
        several = f" {name}: a skill and something else."
    return labelled(
        figure,
        "skills asked for, k",
        "share of answers",
        f"Single answers with full marks, and what the others lack ({caption}).{several} "
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
    looks = {k: look_of(k) | {"ms": 3.5} for k in sorted(positions.k.unique())}
    return labelled(
        curves(positions, "position", "k", looks),
        "place of the skill in the request",
        "share of points",
        f"A skill's share of points by its place in the request, single answers ({caption}). "
        f"Bands and bars: 95% intervals over {sampled(positions)}.",
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
        f"independent ({caption}). What full marks fall short of the dotted line is lost where "
        "several skills are asked for; of the dash-dotted one, in skills displacing each other. "
        "Above it, points are lost together: an answer that lacks one lacks others. At k = 1 the "
        "two are the same. "
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
    heights = 0.3 + 0.13 * names.map(len)
    figure, drawn = multiples(skills, "k", list(heights))
    ks = sorted(skills.k.unique())
    is_white = False
    figure.set_visible(False)  # seaborn draws the whole figure for each panel
    for axis, place, _, rows in drawn:
        cells = rows.pivot(index="criterion", columns="k").reindex(names[place])
        means = cells["mean"].reindex(columns=ks)
        is_white |= means.isna().any(axis=None)
        sns.heatmap(
            means,
            annot=cells["number"].reindex(columns=ks).fillna(""),
            fmt="",
            annot_kws={"size": 6},
            vmin=0,
            vmax=1,
            cmap="cividis",
            linewidths=0.3,
            cbar=False,
            yticklabels=True,  # every skill's, in whatever space
            ax=axis,
        )
        axis.set(xlabel="", ylabel=place if axis.get_subplotspec().is_first_col() else "")
        axis.tick_params(length=0)
        axis.tick_params(axis="y", labelsize=6.5, labelrotation=0)
    figure.set_visible(True)
    figure.colorbar(
        axis.collections[0],
        ax=figure.axes,
        location="top",  # beside the panels it would make the cells narrower than "100"
        shrink=0.4,
        aspect=40,
        pad=0.02,
        label="share of points",
    )
    return labelled(
        figure,
        "skills asked for, k",
        "",
        f"Each skill's share of points, single answers ({caption}). A number, in percent, where "
        f"a cell's 95% interval, over {sampled(skills)}, is narrower than {SURE * 100:.0f} points; "
        f"no number: wider.{' White: not asked for.' if is_white else ''}",
    )
