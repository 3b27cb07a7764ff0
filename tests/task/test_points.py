"""Points: sentences counted, named skills deducted, the vote, the metrics."""

import csv
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.paths import ROOT
from helpers.task import catalog
from helpers.task.points import COUNTERS, Points, Rules, majority, reference_count

SKILLS = {s.name: s for s in catalog.load_skills(ROOT / "params/catalog/miniature/skills.csv")}
ALL = Points.of([1, 1, 1, 1])


def query(*skills) -> catalog.Query:
    return catalog.Query("sewing", tuple(SKILLS.get(skill, skill) for skill in skills))


@pytest.fixture(scope="module")
def sentences() -> list[dict]:
    path = Path(__file__).parents[1] / "data/sentences.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_sentences_as_the_reference_counts_them(sentences):
    """100 texts, worked out by hand from protocol.md; 46 differ from what a person counts."""
    assert len(sentences) == 100
    assert sum(row["reference"] != row["human"] for row in sentences) == 46
    counted = [(row["text"], reference_count(row["text"])) for row in sentences]
    assert counted == [(row["text"], int(row["reference"])) for row in sentences]


def test_the_library_counts_more_as_a_person_does(sentences):
    """The numbers that the docstrings state, of texts that were chosen to be hard."""
    right = {
        name: sum(count(row["text"]) == int(row["human"]) for row in sentences)
        for name, count in COUNTERS.items()
    }
    assert right == {"reference": 54, "sentencex": 85}


def test_the_reference_reads_curly_quotes_as_the_protocol_says():
    """The one place where protocol.md ("any quotes") and the reference's own code differ."""
    straight, curly = 'Anna said "Sew." Ben sewed.', "Anna said “Sew.” Ben sewed."
    assert reference_count(straight) == reference_count(curly) == 2


def test_the_counted_sentences_replace_the_judges_point():
    for numbers in [(1, 1, 1, 1), (0, 1, 0, 0)]:
        ruled = Rules().apply(Points.of(numbers), "One. Two.", query("metaphor"))
        assert ruled.numbers == (*numbers[:-1], 0)
    three = query("metaphor", "simile", "litotes")
    assert Rules().apply(Points.of([1, 0, 1, 1, 1, 0]), "One. Two.", three).sentences == 1
    navy = "The U.S. Navy sews sails."  # two for the reference, one for the library
    assert Rules().apply(ALL, navy, query("metaphor")).sentences == 0
    assert Rules("sentencex").apply(ALL, navy, query("metaphor")).sentences == 1


def test_a_skill_that_the_text_names_is_deducted_only_where_asked_for():
    """[YK23]: the name up to its first "(", in any case; other points stay."""
    long = catalog.Skill("Complex question (loaded question)", "x", "x", "x")
    asked, points = query("metaphor", long, "simile"), Points.of([1, 1, 1, 1, 1, 1])
    deduct = Rules(deduct_named_skills=True)
    named = "This METAPHOR is a complex Question of sewing."
    assert deduct.apply(points, named, asked).numbers == (0, 0, 1, 1, 1, 1)
    assert Rules().apply(points, named, asked) == points
    in_brackets = "A loaded question of sewing."
    assert deduct.apply(points, in_brackets, asked) == points, "what is in brackets is no name"
    unshown = Points.of([0, 0, 0, 1, 1, 1])
    assert deduct.apply(unshown, named, asked) == unshown


@settings(deadline=None, derandomize=True)
@given(
    st.integers(4, 7).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 1)] * n), max_size=5))
)
def test_majority(gradings):
    """Against counting ones and zeros: a tie is 0, and without a grading there is no vote."""
    counted = tuple(int(vote.count(1) > vote.count(0)) for vote in zip(*gradings, strict=True))
    points = majority([Points.of(grading) for grading in gradings])
    assert (points and points.numbers) == (counted if gradings else None)


def test_metrics():
    """Against protocol.md's "Metrics per generation", on all points there are for k = 1 to 5."""
    for k in range(1, 6):
        for numbers in itertools.product((0, 1), repeat=k + 3):
            shown, others = sum(numbers[:k]), sum(numbers[k:])
            assert Points.of(numbers).metrics() == {
                "full_marks": 1 if shown + others == k + 3 else 0,
                "all_skills": 1 if shown == k and others >= 2 else 0,
                "skill_fraction": shown / k if others == 3 else 0,
            }


def test_faults():
    assert Points.of([1, 1, 1, 1, 1]).fault() == ""
    assert Points.of([1, 0, 1, 1, 1]).fault() == "skill missing"
    assert Points.of([1, 1, 1, 1, 0]).fault() == "too many sentences"
    assert Points.of([0, 1, 0, 1, 1]).fault() == "several faults"
