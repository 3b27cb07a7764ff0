"""Prompt packs: what the student, the teacher and the judge are asked ([YK23] section 3, appendix).

A generation pack is a JSON list of user turns, a grading pack a JSON list of one, with `str.format`
fields; both as in the public reference implementation, whose files can be used as they are. A
grading pack of ours is an object: the turn, the wording of the rubric's criteria, and whether the
reply is to be JSON by a schema.
"""

import hashlib
import json
import string
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import UserError
from helpers.task.catalog import Query, read_text
from helpers.task.points import sentence_limit
from helpers.task.wording import in_words, number


@dataclass(frozen=True)
class Rubric:
    """How the criteria are worded; the defaults are the reference implementation's."""

    skill: str = "Correctly illustrates {skill}"
    topic: str = "Pertains to {topic}"
    sense: str = "Text makes sense"
    sentences: str = "At most {num_sentences_str}"


@dataclass(frozen=True)
class Pack:
    generation: tuple[str, ...]  # user turns
    grading: str
    rubric: Rubric
    json_schema: bool = False  # the grading turn asks for JSON, by a schema, not for a table


def fields(query: Query) -> dict:
    """Values of every field that a generation turn may use."""
    limit = sentence_limit(len(query.items))

    def by_skill(form: str) -> str:
        return "\n".join(form.format(**vars(skill)) for skill in query.skills)

    return {
        "topic": query.topic,
        "skills_str": ", ".join(query.items),
        "skills_defs_and_examples_simple": by_skill(
            "**{name}**: {definition} For example, {example}"
        ),
        "skills_defs_and_examples": by_skill(
            "Skill: {name}\nDefinition: {definition}\nExample: {example}"
        ),
        "skills_defs": by_skill("**{name}**: {definition}"),
        "num_skills": len(query.items),
        "num_skills_str": number(len(query.items)),
        "num_sentences": limit,
        "num_sentences_str": in_words(limit, "sentence"),
    }


def criteria(query: Query, rubric: Rubric) -> list[str]:
    """The k + 3 criteria in the order k skills, topic, sense, sentences."""
    known = fields(query)
    skills = [rubric.skill.format(skill=name.lower()) for name in query.names]
    return [
        *skills,
        *(words.format(**known) for words in (rubric.topic, rubric.sense, rubric.sentences)),
    ]


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


GENERATION_FIELDS = set(fields(Query("", ())))
GRADING_FIELDS = GENERATION_FIELDS | {"rubric_items", "rubric_lines", "student_answer", "mark"}


def read_json(path: Path) -> list | dict:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {e.lineno}: not JSON ({e.msg})") from None


def check_fields(path: Path, template: str, known: set[str]) -> None:
    """Are all fields of a template ones that can be filled?"""
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as e:
        raise UserError(f"{path}: {e}; write a literal brace twice") from None
    if unknown := sorted(used - known):
        raise UserError(
            f"{path}: field {', '.join(unknown)} cannot be filled;"
            f" the fields are {', '.join(sorted(known))}"
        )


def load_pack(generation: Path, grading: Path) -> Pack:
    """Read and check a pack.

    Raises:
        UserError: a missing file, no JSON, not the form of a pack, a field that cannot be filled.
    """
    turns = read_json(generation)
    if not (isinstance(turns, list) and turns and all(isinstance(t, str) for t in turns)):
        raise UserError(f"{generation}: a generation pack is a JSON list of user turns")
    graded = read_json(grading)
    if isinstance(graded, list):  # the reference implementation's
        # Its pack `llama` words the skills' criteria differently.
        rubric = {"skill": "Contains {skill}"} if grading.stem == "llama" else {}
        graded = {"turns": graded, "rubric": rubric}
    try:
        rubric = Rubric(**graded["rubric"])
        (turn,) = graded["turns"]
        pack = Pack(tuple(turns), turn, rubric, graded.get("json_schema", False))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f'{grading}: a grading pack is {{"turns": [one turn],'
            ' "rubric": {skill, topic, sense, sentences}}'
        ) from None
    for template in pack.generation:
        check_fields(generation, template, GENERATION_FIELDS)
    check_fields(grading, pack.grading, GRADING_FIELDS)
    for words in vars(rubric).values():
        check_fields(grading, words, GENERATION_FIELDS | {"skill"})
    return pack
