"""Answers a second: our sampler beside plain `generate`, at batch 1 as the reference implementation has it, and at its own best batch.

`make bench-sample` runs it on CPU at the miniature's settings (the embedded base, the evaluation's own prompts, temperature
0.7, at most 120 new tokens, fp32) and writes `runs/bench/sample.json`. Where there is a GPU it goes on with the shape of
Mistral-7B, random weights, 512 new tokens, bf16. All of a comparison run in one process, round after round, each with the
same prompts, end tokens, precision and threads; the medians over rounds count.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from functools import partial
from pathlib import Path

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch, and for all that is compared here; large pages as in the Makefile
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig
from transformers.utils import logging

from helpers import evaluate, paths
from helpers.profile import load
from helpers.student.sampler import sample
from helpers.task.prompts import generation_turns

BATCHES = (32, 64, 128, 256, 512)  # that `generate` is tried at
ALONE = 24  # prompts that batch 1 is measured on, spread over the lengths


def plain_generate(
    model,
    prompts: list[list[int]],
    batch: int,
    *,
    new_tokens: int,
    temperature: float,
    end: set[int],
) -> int:
    """Sample with stock `generate` in batches alike in length, padded on the left; returns the number of new tokens."""
    pad, made = model.generation_config.pad_token_id or 0, 0
    settings = {
        "do_sample": True,
        "temperature": temperature,
        "top_k": 0,
        "top_p": 1.0,
        "use_cache": True,
        "pad_token_id": pad,
    }
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        length = max(map(len, some))
        ids = torch.tensor([[pad] * (length - len(p)) + p for p in some], device=model.device)
        mask = torch.tensor(
            [[0] * (length - len(p)) + [1] * len(p) for p in some], device=model.device
        )
        new = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            eos_token_id=sorted(end) or None,
            **settings,
        )[:, length:]
        made += sum(
            next((i for i, t in enumerate(row) if t in end), len(row)) for row in new.tolist()
        )
    return made


def ours(model, prompts: list[list[int]], batch: int, **settings) -> int:
    return sum(map(len, sample(model, prompts, range(len(prompts)), batch=batch, **settings)))


def compare(ways: dict, rounds: int) -> dict[str, dict]:
    """Each way's median answers and tokens a second; the ways take turns, after one unmeasured round."""
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
    columns = {name: list(zip(*found, strict=True)) for name, found in rates.items()}
    return {
        name: {
            "answers_per_s": round(statistics.median(a), 2),
            "tokens_per_s": round(statistics.median(t), 1),
            "all": [round(x, 2) for x in a],
        }
        for name, (a, t) in columns.items()
    }


def ways_of(model, stock, prompts, alone, settings, *, batch: int, batches) -> dict:
    found = {"ours": (partial(ours, model, prompts, batch, **settings), len(prompts))}
    found["generate, batch 1"] = (partial(plain_generate, stock, alone, 1, **settings), len(alone))
    return found | {
        f"generate, batch {b}": (
            partial(plain_generate, stock, prompts, b, **settings),
            len(prompts),
        )
        for b in batches
    }


def summary(rates: dict[str, dict], rate: str) -> dict:
    best = max(
        (name for name in rates if name.startswith("generate") and name != "generate, batch 1"),
        key=lambda name: rates[name][rate],
    )
    mine = rates["ours"][rate]
    ratios = {
        "vs_batch_1": mine / rates["generate, batch 1"][rate],
        "vs_generate_best": mine / rates[best][rate],
    }
    return {"best_of_generate": best, **{name: round(ratio, 2) for name, ratio in ratios.items()}}


def on_cpu(rounds: int, threads: int, most: int | None = None) -> dict:
    """The embedded base at the miniature's settings."""
    torch.set_num_threads(threads)
    p = load.load("mini")["03_grade/base"]
    pack, tokenizer = p.pack(), AutoTokenizer.from_pretrained(p.checkpoint())
    turns = [
        [{"role": "user", "content": generation_turns(t["task"], pack)[0]}]
        for t in evaluate.tasks(p)
    ]
    texts = [
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        for turn in turns
    ]
    prompts = sorted(
        (tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts[:most]), key=len
    )
    load = partial(
        AutoModelForCausalLM.from_pretrained, p.checkpoint(), dtype=getattr(torch, p.sample_dtype)
    )
    model, stock = load(attn_implementation="cached").eval(), load().eval()
    settings = {
        "new_tokens": p.new_tokens,
        "temperature": p.temperature,
        "end": {model.generation_config.eos_token_id},
    }
    alone = prompts[:: max(1, len(prompts) // ALONE)][:ALONE]
    ways = ways_of(model, stock, prompts, alone, settings, batch=p.sample_batch, batches=BATCHES)
    rates = compare(ways, rounds)
    about = {
        "model": p.student,
        "prompts": len(prompts),
        "new_tokens": p.new_tokens,
        "dtype": p.sample_dtype,
        "threads": threads,
    }
    return {**about, "rounds": rounds, **summary(rates, "answers_per_s"), "rates": rates}


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
    parser = argparse.ArgumentParser(description="Our sampler beside plain generate.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
    )
    parser.add_argument("--prompts", type=int, help="only so many, to try it out")
    parser.add_argument("--out", type=Path, default=paths.run("bench") / "sample.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = {"cpu": on_cpu(arguments.rounds, arguments.threads, arguments.prompts)}
    print(json.dumps(found["cpu"], indent=1))
    if torch.cuda.is_available():
        found["gpu"] = on_gpu(max(1, arguments.rounds // 2))
        print(json.dumps(found["gpu"], indent=1))
    else:
        print("no GPU here: Mistral-7B's shape was not measured")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps(
            {
                **found,
                "vs_batch_1": found["cpu"]["vs_batch_1"],
                "vs_generate_best": found["cpu"]["vs_generate_best"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
