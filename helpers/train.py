"""Full fine-tuning of a causal language model on chats ([ZK24] section 3): one script for every topology.

Run as `accelerate launch --config_file params/accelerate/<topology>.yaml -m helpers.train <recipe.json>`. The
launcher's YAML alone says one process, several with DDP, or FSDP2; the recipe says the rest. A step is one step of
the optimizer on the *global* batch, however many processes share it: the loss is a sum over the batch's labelled
tokens divided by their number, so the split into processes and micro-batches does not change the gradient.
"""

import os

# Before torch is imported. Spinning threads cost 4x on a shared machine; and every micro-batch is of another shape, for each
# of which oneDNN and torch's cache over it would keep a kernel: 1.3 GB after 120 steps of the miniature, flat at 0.65 GB so.
for _name, _value in {"OMP_WAIT_POLICY": "PASSIVE", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}.items():
    os.environ.setdefault(_name, _value)

import fcntl
import functools
import json
import re
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from accelerate import PartialState
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict, set_state_dict
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface

from helpers.recipe import STARTED_BY, Recipe, is_finished, read_log, run_identity

# Attention. Tokens are packed without padding for every matrix product; attention alone sees the right-padded grid,
# where a causal mask is enough: no real token is to the right of a pad.


def grid_attention(module, q, k, v, attention_mask, scaling=None, grid_index=None, grid_shape=None, **_):
    """q, k, v: (1, heads, T, D) over the T real tokens. Returns (1, T, heads, D)."""
    (rows, length), dtype = grid_shape, q.dtype

    def place(a):
        flat = a.new_zeros(rows * length, a.shape[1], a.shape[3]).index_copy(0, grid_index, a[0].transpose(0, 1))
        return flat.view(rows, length, a.shape[1], -1).transpose(1, 2)

    with torch.autocast(q.device.type, enabled=False):
        if q.device.type == "cpu":  # the CPU's flash kernel is 4x slower in bf16 than in fp32
            q, k, v = q.float(), k.float(), v.float()
        grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(place(q), place(k), place(v), is_causal=True, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2).reshape(rows * length, q.shape[1], -1)[grid_index][None].to(dtype), None


AttentionInterface.register("grid", grid_attention)
AttentionMaskInterface.register("grid", lambda *args, **kwargs: None)


# Data.


def encode(tokenizer, messages: list[dict], turns: str = "last") -> tuple[list[int], list[int]]:
    """Token ids of a chat and a 0/1 list of the tokens to learn: the assistant's words and the end token after them.

    The chat is rendered whole and tokenised once; labels go by character offset, since a prompt tokenised apart can
    differ at its border from the same prompt in the chat.
    """
    full = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] == "assistant" and (turns == "all" or i == len(messages) - 1):
            # A chat that opens with the assistant is a document, learned whole.
            start = len(tokenizer.apply_chat_template(messages[:i], tokenize=False, add_generation_prompt=True)) if i else 0
            until = full if i == len(messages) - 1 else tokenizer.apply_chat_template(messages[: i + 1], tokenize=False)
            if not full.startswith(until.rstrip()):
                raise ValueError("the chat template renders a chat's beginning differently from the whole chat")
            spans.append([start, len(until)])
    if not full.rstrip().endswith(tokenizer.eos_token):
        full += tokenizer.eos_token
        spans[-1][1] = len(full)
    tokens = tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)  # the template wrote <bos> already
    labels = [int(any(start < end <= stop for start, stop in spans)) for _, end in tokens["offset_mapping"]]
    return tokens["input_ids"], labels


@functools.lru_cache(maxsize=2)
def permutation(n: int, seed: int, epoch: int) -> list[int]:
    """The order of epoch `epoch`."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()


def batch_rows(step: int, n: int, batch: int, seed: int) -> list[int]:
    """Row numbers of global step `step`, a stateless walk through seeded epochs: resuming needs only `step`."""
    rows = []
    while len(rows) < batch:
        epoch, i = divmod(step * batch + len(rows), n)
        rows += permutation(n, seed, epoch)[i : i + batch - len(rows)]
    return rows


def split_batch(rows: list[int], length: list[int], world: int, budget: int) -> list[list[list[int]]]:
    """Micro-batches of at most `budget` padded tokens, in waves of one per process, alike in length within a wave."""
    groups, current = [], []
    for row in sorted(rows, key=lambda r: (-length[r], r)):
        if current and (len(current) + 1) * length[current[0]] > budget:
            groups.append(current)
            current = []
        current.append(row)
    groups.append(current)
    while len(groups) % world:
        i = max(range(len(groups)), key=lambda j: (len(groups[j]) > 1, len(groups[j]) * length[groups[j][0]] if groups[j] else 0))
        whole = groups.pop(i)
        half = len(whole) // 2
        groups[i:i] = [whole[:half], whole[half:]] if half else [whole, []]  # []: a pass of weight zero
    return [groups[i : i + world] for i in range(0, len(groups), world)]


def collate(data, rows: list[int], device) -> tuple[dict, torch.Tensor, float]:
    """The model's arguments, the target tokens, and the micro-batch's weight (0 for an empty one)."""
    weight, rows = (1.0, rows) if rows else (0.0, [0])
    sizes = [len(data[r][0]) for r in rows]
    ids = torch.tensor([t for r in rows for t in data[r][0]])
    position = torch.cat([torch.arange(n) for n in sizes])
    grid = torch.cat([torch.arange(n) + i * max(sizes) for i, n in enumerate(sizes)])
    learned = torch.tensor([x for r in rows for x in [*data[r][1][1:], 0]], dtype=torch.bool)  # position t predicts t + 1
    keep = learned.nonzero().squeeze(1)
    target = ids.roll(-1)[keep]
    arguments = {"input_ids": ids[None], "position_ids": position[None], "grid_index": grid, "logits_to_keep": keep}
    arguments = {name: a.to(device, non_blocking=True) for name, a in arguments.items()}
    return {**arguments, "grid_shape": (len(rows), max(sizes))}, target.to(device, non_blocking=True), weight


# Layout: one process, DDP or FSDP2, as the launcher said through its environment.


def flag(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() == "true"


def lay_out(model, state: PartialState, mixed: bool):
    """The model on its device(s). Master weights are fp32: in pure bf16 an update of 2e-5 moves three weights in ten."""
    if not flag("ACCELERATE_USE_FSDP"):
        model = model.float().to(state.device)
        if state.num_processes == 1:
            return model
        devices = [state.device.index] if state.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    local = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    nodes = state.num_processes // local  # several machines: shard inside one, replicate across
    shape, names = ((nodes, local), ("replicate", "shard")) if nodes > 1 else ((local,), ("shard",))
    options = {
        "mesh": dist.init_device_mesh(state.device.type, shape, mesh_dim_names=names),
        "mp_policy": MixedPrecisionPolicy(torch.bfloat16, torch.float32) if mixed else MixedPrecisionPolicy(),
        "reshard_after_forward": flag("FSDP_RESHARD_AFTER_FORWARD", "true"),
        "offload_policy": CPUOffloadPolicy() if flag("FSDP_OFFLOAD_PARAMS") else OffloadPolicy(),
    }
    layers = model.model.layers
    for i, layer in enumerate(layers):
        layer.float()
        if flag("FSDP_ACTIVATION_CHECKPOINTING"):
            layer = layers[i] = checkpoint_wrapper(layer, CheckpointImpl.NO_REENTRANT, preserve_rng_state=False)
        fully_shard(layer, **options)
    fully_shard(model.float(), **options)
    return model.to(state.device)


def unsynced(model, last: bool):
    """DDP reduces gradients once a step. FSDP2 must do so each time: kept whole they cost 52 GB a GPU at 13B."""
    ddp = isinstance(model, torch.nn.parallel.DistributedDataParallel)
    return model.no_sync() if ddp and not last else nullcontext()


# Checkpoints: torch's distributed format for every layout, written aside and then renamed.


def checkpoints(out: Path) -> list[int]:
    """Steps with a whole checkpoint, newest first."""
    found = (re.fullmatch(r"step-(\d+)", p.name) for p in out.glob("step-*"))
    return sorted((int(m[1]) for m in found if m), reverse=True)


def save_checkpoint(out: Path, model, optimizer, step: int, identity: str, state: PartialState) -> None:
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
        for old in checkpoints(out)[1:]:
            shutil.rmtree(out / f"step-{old}")
    state.wait_for_everyone()


def load_checkpoint(path: Path, model, optimizer) -> None:
    weights, moments = get_state_dict(model, optimizer)
    loaded = {"model": weights, "optimizer": moments}
    dcp.load(loaded, checkpoint_id=str(path))
    set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])


def export(path: Path, model, tokenizer, state: PartialState, recipe: Recipe, identity: str) -> None:
    """Write an ordinary `transformers` folder, aside and then renamed."""
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
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


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of 0-based step `step`: linear warm-up, then constant or linearly to zero."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    left = (recipe.steps - step) / max(1, recipe.steps - recipe.warmup) if recipe.decay else 1.0
    return recipe.learning_rate * warm * min(1.0, left)


def is_orphan() -> bool:
    """Was this started by `recipe.launch`, and is that process no longer there?"""
    starter = os.environ.get(STARTED_BY)
    return starter is not None and not Path(f"/proc/{starter}").exists() and Path("/proc/self").exists()


def computes_in_bf16(state: PartialState) -> bool:
    """bf16 as the topology asks; on a CPU only where it has the instructions, since elsewhere it is slower than fp32."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "bf16"
    return asked and (state.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported())


def main(recipe: Recipe) -> None:
    """Train, or go on from the newest checkpoint; leave the model in `out/model` and a line per step in `out/log.jsonl`."""
    state = PartialState(cpu=not torch.cuda.is_available())
    out = Path(recipe.out)
    out.mkdir(parents=True, exist_ok=True)
    lock = open(out / "lock", "w")  # noqa: SIM115 (held until this process ends)
    if state.is_main_process:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another training of this folder: it ends within a step if its notebook is gone
    state.wait_for_everyone()
    if is_finished(recipe):  # by the one that was waited for
        return
    identity = run_identity(recipe)
    torch.manual_seed(recipe.seed)
    mixed = computes_in_bf16(state)

    tokenizer = AutoTokenizer.from_pretrained(recipe.student)
    with open(recipe.data) as file:
        encoded = [encode(tokenizer, json.loads(line)["messages"], recipe.turns) for line in file]
    data = [row for row in encoded if len(row[0]) <= recipe.max_tokens]
    if not data:
        raise SystemExit(f"{recipe.data}: no chat of at most max_tokens = {recipe.max_tokens} tokens")
    length, labels = [len(ids) for ids, _ in data], [sum(learned[1:]) for _, learned in data]

    model = AutoModelForCausalLM.from_pretrained(recipe.student, dtype="auto", attn_implementation="grid")
    model.train()
    model = lay_out(model, state, mixed)
    # Adam is AdamW without weight decay.
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0, fused=True)

    step = next((n for n in checkpoints(out) if json.loads((out / f"step-{n}/meta.json").read_text())["identity"] == identity), 0)
    if step:
        load_checkpoint(out / f"step-{step}", model, optimizer)
    elif state.is_main_process:
        for old in checkpoints(out):  # of another run: other settings, data or weights
            shutil.rmtree(out / f"step-{old}")
    log = None
    if state.is_main_process:
        kept = [row for row in read_log(out) if row["step"] <= step]
        (out / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        log = open(out / "log.jsonl", "a", buffering=1)  # noqa: SIM115 (open as long as the training runs)
        facts = {"texts": len(data), "too_long": len(encoded) - len(data), "tokens": sum(length), "labelled": sum(labels)}
        (out / "data.json").write_text(json.dumps({**facts, "bf16": mixed, "processes": state.num_processes}))

    autocast = torch.autocast(state.device.type, torch.bfloat16, enabled=mixed and not flag("ACCELERATE_USE_FSDP"))
    while step < recipe.steps:
        if is_orphan():
            raise SystemExit(f"the process that started this training is gone; stopped after step {step}")
        start = time.perf_counter()
        rows = batch_rows(step, len(data), recipe.batch, recipe.seed)
        labelled = sum(labels[r] for r in rows)
        waves = split_batch(rows, length, state.num_processes, recipe.micro_tokens)
        total = torch.zeros((), device=state.device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        for i, wave in enumerate(waves):
            arguments, target, weight = collate(data, wave[state.process_index], state.device)
            with unsynced(model, last=i == len(waves) - 1):
                with autocast:
                    logits = model(**arguments, use_cache=False).logits[0]
                loss = F.cross_entropy(logits.float(), target, reduction="sum") * (weight / labelled)
                (loss * state.num_processes).backward()  # DDP and FSDP2 average over processes; we want the sum
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if state.num_processes > 1:
            dist.all_reduce(total)
        if not torch.isfinite(total):
            raise SystemExit(f"the loss is {total.item()} at step {step}: lower learning_rate; the last checkpoint stands")
        if log:
            seconds = time.perf_counter() - start
            tokens = sum(length[r] for r in rows)
            row = {"step": step, "loss": total.item(), "learning_rate": learning_rate(recipe, step - 1), "grad_norm": float(norm)}
            print(json.dumps({**row, "tokens": tokens, "tokens_per_s": round(tokens / seconds)}), file=log)
        if step % recipe.save_every == 0 and step < recipe.steps:
            save_checkpoint(out, model, optimizer, step, identity, state)
    export(out / "model", model, tokenizer, state, recipe, identity)
    if state.is_main_process:
        for old in checkpoints(out):  # the model stands: nothing to resume
            shutil.rmtree(out / f"step-{old}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Recipe(**json.loads(Path(sys.argv[1]).read_text())))
