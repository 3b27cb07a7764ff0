"""The card of a fine-tuned model: the README.md in its folder that the hub shows."""

import functools
from pathlib import Path

import httpx2
import huggingface_hub
import yaml

from helpers import paths
from helpers.files import write_card
from helpers.profile.kinds import is_hub_name
from helpers.profile.schema import Finetune
from helpers.training import recipe
from helpers.training.hub import ANSWERS

CARD = """
# {variant}: `{student}`, fine-tuned to combine language skills

| | |
|---|---|
| Base model | `{student}`; licence: {base_licence} |
| Data | {data}; licence: {data_licence} |
| Training | {weights}, {steps:,} steps of {batch} texts, {warmup} of them warm-up to a learning \
rate of {learning_rate:g}, Adam, seed {training_seed} |
| Texts | {texts:,}, with {labelled:,} tokens to learn; {dropped:,} dropped, {cut:,} cut |
| Loss | {first:.3f} at the start, {last:.3f} at the end, in nats a token |

A reproduction of "Can Models Learn Skill Composition from Examples?" (Zhao et al., 2024).

## Results

{results}
"""


def write(p: Finetune, results: str = "Not graded yet.") -> None:
    """Write the card into the model's folder, if that is there still; an edited one stays."""
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
        results=results,
    )
    head = yaml.safe_dump(front, sort_keys=False)
    write_card(folder / "model/README.md", f"---\n{head}---\n{words}")


@functools.cache
def licence_of_base(student: str) -> str:
    """What its own card says, in its folder or on the hub."""
    if not is_hub_name(student):
        return licence(paths.ROOT / student)
    try:
        card = huggingface_hub.HfApi().model_info(student, timeout=ANSWERS).card_data
    except (OSError, ValueError, httpx2.HTTPError):
        return "unknown"
    return (card and card.license) or "unknown"


def licence(folder: Path) -> str:
    """What the front matter of the card in a folder says; "unknown" where it says nothing."""
    card = folder / "README.md"
    try:
        front = huggingface_hub.metadata_load(card) if card.exists() else None
    except ValueError:  # a front matter that is no mapping
        front = None
    return (front or {}).get("license", "unknown")
