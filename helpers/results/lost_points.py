"""Where answers lose points, which the mean of full marks does not show.

Everything here is about single answers, by the majority of the first judge's gradings, with the
intervals of `intervals`: a query counts once, however many answers it has.
"""

import textwrap

import numpy as np
import pandas as pd

from helpers.results.intervals import draws, of_draws
from helpers.results.scores import CELL, OTHERS, criteria, means, mix_of, voted
from helpers.task.points import FIRST_JUDGE, Points

# What `several faults` are called here if a skill is among them.
SKILL_AND_MORE = "several faults (skill missing)"
SAMPLES = 500  # of the bootstrap over queries
SAME_K = "if independent, at rates of the same k"
ALONE = "if independent, at rates of k = 1"


def first_judge(table: pd.DataFrame) -> pd.DataFrame:
    """The answers that the first judge could grade."""
    return table[(table.judge == FIRST_JUDGE) & (table.votes != "")]


def outcome_of(points: Points) -> str:
    """`full marks`, or the fault; `SKILL_AND_MORE` for several if a skill is among them."""
    fault = points.fault() or "full marks"
    if fault == "several faults" and not all(points.skills):
        return SKILL_AND_MORE
    return fault


def shares(rows: pd.DataFrame, value: str, *by: str) -> pd.DataFrame:
    """The `means` of a column, by model, setting, k and the columns `by`; a query counts once."""
    cell = [*CELL, *by]
    queries = rows.groupby([*cell, "seed", "query"], sort=False)
    return means(queries[value].mean(), cell)


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """What answers lack: the share of each outcome.

    Columns: model, setting, k, outcome, and those of `means`.
    """
    answers = first_judge(table)
    outcomes = pd.get_dummies([outcome_of(voted(votes)) for votes in answers.votes])
    answers = answers.reset_index().join(outcomes)
    rows = answers.melt(
        [*CELL, "seed", "query"],
        list(outcomes),
        var_name="outcome",
        value_name="share",
    )
    return shares(rows, "share", "outcome")


def not_unanimous(table: pd.DataFrame) -> pd.DataFrame:
    """The points on which a judge's gradings of one answer differ.

    Columns: setting, k, query, generation, judge, criterion, votes (`1 0 1`).
    """
    points = criteria(table)
    votes = points.votes.str
    differ = votes.contains("0") & votes.contains("1")
    return points.loc[differ, "setting k query generation judge criterion votes".split()]


def skill_points(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The share of points by a skill's `position` in the request, or by its name, `criterion`.

    Columns: model, setting, k, position or criterion, and those of `means`.
    """
    points = criteria(first_judge(table))
    return shares(points[points.position <= points.k], "point", by)


def independent(table: pd.DataFrame) -> pd.DataFrame:
    """Full marks beside what they would be if the points of an answer were independent.

    Then a query's rate of full marks would be the product of the rates of its criteria: its skills,
    topic, sense and sentences. The product is computed twice: with the model's rates at k = 1 in
    this setting (`ALONE`), and with its rates at the same k (`SAME_K`). What full marks fall short
    of `ALONE` is lost where several skills are asked for. Full marks below `SAME_K` mean that
    skills displace each other, above it that they come together.

    Columns: model, setting, k, seeds, queries, mean, low, high, and `full marks`, which says what
    the row is of: `full marks` as they are, `SAME_K`, or `ALONE` (only where k = 1 was asked for).
    """
    answers = first_judge(table)
    observed = shares(answers, "full_marks").drop(columns="se")
    rows = observed.assign(**{"full marks": "full marks"}).to_dict("records")
    cell = [*CELL, "query", "position", "criterion"]
    rates = criteria(answers).groupby(cell, as_index=False).point.mean()
    cells = dict(list(rates.groupby(CELL)))
    for row in observed.to_dict("records"):
        model, setting, k = (row[name] for name in CELL)
        for name, other in ((SAME_K, k), (ALONE, 1)):
            if (model, setting, other) in cells:
                single = cells[model, setting, other]
                mean, low, high = product(single, cells[model, setting, k])
                numbers = {
                    "full marks": name,
                    "mean": mean,
                    "low": low,
                    "high": high,
                }
                rows.append(row | numbers)
    return pd.DataFrame(rows)


def product(single: pd.DataFrame, cell: pd.DataFrame) -> tuple[float, float, float]:
    """The mean, over the queries of `cell`, of the product of their criteria's rates in `single`.

    Both have the columns query, criterion and point. A skill that is not in `single` has the mean
    rate of those that are. The 95% interval is from a seeded bootstrap over the queries of both
    tables; where both hold the same queries, the same ones are drawn for both.
    """
    rng = np.random.default_rng(0)
    points = single.pivot(index="query", columns="criterion", values="point")
    of_single = draws(len(points), SAMPLES, rng)
    given = pd.DataFrame(of_single @ points.fillna(0), columns=points.columns)
    n = pd.DataFrame(of_single @ points.notna(), columns=points.columns)
    skills = points.columns.difference(OTHERS)
    mean = given[skills].sum(axis=1) / n[skills].sum(axis=1)
    rates = (given / n).reindex(columns=cell.criterion)
    rates = rates.where(rates.notna(), mean, axis=0)
    of_queries = rates.T.groupby(cell["query"].to_numpy()).prod()
    of_cell = of_single if single is cell else draws(len(of_queries), SAMPLES, rng)
    return of_draws(np.average(of_queries.T, axis=1, weights=of_cell))


AT_K = (
    "At k = {k} the gain is {gain:+.2f} [{low:+.2f}, {high:+.2f}] ({verdict}). In single answers of"
    " {against} and {model}, full marks are {before.full_marks:.2f} and {after.full_marks:.2f};"
    " skills are all that is missing in {before.lacking:.2f} and {after.lacking:.2f}; the skill"
    " named first has {before.first_skill:.2f} and {after.first_skill:.2f} of its points, the one"
    " named last {before.last_skill:.2f} and {after.last_skill:.2f}; exactly one skill is shown in"
    " {before.one_skill:.2f} and {after.one_skill:.2f}; of all that were asked for"
    " {before.skills_shown:.2f} and {after.skills_shown:.2f} are shown."
)
TOGETHER = (
    " So full marks are higher though not more skills are shown: they are spread more unevenly,"
    " with more answers that stop after one skill, and more that show all."
)
UNTESTED = "Why is not tested here."


def single_skills(table: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """What training on single skills alone does to answers of several, in sentences.

    Args:
        table: the tidy scores.
        verdicts: of `findings`; the sentences are about models trained on D(1) alone (k1).
    """
    answers = first_judge(table)
    points = [voted(votes) for votes in answers.votes]
    skills = [of.skills for of in points]
    parts = {
        "lacking": [outcome_of(of) == "skill missing" for of in points],
        "first_skill": [of[0] for of in skills],
        "last_skill": [of[-1] for of in skills],
        "one_skill": [sum(of) == 1 for of in skills],
        "skills_shown": [sum(of) / len(of) for of in skills],
    }
    means = answers.assign(**parts).groupby(CELL)[["full_marks", *parts]].mean()
    lines = []
    is_single = (verdicts.model.map(mix_of) == "k1") & ~verdicts.apart.astype(bool)
    for row in verdicts[is_single].to_dict("records"):
        place = (row["setting"], row["k"])
        before = means.loc[(row["against"], *place)]
        after = means.loc[(row["model"], *place)]
        words = AT_K.format(before=before, after=after, **row)
        change = after - before
        if change.full_marks > 0 >= change.skills_shown and change.one_skill > 0:
            words += TOGETHER
        lines.append(words)
    if not lines:
        return "No model of single skills alone stands beside its base."
    return "\n\n".join(textwrap.fill(words, 100) for words in (*lines, UNTESTED))
