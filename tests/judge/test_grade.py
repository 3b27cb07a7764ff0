"""A text's grades: counted sentences, deducted skills, the vote, the metrics, and what is done with unreadable replies."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.judge import grade
from helpers.paths import ROOT
from helpers.task import catalog
from helpers.task.prompts import load_pack

DATA = Path(__file__).parent / "data"
TERSE = load_pack(
    *(ROOT / f"params/prompts/terse/{kind}.json" for kind in ("generation", "grading"))
)
SKILLS = {s.name: s for s in catalog.load_skills(ROOT / "params/catalog/miniature/skills.csv")}


def query(*names: str, topic: str = "sewing") -> catalog.Query:
    return catalog.Query(topic, tuple(SKILLS[name] for name in names))


def labelled() -> list[dict]:
    with (DATA / "sentences.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_sentences_as_the_reference_counts_them():
    """100 texts; the numbers in `reference` were worked out by hand from protocol.md. 46 differ from what a person counts."""
    rows = labelled()
    assert len(rows) == 100
    assert sum(row["reference"] != row["human"] for row in rows) == 46
    counted = [(row["text"], grade.reference_count(row["text"])) for row in rows]
    assert counted == [(row["text"], int(row["reference"])) for row in rows]


def test_the_library_counts_more_as_a_person_does():
    """The numbers that the docstrings state. The texts were chosen to be hard, so neither share is that of a usual text."""
    right = {
        name: sum(count(row["text"]) == int(row["human"]) for row in labelled())
        for name, count in grade.COUNTERS.items()
    }
    assert right == {"reference": 54, "sentencex": 85}


def test_the_reference_reads_curly_quotes_as_the_protocol_says():
    """The one place where protocol.md ("any quotes") and the reference's own code (straight ones) differ."""
    straight, curly = 'Anna said "Sew." Ben sewed.', "Anna said “Sew.” Ben sewed."
    assert grade.reference_count(straight) == grade.reference_count(curly) == 2


RULES = {"sentence_counter": "reference", "deduct_named_skills": False}


def test_the_counted_sentences_replace_the_judges_point():
    for points in [(1, 1, 1, 1), (0, 1, 0, 0)]:
        assert grade.corrected(points, "One. Two.", query("metaphor"), **RULES) == (*points[:-1], 0)
        three = (1, *points[:1], 1, *points[1:])
        assert grade.corrected(
            three, "One. Two.", query("metaphor", "simile", "litotes"), **RULES
        ) == (*three[:-1], 1)
    abbreviated = "The U.S. Navy sews sails."  # two for the reference, one for the library
    assert grade.corrected((1, 1, 1, 1), abbreviated, query("metaphor"), **RULES)[-1] == 0
    assert (
        grade.corrected(
            (1, 1, 1, 1),
            abbreviated,
            query("metaphor"),
            **RULES | {"sentence_counter": "sentencex"},
        )[-1]
        == 1
    )


def test_a_skill_that_the_text_names_is_deducted_only_where_asked_for():
    """[YK23]: the name up to its first "(", in any case; other points stay."""
    long = catalog.Skill("Complex question (loaded question)", "x", "x", "x")
    asked = catalog.Query("sewing", (SKILLS["metaphor"], long, SKILLS["simile"]))
    points = (1, 1, 1, 1, 1, 1)
    deduct = RULES | {"deduct_named_skills": True}
    named = "This METAPHOR is a complex Question of sewing."
    assert grade.corrected(points, named, asked, **deduct) == (0, 0, 1, 1, 1, 1)
    assert grade.corrected(points, named, asked, **RULES) == points
    assert grade.corrected(points, "A loaded question of sewing.", asked, **deduct) == points, (
        "what stands in brackets is no name"
    )
    assert grade.corrected((0, 0, 0, 1, 1, 1), named, asked, **deduct) == (0, 0, 0, 1, 1, 1)


@settings(deadline=None, derandomize=True)
@given(
    st.integers(1, 5).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 1)] * n), max_size=5))
)
def test_majority(gradings):
    """Against counting the ones and the zeros: a tie is 0, and without a grading there is no vote."""
    slow = tuple(int(votes.count(1) > votes.count(0)) for votes in zip(*gradings, strict=True))
    assert grade.majority(gradings) == (slow if gradings else None)


def test_metrics():
    """Against protocol.md's "Metrics per generation", written down once more, on all points there are for k = 1 to 5."""
    for k in range(1, 6):
        for points in np.array(np.meshgrid(*[[0, 1]] * (k + 3))).T.reshape(-1, k + 3).tolist():
            skill_points, other_points = sum(points[:k]), points[k] + points[k + 1] + points[k + 2]
            assert grade.metrics(points) == {
                "full_marks": 1 if skill_points + other_points == k + 3 else 0,
                "all_skills": 1 if skill_points == k and other_points >= 2 else 0,
                "skill_fraction": skill_points / k if other_points == 3 else 0,
            }


TEXT = "The needle is a storm of pale dreams."
EXACT = "drop=0&overrun=0&stray=0&flip=0&lenient=0&shape=0"


def judge(rates: str) -> Endpoint:
    return Endpoint(base_url=f"world:?{EXACT}&{rates}", model="judge")


def test_unreadable_is_asked_again_then_counted(tmp_path):
    """A judge of whom half cannot be read: what came out readable is right, the rest is counted with its reasons."""
    queries, texts = (
        [query("metaphor", topic=t) for t in ("sewing", "chess")] * 20,
        [f"{TEXT[:-1]}{'!' * i}." for i in range(40)],
    )
    ledger = Ledger(tmp_path / "l.sqlite")
    graded = grade.grade(queries, texts, TERSE, judge("unreadable=0.5"), ledger, gradings=3)
    assert sum(len(g.unreadable) for g in graded) > 20
    assert {reason.split(":")[0] for g in graded for reason in g.unreadable} == {"no points for"}
    assert any(len(g.gradings) < 3 for g in graded), (
        "the budget of two more replies is not enough for all"
    )
    for g in graded:
        assert len(g.gradings) + len(g.unreadable) <= 5
        assert len(g.gradings) == 3 or len(g.gradings) + len(g.unreadable) == 5, (
            "asked again to the end of the budget"
        )
    asked = ledger.summary().attempts.sum()
    assert grade.grade(queries, texts, TERSE, judge("unreadable=0.5"), ledger, gradings=3) == graded
    assert ledger.summary().attempts.sum() == asked, (
        "nothing is asked anew, and the reasons are the same"
    )


def test_without_a_readable_grading_there_are_no_points(tmp_path):
    (graded,) = grade.grade(
        [query("metaphor")],
        [TEXT],
        TERSE,
        judge("unreadable=1"),
        Ledger(tmp_path / "l.sqlite"),
        gradings=3,
    )
    assert graded.gradings == []
    assert graded.points is None
    assert len(graded.unreadable) == 5


def test_equal_answers_are_one_question_and_its_reasons_are_counted_once(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    first, second = grade.grade(
        [query("metaphor")] * 2, [TEXT] * 2, TERSE, judge("unreadable=1"), ledger, gradings=2
    )
    assert (len(first.unreadable), len(second.unreadable)) == (4, 0)
    same = grade.grade(
        [query("metaphor")] * 2, [TEXT] * 2, TERSE, judge("unreadable=0"), ledger, gradings=2
    )
    assert [g.gradings for g in same] == [[(1, 1, 1, 1)] * 2] * 2


def test_grade_applies_the_rules_it_is_given(tmp_path):
    ledger, text = Ledger(tmp_path / "l.sqlite"), "The needle is a storm of pale dreams, metaphor."
    plain, deducted = (
        grade.grade(
            [query("metaphor")],
            [text],
            TERSE,
            judge("unreadable=0"),
            ledger,
            gradings=1,
            deduct_named_skills=deduct,
        )
        for deduct in (False, True)
    )
    assert plain[0].points[0] == 1
    assert deducted[0].points == (0, *plain[0].points[1:])
    with pytest.raises(KeyError):
        grade.grade(
            [query("metaphor")],
            [text],
            TERSE,
            judge("unreadable=0"),
            ledger,
            gradings=1,
            sentence_counter="guess",
        )
