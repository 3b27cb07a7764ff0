"""A text's grades: unreadable replies, equal texts, rules, and JSON by a schema."""

import pytest

from helpers.chat.endpoint import Endpoint
from helpers.errors import UserError
from helpers.judge.grade import grade
from helpers.task.points import Points, Rules

TEXT = "The needle, a storm of pale dreams, waits."
EXACT = "drop=0&overrun=0&stray=0&flip=0&lenient=0&shape=0"
ALL = Points.of([1, 1, 1, 1])


def judge(rates: str, **settings) -> Endpoint:
    return Endpoint(base_url=f"world:?{EXACT}&{rates}", model="judge", **settings)


@pytest.fixture
def graded(packs, ledger):
    """Has texts graded by a judge of these rates of error."""

    def make(queries, texts, rates="unreadable=0", *, form="terse", gradings=1, rules=None):
        endpoint = judge(rates, json_schema=form == "json")
        settings = {"gradings": gradings, "rules": rules or Rules()}
        return grade(queries, texts, packs[form], endpoint, ledger, **settings)

    return make


@pytest.mark.parametrize("form", ["terse", "json"])
def test_unreadable_is_asked_again_then_counted(form, graded, query, ledger):
    """Half of a judge's replies cannot be read: what could is right, the rest counted with why."""
    queries = [query("metaphor", topic=topic) for topic in ("sewing", "chess")] * 20
    texts = [f"{TEXT[:-1]}{'!' * i}." for i in range(40)]
    first = graded(queries, texts, "unreadable=0.5", form=form, gradings=3)
    assert sum(len(g.unreadable) for g in first) > 20
    reason = {"terse": "criteria without points", "json": "no JSON"}[form]
    assert {why.split(":")[0] for g in first for why in g.unreadable} == {reason}
    assert any(len(g.gradings) < 3 for g in first), "two more replies are not enough for all"
    for g in first:
        replies = len(g.gradings) + len(g.unreadable)
        assert replies == 5 if len(g.gradings) < 3 else replies <= 5
    asked = ledger.summary().attempts.sum()
    assert graded(queries, texts, "unreadable=0.5", form=form, gradings=3) == first
    assert ledger.summary().attempts.sum() == asked, "nothing is asked anew"


def test_without_a_readable_grading_there_are_no_points(graded, query):
    (none,) = graded([query("metaphor")], [TEXT], "unreadable=1", gradings=3)
    assert (none.gradings, none.points, len(none.unreadable)) == ([], None, 5)


def test_equal_answers_are_one_question_and_its_reasons_are_counted_once(graded, query):
    def twice(rates):
        return graded([query("metaphor")] * 2, [TEXT] * 2, rates, gradings=2)

    assert [len(g.unreadable) for g in twice("unreadable=1")] == [4, 0]
    assert [g.gradings for g in twice("unreadable=0")] == [[ALL] * 2] * 2


def test_grade_applies_the_rules_it_is_given(graded, query):
    def points(rules):
        named = "The needle, a storm of pale dreams, waits, metaphor."
        return graded([query("metaphor")], [named], rules=rules)[0].points

    plain = points(Rules()).numbers
    assert plain[0] == 1
    assert points(Rules(deduct_named_skills=True)).numbers == (0, *plain[1:])
    with pytest.raises(KeyError):
        points(Rules(sentence_counter="guess"))


def test_a_table_and_json_give_the_same_points(graded, query):
    queries = [query("metaphor"), query("metaphor", "simile"), query("simile", topic="chess")]
    by_table, by_json = (graded(queries, [TEXT] * 3, form=form) for form in ("paper", "json"))
    assert by_table == by_json
    assert [g.points.skills for g in by_table] == [(1,), (1, 0), (0,)]


def test_a_server_that_ignores_the_schema_ends_in_one_sentence(packs, query, ledger):
    """At its first reply: the teacher, here in the judge's place, writes a text for the prompt."""
    other = packs["json"].__class__(
        generation=(),
        grading="Topic: {topic}\nSkills: {skills_str}\n{student_answer}",
        rubric=packs["json"].rubric,
        json_schema=True,
    )
    teacher = judge("unreadable=0", json_schema=True, takes_n=False, concurrency=1)
    queries = [query("metaphor", topic=topic) for topic in ("sewing", "chess", "sewing")]
    with pytest.raises(UserError, match="did not keep to the JSON schema of response_format"):
        grade(queries, [TEXT] * 3, other, teacher, ledger, gradings=3, rules=Rules())
    assert ledger.summary().attempts.sum() <= 3, "no more than the first question's"
