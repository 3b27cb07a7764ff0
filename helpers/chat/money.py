"""What requests cost: the dated price file, the most that a request can cost, and what its reply did cost."""

import json

import yaml

from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.paths import ROOT

BATCH_SHARE = 0.5  # of the price, by the Batch API
CHARACTERS_PER_TOKEN = 4  # English text, a rule of thumb
UNBILLED = {f"HTTP {status}" for status in range(400, 500)} - {"HTTP 408"}  # states of attempts

Price = tuple[float, float]  # US dollars per input and per output token


def prices() -> dict[str, list[float]]:
    """US dollars per million input and output tokens, by model.

    Raises:
        UserError: the file holds something else.
    """
    path = ROOT / "params/prices.yaml"
    try:
        table = yaml.safe_load(path.read_text())
        good = all(
            len(p) == 2 and all(isinstance(x, int | float) and x >= 0 for x in p)
            for p in table.values()
        )
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as e:
        raise UserError(
            f"{path.relative_to(ROOT)}: cannot be read ({' '.join(str(e).split())})"
        ) from None
    if not good:
        raise UserError(
            f"{path.relative_to(ROOT)}: each line is a model with two numbers, dollars per million input and output tokens"
        )
    return table


def price_of(endpoint: Endpoint, *, batch: bool | None = None) -> Price | None:
    """The price that an endpoint's requests have, in a batch or not (as the endpoint says); None if it is unknown."""
    if endpoint.free:
        return (0.0, 0.0)
    listed = prices().get(endpoint.model)
    share = BATCH_SHARE if (endpoint.batch_api if batch is None else batch) else 1.0
    return listed and (listed[0] * share / 1e6, listed[1] * share / 1e6)


def most_tokens(body: dict) -> tuple[int, int]:
    """The most input and output tokens of a request: a token is at least a byte of the messages' JSON; n x max_tokens."""
    prompt = len(json.dumps(body["messages"], ensure_ascii=False).encode(errors="replace"))
    return prompt, body.get("n", 1) * (
        body.get("max_completion_tokens") or body.get("max_tokens") or 0
    )


def likely_tokens(body: dict) -> float:
    """What rate limits count: the prompt, estimated from its characters, and all output tokens that may come."""
    prompt, answer = most_tokens(body)
    return prompt / CHARACTERS_PER_TOKEN + answer


def cost(tokens: tuple[int, int], price: Price) -> float:
    return tokens[0] * price[0] + tokens[1] * price[1]


def most(body: dict, price: Price | None) -> float | None:
    """The most dollars that a request can cost."""
    return price and cost(most_tokens(body), price)


def paid(usage: dict[str, int], price: Price | None) -> float | None:
    """What a reply cost by its token counts, cached input tokens at the full price; None if it has none, or no price is known."""
    if price is None or not {"prompt_tokens", "completion_tokens"} <= set(usage):
        return None
    return cost((usage["prompt_tokens"], usage["completion_tokens"]), price)


def check_budget(ledger: Ledger, endpoint: Endpoint) -> None:
    """With a budget, may this endpoint be asked: are all prices known, and past attempts with them?

    What was asked while a price was unknown is priced now.

    Raises:
        UserError: the price of the endpoint's model, or of one that was asked before, is unknown.
    """
    if ledger.budget is None:
        return
    known, late = prices(), []
    unpriced = ledger.unpriced()
    for model in [*([] if endpoint.free else [endpoint.model]), *(row[1] for row in unpriced)]:
        if model not in known:
            raise UserError(
                f"budget = {ledger.budget}, and params/prices.yaml has no price for model {model};"
                " write it there, say free: true of an endpoint of your own, or set budget: null"
            )
    for number, model, state, body, prompt, answer in unpriced:
        price = (known[model][0] / 1e6, known[model][1] / 1e6)
        tokens = most_tokens(json.loads(body)) if None in (prompt, answer) else (prompt, answer)
        late.append((0.0 if state in UNBILLED else cost(tokens, price), number))
    if late:
        ledger.price(late)
