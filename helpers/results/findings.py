"""The claims, written down before the seeds that test them, and what a tidy table says of each.

`python -m helpers.results.findings figures/scores.csv` prints the README's tables.
"""

import itertools
from collections.abc import Iterator, Sequence
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


def comparisons(
    table: pd.DataFrame, claims: Sequence[Finding], **rules
) -> Iterator[tuple[dict, Gain]]:
    """What is compared, and the gain on common queries: each student, claim and k of the table."""
    cells = grids(per_query(table, **rules))
    for student in sorted(set(table.model.map(student_of))):
        for finding in claims:
            model, against = (name_of(student, mix) for mix in (finding.model, finding.against))
            for k in finding.ks:
                ours = cells.get((model, finding.setting, k), pd.DataFrame())
                theirs = cells.get((against, finding.setting, k), pd.DataFrame())
                common = ours.columns.intersection(theirs.columns)
                if common.empty:
                    continue
                row = {
                    "claim": finding.claim,
                    "setting": finding.setting,
                    "model": model,
                    "against": against,
                    "k": k,
                }
                gain = gain_of(ours[common].to_numpy(), theirs[common].to_numpy())
                yield row, gain


COMPARED = ["claim", "setting", "model", "against", "k"]
NUMBERS = ["seeds", "queries", "gain", "se", "low", "high", "single", "p"]
FOUND = [*COMPARED, *NUMBERS, "p_holm", "verdict"]


def findings(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every claim with its gain, standard error, 95% interval, p-value and verdict.

    `p_holm` is the p-value after Holm's correction over all rows, `single` the gain in the mean of
    single answers, untested. `rules` are those of `per_query`. Where several students were trained,
    each student has its own rows. Without anything to compare the table is empty.
    """
    rows = []
    single_answers = comparisons(table, claims, **rules | {"over_generations": "mean"})
    for (row, gain), (_, single) in zip(
        comparisons(table, claims, **rules), single_answers, strict=True
    ):
        low, high = gain.interval()
        numbers = {
            "seeds": gain.model.seeds,
            "queries": gain.model.queries,
            "gain": gain.gain,
            "se": gain.se,
            "low": low,
            "high": high,
            "single": single.gain,
            "p": gain.p,
        }
        rows.append(row | numbers)
    gains = pd.DataFrame(rows, columns=[*COMPARED, *NUMBERS])
    gains["p_holm"] = holm(gains.p)
    gains["verdict"] = [verdict(row.gain, row.high, row.p_holm) for row in gains.itertuples()]
    return gains


def exploratory(table: pd.DataFrame, verdicts: pd.DataFrame, **rules) -> pd.DataFrame:
    """Columns of `findings` for every gain of one mix over another that no claim covers.

    Of a student's largest mixes, in every setting and at every k; without p-values and verdicts,
    since nobody said beforehand what to look for.
    """
    models = largest(table).drop_duplicates("model")
    models = sorted(models.itertuples(), key=lambda m: (m.texts, m.kind != PADDED, m.kind))
    ks = tuple(sorted(set(table.k)))
    every = {}  # in order, each once: students share them
    for less, more in itertools.combinations(models, 2):
        for setting in sorted(set(table.setting)):
            mixes = mix_of(more.model), mix_of(less.model)
            if student_of(less.model) == student_of(more.model):
                every[Finding("exploratory, no claim", *mixes, setting, ks)] = True
    gains = findings(table, list(every), **rules)
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
    flat = table.reset_index()
    head = [str(name) for name in flat.columns]
    rows = [head, ["---"] * len(head)]
    rows += flat.astype(str).to_numpy().tolist()
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def readme_tables(scores_csv: Path) -> list[str]:
    """The README's tables: full marks by model, setting and k; the verdicts; those of a sweep."""
    table = read_csv(scores_csv)
    tables = [spread(summary(table))]
    for claims in (FINDINGS, sweep_findings(table)):
        verdicts = findings(table, claims)
        if len(verdicts):
            tables.append(headline(verdicts))
    return [markdown(table) for table in tables]


def main(path: str) -> None:
    """Print the README's tables."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no file; make reproduce writes figures/scores.csv")
    print(*readme_tables(Path(path)), sep="\n\n")


if __name__ == "__main__":
    command(main)
