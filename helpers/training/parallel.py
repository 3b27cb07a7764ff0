"""How a model lies on its processes (one, DDP, FSDP2), its checkpoints, and the final folder.

The launcher's YAML chooses the layout; it comes here through the environment that
`accelerate launch` sets.
"""

import os
import resource
import shutil
import sys
from contextlib import nullcontext
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
from transformers import AutoConfig, AutoModelForCausalLM

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
        if state.num_processes == 1:
            return model
        devices = [state.device.index] if state.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    from torch.distributed.algorithms._checkpoint import checkpoint_wrapper as recompute
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    local = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    machines = state.num_processes // local
    shape, names = (local,), ("shard",)
    if machines > 1:  # shard inside one, replicate across
        shape, names = (machines, local), ("replicate", "shard")
    policy = MixedPrecisionPolicy()
    if mixed:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    options = {
        "mesh": dist.init_device_mesh(state.device.type, shape, mesh_dim_names=names),
        "mp_policy": policy,
        "reshard_after_forward": parse_flag_from_env("FSDP_RESHARD_AFTER_FORWARD", True),
    }
    for name, layer in layers(model).items():
        masters(layer)
        if parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING"):
            layer = recompute.checkpoint_wrapper(
                layer, recompute.CheckpointImpl.NO_REENTRANT, preserve_rng_state=False
            )
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


def unsynced(model, last: bool):
    """Whether processes exchange gradients in this backward pass.

    DDP does so once a step. FSDP2 must each time: kept whole they cost 52 GB a GPU at 13B.
    """
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def whole(norm: torch.Tensor) -> float:
    """The gradient's norm as a number; FSDP2 holds it in parts."""
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


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
    steps = [path.name.removeprefix("step-") for path in out.glob("step-*")]
    return [int(step) for step in steps if step.isdecimal()]


def save_checkpoint(
    out: Path, model, optimizer, step: int, identity: str, state: PartialState
) -> None:
    """Write `step-N`; only then remove older ones."""
    aside = out / f"step-{step}.tmp"
    if state.is_main_process:
        shutil.rmtree(aside, ignore_errors=True)
    state.wait_for_everyone()
    weights, moments = get_state_dict(model, optimizer, options=TRAINED)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=str(aside))
    if state.is_main_process:
        write_json(aside / "meta.json", {"step": step, "identity": identity})
        shutil.rmtree(out / f"step-{step}", ignore_errors=True)
        aside.rename(out / f"step-{step}")
        remove_checkpoints(out, but=step)
    state.wait_for_everyone()


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
    for old in checkpoints(out):
        if old != but:
            shutil.rmtree(out / f"step-{old}")
    for half in out.glob("step-*.tmp"):  # a kill in the middle of a save
        shutil.rmtree(half)


def load_checkpoint(path: Path, model, optimizer) -> None:
    weights, moments = get_state_dict(model, optimizer, options=TRAINED)
    loaded = {"model": weights, "optimizer": moments}
    dcp.load(loaded, checkpoint_id=str(path))
    set_state_dict(
        model,
        optimizer,
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optimizer"],
        options=TRAINED,
    )


# The final folder.


def merged(adapters: dict, recipe: Recipe, folder: Path) -> dict:
    """All weights of the student, with its adapters added; these are kept in `folder` as well."""
    student = AutoModelForCausalLM.from_pretrained(
        recipe.student, dtype="auto", revision=revision(recipe.student)
    )
    model = adapted(student, recipe.lora)
    model.load_state_dict(adapters, strict=False)
    model.save_pretrained(folder, save_embedding_layers=False)
    return model.merge_and_unload().state_dict()


def export(
    path: Path, model, tokenizer, state: PartialState, recipe: Recipe, identity: str
) -> None:
    """Write an ordinary `transformers` folder, aside and then renamed."""
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=bool(recipe.lora)
    )
    weights = get_model_state_dict(model, options=options)
    if state.is_main_process:
        trained = getattr(model, "module", model)
        adapter = path.with_name("adapter")
        shutil.rmtree(adapter, ignore_errors=True)  # of an earlier run
        if recipe.lora:
            weights = merged(weights, recipe, adapter)
        if trained.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)  # FSDP2 gathers a tied weight twice
        dtype = getattr(torch, recipe.export_dtype)
        config = AutoConfig.from_pretrained(recipe.student, revision=revision(recipe.student))
        config.dtype = dtype
        with torch.device("meta"):
            shell = AutoModelForCausalLM.from_config(config)
        shell.generation_config = trained.generation_config
        aside = path.with_name(path.name + ".tmp")
        shutil.rmtree(aside, ignore_errors=True)
        shell.save_pretrained(aside, state_dict={name: w.to(dtype) for name, w in weights.items()})
        tokenizer.save_pretrained(aside)
        note_identity(aside, identity)
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    state.wait_for_everyone()
