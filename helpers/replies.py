"""One request, what is sent for it, and what the ledger's stored bytes say: pure functions, free to run again.

`outcome` alone decides what is asked next, from nothing but the ledger.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from helpers.endpoint import Endpoint, provider
from helpers.ledger import Asked, Ledger, key


@dataclass(frozen=True)
class Request:
    """Messages, how many replies are wanted, and the first replicate's number: the same question asked anew."""

    messages: list[dict]
    n: int = 1
    replicate: int = 0


@dataclass(frozen=True)
class Reply:
    text: str
    cut: bool  # stopped at the token limit


def request_body(request: Request, endpoint: Endpoint, replicate: int, n: int) -> dict:
    """What is sent. The seed tells replicates apart where the endpoint takes one."""
    body = {"model": endpoint.model, "messages": request.messages, endpoint.max_tokens_field: endpoint.max_tokens}
    seed = endpoint.seed * 1_000_003 + replicate if endpoint.takes_seed else None
    optional = {"temperature": endpoint.temperature, "top_p": endpoint.top_p, "seed": seed, "n": n if n > 1 else None}
    return {**body, **{name: value for name, value in optional.items() if value is not None}, **endpoint.extra_body}


def identity(endpoint: Endpoint, body: dict, replicate: int) -> str:
    """The ledger's key of a request."""
    if endpoint.weights:
        return key(endpoint.weights, {**body, "model": ""}, replicate)
    return key(provider(endpoint.base_url), body, replicate)


def parse(raw: bytes) -> list[Reply]:
    """The choices of a stored reply; none if its JSON is broken. A choice without text counts as empty text."""
    try:
        choices = json.loads(raw)["choices"]
        return [Reply(clean(c["message"].get("content")), c.get("finish_reason") == "length") for c in choices]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def clean(content) -> str:
    """A choice's text; half of a surrogate pair, as some send at the token limit, could not be sent on."""
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def usage_of(raw: bytes) -> dict[str, int]:
    """The token counts of a reply, as far as it has any."""
    try:
        return {name: count for name, count in json.loads(raw)["usage"].items() if isinstance(count, int)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def has_text(reply: Reply) -> bool:
    return bool(reply.text.strip())


def outcome(
    request: Request, endpoint: Endpoint, ledger: Ledger, *, usable: Callable[[Reply], bool] = has_text, re_asks: int = 2
) -> tuple[list[Reply], list[Asked]]:
    """The usable replies that the ledger holds, earliest first, at most `request.n`, and what has to be asked next.

    The first request asks for all replies where the endpoint takes `n`; each one missing or unusable is asked for again
    alone, as the next replicate, while the budget of `re_asks` lasts. Nothing is left to ask when the second list is empty.
    """
    found: list[Reply] = []
    first = request.n if endpoint.takes_n else 1
    asked, most = 0, request.n + re_asks
    while len(found) < request.n and asked < most:
        n = first if not asked else 1
        this = asked_for(request, endpoint, asked, n)
        if (raw := ledger.reply(this.key)) is None:  # alone each of them brings one reply at most, so all will be needed
            rest = 1 if n > 1 else min(request.n - len(found), most - asked)
            later = (asked_for(request, endpoint, asked + i, 1) for i in range(1, rest))
            return found, [this, *(a for a in later if ledger.reply(a.key) is None)]
        found += filter(usable, parse(raw))
        asked += n
    return found[: request.n], []


def asked_for(request: Request, endpoint: Endpoint, offset: int, n: int) -> Asked:
    replicate = request.replicate + offset
    body = request_body(request, endpoint, replicate, n)
    return Asked(identity(endpoint, body, replicate), replicate, body)
