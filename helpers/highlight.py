"""Highlights in a text, as HTML for notebooks and report: each skill marked in its colour."""

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from helpers.world.detectors import DETECTORS, places

# Pale, with black text on them: readable in light and dark themes; names stand beside the colours.
COLOURS = ("#BFE3F7", "#FCE0A6", "#BFE8D5", "#F3CFE2", "#FAC9A8", "#E3E3E3")
# What is filled in is escaped. Brackets, since some forges show neither colours nor small type.
MARK = Markup(
    '<mark title="{skill}" style="background:{colour};color:#000">'
    "{words} <small><b>[{skill}]</b></small></mark>"
)
ABSENT = Markup(" <small>[not marked: {}]</small>")


def marked(text: str, skills: Sequence[str]) -> Markup:
    """The text as HTML, each skill that is found in it marked in its colour, with its name.

    Skills are found by the embedded world's detectors, which know the miniature's skills in its own
    phrasings; where two overlap, the first is marked. In any other text nothing can be marked,
    since a judge says whether a skill is shown, not where. Skills that are not found are named
    after the text. Everything is escaped.
    """
    colours = dict(zip(skills, itertools.cycle(COLOURS), strict=False))
    pieces = []
    for skill in colours.keys() & DETECTORS.keys():
        pieces += [(*span, skill) for span in places(skill, text)]
    absent = dict.fromkeys(skills)
    page = Markup()
    end = 0
    for start, stop, skill in sorted(pieces):
        if start >= end:
            page += text[end:start]
            page += MARK.format(skill=skill, colour=colours[skill], words=text[start:stop])
            absent.pop(skill, None)
            end = stop
    page += text[end:]
    return page + ABSENT.format(", ".join(absent)) if absent else page
