"""The detectors against the generators, and against forms that only look alike."""

import itertools
import random

import pytest

from helpers.task.points import reference_count, sentence_limit
from helpers.world import detectors, language


def test_catalog_of_the_miniature_is_the_world(skills, topics):
    assert [s.name for s in skills] == list(language.PHRASINGS) == list(detectors.PATTERNS)
    assert list(language.TOPICS) == topics
    training = [s for s in skills if s.category in ("literary", "rhetorical")]
    assert len(skills) >= 24
    assert len(training) >= 14
    assert len(skills) - len(training) >= 10
    nouns = list(itertools.chain(*language.TOPICS.values()))
    assert len(set(nouns)) == len(nouns), "a noun of two topics would make 'on topic' undecidable"


def test_detectors_fire_on_their_skill_alone():
    """10,000 random texts of 1 to 6 skills: precision and recall of every detector above 0.999."""
    rng = random.Random(1)
    hits = dict.fromkeys(language.PHRASINGS, 0)
    false, missed = dict(hits), dict(hits)
    for _ in range(10_000):
        shown = rng.sample(list(language.PHRASINGS), rng.randint(1, 6))
        topic = rng.choice(list(language.TOPICS))
        text = language.text(rng, topic, shown)
        assert detectors.makes_sense(text), text
        assert detectors.on_topic(topic, text)
        assert reference_count(text) <= sentence_limit(len(shown))
        for skill in language.PHRASINGS:
            detected = detectors.shows(skill, text)
            hits[skill] += detected and skill in shown
            false[skill] += detected and skill not in shown
            missed[skill] += not detected and skill in shown
    for skill, hit in hits.items():
        assert hit / (hit + false[skill]) > 0.999, f"precision of {skill}"
        assert hit / (hit + missed[skill]) > 0.999, f"recall of {skill}"


@pytest.mark.parametrize(
    ("skill", "text"),
    [
        ("modus ponens", "If the needle is pale then it turns, it is pale, hence it breaks."),
        ("modus tollens", "A golden glaze moves, this one never shines, so it is not golden."),
        ("disjunctive syllogism", "It is the oven or the loaf, not the loaf, so the loaf."),
        ("straw man", "Anna moved one pawn, so Omar hates each rook."),
        ("spatial reasoning", "The seed fits inside the rose so the seed is larger."),
        ("simile", "The needle is like a lion."),
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
        "The needle weighs a million tons",
        "The oven is. Old.",
        "The needle weighs a million tons, and.",
    ],
)
def test_what_makes_no_sense(text):
    assert not detectors.makes_sense(text)


def test_a_thing_makes_sense_only_where_it_was_to_be_mentioned():
    rng = random.Random(2)
    for _ in range(200):
        topic = rng.choice(list(language.TOPICS))
        things = [language.thing(rng, topic) for _ in range(2)]
        assert set(things) <= language.THINGS
        text = language.text(rng, topic, [things[0], "simile", things[1]])
        assert detectors.shows("simile", text)
        assert detectors.makes_sense(text, things)
        assert not detectors.makes_sense(text)
    assert language.THINGS.isdisjoint([*language.PHRASINGS, "pale needle", "pale pale shines"])
