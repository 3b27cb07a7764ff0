"""Prompt injection: a judge's reply that may copy a grading out of the graded text is not read."""

import re
from collections.abc import Callable, Sequence

from helpers.judge.free_text import read_verdict
from helpers.judge.patterns import clean, pattern_of
from helpers.judge.verdict import Verdict

POINT = re.compile(r"(?<!\d)[01](?!\d)|zero|one")
Reader = Callable[[str, Sequence[str]], Verdict]


def own_verdict(
    reply: str, criteria: Sequence[str], text: str, read: Reader = read_verdict
) -> Verdict:
    """What is read of a reply, unless it could be a copy of the student's own grading.

    It could be one where the graded text has a 0 or 1 beside every criterion's name, and each point
    of the verdict is among those of its criterion. An honest judge that happens to agree is lost
    too; 03 counts such replies and shows the number. A reply of zeros only is believed, since it
    gives the student nothing. The last criterion is left out: sentences are counted in code.
    """
    verdict = read(reply, criteria)
    if verdict.points is None:
        return verdict
    judged = verdict.points[:-1]
    lines = clean(text)
    planted = points_beside_names("\n".join(lines), criteria)
    is_planted = [point in points for point, points in zip(judged, planted, strict=False)]
    if any(judged) and all(is_planted):
        return Verdict(None, "the same points as in a grading that stands in the student's text")
    return verdict


def points_beside_names(text: str, criteria: Sequence[str]) -> list[set[int]]:
    """For each criterion, every 0 and 1 between its name and the names before and after it.

    The form does not matter: a grading that cannot be read where it stands may be readable once a
    judge has quoted it.
    """
    patterns = [pattern_of(criterion) for criterion in criteria]
    names = "|".join(pattern.pattern for pattern in patterns)
    any_name = re.compile(names, re.I)
    beside = []
    for pattern in patterns:
        points = set()
        for name in pattern.finditer(text):
            before = any_name.split(text[: name.start()])[-1]
            after = any_name.split(text[name.end() :])[0]
            for word in POINT.findall(f"{before} {after}".lower()):
                points.add(int(word in ("1", "one")))
        beside.append(points)
    return beside
