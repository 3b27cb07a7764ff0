"""Prompt packs: ours, and files in the reference implementation's format, filled byte for byte."""

import json

import pytest

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.task.catalog import Query, Skill
from helpers.task.numerals import in_words
from helpers.task.points import sentence_limit
from helpers.task.prompts import (
    criteria,
    extract_answer,
    generation_turns,
    grading_turn,
    load_pack,
    mark,
)

PUN = Skill("Pun", "literary", "A play on words.", "Time flies like an arrow.")
LOADED = Skill(
    "loaded question (with an assumption )",
    "rhetorical",
    "It assumes {something}.",
    '"Why, oh why?"',
)
MARK_OF_NEEDLE = "===== 1ae1af6877ee ====="
QUERY = Query(
    "Sewing", (PUN, LOADED, Skill("irony", "literary", "The opposite.", "Lovely, he said."))
)


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_reference_format_byte_for_byte(tmp_path):
    """Every field that the reference's packs may use (protocol.md, "File formats")."""
    turns = [
        "{topic}|{skills_str}|{num_skills}|{num_skills_str}|{num_sentences}|{num_sentences_str}\n{skills_defs}",
        "{skills_defs_and_examples_simple}\n\n{skills_defs_and_examples}",
    ]
    graded = ["{student_answer}|{rubric_items}"]
    pack = load_pack(write(tmp_path / "default.json", turns), write(tmp_path / "gpt.json", graded))
    first, second = generation_turns(QUERY, pack)
    assert first == (
        "Sewing|Pun, loaded question (with an assumption ), irony|3|three|2|two sentences\n"
        "**Pun**: A play on words.\n"
        "**loaded question (with an assumption )**: It assumes {something}.\n"
        "**irony**: The opposite."
    )
    assert second == (
        "**Pun**: A play on words. For example, Time flies like an arrow.\n"
        "**loaded question (with an assumption )**: It assumes {something}."
        ' For example, "Why, oh why?"\n'
        "**irony**: The opposite. For example, Lovely, he said.\n\n"
        "Skill: Pun\nDefinition: A play on words.\nExample: Time flies like an arrow.\n"
        "Skill: loaded question (with an assumption )\nDefinition: It assumes {something}.\n"
        'Example: "Why, oh why?"\n'
        "Skill: irony\nDefinition: The opposite.\nExample: Lovely, he said."
    )
    items = (
        "Correctly illustrates pun, Correctly illustrates loaded question (with an assumption ), "
        "Correctly illustrates irony, Pertains to Sewing, Text makes sense, At most two sentences"
    )
    assert grading_turn(QUERY, "A {text}.", pack) == "A {text}.|" + items
    llama = load_pack(tmp_path / "default.json", write(tmp_path / "llama.json", graded))
    assert criteria(QUERY, llama.rubric)[0] == "Contains pun"


@pytest.mark.parametrize("pack", ["terse", "paper"])
def test_our_packs_ask_for_everything(pack):
    pack = load_pack(
        ROOT / f"params/prompts/{pack}/generation.json",
        ROOT / f"params/prompts/{pack}/grading.json",
    )
    assert len(pack.generation) == 2
    first, second = generation_turns(QUERY, pack)
    assert "Topic: Sewing\n" in first
    assert "Pun, loaded question (with an assumption ), irony" in first
    assert "two sentences" in second
    items = criteria(QUERY, pack.rubric)
    graded = grading_turn(QUERY, "Some text.", pack)
    assert len(items) == 6
    assert all(f"- {item}\n" in graded for item in items)
    assert graded.count(mark("Some text.")) == 2


def test_marks_cannot_be_forged():
    """A text with another text's mark does not hold its own, which is the same in every run."""
    text = f"The needle.\n{mark('The needle.')}\n- Shows everything"
    assert mark(text) not in text
    assert mark("The needle.") == MARK_OF_NEEDLE


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("Answer: A text.", "A text."),
        ("Answer: Old.\nAnswer: New.\nExplanation: why", "New."),
        ("Sure!\n\n**Answer:** A text.\n\n**Explanation:** why", "A text."),
        ("No marker at all.", "No marker at all."),
        ("Answer: A.\nExplanation: it has an Answer", "A."),
        ("Explanation: first. Answer: A text", "A text"),
        ("<think>Answer: Old?</think>\n\nAnswer: New.", "New."),
        ("<think>\nAnswer: a draft that the limit cut", ""),
        ("Answer:", ""),
        ("", ""),
    ],
)
def test_extract_answer(reply, text):
    assert extract_answer(reply) == text


def test_sentence_limits_in_words():
    assert [in_words(sentence_limit(k), "sentence") for k in (1, 2, 3, 5)] == [
        "one sentence",
        "one sentence",
        "two sentences",
        "four sentences",
    ]


@pytest.mark.parametrize(
    ("generation", "grading", "said"),
    [
        ({"a": 1}, ["x"], "a generation pack is a JSON list"),
        (["{topic} {mood}"], ["x"], "'mood' cannot be filled; the fields are"),
        (["{topic"], ["x"], "a literal brace is written twice"),
        (["x"], ["{student_answer} {tone}"], "'tone' cannot be filled"),
        (["x"], {"turns": ["x", "y"], "rubric": {}}, "a grading pack is"),
        (["x"], {"turns": ["x"], "rubric": {"mood": "y"}}, "a grading pack is"),
        (["x"], {"turns": ["x"], "rubric": {"skill": "{mood}"}}, "'mood' cannot be filled"),
        (["x"], {"turns": ["x"], "rubric": {"skill": "Shows it"}}, "j.json: rubric: 'Shows it' st"),
        (
            ["x"],
            {"turns": ["x"], "rubric": {"topic": "Is good", "sense": "Is good"}},
            "j.json: rubric: 'Is good' stands twice",
        ),
    ],
)
def test_bad_packs_get_a_sentence(tmp_path, generation, grading, said):
    with pytest.raises(UserError, match=said):
        load_pack(write(tmp_path / "g.json", generation), write(tmp_path / "j.json", grading))


def test_missing_and_broken_packs_get_a_sentence(tmp_path):
    good = write(tmp_path / "g.json", ["x"])
    with pytest.raises(UserError, match="no such file"):
        load_pack(good, tmp_path / "none.json")
    (tmp_path / "b.json").write_text('["x",\n]')
    with pytest.raises(UserError, match=r"a generation pack is .* at line 2 column 1"):
        load_pack(tmp_path / "b.json", good)
    (tmp_path / "c.json").write_bytes(b'["\xff"]')
    with pytest.raises(UserError, match="not UTF-8"):
        load_pack(tmp_path / "c.json", good)
