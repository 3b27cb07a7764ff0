"""What holds requests back: an endpoint's rate limits, and its failures, some of which no second try can mend."""

import asyncio
import random
import time

import aiohttp
import openai

from helpers.chat.endpoint import Endpoint, redacted
from helpers.errors import UserError

TRANSPORT_TRIES = 6
RATE_LIMIT_SECONDS = 1800  # how long one request may be put off before the run stops
FIRST_WAIT = 1.0  # seconds before the second try at most, doubling up to LONGEST_WAIT
LONGEST_WAIT = 30
LEAST_WAIT = 0.05  # seconds before a try that was put off, for endpoints that say 0
AT_ONCE = 0.1  # seconds' worth of requests that may go out together: late wake-ups are made up for, bursts are not made

# The SDK lets some of aiohttp's pass, and a reply's broken JSON.
FAILURES = (openai.APIStatusError, openai.APIConnectionError, aiohttp.ClientError)


class Pace:
    """At most `per_minute` a minute, in the order of asking; None for no limit. (aiolimiter lets small amounts overtake large ones.)"""

    def __init__(self, per_minute: float | None):
        self.rate, self.free = per_minute and per_minute / 60, 0.0

    async def take(self, amount: float = 1) -> None:
        if self.rate:
            now = time.monotonic()
            self.free = max(self.free, now - AT_ONCE)  # when all before this one are paid off
            wait, self.free = self.free - now, self.free + amount / self.rate
            await asyncio.sleep(max(0.0, wait))


def refused(
    status: int | None, code: str | None, said: str, endpoint: Endpoint, role: str
) -> UserError | None:
    """The sentence for an error that no second try can mend, or None."""
    name, said = f"{endpoint.base_url}, model {endpoint.model}", redacted(said, endpoint)
    if code in ("insufficient_quota", "billing_hard_limit_reached"):
        return UserError(
            f"{name}: the account's quota is used up; replies so far are stored, run again to go on"
        )
    if status in (401, 403):
        return UserError(f"{name}: the key in {endpoint.key_env} was refused (HTTP {status})")
    if status == 404 or code == "model_not_found":
        where = (
            "server.model in params/<profile>/03_grade.yaml"
            if role == "student"
            else f"{role}.model (or {role}.base_url) in params/<profile>/shared.yaml"
        )
        more = ", or second_judges.<name>.model in 03_grade.yaml," if role == "judge" else ""
        has = f"{where}{more} has to name one that the provider still has"
        return UserError(f"{name}: not found (HTTP {status}); {has}: {said}")
    if status is not None and 400 <= status < 500 and status not in (408, 409, 429):
        return UserError(f"{name}: the request was refused (HTTP {status}): {said}")
    return None


def words_of(error: openai.APIStatusError) -> str:
    said = (
        error.body.get("message", error.body.get("detail"))
        if isinstance(error.body, dict)
        else error.body
    )
    return str(said or error.message)


def was_never_sent(error: BaseException | None) -> bool:
    """Was there no connection at all? The SDK calls this a time-out, as it does a connection that broke after the request."""
    while error is not None and not isinstance(error, aiohttp.ClientConnectorError):
        error = error.__cause__ or error.__context__
    return error is not None


def is_billed(error: Exception) -> bool:
    """May the provider bill a request that failed so? Not what it refused or never got; a time-out or a server's error may be."""
    if was_never_sent(error):
        return False
    return not (
        isinstance(error, openai.APIStatusError)
        and error.status_code < 500
        and error.status_code != 408
    )


def put_off(error: openai.APIStatusError) -> float:
    """Seconds to wait after a rate limit: what the endpoint says, and up to half as much again, so that not all return at once."""
    headers = error.response.headers
    try:
        wait = float(headers.get("retry-after-ms", "nan")) / 1000
        wait = wait if wait >= 0 else float(headers.get("retry-after", "nan"))
    except ValueError:  # a date
        wait = -1.0
    return (max(wait, LEAST_WAIT) if wait >= 0 else 1.0) * random.uniform(1, 1.5)


class Patience:
    """How long and how often one request may fail: rate limits by time, transport failures by count."""

    def __init__(self, endpoint: Endpoint, role: str):
        self.endpoint, self.role, self.limited, self.failures = (
            endpoint,
            role,
            None,
            0,
        )  # limited: when first

    def after(self, error: Exception) -> float:
        """Seconds to wait before the next try.

        Raises:
            UserError: no second try can mend the error, or patience is at its end.
        """
        failure = type(error).__name__
        if isinstance(error, openai.APIStatusError):
            failure = f"HTTP {error.status_code}"
            if sentence := refused(
                error.status_code, error.code, words_of(error), self.endpoint, self.role
            ):
                raise sentence from None
            if error.status_code == 429:
                wait, self.limited = put_off(error), self.limited or time.monotonic()
                if time.monotonic() - self.limited + wait > RATE_LIMIT_SECONDS:
                    why = f"rate limited for over {RATE_LIMIT_SECONDS // 60} minutes; replies so far are stored, run again to go on"
                    raise UserError(f"{self.endpoint.base_url}: {why}") from None
                return wait
        self.failures += 1
        if self.failures == TRANSPORT_TRIES:
            failure = (
                "nobody answers there: is the server running, is the address right?"
                if was_never_sent(error)
                else failure
            )
            why = f"{self.failures} failures in a row ({failure}); replies so far are stored, run again to go on"
            raise UserError(f"{self.endpoint.base_url}: {why}") from None
        return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self.failures - 1)) * random.random()
