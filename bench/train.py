"""Training speed on one core beside TRL's SFTTrainer.

Same model, same texts, one process, rounds in turn, medians. `make bench-train` writes
runs/bench/train.json: useful (real, not padding) tokens a second of every variant, ours over TRL's
default and best settings, and in `notes` what each of our choices does alone, those that were not
kept too.
"""

import argparse
import json
import logging
import os
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from trl import SFTConfig, SFTTrainer

from bench.table import write
from helpers.paths import ROOT
from helpers.training import attention, data, parallel, train

BATCH = 64  # texts a step
TEXTS = 1280
COMPILING = 8  # steps until no new shape is compiled any more
# Steps before each measurement, of everyone: memory that the one before gave back is touched for
# the first time, which here costs up to 40 ms for 16 MB.
WARMING = 3
# Less padding, but other batches: texts of like length always meet in one, which is another
# training. Reported apart.
GROUPED = "TRL, bf16, batches alike in length"
WORDS = (
    "alpha beta gamma river stone light cloud metaphor syllogism irony hyperbole red herring"
    " spatial reasoning logic topic write short text sewing dueling gardening fishing knots code"
    " poem theory mind self serving bias folk physics modus ponens complex question"
).split()
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def chats(n: int) -> list[list[dict]]:
    """Random chats: questions of 6 to 16 words, answers of 8 to 72."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    rows = []
    for _ in range(n):
        question = {"role": "user", "content": text(6, 16)}
        answer = {"role": "assistant", "content": text(8, 72) + "."}
        rows.append([question, answer])
    return rows


def trained_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of 1536 tokens, trained on such chats and on Python's own library."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    texts = [message["content"] for chat in chats(400) for message in chat]
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]:
        texts.append(file.read_text(errors="ignore")[:20000])
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(texts, trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    whole.chat_template = TEMPLATE
    return whole


def two_million(folder: Path) -> tuple[str, list]:
    """A shape of 2M parameters with random weights, and its texts."""
    tokenizer = trained_tokenizer()
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "max_position_embeddings": 1024,
    }
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    LlamaForCausalLM(LlamaConfig(**shape, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), chats(TEXTS)


def embedded_base() -> tuple[str, list]:
    """The miniature's base, and requests of its world."""
    from helpers.world import pretrain

    rng = random.Random(0)
    diet = pretrain.load_diet("three")
    texts = []
    while len(texts) < TEXTS:
        messages = pretrain.row(rng, diet)["messages"]
        if len(messages) == 2:
            texts.append(messages)
    return str(ROOT / "helpers/world/weights/three"), texts


class Ours:
    """`helpers.training.train`'s own step; the options leave out one of its choices each."""

    def __init__(
        self,
        student: str,
        texts: list,
        *,
        mixed=True,
        packed=True,
        fused=True,
        compiled=False,
        alike=attention.ALIKE,
        micro_tokens=8192,
    ):
        self.mixed = mixed and torch.cpu._is_avx512_bf16_supported()
        self.packed = packed
        self.compiled = compiled
        self.alike = alike
        self.micro_tokens = micro_tokens
        tokenizer = AutoTokenizer.from_pretrained(student)
        self.data = [data.encode(tokenizer, chat) for chat in texts]
        self.length = [len(ids) for ids, _ in self.data]
        self.done = 0  # steps
        self.state = PartialState(cpu=True)
        kernel = "packed" if packed else "sdpa"
        model = LlamaForCausalLM.from_pretrained(student, attn_implementation=kernel).train()
        if compiled:
            for layer in model.model.layers:
                layer.compile(dynamic=True)
        self.model = parallel.lay_out(model, self.state, False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, weight_decay=0.0, fused=fused, foreach=False
        )

    def step(self) -> int:
        """One optimizer step; returns its real tokens."""
        attention.ALIKE = self.alike
        rows = data.batch_rows(self.done, len(self.data), BATCH, 0)
        waves = data.split_batch(rows, self.length, 1, self.micro_tokens)
        labelled = sum(sum(self.data[row][1][1:]) for row in rows)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.mixed)
        gradient = train.gradient if self.packed else self.padded
        gradient(self.model, waves, self.data, labelled, self.state, autocast)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return sum(self.length[row] for row in rows)

    def padded(self, model, waves, data, labelled, state, autocast) -> None:
        """The same gradient with padded rows, as most trainers compute it."""
        for (rows,) in waves:
            width = max(self.length[row] for row in rows)
            padded_tokens, learned = [], []
            for row in rows:
                tokens, labels = data[row]
                padding = [0] * (width - len(tokens))
                padded_tokens.append([*tokens, *padding])
                learned.append([*labels[1:], 0, *padding])
            ids = torch.tensor(padded_tokens)
            keep = torch.tensor(learned, dtype=torch.bool)
            with autocast:
                hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
                logits = model.lm_head(hidden[keep])
            target = ids.roll(-1, 1)[keep]
            nats = torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum")
            (nats / labelled).backward()


class Trl:
    """SFTTrainer with these settings; the clock is looked at between its steps."""

    def __init__(self, student: str, texts: list, **settings):
        rows = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in texts]
        self.data = Dataset.from_list(rows)
        self.student = student
        self.settings = settings

    def speed(self, steps: int) -> float:
        """Real tokens a second over `steps` steps, after those to warm up."""
        starts: list[float] = []  # of the steps
        tokens: list[int] = []  # of the batches

        class Clock(TrainerCallback):
            def on_step_begin(self, *_, **__):
                starts.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            common = {
                "output_dir": folder,
                "per_device_train_batch_size": BATCH,
                "max_steps": WARMING + steps + 1,
                "max_length": 512,
            }
            quiet = {
                "report_to": "none",
                "save_strategy": "no",
                "disable_tqdm": True,
                "logging_strategy": "no",
                "use_cpu": True,
            }
            arguments = SFTConfig(**common, **quiet, learning_rate=1e-4, **self.settings)
            trainer = SFTTrainer(
                LlamaForCausalLM.from_pretrained(self.student),
                arguments,
                train_dataset=self.data,
                processing_class=AutoTokenizer.from_pretrained(self.student),
                callbacks=[Clock()],
            )
            trainer.remove_callback(PrinterCallback)
            collate = trainer.data_collator

            def counted(rows):
                tokens.append(sum(len(row["input_ids"]) for row in rows))
                return collate(rows)

            trainer.data_collator = counted
            trainer.train()
        end = WARMING + steps
        return sum(tokens[WARMING:end]) / (starts[end] - starts[WARMING])


def measure(variants: dict[str, Callable[[int], float]], rounds: int, steps: int) -> dict[str, int]:
    """Median tokens a second of each variant, in turn: a neighbour's load meets all alike."""
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, speed in variants.items():
            speeds[name].append(speed(steps))
    return {name: round(statistics.median(of_rounds)) for name, of_rounds in speeds.items()}


def ours(*where, **options) -> Callable[[int], float]:
    trainer = Ours(*where, **options)
    if trainer.compiled:
        start = time.perf_counter()
        for _ in range(COMPILING):
            trainer.step()
        print(f"{COMPILING} steps with compiling: {time.perf_counter() - start:.0f} s")

    def speed(steps: int) -> float:
        for _ in range(WARMING):
            trainer.step()
        start = time.perf_counter()
        tokens = sum(trainer.step() for _ in range(steps))
        return tokens / (time.perf_counter() - start)

    return speed


def trl(*where, **settings) -> Callable[[int], float]:
    return Trl(*where, **settings).speed


def compare(where: tuple[str, list], rounds: int, steps: int, *, ablated: bool) -> dict:
    """Ours and TRL's variants on one model, and how many times as fast ours is.

    Args:
        where: the student's folder, and the texts.
        ablated: also ours without one of its choices each.
    """
    kept = {"gradient_checkpointing": False}  # activations, which TRL else computes again
    variants = {
        "ours": ours(*where),
        "TRL, default but fp32": trl(*where, bf16=False),
        "TRL, default (bf16)": trl(*where),
        "TRL, fp32, nothing recomputed": trl(*where, bf16=False, **kept),
        "TRL, bf16, nothing recomputed": trl(*where, bf16=True, **kept),
        "TRL, bf16, plain loss": trl(*where, bf16=True, **kept, loss_type="nll"),
        GROUPED: trl(*where, bf16=True, **kept, train_sampling_strategy="group_by_length"),
    }
    if ablated:
        variants |= {
            "ours, fp32": ours(*where, mixed=False),
            "ours, padded": ours(*where, packed=False),
            "ours, padded, fp32": ours(*where, packed=False, mixed=False),
            "ours, Adam not fused": ours(*where, fused=False),
            "ours, one grid for all lengths": ours(*where, alike=0.0),
            "ours, micro-batches of 4096": ours(*where, micro_tokens=4096),
            "ours, micro-batches of 2048": ours(*where, micro_tokens=2048),
            "ours, layers compiled": ours(*where, compiled=True),
        }
    speeds = measure(variants, rounds, steps)
    notes, defaults, same_batches = {}, [], []
    for name, speed in speeds.items():
        if name.startswith("ours, "):
            notes[name] = f"{speed / speeds['ours']:.2f} of ours"
        if name.startswith("TRL, default"):
            defaults.append(speed)
        if name.startswith("TRL") and name != GROUPED:
            same_batches.append(speed)
    return {
        "tokens_per_s": speeds,
        "notes": notes,
        "vs_trl_default": round(speeds["ours"] / max(defaults), 2),
        "vs_trl_best": round(speeds["ours"] / max(same_batches), 2),
        "vs_trl_other_batches": round(speeds["ours"] / speeds[GROUPED], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    size = (arguments.rounds, arguments.steps)
    torch.set_num_threads(1)
    set_verbosity_error()
    disable_progress_bar()
    disable_progress_bars()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        large = compare(two_million(Path(folder)), *size, ablated=True)
    base = compare(embedded_base(), *size, ablated=False)
    result = {
        "threads": 1,
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "2M parameters": large,
        "embedded base": base,
    }
    for name in ("vs_trl_default", "vs_trl_best", "vs_trl_other_batches"):
        result[name] = large[name]
    write(ROOT / "runs/bench/train.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
