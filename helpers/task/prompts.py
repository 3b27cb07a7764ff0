"""Prompt packs: what the student, the teacher and the judge are asked ([YK23] section 3, appendix).

A generation pack is a JSON list of user turns, a grading pack a JSON list of one, with `str.format`
fields; both as in the public reference implementation, whose files can be used as they are. A
grading pack of ours is an object: the turn, the wording of the rubric's criteria, and whether the
reply is to be JSON by a schema.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic

from helpers.errors import UserError
from helpers.task.catalog import Query, Skill, read_text
from helpers.task.numerals import in_words, number
from helpers.task.points import sentence_limit


class Rubric(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How the criteria are worded; the defaults are the reference implementation's."""

    skill: str = "Correctly illustrates {skill}"
    topic: str = "Pertains to {topic}"
    sense: str = "Text makes sense"
    sentences: str = "At most {num_sentences_str}"


class Grading(pydantic.BaseModel):
    """A grading pack of ours, as its file has it."""

    turns: tuple[str]
    rubric: Rubric
    json_schema: bool = False


@dataclass(frozen=True)
class Pack:
    generation: tuple[str, ...]  # user turns
    grading: str
    rubric: Rubric
    json_schema: bool = False  # the grading turn asks for JSON, by a schema, not for a table


SAMPLE = Query("topic", (Skill("skill", "", "", ""), Skill("another skill", "", "", "")))
SKILL_FORMS = {  # what a field has of each skill, a line or more
    "skills_defs_and_examples_simple": "**{name}**: {definition} For example, {example}",
    "skills_defs_and_examples": "Skill: {name}\nDefinition: {definition}\nExample: {example}",
    "skills_defs": "**{name}**: {definition}",
}


def fields(query: Query) -> dict:
    """Values of every field that a generation turn may use."""
    n = len(query.items)
    limit = sentence_limit(n)
    values = {
        "topic": query.topic,
        "skills_str": ", ".join(query.items),
        "num_skills": n,
        "num_skills_str": number(n),
        "num_sentences": limit,
        "num_sentences_str": in_words(limit, "sentence"),
    }
    for field, form in SKILL_FORMS.items():
        values[field] = "\n".join(form.format(**vars(skill)) for skill in query.skills)
    return values


def criteria(query: Query, rubric: Rubric) -> list[str]:
    """The k + 3 criteria in the order k skills, topic, sense, sentences."""
    known = fields(query)
    items = [rubric.skill.format(**known, skill=name.lower()) for name in query.names]
    for words in (rubric.topic, rubric.sense, rubric.sentences):
        items.append(words.format(**known))
    return items


def mark(text: str) -> str:
    """A delimiter that `text` cannot hold.

    It is made from the text's hash, so that a resumed run asks the same question.
    """
    return "===== " + hashlib.sha256(text.encode()).hexdigest()[:12] + " ====="


def generation_turns(query: Query, pack: Pack) -> list[str]:
    """The user turns by which a text is asked for."""
    return [turn.format(**fields(query)) for turn in pack.generation]


def grading_turn(query: Query, answer: str, pack: Pack) -> str:
    """The user turn by which an answer's points are asked for."""
    items = criteria(query, pack.rubric)
    rubric = {
        "rubric_items": ", ".join(items),
        "rubric_lines": "\n".join(f"- {item}" for item in items),
    }
    return pack.grading.format(**fields(query), **rubric, student_answer=answer, mark=mark(answer))


def extract_answer(reply: str) -> str:
    """The text between the last `Answer:` and the next `Explanation`.

    The reference implementation takes it so. What a model thinks aloud before is no part of it; a
    reply that is cut in its thoughts has no text.
    """
    spoken = reply.rsplit("</think>", 1)[-1].split("<think>", 1)[0]
    return spoken.rsplit("Answer:", 1)[-1].split("Explanation", 1)[0].strip().strip("*").strip()


def try_out(path: Path, fill: Callable, *arguments: Any) -> None:
    """Check that the templates of a file can be filled.

    Raises:
        UserError: they use a field that there is not; names those that there are.
    """
    try:
        fill(*arguments)
    except (LookupError, AttributeError, ValueError) as e:
        raise UserError(
            f"{path}: {e} cannot be filled; the fields are {', '.join(fields(SAMPLE))},"
            " and to grade student_answer, rubric_items, rubric_lines, mark;"
            " a literal brace is written twice"
        ) from None


def read_as(path: Path, kind: Any, form: str) -> Any:
    """A JSON file, checked as a pydantic type; `form` tells a user what it has to be."""
    try:
        return pydantic.TypeAdapter(kind).validate_json(read_text(path))
    except pydantic.ValidationError as e:
        raise UserError(f"{path}: {form} ({e.errors()[0]['msg']})") from None


def load_pack(generation: Path, grading: Path) -> Pack:
    """Read and check a pack.

    Raises:
        UserError: a missing file, no JSON, not the form of a pack, a field that cannot be filled,
            equal criteria.
    """
    turns = read_as(
        generation,
        Annotated[tuple[str, ...], pydantic.Field(min_length=1)],
        "a generation pack is a JSON list of user turns",
    )
    graded = read_as(
        grading,
        tuple[str] | Grading,
        'a grading pack is {"turns": [one turn], "rubric": {skill, topic, sense, sentences}}',
    )
    if isinstance(graded, tuple):  # the reference implementation's
        # Its pack `llama` words the skills' criteria differently.
        rubric = {"skill": "Contains {skill}"} if grading.stem == "llama" else {}
        graded = Grading(turns=graded, rubric=Rubric(**rubric))
    pack = Pack(turns, *graded.turns, graded.rubric, graded.json_schema)
    try_out(generation, generation_turns, SAMPLE, pack)
    try_out(grading, grading_turn, SAMPLE, "", pack)
    items = criteria(SAMPLE, pack.rubric)
    for item in items:
        if items.count(item) > 1:
            raise UserError(
                f"{grading}: rubric: {item!r} stands twice among the criteria of two skills, and"
                " points are told apart by them; skill must hold {skill}, and topic, sense and"
                " sentences must differ"
            )
    return pack
