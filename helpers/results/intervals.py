"""How sure a mean over training seeds and queries is, and a gain between two models.

A cell is an array (seeds, queries) of scores between 0 and 1. Seeds and queries are both samples,
of trainings and of tasks, and answers of one seed, or to one query, are alike. So the variance of a
cell's mean is that of its seeds' means over their number plus that of its queries' means over
theirs: what a bootstrap of seeds and queries (Owen 2007, "The pigeonhole bootstrap") comes to, in
closed form and with the n - 1 that three seeds need. The residual variance, which neither explains,
is counted twice, which widens the interval; the bootstrap counts it three times. The degrees of
freedom are Satterthwaite's (1946), and Student's t takes the normal's place.

Means near 0 and 1 get Wilson's interval with the effective number of answers,
mean (1 - mean) / variance, as for clustered surveys (Dean and Pagano 2015). A cell without any
variation counts as one independent answer a query, whatever its seeds: 40 queries, all with full
marks, are 1.00 [0.91, 1.00]. A gain combines both models' intervals (Newcombe 1998, method 10).

With a single seed the interval is over queries alone, and says nothing of another training. On
simulated data 93% to 99% of the intervals hold the truth, and at most 5% of runs without any effect
claim a finding, unless training seeds differ by more than we have seen:
tests/results/test_intervals.py.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.special import stdtr, stdtrit


def quantile(level: float, df: float) -> float:
    """The t that |T| exceeds with probability 1 - level."""
    return float(stdtrit(df, (1 + level) / 2))


def tail(t: float, df: float) -> float:
    """P(|T| > t)."""
    return float(2 * stdtr(df, -t))


@dataclass(frozen=True)
class Mean:
    """A cell's mean and where its variance is from."""

    mean: float
    seeds: int
    queries: int
    of_seeds: float  # variance of the seeds' means; 0 for a single seed
    of_queries: float  # variance of the queries' means
    total: float  # variance of the scores

    @property
    def variance(self) -> float:
        """Of the mean; at least that of independent answers, and 0 only if no score differs."""
        clustered = self.of_seeds / self.seeds + self.of_queries / self.queries
        independent = self.total / (self.seeds * self.queries)
        return max(clustered, independent)

    @property
    def df(self) -> float:
        """Degrees of freedom of the variance (Satterthwaite)."""
        by_seeds = self.of_seeds / self.seeds
        by_queries = self.of_queries / self.queries
        spread = 0.0
        if by_seeds:
            spread += by_seeds**2 / (self.seeds - 1)
        if by_queries:
            spread += by_queries**2 / (self.queries - 1)
        if not spread:
            return max(1, self.queries - 1)
        return (by_seeds + by_queries) ** 2 / spread

    @property
    def answers(self) -> float:
        """The effective number of independent answers."""
        if not self.variance:
            return self.queries
        return self.mean * (1 - self.mean) / self.variance

    def between(self, t: float) -> tuple[float, float]:
        """Wilson's interval with `t` in the normal quantile's place."""
        n = self.answers
        p = self.mean
        scale = 1 + t * t / n
        middle = (p + t * t / 2 / n) / scale
        variance = p * (1 - p) / n + t * t / 4 / n / n
        half = t * sqrt(variance) / scale
        low = max(0.0, middle - half)
        high = min(1.0, middle + half)
        return min(p, low), max(p, high)

    def interval(self) -> tuple[float, float]:
        """95%."""
        return self.between(quantile(0.95, self.df))

    @property
    def se(self) -> float:
        """Standard error; without any variation, the interval's half width in units of t."""
        if self.variance:
            return sqrt(self.variance)
        low, high = self.interval()
        return (high - low) / 2 / quantile(0.95, self.df)


def mean_of(cell: np.ndarray) -> Mean:
    """The mean of a cell (seeds, queries) without missing scores."""
    seeds, queries = cell.shape
    return Mean(
        mean=float(cell.mean()),
        seeds=seeds,
        queries=queries,
        of_seeds=variance_of(cell.mean(axis=1)),
        of_queries=variance_of(cell.mean(axis=0)),
        total=variance_of(cell),
    )


def variance_of(scores: np.ndarray) -> float:
    """With n - 1; 0 for a single score."""
    return float(scores.var(ddof=1)) if scores.size > 1 else 0.0


@dataclass(frozen=True)
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
        ours = self.model
        theirs = self.against
        variance = ours.variance + theirs.variance
        if not variance:
            return min(ours.df, theirs.df)
        spread = ours.variance**2 / ours.df + theirs.variance**2 / theirs.df
        return variance**2 / spread

    @property
    def se(self) -> float:
        shared = self.covariance / self.model.queries
        variance = self.model.se**2 + self.against.se**2 - 2 * shared
        return sqrt(max(0.0, variance))

    @property
    def correlation(self) -> float:
        """Of the two models' means."""
        spread = sqrt(self.model.variance * self.against.variance)
        if not spread:
            return 0.0
        correlation = self.covariance / self.model.queries / spread
        return float(np.clip(correlation, -1, 1))

    def between(self, t: float) -> tuple[float, float]:
        """Newcombe's interval.

        The distances to both models' Wilson limits, combined as their correlation has it.
        """
        ours = self.model
        theirs = self.against
        our_low, our_high = ours.between(t)
        their_low, their_high = theirs.between(t)
        down = self.apart(ours.mean - our_low, their_high - theirs.mean)
        up = self.apart(our_high - ours.mean, theirs.mean - their_low)
        return self.gain - down, self.gain + up

    def apart(self, x: float, y: float) -> float:
        """The length of a difference of two deviations as correlated as the models' means."""
        square = x * x + y * y - 2 * self.correlation * x * y
        return sqrt(max(0.0, square))

    def interval(self) -> tuple[float, float]:
        """95%."""
        return self.between(quantile(0.95, self.df))

    @property
    def p(self) -> float:
        """Two-sided p-value of a zero gain: 1 minus the level whose interval just reaches 0."""
        inside, outside = 1e3, 0.0  # in units of t; the interval grows with t
        for _ in range(60):
            t = (inside + outside) / 2
            low, high = self.between(t)
            if low <= 0 <= high:
                inside = t
            else:
                outside = t
        return tail(inside, self.df)


def gain_of(model: np.ndarray, against: np.ndarray) -> Gain:
    """The gain between two cells whose columns are the same queries; the rows are seeds."""
    assert model.shape[1] == against.shape[1], "both models must have been asked the same queries"
    shared = 0.0
    if model.shape[1] > 1:
        shared = np.cov(model.mean(axis=0), against.mean(axis=0))[0, 1]
    return Gain(mean_of(model), mean_of(against), float(shared))
