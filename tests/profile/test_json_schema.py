"""Who may reply by a JSON schema: judges, where their grading prompts ask for it."""

import pytest

from helpers.errors import UserError
from helpers.profile.load import load_profile
from helpers.run.reruns import named_files


@pytest.fixture
def changed(profile):
    """Loads a copy of the smoke profile with a line replaced, or added to a file's end."""

    def load(file, old, new):
        path = profile / f"{file}.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new) if old else f"{text}\n{new}\n")
        return load_profile(profile.name)

    return load


JUDGE = 'judge: {base_url: "world:", model: judge'
SECOND = 'second_judges: {other: {base_url: "world:", model: judge, json_schema: true'


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("shared", JUDGE, f"{JUDGE}, json_schema: true", "there, and True of"),
        (
            "shared",
            "prompts/terse/grading",
            "prompts/json/grading",
            "there, and False of",
        ),
        ("03_grade", "", f"{SECOND}}}}}", "03_grade.yaml: second_judges: grading_prompts ="),
        (
            "shared",
            "model: teacher",
            "model: teacher, json_schema: true",
            "teacher.json_schema = True",
        ),
        (
            "03_grade",
            "server: {}",
            "server: {json_schema: true}",
            "server.json_schema = True",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(file, old, new, sentence, changed):
    with pytest.raises(UserError, match=sentence):
        changed(file, old, new)


def test_a_second_judge_may_have_a_pack_of_its_own(changed):
    """An edit of that pack is an edit of what the stage reads."""
    own = "grading_prompts: params/prompts/json/grading.json"
    grade = changed("03_grade", "", f"{SECOND}, {own}}}}}")["03_grade/base"]
    assert {name: pack.json_schema for name, pack in grade.packs().items()} == {
        "first": False,
        "other": True,
    }
    other = grade.second_judges["other"].model_copy(update={"grading_prompts": ""})
    without = grade.model_copy(update={"second_judges": {"other": other}})
    assert named_files(grade) != named_files(without)
