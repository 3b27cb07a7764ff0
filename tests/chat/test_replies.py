"""What is sent, what stored bytes say, and what has to be asked next: without a server."""

import json

import pytest

from helpers import world
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger, key
from helpers.chat.replies import Reply, Request, identity, outcome, parse, usage_of


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


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
    assert parse(sent({"content": None, "refusal": "no"}, finish_reason="length")) == [
        Reply("", True)
    ]
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
    ):
        assert parse(odd) == []


def test_usage_may_be_anything():
    for usage in (
        None,
        [],
        "7",
        {"prompt_tokens": None},
        {"prompt_tokens": {"a": 1}, "completion_tokens": "7"},
    ):
        assert usage_of(json.dumps({"usage": usage}).encode()) == {}
    assert usage_of(b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}') == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
    }


def reply(ledger, asked, *contents):
    """Store an answer to what `outcome` wants asked."""
    raw = json.dumps({"choices": [{"message": {"content": c}} for c in contents]}).encode()
    who = {"endpoint": "http://a", "model": "m", "stage": "judge", "replicate": asked.replicate}
    ledger.replied(ledger.begin(asked.key, body=asked.body, **who), raw)


@pytest.mark.parametrize("takes_n", [True, False])
def test_what_is_asked_next_depends_on_the_ledger_alone(ledger, takes_n):
    where = Endpoint(base_url="http://a", model="m", takes_n=takes_n)
    request = Request([{"role": "user", "content": "q"}], n=3)
    found, missing = outcome(request, where, ledger)
    assert (found, len(missing)) == ([], 1 if takes_n else 3)
    if takes_n:
        assert missing[0].body["n"] == 3
        reply(ledger, missing[0], "a", "", "c")
    else:
        for asked, said in zip(missing, ("a", "", "c"), strict=True):
            assert "n" not in asked.body
            reply(ledger, asked, said)
    found, missing = outcome(request, where, ledger)
    assert [r.text for r in found] == ["a", "c"]
    assert [a.replicate for a in missing] == [3], "the unusable one is asked again, alone"
    reply(ledger, missing[0], "")
    (last,) = outcome(request, where, ledger)[1]
    reply(ledger, last, "")
    assert outcome(request, where, ledger)[1] == [], "the budget of two re-asks is used up"
    assert len(outcome(request, where, ledger, re_asks=3)[1]) == 1
