"""The embedded world's teacher and judge: what each replies to a prompt, and how often each errs.

Both read the prompt's text alone: lines `Topic: ...` and `Skills: ...` or `Show: ...`, and, to be
graded, a text between two equal marked lines with `- criterion` lines after it. Beside skills a
request may list things to mention. Those are never forgotten, earn no point and cost none: they
make a text longer, which is what the control of the experiment needs.
"""

import json
import random
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, NamedTuple

import pydantic

from helpers.task.catalog import bare
from helpers.task.numerals import NUMBERS
from helpers.world import detectors, language

Rate = Annotated[float, pydantic.Field(ge=0, le=1)]
TO_BE_GRADED = re.compile(r"^(=+ \w+ =+)\n(.*)\n\1$(.*)", re.M | re.S)
SORRY = "I am sorry, but you have not provided the student's answer."


class Rates(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Probabilities of the errors that teacher and judge make."""

    drop: Rate = 0.08  # teacher: a skill is forgotten (twice as often in a first draft)
    overrun: Rate = 0.05  # teacher: one sentence too many
    stray: Rate = 0.03  # teacher: the text is about another topic
    flip: Rate = 0.02  # judge: a criterion's point is turned round
    lenient: Rate = 0.0  # judge: a missing skill gets its point all the same
    shape: Rate = 0.15  # judge: a list instead of a table
    unreadable: Rate = 0.02  # judge: no grade, or one cut off


class Refusal(Exception):
    """An HTTP 400: the world cannot answer this prompt."""


class Task(NamedTuple):
    """What a prompt asks a text for."""

    topic: str
    items: list[str]  # skills and things, in the prompt's order
    skills: list[str]
    things: list[str]


class Said(NamedTuple):
    """A reply's text, and its finish reason: `length` for one that is cut off."""

    text: str
    finish: str = "stop"


def read_task(prompt: str) -> Task:
    """What a prompt asks for.

    Raises:
        Refusal: it has no such lines, or names a topic or skill that the world does not know.
    """
    topic_line = re.search(r"^Topic: (.+)$", prompt, re.M)
    items_line = re.search(r"^(?:Skills|Show): (.+)$", prompt, re.M)
    if not topic_line or not items_line:
        raise Refusal(
            "the embedded world answers prompts with a line 'Topic: ...'"
            " and a line 'Skills: ...' or 'Show: ...'"
        )
    topic = bare(topic_line[1])
    items = [bare(item) for item in items_line[1].split(", ")]
    skills = [item for item in items if item in language.PHRASINGS]
    things = [item for item in items if item in language.THINGS]
    strange = [item for item in items if item not in skills and item not in things]
    check_known("topic", [topic], language.TOPICS)
    check_known("skill", strange if skills else items, language.PHRASINGS)
    return Task(topic, items, skills, things)


def check_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raises a refusal for the first name that is not known."""
    for name in names:
        if name not in known:
            raise Refusal(
                f"the embedded world does not know the {kind} {name}; it knows {', '.join(known)}"
            )


def stated_limit(text: str, default: int) -> int:
    """How many sentences a prompt or a criterion allows."""
    limit = re.search(r"at most (\w+) sentence", text)
    if limit and limit[1] in NUMBERS:
        return NUMBERS.index(limit[1])
    return default


def reply(rng: random.Random, turns: Sequence[str], rates: Rates, *, by_schema: bool) -> Said:
    """To the user turns of a conversation: a text, or grades where one is to be graded.

    Raises:
        Refusal: there is none, or what `read_task` raises.
    """
    if not turns:
        raise Refusal("the messages hold no user's turn")
    if TO_BE_GRADED.search(turns[-1]):
        return graded(rng, turns[-1], rates, by_schema=by_schema)
    return written(rng, turns, rates)


def written(rng: random.Random, turns: Sequence[str], rates: Rates) -> Said:
    """The teacher's text: a draft on the first user turn, a better one when told to improve it."""
    topic, items, _, things = read_task(turns[0])
    forgets = rates.drop if len(turns) > 1 else 2 * rates.drop
    if rng.random() < rates.stray:
        others = [other for other in language.TOPICS if other != topic]
        topic = rng.choice(others)
    shown = []
    for item in items:
        if item in things or rng.random() >= forgets:
            shown.append(item)
    shown = shown or items[:1]
    limit = stated_limit(turns[-1], len(shown))
    if rng.random() < rates.overrun:  # a sentence too many, with a skill that nobody asked for
        groups = language.cut(rng, shown, min(limit, len(shown)))
        groups.append([rng.choice(list(language.PHRASINGS))])
        text = f"Answer: {language.write(rng, topic, groups)}"
    else:
        text = f"Answer: {language.text(rng, topic, shown, limit)}"
    if "Explanation:" in "".join(turns):
        text += f"\nExplanation: the text shows {', '.join(shown)}."
    return Said(text)


def meets(text: str, criterion: str, task: Task) -> bool:
    """Does the text meet the criterion?"""
    words = criterion.lower()
    named = [skill for skill in task.skills if skill in words]
    if named:
        return detectors.shows(max(named, key=len), text)
    if "sentence" in words:
        return len(re.findall(r"[.!?](?:\s|$)", text)) <= stated_limit(words, 1)
    if "sense" in words:
        return detectors.makes_sense(text, tuple(task.things))
    return detectors.on_topic(task.topic, text)


def graded(rng: random.Random, prompt: str, rates: Rates, *, by_schema: bool) -> Said:
    """The judge's grades, in JSON where a schema is asked for.

    Raises:
        Refusal: no criteria to grade by, or what `read_task` raises.
    """
    task = read_task(prompt)
    _, text, rubric = TO_BE_GRADED.search(prompt).groups()
    criteria = re.findall(r"^- (.+)$", rubric, re.M)
    if not criteria:
        raise Refusal(
            "the embedded judge grades by criteria after the marked text, each in a line of its own"
            " that begins with '- ', as {rubric_lines} has them"
        )
    of_skills = criteria[: len(task.skills)]
    points = {}
    for criterion in criteria:
        is_flipped = rng.random() < rates.flip
        met = meets(text, criterion, task) != is_flipped
        if not met and criterion in of_skills:
            met = rng.random() < rates.lenient
        points[criterion] = int(met)
    as_list = rng.random() < rates.shape
    unreadable = rng.random() < rates.unreadable
    if by_schema:
        reply = in_json(points)
        end = len(reply) // 2
    elif as_list:
        return Said(SORRY if unreadable else listed(points))
    else:
        reply = tabled(points)
        end = reply.index(of_skills[-1])  # before the last skill's row
    if unreadable:
        return Said(reply[:end], "length")
    return Said(reply)


def in_json(points: dict[str, int]) -> str:
    grades = {}
    for criterion, point in points.items():
        reason = "The text does." if point else "The text does not."
        grades[criterion] = {"reason": reason, "point": point}
    return json.dumps(grades, ensure_ascii=False)


def listed(points: dict[str, int]) -> str:
    lines = []
    for number, criterion in enumerate(points, 1):
        lines.append(f"{number}. {criterion}. Point earned: {points[criterion]}")
    lines.append(f"Grade: {sum(points.values())}")
    return "\n".join(lines)


def tabled(points: dict[str, int]) -> str:
    rows = {"Criteria": "Points Earned", "---": "---"} | points
    rows["Total Points Earned"] = sum(points.values())
    return "\n".join(f"| {name} | {cell} |" for name, cell in rows.items())
