"""The language of the embedded world: 20 topics with their nouns, 32 skills, texts of them.

Skills share sentences. A sentence is one clause about a noun of its topic, and skills are *parts*
of it (what stands before the noun, after it, as its verb, at the end) or *frames* around it, one
inside of the other. Some frames close behind the clause what they opened before it, and some want
its verb in the infinitive: the words that show one skill depend on which others share its sentence.
A *thing to mention*, for example `pale needle`, stands at the end of a clause and shows no skill.
The words are in `language.yaml`. Nothing here knows how texts are judged: `detectors` reads them,
and shares no pattern with these.
"""

import itertools
import random
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

LANGUAGE = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
TOPICS = LANGUAGE["topics"]  # the nouns of each
WORDS = LANGUAGE["words"]  # of each kind
VERBS = LANGUAGE["verbs"]
PLACES = LANGUAGE["parts"] | LANGUAGE["frames"]  # the phrasings of each skill, by its place
PHRASINGS = {skill: words for skills in PLACES.values() for skill, words in skills.items()}
PLACE = {skill: place for place, skills in PLACES.items() for skill in skills}
NOUNS = list(itertools.chain(*TOPICS.values()))
THINGS = {" ".join(words) for words in itertools.product(WORDS["adjective"], NOUNS)}


def fill(rng: random.Random, phrasing: str, topic: str, noun: str) -> str:
    """Words in a phrasing's slots; a slot named twice gets the same word, a numbered one another.

    The slots `{clause}` and `{infinitive}` stay.
    """
    others = [word for word in TOPICS[topic] if word != noun]
    for kind, words in (WORDS | {"other": others}).items():
        if f"{{{kind}" in phrasing:
            drawn = rng.sample(words, 3)
            for number, word in zip(("", 2, 3), drawn, strict=True):
                phrasing = phrasing.replace(f"{{{kind}{number}}}", word)
    return phrasing


def infinitive(verb: str) -> str:
    """Of `whispers its secret` it is `to whisper its secret`."""
    return re.sub(r"^(\w+)s\b", r"to \1", verb)


def sentence(rng: random.Random, topic: str, items: Sequence[str]) -> str:
    """One sentence that shows all the skills and mentions all the things among `items`.

    A clause has one verb; one skill at most is shown by it.
    """
    noun = rng.choice(TOPICS[topic])
    at = {place: [] for place in PLACES}
    for item in rng.sample(items, len(items)):
        if item in PLACE:
            at[PLACE[item]].append(item)
        else:
            at["end"].append(item)

    def words(item: str, among: Sequence[str]) -> str:
        return fill(rng, rng.choice(among), topic, noun)

    frames = []  # from the outermost
    around = [*at["outer"], *at["inner"]]
    for skill in around:
        fitting = PHRASINGS[skill]
        if skill != around[-1]:
            fitting = [phrasing for phrasing in fitting if "{clause}" in phrasing]
        frames.append(words(skill, fitting))
    parts = {}
    for place in LANGUAGE["parts"]:
        parts[place] = [
            words(item, PHRASINGS.get(item, [f"near the {item}"])) for item in at[place]
        ]
    verb = (parts["verb"] or [rng.choice(VERBS)])[0]
    if frames and "{infinitive}" in frames[-1]:
        verb = infinitive(verb)
    text = " ".join(["the", *parts["before"], noun, *parts["after"], verb, *parts["end"]])
    for frame in reversed(frames):
        text = frame.format(clause=text, infinitive=text)
    text = text.replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


def thing(rng: random.Random, topic: str) -> str:
    """A thing to mention, for example `pale needle`."""
    return f"{rng.choice(WORDS['adjective'])} {rng.choice(TOPICS[topic])}"


def cut(rng: random.Random, items: Sequence[str], sentences: int) -> list[Sequence[str]]:
    """The items in their order, cut at random places into exactly so many groups."""
    starts = [0, *sorted(rng.sample(range(1, len(items)), sentences - 1)), len(items)]
    return [items[start:end] for start, end in itertools.pairwise(starts)]


def write(rng: random.Random, topic: str, groups: Sequence[Sequence[str]]) -> str:
    """A text of one sentence for each group of items."""
    return " ".join(sentence(rng, topic, group) for group in groups)


def text(rng: random.Random, topic: str, items: Sequence[str], limit: int) -> str:
    """A faultless text: every item once, in any number of sentences up to the limit."""
    sentences = rng.randint(1, min(limit, len(items)))
    return write(rng, topic, cut(rng, items, sentences))
