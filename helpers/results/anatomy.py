"""Where the points are lost: what the mean of full marks hides.

Everything here is of single answers, by the majority of the first judge's gradings, with the
intervals of `intervals`: a query counts once, whatever number of answers it has.
"""

import numpy as np
import pandas as pd

from helpers.results.scores import CELL, OTHERS, criteria, means, voted
from helpers.task.points import FIRST_JUDGE, Points

SAMPLES = 500  # of the bootstrap over queries


def first_judge(table: pd.DataFrame) -> pd.DataFrame:
    """The answers that the first judge could grade."""
    return table[(table.judge == FIRST_JUDGE) & (table.votes != "")]


def outcome_of(points: Points) -> str:
    """`full marks`, or the fault; several faults with a skill among them are told from others."""
    fault = points.fault() or "full marks"
    if fault == "several faults" and not all(points.skills):
        return "skill missing, and more"
    return fault


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """What answers lack: the share of each outcome.

    Columns: model, setting, k, outcome, and those of `means`.
    """
    answers = first_judge(table)
    answers = answers.assign(outcome=[outcome_of(voted(votes)) for votes in answers.votes])
    tables = []
    for outcome in answers.outcome.unique():
        answers["share"] = answers.outcome == outcome
        shares = means(answers.groupby([*CELL, "seed", "query"], sort=False).share.mean())
        tables.append(shares.assign(outcome=outcome))
    return pd.concat(tables, ignore_index=True)


def not_unanimous(table: pd.DataFrame) -> pd.DataFrame:
    """The points on which a judge's gradings of one answer differ.

    Columns: setting, k, query, generation, judge, criterion, votes (`1 0 1`).
    """
    rows = []
    for row in table[table.gradings > 1].itertuples():
        criteria_of_row = (*row.skills.split("; "), *OTHERS)
        votes_of_row = zip(*row.votes.split(), strict=True)
        for criterion, votes in zip(criteria_of_row, votes_of_row, strict=True):
            if len(set(votes)) > 1:
                place = (row.setting, row.k, row.query, row.generation, row.judge)
                rows.append((*place, criterion, " ".join(votes)))
    columns = ["setting", "k", "query", "generation", "judge", "criterion", "votes"]
    return pd.DataFrame(rows, columns=columns)


def skill_points(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The share of points by a skill's `position` in the request, or by its name, `criterion`.

    Columns: model, setting, k, position or criterion, and those of `means`.
    """
    points = criteria(first_judge(table))
    of_skills = points[points.position <= points.k]
    cell = [*CELL, by]
    return means(of_skills.groupby([*cell, "seed", "query"], sort=False).point.mean(), cell)


def independent(table: pd.DataFrame) -> pd.DataFrame:
    """Full marks beside what they would be if the points of an answer were independent.

    Of a query that is the product of its criteria's rates, those of its skills and of topic, sense
    and sentences: `at_1` with the model's rates at k = 1 in this setting, `at_k` with those at the
    k itself. What lies between `at_1` and full marks is lost in combining; full marks below `at_k`
    say that skills displace each other, above it that they come together.

    Columns: model, setting, k, those of `means` for the full marks, and at_1 and at_k with their
    95% intervals (at_1_low, at_1_high, ...). Where k = 1 was not asked for, at_1 is NaN.
    """
    answers = first_judge(table)
    observed = means(answers.groupby([*CELL, "seed", "query"], sort=False).full_marks.mean())
    points = criteria(answers)
    skills = sorted(set(points.criterion) - set(OTHERS))
    names = pd.Index([*OTHERS, *skills])
    points["criterion"] = names.get_indexer(points.criterion)
    rates = points.groupby([*CELL, "query", "position"])[["criterion", "point"]].mean()
    cells = {}
    for cell, its_rates in rates.groupby(level=CELL):
        cells[cell] = its_rates.unstack("position")
    rows = []
    for model, setting, k in observed[CELL].itertuples(index=False):
        cell = cells[model, setting, k]
        single = cells.get((model, setting, 1))
        at_1 = (np.nan, np.nan, np.nan)
        if single is not None:
            at_1 = product(single, cell, len(names))
        at_k = product(cell, cell, len(names))
        rows.append((*at_1, *at_k))
    columns = ["at_1", "at_1_low", "at_1_high", "at_k", "at_k_low", "at_k_high"]
    return observed.join(pd.DataFrame(rows, columns=columns))


def product(single: pd.DataFrame, cell: pd.DataFrame, criteria: int) -> tuple[float, float, float]:
    """The mean, over the queries of `cell`, of the product of their criteria's rates in `single`.

    Both have a row a query, and criterion (a number, `OTHERS` first) and point by position. A skill
    that is not in `single` has the mean rate of those that are. The interval is from a seeded
    bootstrap: the queries of both are drawn again, the same ones where both are the same.
    """
    rng = np.random.default_rng(0)
    of_single = weights(len(single), rng)
    of_cell = of_single
    if single is not cell:
        of_cell = weights(len(cell), rng)
    named = np.eye(criteria)[single.criterion.to_numpy(int)]  # queries, positions, criteria
    given = named * single.point.to_numpy()[:, :, None]
    n = of_single @ named.sum(axis=1)  # samples, criteria
    points = of_single @ given.sum(axis=1)
    skills = slice(len(OTHERS), None)
    mean = points[:, skills].sum(axis=1) / n[:, skills].sum(axis=1)
    rates = np.where(n > 0, points / np.maximum(n, 1), mean[:, None])
    of_queries = rates[:, cell.criterion.to_numpy(int)].prod(axis=2)
    samples = np.average(of_queries, axis=1, weights=of_cell)
    low, high = np.quantile(samples[1:], [0.025, 0.975])
    return samples[0], low, high


def weights(queries: int, rng: np.random.Generator) -> np.ndarray:
    """How often each query is drawn: a row of ones, for what was seen, and a row a sample."""
    evenly = np.full(queries, 1 / queries)
    drawn = rng.multinomial(queries, evenly, size=SAMPLES)
    return np.vstack([np.ones(queries), drawn])
