"""Scores from points: against an independent slow version, and from the table's votes."""

import itertools
import random

import numpy as np
import pandas as pd
import pytest

from helpers.results import findings, scores
from helpers.task.points import Points, majority


def records(rng, *, mix=None, ks=(1, 2, 3), settings=("I", "II"), queries=4):
    """Graded answers as 03_grade writes them: the first judge is unreadable at times."""

    def gradings(k: int, share: float, number: int) -> list[list[int]]:
        return [[int(rng.random() < share) for _ in range(k + 3)] for _ in range(number)]

    for setting, k, query, generation in itertools.product(settings, ks, range(queries), range(3)):
        yield {
            "setting": setting,
            "k": k,
            "query": query,
            "generation": generation,
            "cut": False,
            "topic": "sewing",
            "skills": [f"skill {i}" for i in range(k)],
            "apart": 0,
            "mix": mix or {},
            "grades": {
                "first": {"gradings": gradings(k, 0.8, rng.choice([3, 3, 1, 0]))},
                "other": {"gradings": gradings(k, 0.9, 3)},
            },
        }


def slow_score(rows, k, metric, judge, over):
    """From protocol.md alone: vote on each point, each generation's metric, the maximum.

    None without a grading.
    """
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
        "llama-2-13b-own-s0": {"chats": 9},
    }
    made = {name: list(records(rng, mix=mix, queries=30)) for name, mix in mixes.items()}
    table = scores.tidy(made)
    assert set(zip(table.model, table.seed, table.kind, table.texts, strict=True)) == {
        ("base", 0, "base", 0),
        ("k12", 0, "k12", 12),
        ("k12", 1, "k12", 12),
        ("llama-2-13b-k1", 0, "k1", 5),
        ("llama-2-13b-own", 0, "own", 9),
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


def test_votes_are_enough_to_compute_metrics_and_criteria(tmp_path):
    table = scores.tidy({"k1-s0": list(records(random.Random(1), mix={"1": 3}))})
    criteria = scores.criteria(table).set_index([*scores.KEY, "generation", "judge"])
    for row in table.itertuples():
        points = majority([Points.of(list(map(int, vote))) for vote in row.votes.split()])
        assert row.gradings == len(row.votes.split())
        answer = (row.model, row.seed, row.setting, row.k, row.query, row.generation, row.judge)
        if points is None:
            assert np.isnan([getattr(row, metric) for metric in scores.METRICS]).all()
            assert answer not in criteria.index
            continue
        assert {metric: getattr(row, metric) for metric in scores.METRICS} == points.metrics()
        own = criteria.loc[[answer]]
        assert tuple(own.point) == points.numbers
        assert own.position.tolist() == list(range(1, row.k + 4))
        assert own.criterion.tolist() == [*row.skills.split("; "), *scores.OTHERS]


def test_summary_says_n_error_and_interval(simulated):
    table = simulated(np.random.default_rng(0), {"base": 0.2, "k123": 0.6}, ks=(4,))
    found = scores.summary(table).set_index("model")
    assert found.loc["base", ["seeds", "queries"]].tolist() == [1, 40]
    assert found.loc["k123", ["seeds", "queries", "texts"]].tolist() == [3, 40, 3600]
    answers = table[table.model == "base"].full_marks
    assert found.loc["base", "se"] == pytest.approx(answers.std(ddof=1) / np.sqrt(40))
    assert ((found.low < found["mean"]) & (found["mean"] < found.high)).all()


def test_queries_without_a_score_from_every_seed_are_left_out(simulated):
    table = simulated(np.random.default_rng(1), {"base": 0.2, "k123": 0.6}, ks=(4,))
    table.loc[(table.model == "k123") & (table.seed == 1) & (table["query"] < 3), "full_marks"] = (
        np.nan
    )
    found = scores.summary(table).set_index("model")
    assert found.queries.to_dict() == {"base": 40, "k123": 37}
    assert (findings.findings(table).queries == 37).all()
    assert scores.summary(table.assign(full_marks=np.nan)).empty


def test_single_answers_stand_beside_the_best(simulated):
    first = simulated(np.random.default_rng(2), {"k12": 0.5}, ks=(4,))
    second = first.assign(generation=1, full_marks=0.0)
    summary = scores.summary(pd.concat([first, second])).iloc[0]
    assert summary.generations == 2
    assert summary["mean"] == pytest.approx(first.full_marks.mean())
    assert summary.single == pytest.approx(summary["mean"] / 2)
    cell = scores.spread(summary.to_frame().T)[4].item()
    assert cell.startswith(f"{summary['mean']:.2f} [")
    assert cell.endswith(f"] / {summary.single:.2f}")


def test_the_control_is_a_kind_of_its_own():
    padded = {"1": 1200, "1+1": 1200, "1+2": 1200}
    assert [scores.kind_of(mix) for mix in ({}, {"1": 3600}, padded)] == ["base", "k1", "padded"]


def test_pairs_that_may_be_shown_and_pairs_kept_apart_stand_beside_each_other(simulated):
    tables = []
    for setting in ("I", "II"):
        rng = np.random.default_rng(0)
        tables.append(simulated(rng, {"k123": 0.5, "base": 0.1}, setting=setting, apart=15))
    table = pd.concat(tables)
    pairs = scores.by_pairs(table)
    assert list(pairs.index) == ["k123", "base"]
    for column, is_its, n in (
        ("may be shown", table.apart == 0, 25),
        ("kept apart", table.apart == 1, 15),
    ):
        rows = table[is_its & (table.k == 2) & (table.setting == "I") & (table.model == "k123")]
        assert pairs[column]["k123"].startswith(f"{rows.full_marks.mean():.2f} [")
        assert pairs[column]["k123"].endswith(f"({n} queries)")
    assert scores.by_pairs(table.assign(apart=0)).empty


def test_an_older_table_has_no_pairs_apart_and_no_sweeps(tmp_path):
    (tmp_path / "scores.csv").write_text("model,k,votes,full_marks\nbase,2,11111,1.0\n")
    table = scores.read_csv(tmp_path / "scores.csv")
    assert (table.apart.tolist(), table.sweep.tolist()) == ([0], [""])


def test_a_model_is_of_the_sweep_that_is_named_and_its_parts_are_counted(tmp_path):
    rng = random.Random(0)
    mix = {"1": 400, "2": {"texts": 100, "pairs": 9}}
    graded = {
        name: list(records(rng, mix=given))
        for name, given in (("three-pairs9-s0", mix), ("three-k1-s0", {"1": 1200}))
    }
    table = scores.tidy(graded, {"three-pairs9": "pairs"})
    models = table.drop_duplicates("model").set_index("model")
    assert models.sweep.to_dict() == {"three-pairs9": "pairs", "three-k1": ""}
    assert models.texts.to_dict() == {"three-pairs9": 500, "three-k1": 1200}
    assert models.kind["three-pairs9"] == "k12"
    assert set(scores.main_models(table).model) == {"three-k1"}
