"""Verdicts in JSON: what fits the schema is read, all else is unreadable."""

import json

import pytest

from helpers.chat.endpoint import Endpoint
from helpers.chat.replies import Request, request_body
from helpers.judge.grade import grading_request
from helpers.judge.structured import read_verdict, schema_of
from helpers.judge.verdict import Verdict

ITEMS = ["Shows metaphor", 'Is about "Ships"', "Makes sense", "Has at most one sentence"]
GRADES = {item: {"reason": "So it is.", "point": int(item != "Makes sense")} for item in ITEMS}
POINTS = (1, 1, 0, 1)


def without(key):
    return {item: grade for item, grade in GRADES.items() if item != key}


def changed(**grade):
    return GRADES | {ITEMS[0]: GRADES[ITEMS[0]] | grade}


def test_what_fits_is_read_in_any_order():
    assert read_verdict(json.dumps(GRADES), ITEMS) == Verdict(POINTS)
    backwards = dict(reversed(GRADES.items()))
    assert read_verdict(json.dumps(backwards, indent=2), ITEMS) == Verdict(POINTS)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I am sorry.",
        json.dumps(GRADES)[:-1],
        f"```json\n{json.dumps(GRADES)}\n```",
        json.dumps(list(GRADES.values())),
        json.dumps(without("Makes sense")),
        json.dumps(GRADES | {"Creativity": {"reason": "", "point": 1}}),
        json.dumps(GRADES).replace("Makes sense", "Shows metaphor"),
        json.dumps(GRADES).replace('"point": 0', '"point": 0, "point": 1'),
        json.dumps(changed(point=2)),
        json.dumps(changed(point=-1)),
        json.dumps(changed(point=0.5)),
        json.dumps(changed(point=1.0)),
        json.dumps(changed(point=True)),
        json.dumps(changed(point="1")),
        json.dumps(changed(point=None)),
        json.dumps(changed(reason=1)),
        json.dumps(changed(final=0)),
        json.dumps(GRADES | {ITEMS[0]: 1}),
        "[" * 100_000,
    ],
)
def test_what_does_not_fit_is_unreadable(reply):
    verdict = read_verdict(reply, ITEMS)
    assert verdict.points is None
    assert verdict.reason


def test_the_schema_has_the_criteria_by_name_and_the_reason_first():
    schema = schema_of(ITEMS)
    assert list(schema["properties"]) == schema["required"] == ITEMS
    grade = schema["properties"]["Makes sense"]
    assert list(grade["properties"]) == grade["required"] == ["reason", "point"]
    assert schema["additionalProperties"] is grade["additionalProperties"] is False


def test_a_body_has_a_schema_only_where_it_is_asked_for(packs, query):
    endpoint = Endpoint(base_url="world:", model="judge")

    def body(form):
        request = grading_request(query("metaphor"), "A text.", packs[form], gradings=3)
        return request_body(request, endpoint, 0, 3)

    asked = body("json")["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["strict"] is True
    assert list(asked["json_schema"]["schema"]["properties"]) == [
        "Shows metaphor",
        "Is about sewing",
        "Makes sense as a whole",
        "Has at most one sentence",
    ]
    assert "response_format" not in body("terse")
    assert "response_format" not in request_body(Request([]), endpoint, 0, 1)
