"""An endpoint's failures, some of which no second try can mend, and how long to wait."""

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
AT_ONCE = 0.1  # seconds' worth of requests that may go out together

# The SDK lets some of aiohttp's pass, and a reply's broken JSON.
FAILURES = (openai.APIStatusError, openai.APIConnectionError, aiohttp.ClientError)


class NoAnswer(Exception):
    """HTTP 200, and no chat completion in it: an error, half of something, or nothing."""


def refused(
    status: int | None, code: str | None, message: str, endpoint: Endpoint, role: str
) -> UserError | None:
    """The sentence for an error that no second try can mend, or None."""
    name = f"{endpoint.base_url}, model {endpoint.model}"
    words = redacted(message, endpoint)
    if code in ("insufficient_quota", "billing_hard_limit_reached"):
        return UserError(
            f"{name}: the account's quota is used up; replies so far are stored, run again to go on"
        )
    if status in (401, 403):
        return UserError(f"{name}: the key in {endpoint.key_env} was refused (HTTP {status})")
    if status == 404 or code == "model_not_found":
        where = f"{role}.model (or {role}.base_url) in params/<profile>/shared.yaml"
        if role == "student":
            where = "server.model in params/<profile>/03_grade.yaml"
        if role == "judge":
            where += ", or second_judges.<name>.model in 03_grade.yaml,"
        return UserError(
            f"{name}: not found (HTTP {status}); {where} has to name one that the provider still"
            f" has: {words}"
        )
    if status is not None and 400 <= status < 500 and status not in (408, 409, 429):
        return UserError(f"{name}: the request was refused (HTTP {status}): {words}")
    return None


def words_of(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        body = body.get("message", body.get("detail"))
    return str(body or error.message)


def name_of(error: Exception) -> str:
    """A failure in few words, for the ledger and the user."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}"
    if isinstance(error, NoAnswer):
        return f"HTTP 200 without an answer: {error}"
    return type(error).__name__


def was_never_sent(error: BaseException | None) -> bool:
    """Was there no connection at all?

    The SDK calls this a time-out, as it does a connection that broke after the request.
    """
    while error is not None and not isinstance(error, aiohttp.ClientConnectorError):
        error = error.__cause__ or error.__context__
    return error is not None


def is_billed(error: Exception) -> bool:
    """May the provider bill a request that failed so?

    Not what it refused or never got; a time-out or a server's error may be.
    """
    if isinstance(error, openai.APIStatusError):
        return error.status_code >= 500 or error.status_code == 408
    return not was_never_sent(error)


def put_off(error: openai.APIStatusError) -> float:
    """Seconds to wait after a rate limit: what the endpoint says.

    And up to half as much again, so that not all return at once.
    """
    headers = error.response.headers
    try:
        wait = float(headers.get("retry-after-ms", "nan")) / 1000
        wait = wait if wait >= 0 else float(headers.get("retry-after", "nan"))
    except ValueError:  # a date
        wait = -1.0
    return (max(wait, LEAST_WAIT) if wait >= 0 else 1.0) * random.uniform(1, 1.5)


class Patience:
    """How long and how often one request may fail: rate limits by time, others by count."""

    def __init__(self, endpoint: Endpoint, role: str):
        self.endpoint = endpoint
        self.role = role
        self.limited_since: float | None = None
        self.failures = 0

    def after(self, error: Exception) -> float:
        """Seconds to wait before the next try.

        Raises:
            UserError: no second try can mend the error, or patience is at its end.
        """
        if isinstance(error, openai.APIStatusError):
            status, words = error.status_code, words_of(error)
            if sentence := refused(status, error.code, words, self.endpoint, self.role):
                raise sentence from None
            if status == 429:
                return self._after_limit(put_off(error))
        self.failures += 1
        if self.failures == TRANSPORT_TRIES:
            failure = name_of(error)
            if was_never_sent(error):
                failure = "nobody answers there: is the server running, is the address right?"
            raise self._ended(f"{self.failures} failures in a row ({failure})") from None
        return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (self.failures - 1)) * random.random()

    def _after_limit(self, wait: float) -> float:
        now = time.monotonic()
        self.limited_since = self.limited_since or now
        if now - self.limited_since + wait > RATE_LIMIT_SECONDS:
            raise self._ended(f"rate limited for over {RATE_LIMIT_SECONDS // 60} minutes") from None
        return wait

    def _ended(self, why: str) -> UserError:
        where = self.endpoint.base_url
        return UserError(f"{where}: {why}; replies so far are stored, run again to go on")
