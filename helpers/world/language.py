"""The language of the embedded world: 20 topics with their nouns, 32 skills, texts of them.

Every skill has two phrasings. A phrasing is one clause with slots; each clause holds at least one
noun of the topic. A text is clauses in a given order, joined into sentences. A *thing to mention*,
for example `pale needle shines`, is a clause that shows no skill. The words are in `language.yaml`.
Nothing here knows how texts are judged: `detectors` reads them, and shares no pattern with these.
"""

import itertools
import random
from pathlib import Path

import yaml

from helpers.task.points import sentence_limit

LANGUAGE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
TOPICS = LANGUAGE["topics"]  # the nouns of each
WORDS = LANGUAGE["words"]  # of each kind
PHRASINGS = LANGUAGE["phrasings"]  # two of each skill
JOINS = LANGUAGE["joins"]
NOUNS = list(itertools.chain(*TOPICS.values()))
THINGS = {  # whatever may be mentioned
    " ".join(words) for words in itertools.product(WORDS["adjective"], NOUNS, WORDS["verb"])
}
SLOTS = {"noun": 3, "adjective": 2, "verb": 2}  # of a kind in a phrasing, all filled differently


def clause(rng: random.Random, topic: str, item: str) -> str:
    """One clause in lower case (names apart): a skill shown with nouns of `topic`, or a thing."""
    if item not in PHRASINGS:
        return f"the {item}"
    slots = {}
    for kind, words in {"noun": TOPICS[topic], **WORDS}.items():
        drawn = rng.sample(words, SLOTS.get(kind, 1))
        for number, word in zip(("", 2, 3), drawn, strict=False):
            slots[f"{kind}{number}"] = word
    phrasing = rng.choice(PHRASINGS[item])
    return phrasing.format(**slots)


def thing(rng: random.Random, topic: str) -> str:
    """A thing to mention, for example `pale needle shines`."""
    kinds = (WORDS["adjective"], TOPICS[topic], WORDS["verb"])
    return " ".join(rng.choice(words) for words in kinds)


def join(rng: random.Random, clauses: list[str], sentences: int) -> str:
    """The clauses in their order, cut at random places into exactly `sentences` sentences."""
    starts = {0, *rng.sample(range(1, len(clauses)), sentences - 1)}
    text = []
    for i, clause in enumerate(clauses):
        if i in starts:
            text.append(clause[0].upper() + clause[1:])
        else:
            text[-1] += rng.choice(JOINS) + clause
    return ". ".join(text) + "."


def text(rng: random.Random, topic: str, items: list[str]) -> str:
    """A faultless text: every item once, in order, in as many sentences as allowed or one fewer."""
    limit = sentence_limit(len(items))
    clauses = [clause(rng, topic, item) for item in items]
    return join(rng, clauses, rng.randint(max(1, limit - 1), limit))
