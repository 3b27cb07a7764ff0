"""A student in this process: its chat template, its seeds, its answers in the ledger. `serving.py` asks one behind a server.

Every request has its own seed, made from its messages and replicate, so that its sample does not depend on the batch it
came in, on order, or on a resumed run.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from helpers.chat.ledger import Ledger, key
from helpers.chat.replies import Reply, Request, parse
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.progress import Progress
from helpers.student.sampler import in_threads
from helpers.training.data import load_tokenizer
from helpers.training.recipe import fingerprint


class Student:
    """A model in this process that answers like `chat.ask`: requests in, replies out, all of them in the ledger.

    `device` is torch's name for one; "auto" takes the GPU if there is one.

    Raises:
        UserError: layers that are no plain attention, or no such device.
    """

    def __init__(
        self,
        path: str,
        ledger: Ledger,
        *,
        new_tokens: int,
        temperature: float,
        batch: int,
        seed: int,
        top_p: float = 1.0,
        dtype: str = "float32",
        device: str = "auto",
    ):
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        disable_progress_bar()  # of loading: a widget that would stay in the notebook
        self.tokenizer = load_tokenizer(path)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation="cached"
        )
        self.name = str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else path
        self.longest = context(model.config, self.name)
        try:
            self.model = model.to(device).eval()
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"sample_device = {device}: cannot be used ({str(error).splitlines()[0]}); use auto, cpu, cuda or cuda:1"
            ) from None
        end = model.generation_config.eos_token_id
        self.end = {self.tokenizer.eos_token_id, *(end if isinstance(end, list) else [end])} - {
            None
        }
        self.ledger, self.batch = ledger, batch
        self.settings = {
            "max_tokens": new_tokens,
            "temperature": temperature,
            "seed": seed,
            "dtype": dtype,
        }
        self.settings |= {"top_p": top_p} if top_p < 1 else {}
        self.identity = f"local:{fingerprint(path)}"

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        """Make room on the device: a judge on this machine may need it next."""
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request; what the ledger holds is not sampled again. A kill loses at most one batch.

        Raises:
            UserError: a prompt that leaves no room for the answer in the model's context; nothing was sampled.
        """
        bodies = [{"messages": r.messages, **self.settings} for r in requests]
        keys = [key(self.identity, b, r.replicate) for b, r in zip(bodies, requests, strict=True)]
        stored = [self.ledger.reply(k) for k in keys]
        missing = [i for i, raw in enumerate(stored) if raw is None]
        ids = {i: prompt_ids(self.tokenizer, requests[i].messages) for i in missing}
        missing.sort(
            key=lambda i: (len(ids[i]), i)
        )  # equal prompts side by side; longer answers to longer prompts
        check_room([ids[i] for i in missing], self.settings["max_tokens"], self.longest, self.name)
        with Progress("answers sampled", len(requests)) as progress:
            progress.advance(len(requests) - len(missing))
            for answers in self._sample([ids[i] for i in missing], [keys[i] for i in missing]):
                for j, tokens in answers:
                    text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
                    finish = "length" if len(tokens) == self.settings["max_tokens"] else "stop"
                    choice = {"message": {"content": text}, "finish_reason": finish}
                    stored[missing[j]] = json.dumps(
                        {"choices": [choice]}, ensure_ascii=False
                    ).encode()
                rows = [
                    (keys[i], bodies[i], requests[i].replicate, stored[i])
                    for i in (missing[j] for j, _ in answers)
                ]
                self.ledger.store(rows, endpoint=self.identity, model=self.name, role="student")
                progress.advance(len(rows))
        return [parse(raw)[0] for raw in stored]

    def _sample(
        self, prompts: list[list[int]], keys: list[str]
    ) -> Iterator[list[tuple[int, list[int]]]]:
        seeds = [int(hashlib.sha256(k.encode()).hexdigest()[:15], 16) for k in keys]
        settings = {
            "temperature": self.settings["temperature"],
            "top_p": self.settings.get("top_p", 1.0),
            "end": self.end,
        }
        return in_threads(
            self.model,
            prompts,
            seeds,
            batch=self.batch,
            new_tokens=self.settings["max_tokens"],
            **settings,
        )


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """The tokens of a chat up to where the assistant goes on, by the model's own template."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)[
        "input_ids"
    ]  # the template wrote <bos> already


def context(config, name: str) -> int:
    """How many tokens the model can attend to.

    Raises:
        UserError: layers that keep another state than keys and values.
    """
    config = config.get_text_config()
    if strange := sorted(
        set(getattr(config, "layer_types", None) or [])
        - {"full_attention", "sliding_attention", "attention"}
    ):
        raise UserError(
            f"{name} has layers of {', '.join(strange)}, which are not sampled here; give 03_grade a `serve` command"
        )
    return min(
        config.max_position_embeddings,
        getattr(config, "sliding_window", None) or config.max_position_embeddings,
    )


def check_room(prompts: Sequence[list[int]], new_tokens: int, longest: int, name: str) -> None:
    """Does every prompt leave room for an answer?"""
    tokens = max(map(len, prompts), default=0)
    if prompts and tokens + new_tokens > longest:
        why = f"a prompt of {tokens} tokens and new_tokens = {new_tokens} are more than its context of {longest}"
        raise UserError(
            f"{name}: {why}; shorten the prompts or new_tokens, or take another student"
        )
