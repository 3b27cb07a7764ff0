"""What is sent, what stored bytes say, and what has to be asked next: without a server."""

import json

import pytest

from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import key
from helpers.chat.replies import (
    Outcome,
    Reply,
    Request,
    Usage,
    identity,
    parse,
    table,
    usage_of,
)
from helpers.errors import UserError
from helpers.world import endpoint as world


def test_another_world_is_another_provider(monkeypatch):
    """A changed judge must not answer with the old one's stored replies."""
    where, body = Endpoint(base_url="world:", model="judge"), {"messages": []}
    before = identity(where, body, 0)
    monkeypatch.setattr(world, "version", lambda: "other")
    assert identity(where, body, 0) != before
    outside = Endpoint(base_url="http://a", model="judge")
    assert identity(outside, body, 0) == key("http://a", body, 0)


def test_parse_reads_what_endpoints_send():
    def sent(message, **more):
        return json.dumps({"choices": [{"message": message, **more}]}).encode()

    assert parse(sent({"content": "a"}, finish_reason="stop")) == [Reply("a", False)]
    assert parse(sent({"content": None}, finish_reason="length")) == [Reply("", True)]
    refused = [Reply("", False, refused=True)]
    assert parse(sent({"content": None, "refusal": "no"})) == refused
    assert parse(sent({"content": ""}, finish_reason="content_filter")) == refused
    thought = [Reply("a", False, thought=True)]
    assert parse(sent({"content": "a", "reasoning": "well"})) == thought
    assert parse(sent({"content": "a", "reasoning_content": "well"})) == thought
    assert parse(sent({"content": "<think>a"}))[0].thought
    assert parse(sent({"content": [{"type": "text", "text": "a"}]})) == [Reply("", False)]
    half = parse(b'{"choices": [{"message": {"content": "a \\ud83d"}}]}')[0].text
    assert half.encode(), "half a character cannot be stored or sent on"
    for odd in (
        b"",
        b"[]",
        b"1",
        b"null",
        b"\xff",
        b'{"choices": null}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": null}]}',
        b"[" * 200_000 + b"]" * 200_000,
        b'{"choices": ' + b"9" * 5_000 + b"}",
    ):
        assert parse(odd) == []


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "7",
        {"prompt_tokens": None},
        {"prompt_tokens": {"a": 1}, "completion_tokens": "7"},
        {"prompt_tokens": 7},
        {"prompt_tokens": -7, "completion_tokens": 2},
        {"prompt_tokens": 0, "completion_tokens": 2},
        {"prompt_tokens": 7, "completion_tokens": 2**63},
        {"prompt_tokens": 7, "completion_tokens": True},
        {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": -9},
        {"prompt_tokens": 7, "completion_tokens": 2, "cache_read_input_tokens": -1},
    ],
)
def test_usage_that_is_none(usage):
    assert usage_of({"usage": usage}) is None


def test_usage_is_the_most_that_a_reply_says():
    def read(**more):
        return usage_of({"usage": {"prompt_tokens": 10, "completion_tokens": 20, **more}})

    assert read(prompt_tokens_details=None, total_tokens=30) == Usage(10, 20)
    assert read(total_tokens=5030) == Usage(10, 5020), "thoughts beside the completion"
    assert read(total_tokens=3) == Usage(10, 20)
    inside = {"cached_tokens": 4, "cache_write_tokens": 5}
    assert read(prompt_tokens_details=inside) == Usage(10, 20, 4, 5)
    beside = {"cache_read_input_tokens": 4, "cache_creation_input_tokens": 5}
    assert read(**beside) == Usage(19, 20, 4, 5)
    assert read(**beside, prompt_tokens_details=inside) == Usage(10, 20, 4, 5), "said twice"
    absurd = {"cached_tokens": 400, "cache_write_tokens": 500}
    assert read(prompt_tokens_details=absurd) == Usage(10, 20, 0, 10), "never more than the prompt"


def reply(ledger, call, *texts):
    """Store an answer to what `Outcome` wants asked."""
    raw = json.dumps({"choices": [{"message": {"content": text}} for text in texts]}).encode()
    who = {"endpoint": "http://a", "model": "m", "role": "judge", "replicate": call.replicate}
    ledger.replied(ledger.begin(call.key, body=call.body, **who), raw)


@pytest.mark.parametrize("takes_n", [True, False])
def test_what_is_asked_next_depends_on_the_ledger_alone(ledger, takes_n):
    where = Endpoint(base_url="http://a", model="m", takes_n=takes_n)
    request = Request([{"role": "user", "content": "q"}], n=3)

    def look(**settings):
        outcome = Outcome(request, where, **settings)
        return outcome.look(ledger), outcome

    calls, _ = look()
    assert len(calls) == (1 if takes_n else 3)
    if takes_n:
        assert calls[0].body["n"] == 3
        reply(ledger, calls[0], "a", "", "c")
    else:
        for call, text in zip(calls, ("a", "", "c"), strict=True):
            assert "n" not in call.body
            reply(ledger, call, text)
    calls, outcome = look()
    assert [r.text for r in outcome.usable] == ["a", "c"]
    assert outcome.unreadable == ["no text"]
    assert [call.replicate for call in calls] == [3], "the unusable one is asked again, alone"
    reply(ledger, calls[0], "")
    (last,), _ = look()
    reply(ledger, last, "")
    assert look()[0] == [], "the two re-asks are used up"
    assert len(look(re_asks=3)[0]) == 1


def test_the_replies_of_a_ledger_are_a_table_and_the_ledger_is_only_read(ledger):
    body = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    raw = {"choices": [{"message": {"content": text}} for text in ("a", "b")]}
    rows = [("k1", body, 0, json.dumps(raw).encode()), ("k2", body, 1, b"no JSON")]
    ledger.store(rows, endpoint="world:", model="m", role="judge")
    ledger.begin("k3", endpoint="world:", model="m", role="judge", replicate=2, body=body)
    before = ledger.path.read_bytes()
    found = table(ledger.path)
    assert ledger.path.read_bytes() == before
    assert found.texts.tolist() == [["a", "b"], []]
    assert found.messages[0] == body["messages"]
    assert found.explode("texts").texts.dropna().tolist() == ["a", "b"]
    with pytest.raises(UserError, match=r"none.sqlite: no ledger there"):
        table(ledger.path.with_name("none.sqlite"))
