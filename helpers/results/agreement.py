"""What a second judge says of the same answers ([ZK24], the check with Claude 3).

How far it agrees with the first, and which findings stay. Judges are compared point by point, each
by the majority of its gradings. The point on sentences is left out: code decides it, the same for
all judges. Without a second judge every table here is empty.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.results.findings import COMPARED, FINDINGS, Finding, findings
from helpers.results.intervals import draws, of_draws
from helpers.results.scores import KEY, OTHERS, criteria
from helpers.task.points import FIRST_JUDGE

ENOUGH = 30  # points; a skill with fewer has no row of its own
SAMPLES = 1000  # of the bootstrap over queries
COLUMNS = ["judge", "criterion", "n", "first", "second", "agreement", "kappa", "low", "high"]


def kappa(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa of counts (..., 4); NaN where both judges always say the same.

    The four counts are of points that neither judge gives, only the second, only the first, both.
    """
    shares = counts / counts.sum(axis=-1, keepdims=True)
    neither, only_second, only_first, both = np.moveaxis(shares, -1, 0)
    first = only_first + both
    second = only_second + both
    chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (neither + both - chance) / (1 - chance)


def kappa_of(group: pd.DataFrame) -> tuple[float, float, float]:
    """Kappa and its 95% interval, by a seeded bootstrap over queries, whose answers are alike."""
    both = 2 * group.point_first + group.point_second
    counts = pd.crosstab([group.setting, group.k, group["query"]], both)
    counts = counts.reindex(columns=range(4), fill_value=0)
    drawn = draws(len(counts), SAMPLES, np.random.default_rng(0))
    return of_draws(kappa(drawn @ counts.to_numpy()))


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How far each second judge agrees with the first on each kind of criterion, and each skill.

    Columns: judge, criterion (`all skills`, `on topic`, `makes sense`, then by name the skills that
    have `ENOUGH` points), n (points that both gave), first and second (share of points given),
    agreement, kappa, low, high (its 95% interval).
    """
    points = criteria(table)[[*KEY, "generation", "judge", "criterion", "point"]]
    points = points[points.criterion != "sentences"]
    is_first = points.judge == FIRST_JUDGE
    firsts = points[is_first].drop(columns="judge")
    answers = [*KEY, "generation", "criterion"]
    both = points[~is_first].merge(
        firsts,
        on=answers,
        suffixes=("_second", "_first"),
    )
    is_skill = ~both.criterion.isin(OTHERS)
    kinds = both.assign(criterion=both.criterion.mask(is_skill, "all skills"))
    rows = []
    for of, least in ((kinds, 1), (both[is_skill], ENOUGH)):
        for (judge, criterion), group in of.groupby(["judge", "criterion"]):
            if len(group) >= least:
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
                    *kappa_of(group),
                )
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def swap(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every finding by each judge's grades: gains, verdicts, and whether the first one's survives.

    Only of models that all judges graded, so that all are corrected for equally many tests.

    Columns: those of `COMPARED`, judge, gain, verdict, first gain, first verdict, survives.
    """
    is_by_all = table.groupby("model").judge.transform("nunique") == table.judge.nunique()
    table = table[is_by_all]
    judges = {
        judge: findings(table, claims, judge=judge, **rules) for judge in table.judge.unique()
    }
    columns = [*COMPARED, "gain", "verdict"]
    gains = pd.concat(judges, names=["judge", "row"])[columns].reset_index("judge")
    is_first = gains.judge == FIRST_JUDGE
    names = {"gain": "first gain", "verdict": "first verdict"}
    first = gains[is_first].drop(columns="judge").rename(columns=names)
    swapped = gains[~is_first].merge(first, on=COMPARED)
    return swapped.assign(survives=swapped.verdict == swapped["first verdict"])


CHANGE = (
    "  {claim}, {model} at k = {k}: {first verdict} with the first judge, {verdict} with {judge}"
)


def what_changed(swapped: pd.DataFrame) -> str:
    """In a few sentences, what each second judge changed of the verdicts."""
    lines = []
    for judge, rows in swapped.groupby("judge"):
        stay = rows.survives.sum()
        lines.append(f"Judge {judge}: {stay} of {len(rows)} verdicts stay.")
        changed = rows[~rows.survives].to_dict("records")
        lines += [CHANGE.format(**row) for row in changed]
    return "\n".join(lines) or "No second judge graded what a claim is about."
