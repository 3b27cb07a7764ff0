"""Intervals and tests on data whose truth is known.

Seeds and queries are simulated, each with effects of its own; answers are 0 or 1.
"""

from functools import lru_cache

import numpy as np
import pytest

from helpers.results import findings, intervals
from helpers.results.intervals import gain_of, mean_of

MODELS = ("base", "k1", "k12", "k123", "padded")
NORMAL = np.random.default_rng(9).normal(size=20_000)


@lru_cache(maxsize=1000)
def centre(mean: float, spread: float) -> float:
    """The logit around which effects of this spread give this mean."""
    if mean in (0, 1):
        return 60 * mean - 30.0
    low, high = -25.0, 25.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if (1 / (1 + np.exp(-middle - NORMAL * spread))).mean() < mean
            else (low, middle)
        )
    return middle


def simulated(
    rng,
    seeds: int,
    queries: int,
    mean: float,
    *,
    of_seeds: float = 0.0,
    of_queries=0.0,
    own: float = 0.0,
) -> np.ndarray:
    """Answers (seeds, queries).

    `of_queries` are effects of the queries, or their spread; `own` is a spread that this model
    adds. Spreads are on the logit scale: 1.5 between queries makes a correlation of about 0.3
    between seeds' answers, as we see in the miniature; 0.3 between seeds moves a mean of 0.5 by
    0.07, 0.8 by 0.17.
    """
    effects = rng.normal(size=queries) * of_queries if np.isscalar(of_queries) else of_queries
    spread = float(
        np.hypot(
            of_queries if np.isscalar(of_queries) else effects.std().round(1),
            np.hypot(of_seeds, own),
        )
    )
    logit = (
        centre(mean, spread)
        + rng.normal(size=(seeds, 1)) * of_seeds
        + effects
        + rng.normal(size=queries) * own
    )
    return (rng.random((seeds, queries)) < 1 / (1 + np.exp(-logit))).astype(float)


def covered(rng, runs: int, seeds: int, queries: int, mean: float, **spreads) -> float:
    held = 0
    for _ in range(runs):
        low, high = mean_of(simulated(rng, seeds, queries, mean, **spreads)).interval()
        held += low <= mean <= high
    return held / runs


# ---------------------------------------------------------------- formulas


def test_student_is_the_table():
    table = {
        (0.95, 1): 12.706,
        (0.95, 2): 4.303,
        (0.95, 10): 2.228,
        (0.99, 3): 5.841,
        (0.95, 39): 2.023,
        (0.95, 1000): 1.962,
        (0.5, 5): 0.727,
    }
    for (level, df), t in table.items():
        assert intervals.quantile(level, df) == pytest.approx(t, rel=1e-3)
        assert intervals.tail(t, df) == pytest.approx(1 - level, abs=2e-4)


def test_a_means_parts_against_slow_sums():
    cell = np.random.default_rng(0).random((3, 7))
    found = mean_of(cell)
    grand = sum(cell[s][q] for s in range(3) for q in range(7)) / 21
    rows, columns = (
        [sum(cell[s]) / 7 for s in range(3)],
        [sum(cell[s][q] for s in range(3)) / 3 for q in range(7)],
    )
    assert found.mean == pytest.approx(grand)
    by_seeds = sum((r - grand) ** 2 for r in rows) / 2 / 3
    by_queries = sum((c - grand) ** 2 for c in columns) / 6 / 7
    assert found.variance == pytest.approx(by_seeds + by_queries)
    spread = by_seeds**2 / 2 + by_queries**2 / 6
    assert found.df == pytest.approx((by_seeds + by_queries) ** 2 / spread)


def test_one_seed_is_the_plain_standard_error():
    cell = np.array([[1, 0, 1, 1, 0, 1, 1, 1, 0, 1.0]])
    assert mean_of(cell).se == pytest.approx(cell[0].std(ddof=1) / np.sqrt(10))
    assert mean_of(cell).df == 9


def test_the_variance_is_that_of_a_hierarchical_bootstrap():
    """Seeds and queries resampled: ours with n for n - 1, and the residual variance once more."""
    rng = np.random.default_rng(0)
    cell = simulated(rng, 8, 200, 0.4, of_seeds=0.5, of_queries=1.5)
    means = [
        cell[np.ix_(rng.integers(8, size=8), rng.integers(200, size=200))].mean()
        for _ in range(4000)
    ]
    of_seeds = cell.mean(axis=1).var(ddof=1)
    of_queries = cell.mean(axis=0).var(ddof=1)
    assert mean_of(cell).variance == pytest.approx(of_seeds / 8 + of_queries / 200)
    rest = cell - cell.mean(axis=1)[:, None] - cell.mean(axis=0) + cell.mean()
    residual = (rest**2).sum() / (7 * 199)
    bootstrap = of_seeds / 8 * 7 / 8 + (of_queries + residual / 8 * 7 / 8) / 200 * 199 / 200
    assert np.var(means) == pytest.approx(bootstrap, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_cells_without_variation_do_not_claim_certainty(value):
    """One independent answer a query, however many seeds: 40 queries are like 40 answers."""
    alone, three = (mean_of(np.full((seeds, 40), value)) for seeds in (1, 3))
    assert alone.interval() == three.interval()
    low, high = three.interval()
    assert (low, high)[value == 0] == pytest.approx(abs(value - 0.093), abs=0.001)
    assert (low, high)[value == 1] == value
    assert three.se > 0.01
    low, high = gain_of(np.full((3, 40), value), np.full((1, 40), value)).interval()
    assert low < -0.05
    assert high > 0.05
    low, high = gain_of(np.ones((3, 40)), np.zeros((1, 40))).interval()
    assert 0.8 < low < 0.95
    assert high == 1


def test_intervals_stay_where_means_can_be():
    rng = np.random.default_rng(1)
    for mean in (0.0, 0.01, 0.5, 0.99, 1.0):
        for seeds, queries in ((1, 1), (1, 5), (2, 3), (3, 40)):
            cell, other = (
                simulated(rng, s, queries, mean, of_seeds=1, of_queries=1) for s in (seeds, 1)
            )
            found = mean_of(cell)
            low, high = found.interval()
            assert 0 <= low <= found.mean <= high <= 1
            assert low < high
            gain = gain_of(cell, other)
            low, high = gain.interval()
            assert -1 <= low <= gain.gain <= high <= 1
            assert 0 <= gain.p <= 1


def test_p_is_below_5_percent_just_where_the_interval_leaves_zero():
    rng = np.random.default_rng(2)
    for mean in np.linspace(0.1, 0.9, 60):
        gain = gain_of(simulated(rng, 3, 40, mean, of_seeds=0.3), simulated(rng, 1, 40, 0.4))
        low, high = gain.interval()
        assert (gain.p < 0.05) == (not low <= 0 <= high)


def test_pairing_counts():
    """Two models alike on every query have a narrower gain than two with nothing in common."""
    rng = np.random.default_rng(3)
    cell = simulated(rng, 1, 100, 0.5)
    low, high = gain_of(cell, cell).interval()
    assert (low, high) == pytest.approx((0, 0), abs=0.01)
    apart = gain_of(cell, simulated(rng, 1, 100, 0.5))
    assert np.ptp(apart.interval()) > 0.2


# ---------------------------------------------------------------- coverage and false positives


def test_intervals_cover_the_truth():
    """Three seeds of 40 queries, and one of 100, with effects as in the miniature.

    test_coverage_everywhere is the longer proof.
    """
    rng = np.random.default_rng(5)
    for seeds, queries, mean in ((3, 40, 0.5), (3, 40, 0.05), (1, 100, 0.1)):
        reached = covered(
            rng, 1500, seeds, queries, mean, of_seeds=0.3 * (seeds > 1), of_queries=1.5
        )
        assert reached >= 0.93, f"{seeds} x {queries} at {mean}: {reached:.3f}"


@pytest.mark.slow
def test_coverage_everywhere():
    """2,000 runs a case. Three seeds of 40 queries: 0.93 to 0.99 (most above 0.96).

    One seed of 100: 0.93 to 0.95. The smallest is at seeds that differ by 0.17 around a mean of 0.5
    with queries that do not differ.
    """
    rng, reached = np.random.default_rng(6), {}
    for mean in (0.02, 0.1, 0.5, 0.9):
        for of_seeds in (0.0, 0.3, 0.8):
            for of_queries in (0.0, 1.5, 3.0):
                spreads = {"of_seeds": of_seeds, "of_queries": of_queries}
                reached[3, mean, of_seeds, of_queries] = covered(rng, 2000, 3, 40, mean, **spreads)
        for of_queries in (0.0, 1.5, 3.0):
            reached[1, mean, 0, of_queries] = covered(
                rng, 2000, 1, 100, mean, of_queries=of_queries
            )
    print({case: round(share, 3) for case, share in reached.items()})
    assert min(reached.values()) >= 0.915, min(reached, key=reached.get)
    assert max(share for case, share in reached.items() if case[0] == 1) <= 0.98, (
        "one seed: not too wide either"
    )
    assert np.mean(list(reached.values())) <= 0.985


@pytest.mark.slow
def test_a_percentile_bootstrap_of_seeds_and_queries_covers_less():
    """Why the closed form: quantiles know neither three seeds nor a cell with hardly a full mark.

    500 runs a case.
    """
    rng, reached = np.random.default_rng(12), {}
    for mean, of_seeds, of_queries in ((0.5, 0.8, 0.0), (0.02, 0.3, 3.0), (0.9, 0.8, 1.5)):
        held = np.zeros(2)
        for _ in range(500):
            cell = simulated(rng, 3, 40, mean, of_seeds=of_seeds, of_queries=of_queries)
            means = [
                cell[np.ix_(rng.integers(3, size=3), rng.integers(40, size=40))].mean()
                for _ in range(200)
            ]
            for i, (low, high) in enumerate(
                [mean_of(cell).interval(), np.quantile(means, [0.025, 0.975])]
            ):
                held[i] += low <= mean <= high
        reached[mean] = held / 500
    print(reached)
    assert all(ours > theirs for ours, theirs in reached.values())
    assert min(theirs for _, theirs in reached.values()) < 0.8


def family(rng, *, means: dict[str, float], seeds: int, queries: int, of_seeds: float) -> list:
    """A gain for each test of FINDINGS, of the models in `means`.

    Models share their queries' effects; k and settings have queries of their own.
    """
    gains, cells = [], {}
    for finding in findings.FINDINGS:
        for k in finding.ks:
            place = (finding.setting, k)
            effects = cells.setdefault(place, rng.normal(size=queries) * 1.5)
            for model in (finding.model, finding.against):
                if (place, model) not in cells:
                    spread = {
                        "of_seeds": 0.0 if model == "base" or seeds == 1 else of_seeds,
                        "of_queries": effects,
                        "own": 0.5,
                    }
                    cells[place, model] = simulated(
                        rng, 1 if model == "base" else seeds, queries, means[model], **spread
                    )
            gains.append(gain_of(cells[place, finding.model], cells[place, finding.against]))
    return gains


def claims(gains) -> int:
    adjusted = findings.holm([gain.p for gain in gains])
    return sum(p < findings.LEVEL for p in adjusted)


def test_no_finding_where_there_is_none_and_one_where_there_is():
    rng = np.random.default_rng(7)
    same = dict.fromkeys(MODELS, 0.3)
    false = sum(
        claims(family(rng, means=same, seeds=3, queries=40, of_seeds=0.3)) > 0 for _ in range(40)
    )
    assert false <= 6, (
        f"{false} of 40 runs without any effect claim one; 5% was promised, 6 is bad luck (1%)"
    )
    gains = family(
        rng,
        means=dict.fromkeys(MODELS, 0.1) | {"k123": 0.8},
        seeds=3,
        queries=40,
        of_seeds=0.3,
    )
    assert claims(gains[2:]) == len(gains) - 2
    assert min(gain.p for gain in gains[:2]) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "queries"), [(3, 40), (1, 100)])
def test_false_claims_are_rare(seeds, queries):
    """No model differs: at most 5% of runs claim something, while seeds differ as we see them.

    In the miniature they move a mean of 0.5 by at most 0.10, which is 0.4 on the logit scale. At
    0.8, seeds that differ by 0.17, three of them are too few to know it: up to 11% of runs then
    claim something. Else 0 to 6% of 250 runs do.
    """
    rng, reached = np.random.default_rng(8), {}
    for mean in (0.03, 0.3, 0.8):
        for of_seeds in (0.0, 0.4, 0.8) if seeds > 1 else (0.0,):
            same = dict.fromkeys(MODELS, mean)
            runs = [
                claims(family(rng, means=same, seeds=seeds, queries=queries, of_seeds=of_seeds)) > 0
                for _ in range(250)
            ]
            reached[mean, of_seeds] = np.mean(runs)
    print(reached)
    usual = [share for (_, of_seeds), share in reached.items() if of_seeds < 0.8]
    assert np.mean(usual) <= 0.05
    assert max(usual) <= 0.08, "one case of 250 runs; 5% may show as 8% by bad luck at 1 in 50"
    assert max(reached.values()) <= 0.14, "more than the docstring owns to"


@pytest.mark.slow
def test_gains_cover_the_truth():
    """1,000 runs a case, 3 x 40 against a base or 3 x 40, and 1 x 100. Reached: 0.94 to 1.00."""
    rng, reached = np.random.default_rng(10), {}
    for seeds, others, queries in ((3, 1, 40), (3, 3, 40), (1, 1, 100)):
        for mean, against in ((0.05, 0.02), (0.1, 0.0), (1.0, 0.8), (0.7, 0.02), (0.5, 0.3)):
            for of_seeds in (0.0, 0.3, 0.8) if seeds > 1 else (0.0,):
                held = 0
                for _ in range(1000):
                    effects = rng.normal(size=queries) * 1.5
                    cells = [
                        simulated(
                            rng,
                            s,
                            queries,
                            m,
                            of_seeds=of_seeds * (s > 1),
                            of_queries=effects,
                            own=0.5,
                        )
                        for s, m in ((seeds, mean), (others, against))
                    ]
                    low, high = gain_of(*cells).interval()
                    held += low <= mean - against <= high
                reached[seeds, others, mean, against, of_seeds] = held / 1000
    print(reached)
    assert min(reached.values()) >= 0.92, min(reached, key=reached.get)
