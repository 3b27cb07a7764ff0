r"""How the embedded judge reads a text: one detector a skill, apart from `language`, which writes.

A detector is a few patterns over the lower-cased text. `W` stands for any word, so that a detector
tests the form of a skill, not its vocabulary; backreferences test that an argument's terms really
recur. CLAUSE and INFINITIVE stand for what a frame is around. A sentence makes sense if it is read
to its end: frames are taken off from the outside, and what is left has to be one clause.
"""

import functools
import re
from collections.abc import Sequence

from helpers.world.language import NOUNS, TOPICS

W = r"[a-z-]+"
BEFORE = {  # the noun
    "oxymoron": r"bitter sweet|living dead|cold burning",
    "alliteration": (
        r"(?:(?:sly|silent|silver|soft)\b ?){3}"
        r"|(?:(?:big|bold|brave|broad)\b ?){3}"
        r"|(?:(?:fresh|fine|fair|fierce)\b ?){3}"
    ),
}
APPOSITION = {"metaphor": r"a W of W dreams|the W of my heart|that W among things"}
AFTER = {
    "affordance": r"good to sit on|fit for use as a W|that one can climb",
    "object permanence": r"still there behind the cloth|unseen yet in its box|hidden but not gone",
}
VERB = {"personification": r"whispers? its secret|sings? of lost love|weeps? with joy"}
END = {
    "simile": r"like a W|as a W would|no less than a W",
    "hyperbole": r"a million times|for a thousand years|louder than all storms",
    "anaphora": r"(?P<each>every|this|by) (?!the\b)W (?P=each) W (?P=each) W",
    "onomatopoeia": r"with a W|going W and W|to the sound of W",
    "litotes": r"not badly|not without charm|with no small skill",
    "appeal to nature": r"as nature intended|by the pure will of nature|naturally and so rightly",
    "causal reasoning": r"because of W|on account of W|thanks to W",
    "spatial reasoning": (
        r"left of the W which is thus right of it"
        r"|inside the W which is thus larger"
        r"|above the W which is thus below it"
    ),
    "scalar implicature": (
        r"sometimes though not always|partly though not wholly|often if not daily"
    ),
    "folk physics": r"falling when dropped|rolling when pushed|sinking when soaked",
    "folk biology": (
        r"while its owner eats and sleeps"
        r"|though its keeper grows thirsty"
        r"|since its maker must breathe"
    ),
}
OUTER = {
    "rhetorical question": [
        r"(?:who would doubt|is it not plain) that CLAUSE",
        r"who would not want INFINITIVE",
    ],
    "red herring": [r"(?:never mind the W|speaking of W|but look at the W), CLAUSE"],
    "indirect request": [
        r"(?:could you perhaps check|it would be kind to see) that CLAUSE",
        r"could you perhaps get INFINITIVE",
    ],
}
INNER = {
    "appeal to authority": [
        r"(?:doctor W says|the great W proved) that CLAUSE",
        r"professor W orders INFINITIVE",
    ],
    "ad hominem": [
        r"(?:only a fool like W denies|that liar W disputes|W who cannot even count doubts)"
        r" that CLAUSE"
    ],
    "false dilemma": [
        r"either CLAUSE or (?:all is lost|you hate us)",
        r"grant that CLAUSE or perish",
    ],
    "slippery slope": [
        r"first CLAUSE then the town falls then the world",
        r"once CLAUSE soon the whole world burns",
        r"if ever CLAUSE next comes the end of all",
    ],
    "bandwagon": [
        r"(?:everyone knows|the whole town agrees) that CLAUSE",
        r"all the others expect INFINITIVE",
    ],
    "straw man": [
        r"so by your logic it is a crime that CLAUSE",
        r"so you would burn it all because CLAUSE",
        r"so in your mind only monsters think that CLAUSE",
    ],
    "modus ponens": [
        r"if (W) then so and it is \1 hence CLAUSE",
        r"given that (W) decides and \1 came CLAUSE",
        r"under the law of (W) with \1 here CLAUSE",
    ],
    "modus tollens": [
        r"if not then (W) but no \1 so CLAUSE",
        r"were it false (W) would come yet no \1 came so CLAUSE",
        r"its lack means (W) but \1 never came hence CLAUSE",
    ],
    "disjunctive syllogism": [
        r"there is (W) or CLAUSE yet there is no \1",
        r"we face (W) unless CLAUSE but \1 is out",
        r"name (W) or say that CLAUSE yet \1 is wrong",
    ],
    "false belief": [
        r"(?:W wrongly thinks|unaware of the truth W trusts) that CLAUSE",
        r"W wrongly expects INFINITIVE",
    ],
    "emotional self regulation": [
        r"(?:after a slow breath W grants|counting to ten W admits|W swallows the anger and adds)"
        r" that CLAUSE"
    ],
    "folk psychology": [
        r"(?:out of envy W hopes|W fears and thus prays) that CLAUSE",
        r"from plain desire W wants INFINITIVE",
    ],
}


def compiled(pattern: str) -> re.Pattern:
    """W is any word; what a frame is around is a group of that name."""
    for name in ("CLAUSE", "INFINITIVE"):
        pattern = pattern.replace(name, f"(?P<{name.lower()}>[^.]+)")
    return re.compile(rf"(?<![\w-])(?:{pattern.replace('W', W)})(?![\w-])", re.IGNORECASE)


PARTS = BEFORE | APPOSITION | AFTER | VERB | END
DETECTORS = {skill: [compiled(pattern)] for skill, pattern in PARTS.items()}
for skill, patterns in (OUTER | INNER).items():
    DETECTORS[skill] = [compiled(pattern) for pattern in patterns]

MENTION = r"near the (W W)"
VERBS = "hold|break|move|shine|wait|turn"
VERBS_OF = {  # by what a frame wants
    "clause": rf"(?:{VERBS})s|whispers its secret|sings of lost love|weeps with joy",
    "infinitive": rf"to (?:{VERBS}|whisper its secret|sing of lost love|weep with joy)",
}


def whole_clause(verb: str) -> re.Pattern:
    """A clause from its first word to its last: `the <before> noun <after> <verb> <end>`."""
    before, apposition, after = ("|".join(part.values()) for part in (BEFORE, APPOSITION, AFTER))
    end = "|".join([*END.values(), MENTION])
    return compiled(
        rf"the (?:(?:{before}) )*(?:{'|'.join(NOUNS)})"
        rf"(?:, (?:{apposition}),| (?:{after}))* (?:{verb})(?: (?:{end}))*"
    )


CLAUSES = {form: whole_clause(verb) for form, verb in VERBS_OF.items()}


def shows(skill: str, text: str) -> bool:
    """Does the text show the skill?"""
    return any(detector.search(text) for detector in DETECTORS[skill])


def clauses_in(frame: re.Match) -> dict[str, str]:
    """What the frame is around, by its form: clause or infinitive; nothing in a part's match."""
    return {form: words for form, words in frame.groupdict().items() if form in CLAUSES}


def places(skill: str, text: str) -> list[tuple[int, int]]:
    """Where the text shows the skill, as starts and ends; a frame has what is around its clause."""
    spans = []
    for detector in DETECTORS[skill]:
        for found in detector.finditer(text):
            start, end = found.span()
            for form in clauses_in(found):
                spans.append((start, found.start(form)))
                start = found.end(form)
            spans.append((start, end))
    pieces = []
    for start, end in spans:
        words = text[start:end]
        start += len(words) - len(words.lstrip())
        pieces.append((start, start + len(words.strip())))
    return [(start, end) for start, end in pieces if start < end]


def on_topic(topic: str, text: str) -> bool:
    """Does the text name a thing of the topic?"""
    return not set(TOPICS[topic]).isdisjoint(re.findall(W, text.lower()))


def is_whole(words: str, form: str = "clause", frames: Sequence[str] = (*OUTER, *INNER)) -> bool:
    """Is it one clause, bare or in some of these frames?

    No frame stands in itself, and no outer one in an inner one.
    """
    if CLAUSES[form].fullmatch(words):
        return True
    if form == "infinitive":
        return False
    for skill in frames:
        left = [other for other in frames if other != skill]
        if skill in INNER:
            left = [other for other in left if other in INNER]
        for detector in DETECTORS[skill]:
            frame = detector.fullmatch(words)
            inside = clauses_in(frame).items() if frame else ()
            if any(is_whole(inner, inner_form, left) for inner_form, inner in inside):
                return True
    return False


@functools.cache
def makes_sense(text: str, things: tuple[str, ...] = ()) -> bool:
    """Is every sentence one whole clause with its frames, with no part in it twice?

    It shows skills, or mentions some of the things that the text was asked to mention.
    """
    if not text.endswith("."):
        return False
    if not set(re.findall(MENTION.replace("W", W), text.lower())) <= set(things):
        return False
    for sentence in text[:-1].split(". "):
        is_double = any(len(DETECTORS[part][0].findall(sentence)) > 1 for part in PARTS)
        if is_double or not is_whole(sentence):
            return False
    return True
