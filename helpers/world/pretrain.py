"""Builds the embedded base students: tiny Llamas pre-trained on text of the world (`make base`).

One stands for a chat model that knows every skill, held-out ones too, but combines them poorly. Its
diet, per `params/base/<name>.yaml`: documents, questions which skills a text shows, and requests to
show a list of items. Most requests list skills, and those for several skills are answered
*unreliably*; some list things to mention among the skills, and things are never forgotten.
Documents, questions and such mixed lists hold up to `items` items, but no request lists more skills
than `request_skills` has weights.
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
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from helpers.paths import ROOT
from helpers.world import language

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<user> ' + m['content'] }}"
    "{% else %}{{ '<assistant> ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SKILLS = list(language.PHRASINGS)
# The words of the miniature's prompts and replies, beside those of its texts.
CHAT_WORDS = "Topic: Answer: Which? Improve it: show every skill stay on topic use at most"
CHAT_WORDS += " one two three four five six seven sentence sentences"


@dataclasses.dataclass(frozen=True)
class Diet:
    """What the base is made of and from; one YAML in `params/base/` holds one."""

    documents: float  # shares of the four kinds of rows
    identify: float
    requests: float  # of skills only
    mixed: float  # requests of skills and things
    request_skills: list[float]  # weight of requests for 1, 2, ... skills
    kept: float  # probability that an asked skill is in the answer, where more than one is asked
    items: int  # most clauses of a document, skills to identify, items of a mixed request
    rows: int
    hidden: int
    layers: int
    heads: int
    steps: int
    batch: int
    learning_rate: float
    seed: int


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, its leading space kept, so that decoding is concatenation.

    Words outside of the world are <unk>.
    """
    special = ["<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<assistant>"]
    words = {" " + word for word in (*language.vocabulary(), *CHAT_WORDS.split())}
    words |= {"Show:", ",", ".", "\n"}
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(
        Regex(r" ?[\w-]+[:?]?|[^\w\s]|\s"), behavior="isolated"
    )
    core.decoder = decoders.Fuse()
    core.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
    made.chat_template = TEMPLATE
    return made


def request(topic: str, items: list[str]) -> str:
    """The first turn of the miniature's prompt pack."""
    first = json.loads((ROOT / "params/prompts/terse/generation.json").read_text())[0]
    return first.format(topic=topic, skills_str=", ".join(items))


def row(rng: random.Random, diet: Diet) -> dict:
    """One chat of the pre-training text; a document is an assistant's turn without a user's."""
    topic = rng.choice(list(language.TOPICS))
    kinds = ["documents", "identify", "requests", "mixed"]
    kind = rng.choices(kinds, [getattr(diet, kind) for kind in kinds])[0]
    n = rng.randint(1, diet.items)
    if kind == "documents":
        clauses = [language.clause(rng, topic, rng.choice(SKILLS)) for _ in range(n)]
        return chat(None, language.join(rng, clauses, rng.randint(1, n)))
    if kind == "identify":
        skills = rng.sample(SKILLS, n)
        clauses = [language.clause(rng, topic, skill) for skill in skills]
        text = language.join(rng, clauses, rng.randint(1, n))
        return chat("Which? " + text, ", ".join(skills))
    most = len(diet.request_skills)
    k = rng.choices(range(1, most + 1), diet.request_skills)[0]
    if kind == "mixed":
        k = rng.randint(0, min(n, most))
    skills = rng.sample(SKILLS, k)
    items = list(skills)
    if kind == "mixed":
        items += [language.thing(rng, topic) for _ in range(n - k)]
    rng.shuffle(items)
    kept = []
    for item in items:
        if item not in skills or k == 1 or rng.random() < diet.kept:
            kept.append(item)
    return chat(request(topic, items), "Answer: " + language.text(rng, topic, kept or items[:1]))


def chat(user: str | None, reply: str) -> dict:
    """A row of training data; without a user's turn where there is none."""
    turns = [{"role": "user", "content": user}] if user else []
    return {"messages": [*turns, {"role": "assistant", "content": reply}]}


def build(diet_file: Path, target: Path, work: Path) -> None:
    """Write the rows and a model with random weights, train it in `work`, leave it in `target`."""
    diet = Diet(**yaml.safe_load(diet_file.read_text()))
    work.mkdir(parents=True, exist_ok=True)
    rng = random.Random(diet.seed)
    with open(work / "rows.jsonl", "w") as file:
        for _ in range(diet.rows):
            file.write(json.dumps(row(rng, diet)) + "\n")
    words = tokenizer()
    torch.manual_seed(diet.seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=diet.hidden,
        intermediate_size=3 * diet.hidden,
        num_hidden_layers=diet.layers,
        num_attention_heads=diet.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(work / "random")
    words.save_pretrained(work / "random")
    # A Recipe of helpers.training, as the file that its script reads: no import goes upwards.
    recipe = {
        "student": str(work / "random"),
        "data": str(work / "rows.jsonl"),
        "out": str(work),
        "steps": diet.steps,
        "batch": diet.batch,
        "learning_rate": diet.learning_rate,
        "decay": True,
        "clip": 1.0,
        "seed": diet.seed,
        "export_dtype": "bfloat16",
    }
    (work / "recipe.json").write_text(json.dumps(recipe))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    topology = str(ROOT / "params/accelerate/cpu2.yaml")
    script = ["-m", "helpers.training.train", str(work / "recipe.json")]
    subprocess.run([*launcher, topology, *script], check=True, cwd=ROOT)
    shutil.copytree(work / "model", target, dirs_exist_ok=True)  # its README.md stays


def main(names: list[str]) -> None:
    """Rebuild the bases of these names."""
    known = sorted(path.stem for path in (ROOT / "params/base").glob("*.yaml"))
    if not names or set(names) - set(known):
        sys.exit(f"usage: python -m helpers.world.pretrain <base>..., of {', '.join(known)}")
    for name in names:
        diet = ROOT / f"params/base/{name}.yaml"
        build(diet, ROOT / "helpers/world/weights" / name, ROOT / "runs/base" / name)


if __name__ == "__main__":
    main(sys.argv[1:])
