"""Where the points are lost: what the mean of full marks hides.

Everything here is of single answers, by the majority of the first judge's gradings, with the
intervals of `intervals`: a query counts once, whatever number of answers it has.
"""

import numpy as np
import pandas as pd

from helpers.results.scores import CELL, OTHERS, criteria, means, voted
from helpers.task.points import FIRST_JUDGE

SAMPLES = 500  # of the bootstrap over queries
FULL = "full marks"


def first_judge(table: pd.DataFrame) -> pd.DataFrame:
    """The answers that the first judge could grade."""
    return table[(table.judge == FIRST_JUDGE) & (table.votes != "")]


def missing(table: pd.DataFrame) -> pd.DataFrame:
    """What answers lack: the share of each outcome (`Points.fault`, or `full marks`).

    Columns: model, setting, k, outcome, and those of `means`.
    """
    answers = first_judge(table)
    outcome = pd.Series([voted(votes).fault() or FULL for votes in answers.votes], answers.index)
    tables = []
    for name in outcome.unique():
        shares = answers.assign(share=outcome == name).groupby([*CELL, "seed", "query"]).share
        tables.append(means(shares.mean()).assign(outcome=name))
    return pd.concat(tables, ignore_index=True)


def skills_of(table: pd.DataFrame) -> pd.DataFrame:
    """`criteria` of the first judge, the skills only."""
    points = criteria(first_judge(table))
    return points[points.position <= points.k]


def by_position(table: pd.DataFrame) -> pd.DataFrame:
    """The share of points by a skill's position in the request.

    Columns: model, setting, k, position, and those of `means`.
    """
    by = [*CELL, "position"]
    return means(skills_of(table).groupby([*by, "seed", "query"]).point.mean(), by)


def by_skill(table: pd.DataFrame) -> pd.DataFrame:
    """Each skill's share of points. Columns: model, setting, k, criterion, and those of `means`."""
    by = [*CELL, "criterion"]
    return means(skills_of(table).groupby([*by, "seed", "query"]).point.mean(), by)


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
    observed = means(answers.groupby([*CELL, "seed", "query"]).full_marks.mean())
    points = criteria(answers)
    names = pd.Index([*OTHERS, *sorted(set(points.criterion) - set(OTHERS))])
    points["criterion"] = names.get_indexer(points.criterion)
    shares = points.groupby([*CELL, "query", "position"])[["criterion", "point"]].mean()
    cells = {cell: share.droplevel(CELL) for cell, share in shares.groupby(level=CELL)}
    rows = []
    for row in observed.itertuples():
        cell = cells[row.model, row.setting, row.k]
        single = cells.get((row.model, row.setting, 1))
        at_1 = (np.nan, np.nan, np.nan)
        if single is not None:
            at_1 = product(single, cell, len(names))
        rows.append((*at_1, *product(cell, cell, len(names))))
    columns = ["at_1", "at_1_low", "at_1_high", "at_k", "at_k_low", "at_k_high"]
    return observed.join(pd.DataFrame(rows, columns=columns))


def product(single: pd.DataFrame, cell: pd.DataFrame, criteria: int) -> tuple[float, float, float]:
    """The mean, over the queries of `cell`, of the product of their criteria's rates in `single`.

    Both have criterion (a number, `OTHERS` first) and point, by query and position. A skill that is
    not in `single` has the mean rate of those that are. The interval is from a seeded bootstrap:
    the queries of both are drawn again, the same ones where both are the same.
    """
    rng = np.random.default_rng(0)
    named = one_hot(single.criterion, criteria)
    point = single.point.unstack().to_numpy()[:, :, None]
    of_single = weights(len(named), rng)
    number = of_single @ named.sum(axis=1)
    given = of_single @ (named * point).sum(axis=1)
    is_skill = np.arange(criteria) >= len(OTHERS)
    mean = given[:, is_skill].sum(axis=1) / number[:, is_skill].sum(axis=1)
    rates = np.where(number > 0, given / np.maximum(number, 1), mean[:, None])
    wanted = cell.criterion.unstack().to_numpy(int)
    of_cell = of_single if single is cell else weights(len(wanted), rng)
    samples = np.average(rates[:, wanted].prod(axis=2), axis=1, weights=of_cell)
    low, high = np.quantile(samples[1:], [0.025, 0.975])
    return samples[0], low, high


def one_hot(numbers: pd.Series, size: int) -> np.ndarray:
    """Queries x positions x size, from a number a query and position."""
    return np.eye(size)[numbers.unstack().to_numpy(int)]


def weights(queries: int, rng: np.random.Generator) -> np.ndarray:
    """How often each query is drawn: a row of ones, for what was seen, and a row a sample."""
    drawn = rng.multinomial(queries, np.full(queries, 1 / queries), size=SAMPLES)
    return np.vstack([np.ones(queries), drawn])
