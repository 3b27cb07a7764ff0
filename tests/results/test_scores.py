"""Scores from points: against an independent slow version; the tidy table; findings, sweeps and what they would need."""

import json
import random

import numpy as np
import pandas as pd
import pytest

from helpers.judge.grade import majority
from helpers.results import scores


def records(
    rng, *, mix=None, ks=(1, 2, 3), settings=("I", "II"), queries=4, generations=3, gradings=3
):
    for setting in settings:
        for k in ks:
            for query in range(queries):
                for generation in range(generations):
                    votes = [
                        [int(rng.random() < 0.8) for _ in range(k + 3)]
                        for _ in range(rng.choice([gradings, gradings, 1, 0]))
                    ]
                    second = [
                        [int(rng.random() < 0.9) for _ in range(k + 3)] for _ in range(gradings)
                    ]
                    asked = {
                        "setting": setting,
                        "k": k,
                        "query": query,
                        "generation": generation,
                        "cut": False,
                    }
                    about = {
                        "topic": "sewing",
                        "skills": [f"skill {i}" for i in range(k)],
                        "mix": mix or {},
                    }
                    grades = {
                        name: {"gradings": v, "points": majority(v), "unreadable": []}
                        for name, v in {"first": votes, "other": second}.items()
                    }
                    yield {**asked, **about, "grades": grades}


def slow_score(rows, k, metric, judge, over):
    """From protocol.md alone: vote on each point, the metric of each generation, the maximum; None without a grading."""
    values = []
    for row in rows:
        gradings = row["grades"][judge]["gradings"]
        if not gradings:
            continue
        points = []
        for i in range(k + 3):
            ones = len([g for g in gradings if g[i] == 1])
            points.append(1 if ones > len(gradings) - ones else 0)
        skill_points, other = sum(points[:k]), sum(points[k:])
        if metric == "full_marks":
            value = 1 if skill_points + other == k + 3 else 0
        elif metric == "all_skills":
            value = 1 if skill_points == k and other >= 2 else 0
        else:
            value = skill_points / k if other == 3 else 0
        values.append(value)
    if not values:
        return None
    best = values[0]
    for value in values:
        best = value if value > best else best
    return best if over == "max" else sum(values) / len(values)


@pytest.mark.parametrize("over", ["max", "mean"])
@pytest.mark.parametrize("judge", ["first", "other"])
def test_scores_equal_an_independent_version(tmp_path, over, judge):
    rng = random.Random(0)
    mixes = {
        "base": {},
        "k12-s0": {"1": 5, "2": 7},
        "k12-s1": {"1": 5, "2": 7},
        "llama-2-13b-k1-s0": {"1": 5},
    }
    made = {name: list(records(rng, mix=mix, queries=30)) for name, mix in mixes.items()}
    for name, rows in made.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = scores.tidy([tmp_path / f"{name}.jsonl" for name in made])
    assert set(zip(table.model, table.seed, table.kind, table.texts, strict=True)) == {
        ("base", 0, "base", 0),
        ("k12", 0, "k12", 12),
        ("k12", 1, "k12", 12),
        ("llama-2-13b-k1", 0, "k1", 5),
    }
    scores.write_csv(table, tmp_path / "scores.csv")
    again = scores.read_csv(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(again, table, check_dtype=False, atol=1e-6)
    assert again.votes.map(type).eq(str).all()
    unreadable = 0
    for metric in scores.METRICS:
        found = scores.per_query(again, metric, over_generations=over, judge=judge)
        for name, (model, seed) in {"base": ("base", 0), "k12-s1": ("k12", 1)}.items():
            for setting, k, query in {(r["setting"], r["k"], r["query"]) for r in made[name]}:
                same = [
                    r
                    for r in made[name]
                    if (r["setting"], r["k"], r["query"]) == (setting, k, query)
                ]
                slow = slow_score(same, k, metric, judge, over)
                unreadable += slow is None
                assert found.get((model, seed, setting, k, query)) == (
                    None if slow is None else pytest.approx(slow, abs=1e-6)
                )
    assert judge == "other" or unreadable > 0, "the case of a query without any grading was not met"


def test_the_tables_votes_are_enough_to_compute_its_metrics(tmp_path):
    (tmp_path / "k1-s0.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in records(random.Random(1), mix={"1": 3}))
    )
    for row in scores.tidy([tmp_path / "k1-s0.jsonl"]).itertuples():
        points = majority([tuple(map(int, vote)) for vote in row.votes.split()])
        assert row.gradings == len(row.votes.split())
        for metric in scores.METRICS:
            assert (points is None and np.isnan(getattr(row, metric))) or getattr(
                row, metric
            ) == scores.metrics(points)[metric]


TEXTS = {"base": 0, "k1": 1200, "k12": 2400, "k123": 3600}


def simulated(rng, means, *, seeds=3, queries=40, setting="I", ks=(2, 3, 4, 5), texts=None):
    """Full marks drawn per query, with queries of differing difficulty that all models share."""
    rows, texts = [], TEXTS | (texts or {})
    for k in ks:
        difficulty = rng.normal(0, 0.15, queries)
        for model, mean in means.items():
            about = {
                "model": model,
                "kind": model.partition("n")[0],
                "texts": texts[model],
                "judge": "first",
                "setting": setting,
                "k": k,
            }
            for seed in range(1 if model == "base" else seeds):
                marks = rng.random(queries) < np.clip(mean + difficulty, 0, 1)
                rows += [
                    {**about, "seed": seed, "query": q, "generation": 0, "full_marks": float(m)}
                    for q, m in enumerate(marks)
                ]
    return pd.DataFrame(rows)


def test_summary_says_n_error_and_interval():
    table = simulated(np.random.default_rng(0), {"base": 0.2, "k123": 0.6}, ks=(4,))
    found = scores.summary(table).set_index("model")
    assert found.loc["base", ["seeds", "queries"]].tolist() == [1, 40]
    assert found.loc["k123", ["seeds", "queries", "texts"]].tolist() == [3, 40, 3600]
    answers = table[table.model == "base"].full_marks
    assert found.loc["base", "se"] == pytest.approx(answers.std(ddof=1) / np.sqrt(40))
    assert ((found.low < found["mean"]) & (found["mean"] < found.high)).all()


def test_queries_without_a_score_from_every_seed_are_left_out():
    table = simulated(np.random.default_rng(1), {"base": 0.2, "k123": 0.6}, ks=(4,))
    table.loc[(table.model == "k123") & (table.seed == 1) & (table["query"] < 3), "full_marks"] = (
        np.nan
    )
    found = scores.summary(table).set_index("model")
    assert found.queries.to_dict() == {"base": 40, "k123": 37}
    assert (scores.findings(table).queries == 37).all()
    assert scores.summary(table.assign(full_marks=np.nan)).empty


def test_verdicts():
    assert scores.verdict(0.3, 0.4, 0.001) == "holds"
    assert scores.verdict(-0.3, -0.2, 0.001) == "does not hold"
    assert scores.verdict(0.01, 0.04, 0.6) == "does not hold"
    assert scores.verdict(0.1, 0.3, 0.2) == "undecided"


def test_holm():
    assert scores.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert scores.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert scores.holm([]).tolist() == []


def test_findings_are_paired_corrected_and_always_the_same():
    table = simulated(np.random.default_rng(2), {"base": 0.1, "k1": 0.1, "k12": 0.1, "k123": 0.8})
    found = scores.findings(table)
    assert found.equals(scores.findings(table))
    lifted = found[(found.model == "k123") & (found.against == "base")]
    assert (lifted.verdict == "holds").all()
    assert not (found[found.model == "k1"].verdict == "holds").any()
    assert (found.p_holm >= found.p).all()
    assert ((found.p_holm < 0.05) <= (found.low > 0)).all(), "what holds has an interval above zero"
    same = table[(table.model == "k123") & (table.seed == 0)]
    itself = scores.findings(pd.concat([same, same.assign(model="base", kind="base", texts=0)]))
    assert (itself.gain == 0).all(), (
        "a model compared with itself on the same queries gains nothing"
    )
    shuffled = same.assign(query=39 - same["query"], model="base", kind="base", texts=0)
    apart = scores.findings(pd.concat([same, shuffled]))
    assert (itself.high < apart.high / 2).all(), "and the pairing leaves little of the spread"


def test_mixes_of_any_name_are_found_by_what_they_hold():
    table = simulated(np.random.default_rng(3), {"base": 0.1, "k123": 0.8})
    renamed = table.assign(model=table.model.replace("k123", "everything"))
    assert set(scores.findings(renamed).model) == {"everything"}
    assert scores.findings(renamed).gain.equals(scores.findings(table).gain)
    assert scores.kind_of({"2": 5, "10": 3, "1": 2}) == "k1210"
    other = scores.findings(
        table.assign(
            kind=table.kind.replace("k123", "k23"), model=table.model.replace("k123", "other")
        )
    )
    assert other.empty
    assert list(other.columns) == scores.FOUND
    assert scores.headline(other).empty
    assert scores.power(table, other, ()).empty


SWEEP = {f"{kind}n{n}": n for n in (300, 600) for kind in ("k12", "k123")}


def test_a_sweep_compares_equal_numbers_of_texts():
    means = {
        "base": 0.1,
        "k1": 0.1,
        "k12": 0.5,
        "k123": 0.9,
        "k12n300": 0.1,
        "k123n300": 0.8,
        "k12n600": 0.4,
        "k123n600": 0.9,
    }
    table = simulated(np.random.default_rng(4), means, texts=SWEEP)
    claims = scores.sweep_findings(table)
    assert [(c.model, c.against) for c in claims] == [
        ("k123n300", "k12n300"),
        ("k123n600", "k12n600"),
    ]
    found = scores.findings(table, claims)
    assert found.groupby("claim").k.apply(list).tolist() == [[3, 4]] * 2
    assert (found.verdict == "holds").all()
    assert set(scores.findings(table).model) == {"k1", "k123"}, (
        "the findings are of the largest mixes"
    )
    assert set(scores.largest(table).model) == {"base", "k1", "k12", "k123"}
    assert scores.sweep_findings(scores.largest(table)) == ()
    two = pd.concat(
        [table.assign(model=student + "-" + table.model) for student in ("five", "three")]
    )
    assert scores.sweep_findings(two) == claims, "two students share a claim"
    assert len(scores.findings(two, claims)) == 2 * len(found)


def test_power_says_how_many_queries_or_that_seeds_prevent_it():
    rng = np.random.default_rng(5)
    table = simulated(rng, {"base": 0.3, "k1": 0.4, "k12": 0.42, "k123": 0.45})
    verdicts = scores.findings(table)
    needed = scores.power(table, verdicts)
    assert len(needed) == (verdicts.verdict == "undecided").sum() > 0
    numbers = [int(n.replace(",", "")) for n in needed.needed if n[0].isdigit()]
    assert numbers
    assert min(numbers) > 40
    shifts = {0: -0.4, 1: 0.05, 2: 0.4}
    wild = table[table.model.isin(["base", "k123"])].copy()
    trained = wild.model == "k123"
    wild.loc[trained, "full_marks"] = (
        rng.random(trained.sum()) < 0.5 + wild[trained].seed.map(shifts)
    ).astype(float)
    found = scores.findings(wild)
    assert set(scores.power(wild, found).needed) == {"more training seeds"}


def test_two_students_have_their_own_rows():
    rng = np.random.default_rng(6)
    one = simulated(rng, {"base": 0.2, "k123": 0.6})
    both = pd.concat(
        [one.assign(model=student + "-" + one.model) for student in ("llama-2-13b", "mistral-7b")]
    )
    found = scores.findings(both)
    assert set(found.model) == {"llama-2-13b-k123", "mistral-7b-k123"}


def test_a_mix_of_another_size_does_not_stand_in():
    """`k12` is missing: a mix of its kind stands in for it against k123 only with as many texts of each k; against the base always."""
    table = simulated(
        np.random.default_rng(5), {"base": 0.1, "k12n600": 0.4, "k123": 0.9}, texts=SWEEP
    )
    assert set(scores.findings(table).against) == {"base"}
    equal = table.assign(
        texts=table.texts.replace({600: 2400}), model=table.model.replace({"k12n600": "pairs"})
    )
    assert "pairs" in set(scores.findings(equal).against)
    only = simulated(np.random.default_rng(5), {"base": 0.1, "k123n600": 0.9}, texts=SWEEP)
    assert set(scores.findings(only).model) == {"k123n600"}
