"""The detectors against the generators, and against forms that only look alike."""

import itertools
import random

import pytest

from helpers.task.points import reference_count, sentence_limit
from helpers.world import detectors, language

SKILLS = list(language.PHRASINGS)


def written(n, skills=5):
    """n random texts of 1 to 5 skills: topic, skills, text."""
    rng = random.Random(1)
    for _ in range(n):
        shown = rng.sample(SKILLS, rng.randint(1, skills))
        topic = rng.choice(list(language.TOPICS))
        yield topic, shown, language.text(rng, topic, shown, sentence_limit(len(shown)))


def test_catalog_of_the_miniature_is_the_world(skills, topics):
    assert {s.name for s in skills} == set(language.PHRASINGS) == set(detectors.DETECTORS)
    assert list(language.TOPICS) == topics
    training = [s for s in skills if s.category in ("literary", "rhetorical")]
    assert len(skills) >= 24
    assert len(training) >= 14
    assert len(skills) - len(training) >= 10
    nouns = list(itertools.chain(*language.TOPICS.values()))
    assert len(set(nouns)) == len(nouns), "a noun of two topics would make 'on topic' undecidable"
    for skill in skills:
        assert detectors.shows(skill.name, skill.example)
        assert detectors.makes_sense(skill.example)


def test_detectors_fire_on_their_skill_alone():
    """10,000 random texts of 1 to 5 skills: precision and recall of every detector above 0.999."""
    hits = dict.fromkeys(SKILLS, 0)
    false, missed = dict(hits), dict(hits)
    for topic, shown, text in written(10_000):
        assert detectors.makes_sense(text), text
        assert detectors.on_topic(topic, text)
        assert reference_count(text) <= sentence_limit(len(shown))
        for skill in SKILLS:
            detected = detectors.shows(skill, text)
            assert detected == bool(detectors.places(skill, text))
            hits[skill] += detected and skill in shown
            false[skill] += detected and skill not in shown
            missed[skill] += not detected and skill in shown
    for skill, hit in hits.items():
        assert hit / (hit + false[skill]) > 0.999, f"precision of {skill}"
        assert hit / (hit + missed[skill]) > 0.999, f"recall of {skill}"


def test_two_skills_are_one_sentence():
    """Any two skills can share a sentence: none needs one of its own."""
    rng = random.Random(3)
    for pair in itertools.combinations(SKILLS, 2):
        text = language.text(rng, "chess", pair, sentence_limit(2))
        assert reference_count(text) == 1
        assert all(detectors.shows(skill, text) for skill in pair), text


def without(words, i):
    return words[:i] + words[i + 1 :]


def doubled(words, i):
    return words[: i + 1] + words[i:]


@pytest.mark.parametrize("broken", [without, doubled])
def test_a_broken_sentence_makes_no_sense(broken):
    rng = random.Random(4)
    for _, _, text in written(1000):
        words = text[:-1].split()
        worse = " ".join(broken(words, rng.randrange(len(words)))) + "."
        assert not detectors.makes_sense(worse), worse


@pytest.mark.parametrize("comma", [", and ", ", ", " and ", ", while "])
def test_chained_clauses_make_no_sense(comma):
    """The limit of sentences cannot be kept by a comma in place of a stop."""
    for _, _, text in written(1000):
        if ". " in text:
            chained = text.replace(". ", comma)
            assert not detectors.makes_sense(chained), chained


@pytest.mark.parametrize(
    ("skill", "text"),
    [
        ("modus ponens", "If rain then so and it is fog hence the needle turns."),
        ("modus tollens", "If not then rain but no frost so the glaze moves."),
        ("disjunctive syllogism", "There is rain or the oven waits yet there is no fog."),
        ("anaphora", "The pawn waits every day this week every month."),
        ("alliteration", "The sly bold silver seed shines."),
        ("simile", "The needle is a lion."),
        ("false dilemma", "Either the needle turns or the thread waits."),
    ],
)
def test_detectors_want_the_form_not_the_words(skill, text):
    assert not detectors.shows(skill, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "The needle",
        "The needle turns",
        "The needle turns a million times a million times.",
        "The oven is. Old.",
        "The needle turns. And.",
        "The needle to turn.",
        "Everyone knows that could you perhaps check that the needle turns.",
        "Everyone knows that everyone knows that the needle turns.",
        "All the others expect the needle turns.",
        "The turns needle.",
    ],
)
def test_what_makes_no_sense(text):
    assert not detectors.makes_sense(text)


def test_a_thing_makes_sense_only_where_it_was_to_be_mentioned():
    rng = random.Random(2)
    for _ in range(200):
        topic = rng.choice(list(language.TOPICS))
        things = tuple(language.thing(rng, topic) for _ in range(2))
        assert set(things) <= language.THINGS
        text = language.text(rng, topic, [things[0], "simile", things[1]], limit=2)
        assert detectors.shows("simile", text)
        assert detectors.makes_sense(text, things)
        assert not detectors.makes_sense(text)
    assert language.THINGS.isdisjoint([*language.PHRASINGS, "needle", "pale pale needle"])
