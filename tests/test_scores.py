"""Scores from points: against an independent slow version; intervals and verdicts on data whose truth is known."""

import json
import random

import numpy as np
import pandas as pd
import pytest

from helpers import scores
from helpers.grading import majority


def records(rng, *, ks=(1, 2, 3), settings=("I", "II"), queries=4, generations=3, gradings=3):
    for setting in settings:
        for k in ks:
            for query in range(queries):
                for generation in range(generations):
                    votes = [[int(rng.random() < 0.8) for _ in range(k + 3)] for _ in range(rng.choice([gradings, gradings, 1, 0]))]
                    points = majority(votes)
                    asked = {"setting": setting, "k": k, "query": query, "generation": generation, "cut": False}
                    yield {**asked, "gradings": votes, "points": points}


def slow_score(rows, k, metric):
    """From protocol.md alone: vote on each point, the metric of each generation, the maximum; None without a grading."""
    best = None
    for row in rows:
        if not row["gradings"]:
            continue
        points = []
        for i in range(k + 3):
            ones = len([g for g in row["gradings"] if g[i] == 1])
            points.append(1 if ones > len(row["gradings"]) - ones else 0)
        skill_points, other = sum(points[:k]), sum(points[k:])
        if metric == "full_marks":
            value = 1 if skill_points + other == k + 3 else 0
        elif metric == "all_skills":
            value = 1 if skill_points == k and other >= 2 else 0
        else:
            value = skill_points / k if other == 3 else 0
        best = value if best is None else max(best, value)
    return best


def test_scores_equal_an_independent_version(tmp_path):
    rng = random.Random(0)
    made = {name: list(records(rng, queries=30)) for name in ("base", "k12-s0", "k12-s1", "llama-2-13b-k1-s0")}
    for name, rows in made.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    table = scores.tidy([tmp_path / f"{name}.jsonl" for name in made])
    assert set(zip(table.model, table.seed, strict=True)) == {("base", 0), ("k12", 0), ("k12", 1), ("llama-2-13b-k1", 0)}
    unreadable = 0
    for metric in scores.METRICS:
        found = scores.per_query(table, metric)
        for name, (model, seed) in {"base": ("base", 0), "k12-s1": ("k12", 1)}.items():
            for setting, k, query in {(r["setting"], r["k"], r["query"]) for r in made[name]}:
                same = [r for r in made[name] if (r["setting"], r["k"], r["query"]) == (setting, k, query)]
                slow = slow_score(same, k, metric)
                unreadable += slow is None
                assert found.get((model, seed, setting, k, query)) == (None if slow is None else pytest.approx(slow))
    assert unreadable > 0, "the case of a query without any grading was not met"


def simulated(rng, means, *, seeds=3, queries=40, setting="I", ks=(2, 3, 4, 5)):
    """Full marks drawn per query, with queries of differing difficulty that all models share."""
    rows = []
    for k in ks:
        difficulty = rng.normal(0, 0.15, queries)
        for model, mean in means.items():
            for seed in range(1 if model == "base" else seeds):
                marks = rng.random(queries) < np.clip(mean + difficulty, 0, 1)
                rows += [
                    {"model": model, "seed": seed, "setting": setting, "k": k, "query": q, "generation": 0, "full_marks": float(m)}
                    for q, m in enumerate(marks)
                ]
    return pd.DataFrame(rows)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """200 simulated runs without variance between seeds: the 95% interval holds the true mean in 88% to 99% of them."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        row = scores.summary(simulated(rng, {"k123": 0.5}, ks=(4,)), samples=300).iloc[0]
        covered.append(row.low <= 0.5 <= row.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_no_finding_where_there_is_none_and_one_where_there_is():
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(60):
        found = scores.findings(simulated(rng, {"base": 0.3, "k1": 0.3, "k12": 0.3, "k123": 0.3}), samples=400)
        false += (found.verdict == "holds").any()
    assert false <= 8, f"{false} of 60 runs without any effect claim one; 5% was promised, 13% is bad luck at 1 in 100"
    real = scores.findings(simulated(rng, {"base": 0.1, "k1": 0.1, "k12": 0.1, "k123": 0.7}), samples=2000)
    lifted = real[(real.model == "k123") & (real.against == "base")]
    assert (lifted.verdict == "holds").all()
    assert not (real[real.model == "k1"].verdict == "holds").any()


def test_verdicts():
    assert scores.verdict(0.3, 0.4, 0.001) == "holds"
    assert scores.verdict(-0.3, -0.2, 0.001) == "does not hold"
    assert scores.verdict(0.01, 0.04, 0.6) == "does not hold"
    assert scores.verdict(0.1, 0.3, 0.2) == "undecided"


def test_holm():
    assert scores.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert scores.holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_bootstrap_is_seeded_and_paired():
    rng = np.random.default_rng(2)
    table = simulated(rng, {"base": 0.2, "k123": 0.6})
    assert scores.summary(table, samples=200).equals(scores.summary(table, samples=200))
    same = table[table.model == "k123"].assign(model="base")
    same = same[same.seed == 0]
    alone = pd.concat([table[(table.model == "k123") & (table.seed == 0)], same])
    found = scores.findings(alone, samples=200)
    assert (found.gain == 0).all(), "a model compared with itself on the same queries gains nothing"
    assert (found.high == 0).all(), "and the pairing leaves no spread"


def test_two_students_have_their_own_rows():
    rng = np.random.default_rng(3)
    one = simulated(rng, {"base": 0.2, "k123": 0.6})
    both = pd.concat([one.assign(model=student + "-" + one.model) for student in ("llama-2-13b", "mistral-7b")])
    found = scores.findings(both, samples=100)
    assert set(found.model) == {"llama-2-13b-k123", "mistral-7b-k123"}
