"""Families other than the paper's, with their own chat templates: trained by 02, asked by 03."""

import pytest

from helpers.chat.conversation import converse
from helpers.files import write_json_lines
from helpers.profile.load import load_profile
from helpers.student.local import prompt_ids
from helpers.task.queries import evaluation_queries
from helpers.training import train
from helpers.training.recipe import Recipe, read_log
from tests.student.students import student
from tests.toys import chats, toy

SMOKE = load_profile("smoke")["03_grade/base"]


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "phi3", "olmo2"])
def test_trained_and_asked_in_two_turns(family, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    write_json_lines(tmp_path / "chats.jsonl", chats(24, turns=2))
    recipe = Recipe(
        student=toy(tmp_path / family, family),
        data=str(tmp_path / "chats.jsonl"),
        out=str(tmp_path / "out"),
        steps=12,
        batch=12,
        learning_rate=2e-2,
        warmup=2,
        export_dtype="float32",
    )
    train.main(recipe)
    losses = [row["loss"] for row in read_log(tmp_path / "out")]
    assert losses[-1] < 0.8 * losses[0]
    queries = evaluation_queries(SMOKE.pools()["I"], 2, 2, seed=0, setting="I")
    with student(str(tmp_path / "out/model"), tmp_path, new_tokens=40) as trained:
        assert len(trained.end) == len(student(recipe.student, tmp_path).end), "its ends are kept"
        talks = converse(trained.ask, queries, [0, 1], SMOKE.pack(), turns=2)
        task = chats(1)[0]["messages"][:1]
        assert prompt_ids(trained.tokenizer, task)
    for talk in talks:
        assert [m["role"] for m in talk.messages] == ["user", "assistant"] * 2
