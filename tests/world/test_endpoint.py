"""The embedded world: detectors against generators, the endpoint's contract, and the real client talking to it both ways."""

import random
import threading

import openai
import pytest

from helpers.chat import client
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.judge.grade import grade, reference_count
from helpers.paths import ROOT
from helpers.task.catalog import Query, load_skills, load_topics
from helpers.task.prompts import converse, extract_answer, grading_turn, load_pack, sentence_limit
from helpers.world import detectors, endpoint, language

PACK = load_pack(
    ROOT / "params/prompts/terse/generation.json", ROOT / "params/prompts/terse/grading.json"
)
SKILLS = load_skills(ROOT / "params/catalog/miniature/skills.csv")
TOPICS = load_topics(ROOT / "params/catalog/miniature/topics.txt")
FAULTLESS = "world:?drop=0&overrun=0&stray=0&flip=0&shape=0&unreadable=0"


def some_queries(n, seed=0, k=None):
    rng = random.Random(seed)
    return [
        Query(rng.choice(TOPICS), tuple(rng.sample(SKILLS, k or rng.randint(1, 5))))
        for _ in range(n)
    ]


def ask_as(model, ledger, base_url="world:", **settings):
    where = Endpoint(base_url=base_url, model=model, **settings)
    return lambda requests: client.ask(requests, where, ledger, stage=model)


def test_catalog_of_the_miniature_is_the_world():
    assert [s.name for s in SKILLS] == list(language.PHRASINGS) == list(detectors.PATTERNS)
    assert list(language.TOPICS) == TOPICS
    training = [s for s in SKILLS if s.category in ("literary", "rhetorical")]
    assert len(SKILLS) >= 24
    assert len(training) >= 14
    assert len(SKILLS) - len(training) >= 10
    nouns = [n for some in language.TOPICS.values() for n in some]
    assert len(set(nouns)) == len(nouns), "a noun of two topics would make 'on topic' undecidable"


def test_detectors_fire_on_their_skill_alone():
    """10,000 random texts of 1 to 6 skills: precision and recall of every detector above 0.999."""
    rng = random.Random(1)
    hits = dict.fromkeys(language.PHRASINGS, 0)
    false, missed = dict(hits), dict(hits)
    for _ in range(10_000):
        shown = rng.sample(list(language.PHRASINGS), rng.randint(1, 6))
        topic = rng.choice(TOPICS)
        text = language.text(rng, topic, shown)
        assert detectors.makes_sense(text), text
        assert detectors.on_topic(topic, text)
        assert reference_count(text) <= sentence_limit(len(shown))
        for skill in language.PHRASINGS:
            found = detectors.shows(skill, text)
            hits[skill] += found and skill in shown
            false[skill] += found and skill not in shown
            missed[skill] += not found and skill in shown
    for skill, hit in hits.items():
        assert hit / (hit + false[skill]) > 0.999, f"precision of {skill}"
        assert hit / (hit + missed[skill]) > 0.999, f"recall of {skill}"


@pytest.mark.parametrize(
    ("skill", "text"),
    [
        ("modus ponens", "If the needle is pale then it turns, it is pale, hence it breaks."),
        ("modus tollens", "A golden glaze moves, this one never shines, so it is not golden."),
        ("disjunctive syllogism", "It is the oven or the loaf, not the loaf, so the loaf."),
        ("straw man", "Anna moved one pawn, so Omar hates each rook."),
        ("spatial reasoning", "The seed fits inside the rose so the seed is larger."),
        ("simile", "The needle is like a lion."),
    ],
)
def test_detectors_want_the_form_not_the_words(skill, text):
    assert not detectors.shows(skill, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "The needle",
        "The needle weighs a million tons",
        "The oven is. Old.",
        "The needle weighs a million tons, and.",
    ],
)
def test_what_makes_no_sense(text):
    assert not detectors.makes_sense(text)


def test_faultless_teacher_and_judge_agree(tmp_path):
    """Without injected errors every text gets full marks: generators, detectors and the reader fit each other."""
    ledger, queries = Ledger(tmp_path / "l.sqlite"), some_queries(200)
    talks = converse(ask_as("teacher", ledger, FAULTLESS), queries, [0] * 200, PACK, turns=2)
    texts = [extract_answer(messages[-1]["content"]) for messages, _ in talks]
    judge = Endpoint(base_url=FAULTLESS, model="judge")
    assert all(all(g.points) for g in grade(queries, texts, PACK, judge, ledger, gradings=3))


def test_error_rates_are_what_they_say(tmp_path):
    """Of 2,000 texts with one skill, the share of each injected error is near its rate (4 standard errors)."""
    ledger, queries = Ledger(tmp_path / "l.sqlite"), some_queries(2000, k=1)
    n = len({(q.topic, q.names) for q in queries})
    asked = [
        Request(
            [
                {
                    "role": "user",
                    "content": grading_turn(
                        q, language.text(random.Random(i), q.topic, list(q.names)), PACK
                    ),
                }
            ]
        )
        for i, q in enumerate(queries)
    ]
    where = Endpoint(base_url="world:?flip=0&shape=0&unreadable=0.1", model="judge")
    replies = client.ask(
        asked, where, ledger, stage="judge", usable=lambda request, reply: not reply.cut, re_asks=0
    )
    share = sum(not r for r in replies) / len(replies)
    assert n > 500
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 2000) ** 0.5


def test_a_reply_depends_on_the_body_alone():
    body = {
        "model": "teacher",
        "messages": [{"role": "user", "content": "Topic: sewing\nSkills: metaphor, simile"}],
        "n": 3,
        "seed": 1,
    }
    first, again = (
        endpoint.complete(body, endpoint.Rates()),
        endpoint.complete(dict(reversed(body.items())), endpoint.Rates()),
    )
    assert first == again
    texts = {c["message"]["content"] for c in first[1]["choices"]}
    assert len(texts) == 3, "choices differ by their index"
    assert (
        endpoint.complete(body | {"seed": 2}, endpoint.Rates())[1]["choices"] != first[1]["choices"]
    )


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (
            "Topic: sewing\nSkills: metaphor, zeugma",
            "does not know the skill zeugma; it knows metaphor",
        ),
        ("Topic: surfing\nSkills: metaphor", "does not know the topic surfing"),
        ("Write me a poem.", "a line 'Topic: ...'"),
    ],
)
def test_what_the_world_does_not_know(tmp_path, prompt, said):
    with pytest.raises(UserError, match=said):
        ask_as("teacher", Ledger(tmp_path / "l.sqlite"))(
            [Request([{"role": "user", "content": prompt}])]
        )


def test_unknown_model_and_rates(tmp_path):
    with pytest.raises(UserError, match="not found"):
        ask_as("gpt", Ledger(tmp_path / "l.sqlite"))(
            [Request([{"role": "user", "content": "Topic: sewing\nSkills: simile"}])]
        )
    with pytest.raises(UserError, match="the rates are drop, "):
        endpoint.rates_of("world:?dorp=0.1")
    with pytest.raises(UserError, match="use 0 to 1"):
        endpoint.rates_of("world:?drop=1.1")


def test_served_on_loopback_it_answers_alike(tmp_path):
    """The same world over HTTP, asked by the openai client itself and through our own."""
    server = endpoint.serve(0, endpoint.Rates())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        plain = openai.OpenAI(base_url=url, api_key="none")
        assert [m.id for m in plain.models.list()] == list(endpoint.MODELS)
        queries = some_queries(20)
        over_http = converse(
            ask_as("teacher", Ledger(tmp_path / "a.sqlite"), url), queries, [0] * 20, PACK, turns=2
        )
        in_process = converse(
            ask_as("teacher", Ledger(tmp_path / "b.sqlite")), queries, [0] * 20, PACK, turns=2
        )
        assert over_http == in_process
        with pytest.raises(openai.BadRequestError, match="it knows"):
            plain.chat.completions.create(
                model="teacher",
                messages=[{"role": "user", "content": "Topic: sewing\nSkills: zeugma"}],
            )
    finally:
        server.shutdown()
        server.server_close()
