"""Where a model answers: an endpoint's settings, its client, and its key.

The key comes from the environment only, and goes into no message.
"""

import json
import os
import re
from typing import TYPE_CHECKING, Literal

import httpx2
import pydantic
from pydantic import JsonValue, PositiveFloat

from helpers.errors import UserError

if TYPE_CHECKING:
    import openai  # else loaded only where somebody is asked: it takes half a second

# Fields of a request that other settings make, so `extra_body` may not hold them.
OWN = set(
    "model messages n seed temperature top_p max_tokens max_completion_tokens stream"
    " response_format".split()
)
ADDRESS = r"https?://([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?(/[!-~]*)?"
SHORTEST_KEY = 8  # a shorter one, "none" or "ollama", may be a word of a reply


class Endpoint(pydantic.BaseModel):
    """Where a model answers and what the endpoint understands.

    A reasoning model takes `temperature: null`, `max_tokens_field: max_completion_tokens` and often
    neither n nor seed; Ollama takes no n. What else a model needs goes into `extra_body`, for
    example `{reasoning_effort: low}`, or `{top_k: -1}` for vLLM, which else takes it from the
    model's own files.
    """

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False
    )

    base_url: str  # `world:` is the embedded one, in process; anything else is an HTTP address
    model: str = pydantic.Field(pattern=r"^[^\x00-\x1f\x7f]{1,4096}$")
    # The environment variable that holds the key; the key itself stands nowhere.
    key_env: str = pydantic.Field(
        default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
    )
    temperature: float | None = pydantic.Field(default=0.7, ge=0, le=10)  # None: it takes none
    max_tokens: int = pydantic.Field(default=1024, ge=1, le=2**20)
    # Newer models have the second.
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    takes_n: bool = True  # several choices in one request
    takes_seed: bool = True
    top_p: float | None = pydantic.Field(default=None, gt=0, le=1)  # None: not sent
    # A judge whose server enforces response_format with a JSON schema.
    json_schema: bool = False
    seed: int = pydantic.Field(default=0, ge=0, lt=2**63)  # tells runs apart
    # The fingerprint of a student whose weights are known: its replies are stored under this, not
    # under address and name.
    weights: str = ""
    # Costs nothing, as a machine of your own. Any other model must be in the price file where there
    # is a budget.
    free: bool = False
    extra_body: dict[str, JsonValue] = {}  # further parameters of the request, sent as they are
    concurrency: int = pydantic.Field(default=16, ge=1, le=10_000)
    # A limit on all processes of a ledger together; None: no limit but concurrency.
    requests_per_minute: PositiveFloat | None = None
    # Counted as providers do: the prompt, estimated, and n x max_tokens.
    tokens_per_minute: PositiveFloat | None = None
    timeout: float = pydantic.Field(default=600.0, gt=0, le=86_400)  # seconds
    batch_api: bool = False  # by the provider's Batch API: half the price, within a day

    @pydantic.field_validator("base_url")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        """Nothing secret may stand in it: it goes to ledger, manifest, notebooks and messages."""
        is_open = address == cls.model_fields["base_url"].default  # of a server that is started
        if address.startswith("world:") or is_open:
            return address
        if re.search(r"[@?#]", address):
            raise ValueError(
                "an address has no user, password, query or fragment;"
                " a key belongs into the environment variable that key_env names"
            )
        if not re.fullmatch(ADDRESS, address):
            raise ValueError(f"{address!r} is neither http(s)://... nor world:")
        return address

    @pydantic.field_validator("key_env")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        """Refuse what looks like a key: 16 letters and digits in a row that name no variable."""
        looks_like_a_key = re.search("[A-Za-z0-9]{16}", name) and not re.fullmatch("[A-Z_]+", name)
        if looks_like_a_key and name not in os.environ:
            raise ValueError("this looks like a key")
        return name

    @pydantic.field_validator("extra_body")
    @classmethod
    def _is_sent_as_it_is(cls, extra: dict) -> dict:
        json.dumps(extra, allow_nan=False)
        if taken := sorted(OWN & set(extra)):
            raise ValueError(
                f"{', '.join(taken)} may not stand in extra_body;"
                f" the endpoint's own settings make the request's {taken[0]}"
            )
        return extra


class Network:
    """An HTTP address; `helpers.world.endpoint.World` is its counterpart for the embedded world."""

    free = False

    reply_seconds = (5.0, 20.0)  # from fast to slow, until the ledger has replies to measure

    licence = "unknown"  # of its output

    def __init__(self, base_url: str):
        self.provider = self.url = base_url
        loopback = r"https?://(localhost|127\.0\.0\.1|\[::1\])([:/]|$)"
        self.needs_key = not re.match(loopback, base_url)

    def check(self, model: str, skills: list[str], topics: list[str]) -> None:
        """Nothing to check: a model behind the network may be asked for any skill and topic."""

    def http_client(self) -> httpx2.AsyncClient:
        import openai  # see the top

        # Reading the certificates takes longer than many a request.
        return openai.DefaultAioHttpClient(verify=not self.url.startswith("http:"))


def host(base_url: str):
    """Who answers at an address: the one place that tells the embedded world from the network.

    Returns:
        An object with `provider` (what replies are stored under), `url`, `free` (nobody is paid),
        `needs_key`, `licence`, `reply_seconds`, `check(model, skills, topics)` and `http_client()`.
    """
    if base_url.startswith("world:"):
        from helpers.world.endpoint import World  # loaded only where it is asked

        return World(base_url)
    return Network(base_url)


def secret_of(endpoint: Endpoint) -> str:
    """The key, or nothing; a line break at its end, as a file has one, is no part of it."""
    return os.environ.get(endpoint.key_env, "").strip()


def client(endpoint: Endpoint, http: httpx2.AsyncClient | None = None) -> "openai.AsyncOpenAI":
    """A client without retries of its own.

    Raises:
        UserError: the key's environment variable is not set (the world and loopback need none), or
            holds no key.
    """
    place = host(endpoint.base_url)
    secret = secret_of(endpoint)
    is_missing = not secret and place.needs_key and not endpoint.free
    if is_missing or not re.fullmatch("[!-~]*", secret):
        raise UserError(
            f"{endpoint.base_url} needs a key: set the environment variable {endpoint.key_env} to"
            " it, without a space or another character that no key has"
        )
    import openai  # see the top

    return openai.AsyncOpenAI(
        base_url=place.url,
        api_key=secret or "none",
        max_retries=0,
        timeout=endpoint.timeout,
        http_client=http,
    )


def without_key(reply: bytes, endpoint: Endpoint) -> bytes:
    """A reply's bytes as they may be stored: some servers repeat the key."""
    secret = secret_of(endpoint).encode()
    return reply.replace(secret, b"[key]") if len(secret) >= SHORTEST_KEY else reply


def redacted(message: str, endpoint: Endpoint) -> str:
    """An endpoint's words in one line, without anything that looks like a key."""
    words = " ".join(message.split()).replace(secret_of(endpoint) or "\0", "[key]")
    return re.sub(r"\b(sk|hf|key)[-_][\w*.-]{6,}", "[key]", words)[:500]
