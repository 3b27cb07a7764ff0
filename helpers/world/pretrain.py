"""Builds the embedded base students: tiny Llamas pre-trained on text of the world (`make base`).

One stands for a chat model that knows every skill, held-out ones too, but combines them poorly. Its
diet, per `params/base/<name>.yaml`: documents, questions which skills a text shows, and requests to
show a list of items. Most requests list skills, and those for several skills are answered
*unreliably*; some list things to mention among the skills, and things are never forgotten.
Mixed lists hold up to `items` items, but no request lists more skills than `request_skills` has
weights. No sentence shows two skills that are kept apart (`helpers.task.pairs.count_apart`).

A base's shape, chat template and words are those in its folder: one token a word, with the space
before it. A new word of the language goes into `tokenizer.json` too, and only then is learned.
"""

import dataclasses
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.errors import command
from helpers.files import write_json_lines
from helpers.paths import ROOT
from helpers.task.numerals import in_words
from helpers.task.pairs import count_apart
from helpers.world import language

SKILLS = list(language.PHRASINGS)
REQUEST = json.loads((ROOT / "params/prompts/terse/generation.json").read_text())[0]


@dataclasses.dataclass(frozen=True)
class Diet:
    """What the base is made of and from; one YAML in `params/base/` holds one."""

    rows: int
    kinds: dict[str, float]  # share of each kind of rows, as in `row`
    request_skills: list[float]  # weight of requests for 1, 2, ... skills
    kept: float  # probability that an asked skill is in the answer, where more than one is asked
    items: int  # most items of a mixed request
    document_skills: int  # most skills of a document, or to identify
    pairs_apart: float  # share of the pairs of skills that stand in no sentence together
    recipe: dict  # of its training, a `helpers.training.recipe.Recipe`


def load_diet(name: str) -> Diet:
    """The diet of an embedded base."""
    return Diet(**yaml.safe_load((ROOT / f"params/base/{name}.yaml").read_text()))


def request(topic: str, items: list[str], limit: int) -> str:
    """The first turn of the miniature's prompt pack."""
    sentences = in_words(limit, "sentence")
    return REQUEST.format(topic=topic, skills_str=", ".join(items), num_sentences_str=sentences)


def drawn(rng: random.Random, n: int, sentences: int, share: float) -> list[list[str]]:
    """n different skills, those of each sentence; none of a sentence are kept apart."""
    while True:
        groups = language.cut(rng, rng.sample(SKILLS, n), sentences)
        if not any(count_apart(group, share) for group in groups):
            return groups


def row(rng: random.Random, diet: Diet) -> dict:
    """One chat of the pre-training text; a document is an assistant's turn without a user's."""
    topic = rng.choice(list(language.TOPICS))
    kind = rng.choices(list(diet.kinds), list(diet.kinds.values()))[0]
    if kind in ("documents", "identify"):
        n = rng.randint(1, diet.document_skills)
        groups = drawn(rng, n, rng.randint(1, n), diet.pairs_apart)
        text = language.write(rng, topic, groups)
        if kind == "documents":
            return chat(text)
        skills = [skill for group in groups for skill in sorted(group)]
        return chat(f"Which? {text}", ", ".join(skills))
    most = len(diet.request_skills)
    if kind == "requests":
        k = rng.choices(range(1, most + 1), diet.request_skills)[0]
        n = k
    else:
        n = rng.randint(1, diet.items)
        k = rng.randint(0, min(n, most))
    skills = drawn(rng, k, 1, diet.pairs_apart)[0] if k else []
    items = skills + [language.thing(rng, topic) for _ in range(n - k)]
    rng.shuffle(items)
    kept = []
    for item in items:
        if item not in skills or k == 1 or rng.random() < diet.kept:
            kept.append(item)
    limit = rng.randint(1, n)
    text = language.text(rng, topic, kept or items[:1], limit)
    return chat(request(topic, items, limit), f"Answer: {text}")


def chat(*turns: str) -> dict:
    """A row of training data: a user's turn, if there is one, and the assistant's."""
    roles = ("user", "assistant")[-len(turns) :]
    messages = []
    for role, content in zip(roles, turns, strict=True):
        messages.append({"role": role, "content": content})
    return {"messages": messages}


def prepare(diet: Diet, base: Path, work: Path) -> Path:
    """Write the rows, the base with random weights and the recipe of its training to `work`.

    Returns:
        The recipe's file, as `helpers.training.train` reads it: no import goes upwards.
    """
    seed = diet.recipe["seed"]
    rng = random.Random(seed)
    write_json_lines(work / "rows.jsonl", [row(rng, diet) for _ in range(diet.rows)])
    shutil.copytree(base, work / "random", dirs_exist_ok=True)
    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(base)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(work / "random")
    files = {"student": work / "random", "data": work / "rows.jsonl", "out": work}
    recipe = diet.recipe | {name: str(path) for name, path in files.items()}
    (work / "recipe.json").write_text(json.dumps(recipe))
    return work / "recipe.json"


def build(diet: Diet, base: Path, work: Path) -> None:
    """Train a base in `work` from random weights, and leave it where it was."""
    recipe = prepare(diet, base, work)
    launch = "accelerate.commands.launch --config_file params/accelerate/cpu1.yaml"
    script = ["-m", "helpers.training.train", str(recipe)]
    subprocess.run([sys.executable, "-m", *launch.split(), *script], check=True, cwd=ROOT)
    shutil.copytree(work / "model", base, dirs_exist_ok=True)  # its README.md stays


def main(*names: str) -> None:
    """Rebuild the bases of these names."""
    for name in names:
        build(load_diet(name), ROOT / "helpers/world/weights" / name, ROOT / "runs/base" / name)


if __name__ == "__main__":
    command(main)
