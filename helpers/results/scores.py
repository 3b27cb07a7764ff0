"""From graded answers to scores with intervals ([YK23] section 3).

The tidy table, `scores.csv`, has one row a model, seed, setting, k, query, generation and judge:
its votes, and the metrics of their majority. A query's score is the maximum (or mean) over its
generations. Queries are the same for every model, so comparisons are paired. Scores, intervals and
findings are computed from this table alone.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from helpers.results.intervals import mean_of
from helpers.task.mixes import Amount, texts_in
from helpers.task.points import FIRST_JUDGE, KEPT, Points, majority

METRICS = ("full_marks", "all_skills", "skill_fraction")
CELL = ["model", "setting", "k"]
KEY = ["model", "seed", "setting", "k", "query"]
PADDED = "padded"  # the control: one skill a text, and things to mention in place of more
OTHERS = ("on topic", "makes sense", "sentences")  # after the skills, in the rubric's order
COLUMNS = (
    "model sweep kind texts seed judge setting k query skills apart generation cut gradings votes"
    " full_marks all_skills skill_fraction"
).split()


def kind_of(mix: Mapping[str, Amount]) -> str:
    """Which k a model was trained on: `k123` for texts of k = 1, 2 and 3; `base` for none.

    `1+2` in a mix is one skill and two things to mention: its kind is `padded`.
    """
    if not mix:
        return "base"
    if any("+" in length for length in mix):
        return PADDED
    return "k" + "".join(sorted(mix, key=int))


def model_of(variant: str) -> str:
    """A variant without its training seed, `k12` of `k12-s0`; models not trained have none."""
    return re.sub(r"-s\d+$", "", variant)


def student_of(model: str) -> str:
    """The student in a model's name `<student>-<mix>`; empty where there is only one student."""
    return model.rpartition("-")[0]


def mix_of(model: str) -> str:
    """`base`, or the mix in a model's name, whatever student the name begins with."""
    return model.rpartition("-")[2]


def name_of(student: str, mix: str) -> str:
    """A model's name; `student_of` and `mix_of` take it apart again."""
    return f"{student}-{mix}" if student else mix


def with_parts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns student and mix, the parts of the model's name."""
    models = table.model
    return table.assign(student=models.map(student_of), mix=models.map(mix_of))


@functools.cache
def voted(votes: str) -> Points | None:
    """The majority of one answer's gradings, `11011 11001 11011`; None where none was readable."""
    return majority([Points.of([int(point) for point in vote]) for vote in votes.split()])


@functools.cache
def by_criterion(votes: str) -> list[str]:
    """Votes by criterion: of `11 01 11`, the first one's are `1 0 1`, the second one's `1 1 1`."""
    return [" ".join(points) for points in zip(*votes.split(), strict=True)]


def tidy(
    graded: Mapping[str, list[dict]], sweeps: Mapping[str, str] = MappingProxyType({})
) -> pd.DataFrame:
    """One row a generation and judge, from the records that 03_grade writes.

    Args:
        graded: by variant.
        sweeps: by model, the sweep that it is part of; main models are part of none.

    Columns: model (a variant without its seed), sweep (empty for a main one), kind and texts (which
    k it was trained on, or the mix's name where it is of chats of no known k; and how many texts in
    all), seed, judge, setting, k, query, skills, apart (how many of their pairs no training text
    shows), generation, cut (the answer stopped at the token limit), gradings (how many were
    readable), votes (their points in the rubric's order, as `11011 11001 11011`), the three metrics
    (NaN where no grading was readable).
    """
    rows = []
    for variant, records in graded.items():
        model = model_of(variant)
        seed = variant.removeprefix(model).removeprefix("-s")
        for record in records:
            mix = record["mix"]
            about = record | {
                "model": model,
                "kind": mix_of(model) if "chats" in mix else kind_of(mix),
                "sweep": sweeps.get(model, ""),
                "texts": texts_in(mix),
                "seed": int(seed or 0),
                "skills": "; ".join(record["skills"]),
            }
            for judge, grades in record["grades"].items():
                gradings = grades["gradings"]
                votes = " ".join("".join(map(str, points)) for points in gradings)
                points = voted(votes)
                metrics = points.metrics() if points else dict.fromkeys(METRICS, np.nan)
                given = {
                    "judge": judge,
                    "gradings": len(gradings),
                    "votes": votes,
                }
                rows.append(about | given | metrics)
    return pd.DataFrame(rows, columns=COLUMNS)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The tidy table, for `read_csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(path, index=False)


def read_csv(path: Path) -> pd.DataFrame:
    """The tidy table; votes are text, not numbers. Older ones have no pairs apart, no sweeps."""
    table = pd.read_csv(
        path,
        dtype={"votes": str},
        keep_default_na=False,
        na_values=dict.fromkeys(METRICS, ""),
    )
    return table.assign(apart=table.get("apart", 0), sweep=table.get("sweep", ""))


def all_apart(table: pd.DataFrame) -> pd.DataFrame:
    """The answers to queries of several skills all of whose pairs are kept apart."""
    return table[(table.k > 1) & (table.apart == table.k * (table.k - 1) // 2)]


def criteria(table: pd.DataFrame) -> pd.DataFrame:
    """One row a criterion of an answer, by the majority of a judge's gradings.

    Columns: model, seed, setting, k, query, generation, judge; position (1 to k for the skills as
    the request lists them, then `OTHERS`), criterion (a skill's name, or one of `OTHERS`), point,
    votes (`1 0 1`, a number a grading).
    """
    readable = table[table.votes != ""]
    names = [(*skills.split("; "), *OTHERS) for skills in readable.skills]
    answers = readable[[*KEY, "generation", "judge"]].assign(
        position=[range(1, len(name) + 1) for name in names],
        criterion=names,
        point=[voted(votes).numbers for votes in readable.votes],
        votes=[by_criterion(votes) for votes in readable.votes],
    )
    rows = answers.explode(["position", "criterion", "point", "votes"], ignore_index=True)
    return rows.astype({"position": int, "point": int})


def main_models(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the models that are part of no sweep."""
    return frame[frame.sweep == ""]


def per_query(
    table: pd.DataFrame,
    metric: str = "full_marks",
    *,
    over_generations: str = "max",
    judge: str = FIRST_JUDGE,
) -> pd.Series:
    """A query's score by one judge, indexed by model, seed, setting, k, query.

    A query without a readable generation has no score.
    """
    by_query = table[table.judge == judge].groupby(KEY, sort=False)[metric]
    return by_query.agg(over_generations).dropna()


def grids(scores: pd.Series, by: list[str] = CELL) -> dict[tuple, pd.DataFrame]:
    """The scores of each cell: a row a training seed, a column a query.

    Args:
        scores: indexed by `by`, seed and query.
        by: what makes a cell.

    Returns:
        By cell, with the queries that have a score from every seed; cells without any are left out.
    """
    cells = {}
    for cell, its_scores in scores.groupby(level=by, sort=False):
        grid = its_scores.unstack("query").dropna(axis="columns")
        if not grid.empty:
            cells[cell] = grid
    return cells


def means(scores: pd.Series, by: list[str] = CELL) -> pd.DataFrame:
    """Mean, standard error and 95% interval (`intervals`) of every cell of `grids`.

    Columns: `by`, seeds, queries, mean, se, low, high. With one seed they are over queries alone.
    """
    rows = []
    for cell, grid in grids(scores, by).items():
        mean = mean_of(grid.to_numpy())
        row = (
            *cell,
            mean.seeds,
            mean.queries,
            mean.mean,
            mean.se,
            *mean.interval(),
        )
        rows.append(row)
    return pd.DataFrame(rows, columns=[*by, "seeds", "queries", "mean", "se", "low", "high"])


def summary(table: pd.DataFrame, metric: str = "full_marks", **rules) -> pd.DataFrame:
    """The `means` of every model, setting and k, beside what the model was trained on.

    `rules` are those of `per_query`. Columns more than those of `means`: single (the mean of single
    answers, where a query's score is the best of several), generations, kind, texts, sweep.
    """
    best = means(per_query(table, metric, **rules))
    single = means(per_query(table, metric, **rules | {"over_generations": "mean"}))
    models = table.drop_duplicates("model")[["model", "kind", "texts", "sweep"]]
    numbers = best.assign(single=single["mean"], generations=table.generation.nunique())
    return numbers.merge(models, on="model")


def by_k(table: pd.DataFrame, rows: list[str], cell: str) -> pd.DataFrame:
    """A table to read: a column a k, the rows in the order given.

    Args:
        rows: the columns that tell the rows.
        cell: a template, filled from the columns of the table.
    """
    cells = [cell.format(**row).removeprefix(": ") for row in table.to_dict("records")]
    wide = table.assign(cell=cells).pivot(
        index=rows,
        columns="k",
        values="cell",
    )
    given = table.set_index(rows).index.unique()
    return wide.reindex(given).fillna("")


def spread(summary: pd.DataFrame) -> pd.DataFrame:
    """A summary as a table to read: a row a setting and model, a column a k.

    A cell is the mean, its interval, and the mean of single answers: `0.78 [0.66, 0.86] / 0.47`.
    """
    table = summary.sort_values("setting", kind="stable")
    return by_k(table, ["setting", "model"], "{mean:.2f} [{low:.2f}, {high:.2f}] / {single:.2f}")


def by_pairs(table: pd.DataFrame, metric: str = "full_marks", **rules) -> pd.DataFrame:
    """Pairs of skills that training texts may show, beside those that are kept apart: k = 2 in I.

    `rules` are those of `per_query`. A row a model; a cell is as in `spread`, and the number of
    queries. Empty where no pairs are kept apart.
    """
    two = table[(table.setting == "I") & (table.k == 2)]
    if not two.apart.any():
        return pd.DataFrame()
    cells = {}
    cell = "{mean:.2f} [{low:.2f}, {high:.2f}] / {single:.2f} ({queries} queries)"
    for pair, rows in (("may be shown", two[two.apart == 0]), ("kept apart", all_apart(two))):
        of_models = summary(rows, metric, **rules).set_index("model")
        cells[pair] = {name: cell.format(**row) for name, row in of_models.iterrows()}
    return pd.DataFrame(cells)


def manners(graded: dict[str, list[dict]]) -> pd.DataFrame:
    """How the models answered, a row a variant, from the records that 03_grade writes.

    Columns, numbers of answers: answers (all); empty (no text but thoughts, so no points); refused
    (as the provider says; a refusal in words counts as a text); thought (thoughts stand in the
    reply); cut (at the token limit).
    """
    tables = {variant: pd.DataFrame(records) for variant, records in graded.items()}
    every = pd.concat(tables, names=["model", "number"])
    every = every.assign(answers=1, empty=every.text == "")
    columns = ["answers", "empty", "refused", "thought", "cut"]
    return every.groupby("model", sort=False)[columns].sum()


def outcomes(records: list[dict]) -> pd.DataFrame:
    """How many texts of each kind were kept, or dropped and why. Columns: k, outcome, texts.

    `k` is text: `3` for three skills, `1+2` for one skill and two things to mention.
    """
    table = pd.DataFrame(records)[["kind", "dropped"]].replace({"dropped": {"": KEPT}})
    table.columns = ["k", "outcome"]
    return table.value_counts(sort=False).reset_index(name="texts")
