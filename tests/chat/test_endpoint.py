"""An endpoint's settings, on the wire and refused; its key, which stands nowhere."""

import ssl

import pydantic
import pytest

from helpers.chat import endpoint
from helpers.chat.endpoint import Endpoint, Network
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.profile.error_messages import checked
from tests.faults.asking import (
    SECRET,
    ask,
    at,
    one_sentence,
    questions,
    states,
)
from tests.faults.server import Server

KEYS = [SECRET, "MARKED0123456789abcdef", "gsk_MARKEDabcdefghijkl0123456789"]


@pytest.mark.parametrize("name", KEYS)
def test_a_key_in_the_place_of_its_name_is_not_shown(monkeypatch, name):
    values = {"base_url": "http://a/v1", "model": "m", "key_env": name}
    with pytest.raises(UserError, match="never a key") as failure:
        checked(Endpoint, values, where=lambda name: "shared.yaml")
    one_sentence(failure)


@pytest.mark.parametrize("value", [None, "", "sk-MARKED\n0123456789", "sk-MARKED…0123456789"])
def test_a_key_that_is_missing_or_broken(ledger, monkeypatch, value):
    """`.invalid` is no host, so a request would show as a failure of transport."""
    monkeypatch.delenv("TEST_KEY") if value is None else monkeypatch.setenv("TEST_KEY", value)
    with pytest.raises(UserError, match="environment variable TEST_KEY") as failure:
        ask(
            questions(1),
            Endpoint(base_url="https://api.invalid/v1", model="m", key_env="TEST_KEY"),
            ledger,
        )
    one_sentence(failure)
    assert states(ledger) == {}


def test_a_key_with_a_newline_at_its_end(ledger, monkeypatch):
    """As read from a file."""
    monkeypatch.setenv("TEST_KEY", SECRET + "\r\n")
    with Server() as server:
        assert len(ask(questions(1), at(server), ledger)[0]) == 1
        server.faults = {"400": 1}
        with pytest.raises(UserError) as failure:
            ask(questions(2), at(server), ledger)
    one_sentence(failure)


def test_loopback_needs_no_key(ledger, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with Server() as server:
        assert len(ask(questions(1), at(server), ledger)[0]) == 1
    for address in (
        "http://localhost",
        "http://localhost:8000/v1",
        "http://127.0.0.1/v1",
        "https://[::1]:1/v1",
    ):
        endpoint.client(Endpoint(base_url=address, model="m", key_env="TEST_KEY"))
    for address in ("http://localhost.example.com/v1", "http://127.0.0.1.example.com"):
        with pytest.raises(UserError, match="needs a key"):
            endpoint.client(Endpoint(base_url=address, model="m", key_env="TEST_KEY"))


def test_settings_reach_the_wire(ledger):
    cases = [
        ({}, {"temperature": 0.7, "max_tokens": 1024, "seed": 4}),
        (
            {"max_tokens_field": "max_completion_tokens", "max_tokens": 9},
            {"temperature": 0.7, "max_completion_tokens": 9, "seed": 4},
        ),
        ({"temperature": None}, {"max_tokens": 1024, "seed": 4}),
        ({"temperature": 0.0, "takes_seed": False}, {"temperature": 0.0, "max_tokens": 1024}),
        (  # a reasoning model
            {
                **dict.fromkeys(("takes_n", "takes_seed"), False),
                "temperature": None,
                "extra_body": {"reasoning_effort": "low"},
            }
            | {"max_tokens_field": "max_completion_tokens"},
            {"max_completion_tokens": 1024, "reasoning_effort": "low"},
        ),
        (
            {"top_p": 1.0, "extra_body": {"top_k": -1}},
            {"temperature": 0.7, "max_tokens": 1024, "seed": 4, "top_p": 1.0, "top_k": -1},
        ),  # vLLM
    ]
    with Server() as server:
        for settings, expected in cases:
            ask(questions(1, replicate=4), at(server, **settings), ledger)
            assert server.bodies[-1] == {
                "model": "m",
                "messages": questions(1)[0].messages,
                **expected,
            }


def test_the_embedded_endpoint_takes_lists_of_content_parts(ledger):
    parts = [
        {"type": "text", "text": "Topic: sewing\n"},
        {"type": "text", "text": "Show: metaphor"},
    ]
    where = Endpoint(base_url="world:", model="teacher")
    assert ask([Request([{"role": "user", "content": parts}])], where, ledger)[0]
    for content in (None, [], ["text"], 7):
        with pytest.raises(UserError, match="HTTP 400") as failure:
            ask([Request([{"role": "user", "content": content}])], where, ledger)
        one_sentence(failure)


def test_settings_that_the_request_has_already(monkeypatch):
    for name in ("n", "messages", "max_tokens", "stream"):
        with pytest.raises(pydantic.ValidationError, match=f"{name} may not stand in extra_body"):
            Endpoint(base_url="http://a/v1", model="m", extra_body={name: 1})


ADDRESSES = [
    "world:",
    "world:?drop=0.5",
    "http://localhost:1/v1",
    "http://[::1]:8000/v1",
    "https://api.example.com/v1/",
]
NO_ADDRESSES = {
    "api.example.com": "neither http",
    "ftp://a": "neither http",
    "": "neither http",
    "http://": "neither http",
    "http://a b": "neither http",
    "http://a\nb/v1": "neither http",
    "http://[::1/v1": "neither http",
    "http://a:port/v1": "neither http",
    "https://user:sk-MARKED@a/v1": "no user, password, query",
    "https://a/v1?key=sk-MARKED": "no user, password, query",
    "https://a/v1#sk-MARKED": "no user, password, query",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses(address):
    where = checked(Endpoint, {"base_url": address, "model": "m"}, where=str)
    endpoint.host(where.base_url)


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_or_holds_a_secret(address):
    values = {"base_url": address, "model": "m"}
    with pytest.raises(UserError, match=f"shared.yaml: base_url.*{NO_ADDRESSES[address]}") as e:
        checked(Endpoint, values, where=lambda name: "shared.yaml")
    one_sentence(e)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": float("inf")},
        {"temperature": float("nan")},
        {"requests_per_minute": float("inf")},
        {"extra_body": {"top_k": float("nan")}},
        {"model": ""},
    ],
)
def test_numbers_are_finite_and_names_are_not_empty(settings):
    with pytest.raises(pydantic.ValidationError):
        Endpoint(**{"base_url": "http://a/v1", "model": "m", **settings})


def test_only_a_plain_address_goes_without_certificates():
    def mode(address):
        return Network(address).http_client()._transport.ssl_context.verify_mode

    assert mode("https://a/v1") == ssl.CERT_REQUIRED
    assert mode("http://a/v1") == ssl.CERT_NONE
