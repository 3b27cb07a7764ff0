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

BATCH, TEXTS = 64, 1280
COMPILING = 8  # steps until no new shape is compiled any more
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

    def said(low, high):
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    return [
        [
            {"role": "user", "content": said(6, 16)},
            {"role": "assistant", "content": said(8, 72) + "."},
        ]
        for _ in range(n)
    ]


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
    text = [m["content"] for chat in chats(400) for m in chat] + [
        s.read_text(errors="ignore")[:20000] for s in sources
    ]
    options = {
        "special_tokens": ["<s>", "</s>", "<pad>"],
        "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(),
    }
    core.train_from_iterator(text, trainers.BpeTrainer(vocab_size=1536, **options))
    whole = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    whole.chat_template = TEMPLATE
    return whole


def two_million(folder: Path) -> tuple[str, list]:
    """A shape of 2M parameters with random weights, and its texts."""
    tok = tokenizer()
    torch.manual_seed(0)
    shape = {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "max_position_embeddings": 1024,
    }
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tok), tie_word_embeddings=True, **shape, **ends)
    ).save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder), chats(TEXTS)


def embedded_base() -> tuple[str, list]:
    """The miniature's base, and requests of its world."""
    from helpers.world import pretrain

    rng, diet = random.Random(0), pretrain.load_diet("three")
    rows = (pretrain.row(rng, diet)["messages"] for _ in range(100 * TEXTS))
    return str(ROOT / "helpers/world/weights/three"), [
        m for m, _ in zip((m for m in rows if len(m) == 2), range(TEXTS), strict=False)
    ]


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
        tok = AutoTokenizer.from_pretrained(student)
        self.data = [data.encode(tok, chat) for chat in texts]
        self.state = PartialState(cpu=True)
        model = LlamaForCausalLM.from_pretrained(
            student, attn_implementation="packed" if packed else "sdpa"
        ).train()
        for layer in model.model.layers if compiled else ():
            layer.compile(dynamic=True)
        self.model = parallel.lay_out(model, self.state, False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, weight_decay=0.0, fused=fused, foreach=False
        )
        self.mixed, self.packed, self.done = (
            mixed and torch.cpu._is_avx512_bf16_supported(),
            packed,
            0,
        )
        self.length = [len(ids) for ids, _ in self.data]
        self.micro_tokens, self.alike, self.compiled = micro_tokens, alike, compiled

    def step(self) -> int:
        """One optimizer step; returns its real tokens."""
        attention.ALIKE = self.alike
        rows = data.batch_rows(self.done, len(self.data), BATCH, 0)
        waves = data.split_batch(rows, self.length, 1, self.micro_tokens)
        labelled = sum(sum(self.data[r][1][1:]) for r in rows)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.mixed)
        (train.gradient if self.packed else self.padded)(
            self.model, waves, self.data, labelled, self.state, autocast
        )
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return sum(self.length[r] for r in rows)

    def padded(self, model, waves, data, labelled, state, autocast) -> None:
        """The same gradient with padded rows, as most trainers compute it."""
        for (rows,) in waves:
            width = max(self.length[r] for r in rows)
            ids = torch.tensor([data[r][0] + [0] * (width - self.length[r]) for r in rows])
            keep = torch.tensor(
                [[*data[r][1][1:], 0] + [0] * (width - self.length[r]) for r in rows],
                dtype=torch.bool,
            )
            with autocast:
                hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
                logits = model.lm_head(hidden[keep])
            target = ids.roll(-1, 1)[keep]
            (
                torch.nn.functional.cross_entropy(logits.float(), target, reduction="sum")
                / labelled
            ).backward()


class Trl:
    """SFTTrainer with these settings; the clock is looked at between its steps."""

    def __init__(self, student: str, texts: list, **settings):
        self.data = Dataset.from_list(
            [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in texts]
        )
        self.student, self.settings = student, settings

    def speed(self, steps: int) -> float:
        """Real tokens a second over `steps` steps, after one to warm up."""
        marks: list[float] = []
        tokens: list[int] = []

        class Clock(TrainerCallback):
            def on_step_begin(self, *_, **__):
                marks.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            common = {
                "output_dir": folder,
                "per_device_train_batch_size": BATCH,
                "max_steps": steps + 2,
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
            model, tok = (
                LlamaForCausalLM.from_pretrained(self.student),
                AutoTokenizer.from_pretrained(self.student),
            )
            trainer = SFTTrainer(
                model, arguments, train_dataset=self.data, processing_class=tok, callbacks=[Clock()]
            )
            trainer.remove_callback(PrinterCallback)
            collate = trainer.data_collator

            def counted(rows):
                tokens.append(sum(len(row["input_ids"]) for row in rows))
                return collate(rows)

            trainer.data_collator = counted
            trainer.train()
        return sum(tokens[1 : steps + 1]) / (marks[steps + 1] - marks[1])


def measure(variants: dict[str, Callable[[int], float]], rounds: int, steps: int) -> dict[str, int]:
    """Median tokens a second of each variant, in turn: a neighbour's load meets all alike."""
    found = [{name: speed(steps) for name, speed in variants.items()} for _ in range(rounds)]
    return {name: round(statistics.median(one[name] for one in found)) for name in variants}


def ours(*where, **options) -> Callable[[int], float]:
    trainer = Ours(*where, **options)
    if trainer.compiled:
        start = time.perf_counter()
        for _ in range(COMPILING):
            trainer.step()
        print(f"{COMPILING} steps with compiling: {time.perf_counter() - start:.0f} s")

    def speed(steps: int) -> float:
        trainer.step()  # warms up
        start = time.perf_counter()
        tokens = sum(trainer.step() for _ in range(steps))
        return tokens / (time.perf_counter() - start)

    return speed


def trl(*where, **settings) -> Callable[[int], float]:
    return Trl(*where, **settings).speed


def compare(where: tuple[str, list], rounds: int, steps: int, tried: bool) -> dict:
    """Ours and TRL's variants on one model, and the two ratios."""
    plain = {"bf16": False, "gradient_checkpointing": False}
    half = {"bf16": True, "gradient_checkpointing": False}
    variants = {
        "ours": ours(*where),
        "TRL, default but fp32": trl(*where, bf16=False),
        "TRL, default (bf16)": trl(*where),
    }
    variants |= {
        "TRL, fp32, nothing recomputed": trl(*where, **plain),
        "TRL, bf16, nothing recomputed": trl(*where, **half),
    }
    variants |= {
        "TRL, bf16, plain loss": trl(*where, **half, loss_type="nll"),
        GROUPED: trl(*where, **half, train_sampling_strategy="group_by_length"),
    }
    if tried:
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
    found = measure(variants, rounds, steps)
    default = max(v for name, v in found.items() if name.startswith("TRL, default"))
    best = max(v for name, v in found.items() if name.startswith("TRL") and name != GROUPED)
    peers = {"vs_trl_default": default, "vs_trl_best": best, "vs_trl_other_batches": found[GROUPED]}
    notes = {
        name: f"{speed / found['ours']:.2f} of ours"
        for name, speed in found.items()
        if name.startswith("ours, ")
    }
    return {
        "tokens_per_s": found,
        "notes": notes,
        **{name: round(found["ours"] / speed, 2) for name, speed in peers.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_verbosity_error()
    disable_progress_bar()
    disable_progress_bars()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        large = compare(two_million(Path(folder)), arguments.rounds, arguments.steps, tried=True)
    base = compare(embedded_base(), arguments.rounds, arguments.steps, tried=False)
    found = {
        "threads": 1,
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "2M parameters": large,
        "embedded base": base,
    }
    found |= {
        name: large[name] for name in ("vs_trl_default", "vs_trl_best", "vs_trl_other_batches")
    }
    target = ROOT / "runs/bench/train.json"
    write(target, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
