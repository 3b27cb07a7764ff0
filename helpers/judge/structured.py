"""A judge that keeps to a JSON schema: for each criterion, by name, a short reason, then a point.

The server enforces the schema as it samples (OpenAI, vLLM, Ollama), so a small judge cannot leave
its form. What does not fit all the same, such as a reply cut off, is unreadable.
"""

import json
from collections.abc import Sequence

import pydantic
from pydantic import Field

from helpers.judge.verdict import Doubt, Verdict


class Grade(pydantic.BaseModel):
    """The grade of one criterion: reason first, since a model writes in order and decides by it."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    reason: str
    point: int = Field(ge=0, le=1)


GRADES = pydantic.TypeAdapter(dict[str, Grade])


def schema_of(criteria: Sequence[str]) -> dict:
    """The schema for `response_format`, of keywords that every server takes, so without limits."""
    grade = {
        "type": "object",
        "properties": {
            "reason": {"type": "string"},
            "point": {"type": "integer", "enum": [0, 1]},
        },
        "required": ["reason", "point"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": dict.fromkeys(criteria, grade),
        "required": list(criteria),
        "additionalProperties": False,
    }


def different_keys(pairs: list[tuple]) -> dict:
    """A JSON object; of a key that stands twice, JSON itself takes the last value."""
    if len(dict(pairs)) < len(pairs):
        raise Doubt("a name that stands twice")
    return dict(pairs)


def read_verdict(reply: str, criteria: Sequence[str]) -> Verdict:
    """The points of a reply that fits `schema_of(criteria)`."""
    try:
        grades = GRADES.validate_python(json.loads(reply, object_pairs_hook=different_keys))
    except Doubt as doubt:
        return Verdict(None, str(doubt))
    except pydantic.ValidationError:
        return Verdict(None, "neither 0 nor 1 point, or no reason")
    except (ValueError, RecursionError):
        return Verdict(None, "no JSON")
    if grades.keys() != set(criteria):
        return Verdict(None, "other criteria than the rubric's")
    return Verdict(tuple(grades[criterion].point for criterion in criteria))
