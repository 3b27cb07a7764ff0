"""How a model lies on its processes (one, DDP, FSDP2), its checkpoints, and the final folder.

The topology's YAML chooses the layout; it comes here through the environment that
`accelerate launch`, or for one process `helpers.training.launch`, sets.
"""

import os
import resource
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM

from helpers.errors import UserError
from helpers.training.hub import revision
from helpers.training.recipe import Recipe, note_identity, read_json, write_json

# Layout.


def is_sharded() -> bool:
    """Whether the topology wants FSDP2."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def computes_in_bf16(state: PartialState) -> bool:
    """Whether the topology wants bf16, and the processor has it: on a CPU, instructions for it.

    Without them bf16 is slower than fp32.
    """
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "bf16":
        return False
    return state.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


def layers(model) -> dict[str, torch.nn.Module]:
    """The model's layers by name: what transformers calls the modules that stay on one device."""
    kinds = model._no_split_modules
    return {name: m for name, m in model.named_modules() if type(m).__name__ in kinds}


def adapted(model, lora: dict):
    """The model with LoRA adapters in fp32 beside its matrices; they alone are trained.

    Raises:
        UserError: `target` names no matrix of this model.
    """
    from peft import LoraConfig, get_peft_model  # 3 s, for those who need it

    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["target"])
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"lora: target = {lora['target']} does not fit: {error}") from None


def lay_out(model, state: PartialState, mixed: bool):
    """The model on its device(s).

    Master weights are fp32: in pure bf16 an update of 2e-5 moves three weights in ten.
    """
    if not is_sharded():
        model = masters(model).to(state.device)
        if state.num_processes > 1:
            model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return model
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    local = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    shape, names = (local,), ("shard",)
    if state.num_processes > local:  # shard inside a machine, replicate across
        shape, names = (state.num_processes // local, local), ("replicate", "shard")
    options = {
        "mesh": dist.init_device_mesh(state.device.type, shape, mesh_dim_names=names),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16 if mixed else None, torch.float32),
        "reshard_after_forward": parse_flag_from_env("FSDP_RESHARD_AFTER_FORWARD", True),
    }
    for name, layer in layers(model).items():
        masters(layer)
        if parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING"):
            layer = checkpoint_wrapper(layer, preserve_rng_state=False)
            model.set_submodule(name, layer)
        fully_shard(layer, **options)
    fully_shard(masters(model), **options)
    return model.to(state.device)


def masters(module: torch.nn.Module) -> torch.nn.Module:
    """What is trained, in fp32; what is frozen stays as it is."""
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return module


def peak_memory(device: torch.device) -> float:
    """GB that this process took at most so far, on its GPU, or in all on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# Checkpoints: torch's distributed format for every layout, written aside and then renamed.

# A checkpoint holds what is trained: of LoRA the adapters alone, hence no strict look for the rest.
TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


def checkpoints(out: Path) -> list[int]:
    """Steps with a whole checkpoint."""
    return [int(path.name.removeprefix("step-")) for path in out.glob("step-*[0-9]")]


def save_checkpoint(
    out: Path, model, optimizer, step: int, identity: str, state: PartialState
) -> None:
    """Write `step-N`; only then remove older ones."""
    aside = out / f"step-{step}.tmp"
    weights, moments = get_state_dict(model, optimizer, options=TRAINED)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=aside)
    if state.is_main_process:
        write_json(aside / "meta.json", {"step": step, "identity": identity})
        aside.rename(out / f"step-{step}")
        remove_checkpoints(out, but=step)


def newest_checkpoint(out: Path, identity: str, state: PartialState) -> int:
    """The step of this run's newest checkpoint, 0 if there is none; those of others are removed."""
    ours = 0
    for step in checkpoints(out):
        if read_json(out / f"step-{step}/meta.json").get("identity") == identity:
            ours = max(ours, step)
    state.wait_for_everyone()  # all have looked before the first removes anything
    if state.is_main_process:
        remove_checkpoints(out, but=ours)
    return ours


def remove_checkpoints(out: Path, *, but: int = 0) -> None:
    """Also what a kill in the middle of a save left."""
    for old in out.glob("step-*"):
        if old.name != f"step-{but}":
            shutil.rmtree(old)


def load_checkpoint(path: Path, model, optimizer) -> None:
    weights, moments = get_state_dict(model, optimizer, options=TRAINED)
    loaded = {"model": weights, "optimizer": moments}
    dcp.load(loaded, checkpoint_id=path)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optimizer"],
        options=TRAINED,
    )


# The final folder.


def export(
    path: Path, model, tokenizer, state: PartialState, recipe: Recipe, identity: str
) -> None:
    """Write an ordinary `transformers` folder, aside and then renamed.

    Adapters are added to the weights, and kept beside the folder as well. Of a folder that is
    there already the card stays.
    """
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=bool(recipe.lora)
    )
    weights = get_model_state_dict(model, options=options)
    if state.is_main_process:
        adapter = path.with_name("adapter")
        aside = path.with_name("model.tmp")
        for old in (adapter, aside):  # of an earlier run, or a half one
            shutil.rmtree(old, ignore_errors=True)
        dtype = getattr(torch, recipe.export_dtype)
        source = recipe.student
        student = AutoModelForCausalLM.from_pretrained(
            source, dtype="auto" if recipe.lora else dtype, revision=revision(source)
        )
        if recipe.lora:
            student = adapted(student, recipe.lora)
        student.load_state_dict(weights, strict=not recipe.lora)
        if recipe.lora:
            student.save_pretrained(adapter, save_embedding_layers=False)
            student = student.merge_and_unload()
        student.to(dtype).save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        note_identity(aside, identity)
        card = path / "README.md"  # somebody may have edited it, and else it is written again
        if card.exists():
            shutil.copy(card, aside)
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    state.wait_for_everyone()
