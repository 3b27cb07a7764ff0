"""The claims, written down before the seeds that test them, and what a tidy table says of each.

`python -m helpers.results.findings figures/scores.csv` prints the README's tables.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.errors import UserError, command
from helpers.results.intervals import Gain, gain_of
from helpers.results.scores import (
    PADDED,
    grids,
    largest,
    mix_of,
    name_of,
    per_query,
    read_csv,
    spread,
    student_of,
    summary,
)

SMALLEST_EFFECT = 0.05  # a gain whose whole interval lies below this is no gain
LEVEL = 0.05  # of the tests, after Holm's correction


@dataclass(frozen=True)
class Finding:
    """A claim: the mix `model` scores higher than `against` in this setting at each of these k."""

    claim: str
    model: str
    against: str
    setting: str
    ks: tuple[int, ...]


FINDINGS = (
    Finding("single skills alone (k1) teach composition", "k1", "base", "I", (2, 3)),
    Finding("k = 1, 2, 3 (k123) lift k never seen in training", "k123", "base", "I", (4, 5)),
    Finding("k = 1, 2, 3 (k123) lift held-out skills", "k123", "base", "II", (2, 3, 4, 5)),
    Finding("k = 3 texts add to k = 1, 2 (k123 over k12)", "k123", "k12", "I", (3, 4, 5)),
    *(
        Finding(
            "length alone does not teach composition (k123 over the control)",
            "k123",
            PADDED,
            setting,
            (3, 4, 5),
        )
        for setting in ("I", "II")
    ),
)

# What [ZK24] found, beside the claims above.
PAPER = {
    FINDINGS[0].claim: "(single skills alone are not its subject)",
    FINDINGS[1].claim: "Training on k = 2 and 3 improves k = 4 and 5, never seen in training",
    FINDINGS[2].claim: "Held-out categories of skills improve too",
    FINDINGS[3].claim: "Texts with larger k teach more, with fewer examples",
    FINDINGS[4].claim: "(no control of the texts' length)",
}
OTHER_GRADER = "The conclusions hold with another grader"


def with_own(claims: Sequence) -> tuple[Finding, ...]:
    """`FINDINGS` and a profile's own claims, each with model, against, setting and a list k."""
    own = [
        Finding(f"{c.model} over {c.against}", c.model, c.against, c.setting, tuple(c.k))
        for c in claims
    ]
    return (*FINDINGS, *own)


def sweep_findings(table: pd.DataFrame) -> tuple[Finding, ...]:
    """[ZK24]'s third point: at equal numbers of texts, larger k teach more, at k = 3 and 4.

    A claim for each number of texts that mixes of different kinds have.
    """
    is_swept = table.kind.str.fullmatch(r"k\d+")
    mixes = table[is_swept].drop_duplicates("model").sort_values(["texts", "kind"])
    claims = {}  # in order, each once: students may share them
    for (texts, _), same in mixes.groupby([mixes.texts, mixes.model.map(student_of)]):
        for less, more in itertools.pairwise(same.itertuples()):
            if less.kind == more.kind:
                continue
            claim = f"{texts:,} texts: {more.kind} teaches more than {less.kind}"
            finding = Finding(claim, mix_of(more.model), mix_of(less.model), "I", (3, 4))
            claims[finding] = True
    return tuple(claims)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment of p-values."""
    p = np.asarray(p)
    order = np.argsort(p)
    left = len(p) - np.arange(len(p))  # tests, from the smallest p-value on
    adjusted = np.maximum.accumulate(left * p[order])
    return np.minimum(1, adjusted)[np.argsort(order)]


def verdict(gain: float, high: float, p: float) -> str:
    """holds, does not hold, or undecided.

    A gain holds if it is positive and significant after the correction. It does not hold if it is
    significantly negative or its whole interval lies below the smallest effect that would matter.
    """
    if p < LEVEL:
        return "holds" if gain > 0 else "does not hold"
    return "does not hold" if high < SMALLEST_EFFECT else "undecided"


def gain_in(cells: dict, model: str, against: str, setting: str, k: int) -> Gain | None:
    """The gain on common queries; None where there are none. `cells`: of `grids`."""
    ours = cells.get((model, setting, k), pd.DataFrame())
    theirs = cells.get((against, setting, k), pd.DataFrame())
    common = ours.columns.intersection(theirs.columns)
    if common.empty:
        return None
    return gain_of(ours[common].to_numpy(), theirs[common].to_numpy())


COMPARED = ["claim", "setting", "model", "against", "k"]
NUMBERS = ["seeds", "queries", "gain", "se", "low", "high", "single", "p"]


def findings(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every claim with its gain, standard error, 95% interval, p-value and verdict.

    `p_holm` is the p-value after Holm's correction over all rows, `single` the gain in the mean of
    single answers, untested. `rules` are those of `per_query`. Where several students were trained,
    each student has its own rows. Without anything to compare the table is empty.
    """
    scores = grids(per_query(table, **rules))
    of_singles = grids(per_query(table, **rules | {"over_generations": "mean"}))
    students = sorted(set(table.model.map(student_of)))
    rows = []
    for student, finding in itertools.product(students, claims):
        for k in finding.ks:
            model = name_of(student, finding.model)
            against = name_of(student, finding.against)
            place = (model, against, finding.setting, k)
            gain = gain_in(scores, *place)
            if gain is None:
                continue
            compared = (finding.claim, finding.setting, model, against, k)
            numbers = (
                gain.model.seeds,
                gain.model.queries,
                gain.gain,
                gain.se,
                *gain.interval(),
                gain_in(of_singles, *place).gain,
                gain.p,
            )
            rows.append((*compared, *numbers))
    gains = pd.DataFrame(rows, columns=[*COMPARED, *NUMBERS])
    gains["p_holm"] = holm(gains.p)
    gains["verdict"] = [verdict(row.gain, row.high, row.p_holm) for row in gains.itertuples()]
    return gains


def exploratory(table: pd.DataFrame, verdicts: pd.DataFrame, **rules) -> pd.DataFrame:
    """Columns of `findings` for every gain of one mix over another that no claim covers.

    Of a student's largest mixes, in every setting and at every k; without p-values and verdicts,
    since nobody said beforehand what to look for.
    """
    models = largest(table).assign(mix=table.model.map(mix_of)).drop_duplicates("mix")
    models["is_control"] = models.kind == PADDED
    mixes = models.sort_values(["texts", "is_control", "kind"], ascending=[True, False, True]).mix
    ks = tuple(sorted(set(table.k)))
    every = []
    for less, more in itertools.combinations(mixes, 2):
        for setting in sorted(set(table.setting)):
            every.append(Finding("exploratory, no claim", more, less, setting, ks))
    gains = findings(table, every, **rules)
    cell = COMPARED[1:]
    claimed = pd.MultiIndex.from_frame(verdicts[cell])
    is_claimed = pd.MultiIndex.from_frame(gains[cell]).isin(claimed)
    return gains[~is_claimed].assign(p=np.nan, p_holm=np.nan, verdict="")


def headline(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: at each k the verdict, the gain, its interval, and single answers' gain."""
    cell = [
        f"{row.verdict}: {row.gain:+.2f} [{row.low:+.2f}, {row.high:+.2f}] / {row.single:+.2f}"
        for row in verdicts.itertuples()
    ]
    cell = [words.removeprefix(": ") for words in cell]  # an exploratory gain has no verdict
    table = verdicts.assign(cell=cell).pivot(index=COMPARED[:-1], columns="k", values="cell")
    return table.fillna("")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index as first columns."""
    flat = table.reset_index().astype(str)
    head = [str(name) for name in flat]
    rows = [head, ["---"] * len(head), *flat.to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def readme_tables(scores_csv: Path) -> list[str]:
    """The README's tables: full marks by model, setting and k; the verdicts; those of a sweep."""
    table = read_csv(scores_csv)
    tables = [markdown(spread(summary(table)))]
    for claims in (FINDINGS, sweep_findings(table)):
        verdicts = findings(table, claims)
        if len(verdicts):
            tables.append(markdown(headline(verdicts)))
    return tables


def main(path: str) -> None:
    """Print the README's tables."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no file; make reproduce writes figures/scores.csv")
    print(*readme_tables(Path(path)), sep="\n\n")


if __name__ == "__main__":
    command(main)
