"""Fine-tuning of a causal language model on chats ([ZK24] section 3), on every topology.

`helpers.training.launch` starts it: one process on one machine by `python -m helpers.training.train
<recipe.json>`, every other topology through `accelerate launch`. The topology's YAML alone says one
process, several with DDP, or FSDP2; the recipe says the rest. A step is one step of the optimizer
on the *global* batch, however many processes share it: the loss is a sum over the batch's labelled
tokens divided by their number, so the split into processes and micro-batches does not change the
gradient.
"""

import os

# Before torch is imported. Spinning threads cost 4x on a shared machine; and every micro-batch is
# of another shape, for each of which oneDNN and torch's cache over it would keep a kernel: 1.3 GB
# after 120 steps of the miniature, flat at 0.65 GB so (`bench/peak.py`, beside the same with both
# set to 1024).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
os.environ.setdefault("LRU_CACHE_CAPACITY", "32")

import fcntl
import json
import math
import socket
import sys
import time
from pathlib import Path

import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import PartialState
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from helpers.errors import UserError
from helpers.files import write_json_lines
from helpers.training import memory, parallel
from helpers.training.data import Text, batch_rows, collate, load_tokenizer, read_chats, split_batch
from helpers.training.hub import revision
from helpers.training.recipe import (
    STARTED_BY,
    Recipe,
    is_finished,
    read_log,
    run_identity,
    write_json,
)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of 0-based step `step`: linear warm-up, then constant or linearly to zero."""
    share = min(1.0, (step + 1) / max(1, recipe.warmup))
    if recipe.decay:
        left = (recipe.steps - step) / max(1, recipe.steps - recipe.warmup)
        share *= min(1.0, left)
    return recipe.learning_rate * share


def is_orphan() -> bool:
    """Was this started by `launch.run` on this machine, and is that process no longer there?"""
    machine, _, starter = os.environ.get(STARTED_BY, "").rpartition(":")
    return machine == socket.gethostname() and not psutil.pid_exists(int(starter))


def load_model(recipe: Recipe, mixed: bool):
    """The student, as it is trained.

    Raises:
        UserError: its family does not take another attention, or keeps a state over texts.
    """
    model = AutoModelForCausalLM.from_pretrained(
        recipe.student,
        dtype="auto",
        attn_implementation=os.environ.get("TRAINING_ATTENTION", "packed"),
        revision=revision(recipe.student),
    )
    if not model._supports_attention_backend:
        raise UserError(
            f"student = {recipe.student}: {type(model).__name__} does not take packed texts; "
            "Llama, Mistral, Qwen3, Gemma, Phi, OLMo and GPT-2 do"
        )
    model.eval()  # no dropout, which would make a resumed run another one
    if recipe.lora:
        model = parallel.adapted(model.to(torch.bfloat16 if mixed else torch.float32), recipe.lora)
    if recipe.compile:
        for layer in parallel.layers(model).values():
            layer.compile(dynamic=True)
    return model


def nats(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy of logits, (tokens, vocabulary).

    Many are taken in chunks, each computed again in the backward pass: only one is there in fp32.
    """
    rows = memory.CHUNK // logits.shape[1]
    if len(logits) <= rows:
        return F.cross_entropy(logits.float(), target, reduction="sum")
    total = 0.0
    for chunk in zip(logits.split(rows), target.split(rows), strict=True):
        total += checkpoint(nats, *chunk, use_reentrant=False)
    return total


def gradient(
    model, waves: list, texts: list[Text], labelled: int, state: PartialState, autocast
) -> torch.Tensor:
    """Leave the global batch's gradient in the model.

    Returns:
        This process's share of the batch's loss, in nats a labelled token.
    """
    total = torch.zeros((), device=state.device)
    for i, wave in enumerate(waves, 1):
        rows = wave[state.process_index]
        arguments, target = collate(texts, rows, state.device)
        # DDP exchanges gradients once a step. FSDP2, which does not look at this, must each time:
        # kept whole they cost 52 GB a GPU at 13B.
        model.require_backward_grad_sync = i == len(waves)
        with autocast:
            logits = model(**arguments, use_cache=False).logits[0]
        # No rows: a pass of weight zero, for the others wait for it.
        loss = nats(logits, target) * (bool(rows) / labelled)
        # DDP and FSDP2 average over processes; we want the sum.
        (loss * state.num_processes).backward()
        total += loss.detach()
    return total


def main(recipe: Recipe) -> None:
    """Train, or go on from the newest checkpoint.

    Leaves the model in `out/model` and a line a step in `out/log.jsonl`.

    Raises:
        UserError: what a user can mend; the newest checkpoint stands.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    lock = open(out / "lock", "w")  # noqa: SIM115 (held until this process ends)
    if state.is_main_process:
        # Another training of this folder ends within a step if its notebook is gone. Nothing else
        # is done while this waits, so it is the system's `flock`, as in `helpers.run.lock`; the
        # chat client waits beside requests, with `filelock`.
        fcntl.flock(lock, fcntl.LOCK_EX)
    state.wait_for_everyone()
    if is_finished(recipe):  # by the one that was waited for
        return
    identity = run_identity(recipe)
    torch.manual_seed(recipe.seed)
    mixed = parallel.computes_in_bf16(state)

    tokenizer = load_tokenizer(recipe.student)
    texts, counts = read_chats(recipe, tokenizer)
    if not texts:
        raise UserError(
            f"{recipe.data}: no chat of at most max_tokens = {recipe.max_tokens} tokens; raise it, "
            "or set longer: cut"
        )
    length = [len(ids) for ids, _ in texts]
    labels = [sum(learned[1:]) for _, learned in texts]

    model = load_model(recipe, mixed)
    shape = memory.shape_of(model.config.to_dict())
    model = parallel.lay_out(model, state, mixed)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    # Adam is AdamW without weight decay. Fused for GPUs, where it reads the weights once; on a CPU
    # it makes no difference (0.97 to 0.98 of the speed).
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0, fused=True)

    step = parallel.newest_checkpoint(out, identity, state)
    if step:
        parallel.load_checkpoint(out / f"step-{step}", model, optimizer)
    if state.is_main_process:
        rows = [row for row in read_log(out) if row["step"] <= step]
        write_json_lines(out / "log.jsonl", rows)
        processes = state.num_processes
        facts = {**counts, "bf16": mixed, "processes": processes, "identity": identity}
        write_json(out / "data.json", facts)

    cast = mixed and not parallel.is_sharded()  # FSDP2's policy says what is computed in bf16
    device = torch.cuda.get_device_name() if state.device.type == "cuda" else "CPU"
    autocast = torch.autocast(state.device.type, torch.bfloat16, enabled=cast)
    longest = recipe.save_minutes * 60 or math.inf  # seconds between checkpoints
    saved = time.monotonic()
    while step < recipe.steps:
        if is_orphan():
            raise UserError(
                f"the process that started this training is gone; stopped after step {step}"
            )
        start = time.perf_counter()
        rows = batch_rows(step, len(texts), recipe.batch, recipe.seed)
        labelled = sum(labels[row] for row in rows)
        waves = split_batch(rows, length, state.num_processes, recipe.micro_tokens)
        rate = learning_rate(recipe, step)
        optimizer.param_groups[0]["lr"] = rate
        loss = gradient(model, waves, texts, labelled, state, autocast)
        norm = torch.nn.utils.clip_grad_norm_(trained, recipe.clip or math.inf)
        if parallel.is_sharded():
            norm = norm.full_tensor()
        # The main process's clock says for all whether it is time to save: they must agree.
        due = state.is_main_process and time.monotonic() - saved > longest
        shared = torch.tensor([float(loss), due], device=state.device)
        if state.num_processes > 1:
            dist.all_reduce(shared)
        loss, due = shared.tolist()
        norm = float(norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):  # before the weights take it in
            raise UserError(
                f"the loss is {loss} and the gradient's norm {norm} at step {step + 1}: lower "
                "learning_rate; the last checkpoint stands"
            )
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if state.is_main_process:
            seconds = time.perf_counter() - start
            sizes = [length[row] for row in rows]
            work = memory.flops(shape, sizes, labelled) / state.num_processes
            line = {
                "step": step,
                "loss": loss,
                "learning_rate": rate,
                "grad_norm": norm,
                "tokens": sum(sizes),
                "tokens_per_s": round(sum(sizes) / seconds),
                "memory_gb": round(parallel.peak_memory(state.device), 2),
                "mfu": memory.mfu(work / seconds, device),
            }
            with open(out / "log.jsonl", "a") as log:
                print(json.dumps(line), file=log)
        if step < recipe.steps and (due or step % recipe.save_every == 0):
            parallel.save_checkpoint(out, model, optimizer, step, identity, state)
            saved = time.monotonic()
    parallel.export(out / "model", model, tokenizer, state, recipe, identity)
    if state.is_main_process:
        parallel.remove_checkpoints(out)  # the model stands: nothing to resume
    state.destroy_process_group()


def sentence(error: BaseException, recipe: Recipe) -> str | None:
    """What a user can do about a failure that is not a bug; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return (
            f"out of memory: lower micro_tokens (now {recipe.micro_tokens}), or take a topology "
            "with more GPUs; the last checkpoint stands"
        )
    if isinstance(error, CheckpointException):
        # One failure a process; torch hides a full disk behind errors of its own.
        error = next(iter(error.failures.values()))[0]
        error = error.__context__ or error
    elif not isinstance(error, SafetensorError) and not getattr(error, "errno", None):
        return None
    why = " ".join(str(error).split())
    return (
        f"{recipe.out}: cannot be written or read ({why}); make room, then run again: it goes on "
        "from the last checkpoint"
    )


if __name__ == "__main__":
    settings = Recipe(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        main(settings)
    except (Exception, CheckpointException) as error:  # the second is no Exception
        if explained := sentence(error, settings):
            sys.exit(explained)
        raise
    # End at once. At the interpreter's own end a thread of gloo's that still holds a tensor can
    # abort the process, and the launcher then reports that a finished training has failed (seen
    # once; https://github.com/pytorch/pytorch/pull/179291).
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
