"""What a second judge says of the same answers ([ZK24], the check with Claude 3).

How far it agrees with the first, and what of the findings stays. Judges are compared point by
point, each by the majority of its gradings. The point on sentences is counted in code, the same for
all, and left out. Without a second judge every table here is empty.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.results.findings import COMPARED, FINDINGS, Finding, findings
from helpers.results.scores import KEY, OTHERS, criteria
from helpers.task.points import FIRST_JUDGE

ENOUGH = 30  # points; a skill with fewer has no row of its own
SAMPLES = 1000  # of the bootstrap over queries
COLUMNS = ["judge", "criterion", "n", "first", "second", "agreement", "kappa", "low", "high"]


def kappa(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa of counts (..., 4): both 0, only the second, only the first, both 1.

    NaN where both judges always say the same.
    """
    neither, only_second, only_first, both = np.moveaxis(counts, -1, 0)
    n = neither + only_second + only_first + both
    same = (neither + both) / n
    first = (only_first + both) / n
    second = (only_second + both) / n
    chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (same - chance) / (1 - chance), np.nan)


def kappa_of(group: pd.DataFrame, *, seed: int) -> tuple[float, float, float]:
    """Kappa and its 95% interval, from a seeded bootstrap of queries: their answers are alike."""
    both = 2 * group.point_first + group.point_second
    counts = pd.crosstab([group.setting, group.k, group["query"]], both)
    counts = counts.reindex(columns=range(4), fill_value=0).to_numpy()
    queries = len(counts)
    rng = np.random.default_rng(seed)
    evenly = np.full(queries, 1 / queries)
    weights = rng.multinomial(queries, evenly, size=SAMPLES)
    samples = kappa(weights @ counts)
    low = high = np.nan
    if not np.isnan(samples).all():
        low, high = np.nanquantile(samples, [0.025, 0.975])
    return float(kappa(counts.sum(axis=0))), low, high


def agreement(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How far each second judge agrees with the first on each kind of criterion, and each skill.

    Columns: judge, criterion (`all skills`, `on topic`, `makes sense`, then by name the skills that
    have `ENOUGH` points), n (points that both gave), first and second (share of points given),
    agreement, kappa, low, high (its 95% interval).
    """
    if table.judge.nunique() < 2:
        return pd.DataFrame(columns=COLUMNS)
    points = criteria(table)
    points = points[points.criterion != "sentences"]
    is_first = points.judge == FIRST_JUDGE
    both = points[~is_first].merge(
        points[is_first].drop(columns="judge"),
        on=[*KEY, "generation", "position", "criterion"],
        suffixes=("_second", "_first"),
    )
    is_skill = ~both.criterion.isin(OTHERS)
    kinds = both.assign(criterion=both.criterion.mask(is_skill, "all skills"))
    skills = both[is_skill].groupby(["judge", "criterion"])
    of_skills = skills.filter(lambda points: len(points) >= ENOUGH)
    rows = []
    for points_of_both in (kinds, of_skills):
        for (judge, criterion), group in points_of_both.groupby(["judge", "criterion"]):
            first = group.point_first
            second = group.point_second
            same = first == second
            row = (
                judge,
                criterion,
                len(group),
                first.mean(),
                second.mean(),
                same.mean(),
                *kappa_of(group, seed=seed),
            )
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def swap(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every finding by each judge's grades: gains, verdicts, and whether the first one's survives.

    Columns: those of `COMPARED`, judge, gain, verdict, first gain, first verdict, survives.
    """
    tables = []
    for judge in table.judge.unique():
        gains = findings(table, claims, judge=judge, **rules)
        tables.append(gains.assign(judge=judge))
    gains = pd.concat(tables)[[*COMPARED, "judge", "gain", "verdict"]]
    is_first = gains.judge == FIRST_JUDGE
    names = {"gain": "first gain", "verdict": "first verdict"}
    first = gains[is_first].drop(columns="judge").rename(columns=names)
    swapped = gains[~is_first].merge(first, on=COMPARED)
    return swapped.assign(survives=swapped.verdict == swapped["first verdict"])


def what_changed(swapped: pd.DataFrame) -> str:
    """In a few sentences, what each second judge changed of the verdicts."""
    lines = []
    for judge, rows in swapped.groupby("judge"):
        lines.append(f"Judge {judge}: {rows.survives.sum()} of {len(rows)} verdicts stay.")
        for row in rows[~rows.survives].rename(columns={"first verdict": "first"}).itertuples():
            lines.append(
                f"  {row.claim}, {row.model} at k = {row.k}: {row.first}"
                f" with the first judge, {row.verdict} with {judge}"
            )
    return "\n".join(lines) or "No second judge graded what a claim is about."
