"""The claims, written down before these seeds' results were seen, and what a table says of each.

`python -m helpers.results.findings figures/scores.csv` prints the tables of docs/results.md, and
with `params/<profile>/04_plot.yaml` after it those of the profile's own claims.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from helpers.errors import UserError, command
from helpers.results.intervals import Gain, gain_of
from helpers.results.scores import (
    KEY,
    PADDED,
    all_apart,
    by_k,
    grids,
    main_models,
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
NEEDED = (*KEY, "judge", "generation", "votes", "full_marks")  # columns, for all that `main` prints


class Finding(NamedTuple):
    """A claim: the mix `model` scores higher than `against` in this setting at each of these k."""

    claim: str
    model: str
    against: str
    setting: str
    ks: tuple[int, ...]
    apart: bool = False  # only of queries all of whose pairs of skills are kept apart
    own: bool = False  # a profile's own claim, corrected together with its other ones


PAIRS = "pairs of skills never shown together are combined, too"
MORE = "k = 3 texts add to k = 1, 2 (k123 over k12, half as many texts again)"
LENGTH = "length alone does not teach composition (k123 over the control)"
FINDINGS = (
    Finding("single skills alone (k1) teach composition", "k1", "base", "I", (2, 3)),
    Finding("k = 1, 2, 3 (k123) lift k never shown in fine-tuning", "k123", "base", "I", (4, 5)),
    Finding("k = 1, 2, 3 (k123) lift held-out skills", "k123", "base", "II", (2, 3, 4, 5)),
    Finding(MORE, "k123", "k12", "I", (3, 4, 5)),
    Finding(LENGTH, "k123", PADDED, "I", (3, 4, 5)),
    Finding(LENGTH, "k123", PADDED, "II", (3, 4, 5)),
    Finding(f"{PAIRS} (k123)", "k123", "base", "I", (2,), apart=True),
    Finding(f"{PAIRS} (k123 over the control)", "k123", PADDED, "I", (2,), apart=True),
)

# What [ZK24] found, beside the claims above.
PAPER = {
    FINDINGS[0].claim: "(single skills alone are not its subject)",
    FINDINGS[1].claim: "Training on k = 2 and 3 improves k = 4 and 5, never seen in training",
    FINDINGS[2].claim: "Held-out categories of skills improve too",
    FINDINGS[3].claim: "Texts with larger k teach more, with fewer examples",
    LENGTH: "(no control of the texts' length)",
    FINDINGS[6].claim: "(no pairs of training skills were kept apart)",
    FINDINGS[7].claim: "(the same, and no control)",
}
OTHER_GRADER = "The conclusions hold with another grader"


def with_own(claims: Sequence) -> tuple[Finding, ...]:
    """`FINDINGS` and a profile's own claims, each as `Claim` has it (`helpers.profile`)."""
    own = []
    for c in claims:
        words = c.claim or f"{c.model} over {c.against}"
        if c.apart:
            words += " (pairs kept apart)"
        own.append(Finding(words, c.model, c.against, c.setting, tuple(c.k), c.apart, own=True))
    return (*FINDINGS, *own)


def holm(p: Sequence[float]) -> pd.Series:
    """Holm's step-down adjustment of p-values."""
    ranked = pd.Series(p, dtype=float).sort_values()
    left = np.arange(len(ranked), 0, -1)  # tests, from the smallest p-value on
    return (ranked * left).cummax().clip(upper=1).sort_index()


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


VERDICTS = {"holds": "hold", "does not hold": "do not hold", "undecided": "are undecided"}
COMPARED = ["claim", "setting", "model", "against", "k"]
NUMBERS = ["own", "apart", "seeds", "queries", "gain", "se", "low", "high", "single", "p"]


def findings(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every claim with its gain, standard error, 95% interval, p-value and verdict.

    `p_holm` is the p-value after Holm's correction: one for the rows of `FINDINGS`, and one for
    those of a profile's `own` claims. `single` is the gain in the mean of single answers, untested.
    `apart` says that the row is only of queries all of whose pairs of skills are kept apart. Where
    several students were trained, each student has its own rows. Without anything to compare the
    table is empty. `rules` are those of `per_query`.
    """
    single_rules = rules | {"over_generations": "mean"}
    cells = {}  # by `apart`: of queries' scores, and of the means of single answers
    for apart, asked in ((False, table), (True, all_apart(table))):
        cells[apart] = (grids(per_query(asked, **rules)), grids(per_query(asked, **single_rules)))
    rows = []
    students = table.model.map(student_of).unique()
    for student, claim in itertools.product(students, claims):
        model = name_of(student, claim.model)
        against = name_of(student, claim.against)
        best, singles = cells[claim.apart]
        for k in claim.ks:
            gain = gain_in(best, model, against, claim.setting, k)
            if gain:
                row = (
                    claim.claim,
                    claim.setting,
                    model,
                    against,
                    k,
                    claim.own,
                    claim.apart,
                    gain.model.seeds,
                    gain.model.queries,
                    gain.gain,
                    gain.se,
                    *gain.interval(),
                    gain_in(singles, model, against, claim.setting, k).gain,
                    gain.p,
                )
                rows.append(row)
    gains = pd.DataFrame(rows, columns=[*COMPARED, *NUMBERS])
    gains["p_holm"] = gains.p.astype(float).groupby(gains.own, group_keys=False).apply(holm)
    gains["verdict"] = [verdict(row.gain, row.high, row.p_holm) for row in gains.itertuples()]
    return gains


def exploratory(table: pd.DataFrame, verdicts: pd.DataFrame, **rules) -> pd.DataFrame:
    """Every gain of a mix over those before it that no claim covers, in the columns of `findings`.

    Only of models that are part of no sweep, in every setting and at every k. Without p-values and
    verdicts, since nobody said beforehand what to look for.
    """
    mixes = main_models(table).model.map(mix_of).unique()
    ks = tuple(sorted(set(table.k)))
    pairs = itertools.product(itertools.combinations(mixes, 2), table.setting.unique())
    every = [Finding("exploratory, no claim", *pair[::-1], setting, ks) for pair, setting in pairs]
    gains = findings(table, every, **rules)
    turned = verdicts.rename(columns={"model": "against", "against": "model"})
    claims = pd.concat([verdicts, turned])
    claimed = claims[~claims.apart.astype(bool)].set_index(COMPARED[1:]).index
    is_claimed = gains.set_index(COMPARED[1:]).index.isin(claimed)
    return gains[~is_claimed].assign(
        p=np.nan,
        p_holm=np.nan,
        verdict="",
    )


def counted(verdicts: pd.DataFrame) -> str:
    """How many gains hold, do not hold and are undecided, as a sentence."""
    if not len(verdicts):
        return "No claim is about these mixes or models."
    counts = verdicts.verdict.value_counts().reindex(VERDICTS, fill_value=0)
    words = [f"{count} {VERDICTS[verdict]}" for verdict, count in counts.items()]
    return f"Of {len(verdicts)} gains that were claimed beforehand, {', '.join(words)}."


def headline(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: at each k the verdict, the gain, its interval, and single answers' gain.

    In the order of the claims and of the models; an exploratory gain has no verdict.
    """
    cell = "{verdict}: {gain:+.2f} [{low:+.2f}, {high:+.2f}] / {single:+.2f}"
    return by_k(verdicts, COMPARED[:-1], cell)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index as first columns."""
    flat = table.reset_index().astype(str)
    rows = [map(str, flat), ["---"] * flat.shape[1], *flat.to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def readme_tables(scores_csv: Path, claims: Sequence = ()) -> list[str]:
    """The tables of docs/results.md: full marks, verdicts, and those of a profile's own claims."""
    table = read_csv(scores_csv)
    verdicts = findings(table, with_own(claims))
    tables = [spread(summary(main_models(table)))]
    tables += [headline(verdicts[verdicts.own == is_own]) for is_own in (False, True)]
    return [markdown(table) for table in tables if len(table)]


def claims_in(file: Path) -> list[SimpleNamespace]:
    """The claims of a 04_plot.yaml, each as `Claim` has it.

    Raises:
        UserError: it is no such file.
    """
    try:
        settings = yaml.safe_load(file.read_text()) or {}  # comments alone are nothing
        claims = settings.get("claims") or []
        is_whole = all({"model", "against", "setting", "k"} <= claim.keys() for claim in claims)
    except (yaml.YAMLError, ValueError, AttributeError, TypeError):
        is_whole = False
    if not is_whole:
        raise UserError(
            f"{file}: no 04_plot.yaml; it holds keys with values, and each of its claims has"
            " model, against, setting and k"
        )
    return [SimpleNamespace(**{"apart": False, "claim": "", **claim}) for claim in claims]


def main(path: str, own: str = "") -> None:
    """Print the tables of docs/results.md, also for the claims in `own`, a 04_plot.yaml."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no file; make reproduce writes figures/scores.csv")
    if own and not Path(own).is_file():
        raise UserError(f"{own}: no file; name a profile's 04_plot.yaml, or leave it out")
    try:
        columns = set(pd.read_csv(path, nrows=0).columns)
    except ValueError:  # empty, or no text
        columns = set()
    if lacking := [name for name in NEEDED if name not in columns]:
        raise UserError(f"{path}: no scores.csv of 04_plot, it lacks {', '.join(lacking)}")
    claims = claims_in(Path(own)) if own else []
    print(*readme_tables(Path(path), claims), sep="\n\n")


if __name__ == "__main__":
    command(main)
