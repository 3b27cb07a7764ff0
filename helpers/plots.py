"""The figures, one function each; every one returns a matplotlib Figure. `save` writes PNG and SVG, the same bytes for the same scores."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from helpers.catalog import SETTINGS
from helpers.corpus import DUPLICATE, NOT_NEEDED

# Okabe and Ito's colours, told apart with every kind of colour blindness; markers and dashes tell the lines apart in grey.
STYLE = {
    "base": ("#000000", "o", (0, (1, 1.5))),
    "k1": ("#E69F00", "s", (0, (4, 1.5))),
    "k12": ("#56B4E9", "D", (0, (6, 1.5, 1, 1.5))),
    "k123": ("#D55E00", "^", "solid"),
}
NAMES = {"base": "before fine-tuning", "k1": "D(1)", "k12": "D(1) + D(2)", "k123": "D(1) + D(2) + D(3)"}
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
    """Write `name`.png and `name`.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    figure.savefig(paths[0], dpi=200)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def mix_of(model: str) -> str:
    """`base`, `k1`, `k12` or `k123`, whatever student the name begins with."""
    return model.rsplit("-", 1)[-1]


def students_of(models) -> list[str]:
    """The students in model names `<student>-<mix>`; one empty name where there is only one student."""
    return sorted({m.removesuffix(mix_of(m)).rstrip("-") for m in models})


def caption(figure: Figure, words: str) -> None:
    """What the figure shows and where it is from, under it."""
    figure.text(0.01, -0.02, words, ha="left", va="top", fontsize=7.5, color="#444444", wrap=True)


def full_marks_by_k(summary: pd.DataFrame, *, trained_ks: list[int], world: str) -> Figure:
    """The headline: full marks against k, a line a model, a panel a setting (and a row a student), 95% bands."""
    settings, students = sorted(summary.setting.unique()), students_of(summary.model.unique())
    size = (WIDTH, 0.5 + 2.5 * len(students))
    figure, axes = plt.subplots(len(students), len(settings), figsize=size, sharey=True, squeeze=False, layout="constrained")
    ks = sorted(summary.k.unique())
    for row, student in zip(axes, students, strict=True):
        for axis, setting in zip(row, settings, strict=True):
            if unseen := [k for k in ks if k > max(trained_ks)]:
                axis.axvspan(min(unseen) - 0.5, max(ks) + 0.35, color="#F0F0F0", lw=0, zorder=0)
                axis.text(max(ks) + 0.3, 1.0, "k never\nseen in training", ha="right", va="top", fontsize=7, color="#555555")
            for mix, (colour, marker, dash) in STYLE.items():
                line = summary[(summary.model == "-".join(filter(None, [student, mix]))) & (summary.setting == setting)].sort_values("k")
                if len(line):
                    axis.fill_between(line.k, line.low, line.high, color=colour, alpha=0.18, lw=0)
                    axis.plot(line.k, line["mean"], color=colour, marker=marker, ms=4.5, ls=dash, lw=1.6, label=NAMES[mix])
            axis.set_title(" ".join(filter(None, [student, f"Setting {setting}: {SETTINGS[setting]}"])), loc="left")
            axis.set_xticks(ks)
            axis.set_xlim(min(ks) - 0.35, max(ks) + 0.35)
            axis.set_ylim(-0.03, 1.06)
            axis.set_xlabel("skills asked for, k")
        row[0].set_ylabel("ratio of full marks")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), title="fine-tuned on", title_fontsize=9)
    n = f"{summary.queries.max()} queries a point, best of 3 generations; up to {summary.seeds.max()} training seeds"
    caption(figure, f"Ratio of full marks by number of skills ({world}). {n}; bands are 95% intervals over seeds and queries.")
    plt.close(figure)  # a notebook shows the figure that a cell ends with, once
    return figure


def training_loss(logs: pd.DataFrame, *, world: str) -> Figure:
    """Loss against step, a line a mix (mean over training seeds), thin lines the seeds. `logs`: model, seed, step, loss."""
    students = students_of(logs.model.unique())
    size = (WIDTH, 2.6)
    figure, axes = plt.subplots(1, len(students), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, student in zip(axes[0], students, strict=True):
        for mix, (colour, _, dash) in STYLE.items():
            runs = logs[logs.model == "-".join(filter(None, [student, mix]))]
            for _, run in runs.groupby("seed"):
                axis.plot(run.step, run.loss.rolling(5, min_periods=1).mean(), color=colour, lw=0.5, alpha=0.5)
            if len(runs):
                mean = runs.groupby("step").loss.mean().rolling(5, min_periods=1).mean()
                axis.plot(mean.index, mean, color=colour, ls=dash, lw=1.6, label=NAMES[mix])
        axis.set(xlabel="optimizer step", title=student)
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("loss (nats a token)")
    axes[0][0].legend(title="fine-tuned on")
    caption(figure, f"Training loss, mean of the last 5 steps ({world}). Thin lines: training seeds; thick: their mean.")
    plt.close(figure)
    return figure


def corpus_by_k(counts: pd.DataFrame, *, world: str) -> Figure:
    """How many texts were written, and why those that were dropped were. `counts`: k, outcome, texts."""
    table = counts.pivot_table(index="k", columns="outcome", values="texts", fill_value=0)
    good = [c for c in ("kept", DUPLICATE, NOT_NEEDED) if c in table]
    order = [*good, *sorted((c for c in table if c not in good), key=lambda c: -table[c].sum())]
    colours = dict(zip(good, ["#009E73", "#5DBFA0", "#B5E3D4"], strict=False)) | dict(zip(order[len(good) :], FAULTS, strict=False))
    figure, axis = plt.subplots(figsize=(WIDTH, 2.4), layout="constrained")
    left = pd.Series(0.0, index=table.index)
    for outcome in order:
        axis.barh(
            [f"D({k})" for k in table.index], table[outcome], left=left, color=colours[outcome], edgecolor="white", lw=0.6, label=outcome
        )
        left += table[outcome]
    for i, (_, row) in enumerate(table.iterrows()):
        words = f"{row['kept']:,.0f} kept; {row[good].sum() / row.sum():.0%} of {row.sum():,.0f} had full marks"
        axis.text(row["kept"] / 2, i, words, ha="center", va="center", color="white", fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("texts written by the teacher")
    figure.legend(loc="outside right center", fontsize=8)
    caption(figure, f"The teacher's texts, how many were kept, and what the others lacked ({world}).")
    plt.close(figure)
    return figure
