"""What requests cost: the dated price file, the most that one can cost, what a reply has cost."""

import json
from typing import Annotated, NamedTuple

import pydantic
import yaml

from helpers.chat.endpoint import Endpoint, host
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Usage
from helpers.errors import UserError
from helpers.paths import ROOT

FILE = "params/prices.yaml"
BATCH_SHARE = 0.5  # of the price, by the Batch API
CACHE_WRITE_SHARE = 1.25  # of the input price, where the price file does not say more
CHARACTERS_PER_TOKEN = 4  # English text, a rule of thumb

# What may stand in `extra_body` under a budget: all else (service_tier, tools, plugins, other
# models to fall back on) may cost what no line of the price file says.
OF_NO_COST = set(
    "reasoning_effort reasoning thinking think verbosity response_format stop logit_bias user"
    " frequency_penalty presence_penalty repetition_penalty top_k min_p chat_template_kwargs"
    " metadata store safety_identifier prompt_cache_key logprobs top_logprobs".split()
)

Dollars = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False, strict=True)]


class Price(NamedTuple):
    """US dollars per million tokens; None for a cache price that the price file does not give."""

    input: Dollars
    output: Dollars
    cache_read: Dollars | None = None
    cache_write: Dollars | None = None

    @property
    def read(self) -> float:
        return self.input if self.cache_read is None else self.cache_read

    @property
    def write(self) -> float:
        return self.input * CACHE_WRITE_SHARE if self.cache_write is None else self.cache_write

    @property
    def dearest(self) -> float:
        """The most that a token of a prompt can cost."""
        return max(self.input, self.read, self.write)


FREE = Price(0.0, 0.0)
PRICES = pydantic.TypeAdapter(dict[str, Price])


def prices() -> dict[str, Price]:
    """The price file, by model.

    Raises:
        UserError: it holds something else.
    """
    try:
        return PRICES.validate_python(yaml.safe_load((ROOT / FILE).read_text()))
    except (OSError, ValueError, yaml.YAMLError) as e:
        why = " ".join(str(e).split())[:200]
        raise UserError(
            f"{FILE}: each line is a model with dollars per million tokens, as [input, output] or"
            f" {{input: .., output: .., cache_read: .., cache_write: ..}} ({why})"
        ) from None


def price_of(endpoint: Endpoint) -> Price | None:
    """The price of an endpoint's requests, in a batch or not; None if unknown."""
    if is_free(endpoint):
        return FREE
    listed = prices().get(endpoint.model)
    if listed is None or not endpoint.batch_api:
        return listed
    return Price(*(price and price * BATCH_SHARE for price in listed))


def is_free(endpoint: Endpoint) -> bool:
    return endpoint.free or host(endpoint.base_url).free


def most_tokens(body: dict) -> tuple[int, int]:
    """The most input and output tokens of a request.

    Input: the bytes of its JSON, since a token is at least one byte. Output: n x max_tokens.
    """
    prompt = len(json.dumps(body, ensure_ascii=False).encode(errors="replace"))
    answer = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    return prompt, body.get("n", 1) * answer


def likely_tokens(body: dict) -> float:
    """The tokens that rate limits count: the prompt's, by its characters, and the most output."""
    prompt, answer = most_tokens(body)
    return prompt / CHARACTERS_PER_TOKEN + answer


def cost(tokens: tuple[float, float], price: Price) -> float:
    """US dollars of (input, output) tokens, without a cache."""
    return (tokens[0] * price.input + tokens[1] * price.output) / 1e6


def most(body: dict, price: Price | None) -> float | None:
    """The most dollars that a request can cost, all of its prompt at the dearest input price."""
    if price is None:
        return None
    return cost(most_tokens(body), price._replace(input=price.dearest))


def paid(usage: Usage | None, price: Price | None) -> float | None:
    """What a reply cost by its token counts; None if it has none, or no price is known."""
    if usage is None or price is None:
        return None
    plain = usage.prompt - usage.cache_read - usage.cache_write
    prompt = plain * price.input + usage.cache_read * price.read + usage.cache_write * price.write
    return (prompt + usage.completion * price.output) / 1e6


def check_price(endpoint: Endpoint, budget: float | None) -> None:
    """Check that, under a budget, all that an endpoint may bill is in the price file.

    Raises:
        UserError: its model is not in it, or `extra_body` holds what may cost more.
    """
    if budget is None or is_free(endpoint):
        return
    price_needed(endpoint.model, budget)
    if dear := sorted(set(endpoint.extra_body) - OF_NO_COST):
        raise UserError(
            f"budget = {budget}, and {', '.join(dear)} in extra_body of {endpoint.model}"
            f" may cost what {FILE} cannot say; take it out, or set budget: null"
        )


def price_needed(model: str, budget: float) -> Price:
    listed = prices().get(model)
    if listed is None:
        raise UserError(
            f"budget = {budget}, and {FILE} has no price for model {model};"
            " write it there, say free: true of an endpoint of your own, or set budget: null"
        )
    return listed


def check_budget(ledger: Ledger, endpoint: Endpoint) -> None:
    """Check that, under a budget, the prices of an endpoint and of all past attempts are known.

    What was asked while a price was unknown is priced now.

    Raises:
        UserError: as `check_price`, or the price of a model that was asked before is unknown.
    """
    check_price(endpoint, ledger.budget)
    if ledger.budget is None:
        return
    for model in ledger.unpriced():
        price = price_needed(model, ledger.budget)
        ledger.price(model, price.input, price.output, dearest=price.dearest)
