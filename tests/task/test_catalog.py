"""Loading, splitting and drawing: our catalog, the reference's format, bad files."""

import collections
import difflib
import itertools
import re

import pytest

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.task.catalog import (
    Pool,
    Skill,
    bare,
    load_skills,
    load_topics,
    split,
)
from helpers.task.pairs import count_apart
from helpers.task.queries import evaluation_queries, left_for_training, training_queries

SKILLS, TOPICS = ROOT / "params/catalog/skills.csv", ROOT / "params/catalog/topics.txt"
TRAINING = ["literary", "rhetorical"]


def test_full_catalog_has_its_form():
    skills, topics = load_skills(SKILLS), load_topics(TOPICS)
    assert (len(skills), len(topics)) == (101, 100)
    counts = collections.Counter(s.category for s in skills)
    assert set(counts) == {
        *TRAINING,
        "reasoning",
        "logic",
        "theory of mind",
        "pragmatics",
        "common sense",
        "physical knowledge",
    }
    assert 45 <= counts["literary"] + counts["rhetorical"] <= 56, "about half and half"
    assert not {t.lower() for t in topics} & {bare(s.name) for s in skills}
    assert len({bare(s.name) for s in skills}) == 101
    for s in skills:
        assert not re.search(rf"\b{re.escape(bare(s.name))}\b", s.example.lower()), (
            f"the example of {s.name} names it"
        )
        assert "\n" not in s.definition + s.example
        assert len(s.definition) > 40
        assert len(s.example.split()) <= 40


def test_no_two_definitions_or_examples_are_alike():
    skills = load_skills(SKILLS)
    for part in ("definition", "example"):
        for a, b in itertools.combinations(skills, 2):
            matcher = difflib.SequenceMatcher(None, getattr(a, part), getattr(b, part))
            assert matcher.quick_ratio() < 0.9 or matcher.ratio() < 0.75, (
                f"{part}s of {a.name} and {b.name}"
            )


REFERENCE = """\
category,skill,definition,example,comments,status,added by
rhetorical, red herring ,A turn aside.,"He said, ""no"".",checked,,
literary,zeugma,"One verb, two senses.",He took his hat and his leave.,,remove,x
literary,irony,The opposite is meant.,"Lovely weather, she said in the storm.",,in review,
literary,pun,A play on words.,Time flies like an arrow.,,maybe,
reasoning,analogy (likening),Likens two things.,An atom is a small sun.,,keep,
"""


def test_reference_format_is_read(tmp_path):
    """Further columns, rows put aside by their status, names with spaces around them."""
    (tmp_path / "s.csv").write_text(REFERENCE)
    skills = load_skills(tmp_path / "s.csv")
    assert [s.name for s in skills] == ["red herring", "analogy (likening)"]
    assert skills[0].example == 'He said, "no".'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"category,skill,definition\nliterary,pun,x\n",
            "the header must hold category, skill",
        ),
        (b"category,skill,definition,example\nliterary,pun,,x\n", "line 2: empty definition"),
        (
            b"category,skill,definition,example\nliterary,pun,a,x\nliterary,Pun ,b,y\n",
            "pun stands more than once",
        ),
        (b"category,skill,definition,example\n", "no skill in it"),
        (b"category,skill,definition,example\nliterary,pun,\xff,x\n", "not UTF-8"),
        (b"", "the header must hold category, skill"),
        (b"category,skill,definition,example\nliterary,pun\n", "line 2: empty definition, example"),
    ],
)
def test_bad_skill_files_get_a_sentence(tmp_path, content, said):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        load_skills(path)
    assert str(path) in str(error.value)


def test_bad_topic_files_get_a_sentence(tmp_path):
    path = tmp_path / "t.txt"
    with pytest.raises(UserError, match="no such file"):
        load_topics(path)
    path.write_text("sewing\n\nSewing\n")
    with pytest.raises(UserError, match="sewing stands more than once"):
        load_topics(path)
    path.write_text("\n")
    with pytest.raises(UserError, match="no topic"):
        load_topics(path)


def test_split_by_category_and_topic():
    skills, topics = load_skills(SKILLS), load_topics(TOPICS)

    def pools_of(categories=TRAINING, training_topics=50, seed=0):
        settings = {"training_topics": training_topics, "seed": seed}
        return split(skills, topics, training_categories=categories, **settings)

    pools = pools_of()
    assert {s.category for s in pools["I"].skills} == set(TRAINING)
    assert not set(pools["I"].skills) & set(pools["II"].skills)
    assert not set(pools["I"].topics) & set(pools["II"].topics)
    assert set(pools["III"].skills) == set(skills)
    assert set(pools["III"].topics) == set(topics)
    assert len(pools["I"].topics) == 50
    assert pools == pools_of()
    assert pools["I"].topics != pools_of(seed=1)["I"].topics
    assert pools_of(["logic"], topics[:3])["I"].topics == tuple(topics[:3])


@pytest.mark.parametrize(
    ("categories", "some", "said"),
    [
        (["literary", "rethorical"], 5, "rethorical not in the catalog, whose categories are"),
        (TRAINING, 100, "setting II .* without skills or topics"),
        (TRAINING, ["surfing on lava"], "surfing on lava not in the catalog, whose topics are"),
        ([], 5, "setting I .* without skills"),
    ],
)
def test_impossible_splits_get_a_sentence(categories, some, said):
    with pytest.raises(UserError, match=said):
        split(
            load_skills(SKILLS),
            load_topics(TOPICS),
            training_categories=categories,
            training_topics=some,
            seed=0,
        )


SMALL = Pool(tuple(Skill(f"s{i}", "c", "d", "e") for i in range(6)), ("a", "b", "c"))


def test_evaluation_queries_are_stable_distinct_and_all_if_few():
    hundred = evaluation_queries(SMALL, 3, 50, seed=1, setting="I")
    assert evaluation_queries(SMALL, 3, 20, seed=1, setting="I") == hundred[:20]
    assert len({q.identity for q in hundred}) == 50
    assert len(evaluation_queries(SMALL, 3, 10_000, seed=1, setting="I")) == SMALL.distinct(3) == 60
    assert evaluation_queries(SMALL, 3, 50, seed=2, setting="I") != hundred
    assert evaluation_queries(SMALL, 3, 50, seed=1, setting="II") != hundred
    with pytest.raises(
        UserError, match="k = 7 needs 7 skills, and the pool for evaluation I has 6"
    ):
        evaluation_queries(SMALL, 7, 1, seed=0, setting="I")


def test_queries_are_uniform_over_topics_and_sets():
    """Chi-square of 60 cells over 30,000 draws below its 0.9999 quantile (110)."""
    drawn = itertools.islice(training_queries(SMALL, 3, seed=0, avoid=set()), 30_000)
    counts = collections.Counter(q.identity for q in drawn)
    assert len(counts) == 60
    assert sum((n - 500) ** 2 / 500 for n in counts.values()) < 110


def test_training_avoids_evaluation_from_two_skills_on():
    held = {q.identity for q in evaluation_queries(SMALL, 2, 30, seed=0, setting="I")}
    drawn = itertools.islice(training_queries(SMALL, 2, seed=0, avoid=held), 2000)
    assert held.isdisjoint(q.identity for q in drawn)
    everything = {q.identity for q in evaluation_queries(SMALL, 2, 100, seed=0, setting="I")}
    with pytest.raises(
        UserError, match="evaluation's queries leave 0 of 45 queries to the training; lower eva"
    ):
        next(training_queries(SMALL, 2, seed=0, avoid=everything))
    assert next(training_queries(SMALL, 1, seed=0, avoid=everything))


def test_a_share_of_the_pairs_is_kept_apart_by_their_names():
    names = [f"skill {i}" for i in range(60)]
    pairs = 60 * 59 / 2
    for share in (0.1, 0.333, 0.9):
        assert abs(count_apart(names, share) / pairs - share) < 0.03
    apart = [pair for pair in itertools.combinations(names, 2) if count_apart(pair, 0.333)]
    assert all(count_apart(pair[::-1], 0.333) and count_apart(pair, 0.5) for pair in apart)
    assert count_apart(names, 0.0) == 0


def test_no_training_query_shows_a_pair_that_is_kept_apart():
    """The others are all drawn, and counted beforehand."""
    held = {q.identity for q in evaluation_queries(SMALL, 2, 10, seed=0, setting="I")}
    for k in (1, 2, 3):
        queries = training_queries(SMALL, k, seed=0, avoid=held, pairs_apart=0.4)
        drawn = {q.identity for q in itertools.islice(queries, 3000)}
        assert not any(count_apart(names, 0.4) for _, names in drawn)
        assert len(drawn) == left_for_training(SMALL, k, avoid=held, pairs_apart=0.4) > 0
    kept = [q.identity for q in itertools.islice(training_queries(SMALL, 2, seed=0, avoid=held), 9)]
    none_apart = training_queries(SMALL, 2, seed=0, avoid=held, pairs_apart=0.0)
    assert kept == [q.identity for q in itertools.islice(none_apart, 9)]


@pytest.mark.parametrize("k", [2, 3, 4])
def test_too_many_pairs_apart_are_a_sentence_and_no_endless_loop(k):
    with pytest.raises(
        UserError, match=f"k = {k}: .* and pairs_apart = 0.999, leave 0 of .* lower"
    ):
        next(training_queries(SMALL, k, seed=0, avoid=set(), pairs_apart=0.999))
    many = Pool(tuple(Skill(f"s{i}", "c", "d", "e") for i in range(40)), ("a",))
    left = many.distinct(k, 0.96)
    counted = [set_ for set_ in itertools.combinations(many.skills, k) if together(set_, 0.96)]
    assert left == len(counted)
    if left * 10_000 < many.distinct(k):
        with pytest.raises(UserError, match=f"leave {left} of {many.distinct(k):,} queries"):
            next(training_queries(many, k, seed=0, avoid=set(), pairs_apart=0.96))


def together(skills, share):
    return not count_apart([skill.name for skill in skills], share)
