"""Requests, what is sent for them, and how their stored replies are read.

Reading starts from the ledger's bytes, so it costs nothing to do it again. `Outcome` alone decides
what is asked next, from nothing but the ledger.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from helpers.chat.endpoint import Endpoint, host
from helpers.chat.ledger import Call, Ledger, key
from helpers.errors import UserError

MOST_TOKENS = 2**53  # a count beyond it is nonsense
BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens")  # fields of a reply's usage
INSIDE = ("cached_tokens", "cache_write_tokens", "cache_creation_tokens")  # of its details


@dataclass(frozen=True)
class Request:
    """Messages, how many replies are wanted, and the first one's number as a replicate.

    A replicate is the same question asked anew.
    """

    messages: list[dict]
    n: int = 1
    replicate: int = 0
    schema: dict | None = None  # JSON schema that the server holds the replies to


@dataclass(frozen=True)
class Reply:
    text: str
    cut: bool  # stopped at the token limit
    refused: bool = False  # the provider says that its model or its filter did
    thought: bool = False  # aloud: in the text, or in a field beside it


class Usage(NamedTuple):
    """The tokens that a reply says it took; those of a cache are part of the prompt's."""

    prompt: int
    completion: int
    cache_read: int = 0
    cache_write: int = 0


def request_body(request: Request, endpoint: Endpoint, replicate: int, n: int) -> dict:
    """What is sent. The seed tells replicates apart where the endpoint takes one."""
    schema = {"name": "reply", "strict": True, "schema": request.schema}
    body = {
        "model": endpoint.model,
        "messages": request.messages,
        endpoint.max_tokens_field: endpoint.max_tokens,
        "temperature": endpoint.temperature,
        "top_p": endpoint.top_p,
        "seed": endpoint.seed * 1_000_003 + replicate if endpoint.takes_seed else None,
        "n": n if n > 1 else None,
        # Has a server sample by a JSON schema.
        "response_format": request.schema and {"type": "json_schema", "json_schema": schema},
    }
    return {name: value for name, value in body.items() if value is not None} | endpoint.extra_body


def identity(endpoint: Endpoint, body: dict, replicate: int) -> str:
    """The ledger's key of a request."""
    if endpoint.weights:
        return key(endpoint.weights, {**body, "model": ""}, replicate)
    return key(host(endpoint.base_url).provider, body, replicate)


# ---- what stored bytes say: none of this may fail, whatever a server sent ----


def contents(raw: bytes) -> dict:
    """A reply's JSON object; an empty one where it is something else."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def choices(content: dict) -> list[Reply]:
    """The choices of a reply; none where they are not what a chat completion's are.

    A choice without text counts as empty text.
    """
    try:
        return [reply_of(choice["message"], choice) for choice in content["choices"]]
    except (KeyError, TypeError, AttributeError):
        return []


def reply_of(message: dict, choice: dict) -> Reply:
    """A choice as we read it; servers have two names for the field of thoughts."""
    text = clean(message.get("content"))
    finish = choice.get("finish_reason")
    thoughts = message.get("reasoning_content") or message.get("reasoning") or "<think>" in text
    return Reply(
        text,
        cut=finish == "length",
        refused=bool(message.get("refusal")) or finish == "content_filter",
        thought=bool(thoughts),
    )


def parse(raw: bytes) -> list[Reply]:
    return choices(contents(raw))


def clean(text: Any) -> str:
    """A choice's text without halves of surrogate pairs, which some cut replies end with."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else ""


def part(content: dict, name: str) -> dict:
    """An object in a JSON object; an empty one where there is none, or something else."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def usage_of(content: dict) -> Usage | None:
    """The tokens of a reply; where it gives two different numbers, the larger one.

    A total above prompt and completion includes tokens of thought. OpenAI counts a cache's tokens
    within the prompt's (and names them in the details), Anthropic beside them.

    Returns:
        None without counts, or where one of them is no number of tokens.
    """
    usage = part(content, "usage")
    details = part(usage, "prompt_tokens_details")
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    counts += [usage.get(name) or 0 for name in ("total_tokens", *BESIDE)]
    counts += [details.get(name) or 0 for name in INSIDE]
    if not all(type(count) is int and 0 <= count < MOST_TOKENS for count in counts):
        return None
    prompt, completion, total, read_beside, written_beside, read, *inside = counts
    if prompt == 0:  # a server that does not count
        return None
    completion = max(completion, total - prompt)
    written = max(inside)
    prompt += max(0, read_beside - read) + max(0, written_beside - written)
    written = min(prompt, max(written, written_beside))
    read = min(prompt - written, max(read, read_beside))
    return Usage(prompt, completion, read, written)


@dataclass(frozen=True)
class Unreadable:
    """Why a reply cannot be used."""

    reason: str


# What a caller makes of a reply: anything, or why it cannot be used.
Read = Callable[[Request, Reply], Any]


def with_text(request: Request, reply: Reply) -> Reply | Unreadable:
    """The reply as it is, if it has any text."""
    return reply if reply.text.strip() else Unreadable("no text")


@dataclass
class Outcome:
    """What the stored replies to one request have brought so far; `look` says what to ask next.

    The first request asks for all replies where the endpoint takes `n`. Each one missing or
    unreadable is asked for again alone, as the next replicate, at most `re_asks` times.
    """

    request: Request
    endpoint: Endpoint
    read: Read = with_text
    re_asks: int = 2
    usable: list = field(default_factory=list)  # what was read, earliest first, at most request.n
    unreadable: list[str] = field(default_factory=list)  # why, of each reply that was not
    asked: int = 0  # replies asked for, of those that were looked at

    @property
    def first(self) -> Any:
        """What was read of the earliest usable reply; None without one."""
        return self.usable[0] if self.usable else None

    def look(self, ledger: Ledger) -> list[Call]:
        """Read what has come since the last look, each reply once.

        Returns:
            The requests to send next; none when there is nothing left to ask.
        """
        wanted, most = self.request.n, self.request.n + self.re_asks
        while len(self.usable) < wanted and self.asked < most:
            at_once = wanted if self.asked == 0 and self.endpoint.takes_n else 1
            following = self._call(self.asked, at_once)
            raw = ledger.reply(following.key)
            if raw is None:
                # Each alone brings one reply at most, so all of these will be needed.
                needed = min(wanted - len(self.usable), most - self.asked)
                later = [self._call(self.asked + i, 1) for i in range(at_once, needed)]
                return [following, *(call for call in later if ledger.reply(call.key) is None)]
            self.asked += at_once
            for reply in parse(raw):
                self._take(reply)
        return []

    def _take(self, reply: Reply) -> None:
        result = self.read(self.request, reply)
        if isinstance(result, Unreadable):
            self.unreadable.append(result.reason)
        elif len(self.usable) < self.request.n:  # some endpoints send more than they were asked
            self.usable.append(result)

    def _call(self, offset: int, n: int) -> Call:
        replicate = self.request.replicate + offset
        body = request_body(self.request, self.endpoint, replicate, n)
        return Call(identity(self.endpoint, body, replicate), replicate, body)


# ---- for analysis ----


def table(ledger: Path) -> pd.DataFrame:
    """Every stored reply, oldest first. The ledger is only read, also while a run writes it.

    Columns: role, model, endpoint, replicate; messages (what was asked), texts (of the reply's
    choices); prompt_tokens, completion_tokens, dollars; ended (Unix time).

    Raises:
        UserError: there is no such ledger, or it cannot be read.
    """
    if not ledger.exists():
        raise UserError(f"{ledger}: no ledger there")
    replies = Ledger(ledger).replies()
    replies["messages"] = [contents(body).get("messages") for body in replies.messages]
    replies["texts"] = [[choice.text for choice in parse(raw)] for raw in replies.texts]
    return replies
