"""From graded answers to scores with intervals, and to verdicts on the paper's findings ([ZK24] section 4, [YK23] section 3).

The tidy table, `scores.csv`, has one row a model, seed, setting, k, query, generation and judge: its votes, and the metrics
of their majority. A query's score is the maximum (or mean) over its generations; queries are the same for every model,
so comparisons are paired. What is said of the results is computed from this table alone, by `helpers.intervals`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.corpus import read_json_lines
from helpers.errors import UserError, command
from helpers.grading import metrics
from helpers.intervals import Gain, gain_of, mean_of, quantile
from helpers.params import FIRST

METRICS = ("full_marks", "all_skills", "skill_fraction")
KEY = ["model", "seed", "setting", "k", "query"]
SMALLEST_EFFECT = 0.05  # a gain whose whole interval lies below this is no gain
LEVEL = 0.05  # of the tests, after Holm's correction
POWER = 0.84  # normal quantile: what is needed is needed for four chances in five
MOST_QUERIES = 10_000  # nobody asks more


def kind_of(mix: dict[str, int]) -> str:
    """Which k a model was trained on: `k123` for texts of k = 1, 2 and 3, however many; `base` for none."""
    return "k" + "".join(sorted(mix, key=int)) if mix else "base"


def student_of(model: str) -> str:
    """The student in a model's name `<student>-<mix>`; empty where there is only one student."""
    return model.rpartition("-")[0]


def tidy(files: Sequence[Path]) -> pd.DataFrame:
    """One row a generation and judge, from the files that 03_grade writes.

    Columns: model (a variant without its seed), kind and texts (which k it was trained on, and how many texts in all),
    seed, judge, setting, k, query, skills, generation, cut (the answer stopped at the token limit), gradings (how
    many were readable), votes (their points in the rubric's order, as `11011 11001 11011`), the three metrics (NaN where
    no grading was readable).
    """
    rows = []
    for path in files:
        model, seed = re.fullmatch(r"(.+?)(?:-s(\d+))?", path.stem).groups()
        for record in read_json_lines(path, "03_grade"):
            about = {"model": model, "kind": kind_of(record["mix"]), "texts": sum(record["mix"].values()), "seed": int(seed or 0)}
            asked = {name: record[name] for name in ("setting", "k", "query")} | {"skills": "; ".join(record["skills"])}
            for judge, grades in record["grades"].items():
                votes = " ".join("".join(map(str, points)) for points in grades["gradings"])
                graded = {"generation": record["generation"], "cut": record["cut"], "gradings": len(grades["gradings"]), "votes": votes}
                found = metrics(grades["points"]) if grades["points"] else dict.fromkeys(METRICS, np.nan)
                rows.append({**about, "judge": judge, **asked, **graded, **found})
    return pd.DataFrame(rows)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The tidy table, for `read_csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(path, index=False)


def read_csv(path: Path) -> pd.DataFrame:
    """The tidy table; votes are text, not numbers."""
    return pd.read_csv(path, dtype={"votes": str}, keep_default_na=False, na_values={metric: [""] for metric in METRICS})


def largest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each student's models that no other of the same kind outdoes in texts; a sweep's smaller mixes are left out."""
    most = frame.texts.groupby([frame.model.map(student_of), frame.kind]).transform("max")
    return frame[frame.texts == most]


def per_query(table: pd.DataFrame, metric: str = "full_marks", *, over_generations: str = "max", judge: str = FIRST) -> pd.Series:
    """A query's score by one judge, indexed by model, seed, setting, k, query; without queries that have no readable generation."""
    return table[table.judge == judge].groupby(KEY)[metric].agg(over_generations).dropna()


def grid(scores: pd.Series, model: str, setting: str, k: int) -> pd.DataFrame:
    """One model's scores in one cell: a row a training seed, a column a query that has a score from every seed."""
    cell = scores.xs((model, setting, k), level=["model", "setting", "k"])
    return cell.unstack("query").dropna(axis="columns")


def summary(table: pd.DataFrame, *, metric: str = "full_marks", over_generations: str = "max", judge: str = FIRST) -> pd.DataFrame:
    """Mean, standard error and 95% interval (`intervals`) of every model, setting and k; over queries alone where seeds is 1."""
    scores = per_query(table, metric, over_generations=over_generations, judge=judge)
    models = table.drop_duplicates("model").set_index("model")[["kind", "texts"]]
    rows = []
    for model, setting, k in scores.index.droplevel(["seed", "query"]).unique():
        if (cell := grid(scores, model, setting, k)).empty:
            continue
        found = mean_of(cell.to_numpy())
        low, high = found.interval()
        counts = {"seeds": found.seeds, "queries": found.queries}
        about = {"model": model, **models.loc[model], "setting": setting, "k": k}
        rows.append({**about, **counts, "mean": found.mean, "se": found.se, "low": low, "high": high})
    return pd.DataFrame(rows)


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


def mix_of(model: str) -> str:
    """`base`, or the mix in a model's name, whatever student the name begins with."""
    return model.rpartition("-")[2]


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


def comparisons(table: pd.DataFrame, claims: Sequence[Finding], **rules) -> Iterator[tuple[dict, Gain]]:
    """Every claim at every k that the table covers, for each student: what is compared, and the gain on common queries.

    A mix that a claim names and the table has not is stood in for by the largest of its kind; two mixes then have to have
    as many texts of each k.
    """
    scores = per_query(table, **rules)
    cells = set(scores.index.droplevel(["seed", "query"]).unique())
    every, main = table.drop_duplicates("model"), largest(table).drop_duplicates("model")
    per_k = {row.model: row.texts / max(1, len(row.kind) - 1) for row in every.itertuples()}  # texts of each k, on average
    for student in sorted(set(every.model.map(student_of))):
        named = {row.kind: row.model for row in main.itertuples() if student_of(row.model) == student}
        named |= {mix_of(m): m for m in every.model if student_of(m) == student}
        for finding in claims:
            model, against = named.get(finding.model), named.get(finding.against)
            in_place = {model, against} - {named.get(mix) for mix in (finding.model, finding.against) if mix_of(named.get(mix, "")) == mix}
            if in_place and finding.against != "base" and per_k.get(model) != per_k.get(against):
                continue  # a mix of the same kind and another size is another claim
            for k in finding.ks:
                if not {(model, finding.setting, k), (against, finding.setting, k)} <= cells:
                    continue
                pair = [grid(scores, m, finding.setting, k) for m in (model, against)]
                common = pair[0].columns.intersection(pair[1].columns)
                if len(common):
                    row = {"claim": finding.claim, "setting": finding.setting, "model": model, "against": against, "k": k}
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
        rows.append({**row, **counts, "gain": gain.gain, "se": gain.se, "low": low, "high": high, "p": gain.p})
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
        return low > 0 or high < 0 or more.between(quantile(0.95, more.df) + POWER)[1] < SMALLEST_EFFECT

    # With few seeds more queries also leave fewer degrees of freedom, so there may be a best number: the first that does.
    numbers = np.unique(np.geomspace(gain.model.queries + 1, MOST_QUERIES, 200).astype(int)).tolist()
    return next((n for n in numbers if decided(n)), None)


def power(table: pd.DataFrame, verdicts: pd.DataFrame, claims: Sequence[Finding] = FINDINGS, **rules) -> pd.DataFrame:
    """For each undecided row of `findings`: the gain seen, the queries asked, and how many would decide it.

    `more training seeds`: queries would do it if the seeds did not differ as they do.
    """
    rows = []
    for (row, gain), found in zip(comparisons(table, claims, **rules), verdicts.verdict, strict=True):
        if found == "undecided":
            needed = queries_needed(gain, len(verdicts))
            seeds_alone = not needed and queries_needed(gain.with_trainings_alike(), len(verdicts))
            words = f"{needed:,}" if needed else "more training seeds" if seeds_alone else f"over {MOST_QUERIES:,}"
            rows.append({**row, "gain": gain.gain, "asked": gain.model.queries, "needed": words})
    return pd.DataFrame(rows, columns=[*COMPARED, "gain", "asked", "needed"])


def spread(summary: pd.DataFrame) -> pd.DataFrame:
    """A summary as a table to read: a row a setting and model, a column a k."""
    triples = zip(summary["mean"], summary.low, summary.high, strict=True)
    cells = summary.assign(cell=[f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in triples])
    return cells.pivot(index=["setting", "model"], columns="k", values="cell")


def headline(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: the verdict at each k with the gain and its interval."""
    cell = [f"{r.verdict}: {r.gain:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in verdicts.itertuples()]
    return verdicts.assign(cell=cell).pivot(index=COMPARED[:-1], columns="k", values="cell").fillna("")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index as first columns."""
    flat = table.reset_index()
    rows = [list(map(str, flat.columns)), ["---"] * flat.shape[1], *flat.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def readme_tables(scores_csv: Path) -> list[str]:
    """The README's tables: full marks by model, setting and k; the verdicts; those of a sweep, if there was one."""
    table = read_csv(scores_csv)
    found = [findings(table), findings(table, sweep_findings(table))]
    return [markdown(spread(summary(table))), *(markdown(headline(verdicts)) for verdicts in found if len(verdicts))]


def main(path: str) -> None:
    """Print the README's tables."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no file; make reproduce writes figures/scores.csv")
    print(*readme_tables(Path(path)), sep="\n\n")


if __name__ == "__main__":
    command(main)
