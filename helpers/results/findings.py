"""The claims, written down before the seeds that test them, and what a tidy table says of each.

`python -m helpers.results.findings figures/scores.csv` prints the README's tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.errors import UserError, command
from helpers.results.intervals import Gain, gain_of, quantile
from helpers.results.scores import (
    grid,
    largest,
    mix_of,
    per_query,
    read_csv,
    spread,
    student_of,
    summary,
)

SMALLEST_EFFECT = 0.05  # a gain whose whole interval lies below this is no gain
LEVEL = 0.05  # of the tests, after Holm's correction
POWER = 0.84  # normal quantile: what is needed is needed for four chances in five
MOST_QUERIES = 10_000  # nobody asks more


@dataclass(frozen=True)
class Finding:
    """A claim: `model` scores higher than `against` in this setting at each of these k. Both are kinds, or names of mixes."""

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
)


def sweep_findings(table: pd.DataFrame) -> tuple[Finding, ...]:
    """[ZK24]'s third point, for each number of texts that mixes of different kinds have: larger k teach more, at k = 3 and 4."""
    mixes = table[table.texts > 0].drop_duplicates("model").sort_values(["texts", "kind"])
    claims = {}  # in order, each once: students may share them
    for (texts, _), same in mixes.groupby([mixes.texts, mixes.model.map(student_of)]):
        for less, more in zip(same.itertuples(), same[1:].itertuples(), strict=False):
            if less.kind != more.kind:
                claim = f"{texts:,} texts: {more.kind} teaches more than {less.kind}"
                claims[Finding(claim, mix_of(more.model), mix_of(less.model), "I", (3, 4))] = True
    return tuple(claims)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjustment of p-values."""
    p = np.asarray(p)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return np.minimum(1, adjusted)[np.argsort(order)]


def verdict(gain: float, high: float, p: float) -> str:
    """holds, does not hold, or undecided.

    A gain holds if it is positive and significant after the correction; it does not hold if it is significantly
    negative or its whole interval lies below the smallest effect that would matter.
    """
    if p < LEVEL:
        return "holds" if gain > 0 else "does not hold"
    return "does not hold" if high < SMALLEST_EFFECT else "undecided"


def comparisons(
    table: pd.DataFrame, claims: Sequence[Finding], **rules
) -> Iterator[tuple[dict, Gain]]:
    """Every claim at every k that the table covers, for each student: what is compared, and the gain on common queries.

    A mix that a claim names and the table has not is stood in for by the largest of its kind; two mixes then have to have
    as many texts of each k.
    """
    scores = per_query(table, **rules)
    cells = set(scores.index.droplevel(["seed", "query"]).unique())
    every, main = table.drop_duplicates("model"), largest(table).drop_duplicates("model")
    per_k = {
        row.model: row.texts / max(1, len(row.kind) - 1) for row in every.itertuples()
    }  # texts of each k, on average
    for student in sorted(set(every.model.map(student_of))):
        named = {
            row.kind: row.model for row in main.itertuples() if student_of(row.model) == student
        }
        named |= {mix_of(m): m for m in every.model if student_of(m) == student}
        for finding in claims:
            model, against = named.get(finding.model), named.get(finding.against)
            in_place = {model, against} - {
                named.get(mix)
                for mix in (finding.model, finding.against)
                if mix_of(named.get(mix, "")) == mix
            }
            if in_place and finding.against != "base" and per_k.get(model) != per_k.get(against):
                continue  # a mix of the same kind and another size is another claim
            for k in finding.ks:
                if not {(model, finding.setting, k), (against, finding.setting, k)} <= cells:
                    continue
                pair = [grid(scores, m, finding.setting, k) for m in (model, against)]
                common = pair[0].columns.intersection(pair[1].columns)
                if len(common):
                    row = {
                        "claim": finding.claim,
                        "setting": finding.setting,
                        "model": model,
                        "against": against,
                        "k": k,
                    }
                    yield row, gain_of(*(cell[common].to_numpy() for cell in pair))


COMPARED = ["claim", "setting", "model", "against", "k"]
FOUND = [*COMPARED, "seeds", "queries", "gain", "se", "low", "high", "p", "p_holm", "verdict"]


def findings(table: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """Every claim with its gain, standard error, 95% interval, p-value before and after Holm's correction over all rows, verdict.

    `rules` are those of `per_query`. Where several students were trained, each student has its own rows. Without anything
    to compare the table is empty.
    """
    rows = []
    for row, gain in comparisons(table, claims, **rules):
        low, high = gain.interval()
        counts = {"seeds": gain.model.seeds, "queries": gain.model.queries}
        rows.append(
            {
                **row,
                **counts,
                "gain": gain.gain,
                "se": gain.se,
                "low": low,
                "high": high,
                "p": gain.p,
            }
        )
    found = pd.DataFrame(rows, columns=FOUND[:-2])
    found["p_holm"] = holm(found.p)
    found["verdict"] = [verdict(r.gain, r.high, r.p_holm) for r in found.itertuples()]
    return found


def queries_needed(gain: Gain, tests: int) -> int | None:
    """The queries with which a gain would be decided, four times in five, if gain and variances stayed as they were seen.

    Args:
        tests: how many Holm's correction is over; the gain is asked to pass the strictest.

    Returns:
        None if `MOST_QUERIES` would not do.
    """

    def decided(queries: int) -> bool:
        more = gain.with_queries(queries)
        low, high = more.between(quantile(1 - LEVEL / tests, more.df) + POWER)
        return (
            low > 0
            or high < 0
            or more.between(quantile(0.95, more.df) + POWER)[1] < SMALLEST_EFFECT
        )

    # With few seeds more queries also leave fewer degrees of freedom, so there may be a best number: the first that does.
    numbers = np.unique(
        np.geomspace(gain.model.queries + 1, MOST_QUERIES, 200).astype(int)
    ).tolist()
    return next((n for n in numbers if decided(n)), None)


def power(
    table: pd.DataFrame, verdicts: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules
) -> pd.DataFrame:
    """For each undecided row of `findings`: the gain seen, the queries asked, and how many would decide it.

    `more training seeds`: queries would do it if the seeds did not differ as they do.
    """
    rows = []
    for (row, gain), found in zip(
        comparisons(table, claims, **rules), verdicts.verdict, strict=True
    ):
        if found == "undecided":
            needed = queries_needed(gain, len(verdicts))
            seeds_alone = not needed and queries_needed(gain.with_trainings_alike(), len(verdicts))
            words = (
                f"{needed:,}"
                if needed
                else "more training seeds"
                if seeds_alone
                else f"over {MOST_QUERIES:,}"
            )
            rows.append({**row, "gain": gain.gain, "asked": gain.model.queries, "needed": words})
    return pd.DataFrame(rows, columns=[*COMPARED, "gain", "asked", "needed"])


def headline(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: the verdict at each k with the gain and its interval."""
    cell = [
        f"{r.verdict}: {r.gain:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in verdicts.itertuples()
    ]
    return (
        verdicts.assign(cell=cell).pivot(index=COMPARED[:-1], columns="k", values="cell").fillna("")
    )


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index as first columns."""
    flat = table.reset_index()
    rows = [
        list(map(str, flat.columns)),
        ["---"] * flat.shape[1],
        *flat.astype(str).to_numpy().tolist(),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def readme_tables(scores_csv: Path) -> list[str]:
    """The README's tables: full marks by model, setting and k; the verdicts; those of a sweep, if there was one."""
    table = read_csv(scores_csv)
    found = [findings(table), findings(table, sweep_findings(table))]
    return [
        markdown(spread(summary(table))),
        *(markdown(headline(verdicts)) for verdicts in found if len(verdicts)),
    ]


def main(path: str) -> None:
    """Print the README's tables."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no file; make reproduce writes figures/scores.csv")
    print(*readme_tables(Path(path)), sep="\n\n")


if __name__ == "__main__":
    command(main)
