"""How sure a mean over training seeds and queries is, and a gain between two models.

A cell is an array (seeds, queries) of scores between 0 and 1. Seeds are a sample of trainings,
queries a sample of tasks, and scores of one seed, or of one query, resemble each other. So the
variance of a cell's mean has two parts:

    variance of the seeds' means / number of seeds
    + variance of the queries' means / number of queries

This is what a bootstrap over seeds and queries (Owen 2007, "The pigeonhole bootstrap") comes to, in
closed form, with n - 1 in the variances, which matters with three seeds. The residual variance,
which neither seeds nor queries explain, is counted twice, which widens the interval; the bootstrap
counts it three times. Quantiles are those of Student's t, with Satterthwaite's (1946) degrees of
freedom.

Means near 0 and 1 get Wilson's interval with the effective number of answers,
mean (1 - mean) / variance, as for clustered surveys (Dean and Pagano 2015). A cell without any
variation counts as one independent answer a query, whatever its seeds: 40 queries, all with full
marks, are 1.00 [0.91, 1.00]. The interval of a gain is made of both models' intervals (Newcombe
1998, method 10).

With a single seed the interval is over queries alone, and says nothing of another training.
tests/results/test_intervals.py tries all this on simulated data: 93% to 99% of the intervals hold
the truth, and at most 5% of runs without any effect claim a finding, unless training seeds differ
by more than we have seen.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd

# `scipy.special` is loaded where it is needed: most stages start without its tenth of a second.


def quantile(level: float, df: float) -> float:
    """The t that |T| exceeds with probability 1 - level."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def tail(t: float, df: float) -> float:
    """P(|T| > t)."""
    from scipy.special import stdtr

    return float(2 * stdtr(df, -t))


def freedom(*parts: tuple[float, float]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances, each with its own; 0 for none."""
    spread = sum(variance**2 / df for variance, df in parts if variance)
    if not spread:
        return 0.0
    total = sum(variance for variance, _ in parts)
    return total**2 / spread


def variance_of(scores: np.ndarray) -> float:
    """The variance of scores, with n - 1; 0 for a single score."""
    return float(scores.var(ddof=1)) if scores.size > 1 else 0.0


class Estimate:
    """A number that has an interval at any level, `between`, and degrees of freedom, `df`."""

    def interval(self) -> tuple[float, float]:
        """The 95% interval."""
        return self.between(quantile(0.95, self.df))


@dataclass(frozen=True)
class Mean(Estimate):
    """A cell's mean."""

    mean: float
    seeds: int
    queries: int
    variance: float  # of the mean; 0 only if no score differs
    df: float
    answers: float  # the effective number of independent ones

    def between(self, t: float) -> tuple[float, float]:
        """Wilson's interval with `t` in the normal quantile's place."""
        p = self.mean
        n = self.answers
        scale = 1 + t * t / n
        middle = (p + t * t / 2 / n) / scale
        variance = p * (1 - p) / n + t * t / 4 / n / n
        half = t * sqrt(variance) / scale
        low = max(0.0, middle - half)
        high = min(1.0, middle + half)
        return min(p, low), max(p, high)

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
    by_seeds = variance_of(cell.mean(axis=1)) / seeds
    by_queries = variance_of(cell.mean(axis=0)) / queries
    independent = variance_of(cell) / cell.size
    variance = max(by_seeds + by_queries, independent)
    df = freedom((by_seeds, seeds - 1), (by_queries, queries - 1))
    mean = float(cell.mean())
    answers = queries
    if variance:
        answers = mean * (1 - mean) / variance
    return Mean(
        mean,
        seeds,
        queries,
        variance,
        df or max(1, queries - 1),
        answers,
    )


@dataclass(frozen=True)
class Gain(Estimate):
    """The gain of one model over another on the same queries."""

    model: Mean
    against: Mean
    gain: float
    se: float
    df: float
    correlation: float  # of the two means

    def apart(self, x: float, y: float) -> float:
        """The size of the difference of two deviations that correlate as the models' means do."""
        square = x * x + y * y - 2 * self.correlation * x * y
        return sqrt(max(0.0, square))

    def between(self, t: float) -> tuple[float, float]:
        """Newcombe's interval.

        The distances from both means to their Wilson limits, combined with their correlation.
        """
        ours = self.model
        theirs = self.against
        our_low, our_high = ours.between(t)
        their_low, their_high = theirs.between(t)
        down = self.apart(ours.mean - our_low, their_high - theirs.mean)
        up = self.apart(our_high - ours.mean, theirs.mean - their_low)
        return self.gain - down, self.gain + up

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
    ours = mean_of(model)
    theirs = mean_of(against)
    shared = 0.0  # the covariance of the two means
    if ours.queries > 1:
        by_query = np.cov(model.mean(axis=0), against.mean(axis=0))
        shared = by_query[0, 1] / ours.queries
    spread = sqrt(ours.variance * theirs.variance)
    correlation = 0.0
    if spread:
        correlation = float(np.clip(shared / spread, -1, 1))
    variance = ours.se**2 + theirs.se**2 - 2 * shared
    df = freedom((ours.variance, ours.df), (theirs.variance, theirs.df))
    return Gain(
        ours,
        theirs,
        ours.mean - theirs.mean,
        sqrt(max(0.0, variance)),
        df or min(ours.df, theirs.df),
        correlation,
    )


def draws(queries: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each query counts: once in the first row, which is the observed data.

    Each other row is a bootstrap sample of the queries.
    """
    evenly = np.full(queries, 1 / queries)
    drawn = rng.multinomial(queries, evenly, size=samples)
    return np.vstack([np.ones(queries), drawn])


def of_draws(values: np.ndarray) -> tuple[float, float, float]:
    """The observed value and its 95% interval, from the values for each row of `draws`."""
    seen, *samples = values
    return seen, *pd.Series(samples).quantile([0.025, 0.975])
