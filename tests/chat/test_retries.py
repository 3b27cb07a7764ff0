"""Limits and failures: what is waited for, what is tried again, what ends in a sentence."""

import socket
import time

import httpx2
import openai
import pytest

from helpers.chat import client, money, retries
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import request_body
from helpers.errors import UserError
from tests.faults.asking import (
    SECRET,
    ask,
    at,
    nowhere_in,
    one_sentence,
    questions,
)
from tests.faults.server import Server


def test_rate_limits_lose_nothing(ledger):
    with Server(rate=100, burst=20) as server:
        replies = ask(questions(200), at(server, concurrency=50), ledger)
        assert [len(r) for r in replies] == [1] * 200
        assert server.billed == 200
        assert server.happened["429"], "the limit was never reached"


def test_requests_per_minute_are_kept(ledger):
    """40 a second against a limit of 50 with room for 10 at once: none is refused."""
    with Server(rate=50, burst=10) as server:
        start = time.monotonic()
        ask(
            questions(60),
            at(server, concurrency=30, requests_per_minute=40 * 60),
            ledger,
        )
        assert time.monotonic() - start >= 59 / 40 - client.AT_ONCE
        assert server.happened["429"] == 0
        assert server.received == 60


def test_tokens_per_minute_are_kept(ledger, tmp_path):
    with Server() as server:
        where = at(server, max_tokens=1000)
        counted = sum(money.likely_tokens(request_body(q, where, 0, 2)) for q in questions(20, n=2))
        assert counted > 20 * 2 * 1000
        start = time.monotonic()
        limited = at(server, max_tokens=1000, tokens_per_minute=counted * 60)
        ask(questions(20, n=2), limited, ledger)
        assert time.monotonic() - start >= 0.95 - client.AT_ONCE
        start = time.monotonic()
        ask(questions(1), at(server, tokens_per_minute=1), Ledger(tmp_path / "other.sqlite"))
        assert time.monotonic() - start < 5, "one request larger than the limit goes out alone"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("400", "Unsupported value: 'temperature' see the documentation"),
        ("401", "the key in TEST_KEY was refused"),
        ("402", "Insufficient credits"),
        ("403", "the key in TEST_KEY was refused"),
        ("404", "judge.model (or judge.base_url) in params"),
        ("quota", "quota is used up"),
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "MARKED0123456789"])
def test_refusals_end_the_run_with_a_sentence(ledger, monkeypatch, fault, says, secret):
    monkeypatch.setenv("TEST_KEY", secret)
    with Server({fault: 1}) as server:
        with pytest.raises(UserError) as failure:
            ask(questions(20), at(server, concurrency=4), ledger)
        assert server.received <= 4, "asked again what cannot be mended"
    assert says in one_sentence(failure)
    assert server.url in str(failure.value)
    nowhere_in(ledger)


def test_a_server_that_stays_broken(ledger, quick):
    for fault, why in {"500": "HTTP 500", "drop_after": "", "garbage": ""}.items():
        with Server({fault: 1}) as server:
            with pytest.raises(
                UserError, match=f"{retries.TRANSPORT_TRIES} failures in a row.*{why}.*run again"
            ) as failure:
                ask(questions(1), at(server), ledger)
            assert server.received == retries.TRANSPORT_TRIES
        one_sentence(failure)
    nowhere_in(ledger)


def test_nobody_at_the_address(ledger, quick):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match="nobody answers there: is the server running") as failure:
        ask(
            questions(1),
            Endpoint(base_url=address, model="gpt-6.1-sol", key_env="TEST_KEY"),
            ledger,
        )
    one_sentence(failure)
    assert ledger.spent() == 0, "a request that reached nobody cost something"


def test_a_time_out_is_tried_again(ledger, quick):
    with Server({"slow": 0.5}, seed=2, slow=2) as server:
        replies = ask(questions(8), at(server, timeout=0.5), ledger)
        assert [len(r) for r in replies] == [1] * 8
        assert server.happened["slow"]
        assert server.received >= 8 + server.happened["slow"]


@pytest.mark.parametrize(
    "retry_after", ["7200", "Wed, 21 Oct 2099 07:28:00 GMT", "nan", "-1", "soon"]
)
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("429", "rate limited for 0 seconds, "),
        ("503", r"overloaded \(HTTP 503\) for 0 seconds, "),
        ("529", r"overloaded \(HTTP 529\) for 0 seconds, "),
    ],
)
def test_rate_limits_are_bounded_in_time(ledger, priced, monkeypatch, fault, why, retry_after):
    """What is no number of seconds counts as at least one; what was put off costs nothing.

    The sentence says how long was waited, and how long it would still be.
    """
    wait = r"([789]|1\d),\d{3}" if retry_after == "7200" else "[12]"
    why += f"and the next try would be in {wait}; a request is put off for 1 at most; replies so"
    monkeypatch.setattr(retries, "RATE_LIMIT_SECONDS", 1)
    with Server({fault: 1}, retry_after=retry_after) as server:
        with pytest.raises(UserError, match=why) as failure:
            ask(questions(1), at(server), ledger)
        assert server.received == 1
    one_sentence(failure)
    assert ledger.spent() == 0


@pytest.mark.parametrize("fault", ["429", "503", "529"])
def test_what_is_put_off_for_longer_than_failures_are_tried_is_asked_again(ledger, fault):
    """A server that is busy for a while: asked more often than after failures."""
    with Server({fault: 0.8}, retry_after="0.01", seed=2) as server:
        assert [len(r) for r in ask(questions(5), at(server), ledger)] == [1] * 5
        assert max(server.came.values()) > retries.TRANSPORT_TRIES
        assert server.billed == 5


@pytest.mark.parametrize("fault", ["503", "529"])
def test_an_overload_without_a_time_is_a_failure_as_others(ledger, quick, fault):
    with Server({fault: 1}, retry_after="") as server:
        with pytest.raises(UserError, match=rf"6 failures in a row \(HTTP {fault}\)"):
            ask(questions(1), at(server), ledger)
        assert server.received == retries.TRANSPORT_TRIES


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "40000", "retry-after": "2"}, 40),
        ({"retry-after": "30"}, 30),
        ({"retry-after-ms": "soon"}, 1),
        ({}, 1),
    ],
)
def test_a_rate_limit_is_waited_for_as_long_as_it_says(headers, seconds):
    request = httpx2.Request("POST", "http://a/v1")
    response = httpx2.Response(429, headers=headers, request=request)
    wait = retries.put_off(openai.APIStatusError("", response=response, body=None))
    assert seconds <= wait <= 1.5 * seconds


def test_retry_after_zero_is_soon_and_not_at_once(ledger):
    with Server({"429": 0.5}, seed=4, retry_after="0") as server:
        start = time.monotonic()
        assert [len(r) for r in ask(questions(10), at(server), ledger)] == [1] * 10
        assert server.happened["429"]
        assert retries.LEAST_WAIT <= time.monotonic() - start < 1 + retries.LEAST_WAIT


def test_a_request_that_is_put_off_does_not_hold_up_the_end(ledger):
    with Server({"429": 0.5, "401": 0.2}, seed=1, retry_after="600") as server:
        start = time.monotonic()
        with pytest.raises(UserError, match="was refused"):
            ask(questions(50), at(server, concurrency=10), ledger)
        assert server.happened["429"]
        assert time.monotonic() - start < 5
