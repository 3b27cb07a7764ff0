"""The embedded world's teacher and judge: what each replies to a prompt, and how often each errs.

Both read the prompt's text alone: lines `Topic: ...` and `Skills: ...` or `Show: ...`, and, to be
graded, a text between two equal marked lines with `- criterion` lines after it. Beside skills a
request may list things to mention. Those are never forgotten, earn no point and cost none: they
make a text longer, which is what the control of the experiment needs.
"""

import dataclasses
import json
import random
import re

from helpers.errors import UserError
from helpers.task.wording import NUMBERS
from helpers.world import detectors, language


@dataclasses.dataclass(frozen=True)
class Rates:
    """Probabilities of the errors that teacher and judge make."""

    drop: float = 0.08  # teacher: a skill is forgotten (twice as often in a first draft)
    overrun: float = 0.05  # teacher: one sentence too many
    stray: float = 0.03  # teacher: the text is about another topic
    flip: float = 0.02  # judge: a criterion's point is turned round
    lenient: float = 0.0  # judge: a missing skill gets its point all the same
    shape: float = 0.15  # judge: a list instead of a table
    unreadable: float = 0.02  # judge: no grade, or one cut off

    def __post_init__(self):
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise UserError(f"world: {name} = {rate} is no probability; use 0 to 1")


class Refusal(Exception):
    """An HTTP 400: the world cannot answer this prompt."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a prompt asks a text for."""

    topic: str
    items: list[str]  # skills and things, in the prompt's order

    @property
    def skills(self) -> list[str]:
        return [item for item in self.items if item in language.PHRASINGS]

    @property
    def things(self) -> list[str]:
        return [item for item in self.items if item not in language.PHRASINGS]


def bare(name: str) -> str:
    """A skill's or topic's name as the world knows it: lower case, up to the first parenthesis."""
    return name.split("(")[0].strip().lower()


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
    task = Task(bare(topic_line[1]), [bare(item) for item in items_line[1].split(", ")])
    if task.topic not in language.TOPICS:
        raise unknown("topic", [task.topic], language.TOPICS)
    strange = [item for item in task.things if not language.is_thing(item)]
    if strange or not task.skills:
        raise unknown("skill", strange or task.things, language.PHRASINGS)
    return task


def unknown(kind: str, names: list[str], known: dict) -> Refusal:
    return Refusal(
        f"the embedded world does not know the {kind} {', '.join(names)};"
        f" it knows {', '.join(known)}"
    )


def written(rng: random.Random, messages: list[dict], rates: Rates) -> str:
    """The teacher's text: a draft on the first turn, a better one when told to improve it."""
    task = read_task(messages[0]["content"])
    turns = [message["content"] for message in messages if message["role"] == "user"]
    forgets = rates.drop if len(turns) > 1 else 2 * rates.drop
    topic = task.topic
    if rng.random() < rates.stray:
        topic = rng.choice([other for other in language.TOPICS if other != topic])
    things = task.things
    shown = [item for item in task.items if item in things or rng.random() >= forgets]
    shown = shown or task.items[:1]
    clauses = [language.clause(rng, topic, item) for item in shown]
    if rng.random() < rates.overrun:  # a sentence too many, with a clause nobody asked for
        clauses.append(language.clause(rng, topic, rng.choice(list(language.PHRASINGS))))
        sentences = len(clauses)
    else:
        most = len(shown)
        limit = re.search(r"at most (\w+) sentence", messages[-1]["content"])
        if limit and limit[1] in NUMBERS:
            most = min(most, NUMBERS.index(limit[1]))
        sentences = rng.randint(max(1, most - 1), most)
    text = f"Answer: {language.join(rng, clauses, sentences)}"
    if "Explanation:" in "".join(turns):
        text += f"\nExplanation: the text shows {', '.join(shown)}."
    return text


def judged(criterion: str, task: Task, text: str) -> bool:
    """Does the text meet the criterion?"""
    words = criterion.lower()
    named = [skill for skill in task.skills if skill in words]
    if named:
        return detectors.shows(max(named, key=len), text)
    if "sentence" in words:
        limits = (i for i, number in enumerate(NUMBERS) if re.search(rf"\b{number}\b", words))
        return len(re.findall(r"[.!?](?:\s|$)", text)) <= next(limits, 1)
    if "sense" in words:
        return detectors.makes_sense(text, task.things)
    return detectors.on_topic(task.topic, text)


def graded(
    rng: random.Random, prompt: str, rates: Rates, *, by_schema: bool = False
) -> tuple[str, str]:
    """The judge's reply, in JSON where a schema is asked for, and its finish reason."""
    task = read_task(prompt)
    marked = re.search(r"^(=+ \w+ =+)\n(.*)\n\1$(.*)", prompt, re.M | re.S)
    text = marked[2]
    criteria = re.findall(r"^- (.+)$", marked[3], re.M)
    of_skills = criteria[: len(task.skills)]
    points = {}
    for criterion in criteria:
        met = judged(criterion, task, text)
        if rng.random() < rates.flip:
            met = not met
        if not met and criterion in of_skills:
            met = rng.random() < rates.lenient
        points[criterion] = int(met)
    as_list = rng.random() < rates.shape
    unreadable = rng.random() < rates.unreadable
    if by_schema:
        reasons = {0: "The text does not.", 1: "The text does."}
        grades = {c: {"reason": reasons[p], "point": p} for c, p in points.items()}
        reply = json.dumps(grades, ensure_ascii=False)
        return (reply[: len(reply) // 2], "length") if unreadable else (reply, "stop")
    if unreadable and as_list:
        return "I am sorry, but you have not provided the student's answer.", "stop"
    if as_list:
        return listed(points), "stop"
    reply = tabled(points)
    if unreadable:  # cut off before the last skill's row
        return reply[: reply.index(of_skills[-1])], "length"
    return reply, "stop"


def listed(points: dict[str, int]) -> str:
    """A grade as a numbered list."""
    lines = [
        f"{i}. {criterion}. Point earned: {point}"
        for i, (criterion, point) in enumerate(points.items(), 1)
    ]
    return "\n".join([*lines, f"Grade: {sum(points.values())}"])


def tabled(points: dict[str, int]) -> str:
    """A grade as a table."""
    rows = [f"| {criterion} | {point} |" for criterion, point in points.items()]
    total = f"| Total Points Earned | {sum(points.values())} |"
    return "\n".join(["| Criteria | Points Earned |", "| --- | --- |", *rows, total])
