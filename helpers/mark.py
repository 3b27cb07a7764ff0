"""A text with its skills marked in colour, as HTML for notebooks and report."""

import html
import re
from collections.abc import Sequence

from helpers.world.detectors import DETECTORS

# Pale, with black text on them: readable in light and dark themes; names stand beside the colours.
COLOURS = ("#BFE3F7", "#FCE0A6", "#BFE8D5", "#F3CFE2", "#FAC9A8", "#E3E3E3")


def spans(text: str, skills: Sequence[str]) -> list[tuple[int, int, str]]:
    """Where the text shows which of the skills: start, end, skill, in order, none overlapping.

    Found by the embedded world's detectors, which know the miniature's skills and its phrasings. In
    any other text a skill has no place that could be computed: a judge says whether, not where.
    """
    places = []
    for skill in skills:
        if skill in DETECTORS:
            for match in re.finditer(DETECTORS[skill].pattern, text, re.IGNORECASE):
                places.append((*match.span(), skill))
    apart = []
    for place in sorted(places):
        if not apart or place[0] >= apart[-1][1]:
            apart.append(place)
    return apart


def marked(text: str, skills: Sequence[str]) -> str:
    """The text as HTML, each skill that is found in it marked in its colour, with its name.

    Skills that are not found are named after the text. Everything is escaped.
    """
    colour = {skill: COLOURS[i % len(COLOURS)] for i, skill in enumerate(skills)}
    places = spans(text, skills)
    parts = []
    end = 0
    for start, stop, skill in places:
        parts.append(html.escape(text[end:start]))
        name = html.escape(skill)
        parts.append(
            f'<mark title="{name}" style="background:{colour[skill]};color:#000">'
            f"{html.escape(text[start:stop])} <small><b>{name}</b></small></mark>"
        )
        end = stop
    parts.append(html.escape(text[end:]))
    present = {skill for _, _, skill in places}
    absent = [skill for skill in skills if skill not in present]
    if absent:
        parts.append(f" <small>[not marked: {html.escape(', '.join(absent))}]</small>")
    return "".join(parts)
