"""A student in this process: its chat template, its seeds, its answers in the ledger.

`served.py` asks one behind a server. Every request has its own seed, made from its messages and
replicate, so its answer depends neither on its batch nor on the order, and a resumed run gets the
same one.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence

import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from helpers.chat.ledger import Call, Ledger, key
from helpers.chat.replies import Reply, Request, parse
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.progress import Progress
from helpers.student.kv_cache import Answer
from helpers.student.sampler import in_threads
from helpers.training.data import load_tokenizer
from helpers.training.hub import revision
from helpers.training.memory import ATTENTION
from helpers.training.recipe import fingerprint


class Student:
    """A model in this process that is asked as a server is: requests in, replies out and stored.

    `device` is torch's name for one; "auto" takes the GPU if there is one.

    Raises:
        UserError: a model that cannot be sampled here, or no such device.
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
        self.name = path.removeprefix(f"{ROOT}/")
        self.ledger = ledger
        self.sampling = {
            "batch": batch,
            "new_tokens": new_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }
        # What an answer depends on besides model, messages and replicate.
        self.settings = {
            "max_tokens": new_tokens,
            "temperature": temperature,
            "seed": seed,
            "dtype": dtype,
        }
        if top_p < 1:
            self.settings["top_p"] = top_p
        self.identity = f"local:{fingerprint(path)}"
        disable_progress_bar()  # of loading: a widget that would stay in the notebook
        self.tokenizer = load_tokenizer(path)
        self.model, self.context = load(path, self.name, dtype, device)
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self.end = {self.tokenizer.eos_token_id, *ends} - {None}

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        """Make room on the device: a judge on this machine may need it next."""
        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply to each request; what the ledger holds is not sampled again.

        A kill loses at most one batch.

        Raises:
            UserError: no chat template, or a prompt that leaves no room for the answer in the
                model's context; nothing was sampled.
        """
        calls = []
        for request in requests:
            body = {"messages": request.messages, **self.settings}
            name = key(self.identity, body, request.replicate)
            calls.append(Call(name, request.replicate, body))
        replies = [self.ledger.reply(call.key) for call in calls]
        answers = []
        for i, call in enumerate(calls):
            if replies[i] is None:
                prompt = prompt_ids(self.tokenizer, call.body["messages"])
                answers.append(Answer(i, tuple(prompt), seed_of(call.key)))
        prompts = [answer.prompt for answer in answers]
        check_room(prompts, self.settings["max_tokens"], self.context, self.name)
        # Equal prompts stand side by side; longer answers go with longer prompts.
        answers.sort(key=lambda answer: len(answer.prompt))
        with Progress("answers sampled", len(requests)) as progress:
            progress.advance(len(requests) - len(answers))
            for completed in in_threads(self.model, answers, end=self.end, **self.sampling):
                rows = []
                for answer in completed:
                    call = calls[answer.number]
                    replies[answer.number] = self._as_reply(answer.tokens)
                    rows.append((call.key, call.body, call.replicate, replies[answer.number]))
                self.ledger.store(rows, endpoint=self.identity, model=self.name, role="student")
                progress.advance(len(rows))
        return [parse(raw)[0] for raw in replies]

    def _as_reply(self, tokens: list[int]) -> bytes:
        """An answer in the form in which a server sends one."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        finish = "length" if len(tokens) == self.settings["max_tokens"] else "stop"
        choice = {"message": {"content": text}, "finish_reason": finish}
        return json.dumps({"choices": [choice]}, ensure_ascii=False).encode()


def seed_of(request_key: str) -> int:
    return int(hashlib.sha256(request_key.encode()).hexdigest()[:15], 16)


def load(path: str, name: str, dtype: str, device: str):
    """The model with the sampler's attention, on its device, and how many tokens it attends to.

    Raises:
        UserError: an architecture whose attention cannot be replaced, layers that keep another
            state than keys and values, as Mamba's do, or no such device.
    """
    known = {"revision": revision(path), "attn_implementation": "cached"}
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), **known)
        config = model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        if not positions or set(getattr(config, "layer_types", None) or ()) - ATTENTION:
            raise ValueError("not all its layers are attention over numbered positions")
        model.to(device).eval()
    except (KeyError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{name} cannot be sampled here on sample_device = {device} ({reason}); give 03_grade a"
            " `serve` command, or a device: auto, cpu, cuda or cuda:1"
        ) from None
    return model, min(positions, getattr(config, "sliding_window", None) or positions)


def prompt_ids(tokenizer, messages: list[dict]) -> list[int]:
    """The tokens of a chat up to where the assistant goes on, by the model's own template."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The template wrote <bos> already.
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def check_room(prompts: Iterable[list[int]], new_tokens: int, context: int, name: str) -> None:
    """Refuse prompts that leave no room for an answer.

    Raises:
        UserError: the longest prompt and `new_tokens` are more than the context, all in tokens.
    """
    longest = max(map(len, prompts), default=0)
    if longest + new_tokens > context:
        raise UserError(
            f"{name}: a prompt of {longest} tokens and new_tokens = {new_tokens} are more than its"
            f" context of {context}; shorten the prompts or new_tokens, or take another student"
        )
