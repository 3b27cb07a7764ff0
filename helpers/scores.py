"""From graded answers to scores with intervals, and to verdicts on the paper's findings ([ZK24] section 4, [YK23] section 3).

The tidy table has one row a model, seed, setting, k, query and generation. A query's score is the maximum over its
generations; queries are the same for every model, so comparisons are paired.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.corpus import read_json_lines
from helpers.grading import metrics

METRICS = ("full_marks", "all_skills", "skill_fraction")
KEY = ["model", "seed", "setting", "k", "query"]
SMALLEST_EFFECT = 0.05  # a gain whose whole interval lies below this is no gain
LEVEL = 0.05  # of the tests, after Holm's correction


def tidy(files: Sequence[Path]) -> pd.DataFrame:
    """One row a generation, from the files that 03_grade writes.

    Columns: model (a variant without its seed), seed, setting, k, query, generation, the three metrics (NaN where no
    grading was readable), gradings (how many were), cut (the answer stopped at the token limit).
    """
    rows = []
    for path in files:
        model, seed = re.fullmatch(r"(.+?)(?:-s(\d+))?", path.stem).groups()
        for record in read_json_lines(path, "03_grade"):
            scores = metrics(record["points"]) if record["points"] else dict.fromkeys(METRICS, np.nan)
            taken = {name: record[name] for name in ("setting", "k", "query", "generation", "cut")}
            rows.append({"model": model, "seed": int(seed or 0), **taken, "gradings": len(record["gradings"]), **scores})
    return pd.DataFrame(rows)


def per_query(table: pd.DataFrame, metric: str = "full_marks", *, over_generations: str = "max") -> pd.Series:
    """A query's score, indexed by model, seed, setting, k, query; without queries that have no readable generation."""
    return table.groupby(KEY)[metric].agg(over_generations).dropna()


def grid(scores: pd.Series, model: str, setting: str, k: int) -> pd.DataFrame:
    """One model's scores in one cell: a row a training seed, a column a query."""
    cell = scores.xs((model, setting, k), level=["model", "setting", "k"])
    return cell.unstack("query")


def resampled_means(cells: Sequence[pd.DataFrame], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of several models' cells under one bootstrap of seeds (each model's own) and queries (common): (samples, cells)."""
    common = sorted(set.intersection(*(set(c.columns) for c in cells)))
    queries = rng.integers(len(common), size=(samples, len(common)))
    means = []
    for cell in cells:
        values = cell[common].to_numpy()
        seeds = rng.integers(len(values), size=(samples, len(values)))
        weight = np.stack([(seeds == s).mean(axis=1) for s in range(len(values))], axis=1)  # (samples, seeds)
        by_query = weight @ values  # (samples, queries)
        means.append(np.take_along_axis(by_query, queries, axis=1).mean(axis=1))
    return np.stack(means, axis=1)


def summary(table: pd.DataFrame, *, metric: str = "full_marks", samples: int, seed: int = 0) -> pd.DataFrame:
    """Mean, standard error and 95% interval of every model, setting and k.

    Standard error and interval come from one bootstrap over training seeds and queries.
    """
    scores = per_query(table, metric)
    rows = []
    for model, setting, k in scores.index.droplevel(["seed", "query"]).unique():
        cell = grid(scores, model, setting, k)
        means = resampled_means([cell], samples, np.random.default_rng(seed))[:, 0]
        low, high = np.quantile(means, [0.025, 0.975])
        counts = {"seeds": len(cell), "queries": cell.shape[1]}
        mean = np.nanmean(cell.to_numpy())
        rows.append({"model": model, "setting": setting, "k": k, **counts, "mean": mean, "se": means.std(), "low": low, "high": high})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Finding:
    """A claim: `model` scores higher than `against` in this setting at each of these k."""

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


def findings(table: pd.DataFrame, *, metric: str = "full_marks", samples: int, seed: int = 0) -> pd.DataFrame:
    """Every finding at every k that the table covers: the gain, its 95% interval, a corrected p-value, the verdict.

    Where several students were trained, their models are named `<student>-<mix>` and each student has its own rows.
    """
    scores = per_query(table, metric)
    cells = set(scores.index.droplevel(["seed", "query"]).unique())
    prefixes = sorted({m.removesuffix("base") for m, _, _ in cells if m.endswith("base")})
    rows = []
    for prefix in prefixes:
        for finding in FINDINGS:
            model, against = prefix + finding.model, prefix + finding.against
            for k in finding.ks:
                if not {(model, finding.setting, k), (against, finding.setting, k)} <= cells:
                    continue
                pair = [grid(scores, m, finding.setting, k) for m in (model, against)]
                means = resampled_means(pair, samples, np.random.default_rng(seed))
                gains = means[:, 0] - means[:, 1]
                common = pair[0].columns.intersection(pair[1].columns)
                gain = np.nanmean(pair[0][common]) - np.nanmean(pair[1][common])
                p = min(1.0, 2 * (1 + min((gains <= 0).sum(), (gains >= 0).sum())) / (samples + 1))
                low, high = np.quantile(gains, [0.025, 0.975])
                n = {"seeds": len(pair[0]), "queries": len(common)}
                rows.append(
                    {"claim": finding.claim, "model": model, "against": against, "setting": finding.setting, "k": k, **n}
                    | {"gain": gain, "low": low, "high": high, "p": p}
                )
    found = pd.DataFrame(rows)
    if len(found):
        found["p_holm"] = holm(found.pop("p"))
        found["verdict"] = [verdict(r.gain, r.high, r.p_holm) for r in found.itertuples()]
    return found


def spread(summary: pd.DataFrame) -> pd.DataFrame:
    """A summary as a table to read: a row a setting and model, a column a k."""
    triples = zip(summary["mean"], summary.low, summary.high, strict=True)
    cells = summary.assign(cell=[f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in triples])
    return cells.pivot(index=["setting", "model"], columns="k", values="cell")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """The tidy table, for `read_csv`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.round(6).to_csv(path, index=False)


def headline(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: the verdict at each k with the gain and its interval."""
    cell = [f"{r.verdict}: {r.gain:+.2f} [{r.low:+.2f}, {r.high:+.2f}]" for r in verdicts.itertuples()]
    return verdicts.assign(cell=cell).pivot(index=["claim", "setting", "model", "against"], columns="k", values="cell").fillna("")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index as first columns."""
    flat = table.reset_index()
    rows = [list(map(str, flat.columns)), ["---"] * flat.shape[1], *flat.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def readme_tables(scores_csv: Path, *, samples: int) -> tuple[str, str]:
    """The two tables of the README: full marks by model, setting and k; the verdicts."""
    table = pd.read_csv(scores_csv)
    return markdown(spread(summary(table, samples=samples))), markdown(headline(findings(table, samples=samples)))


if __name__ == "__main__":
    print(*readme_tables(Path(sys.argv[1]), samples=int(sys.argv[2])), sep="\n\n")
