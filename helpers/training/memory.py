"""Does a training fit this machine? Memory, disk and operations, by arithmetic from the shape.

Nothing here needs torch. The constants were fitted to published measurements of 7B and 13B models
under FSDP2. For every other shape the results are computed, not measured; they err on the large
side.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from helpers.errors import UserError
from helpers.training.hub import revision
from helpers.training.recipe import Recipe
from helpers.training.topology import Topology, read_topology

GB = 1e9
# bf16 operations a second, not sparse, from data sheets. The first that is in the device's name, as
# whole words, counts: an L40 is no L4.
PEAKS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "B200": 2250e12,
    "RTX 5090": 210e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "A10": 125e12,
}
# Logits whose loss is computed at once: 2,048 tokens of a vocabulary of 32,768.
CHUNK = 2**26
PROCESS = "memory of a process"

# The layers that `shape_of` takes, in transformers' names.
ATTENTION = {"attention", "full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Shape:
    """What decides the size of a decoder with gated layers: Llama, Mistral, Qwen, and their kin.

    Others are counted as if gated: a GPT-2 comes out a third too large.
    """

    layers: int
    hidden: int
    inner: int  # of the gated layer
    queries: int  # heads x head size
    keys: int  # key-value heads x head size
    vocabulary: int
    tied: bool  # input and output embeddings are one
    window: int | None  # tokens that a layer looks back at most; None: all

    @property
    def layer(self) -> int:
        """Weights of one layer: attention, gated layer, two norms."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        return attention + 3 * self.hidden * self.inner + 2 * self.hidden

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.hidden * (2 - self.tied)

    @property
    def weights(self) -> int:
        return self.layers * self.layer + self.embeddings + self.hidden

    def adapters(self, rank: int) -> int:
        """Weights of LoRA adapters of this rank on all matrices of all layers."""
        sides = 7 * self.hidden + 2 * self.queries + 2 * self.keys + 3 * self.inner
        return self.layers * rank * sides


def shape_of(config: dict) -> Shape:
    """The shape that a model's `config.json` describes.

    Raises:
        UserError: the model is no decoder whose layers all look back by attention.
    """
    if "num_attention_heads" not in config:
        config = standard(config)
    heads = config.get("num_attention_heads")
    if not heads or set(config.get("layer_types") or ()) - ATTENTION:
        raise UserError(
            f"a student of the kind {config.get('model_type')} cannot be trained here: all its "
            "layers have to be attention, as in Llama, Mistral, Qwen3, Gemma, Phi, OLMo or GPT-2"
        )
    hidden = config["hidden_size"]
    size = config.get("head_dim") or hidden // heads
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        inner=config.get("intermediate_size") or 4 * hidden,
        queries=heads * size,
        keys=(config.get("num_key_value_heads") or heads) * size,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings")),
        window=config.get("sliding_window"),
    )


def standard(config: dict) -> dict:
    """A configuration in the names that transformers has for all families: GPT-2 says `n_head`."""
    from transformers import AutoConfig  # loads torch, which the common families do not need

    try:
        described = AutoConfig.for_model(**config).get_text_config()
    except (ValueError, TypeError):  # a family that transformers does not know, or none
        return config
    common = {name: getattr(described, name) for name in described.attribute_map}
    return described.to_dict() | common


def config_of(student: str) -> dict:
    """A student's `config.json`, from its folder or the hub.

    Raises:
        UserError: the hub does not give it, or it is damaged.
    """
    path = Path(student) / "config.json"
    if not path.is_file():
        from huggingface_hub import hf_hub_download  # only where a hub is asked

        try:
            path = Path(hf_hub_download(student, "config.json", revision=revision(student)))
        except Exception as error:
            raise UserError(
                f"student = {student}: the hub does not give its config.json "
                f"({' '.join(str(error).split())}); for a gated model accept its licence there "
                "and set HF_TOKEN"
            ) from None
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"student = {student}: its config.json is damaged, no JSON object")
    return config


def flops(shape: Shape, sizes: Sequence[int], labelled: int) -> float:
    """Floating-point operations of a step on texts of these token counts.

    What is computed twice, to save memory, counts once.
    """
    body = shape.layers * shape.layer * sum(sizes) + shape.vocabulary * shape.hidden * labelled
    squares = sum(n * n for n in sizes)  # causal: half of each square
    return 6.0 * (body + shape.layers * shape.queries * squares)


def mfu(speed: float, device: str) -> float | None:
    """The share that this many operations a second are of a device's; None if not in `PEAKS`."""
    for name, peak in PEAKS.items():
        if re.search(rf"\b{name}\b(?! Laptop)", device):
            return round(speed / peak, 4)
    return None


def exported(shape: Shape, recipe: Recipe) -> int:
    """Bytes of the final model."""
    return shape.weights * (2 if recipe.export_dtype == "bfloat16" else 4)


def needs(shape: Shape, recipe: Recipe, topology: Topology) -> dict[str, float]:
    """GB of memory that one process needs, by part and in all (`PROCESS`).

    `disk` is what the run's folder needs on disk, in GB.
    """
    number = 4 if topology.cpu else 2  # bytes of an activation
    tokens = min(recipe.micro_tokens, recipe.batch * recipe.max_tokens)
    # Saved a token and layer for the backward pass: 16 x the layer's width, 4 x the gated one's.
    layer = (16 * shape.hidden + 4 * shape.inner) * number
    activations = shape.layers * layer
    if topology.recomputes:
        activations = shape.layers * shape.hidden * number + layer
    trained, frozen, copies = shape.weights, 0, 8  # copies: bf16 of two layers, a gradient in fp32
    if recipe.lora:  # what is not trained has no gradient
        trained = shape.adapters(recipe.lora["rank"])
        frozen = (number if recipe.precision == "bf16" else 4) * shape.weights
        copies = 4
    gathered = copies * (shape.layer + shape.embeddings) * topology.sharded
    if not topology.regathers if topology.sharded else not recipe.lora:
        gathered += 2 * shape.weights  # bf16 copies of all weights
    logits = tokens * shape.vocabulary  # every token counted as labelled
    parts = {
        # Trained: weight, gradient, two moments, all fp32.
        "weights, gradients, Adam": (16 * trained + frozen)
        / (topology.processes if topology.sharded else 1),
        "working copies": gathered,
        "activations": tokens * activations,
        # bf16, and its gradient in parts and whole; in fp32 of one chunk.
        "logits": 6 * logits + 8 * min(logits, CHUNK),
        "the process": 0.5 * GB if topology.cpu else 1.5 * GB,
    }
    # A new checkpoint beside the old one (fp32 weights and two moments each), and the final model.
    saves = recipe.save_every < recipe.steps or recipe.save_minutes > 0
    sizes = {
        **parts,
        "disk": exported(shape, recipe) + 24 * trained * saves,
        PROCESS: sum(parts.values()),
    }
    return {name: size / GB for name, size in sizes.items()}


def devices(topology: Topology) -> list[float]:
    """GB of each GPU that this machine shows; of CPU processes each one's share of free memory."""
    if topology.cpu:
        return [psutil.virtual_memory().available / GB / topology.processes] * topology.processes
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    sizes = [float(line) * 2**20 / GB for line in answer.stdout.split()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sizes
    return sizes[: len(visible.replace(",", " ").split())]


def misfit(shape: Shape, recipe: Recipe, topology: Topology) -> str | None:
    """Why the training does not fit here, or None."""
    sizes = devices(topology)
    if len(sizes) < topology.processes:
        return f"it is for {topology.processes} GPUs, and this machine shows {len(sizes)}"
    need = needs(shape, recipe, topology)[PROCESS]
    if need > min(sizes):
        return f"a process needs about {need:,.1f} GB of memory, and there are {min(sizes):,.1f}"
    return None


def check(recipe: Recipe, topology_path: Path, models: int = 1) -> None:
    """Does the training fit this machine?

    Args:
        models: how many are still to be trained, this one among them. Each stays on disk; its
            checkpoints do not.

    Raises:
        UserError: it does not fit, or the student cannot be trained here.
    """
    topology = read_topology(topology_path)
    shape = shape_of(config_of(recipe.student))
    if shape.window and shape.window < recipe.max_tokens:
        raise UserError(
            f"student = {recipe.student}: some of its layers look back {shape.window} tokens only, "
            f"which is not supported for longer texts; lower chat_tokens (now {recipe.max_tokens})"
        )
    need = needs(shape, recipe, topology)["disk"] + (models - 1) * exported(shape, recipe) / GB
    held = sum(file.stat().st_size for file in Path(recipe.out).rglob("*"))
    free = (shutil.disk_usage(recipe.out).free + held) / GB  # a run that goes on holds some of it
    if need > free:
        raise UserError(
            f"{recipe.out}: checkpoints and models need about {need:,.1f} GB of disk, and "
            f"{free:,.1f} are free; make room"
        )
    if why := misfit(shape, recipe, topology):
        raise UserError(
            f"topology = {topology_path.name}: {why}; take another of params/accelerate, lower "
            "micro_tokens, or set lora"
        )


def table(recipe: Recipe, topology: Topology) -> pd.DataFrame:
    """What the training needs by part, in GB, for a notebook."""
    need = needs(shape_of(config_of(recipe.student)), recipe, topology)
    return pd.DataFrame({"GB": pd.Series(need).round(2)})
