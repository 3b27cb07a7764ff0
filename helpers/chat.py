"""The chat client: sends requests to an OpenAI-compatible endpoint and stores every reply in the ledger.

Teacher, judge and served students all go through `ask`. The SDK's own retries are off, since they lose paid replies
and give up on rate limits; ours are three rest: rate limits by time, transport failures by count, and replies that
were paid for but cannot be used by count.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import aiohttp
import httpx2
import openai
import pydantic
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from helpers.errors import UserError
from helpers.ledger import Ledger, key
from helpers.progress import Progress

TRANSPORT_TRIES = 6
RATE_LIMIT_SECONDS = 1800  # how long one request may be put off before the run stops
FIRST_WAIT = 1.0  # seconds before the second try at most, doubling up to LONGEST_WAIT
LONGEST_WAIT = 30


class Endpoint(pydantic.BaseModel):
    """Where a model answers and what the endpoint understands."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    base_url: str  # `world:` is the embedded one, in process; anything else is an HTTP address
    model: str
    key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key; the key itself stands nowhere
    temperature: NonNegativeFloat | None = 0.7  # None: the model takes none
    max_tokens: PositiveInt = 1024
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # newer models have the second
    takes_n: bool = True  # several choices in one request
    takes_seed: bool = True
    top_p: float | None = pydantic.Field(default=None, gt=0, le=1)  # None: not sent
    seed: NonNegativeInt = 0  # tells runs apart, as the replicate's number tells samples apart
    weights: str = ""  # what a student is, where that is known: its replies are stored under this, not under address and name
    concurrency: PositiveInt = 16
    timeout: PositiveFloat = 600.0  # seconds


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
    return {**body, **{name: value for name, value in optional.items() if value is not None}}


def identity(endpoint: Endpoint, body: dict, replicate: int) -> str:
    """The ledger's key of a request."""
    if endpoint.weights:
        return key(endpoint.weights, {**body, "model": ""}, replicate)
    return key(endpoint.base_url, body, replicate)


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


def check_address(base_url: str) -> None:
    """Is this an address that `http_client` can serve?

    Raises:
        UserError: neither HTTP nor the embedded world, or error rates that the world does not have.
    """
    if base_url.startswith("world:"):
        http_client(base_url)
    elif not base_url.startswith(("http://", "https://")):
        raise UserError(f"base_url = {base_url!r} is neither http(s)://... nor world:")


def http_client(base_url: str) -> httpx2.AsyncClient:
    """The one place that knows the embedded world from the network."""
    if base_url.startswith("world:"):
        from helpers.world.endpoint import Transport  # the world is loaded only where it is asked

        return httpx2.AsyncClient(transport=Transport(base_url))
    return openai.DefaultAioHttpClient()


def secret_of(endpoint: Endpoint) -> str:
    """The key, or nothing; a line break at its end, as a file has one, is no part of it."""
    return os.environ.get(endpoint.key_env, "").strip()


def client(endpoint: Endpoint) -> openai.AsyncOpenAI:
    """A client without retries of its own.

    Raises:
        UserError: the key's environment variable is not set (the world and loopback need none), or holds no key.
    """
    local = re.match(r"world:|https?://(localhost|127\.0\.0\.1|\[::1\])([:/]|$)", endpoint.base_url)
    secret = secret_of(endpoint) or ("none" if local else "")
    if not secret:
        raise UserError(f"{endpoint.base_url} needs a key: set the environment variable {endpoint.key_env}")
    if not re.fullmatch("[!-~]+", secret):
        raise UserError(f"the environment variable {endpoint.key_env} holds a space or a character that no key has; set it anew")
    url = "http://world/v1" if endpoint.base_url.startswith("world:") else endpoint.base_url
    http = http_client(endpoint.base_url)
    return openai.AsyncOpenAI(base_url=url, api_key=secret, max_retries=0, timeout=endpoint.timeout, http_client=http)


def redacted(message: str, endpoint: Endpoint) -> str:
    """An endpoint's words in one line, without anything that looks like a key."""
    secret, message = secret_of(endpoint), " ".join(message.split())
    message = message.replace(secret, "[key]") if secret else message
    return re.sub(r"\b(sk|hf|key)[-_][\w*.-]{6,}", "[key]", message)[:500]


def final(error: openai.APIStatusError, endpoint: Endpoint) -> UserError | None:
    """The sentence for an error that no second try can mend, or None."""
    name, status = f"{endpoint.base_url}, model {endpoint.model}", error.status_code
    if status in (401, 403):
        return UserError(f"{name}: the key in {endpoint.key_env} was refused (HTTP {status})")
    if status == 404:
        return UserError(f"{name}: not found (HTTP 404); name a model and a base_url that the provider still has")
    if status == 429 and error.code == "insufficient_quota":
        return UserError(f"{name}: the account's quota is used up; replies so far are stored, run again to go on")
    if status < 500 and status not in (408, 409, 429):
        said = error.body.get("message", error.body.get("detail")) if isinstance(error.body, dict) else error.body
        return UserError(f"{name}: the request was refused (HTTP {status}): {redacted(str(said or error.message), endpoint)}")
    return None


def put_off(error: openai.APIStatusError) -> float:
    """Seconds to wait after a rate limit: what the endpoint says, and up to half as much again, so that not all return at once."""
    headers = error.response.headers
    try:
        wait = float(headers.get("retry-after-ms", 0)) / 1000 or float(headers.get("retry-after", 0))
    except ValueError:  # a date
        wait = 0
    return (wait if wait > 0 else 1.0) * random.uniform(1, 1.5)


async def send(api, endpoint: Endpoint, ledger: Ledger, body: dict, identity: str, *, stage: str, replicate: int) -> None:
    """Ask until a reply is stored.

    Raises:
        UserError: an error that no second try can mend, or a budget is used up.
    """
    start, failures = time.monotonic(), 0
    while True:
        attempt = ledger.begin(identity, endpoint=endpoint.base_url, model=endpoint.model, stage=stage, replicate=replicate, body=body)
        try:
            raw = await api.chat.completions.with_raw_response.create(**body)
        except openai.APIStatusError as error:
            failure = f"HTTP {error.status_code}"
            ledger.failed(attempt, failure)
            if sentence := final(error, endpoint):
                raise sentence from None
            if error.status_code == 429:
                wait = put_off(error)
                if time.monotonic() - start + wait > RATE_LIMIT_SECONDS:
                    why = f"rate limited for over {RATE_LIMIT_SECONDS // 60} minutes; replies so far are stored, run again to go on"
                    raise UserError(f"{endpoint.base_url}: {why}") from None
                await asyncio.sleep(wait)
                continue
        except (openai.APIConnectionError, aiohttp.ClientError) as error:  # the SDK lets some of aiohttp's pass
            failure = type(error).__name__
            ledger.failed(attempt, failure)
        else:
            ledger.replied(attempt, raw.content, request_id=raw.request_id, usage=usage_of(raw.content))
            return
        failures += 1
        if failures == TRANSPORT_TRIES:
            raise UserError(f"{endpoint.base_url}: {failures} failures in a row ({failure}); replies so far are stored, run again to go on")
        await asyncio.sleep(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1)) * random.random())


async def answer(
    api, endpoint: Endpoint, ledger: Ledger, request: Request, *, stage: str, usable: Callable, re_asks: int, asking: dict
) -> list[Reply]:
    """At most `request.n` usable replies to one request, earliest first.

    The first request asks for all of them where the endpoint takes `n`; each one missing or unusable is asked for
    again alone, as the next replicate, while the budget of `re_asks` lasts.
    """
    found: list[Reply] = []
    first = request.n if endpoint.takes_n else 1
    replicate, asked, budget = request.replicate, 0, request.n + re_asks
    while len(found) < request.n and asked < budget:
        n = first if not asked else 1
        body = request_body(request, endpoint, replicate, n)
        asked_as = identity(endpoint, body, replicate)
        async with asking[asked_as]:  # its lock: the same may be on its way for another request
            if ledger.reply(asked_as) is None:
                await send(api, endpoint, ledger, body, asked_as, stage=stage, replicate=replicate)
        found += [c for c in parse(ledger.reply(asked_as)) if usable(c)]
        replicate, asked = replicate + n, asked + n
    return found[: request.n]


def in_thread(work: Coroutine) -> Any:
    """Run to the end in a thread, since a notebook's kernel has an event loop of its own; an interrupt cancels the work."""
    loop = asyncio.new_event_loop()

    def run():
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(work)

    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(run)
        try:
            return result.result()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # it had ended
                loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
            raise


def ask(
    requests: Sequence[Request],
    endpoint: Endpoint,
    ledger: Ledger,
    *,
    stage: str,
    usable: Callable[[Request, Reply], bool] = lambda request, reply: bool(reply.text.strip()),
    re_asks: int = 2,
    what: str = "",
) -> list[list[Reply]]:
    """Ask all requests, at most `endpoint.concurrency` at once; what the ledger holds is not asked again.

    Args:
        stage: who is asked (teacher, judge, student), for the ledger.
        usable: whether a reply can be used; others are asked again, at most `re_asks` times a request.

    Returns:
        For each request its usable replies, at most `request.n`; fewer where the budget was used up.

    Raises:
        UserError: what no second try can mend. Replies that came before it are stored.
    """

    async def all_of_them() -> list[list[Reply]]:
        replies: list[list[Reply]] = [[] for _ in requests]
        waiting, asking = iter(enumerate(requests)), defaultdict(asyncio.Lock)
        with Progress(what or stage, len(requests)) as progress:
            async with client(endpoint) as api:

                async def worker():
                    for i, request in waiting:
                        rest = {"stage": stage, "usable": partial(usable, request), "re_asks": re_asks, "asking": asking}
                        replies[i] = await answer(api, endpoint, ledger, request, **rest)
                        progress.advance()

                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(endpoint.concurrency, len(requests))):
                            group.create_task(worker())
                except BaseExceptionGroup as several:  # the first failure cancels the other workers
                    raise several.exceptions[0] from None
        return replies

    return in_thread(all_of_them())
