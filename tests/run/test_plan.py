"""The plan counts what the ledger does not hold, and exactly that is then asked."""

import numpy as np
import pytest

from helpers import corpus
from helpers.chat import money
from helpers.chat.endpoint import Endpoint, Network
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply
from helpers.evaluate import answers, evaluate, tasks
from helpers.profile.load import load_profile
from helpers.run import plan


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


def sure(name):
    """An embedded teacher or judge that is always readable, so that nothing is asked again."""
    return Endpoint(base_url="world:?unreadable=0", model=name)


def generate(**changes):
    p = load_profile("smoke")["01_generate"]
    return p.model_copy(
        update={
            "teacher": sure("teacher"),
            "judge": sure("judge"),
            "texts": {"2": 10, "3": 10},
            **changes,
        }
    )


def grade(**changes):
    p = load_profile("smoke")["03_grade/base"]
    return p.model_copy(update={"judge": sure("judge"), "evaluation_queries": 3, **changes})


class Student:
    """Answers at once, each query and generation differently."""

    def ask(self, requests):
        return [
            Reply(f"Answer: {r.messages[-1]['content'].splitlines()[0]} {r.replicate}.", False)
            for r in requests
        ]


def test_what_is_stored_is_not_counted(ledger):
    p = generate()
    before = plan.plan_generate(p, ledger)
    assert before.stored.tolist() == [0] * 4
    plain = plan.plan_generate(p)
    assert np.array_equal(np.stack(before.requests), np.stack(plain.requests))
    corpus.build(generate(texts={"2": 10}), ledger)
    after = plan.plan_generate(p, ledger)
    asked = dict(ledger.db.execute("select role, count(*) from attempt group by role").fetchall())
    assert after.stored.tolist() == [asked["teacher"], asked["judge"], 0, 0]
    assert np.array_equal(np.stack(after.requests[2:]), np.stack(before.requests[2:]))
    assert after.requests[0][0] == max(0, before.requests[0][0] - asked["teacher"])


def test_half_a_conversation_is_half_stored(ledger):
    p = generate()
    corpus.build(p, ledger)
    whole = plan.plan_generate(p, ledger).stored.tolist()
    last = "select max(id) from attempt where role = 'teacher'"
    ledger.db.execute(f"delete from attempt where id in ({last}) or role = 'judge'")
    assert plan.plan_generate(p, ledger).stored.tolist() == [whole[0], 0, whole[2] - 1, 0]


@pytest.mark.parametrize("takes_n", [True, False])
def test_the_gradings_that_are_missing_are_those_that_are_asked(ledger, takes_n):
    p = grade(judge=sure("judge").model_copy(update={"takes_n": takes_n}))
    every = tasks(p)
    given = answers(p, every, Student())
    table = plan.plan_gradings(p, every, given, ledger)
    missing = table.requests.sum()[0]
    assert 0 < missing <= len(given) * (1 if takes_n else p.gradings)
    evaluate(p, every, given, ledger)
    assert ledger.summary().attempts.tolist() == [missing]
    done = plan.plan_gradings(p, every, given, ledger)
    assert not done.requests.sum().any()
    assert done.stored.sum() == missing
    ledger.db.execute("delete from attempt where id % 3 = 0")
    left = plan.plan_gradings(p, every, given, ledger)
    assert left.requests.sum()[0] == missing // 3


def test_minutes_are_those_of_the_tightest_limit(ledger, monkeypatch):
    requests, sent = np.array([6000, 12_000]), np.array([600_000, 1_200_000])

    def minutes(base_url="http://a/v1", ledger=None, **settings):
        settings |= {"base_url": base_url, "model": "gpt-6-luna"}
        endpoint = Endpoint(**settings, concurrency=10, max_tokens=1000)
        tokens = sent + requests * 2 * 1000
        return plan.minutes(endpoint, requests, tokens, ledger).tolist()

    low, high = Network.reply_seconds
    assert minutes() == pytest.approx([6000 * low / 10 / 60, 12_000 * high / 10 / 60])
    monkeypatch.setattr(Ledger, "seconds", lambda *asked: 3.0)
    assert minutes(ledger=ledger) == pytest.approx([6000 * 3 / 10 / 60, 12_000 * 3 / 10 / 60])
    assert minutes(requests_per_minute=10.0) == [600, 1200]
    as_providers_count = [12_600_000 / 10_000, 25_200_000 / 10_000]
    assert minutes(tokens_per_minute=10_000.0) == as_providers_count
    a_day = minutes(batch_api=True, requests_per_minute=10.0)
    assert np.isnan(a_day).all()
    assert minutes("world:")[1] < 1, "the embedded one answers at once"


def test_batches_cost_half_and_unknown_prices_are_said_so(monkeypatch):
    dear = Endpoint(base_url="http://a/v1", model="gpt-6-astra")
    whole, half, unknown = (
        np.stack(plan.plan_generate(generate(teacher=e, judge=e)).dollars)
        for e in (
            dear,
            dear.model_copy(update={"batch_api": True}),
            dear.model_copy(update={"model": "nobody's"}),
        )
    )
    assert (whole > 0).all()
    assert whole / 2 == pytest.approx(half)
    assert np.isnan(unknown).all()
    assert money.price_of(dear.model_copy(update={"model": "nobody's"})) is None
