"""How a model lies on its processes (one, DDP, FSDP2), its checkpoints, and the final folder.

The launcher's YAML chooses the layout; it reaches this module through the environment that `accelerate launch` sets.
"""

import json
import os
import re
import resource
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import PartialState
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.training.recipe import Recipe

# Layout.


def flag(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() == "true"


def computes_in_bf16(state: PartialState) -> bool:
    """bf16 as the topology asks; on a CPU only where it has the instructions, since elsewhere it is slower than fp32."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "bf16"
    return asked and (state.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported())


def lay_out(model, state: PartialState, mixed: bool):
    """The model on its device(s). Master weights are fp32: in pure bf16 an update of 2e-5 moves three weights in ten."""
    if not flag("ACCELERATE_USE_FSDP"):
        model = model.float().to(state.device)
        if state.num_processes == 1:
            return model
        devices = [state.device.index] if state.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True
        )
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        CheckpointImpl,
        checkpoint_wrapper,
    )
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    local = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    nodes = state.num_processes // local  # several machines: shard inside one, replicate across
    shape, names = ((nodes, local), ("replicate", "shard")) if nodes > 1 else ((local,), ("shard",))
    options = {
        "mesh": dist.init_device_mesh(state.device.type, shape, mesh_dim_names=names),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        if mixed
        else MixedPrecisionPolicy(),
        "reshard_after_forward": flag("FSDP_RESHARD_AFTER_FORWARD", "true"),
        "offload_policy": CPUOffloadPolicy() if flag("FSDP_OFFLOAD_PARAMS") else OffloadPolicy(),
    }
    layers = model.model.layers
    for i, layer in enumerate(layers):
        layer.float()
        if flag("FSDP_ACTIVATION_CHECKPOINTING"):
            layer = layers[i] = checkpoint_wrapper(
                layer, CheckpointImpl.NO_REENTRANT, preserve_rng_state=False
            )
        fully_shard(layer, **options)
    fully_shard(model.float(), **options)
    return model.to(state.device)


def unsynced(model, last: bool):
    """DDP reduces gradients once a step. FSDP2 must do so each time: kept whole they cost 52 GB a GPU at 13B."""
    ddp = isinstance(model, torch.nn.parallel.DistributedDataParallel)
    return model.no_sync() if ddp and not last else nullcontext()


def whole(norm: torch.Tensor) -> float:
    """The gradient's norm as a number; FSDP2 holds it in parts."""
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def peak_memory(device: torch.device) -> float:
    """GB that this process took at most so far, on its GPU, or in all on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
        / 1e9
    )


# Checkpoints: torch's distributed format for every layout, written aside and then renamed.


def checkpoints(out: Path) -> list[int]:
    """Steps with a whole checkpoint, newest first."""
    found = (re.fullmatch(r"step-(\d+)", p.name) for p in out.glob("step-*"))
    return sorted((int(m[1]) for m in found if m), reverse=True)


def save_checkpoint(
    out: Path, model, optimizer, step: int, identity: str, state: PartialState
) -> None:
    """Write `step-N`; only then remove older ones."""
    aside = out / f"step-{step}.tmp"
    if state.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
    state.wait_for_everyone()
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=str(aside))
    if state.is_main_process:
        (aside / "meta.json").write_text(json.dumps({"step": step, "identity": identity}))
        shutil.rmtree(out / f"step-{step}", ignore_errors=True)
        aside.rename(out / f"step-{step}")
        remove_checkpoints(out, but=step)
    state.wait_for_everyone()


def newest_checkpoint(out: Path, identity: str, state: PartialState) -> int:
    """The step of the newest checkpoint of this run, 0 if there is none; checkpoints of another run are removed."""
    identities = {
        n: json.loads((out / f"step-{n}/meta.json").read_text())["identity"]
        for n in checkpoints(out)
    }
    ours = [n for n, made_by in identities.items() if made_by == identity]
    state.wait_for_everyone()  # all have looked before the first removes anything
    if state.is_main_process:
        remove_checkpoints(out, but=ours[0] if ours else 0)
    return ours[0] if ours else 0


def remove_checkpoints(out: Path, *, but: int = 0) -> None:
    for old in checkpoints(out):
        if old != but:
            shutil.rmtree(out / f"step-{old}")
    for half in out.glob("step-*.tmp"):  # a kill in the middle of a save
        shutil.rmtree(half)


def load_checkpoint(path: Path, model, optimizer) -> None:
    weights, moments = get_state_dict(model, optimizer)
    loaded = {"model": weights, "optimizer": moments}
    dcp.load(loaded, checkpoint_id=str(path))
    set_state_dict(
        model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
    )


def export(
    path: Path, model, tokenizer, state: PartialState, recipe: Recipe, identity: str
) -> None:
    """Write an ordinary `transformers` folder, aside and then renamed."""
    weights = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if state.is_main_process:
        trained = getattr(model, "module", model)
        if trained.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)  # FSDP2 gathers a tied weight twice
        dtype = getattr(torch, recipe.export_dtype)
        config = AutoConfig.from_pretrained(recipe.student)
        config.dtype = dtype
        with torch.device("meta"):
            shell = AutoModelForCausalLM.from_config(config)
        shell.generation_config = trained.generation_config
        aside = path.with_name(path.name + ".tmp")
        shutil.rmtree(aside, ignore_errors=True)
        shell.save_pretrained(aside, state_dict={name: w.to(dtype) for name, w in weights.items()})
        tokenizer.save_pretrained(aside)
        (aside / "identity.json").write_text(json.dumps({"identity": identity}))
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    state.wait_for_everyone()
