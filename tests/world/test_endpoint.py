"""The endpoint's contract, and the real client talking to it, in process and over the network."""

import json
import random
import threading

import openai
import pytest

from helpers.chat import client
from helpers.chat.conversation import converse
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request, Unreadable
from helpers.errors import UserError
from helpers.judge.grade import grade
from helpers.task.points import Rules
from helpers.task.prompts import grading_turn
from helpers.world import endpoint, language

FAULTLESS = "world:?drop=0&overrun=0&stray=0&flip=0&shape=0&unreadable=0"


def request(text):
    return Request([{"role": "user", "content": text}])


def test_faultless_teacher_and_judge_agree(ledger, queries, ask_as, pack):
    """Without injected errors every text has full marks: generators, detectors, reader fit."""
    of_five = queries(200)
    conversations = converse(ask_as("teacher", FAULTLESS), of_five, [0] * 200, pack, turns=2)
    texts = [conversation.text for conversation in conversations]
    judge = Endpoint(base_url=FAULTLESS, model="judge")
    graded = grade(of_five, texts, pack, judge, ledger, gradings=3, rules=Rules())
    assert all(text_graded.points.full_marks for text_graded in graded)


def test_error_rates_are_what_they_say(ledger, queries, pack):
    """Of 2,000 texts with one skill, unreadable grades are near their rate (4 standard errors)."""
    singles = queries(2000, k=1)
    requests = []
    for i, query in enumerate(singles):
        text = language.text(random.Random(i), query.topic, query.names, limit=1)
        requests.append(request(grading_turn(query, text, pack)))
    judge = Endpoint(base_url="world:?flip=0&shape=0&unreadable=0.1", model="judge")

    def whole(_, reply):
        return Unreadable("cut") if reply.cut else reply

    outcomes = client.ask(requests, judge, ledger, role="judge", read=whole, re_asks=0)
    share = sum(not outcome.usable for outcome in outcomes) / len(outcomes)
    assert len({query.identity for query in singles}) > 500
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5


def test_a_reply_depends_on_the_body_alone():
    body = {
        "model": "teacher",
        "messages": [{"role": "user", "content": "Topic: sewing\nSkills: metaphor, simile"}],
        "n": 3,
        "seed": 1,
    }
    first = endpoint.complete(body, endpoint.Rates())
    assert endpoint.complete(dict(reversed(body.items())), endpoint.Rates()) == first
    texts = {choice["message"]["content"] for choice in first[1]["choices"]}
    assert len(texts) == 3, "choices differ by their index"
    another = endpoint.complete(body | {"seed": 2}, endpoint.Rates())
    assert another[1]["choices"] != first[1]["choices"]


def test_a_schema_is_answered_in_json(queries, pack):
    (query,) = queries(1, k=3)
    text = language.text(random.Random(0), query.topic, query.names, limit=2)
    messages = [{"role": "user", "content": grading_turn(query, text, pack)}]
    body = {"model": "judge", "messages": messages, "response_format": {"type": "json_schema"}}
    whole, cut = (
        endpoint.complete(body, endpoint.Rates(flip=0, unreadable=rate))[1]["choices"][0]
        for rate in (0, 1)
    )
    grades = json.loads(whole["message"]["content"])
    assert [grade["point"] for grade in grades.values()] == [1] * 6
    assert cut["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut["message"]["content"])


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (
            "Topic: sewing\nSkills: metaphor, zeugma",
            "does not know the skill zeugma; it knows oxymoron",
        ),
        ("Topic: surfing\nSkills: metaphor", "does not know the topic surfing"),
        ("Topic: sewing\nShow: pale needle", "does not know the skill pale needle"),
        ("Write me a poem.", "a line 'Topic: ...'"),
        (
            "Topic: sewing\nSkills: simile\n== a ==\nA text.\n== a ==\nShows simile, makes sense",
            "the embedded judge grades by criteria .* begins with '- '",
        ),
    ],
)
def test_what_the_world_does_not_know(ask_as, prompt, sentence):
    with pytest.raises(UserError, match=sentence):
        ask_as("teacher")([request(prompt)])


def test_unknown_model_and_rates(ask_as):
    with pytest.raises(UserError, match="not found"):
        ask_as("gpt")([request("Topic: sewing\nSkills: simile")])
    with pytest.raises(UserError, match="the rates are drop, "):
        endpoint.rates_of("world:?dorp=0.1")
    with pytest.raises(UserError, match="each is a number, 0 to 1"):
        endpoint.rates_of("world:?drop=1.1")


def test_served_on_loopback_it_answers_alike(tmp_path, queries, ask_as, pack):
    """The same world over HTTP, asked by the openai client itself and through our own."""
    server = endpoint.serve(0, endpoint.Rates())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        plain = openai.OpenAI(base_url=url, api_key="none")
        assert [m.id for m in plain.models.list()] == list(endpoint.MODELS)
        over_http = ask_as("teacher", url, Ledger(tmp_path / "http.sqlite"))
        texts = converse(over_http, queries(20), [0] * 20, pack, turns=2)
        assert texts == converse(ask_as("teacher"), queries(20), [0] * 20, pack, turns=2)
        with pytest.raises(openai.BadRequestError, match="it knows"):
            plain.chat.completions.create(
                model="teacher",
                messages=[{"role": "user", "content": "Topic: sewing\nSkills: zeugma"}],
            )
    finally:
        server.shutdown()
        server.server_close()
