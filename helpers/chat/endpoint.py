"""Where a model answers: an endpoint's settings, its client, its key (from the environment only, and into no message)."""

import os
import re
from typing import Literal

import httpx2
import openai
import pydantic
from pydantic import JsonValue, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from helpers.errors import UserError

OWN = {
    "model",
    "messages",
    "n",
    "seed",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stream",
}  # not for `extra_body`


class Endpoint(pydantic.BaseModel):
    """Where a model answers and what the endpoint understands.

    A reasoning model takes `temperature: null`, `max_tokens_field: max_completion_tokens` and often neither n nor seed;
    Ollama takes no n. What else a model needs goes into `extra_body`, for example `{reasoning_effort: low}`, or
    `{top_k: -1}` for vLLM, which else takes it from the model's own files.
    """

    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)

    base_url: str  # `world:` is the embedded one, in process; anything else is an HTTP address
    model: str
    # The environment variable that holds the key; the key itself stands nowhere.
    key_env: str = pydantic.Field(
        default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
    )
    temperature: NonNegativeFloat | None = 0.7  # None: the model takes none
    max_tokens: PositiveInt = 1024
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = (
        "max_tokens"  # newer models have the second
    )
    takes_n: bool = True  # several choices in one request
    takes_seed: bool = True
    top_p: float | None = pydantic.Field(default=None, gt=0, le=1)  # None: not sent
    seed: NonNegativeInt = 0  # tells runs apart, as the replicate's number tells samples apart
    weights: str = ""  # what a student is, where that is known: its replies are stored under this, not under address and name
    free: bool = False  # costs nothing: a machine of your own; else the price file must know the model where there is a budget
    extra_body: dict[str, JsonValue] = {}  # further parameters of the request, sent as they are
    concurrency: PositiveInt = 16
    requests_per_minute: PositiveFloat | None = (
        None  # each process keeps to them for itself; None: no limit but concurrency
    )
    tokens_per_minute: PositiveFloat | None = (
        None  # counted as providers do: the prompt, estimated, and n x max_tokens
    )
    timeout: PositiveFloat = 600.0  # seconds
    batch_api: bool = False  # by the provider's Batch API: half the price, within a day

    @pydantic.field_validator("extra_body")
    @classmethod
    def _has_own_names(cls, extra: dict) -> dict:
        if taken := sorted(OWN & set(extra)):
            raise ValueError(
                f"{', '.join(taken)} may not stand in extra_body; the endpoint's own settings make the request's {taken[0]}"
            )
        return extra


class Network:
    """An HTTP address; `helpers.world.endpoint.World` is its like for the embedded world.

    Raises:
        UserError: it is neither HTTP nor the embedded world.
    """

    licence = "unknown"  # of its output

    def __init__(self, base_url: str):
        if not base_url.startswith(("http://", "https://")):
            raise UserError(f"base_url = {base_url!r} is neither http(s)://... nor world:")
        self.provider = self.url = base_url
        self.needs_key = not re.match(
            r"https?://(localhost|127\.0\.0\.1|\[::1\])([:/]|$)", base_url
        )

    def check(self, model: str, skills: list[str], topics: list[str]) -> None:
        """A model behind the network is asked anything."""

    def http_client(self) -> httpx2.AsyncClient:
        return openai.DefaultAioHttpClient()


def host(base_url: str):
    """Who answers at an address: the one place that tells the embedded world from the network.

    Returns:
        An object with `provider` (what replies are stored under), `url`, `needs_key`, `licence`,
        `check(model, skills, topics)` and `http_client()`.
    """
    if base_url.startswith("world:"):
        from helpers.world.endpoint import World  # loaded only where it is asked

        return World(base_url)
    return Network(base_url)


def secret_of(endpoint: Endpoint) -> str:
    """The key, or nothing; a line break at its end, as a file has one, is no part of it."""
    return os.environ.get(endpoint.key_env, "").strip()


def client(endpoint: Endpoint) -> openai.AsyncOpenAI:
    """A client without retries of its own.

    Raises:
        UserError: the key's environment variable is not set (the world and loopback need none), or holds no key.
    """
    there = host(endpoint.base_url)
    secret = secret_of(endpoint) or ("" if there.needs_key and not endpoint.free else "none")
    if not secret:
        raise UserError(
            f"{endpoint.base_url} needs a key: set the environment variable {endpoint.key_env}"
        )
    if not re.fullmatch("[!-~]+", secret):
        raise UserError(
            f"the environment variable {endpoint.key_env} holds a space or a character that no key has; set it anew"
        )
    return openai.AsyncOpenAI(
        base_url=there.url,
        api_key=secret,
        max_retries=0,
        timeout=endpoint.timeout,
        http_client=there.http_client(),
    )


def redacted(message: str, endpoint: Endpoint) -> str:
    """An endpoint's words in one line, without anything that looks like a key."""
    secret, message = secret_of(endpoint), " ".join(message.split())
    message = message.replace(secret, "[key]") if secret else message
    return re.sub(r"\b(sk|hf|key)[-_][\w*.-]{6,}", "[key]", message)[:500]
