"""The card of a fine-tuned model: the README.md in its folder that the hub shows."""

from pathlib import Path

import huggingface_hub
import yaml

from helpers import paths
from helpers.files import write_card
from helpers.profile.kinds import is_hub_name
from helpers.profile.schema import Finetune, Plot
from helpers.results import scores
from helpers.results.findings import markdown
from helpers.training import recipe
from helpers.training.hub import revision

CARD = """
# {variant}: `{student}`, fine-tuned to combine language skills

| | |
|---|---|
| Base model | `{student}`; licence: {base_licence} |
| Data | {data}; licence: {data_licence} |
| Training | {weights}, {steps:,} steps of {batch} texts, {warmup} of them warm-up to a learning \
rate of {learning_rate:g}, Adam, seed {training_seed} |
| Texts seen | {texts:,}, with {labelled:,} tokens to learn; {dropped:,} dropped, {cut:,} cut |
| Loss | {first:.3f} at the start, {last:.3f} at the end, in nats a token |

A reproduction of "Can Models Learn Skill Composition from Examples?" (Zhao et al., 2024).

## Results

{results}
"""

RESULTS = """This model, with one training seed, beside its base: {caption}. The ratio of answers \
with full marks by number of skills k, on training skills and topics (setting I), held-out ones \
(II) or all (III), as a judge graded them. The score of a query is its {over_generations} over \
{generations} answers, with its 95% interval; after the stroke the mean of single answers.

{table}"""


def write(p: Finetune, graded: Plot | None = None) -> None:
    """Write the card into the model's folder, if that is there still; an edited one stays.

    Args:
        graded: what the results are drawn with; without it the card says that there are none yet.
    """
    folder = paths.training(p.profile, p.variant)
    if not (folder / "model").is_dir():
        return
    log = [row["loss"] for row in recipe.read_log(folder)]
    base_licence, data_licence = licence_of_base(p.student), "unknown"
    if "chats" in p.mix:
        data = f"chats of `{p.mix['chats']}`"
    else:
        data = ", ".join(f"{n:,} texts of k = {k}" for k, n in p.mix.items())
        data_licence = licence(paths.dataset(p.profile))
    front = {
        "license": base_licence if base_licence == data_licence else "unknown",
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["skill-mix"],
    }
    if is_hub_name(p.student):
        front["base_model"] = p.student
    if "split" in p.mix and is_hub_name(p.mix["chats"]):
        front["datasets"] = [p.mix["chats"]]
    words = CARD.format(
        **p.model_dump() | recipe.facts(folder),
        base_licence=base_licence,
        data_licence=data_licence,
        data=data,
        weights=f"LoRA adapters of rank {p.lora.rank}, merged" if p.lora else "all weights",
        first=sum(log[:5]) / len(log[:5]),
        last=sum(log[-5:]) / len(log[-5:]),
        results=results(p, graded) if graded else "Not graded yet.",
    )
    head = yaml.safe_dump(front, sort_keys=False)
    write_card(folder / "model/README.md", f"---\n{head}---\n{words}")


def results(p: Finetune, graded: Plot) -> str:
    """The scores of this model and of its base, from the run's `scores.csv`."""
    table = scores.read_csv(paths.ROOT / graded.figures / "scores.csv")
    model = p.variant.rpartition("-s")[0]
    base = scores.name_of(scores.student_of(model), "base")
    is_ours = (table.model == model) & (table.seed == p.training_seed)
    rows = table[is_ours | (table.model == base)]
    summary = scores.summary(rows, over_generations=graded.over_generations)
    return RESULTS.format(
        caption=graded.caption,
        over_generations=graded.over_generations,
        generations=summary.generations.max(),
        table=markdown(scores.spread(summary)),
    )


def licence_of_base(student: str) -> str:
    """What its own card says, in its folder or on the hub."""
    if not is_hub_name(student):
        return licence(paths.ROOT / student)
    try:
        card = huggingface_hub.hf_hub_download(student, "README.md", revision=revision(student))
    except Exception:  # no network, no card
        return "unknown"
    return licence(Path(card).parent)


def licence(folder: Path) -> str:
    """What the front matter of the card in a folder says; "unknown" where it says nothing."""
    card = folder / "README.md"
    try:
        front = huggingface_hub.metadata_load(card) if card.exists() else None
    except ValueError:  # a front matter that is no mapping
        front = None
    return (front or {}).get("license", "unknown")
