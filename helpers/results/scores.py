"""From graded answers to scores with intervals, and to verdicts on the paper's findings ([ZK24] section 4, [YK23] section 3).

The tidy table, `scores.csv`, has one row a model, seed, setting, k, query, generation and judge: its votes, and the metrics
of their majority. A query's score is the maximum (or mean) over its generations; queries are the same for every model,
so comparisons are paired. What is said of the results is computed from this table alone, by `helpers.results.intervals`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.files import read_json_lines
from helpers.results.intervals import mean_of
from helpers.task.points import FIRST_JUDGE, KEPT, Points

METRICS = ("full_marks", "all_skills", "skill_fraction")
KEY = ["model", "seed", "setting", "k", "query"]


def kind_of(mix: dict[str, int]) -> str:
    """Which k a model was trained on: `k123` for texts of k = 1, 2 and 3, however many.

    `base` for none, `padded` where texts mention things beside their skills.
    """
    if any("+" in kind for kind in mix):
        return "padded"
    return "k" + "".join(sorted(mix, key=int)) if mix else "base"


def student_of(model: str) -> str:
    """The student in a model's name `<student>-<mix>`; empty where there is only one student."""
    return model.rpartition("-")[0]


def mix_of(model: str) -> str:
    """`base`, or the mix in a model's name, whatever student the name begins with."""
    return model.rpartition("-")[2]


def tidy(files: Sequence[Path]) -> pd.DataFrame:
    """One row a generation and judge, from the files that 03_grade writes.

    Columns: model (a variant without its seed), kind and texts (which k it was trained on, and how many texts in all),
    seed, judge, setting, k, query, skills, generation, cut (the answer stopped at the token limit), gradings (how
    many were readable), votes (their points in the rubric's order, as `11011 11001 11011`), the three metrics (NaN where
    no grading was readable).
    """
    rows = []
    for path in files:
        model, seed = re.fullmatch(r"(.+?)(?:-s(\d+))?", path.stem).groups()
        for record in read_json_lines(path, "03_grade"):
            about = {
                "model": model,
                "kind": kind_of(record["mix"]),
                "texts": sum(record["mix"].values()),
                "seed": int(seed or 0),
            }
            asked = {name: record[name] for name in ("setting", "k", "query")} | {
                "skills": "; ".join(record["skills"])
            }
            for judge, grades in record["grades"].items():
                votes = " ".join("".join(map(str, points)) for points in grades["gradings"])
                graded = {
                    "generation": record["generation"],
                    "cut": record["cut"],
                    "gradings": len(grades["gradings"]),
                    "votes": votes,
                }
                found = (
                    Points.of(grades["points"]).metrics()
                    if grades["points"]
                    else dict.fromkeys(METRICS, np.nan)
                )
                rows.append({**about, "judge": judge, **asked, **graded, **found})
    return pd.DataFrame(rows)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The tidy table, for `read_csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(path, index=False)


def read_csv(path: Path) -> pd.DataFrame:
    """The tidy table; votes are text, not numbers."""
    return pd.read_csv(
        path,
        dtype={"votes": str},
        keep_default_na=False,
        na_values={metric: [""] for metric in METRICS},
    )


def largest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each student's models that no other of the same kind outdoes in texts; a sweep's smaller mixes are left out."""
    most = frame.texts.groupby([frame.model.map(student_of), frame.kind]).transform("max")
    return frame[frame.texts == most]


def per_query(
    table: pd.DataFrame,
    metric: str = "full_marks",
    *,
    over_generations: str = "max",
    judge: str = FIRST_JUDGE,
) -> pd.Series:
    """A query's score by one judge, indexed by model, seed, setting, k, query; without queries that have no readable generation."""
    return table[table.judge == judge].groupby(KEY)[metric].agg(over_generations).dropna()


def grid(scores: pd.Series, model: str, setting: str, k: int) -> pd.DataFrame:
    """One model's scores in one cell: a row a training seed, a column a query that has a score from every seed."""
    cell = scores.xs((model, setting, k), level=["model", "setting", "k"])
    return cell.unstack("query").dropna(axis="columns")


def summary(
    table: pd.DataFrame,
    *,
    metric: str = "full_marks",
    over_generations: str = "max",
    judge: str = FIRST_JUDGE,
) -> pd.DataFrame:
    """Mean, standard error and 95% interval (`intervals`) of every model, setting and k; over queries alone where seeds is 1."""
    scores = per_query(table, metric, over_generations=over_generations, judge=judge)
    models = table.drop_duplicates("model").set_index("model")[["kind", "texts"]]
    rows = []
    for model, setting, k in scores.index.droplevel(["seed", "query"]).unique():
        if (cell := grid(scores, model, setting, k)).empty:
            continue
        found = mean_of(cell.to_numpy())
        low, high = found.interval()
        counts = {"seeds": found.seeds, "queries": found.queries}
        about = {"model": model, **models.loc[model], "setting": setting, "k": k}
        rows.append(
            {**about, **counts, "mean": found.mean, "se": found.se, "low": low, "high": high}
        )
    return pd.DataFrame(rows)


def spread(summary: pd.DataFrame) -> pd.DataFrame:
    """A summary as a table to read: a row a setting and model, a column a k."""
    triples = zip(summary["mean"], summary.low, summary.high, strict=True)
    cells = summary.assign(
        cell=[f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in triples]
    )
    return cells.pivot(index=["setting", "model"], columns="k", values="cell")


def outcomes(records: list[dict]) -> pd.DataFrame:
    """How many texts of each kind were kept, or dropped and why. Columns: k, outcome, texts.

    `k` is text: `3` for three skills, `1+2` for one skill and two things to mention.
    """
    outcome = [record["dropped"] or KEPT for record in records]
    table = pd.DataFrame({"k": [record["kind"] for record in records], "outcome": outcome})
    return table.value_counts(sort=False).rename("texts").reset_index()
