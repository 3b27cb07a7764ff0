"""The card of a fine-tuned model: the README.md in its folder that the hub shows."""

import functools
import itertools
from pathlib import Path

import httpx2
import huggingface_hub
import yaml

from helpers import paths
from helpers.errors import UserError
from helpers.files import read_json_lines, write_card
from helpers.profile.schema import Finetune
from helpers.profile.value_types import is_hub_name
from helpers.task.mixes import in_words
from helpers.training import recipe
from helpers.training.hub import ANSWERS


def write(p: Finetune, results: str = "Not graded yet.") -> None:
    """Write the card, from `model_card.md`, into the model's folder, if that is there still.

    One that somebody has edited stays.
    """
    folder = paths.training(p.profile, p.variant)
    if not (folder / "model").is_dir():
        return
    chats = p.mix.get("chats", "")
    if chats:
        data, data_licence = f"chats of `{chats}`", "unknown"
    else:
        data = ", ".join(in_words(kind, amount) for kind, amount in p.mix.items())
        data_licence = licence(paths.dataset(p.profile))
    base_licence = licence_of_base(p.student)
    front = huggingface_hub.ModelCardData(
        license=base_licence if base_licence == data_licence else "unknown",
        language=["en"],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["skill-mix"],
        base_model=p.student if is_hub_name(p.student) else None,
        datasets=[chats] if is_hub_name(chats) else None,
    )
    card = huggingface_hub.ModelCard.from_template(
        front,
        template_path=Path(__file__).with_suffix(".md"),
        p=p,
        base_licence=base_licence,
        data_licence=data_licence,
        data=data,
        # Somebody's own chats are theirs to show.
        asked=[{"role": "user", "content": "..."}] if chats else first_request(folder),
        loss=[row["loss"] for row in recipe.read_log(folder)],
        results=results,
        **recipe.facts(folder),
    )
    write_card(folder / "model/README.md", str(card))


def first_request(folder: Path) -> list[dict]:
    """What comes before the first answer in the first chat that a training was of.

    Raises:
        UserError: the chats are gone.
    """
    chats = folder / "chats.jsonl"
    if not chats.exists():
        raise UserError(
            f"{chats}: gone; remove the executed 02_finetune of {folder.name}, and make reproduce"
            " writes it again"
        )
    messages = read_json_lines(chats, "02_finetune")[0]["messages"]
    return list(itertools.takewhile(lambda message: message["role"] != "assistant", messages))


@functools.cache
def licence_of_base(student: str) -> str:
    """The licence that a base model's own card states, in its folder or on the hub."""
    if not is_hub_name(student):
        return licence(paths.ROOT / student)
    try:
        card = huggingface_hub.HfApi().model_info(student, timeout=ANSWERS).card_data
    except (OSError, ValueError, httpx2.HTTPError):
        return "unknown"
    return (card and card.license) or "unknown"


def licence(folder: Path) -> str:
    """The licence that the card in a folder states in its front matter, or "unknown"."""
    card = folder / "README.md"
    try:
        front = huggingface_hub.metadata_load(card) if card.exists() else None
    except (ValueError, yaml.YAMLError):  # a front matter that is no mapping, or no YAML
        front = None
    return (front or {}).get("license", "unknown")
