"""Sampling from a student: in batches with `transformers` here, or from any OpenAI-compatible server.

Every request has its own seed, made from its messages and replicate, and one uniform number a token: its sample does
not depend on the batch it came in, on order, or on a resumed run.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
from transformers.masking_utils import AttentionMaskInterface
from transformers.utils.logging import disable_progress_bar

from helpers.chat import Reply, Request, parse
from helpers.ledger import Ledger, key
from helpers.paths import ROOT
from helpers.progress import Progress
from helpers.recipe import fingerprint


class Cache:
    """Keys and values: one tensor a layer, (rows, heads, length, head size)."""

    def __init__(self, config, rows: int, length: int, dtype, device):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, config.num_key_value_heads, length, head)
        self.k = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.v = [torch.zeros_like(k) for k in self.k]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop the rows of finished requests, so that they cost nothing."""
        self.k, self.v = [k[rows] for k in self.k], [v[rows] for v in self.v]


def cached_attention(module, q, k, v, attention_mask, scaling=None, cache=None, rows=None, at=None, seen=None, grid=None, **_):
    """Attention of flattened tokens, (1, heads, T, D), that writes to the cache and reads from it.

    Prompts come all at once, `grid` = (their places on the right-padded grid, its rows, its length); later each row has
    one token and sees `seen`, an additive mask (rows, length).
    """
    keys, values = cache.k[module.layer_idx], cache.v[module.layer_idx]
    keys[rows, :, at], values[rows, :, at] = k[0].transpose(0, 1), v[0].transpose(0, 1)
    grouped = q.shape[1] != k.shape[1]
    if grid is not None:
        place, n, length = grid

        def spread(a):
            flat = a.new_zeros(n * length, a.shape[1], a.shape[3]).index_copy(0, place, a[0].transpose(0, 1))
            return flat.view(n, length, a.shape[1], -1).transpose(1, 2)

        out = F.scaled_dot_product_attention(spread(q), spread(k), spread(v), is_causal=True, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2).reshape(n * length, q.shape[1], -1)[place][None], None
    n, length = seen.shape
    keys, values = keys[:n, :, :length], values[:n, :, :length]
    if grouped:
        keys, values = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (keys, values))
    scores = torch.matmul(q[0].transpose(0, 1).unsqueeze(2), keys.transpose(2, 3)).float() * scaling + seen[:, None, None]
    return torch.matmul(scores.softmax(-1).to(values.dtype), values)[:, :, 0][None], None


AttentionInterface.register("cached", cached_attention)
AttentionMaskInterface.register("cached", lambda *args, **kwargs: None)


@torch.inference_mode()
def sample(
    model, prompts: Sequence[list[int]], seeds: Sequence[int], *, new_tokens: int, temperature: float, end: set[int]
) -> list[list[int]]:
    """The new tokens of each prompt, end token left out; `new_tokens` of them where it was not reached.

    Temperature 0 takes the likeliest token.
    """
    device, rows = model.device, len(prompts)
    uniform = torch.stack([torch.rand(new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]).to(device)
    size = torch.tensor([len(p) for p in prompts], device=device)
    longest = int(size.max())
    cache = Cache(model.config, rows, longest + new_tokens, model.dtype, device)
    row = torch.repeat_interleave(torch.arange(rows, device=device), size)
    at = torch.cat([torch.arange(len(p)) for p in prompts]).to(device)
    ids = torch.tensor([t for p in prompts for t in p], device=device)
    place = {"cache": cache, "rows": row, "at": at, "grid": (row * longest + at, rows, longest), "use_cache": False}
    logits = model(input_ids=ids[None], position_ids=at[None], logits_to_keep=size.cumsum(0) - 1, **place).logits[0]
    new: list[list[int]] = [[] for _ in prompts]
    live, positions = torch.arange(rows, device=device), torch.arange(longest + new_tokens, device=device)
    ends = torch.tensor(sorted(end), device=device)
    for step in range(new_tokens):
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            mass = (logits.float() / temperature).softmax(-1).cumsum(-1)
            token = (mass < uniform[live, step, None] * mass[:, -1:]).sum(-1).clamp_(max=logits.shape[-1] - 1)
        going = ~torch.isin(token, ends)
        for i, t in zip(live[going].tolist(), token[going].tolist(), strict=True):
            new[i].append(t)
        if step == new_tokens - 1 or not going.any():
            break
        if not going.all():
            live, token, size = live[going], token[going], size[going]
            cache.keep(going)
        length = int(size.max()) + 1
        seen = torch.zeros(len(live), length, device=device).masked_fill_(positions[:length] > size[:, None], float("-inf"))
        place = {"cache": cache, "rows": torch.arange(len(live), device=device), "at": size, "seen": seen, "use_cache": False}
        logits = model(input_ids=token[None], position_ids=size[None], **place).logits[0]
        size = size + 1
    return new


class Student:
    """A model in this process that answers like `chat.ask`: requests in, replies out, all of them in the ledger."""

    def __init__(self, path: str, ledger: Ledger, *, new_tokens: int, temperature: float, batch: int, seed: int, dtype: str = "float32"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        disable_progress_bar()  # of loading: a widget that would stay in the notebook
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="cached")
        self.model = model.to(device).eval()
        end = model.generation_config.eos_token_id
        self.end = {self.tokenizer.eos_token_id, *(end if isinstance(end, list) else [end])} - {None}
        self.ledger, self.batch = ledger, batch
        self.settings = {"max_tokens": new_tokens, "temperature": temperature, "seed": seed, "dtype": dtype}
        self.name = str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else path
        self.identity = f"local:{fingerprint(path)}"

    def ask(self, requests: Sequence[Request]) -> list[list[Reply]]:
        """One reply to each request; what the ledger holds is not sampled again. A kill loses at most one batch."""
        bodies = [{"messages": r.messages, **self.settings} for r in requests]
        keys = [key(self.identity, b, r.replicate) for b, r in zip(bodies, requests, strict=True)]
        stored = [self.ledger.reply(k) for k in keys]
        missing = [i for i, raw in enumerate(stored) if raw is None]
        prompts = {i: self.tokenizer.apply_chat_template(requests[i].messages, tokenize=False, add_generation_prompt=True) for i in missing}
        ids = {i: self.tokenizer(prompts[i], add_special_tokens=False)["input_ids"] for i in missing}
        missing.sort(key=lambda i: (len(ids[i]), i))  # alike in length, longer answers to longer prompts
        with Progress("answers sampled", len(requests)) as progress:
            progress.advance(len(requests) - len(missing))
            for start in range(0, len(missing), self.batch):
                some = missing[start : start + self.batch]
                seeds = [int(hashlib.sha256(keys[i].encode()).hexdigest()[:15], 16) for i in some]
                settings = {"new_tokens": self.settings["max_tokens"], "temperature": self.settings["temperature"]}
                new = sample(self.model, [ids[i] for i in some], seeds, end=self.end, **settings)
                for i, tokens in zip(some, new, strict=True):
                    text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
                    finish = "length" if len(tokens) == settings["new_tokens"] else "stop"
                    choice = {"message": {"content": text}, "finish_reason": finish}
                    stored[i] = json.dumps({"choices": [choice]}, ensure_ascii=False).encode()
                rows = [(keys[i], bodies[i], requests[i].replicate, stored[i]) for i in some]
                self.ledger.store(rows, endpoint=self.identity, model=self.name, stage="student")
                progress.advance(len(some))
        return [parse(raw) for raw in stored]
