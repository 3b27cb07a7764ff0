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
    n = counts.sum(axis=-1)
    same = counts[..., [0, 3]].sum(axis=-1) / n
    first = counts[..., [2, 3]].sum(axis=-1) / n
    second = counts[..., [1, 3]].sum(axis=-1) / n
    chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (same - chance) / (1 - chance), np.nan)


def kappa_of(group: pd.DataFrame, *, seed: int) -> tuple[float, float, float]:
    """Kappa and its 95% interval, from a seeded bootstrap of queries: their answers are alike."""
    query = group.groupby(["setting", "k", "query"], sort=False).ngroup().to_numpy()
    queries = query.max() + 1
    cell = 2 * group.point_first + group.point_second
    counts = np.zeros((queries, 4))
    np.add.at(counts, (query, cell), 1)
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
    both = points[is_first].merge(
        points[~is_first],
        on=[*KEY, "generation", "position", "criterion"],
        suffixes=("_first", "_second"),
    )
    both = both.drop(columns="judge_first").rename(columns={"judge_second": "judge"})
    of_skills = ~both.criterion.isin(OTHERS)
    kinds = both.assign(criterion=both.criterion.mask(of_skills, "all skills"))
    skills = both[of_skills]
    size = skills.groupby(["judge", "criterion"]).point_first.transform("size")
    rows = []
    for points_of_both in (kinds, skills[size >= ENOUGH]):
        for (judge, criterion), group in points_of_both.groupby(["judge", "criterion"]):
            first = group.point_first
            second = group.point_second
            shares = (first.mean(), second.mean(), (first == second).mean())
            rows.append((judge, criterion, len(group), *shares, *kappa_of(group, seed=seed)))
    return pd.DataFrame(rows, columns=COLUMNS)


def swap(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every finding by each judge's grades: gains, verdicts, and whether the first one's survives.

    Columns: those of `COMPARED`, judge, first gain, gain, first verdict, verdict, survives.
    """
    names = {"gain": "first gain", "verdict": "first verdict"}
    results = [*COMPARED, "gain", "verdict"]
    first = findings(table, claims, **rules)[results].rename(columns=names)
    tables = [first[:0].assign(judge="", gain=0.0, verdict="")]  # the columns, where nobody follows
    for judge in table.judge.unique():
        if judge == FIRST_JUDGE:
            continue
        second = findings(table, claims, judge=judge, **rules)[results]
        both = first.merge(second, on=COMPARED)
        tables.append(both.assign(judge=judge))
    swapped = pd.concat(tables, ignore_index=True)
    swapped["survives"] = swapped["first verdict"] == swapped["verdict"]
    return swapped[[*COMPARED, "judge", *names.values(), "gain", "verdict", "survives"]]


def what_changed(swapped: pd.DataFrame) -> str:
    """In a few sentences, what each second judge changed of the verdicts."""
    lines = []
    for judge, rows in swapped.groupby("judge"):
        lines.append(f"Judge {judge}: {rows.survives.sum()} of {len(rows)} verdicts stay.")
        for row in rows[~rows.survives].to_dict("records"):
            lines.append(
                f"  {row['claim']}, {row['model']} at k = {row['k']}: {row['first verdict']} "
                f"with the first judge, {row['verdict']} with {judge}"
            )
    return "\n".join(lines) or "No second judge graded what a claim is about."
