r"""How the embedded judge reads a text: one detector a skill, apart from `language`, which writes.

A detector is a pattern over the lower-cased text. `W` stands for any word, so that a detector tests
the form of a skill, not its vocabulary; backreferences test that an argument's terms really recur.
"""

import re
from collections.abc import Sequence

from helpers.world.language import TOPICS

W = r"[a-z-]+"
PATTERNS = {
    "metaphor": r"the W is (?:a W of W dreams|the W of my heart)",
    "simile": r"the W (?:(?!is\b)W like a W|is as W as a W)",
    "personification": r"the W (?:whispers its secret to|sings for the lonely)(?: the)? W",
    "hyperbole": r"the W weighs a million tons|a thousand years pass before the W W",
    "oxymoron": r"a deafening silence fills the W|the W lives a living death",
    "anaphora": r"every W, every W, every W W|no more W, no more W, no more W",
    "onomatopoeia": r"the W goes buzz and clang|bang and hiss goes the W",
    "alliteration": (
        r"the s[a-z]+ s[a-z]+ s[a-z]+ W s[a-z]+"
        r"|b[a-z]+ b[a-z]+ b[a-z]+ W b[a-z]+ b[a-z]+"
    ),
    "litotes": r"the W is (?:not a bad W|no small matter)",
    "rhetorical question": r"who would ever doubt the W|what is life without the W",
    "red herring": r"but what about the price of W near the W|never mind the W, look at the W",
    "appeal to authority": r"doctor W says the W W|the W W because a professor said so",
    "ad hominem": r"ignore W who cannot even hold the W|W is a fool so the W must be bad",
    "false dilemma": r"either the W W or all is lost|you love the W or you hate us",
    "slippery slope": (
        r"one lost W today means no W tomorrow"
        r"|first the W goes, then the W, then the world"
    ),
    "bandwagon": r"everyone already trusts the W|the whole town has one W, so should you",
    "straw man": r"(W) moved one W, so \1 hates each W|so you want us to burn the W",
    "appeal to nature": (
        r"the W is natural, so it is good"
        r"|this W straight from the earth cannot harm"
    ),
    "modus ponens": (
        r"if the W is (W) then it (W), it is \1, hence it \2"
        r"|every (W) (W) (W), this \4 is \3, so it \5"
    ),
    "modus tollens": (
        r"if the W (W) then it is (W), it is not \2, so it never \1"
        r"|a (W) W (W), this one never \4, so it is not \3"
    ),
    "disjunctive syllogism": (
        r"it is the (W) or the (W), not the \1, so the \2"
        r"|the W is (W) or (W), it is not \3, so it is \4"
    ),
    "causal reasoning": r"because of rain the W W|the W W, which is why the W W",
    "spatial reasoning": (
        r"the W fits inside the (W) so the \1 is larger"
        r"|the W is left of the (W) so the \2 is right of it"
    ),
    "false belief": (
        r"W wrongly thinks the W is still here"
        r"|W looks for the W where it no longer lies"
    ),
    "emotional self regulation": (
        r"W takes a slow breath beside the W"
        r"|W counts to ten before touching the W"
    ),
    "indirect request": r"could you perhaps pass the W|it would be kind to move the W",
    "scalar implicature": (
        r"some of the W W, so not all of it"
        r"|the W is warm, which suggests it is not hot"
    ),
    "affordance": r"one can sit on the W if needed|the W will do as a W",
    "folk psychology": r"W wants the W and so goes to find it|W fears the W and thus hides",
    "folk physics": r"drop the W and it falls to the floor|push the W hard and it rolls away",
    "object permanence": (
        r"the hidden W is still under the cloth"
        r"|out of sight the W stays in its box"
    ),
    "folk biology": r"without water the W keeper grows thirsty|the W seller must eat and sleep",
}
DETECTORS = {
    skill: re.compile(rf"\b(?:{pattern.replace('W', W)})(?![\w-])")
    for skill, pattern in PATTERNS.items()
}


def shows(skill: str, text: str) -> bool:
    """Does the text show the skill?"""
    return DETECTORS[skill].search(text.lower()) is not None


def on_topic(topic: str, text: str) -> bool:
    """Does the text name a thing of the topic?"""
    return not set(TOPICS[topic]).isdisjoint(re.findall(W, text.lower()))


def makes_sense(text: str, things: Sequence[str] = ()) -> bool:
    """Is the text nothing but whole clauses, joined into sentences that end?

    A clause shows a skill, or mentions one of the things that the text was asked to mention.
    """
    if not text.endswith("."):
        return False
    mentions = [f"the {thing}" for thing in things]
    for sentence in text.lower()[:-1].split(". "):
        for clause in re.split(r", (?:and|while|yet) ", sentence):
            whole = any(detector.fullmatch(clause) for detector in DETECTORS.values())
            if not whole and clause not in mentions:
                return False
    return True
