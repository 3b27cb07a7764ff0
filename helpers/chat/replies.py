"""One request, what is sent for it, and what the ledger's stored bytes say: free to run again.

`Outcome` alone decides what is asked next, from nothing but the ledger.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from helpers.chat.endpoint import Endpoint, host
from helpers.chat.ledger import Asked, Ledger, key


@dataclass(frozen=True)
class Request:
    """Messages, how many replies are wanted, and the first replicate's number: the same question asked anew."""

    messages: list[dict]
    n: int = 1
    replicate: int = 0
    schema: dict | None = None  # JSON schema that the server holds the replies to


@dataclass(frozen=True)
class Reply:
    text: str
    cut: bool  # stopped at the token limit


def request_body(request: Request, endpoint: Endpoint, replicate: int, n: int) -> dict:
    """What is sent. The seed tells replicates apart where the endpoint takes one."""
    body = {
        "model": endpoint.model,
        "messages": request.messages,
        endpoint.max_tokens_field: endpoint.max_tokens,
    }
    seed = endpoint.seed * 1_000_003 + replicate if endpoint.takes_seed else None
    optional = {
        "temperature": endpoint.temperature,
        "top_p": endpoint.top_p,
        "seed": seed,
        "n": n if n > 1 else None,
        "response_format": response_format(request.schema),
    }
    return {
        **body,
        **{name: value for name, value in optional.items() if value is not None},
        **endpoint.extra_body,
    }


def response_format(schema: dict | None) -> dict | None:
    """The parameter that has a server sample by a JSON schema."""
    if schema is None:
        return None
    return {
        "type": "json_schema",
        "json_schema": {"name": "reply", "strict": True, "schema": schema},
    }


def identity(endpoint: Endpoint, body: dict, replicate: int) -> str:
    """The ledger's key of a request."""
    if endpoint.weights:
        return key(endpoint.weights, {**body, "model": ""}, replicate)
    return key(host(endpoint.base_url).provider, body, replicate)


def parse(raw: bytes) -> list[Reply]:
    """The choices of a stored reply; none if its JSON is broken. A choice without text counts as empty text."""
    try:
        choices = json.loads(raw)["choices"]
        return [
            Reply(clean(c["message"].get("content")), c.get("finish_reason") == "length")
            for c in choices
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def clean(content) -> str:
    """A choice's text; half of a surrogate pair, as some send at the token limit, could not be sent on."""
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def usage_of(raw: bytes) -> dict[str, int]:
    """The token counts of a reply, as far as it has any."""
    try:
        return {
            name: count
            for name, count in json.loads(raw)["usage"].items()
            if isinstance(count, int)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


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

    def look(self, ledger: Ledger) -> list[Asked]:
        """Read what has come since the last look, each reply once.

        Returns:
            The requests to send next; none when there is nothing left to ask.
        """
        most = self.request.n + self.re_asks
        while len(self.usable) < self.request.n and self.asked < most:
            several = self.asked == 0 and self.endpoint.takes_n
            n = self.request.n if several else 1
            following = self._request(self.asked, n)
            raw = ledger.reply(following.key)
            if raw is None and n > 1:
                return [following]
            if raw is None:
                # Each brings one reply at most, so all of these will be needed.
                needed = min(self.request.n - len(self.usable), most - self.asked)
                later = [self._request(self.asked + i, 1) for i in range(1, needed)]
                return [following, *(a for a in later if ledger.reply(a.key) is None)]
            self.asked += n
            for reply in parse(raw):
                self._take(reply)
        return []

    def _take(self, reply: Reply) -> None:
        found = self.read(self.request, reply)
        if isinstance(found, Unreadable):
            self.unreadable.append(found.reason)
        elif len(self.usable) < self.request.n:  # some endpoints send more than they were asked
            self.usable.append(found)

    def _request(self, offset: int, n: int) -> Asked:
        replicate = self.request.replicate + offset
        body = request_body(self.request, self.endpoint, replicate, n)
        return Asked(identity(self.endpoint, body, replicate), replicate, body)
