"""An endpoint's failures: which of them a second try can mend, and how long to wait for it."""

import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import httpx2
import openai

from helpers.chat.endpoint import redacted
from helpers.errors import UserError

TRANSPORT_TRIES = 6
RATE_LIMIT_SECONDS = 1800  # how long one request may be put off before the run stops
FIRST_WAIT = 1.0  # seconds before the second try at most, doubling up to LONGEST_WAIT
LONGEST_WAIT = 30
# The parameter that names the model, by role, where it is not `<role>.model`.
PARAMETERS = {"student": "server.model in params/<profile>/03_grade.yaml"}
# With a Retry-After they are waited for as rate limits are; 529 is Anthropic's.
OVERLOADED = (503, 529)
LEAST_WAIT = 0.05  # seconds before a try that was put off, for endpoints that say 0


class NoAnswer(Exception):
    """HTTP 200, and no chat completion in it: an error, half of something, or nothing."""


# The SDK lets some of aiohttp's pass, and a reply's broken JSON.
FAILURES = (
    openai.APIStatusError,
    openai.APIConnectionError,
    httpx2.HTTPError,
    aiohttp.ClientError,
    json.JSONDecodeError,
    NoAnswer,
)


def refused(run, status: int | None, said: Any) -> UserError | None:
    """The sentence for an error that no second try can mend, or None.

    Args:
        run: of `helpers.chat.client`.
        said: what the endpoint says of it, mostly an object with `code` and `message`.
    """
    endpoint, role = run.endpoint, run.role
    error = said if isinstance(said, dict) else {}
    code = error.get("code")
    words = redacted(str(error.get("message") or said or "no reason given"), endpoint)
    if code in ("insufficient_quota", "billing_hard_limit_reached"):
        why = "the account's quota is used up"
    elif status in (401, 403):
        why = f"the key in {endpoint.key_env} was refused (HTTP {status})"
    elif status == 404 or code == "model_not_found":
        where = PARAMETERS.get(role, f"{role}.model (or {role}.base_url) in params/<profile>")
        why = f"not found (HTTP {status}); {where} has to name what the provider still has: {words}"
    elif status and 400 <= status < 500 and status not in (408, 409, 429):
        why = f"the request was refused (HTTP {status}): {words}"
    else:
        return None
    return UserError(
        f"{endpoint.base_url}, model {endpoint.model}: {why}; replies so far are stored"
    )


def name_of(error: Exception) -> str:
    """A failure in few words, for the ledger and the user."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}"
    if isinstance(error, NoAnswer):
        return f"HTTP 200 without an answer: {error}"
    if was_never_sent(error):
        return "nobody answers there: is the server running, is the address right?"
    return type(error).__name__


def was_never_sent(error: Exception) -> bool:
    """Was there no connection at all? A request that broke off later has the same exception."""
    return isinstance(error.__cause__, aiohttp.ClientConnectorError)


def is_put_off(error: Exception) -> bool:
    """Was a request turned away for now: by a rate limit, or an overload that says how long?"""
    if not isinstance(error, openai.APIStatusError):
        return False
    says_when = any(name in error.response.headers for name in ("retry-after-ms", "retry-after"))
    return error.status_code == 429 or (error.status_code in OVERLOADED and says_when)


def is_billed(error: Exception) -> bool:
    """May the provider bill a request that failed so?

    Not what it refused, put off or never got; a time-out or a server's error may be.
    """
    if is_put_off(error):
        return False
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 or error.status_code == 408
    return not was_never_sent(error)


def put_off(error: openai.APIStatusError) -> float:
    """Seconds to wait where `is_put_off`: what the endpoint says, and up to half as much again.

    The addition is random, so that not all requests return at once.
    """
    headers = error.response.headers
    try:
        milliseconds = headers.get("retry-after-ms")
        wait = float(milliseconds) / 1000 if milliseconds else float(headers["retry-after"])
    except (KeyError, ValueError):  # none, or a date
        wait = -1.0
    return (max(wait, LEAST_WAIT) if wait >= 0 else 1.0) * random.uniform(1, 1.5)


async def persist(run, call: Callable[[], Awaitable]) -> Any:
    """The result of a call, tried again where that may help: put off by time, others by count.

    Args:
        run: of `helpers.chat.client`.

    Raises:
        UserError: no second try can mend the error, or it has stayed for too long.
    """
    failures, limited_since = 0, None
    while True:
        try:
            return await call()
        except FAILURES as failure:
            error = failure
        status = getattr(error, "status_code", None)
        if sentence := refused(run, status, getattr(error, "body", None)):
            raise sentence
        if is_put_off(error):
            wait, now = put_off(error), time.monotonic()
            limited_since = limited_since or now
            waited = now - limited_since
            is_over = waited + wait > RATE_LIMIT_SECONDS
            limit = "rate limited" if status == 429 else f"overloaded (HTTP {status})"
            why = (
                f"{limit} for {waited:,.0f} seconds, and the next try would be in {wait:,.0f}; a"
                f" request is put off for {RATE_LIMIT_SECONDS:,} at most"
            )
        else:
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**failures) * random.random()
            failures += 1
            is_over = failures == TRANSPORT_TRIES
            why = f"{failures} failures in a row ({name_of(error)})"
        if is_over:
            where = run.endpoint.base_url
            raise UserError(f"{where}: {why}; replies so far are stored, run again to go on")
        await run.pause(wait)
