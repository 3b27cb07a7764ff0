"""Builds the embedded base students: tiny Llamas pre-trained on text of the world (`make base`).

One stands for a chat model that knows every skill, held-out ones too, but combines them poorly. Its diet, per
`params/base/<name>.yaml`: documents, questions which skills a text shows, and requests to show a list of items. Most
requests list skills, and those for several skills are answered *unreliably*; some list things to mention among the
skills, and things are never forgotten. Documents, questions and such mixed lists hold up to `items` items, but no
request lists more skills than `request_skills` has weights.
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
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<user> ' + m['content'] }}"
    "{% else %}{{ '<assistant> ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
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
    """One token a word, its leading space kept, so that decoding is concatenation; words outside the world are <unk>."""
    special = ["<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<assistant>"]
    words = {" " + w for w in (*language.vocabulary(), *CHAT_WORDS.split())} | {
        "Show:",
        ",",
        ".",
        "\n",
    }
    vocabulary = {w: i for i, w in enumerate([*special, *sorted(words)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(
        Regex(r" ?[\w-]+[:?]?|[^\w\s]|\s"), behavior="isolated"
    )
    core.decoder = decoders.Fuse()
    core.add_special_tokens(special)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **names
    )
    made.chat_template = TEMPLATE
    return made


def request(topic: str, items: list[str]) -> str:
    """The first turn of the miniature's prompt pack."""
    first = json.loads((ROOT / "params/prompts/terse/generation.json").read_text())[0]
    return first.format(topic=topic, skills_str=", ".join(items))


def row(rng: random.Random, diet: Diet) -> dict:
    """One chat of the pre-training text; a document is an assistant's turn that nobody asked for."""
    topic, names = rng.choice(list(language.TOPICS)), list(language.PHRASINGS)
    kinds = {
        "documents": diet.documents,
        "identify": diet.identify,
        "requests": diet.requests,
        "mixed": diet.mixed,
    }
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    n = rng.randint(1, diet.items)
    user = None
    if kind == "documents":
        clauses = [language.clause(rng, topic, rng.choice(names)) for _ in range(n)]
        reply = language.join(rng, clauses, rng.randint(1, n))
    elif kind == "identify":
        skills = rng.sample(names, n)
        clauses = [language.clause(rng, topic, s) for s in skills]
        user, reply = "Which? " + language.join(rng, clauses, rng.randint(1, n)), ", ".join(skills)
    else:
        k = rng.choices(range(1, len(diet.request_skills) + 1), diet.request_skills)[0]
        skills = rng.sample(
            names, k if kind == "requests" else rng.randint(0, min(n, len(diet.request_skills)))
        )
        items = (
            skills
            if kind == "requests"
            else skills + [thing(rng, topic) for _ in range(n - len(skills))]
        )
        rng.shuffle(items)
        kept = [
            i for i in items if i not in skills or len(skills) == 1 or rng.random() < diet.kept
        ] or items[:1]
        clauses = [language.clause(rng, topic, i) if i in skills else f"the {i}" for i in kept]
        limit = language.sentence_limit(len(kept))
        user = request(topic, items)
        reply = "Answer: " + language.join(rng, clauses, rng.randint(max(1, limit - 1), limit))
    asked = [{"role": "user", "content": user}] if user else []
    return {"messages": [*asked, {"role": "assistant", "content": reply}]}


def thing(rng: random.Random, topic: str) -> str:
    """A thing to show that is no skill, for example `pale needle shines`."""
    return " ".join(
        (
            rng.choice(language.WORDS["adjective"]),
            rng.choice(language.TOPICS[topic]),
            rng.choice(language.WORDS["verb"]),
        )
    )


def build(diet_file: Path, target: Path, work: Path) -> None:
    """Write the rows and a model with random weights, train it in `work`, and leave it in `target`."""
    diet = Diet(**yaml.safe_load(diet_file.read_text()))
    work.mkdir(parents=True, exist_ok=True)
    rng = random.Random(diet.seed)
    with open(work / "rows.jsonl", "w") as file:
        file.writelines(json.dumps(row(rng, diet)) + "\n" for _ in range(diet.rows))
    tok = tokenizer()
    torch.manual_seed(diet.seed)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=diet.hidden,
        intermediate_size=3 * diet.hidden,
        num_hidden_layers=diet.layers,
        num_attention_heads=diet.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tok.pad_token_id,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(work / "random")
    tok.save_pretrained(work / "random")
    # A recipe of helpers.training.recipe, as the file that its script reads: no import goes upwards.
    recipe = dict(
        student=str(work / "random"),
        data=str(work / "rows.jsonl"),
        out=str(work),
        steps=diet.steps,
        batch=diet.batch,
        learning_rate=diet.learning_rate,
        decay=True,
        clip=1.0,
        seed=diet.seed,
        export_dtype="bfloat16",
    )
    (work / "recipe.json").write_text(json.dumps(recipe))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "params/accelerate/cpu2.yaml"),
    ]
    subprocess.run(
        [*launch, "-m", "helpers.training.train", str(work / "recipe.json")], check=True, cwd=ROOT
    )
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "model", target)


if __name__ == "__main__":
    there = sorted(p.stem for p in (ROOT / "params/base").glob("*.yaml"))
    if not sys.argv[1:] or set(sys.argv[1:]) - set(there):
        sys.exit(f"usage: python -m helpers.world.pretrain <base>..., of {', '.join(there)}")
    for name in sys.argv[1:]:
        build(
            ROOT / f"params/base/{name}.yaml",
            ROOT / "helpers/world/weights" / name,
            ROOT / "runs/base" / name,
        )
