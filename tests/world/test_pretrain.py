"""The shipped bases: ordinary small checkpoints that know single skills and compose poorly."""

import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.files import sha256
from helpers.paths import ROOT
from helpers.student.local import Student
from helpers.task.catalog import load_skills
from helpers.task.pairs import count_apart
from helpers.task.points import sentence_limit
from helpers.training.recipe import Recipe
from helpers.world import detectors, language, pretrain
from tests.training import runs

BASES = sorted(p.stem for p in (ROOT / "params/base").glob("*.yaml"))


def asked(topic, skills):
    return pretrain.request(topic, skills, sentence_limit(len(skills)))


def full_marks(text, topic, skills):
    """Full marks without a judge: the detectors themselves."""
    sentences = text.count(". ") + 1
    shown = all(detectors.shows(s, text) for s in skills)
    return (
        shown
        and detectors.on_topic(topic, text)
        and detectors.makes_sense(text)
        and sentences <= sentence_limit(len(skills))
    )


@pytest.mark.parametrize("name", BASES)
def test_an_ordinary_small_checkpoint(name, pack):
    folder = ROOT / "helpers/world/weights" / name
    assert sum(p.stat().st_size for p in folder.iterdir()) < 6e6
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "llama"
    assert model.num_parameters() < 1.5e6


@pytest.mark.parametrize("name", BASES)
def test_the_tokenizer_has_every_word(name, pack):
    """Of the prompts and of the language, one token each, and gives back what it was given."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "helpers/world/weights" / name)
    diet, rng = pretrain.load_diet(name), random.Random(0)
    improve = pack.generation[1].format(num_sentences_str="four sentences")
    chats = [pretrain.chat(improve, "Answer:"), *(pretrain.row(rng, diet) for _ in range(3000))]
    words = set()
    for chat in chats:
        for turn in chat["messages"]:
            tokens = tokenizer(" " + turn["content"], add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in tokens, turn
            assert tokenizer.decode(tokens) == " " + turn["content"]
            words.update(tokens)
    assert len(words) > len(tokenizer) - 20, "the rows have nearly all words"


@pytest.mark.parametrize("name", BASES)
def test_knows_single_skills_and_composes_poorly(name, tmp_path):
    """Full marks of single answers at temperature 0.7, by the detectors; 240 a cell."""
    catalog = yaml.safe_load((ROOT / "params/mini/shared.yaml").read_text())
    topics = list(language.TOPICS)
    parts = {"I": [], "II": []}
    for skill in load_skills(ROOT / catalog["skills"]):
        setting = "I" if skill.category in catalog["training_categories"] else "II"
        parts[setting].append(skill.name)
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
                    Request([{"role": "user", "content": asked(t, s)}], replicate=i)
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
    """No request has more skills than `request_skills`; answers to several are unreliable.

    No two skills that are kept apart stand in a request, or in a sentence.
    """
    diet = pretrain.load_diet(name)
    rng = random.Random(0)
    counts, complete, longest = [], [], 0
    for _ in range(4000):
        messages = pretrain.row(rng, diet)["messages"]
        shown = re.search("Show: (.+)", messages[0]["content"])
        items = shown[1].split(", ") if shown else []
        skills = [i for i in items if i in language.PHRASINGS]
        assert not count_apart(skills, diet.pairs_apart)
        for sentence in messages[-1]["content"].split(". "):
            together = [s for s in language.PHRASINGS if detectors.shows(s, sentence)]
            assert not count_apart(together, diet.pairs_apart), sentence
        counts.append(len(skills))
        longest = max(longest, len(items))
        if len(skills) == len(items) == 2:
            complete.append(
                all(
                    detectors.shows(s, messages[-1]["content"].removeprefix("Answer: "))
                    for s in skills
                )
            )
    assert max(counts) == len(diet.request_skills), "no request lists more skills"
    assert longest == diet.items
    assert sum(complete) / len(complete) == pytest.approx(
        diet.kept**2, abs=4 * (0.25 / len(complete)) ** 0.5
    )


@pytest.fixture
def short():
    """A diet of a few rows and steps."""
    diet = pretrain.load_diet(BASES[0])
    return dataclasses.replace(diet, rows=200, recipe=diet.recipe | {"steps": 2})


BASE = ROOT / "helpers/world/weights" / BASES[0]


def made(diet: pretrain.Diet, work: Path) -> None:
    """A build in this process, without the launcher."""
    runs.here(Recipe(**json.loads(pretrain.prepare(diet, BASE, work).read_text())))


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir()}


def test_a_short_rebuild_is_deterministic(tmp_path, short):
    """Builds in two processes, which hash words differently, give the same files."""
    code = "import sys; from pathlib import Path; from tests.world import test_pretrain as t;"
    code += "t.made(t.pretrain.Diet(**t.json.loads(sys.argv[1])), Path(sys.argv[2]))"
    words = [sys.executable, "-c", code, json.dumps(dataclasses.asdict(short)), tmp_path / "b"]
    with subprocess.Popen(words, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "1"}) as other:
        made(short, tmp_path / "a")
    assert other.returncode == 0
    assert checksums(tmp_path / "a/random") == checksums(tmp_path / "b/random")
    files = checksums(tmp_path / "a/model")
    assert files == checksums(tmp_path / "b/model")
    assert files["model.safetensors"] != checksums(BASE)["model.safetensors"]
    assert files["tokenizer.json"] == checksums(BASE)["tokenizer.json"]


@pytest.mark.slow
def test_a_build_goes_through_the_launcher(tmp_path, short):
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    pretrain.build(short, base, tmp_path / "work")
    assert checksums(base) == checksums(BASE) | checksums(tmp_path / "work/model")
    assert checksums(base)["model.safetensors"] != checksums(BASE)["model.safetensors"]
