"""Prompt packs: what the student, the teacher and the judge are asked ([YK23] section 3, appendix of prompts).

A generation pack is a JSON list of user turns, a grading pack a JSON list of one, with `str.format` fields; both as
in the public reference implementation, whose files can be used as they are. A grading pack of ours is an object: the
turn, and the wording of the rubric's criteria.
"""

import hashlib
import json
import string
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import UserError
from helpers.task.catalog import Query
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


def fields(query: Query) -> dict:
    """Values of every field that a generation turn may use."""
    limit = sentence_limit(len(query.items))
    return {
        "topic": query.topic,
        "skills_str": ", ".join(query.items),
        "skills_defs_and_examples_simple": "\n".join(
            f"**{s.name}**: {s.definition} For example, {s.example}" for s in query.skills
        ),
        "skills_defs_and_examples": "\n".join(
            f"Skill: {s.name}\nDefinition: {s.definition}\nExample: {s.example}"
            for s in query.skills
        ),
        "skills_defs": "\n".join(f"**{s.name}**: {s.definition}" for s in query.skills),
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
    """A delimiter that `text` cannot hold: it is made from the text's hash, so a resumed run asks the same question."""
    return "===== " + hashlib.sha256(text.encode()).hexdigest()[:12] + " ====="


def generation_turns(query: Query, pack: Pack) -> list[str]:
    return [turn.format(**fields(query)) for turn in pack.generation]


def grading_turn(query: Query, answer: str, pack: Pack) -> str:
    items = criteria(query, pack.rubric)
    rubric = {
        "rubric_items": ", ".join(items),
        "rubric_lines": "\n".join(f"- {item}" for item in items),
    }
    return pack.grading.format(**fields(query), **rubric, student_answer=answer, mark=mark(answer))


def extract_answer(reply: str) -> str:
    """The text between the last `Answer:` and the next `Explanation`, as the reference implementation takes it."""
    return reply.rsplit("Answer:", 1)[-1].split("Explanation", 1)[0].strip().strip("*").strip()


GENERATION_FIELDS = {
    *(
        "topic",
        "skills_str",
        "skills_defs_and_examples_simple",
        "skills_defs_and_examples",
        "skills_defs",
    ),
    *("num_skills", "num_skills_str", "num_sentences", "num_sentences_str"),
}
GRADING_FIELDS = GENERATION_FIELDS | {"rubric_items", "rubric_lines", "student_answer", "mark"}


def _read(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text (byte {e.start}); save it as UTF-8") from None
    except json.JSONDecodeError as e:
        raise UserError(f"{path}, line {e.lineno}: not JSON ({e.msg})") from None


def _check_fields(path: Path, template: str, known: set[str]) -> None:
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as e:
        raise UserError(f"{path}: {e}; write a literal brace twice") from None
    if unknown := sorted(used - known):
        raise UserError(
            f"{path}: field {', '.join(unknown)} cannot be filled; the fields are {', '.join(sorted(known))}"
        )


def load_pack(generation: Path, grading: Path) -> Pack:
    """Read and check a pack.

    Raises:
        UserError: a missing file, no JSON, a form that is not a pack's, a field that cannot be filled.
    """
    turns = _read(generation)
    if not (isinstance(turns, list) and turns and all(isinstance(t, str) for t in turns)):
        raise UserError(f"{generation}: a generation pack is a JSON list of user turns")
    graded = _read(grading)
    if isinstance(
        graded, list
    ):  # the reference implementation's; its pack `llama` words the skills' criteria differently
        graded = {
            "turns": graded,
            "rubric": {"skill": "Contains {skill}"} if grading.stem == "llama" else {},
        }
    try:
        rubric, (turn,) = Rubric(**graded["rubric"]), graded["turns"]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f'{grading}: a grading pack is {{"turns": [one turn], "rubric": {{skill, topic, sense, sentences}}}}'
        ) from None
    for template in turns:
        _check_fields(generation, template, GENERATION_FIELDS)
    _check_fields(grading, turn, GRADING_FIELDS)
    for words in vars(rubric).values():
        _check_fields(grading, words, GENERATION_FIELDS | {"skill"})
    return Pack(tuple(turns), turn, rubric)
