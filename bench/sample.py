"""Answers a second: our sampler beside its peers.

They are plain `generate` at batch 1, as the reference implementation has it, and at its own best
batch; transformers' continuous batching; and vLLM, where VLLM=<path> names its program.

`make bench-sample` runs it on CPU at the miniature's settings (the embedded base, the evaluation's
own prompts, temperature 0.7, at most 120 new tokens, fp32) and writes `runs/bench/sample.json`.
Where there is a GPU it goes on with the shape of Mistral-7B, random weights, 512 new tokens, bf16.
All but vLLM, which has a Python of its own, run in one process, round after round, each with the
same prompts, end tokens, precision and threads; the medians over rounds count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

# Before torch, and for all that is compared here; large pages as in the Makefile.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
    MistralConfig,
)
from transformers.utils import logging

from bench.table import write
from helpers import evaluate, paths
from helpers.profile.load import load_profile
from helpers.student.kv_cache import Answer, rounded
from helpers.student.local import prompt_ids
from helpers.student.sampler import in_threads
from helpers.task.prompts import generation_turns

BATCHES = (32, 64, 128, 256, 512)  # batch sizes that `generate` is tried with
ALONE = 24  # prompts that batch size 1 is measured on, of all lengths


def plain_generate(
    model,
    prompts: list[list[int]],
    batch: int,
    *,
    new_tokens: int,
    temperature: float,
    end: set[int],
) -> int:
    """Sample with stock `generate`: prompts of like length in a batch, padded on the left.

    Returns the number of new tokens, as all ways do.
    """
    pad = model.generation_config.pad_token_id or 0
    made = 0
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        length = max(map(len, part))
        ids = [[pad] * (length - len(p)) + p for p in part]
        mask = [[0] * (length - len(p)) + [1] * len(p) for p in part]
        rows = model.generate(
            torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=new_tokens,
            eos_token_id=sorted(end) or None,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            use_cache=True,
            pad_token_id=pad,
        )[:, length:].tolist()
        for row in rows:
            made += next((i for i, token in enumerate(row) if token in end), len(row))
    return made


def continuous_batching(model, prompts, batch, *, new_tokens, temperature, end) -> int:
    """As `plain_generate`, with transformers' own continuous batching: pages for `batch` answers.

    Left to itself it takes nine tenths of the memory for its pages, and on a CPU fills them first.
    """
    page = 32
    longest = rounded(max(map(len, prompts)) + new_tokens)
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=batch * longest // page,
        max_batch_tokens=4096,
        max_requests_per_batch=batch,
    )
    settings = GenerationConfig(
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=new_tokens,
        eos_token_id=sorted(end) or -1,
        pad_token_id=0,
    )
    outputs = model.generate_batch(
        prompts, generation_config=settings, continuous_batching_config=config
    )
    assert len(outputs) == len(prompts), "it gave up on some"
    return sum(len([t for t in o.generated_tokens if t not in end]) for o in outputs.values())


def vllm_rates(
    path: str, prompts: list[list[int]], settings: dict, *, batch: int, rounds: int, dtype: str
):
    """vLLM's answers and tokens a second, measured by its own Python; None without one."""
    program = os.environ.get("VLLM", "")
    if not program:
        print("VLLM=<path of a vllm program> is not set: vLLM was not measured")
        return None
    job = {"model": path, "prompts": prompts, "batch": batch, "rounds": rounds, "dtype": dtype}
    job |= settings
    job["end"] = sorted(settings["end"])
    device = {} if torch.cuda.is_available() else {"VLLM_TARGET_DEVICE": "cpu"}
    child = subprocess.run(
        [Path(program).with_name("python"), Path(__file__).with_name("sample_vllm.py")],
        input=json.dumps(job),
        stdout=subprocess.PIPE,
        env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, **device},
        text=True,
    )
    if child.returncode:
        sys.exit(f"{program} ended (exit {child.returncode}); what it said stands above")
    return medians(json.loads(child.stdout.splitlines()[-1]))


def ours(model, prompts: list[list[int]], batch: int, **settings) -> int:
    answers = [Answer(i, tuple(prompt), seed=i) for i, prompt in enumerate(prompts)]
    for _ in in_threads(model, answers, batch=batch, **settings):
        pass
    return sum(len(answer.tokens) for answer in answers)


def medians(rates: list[tuple[float, float]]) -> dict:
    """Of the rounds' answers and tokens a second."""
    answers, tokens = zip(*rates, strict=True)
    return {
        "answers_per_s": round(statistics.median(answers), 2),
        "tokens_per_s": round(statistics.median(tokens), 1),
        "all": [round(rate, 2) for rate in answers],
    }


def compare(ways: dict, rounds: int) -> dict[str, dict]:
    """Each way's median answers and tokens a second.

    The ways take turns, after one unmeasured round.
    """
    rates: dict[str, list] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, (way, answers) in ways.items():
            start = time.perf_counter()
            tokens = way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            if i:
                rates[name].append((answers / seconds, tokens / seconds))
    return {name: medians(of_rounds) for name, of_rounds in rates.items()}


def ways_of(model, stock, prompts, alone, settings, *, batch: int, batches) -> dict:
    """Each way by name, and how many answers it gives."""
    n = len(prompts)
    ways = {
        "ours": (partial(ours, model, prompts, batch, **settings), n),
        "continuous batching": (partial(continuous_batching, stock, prompts, batch, **settings), n),
        "generate, batch 1": (partial(plain_generate, stock, alone, 1, **settings), len(alone)),
    }
    for b in batches:
        ways[f"generate, batch {b}"] = (partial(plain_generate, stock, prompts, b, **settings), n)
    return ways


def summary(rates: dict[str, dict], rate: str) -> dict:
    """Our rate over each peer's."""
    batched = [
        name for name in rates if name.startswith("generate") and name != "generate, batch 1"
    ]
    best = max(batched, key=lambda name: rates[name][rate])
    peers = {
        "vs_batch_1": "generate, batch 1",
        "vs_generate_best": best,
        "vs_continuous_batching": "continuous batching",
        "vs_vllm": "vLLM",
    }
    ratios = {
        name: round(rates["ours"][rate] / rates[peer][rate], 2)
        for name, peer in peers.items()
        if peer in rates
    }
    return {"best_of_generate": best, **ratios}


def on_cpu(rounds: int, threads: int, most: int | None = None) -> dict:
    """The embedded base at the miniature's settings."""
    torch.set_num_threads(threads)
    p = load_profile("mini")["03_grade/base"]
    path = p.checkpoint()
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts = []
    for task in evaluate.tasks(p)[:most]:
        turn = {"role": "user", "content": generation_turns(task.query, p.pack())[0]}
        prompts.append(prompt_ids(tokenizer, [turn]))
    prompts.sort(key=len)
    dtype = getattr(torch, p.sample_dtype)
    load = partial(AutoModelForCausalLM.from_pretrained, path, dtype=dtype)
    model, stock = load(attn_implementation="cached").eval(), load().eval()
    settings = {
        "new_tokens": p.new_tokens,
        "temperature": p.temperature,
        "end": {model.generation_config.eos_token_id},
    }
    alone = prompts[:: max(1, len(prompts) // ALONE)][:ALONE]
    ways = ways_of(model, stock, prompts, alone, settings, batch=p.sample_batch, batches=BATCHES)
    rates = compare(ways, rounds)
    job = {"batch": p.sample_batch, "rounds": rounds, "dtype": p.sample_dtype}
    if theirs := vllm_rates(path, prompts, settings, **job):
        rates["vLLM"] = theirs
    return {
        "model": p.student,
        "prompts": len(prompts),
        "new_tokens": p.new_tokens,
        "dtype": p.sample_dtype,
        "threads": threads,
        "rounds": rounds,
        **summary(rates, "answers_per_s"),
        "rates": rates,
    }


def on_gpu(rounds: int) -> dict:
    """Mistral-7B's shape with random weights, which never end an answer: 512 new tokens each."""
    config = MistralConfig(
        num_key_value_heads=8, sliding_window=None, max_position_embeddings=32768, pad_token_id=0
    )
    made = {"dtype": torch.bfloat16}
    stock = AutoModelForCausalLM.from_config(config, **made).to("cuda").eval()
    model = (
        AutoModelForCausalLM.from_config(config, attn_implementation="cached", **made)
        .to("cuda")
        .eval()
    )
    model.load_state_dict(stock.state_dict())
    random = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(3, config.vocab_size, (n,), generator=random).tolist()
        for n in torch.linspace(600, 1200, 256).int().tolist()
    ]
    settings = {"new_tokens": 512, "temperature": 0.7, "end": set()}
    ways = ways_of(model, stock, prompts, prompts[:1], settings, batch=128, batches=(64, 128))
    rates = compare(ways, rounds)
    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        del ways, model, stock  # vLLM wants the whole GPU
        torch.cuda.empty_cache()
        job = {"batch": 128, "rounds": rounds, "dtype": "bfloat16"}
        if theirs := vllm_rates(folder, prompts, settings, **job):
            rates["vLLM"] = theirs
    about = {
        "model": "Mistral-7B's shape, random weights",
        "prompts": len(prompts),
        "new_tokens": 512,
        "dtype": "bfloat16",
    }
    return {
        **about,
        "device": torch.cuda.get_device_name(),
        "rounds": rounds,
        **summary(rates, "tokens_per_s"),
        "rates": rates,
    }


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description="Our sampler beside its peers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--prompts", type=int, help="only so many, to try it out")
    parser.add_argument("--out", type=Path, default=paths.run("bench") / "sample.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    results = {"cpu": on_cpu(arguments.rounds, arguments.threads, arguments.prompts)}
    print(json.dumps(results["cpu"], indent=1))
    if torch.cuda.is_available():
        results["gpu"] = on_gpu(max(1, arguments.rounds // 2))
        print(json.dumps(results["gpu"], indent=1))
    else:
        print("no GPU here: Mistral-7B's shape was not measured")
    for name in ("vs_batch_1", "vs_generate_best"):
        results[name] = results["cpu"][name]
    write(arguments.out, results)


if __name__ == "__main__":
    main()
