"""The language of the embedded world: 20 topics with their nouns, 32 skills, texts of them.

Every skill has two phrasings. A phrasing is one clause with slots; each clause holds at least one
noun of the topic. A text is clauses in a given order, joined into sentences. A *thing to mention*,
for example `pale needle shines`, is a clause that shows no skill. Nothing here knows how texts are
judged: `detectors` reads them, and shares no pattern with this file.
"""

import random
import re
from itertools import pairwise

TOPICS = {
    "sewing": "needle thread button fabric zipper",
    "gardening": "rose hedge spade seed lawn",
    "dueling": "sword glove pistol rival saber",
    "beekeeping": "hive queen honeycomb smoker swarm",
    "baking": "dough oven loaf cake rolling-pin",
    "chess": "pawn rook knight chessboard bishop",
    "astronomy": "telescope comet moon planet galaxy",
    "sailing": "mast sail harbor captain anchor",
    "pottery": "clay kiln vase glaze jug",
    "fishing": "hook river trout boat reel",
    "cinema": "camera actor screen script trailer",
    "mining": "tunnel lamp ore cart pickaxe",
    "archery": "arrow bow target quiver bowstring",
    "painting": "brush canvas easel pigment portrait",
    "railways": "locomotive signal track bridge wagon",
    "cooking": "pan stew pepper chef ladle",
    "weaving": "loom shuttle yarn tapestry spindle",
    "music": "violin drum piano trumpet melody",
    "farming": "tractor barn plow goat field",
    "carpentry": "hammer plank saw nail workbench",
}
TOPICS = {topic: nouns.split() for topic, nouns in TOPICS.items()}

WORDS = {
    "vehicle": "lion mirror storm cathedral ghost furnace crown desert".split(),
    "adjective": "pale bright quiet heavy small golden".split(),
    "verb": "holds breaks moves shines waits turns".split(),
    "name": "Anna Omar Lucia Ben Mei Ivan".split(),
    "goods": "tea gold shoes salt".split(),
    "tool": "ladder pillow weapon door".split(),
}

# Slots: n, n2, n3 nouns of the topic (all different); a, a2 adjectives; v, v2 verbs; w vehicle;
# p name; g goods; t tool.
PHRASINGS = {
    # literary
    "metaphor": ("the {n} is a {w} of {a} dreams", "the {n} is the {w} of my heart"),
    "simile": ("the {n} {v} like a {w}", "the {n} is as {a} as a {w}"),
    "personification": (
        "the {n} whispers its secret to the {n2}",
        "the {n} sings for the lonely {n2}",
    ),
    "hyperbole": ("the {n} weighs a million tons", "a thousand years pass before the {n} {v}"),
    "oxymoron": ("a deafening silence fills the {n}", "the {n} lives a living death"),
    "anaphora": (
        "every {n}, every {n2}, every {n3} {v}",
        "no more {n}, no more {n2}, no more {n3}",
    ),
    "onomatopoeia": ("the {n} goes buzz and clang", "bang and hiss goes the {n}"),
    "alliteration": ("the sly silent silver {n} sleeps", "big bold brave {n} builders burn"),
    "litotes": ("the {n} is not a bad {w}", "the {n} is no small matter"),
    # rhetorical
    "rhetorical question": ("who would ever doubt the {n}", "what is life without the {n}"),
    "red herring": (
        "but what about the price of {g} near the {n}",
        "never mind the {n}, look at the {g}",
    ),
    "appeal to authority": (
        "doctor {p} says the {n} {v}",
        "the {n} {v} because a professor said so",
    ),
    "ad hominem": (
        "ignore {p} who cannot even hold the {n}",
        "{p} is a fool so the {n} must be bad",
    ),
    "false dilemma": ("either the {n} {v} or all is lost", "you love the {n} or you hate us"),
    "slippery slope": (
        "one lost {n} today means no {n2} tomorrow",
        "first the {n} goes, then the {n2}, then the world",
    ),
    "bandwagon": ("everyone already trusts the {n}", "the whole town has one {n}, so should you"),
    "straw man": ("{p} moved one {n}, so {p} hates each {n2}", "so you want us to burn the {n}"),
    "appeal to nature": (
        "the {n} is natural, so it is good",
        "this {n} straight from the earth cannot harm",
    ),
    # held-out categories
    "modus ponens": (
        "if the {n} is {a} then it {v}, it is {a}, hence it {v}",
        "every {a} {n} {v}, this {n} is {a}, so it {v}",
    ),
    "modus tollens": (
        "if the {n} {v} then it is {a}, it is not {a}, so it never {v}",
        "a {a} {n} {v}, this one never {v}, so it is not {a}",
    ),
    "disjunctive syllogism": (
        "it is the {n} or the {n2}, not the {n}, so the {n2}",
        "the {n} is {a} or {a2}, it is not {a}, so it is {a2}",
    ),
    "causal reasoning": ("because of rain the {n} {v}", "the {n} {v}, which is why the {n2} {v2}"),
    "spatial reasoning": (
        "the {n} fits inside the {n2} so the {n2} is larger",
        "the {n} is left of the {n2} so the {n2} is right of it",
    ),
    "false belief": (
        "{p} wrongly thinks the {n} is still here",
        "{p} looks for the {n} where it no longer lies",
    ),
    "emotional self regulation": (
        "{p} takes a slow breath beside the {n}",
        "{p} counts to ten before touching the {n}",
    ),
    "indirect request": ("could you perhaps pass the {n}", "it would be kind to move the {n}"),
    "scalar implicature": (
        "some of the {n} {v}, so not all of it",
        "the {n} is warm, which suggests it is not hot",
    ),
    "affordance": ("one can sit on the {n} if needed", "the {n} will do as a {t}"),
    "folk psychology": (
        "{p} wants the {n} and so goes to find it",
        "{p} fears the {n} and thus hides",
    ),
    "folk physics": (
        "drop the {n} and it falls to the floor",
        "push the {n} hard and it rolls away",
    ),
    "object permanence": (
        "the hidden {n} is still under the cloth",
        "out of sight the {n} stays in its box",
    ),
    "folk biology": (
        "without water the {n} keeper grows thirsty",
        "the {n} seller must eat and sleep",
    ),
}
JOINS = (", and ", ", while ", ", yet ")


def clause(rng: random.Random, topic: str, item: str) -> str:
    """One clause in lower case (names apart): a skill shown with nouns of `topic`, or a thing."""
    if item not in PHRASINGS:
        return f"the {item}"
    n, n2, n3 = rng.sample(TOPICS[topic], 3)
    a, a2 = rng.sample(WORDS["adjective"], 2)
    v, v2 = rng.sample(WORDS["verb"], 2)
    w = rng.choice(WORDS["vehicle"])
    p = rng.choice(WORDS["name"])
    g = rng.choice(WORDS["goods"])
    t = rng.choice(WORDS["tool"])
    phrasing = rng.choice(PHRASINGS[item])
    return phrasing.format(n=n, n2=n2, n3=n3, a=a, a2=a2, v=v, v2=v2, w=w, p=p, g=g, t=t)


def thing(rng: random.Random, topic: str) -> str:
    """A thing to mention, for example `pale needle shines`."""
    kinds = (WORDS["adjective"], TOPICS[topic], WORDS["verb"])
    return " ".join(rng.choice(words) for words in kinds)


def is_thing(item: str) -> bool:
    """Is it a thing to mention, of any topic?"""
    adjective, _, others = item.partition(" ")
    noun, _, verb = others.partition(" ")
    is_noun = any(noun in nouns for nouns in TOPICS.values())
    return adjective in WORDS["adjective"] and is_noun and verb in WORDS["verb"]


def join(rng: random.Random, clauses: list[str], sentences: int) -> str:
    """The clauses in their order, cut at random places into exactly `sentences` sentences."""
    most = len(clauses)
    assert 1 <= sentences <= most, f"{most} clauses cannot make {sentences} sentences"
    cuts = sorted(rng.sample(range(1, most), sentences - 1))
    text = []
    for start, end in pairwise([0, *cuts, most]):
        sentence = clauses[start]
        for following in clauses[start + 1 : end]:
            sentence += rng.choice(JOINS) + following
        text.append(sentence[0].upper() + sentence[1:] + ".")
    return " ".join(text)


def sentence_limit(k: int) -> int:
    """max(1, k - 1), as SKILL-MIX has it."""
    return max(1, k - 1)


def text(rng: random.Random, topic: str, items: list[str]) -> str:
    """A faultless text: every item once, in order, in as many sentences as allowed or one fewer."""
    limit = sentence_limit(len(items))
    clauses = [clause(rng, topic, item) for item in items]
    return join(rng, clauses, rng.randint(max(1, limit - 1), limit))


def vocabulary() -> list[str]:
    """Every word that a text, a topic's or a skill's name can hold, sorted.

    A word that can open a sentence stands there with a capital too.
    """
    phrasings = [phrasing for pair in PHRASINGS.values() for phrasing in pair]
    words = set()
    for slots in (TOPICS, WORDS):
        for group in slots.values():
            words.update(group)
    for phrase in (*phrasings, *PHRASINGS, *TOPICS, *JOINS):
        words.update(re.findall(r"[a-z-]+", re.sub(r"\{\w+\}", "", phrase)))
    for phrasing in phrasings:
        if not phrasing.startswith("{"):
            words.add(phrasing.split()[0].strip(",").capitalize())
    return sorted(words)
