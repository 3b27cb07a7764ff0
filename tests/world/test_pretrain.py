"""The shipped bases: ordinary small checkpoints that know single skills and compose poorly."""

import dataclasses
import json
import random
import subprocess
import sys

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.files import sha256
from helpers.paths import ROOT
from helpers.student.local import Student
from helpers.world import detectors, language, pretrain

BASES = sorted(p.stem for p in (ROOT / "params/base").glob("*.yaml"))


def full_marks(text, topic, skills):
    """Full marks without a judge: the detectors themselves."""
    sentences = text.count(". ") + 1
    shown = all(detectors.shows(s, text) for s in skills)
    return (
        shown
        and detectors.on_topic(topic, text)
        and detectors.makes_sense(text)
        and sentences <= language.sentence_limit(len(skills))
    )


@pytest.mark.parametrize("name", BASES)
def test_an_ordinary_small_checkpoint(name, pack):
    folder = ROOT / "helpers/world/weights" / name
    assert sum(p.stat().st_size for p in folder.iterdir()) < 6e6
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    assert model.config.model_type == "llama"
    assert model.num_parameters() < 1.5e6
    words = tokenizer.apply_chat_template(
        [
            {
                "role": "user",
                "content": pack.generation[1].format(num_sentences_str="four sentences"),
            }
        ],
        tokenize=False,
    )
    assert tokenizer.unk_token_id not in tokenizer(words)["input_ids"], (
        "the vocabulary covers the pack"
    )
    text = language.text(random.Random(0), "sewing", list(language.PHRASINGS)[:5])
    assert (
        tokenizer.decode(tokenizer(" " + text, add_special_tokens=False)["input_ids"]) == " " + text
    )


@pytest.mark.parametrize("name", BASES)
def test_knows_single_skills_and_composes_poorly(name, tmp_path):
    """Full marks of single answers at temperature 0.7, by the detectors; 240 a cell."""
    catalog = yaml.safe_load((ROOT / "params/mini/shared.yaml").read_text())
    skills, topics = list(language.PHRASINGS), list(language.TOPICS)
    parts = {"I": skills[:18], "II": skills[18:]}
    assert catalog["training_categories"] == ["literary", "rhetorical"]
    student = Student(
        str(ROOT / "helpers/world/weights" / name),
        Ledger(tmp_path / "l.sqlite"),
        new_tokens=120,
        temperature=0.7,
        batch=240,
        seed=7,
    )
    score = {}
    for setting, part in parts.items():
        for k in (1, 2, 3, 4):
            rng = random.Random(f"{setting}{k}")
            tasks = [(rng.choice(topics), rng.sample(part, k)) for _ in range(240)]
            replies = student.ask(
                [
                    Request([{"role": "user", "content": pretrain.request(t, s)}], replicate=i)
                    for i, (t, s) in enumerate(tasks)
                ]
            )
            marks = [
                full_marks(reply.text.removeprefix("Answer: "), topic, skills)
                for (topic, skills), reply in zip(tasks, replies, strict=True)
            ]
            score[setting, k] = sum(marks) / len(marks)
    print(name, score)
    assert score["I", 1] > 0.9
    assert score["II", 1] > 0.85
    for setting in parts:
        assert score[setting, 2] < 0.35
        assert score[setting, 3] < 0.15
        assert score[setting, 4] < 0.15


@pytest.mark.parametrize("name", BASES)
def test_the_diet_is_what_it_says(name):
    """No request has more skills than `request_skills`; answers to several are unreliable."""
    diet = pretrain.Diet(**yaml.safe_load((ROOT / f"params/base/{name}.yaml").read_text()))
    rng = random.Random(0)
    asked, complete, longest = [], [], 0
    for _ in range(4000):
        messages = pretrain.row(rng, diet)["messages"]
        shown = messages[0]["content"].partition("Show: ")[2]
        items = shown.split(", ") if shown else []
        skills = [i for i in items if i in language.PHRASINGS]
        asked.append(len(skills))
        longest = max(longest, len(items))
        if len(skills) == len(items) == 2:
            complete.append(
                all(
                    detectors.shows(s, messages[-1]["content"].removeprefix("Answer: "))
                    for s in skills
                )
            )
    assert max(asked) == len(diet.request_skills), "no request lists more skills"
    assert longest == diet.items
    assert sum(complete) / len(complete) == pytest.approx(
        diet.kept**2, abs=4 * (0.25 / len(complete)) ** 0.5
    )


def test_a_short_rebuild_is_deterministic(tmp_path):
    """Two builds of a few steps in two processes give the same files, byte for byte."""
    diet = pretrain.Diet(**yaml.safe_load((ROOT / f"params/base/{BASES[0]}.yaml").read_text()))
    short = dataclasses.asdict(dataclasses.replace(diet, rows=300, steps=6))
    (tmp_path / "diet.yaml").write_text(yaml.safe_dump(short))
    made = []
    for name in "ab":
        code = "import sys; from pathlib import Path; from helpers.world.pretrain import build;"
        code += "build(*map(Path, sys.argv[1:]))"
        folders = [
            str(tmp_path / "diet.yaml"),
            str(tmp_path / name),
            str(tmp_path / f"work-{name}"),
        ]
        subprocess.run(
            [sys.executable, "-c", code, *folders], check=True, cwd=ROOT, capture_output=True
        )
        made.append({p.name: sha256(p) for p in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    assert "model.safetensors" in made[0]
    assert json.loads((tmp_path / "a/config.json").read_text())["vocab_size"] == len(
        pretrain.tokenizer()
    )
