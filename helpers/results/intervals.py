"""How sure a mean over training seeds and queries is, and a gain between two models asked the same queries.

A cell is an array (seeds, queries) of scores between 0 and 1. Seeds and queries are both samples, of trainings and of
tasks, and answers of one seed, or to one query, are alike. So the variance of a cell's mean is that of its seeds' means
over their number plus that of its queries' means over theirs: what a bootstrap of seeds and queries (Owen 2007, "The
pigeonhole bootstrap") comes to, in closed form and with the n - 1 that three seeds need. What neither explains counts in
both, once too often; the bootstrap counts it three times. The degrees of freedom are Satterthwaite's (1946), and Student's
t takes the normal's place.

Means near 0 and 1 get Wilson's interval with the effective number of answers, mean (1 - mean) / variance, as for clustered
surveys (Dean and Pagano 2015). A cell without any variation counts as one independent answer a query, whatever its seeds:
40 queries, all with full marks, are 1.00 [0.91, 1.00]. A gain combines both models' intervals (Newcombe 1998, method 10).

With a single seed the interval is over queries alone, and says nothing of another training. On simulated data 93% to 99%
of the intervals hold the truth, and at most 5% of runs without any effect claim a finding, unless training seeds differ
by more than we have seen: tests/test_intervals.py.
"""

import dataclasses
from math import sqrt

import numpy as np
from scipy.special import stdtr, stdtrit


def quantile(level: float, df: float) -> float:
    """The t that |T| exceeds with probability 1 - level."""
    return float(stdtrit(df, (1 + level) / 2))


def tail(t: float, df: float) -> float:
    """P(|T| > t)."""
    return float(2 * stdtr(df, -t))


@dataclasses.dataclass(frozen=True)
class Mean:
    """A cell's mean and where its variance is from."""

    mean: float
    seeds: int
    queries: int
    of_seeds: float  # variance of the seeds' means; 0 for a single seed
    of_queries: float  # variance of the queries' means
    residual: float  # variance of what neither explains; 0 for a single seed
    total: float  # variance of the scores

    @property
    def variance(self) -> float:
        """Of the mean; at least what independent answers would have, and 0 only if no score differs."""
        return max(
            self.of_seeds / self.seeds + self.of_queries / self.queries,
            self.total / (self.seeds * self.queries),
        )

    @property
    def df(self) -> float:
        """Degrees of freedom of the variance (Satterthwaite)."""
        parts = [
            (self.of_seeds / self.seeds, self.seeds - 1),
            (self.of_queries / self.queries, self.queries - 1),
        ]
        spread = sum(part**2 / df for part, df in parts if part)
        return sum(part for part, _ in parts) ** 2 / spread if spread else max(1, self.queries - 1)

    @property
    def answers(self) -> float:
        """The effective number of independent answers."""
        return self.mean * (1 - self.mean) / self.variance if self.variance else self.queries

    def between(self, t: float) -> tuple[float, float]:
        """Wilson's interval with `t` in the normal quantile's place."""
        n, p = self.answers, self.mean
        middle, half = (
            (p + t * t / 2 / n) / (1 + t * t / n),
            t * sqrt(p * (1 - p) / n + t * t / 4 / n / n) / (1 + t * t / n),
        )
        return min(p, max(0.0, middle - half)), max(p, min(1.0, middle + half))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        return self.between(quantile(level, self.df))

    @property
    def se(self) -> float:
        """Standard error; of a cell without variation, its interval's half width in units of t."""
        low, high = self.interval()
        return sqrt(self.variance) or (high - low) / 2 / quantile(0.95, self.df)

    @property
    def of_trainings(self) -> float:
        """Variance between trainings that more queries would not lessen; 0 for a single seed."""
        return max(0.0, self.of_seeds - self.residual / self.queries)

    def with_trainings_alike(self) -> "Mean":
        """What it would be if seeds differed by no more than their queries explain."""
        return dataclasses.replace(self, of_seeds=self.of_seeds - self.of_trainings)

    def with_queries(self, queries: int) -> "Mean":
        """What it would be with another number of queries, if mean and variances stayed as they are."""
        return dataclasses.replace(
            self, queries=queries, of_seeds=self.of_trainings + self.residual / queries
        )


def mean_of(cell: np.ndarray) -> Mean:
    """The mean of a cell (seeds, queries) without missing scores."""
    seeds, queries = cell.shape
    by_seed, by_query, mean = cell.mean(axis=1), cell.mean(axis=0), cell.mean()
    rest = cell - by_seed[:, None] - by_query + mean
    spare = (seeds - 1) * (queries - 1)
    return Mean(
        mean=float(mean),
        seeds=seeds,
        queries=queries,
        of_seeds=float(by_seed.var(ddof=1)) if seeds > 1 else 0.0,
        of_queries=float(by_query.var(ddof=1)) if queries > 1 else 0.0,
        residual=float((rest**2).sum() / spare) if spare else 0.0,
        total=float(cell.var(ddof=1)) if cell.size > 1 else 0.0,
    )


@dataclasses.dataclass(frozen=True)
class Gain:
    """The gain of one model over another on the same queries."""

    model: Mean
    against: Mean
    covariance: float  # of the two models' means of a query

    @property
    def gain(self) -> float:
        return self.model.mean - self.against.mean

    @property
    def df(self) -> float:
        a, b = self.model, self.against
        if not a.variance + b.variance:
            return min(a.df, b.df)
        return (a.variance + b.variance) ** 2 / (a.variance**2 / a.df + b.variance**2 / b.df)

    @property
    def se(self) -> float:
        shared = self.covariance / self.model.queries
        return sqrt(max(0.0, self.model.se**2 + self.against.se**2 - 2 * shared))

    def between(self, t: float) -> tuple[float, float]:
        """Newcombe's interval: the distances to both models' Wilson limits, combined as their correlation has it."""
        a, b, gain = self.model, self.against, self.gain
        spread = sqrt(a.variance * b.variance)
        alike = float(np.clip(self.covariance / a.queries / spread, -1, 1)) if spread else 0.0
        (low_a, high_a), (low_b, high_b) = a.between(t), b.between(t)
        down, up = (a.mean - low_a, high_b - b.mean), (high_a - a.mean, b.mean - low_b)
        low, high = (sqrt(max(0.0, x * x + y * y - 2 * alike * x * y)) for x, y in (down, up))
        return gain - low, gain + high

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        return self.between(quantile(level, self.df))

    @property
    def p(self) -> float:
        """Of no gain, two-sided: 1 minus the level at which the interval just reaches 0."""
        inside, outside = 1e3, 0.0  # in units of t; the interval grows with t
        for _ in range(60):
            t = (inside + outside) / 2
            low, high = self.between(t)
            inside, outside = (t, outside) if low <= 0 <= high else (inside, t)
        return tail(inside, self.df)

    def with_trainings_alike(self) -> "Gain":
        return dataclasses.replace(
            self,
            model=self.model.with_trainings_alike(),
            against=self.against.with_trainings_alike(),
        )

    def with_queries(self, queries: int) -> "Gain":
        return dataclasses.replace(
            self, model=self.model.with_queries(queries), against=self.against.with_queries(queries)
        )


def gain_of(model: np.ndarray, against: np.ndarray) -> Gain:
    """The gain between two cells whose columns are the same queries; their seeds have nothing to do with each other."""
    assert model.shape[1] == against.shape[1], "both models must have been asked the same queries"
    shared = np.cov(model.mean(axis=0), against.mean(axis=0))[0, 1] if model.shape[1] > 1 else 0.0
    return Gain(mean_of(model), mean_of(against), float(shared))
