"""What a second judge says of the same answers ([ZK24], the check with Claude 3): agreement, and what of the findings stays.

Judges are compared point by point, each by the majority of its gradings. The point on sentences is counted in code, the
same for all, and left out. Without a second judge every table here is empty.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from helpers.results.findings import COMPARED, FINDINGS, Finding, findings
from helpers.results.scores import KEY
from helpers.task.points import FIRST_JUDGE, Points, majority

OTHERS = ("on topic", "makes sense")
ENOUGH = 30  # points; a skill with fewer has no row of its own
SAMPLES = 1000  # of the bootstrap over queries


def points(table: pd.DataFrame) -> pd.DataFrame:
    """One row a judged criterion: model, seed, setting, k, query, generation, judge, criterion (a skill's name, or `OTHERS`), point."""
    rows = []
    for row in table.drop_duplicates([*KEY, "generation", "judge"]).itertuples():
        voted = majority([Points.of([int(point) for point in vote]) for vote in row.votes.split()])
        answer = (*(getattr(row, name) for name in (*KEY, "generation")), row.judge)
        rows += (
            [
                (*answer, *given)
                for given in zip(
                    (*row.skills.split("; "), *OTHERS), voted.numbers[:-1], strict=True
                )
            ]
            if voted
            else []
        )
    return pd.DataFrame(rows, columns=[*KEY, "generation", "judge", "criterion", "point"])


def kappa(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa of counts (..., 4): both 0, only the second, only the first, both 1; NaN where both judges always say the same."""
    n = counts.sum(axis=-1)
    same, first, second = (counts[..., [0, 3]], counts[..., [2, 3]], counts[..., [1, 3]])
    same, first, second = (part.sum(axis=-1) / n for part in (same, first, second))
    chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (same - chance) / (1 - chance), np.nan)


def agreement(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How far each second judge agrees with the first, on each kind of criterion, and on each skill that has `ENOUGH` points.

    Columns: judge, criterion (`all skills`, `on topic`, `makes sense`, then skills by name), n (points that both gave),
    first and second (share of points given), agreement, kappa, low, high (its 95% interval from a seeded bootstrap of
    queries, since the answers to one query are alike).
    """
    given = points(table) if table.judge.nunique() > 1 else points(table[:0])
    same = [*KEY, "generation", "criterion"]
    first = given[given.judge == FIRST_JUDGE].drop(columns="judge")
    both = first.merge(given[given.judge != FIRST_JUDGE], on=same, suffixes=("_first", "_second"))
    every = both.assign(criterion=both.criterion.where(both.criterion.isin(OTHERS), "all skills"))
    each = both[
        ~both.criterion.isin(OTHERS)
        & (both.groupby(["judge", "criterion"]).criterion.transform("size") >= ENOUGH)
    ]
    rows = []
    for (judge, criterion), group in [
        *every.groupby(["judge", "criterion"]),
        *each.groupby(["judge", "criterion"]),
    ]:
        cell = 2 * group.point_first + group.point_second
        query = pd.factorize(pd.MultiIndex.from_frame(group[["setting", "k", "query"]]))[0]
        counts = np.zeros((query.max() + 1, 4))
        np.add.at(counts, (query, cell.to_numpy()), 1)
        drawn = np.random.default_rng(seed).multinomial(
            len(counts), np.full(len(counts), 1 / len(counts)), size=SAMPLES
        )
        sampled = kappa(drawn @ counts)
        low, high = (
            np.nanquantile(sampled, [0.025, 0.975])
            if not np.isnan(sampled).all()
            else (np.nan, np.nan)
        )
        shares = {
            "first": group.point_first.mean(),
            "second": group.point_second.mean(),
            "agreement": cell.isin([0, 3]).mean(),
        }
        rows.append(
            {
                "judge": judge,
                "criterion": criterion,
                "n": len(group),
                **shares,
                "kappa": float(kappa(counts.sum(axis=0))),
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(
        rows,
        columns=["judge", "criterion", "n", "first", "second", "agreement", "kappa", "low", "high"],
    )


def swap(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every finding by each judge's grades: gains, verdicts, and whether the first judge's verdict survives the swap."""
    columns = [*COMPARED, "judge", "first gain", "gain", "first verdict", "verdict", "survives"]
    first = findings(table, claims, **rules)[[*COMPARED, "gain", "verdict"]]
    first = first.rename(columns={"gain": "first gain", "verdict": "first verdict"})
    tables = [
        first.merge(
            findings(table, claims, judge=judge, **rules)[[*COMPARED, "gain", "verdict"]],
            on=COMPARED,
        ).assign(judge=judge)
        for judge in table.judge.unique()
        if judge != FIRST_JUDGE
    ]
    swapped = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns[:-1])
    return swapped.assign(survives=swapped["first verdict"] == swapped.verdict)[columns]


def what_changed(swapped: pd.DataFrame) -> str:
    """In a few sentences, what each second judge changed of the verdicts."""
    said = []
    for judge, rows in swapped.groupby("judge"):
        changed = rows[~rows.survives]
        turned = [
            f"{claim}, {model} at k = {k}: {before} with the first judge, {now} with {judge}"
            for claim, model, k, before, now in changed[
                ["claim", "model", "k", "first verdict", "verdict"]
            ].itertuples(index=False)
        ]
        said.append(
            f"Judge {judge}: {rows.survives.sum()} of {len(rows)} verdicts stay."
            + "".join(f"\n  {t}" for t in turned)
        )
    return "\n".join(said) or "No second judge graded these answers."
