"""Does a training fit this machine? Arithmetic from the architecture alone: memory, disk, floating-point operations.

Nothing here needs torch. The constants were fitted to published measurements of 7B and 13B models under FSDP2 and are
computed, not measured, for every other shape; they err on the large side.
"""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import psutil
import yaml

from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.training.recipe import Recipe

GB = 1e9
PEAKS = {  # bf16 operations a second without sparsity, from the makers' data sheets; the first name found in the device's counts
    **{
        "H200": 989e12,
        "H100 PCIe": 756e12,
        "H100": 989e12,
        "A100": 312e12,
        "L40S": 362e12,
        "L4": 121e12,
        "B200": 2250e12,
    },
    **{"RTX 5090": 210e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "A10": 125e12},
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What decides the size of a decoder with gated layers: Llama, Mistral, Qwen, SmolLM and their kin."""

    layers: int
    hidden: int
    inner: int  # of the gated layer
    queries: int  # heads x head size
    keys: int  # key-value heads x head size
    vocabulary: int
    tied: bool  # input and output embeddings are one

    @property
    def layer(self) -> int:
        """Weights of one layer: attention, gated layer, two norms."""
        return (
            2 * self.hidden * (self.queries + self.keys)
            + 3 * self.hidden * self.inner
            + 2 * self.hidden
        )

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def weights(self) -> int:
        return self.layers * self.layer + self.embeddings + self.hidden


def shape_of(config: dict) -> Shape:
    """From a model's `config.json`."""
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        inner=config["intermediate_size"],
        queries=heads * size,
        keys=(config.get("num_key_value_heads") or heads) * size,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def config_of(student: str) -> dict:
    """A student's `config.json`, from its folder or the hub.

    Raises:
        UserError: the hub does not give it.
    """
    if (Path(student) / "config.json").is_file():
        return json.loads((Path(student) / "config.json").read_text())
    from huggingface_hub import hf_hub_download  # only where a hub is asked

    try:
        return json.loads(Path(hf_hub_download(student, "config.json")).read_text())
    except Exception as e:
        why = (str(e).strip() or type(e).__name__).splitlines()[0]
        mend = "for a gated model accept its licence there and set HF_TOKEN"
        raise UserError(
            f"student = {student}: the hub does not give its config.json ({why}); {mend}"
        ) from None


def flops(shape: Shape, sizes: Sequence[int], labelled: int) -> float:
    """Operations of a step on texts of these token counts, forward and backward; recomputed activations do not count."""
    body = shape.layers * shape.layer * sum(sizes) + shape.vocabulary * shape.hidden * labelled
    attention = (
        shape.layers * shape.queries * sum(n * n for n in sizes)
    )  # causal: half of the square
    return 6.0 * (body + attention)


def peak_flops(device: str) -> float | None:
    """Of a device by its name; None if it is not in `PEAKS`."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


@dataclasses.dataclass(frozen=True)
class Topology:
    """What an accelerate YAML says of a training."""

    path: Path
    processes: int  # on one machine
    machines: int
    cpu: bool
    sharded: bool  # FSDP2
    regathers: bool  # a layer's weights for each pass, and frees them after it
    recomputes: bool  # activations in the backward pass
    precision: str  # of the computations; the weights are fp32


def read_topology(path: Path) -> Topology:
    """Processes on CPUs are told by the file's name: the launcher starts several of them only as MULTI_GPU."""
    said = yaml.safe_load(path.read_text())
    machines, fsdp = said.get("num_machines", 1), said.get("fsdp_config") or {}
    return Topology(
        path=path,
        processes=said.get("num_processes", 1) // machines,
        machines=machines,
        cpu=path.stem.startswith("cpu"),
        sharded=said.get("distributed_type") == "FSDP",
        regathers=bool(fsdp.get("fsdp_reshard_after_forward", True)),
        recomputes=bool(fsdp.get("fsdp_activation_checkpointing")),
        precision=str(said.get("mixed_precision", "no")),
    )


def needs(shape: Shape, recipe: Recipe, topology: Topology) -> dict[str, float]:
    """GB that one process needs, by part, and `disk` for the run's folder."""
    shards = topology.processes if topology.sharded else 1
    number = 4 if topology.cpu else 2  # bytes of an activation
    tokens = min(recipe.micro_tokens, recipe.batch * recipe.max_tokens)
    # Saved for the backward pass a token and layer: 16 vectors of the layer's width and 4 of the gated layer's.
    layer = (16 * shape.hidden + 4 * shape.inner) * number
    kept = (
        shape.layers * shape.hidden * number + layer
        if topology.recomputes
        else shape.layers * layer
    )
    gathered = 6 * shape.embeddings + 8 * shape.layer if topology.sharded else 0
    if not (topology.sharded and topology.regathers):
        gathered += 2 * shape.weights  # bf16 copies of all weights
    parts = {
        "weights, gradients, Adam": 16 * shape.weights / shards,  # fp32, four numbers a weight
        "working copies": gathered,
        "activations": tokens * kept,
        "logits": tokens
        * 14
        * shape.vocabulary,  # bf16, fp32, and fp32 gradient of each; every token counted as labelled
        "the process": 0.5 * GB if topology.cpu else 1.5 * GB,
    }
    # A new checkpoint beside the old one (fp32 weights and two moments each), and the final model.
    saves = recipe.save_every < recipe.steps or recipe.save_minutes > 0
    disk = shape.weights * ((24 if saves else 0) + (2 if recipe.export_dtype == "bfloat16" else 4))
    return {name: size / GB for name, size in {**parts, "disk": disk}.items()}


def devices(topology: Topology) -> list[float]:
    """GB of each GPU that this machine shows, or for a topology of CPU processes its free memory, once a process."""
    if topology.cpu:
        return [psutil.virtual_memory().available / GB / topology.processes] * topology.processes
    try:
        asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    seen = [float(line) * 2**20 / GB for line in said.split("\n") if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        seen
        if visible is None
        else seen[: len([name for name in visible.split(",") if name.strip()])]
    )


def memory(need: dict[str, float]) -> float:
    """GB a process, without the disk."""
    return sum(size for part, size in need.items() if part != "disk")


def misfit(shape: Shape, recipe: Recipe, topology: Topology) -> str | None:
    """Why the training does not fit here, or None."""
    there, need = devices(topology), needs(shape, recipe, topology)
    if len(there) < topology.processes:
        return f"it is for {topology.processes} GPUs, and this machine shows {len(there)}"
    host, room = 2 * shape.weights * topology.processes / GB, psutil.virtual_memory().available / GB
    if not topology.cpu and host > room:
        return f"its {topology.processes} processes load {host:,.1f} GB of weights into this machine's memory first, and {room:,.1f} are free"
    if memory(need) > min(there):
        return f"a process needs about {memory(need):,.1f} GB of memory, and there are {min(there):,.1f}"
    return None


def check(recipe: Recipe, topology_path: Path) -> None:
    """Does the training fit this machine?

    Raises:
        UserError: too few GPUs, too little memory or disk; one sentence with the nearest topology that fits, if any does.
    """
    topology, shape = read_topology(topology_path), shape_of(config_of(recipe.student))
    here = (
        sum(file.stat().st_size for file in Path(recipe.out).rglob("*") if file.is_file()) / GB
    )  # of a run that goes on
    need, free = (
        needs(shape, recipe, topology)["disk"],
        shutil.disk_usage(recipe.out).free / GB + here,
    )
    if need > free:
        raise UserError(
            f"{recipe.out}: checkpoints and model need about {need:,.1f} GB of disk, and {free:,.1f} are free; make room"
        )
    if not (why := misfit(shape, recipe, topology)):
        return
    others = [
        read_topology(path)
        for path in (ROOT / "params/accelerate").glob("*.yaml")
        if path.name != topology_path.name
    ]
    fitting = [t for t in others if t.machines == 1 and not misfit(shape, recipe, t)]
    near = min(
        fitting,
        key=lambda t: (t.cpu != topology.cpu, abs(t.processes - topology.processes)),
        default=None,
    )
    fewer = [m for m in (4096, 2048, 1024) if recipe.max_tokens <= m < recipe.micro_tokens]
    lean = next(
        (
            m
            for m in fewer
            if not misfit(shape, dataclasses.replace(recipe, micro_tokens=m), topology)
        ),
        None,
    )
    advice = (
        f"micro_tokens: {lean} fits"
        if lean
        else f"the nearest that fits is params/accelerate/{near.path.name}"
        if near
        else "no topology of params/accelerate fits either; take more or larger GPUs, or a smaller student"
    )
    raise UserError(f"topology = {topology_path.name}: {why}; {advice}")


def table(recipe: Recipe, topology: Topology) -> pd.DataFrame:
    """What the training needs by part, in GB, for a notebook."""
    need = needs(shape_of(config_of(recipe.student)), recipe, topology)
    rows = {**need, "memory of a process": memory(need)}
    return pd.DataFrame({"GB": pd.Series(rows).round(2)})
