"""A second judge: agreement against counting by hand, and findings that survive a swap or not."""

import itertools
import random

import numpy as np
import pandas as pd
import pytest

from helpers.results import agreement, findings


def answer(query, judge, votes, *, skills="metaphor; simile", seed=0):
    about = {
        "model": "k12",
        "kind": "k12",
        "texts": 10,
        "seed": seed,
        "judge": judge,
        "setting": "I",
        "k": 2,
        "query": query,
    }
    return {**about, "skills": skills, "apart": 0, "generation": 0, "votes": votes}


def test_kappa_by_hand():
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement 0.7, by chance 0.5, kappa 0.4."""
    assert agreement.kappa(np.array([15, 10, 5, 20])) == pytest.approx(0.4)
    assert agreement.kappa(np.array([10, 0, 0, 10])) == 1
    assert agreement.kappa(np.array([0, 10, 10, 0])) == -1
    assert np.isnan(agreement.kappa(np.array([0, 0, 0, 10]))), (
        "where nobody ever says no there is nothing beyond chance"
    )


def test_agreement_against_a_slow_version():
    rng, rows, slow = random.Random(0), [], {}
    for query in range(60):
        truth = [rng.random() < 0.6 for _ in range(5)]
        given = {
            name: [int(t != (rng.random() < noise)) for t in truth]
            for name, noise in {"first": 0.05, "other": 0.2}.items()
        }
        rows += [
            answer(query, name, " ".join(["".join(map(str, points))] * 3))
            for name, points in given.items()
        ]
        for kind, a, b in zip(
            ["all skills", "all skills", "on topic", "makes sense"],
            given["first"],
            given["other"],
            strict=False,
        ):
            slow.setdefault(kind, []).append((a, b))
    rows += [answer(60, "first", "11111"), answer(60, "other", "")]  # unreadable for one: no pair
    found = agreement.agreement(pd.DataFrame(rows)).set_index("criterion")
    for kind, pairs in slow.items():
        n, same = len(pairs), sum(a == b for a, b in pairs) / len(pairs)
        a, b = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
        row = found.loc[kind]
        assert (row.judge, row.n) == ("other", n)
        assert row[["first", "second", "agreement"]].tolist() == pytest.approx([a, b, same])
        assert row.kappa == pytest.approx(
            (same - a * b - (1 - a) * (1 - b)) / (1 - a * b - (1 - a) * (1 - b))
        )
        assert row.low < row.kappa < row.high
    assert list(found.index) == ["all skills", "makes sense", "on topic", "metaphor", "simile"]
    assert found.n["metaphor"] + found.n["simile"] == found.n["all skills"]
    few = agreement.agreement(pd.DataFrame(rows[: 2 * 20]))
    assert set(few.criterion) == {"all skills", "on topic", "makes sense"}, (
        "a skill with few points has no row of its own"
    )


def test_agreement_is_by_majority_and_leaves_the_counted_sentences_out():
    rows = [
        answer(q, judge, votes)
        for q in range(40)
        for judge, votes in (("first", "10110 10110 01000"), ("other", "10111 10111 10111"))
    ]
    found = agreement.agreement(pd.DataFrame(rows))
    assert (found.agreement == 1).all()
    assert found.set_index("criterion").n.to_dict() == {
        "all skills": 80,
        "makes sense": 40,
        "on topic": 40,
        "metaphor": 40,
        "simile": 40,
    }
    assert found.kappa.dropna().tolist() == [1], (
        "where a criterion always has the same point, nothing is beyond chance"
    )


def test_without_a_second_judge_tables_are_empty(simulated):
    table = simulated(np.random.default_rng(0), {"base": 0.1, "k123": 0.8}).assign(
        votes="", skills=""
    )
    assert agreement.agreement(table).empty
    assert agreement.swap(table).empty
    assert agreement.what_changed(agreement.swap(table)) == (
        "No second judge graded what a claim is about."
    )


def test_what_a_swap_changes_is_said(simulated):
    rng = np.random.default_rng(1)
    first = simulated(rng, {"base": 0.1, "k12": 0.1, "k123": 0.8})
    fair = simulated(rng, {"base": 0.15, "k12": 0.15, "k123": 0.85}).assign(judge="fair")
    blind = simulated(rng, {"base": 0.5, "k12": 0.5, "k123": 0.5}).assign(judge="blind")
    swapped = agreement.swap(pd.concat([first, fair, blind]))
    assert len(swapped) == 2 * len(findings.findings(first))
    assert swapped[swapped.judge == "fair"].survives.all()
    assert not swapped[swapped.judge == "blind"].survives.any()
    assert (swapped["first verdict"] == "holds").all()
    said = agreement.what_changed(swapped)
    n = len(findings.findings(first))
    assert f"Judge fair: {n} of {n} verdicts stay." in said
    assert f"Judge blind: 0 of {n} verdicts stay." in said
    lines = said.splitlines()
    assert len(lines) == 2 + n
    for row, line in zip(
        swapped[swapped.judge == "blind"].itertuples(),
        itertools.islice(lines, 1, None),
        strict=False,
    ):
        assert (
            f"{row.model} at k = {row.k}: holds with the first judge, {row.verdict} with blind"
            in line
        )


def test_a_swap_is_of_the_models_that_all_judges_graded(simulated):
    """Each judge's verdicts are corrected for as many tests."""
    rng = np.random.default_rng(0)
    table = simulated(rng, {"base": 0.1, "k1": 0.2, "k12": 0.5, "k123": 0.9})
    second = table[table.model.isin(["base", "k123"])].assign(judge="other")
    swapped = agreement.swap(pd.concat([table, second]))
    assert set(swapped.model) == {"k123"}
    assert set(swapped.against) == {"base"}
    assert swapped.survives.all(), "the grades are the same"
