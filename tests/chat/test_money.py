"""What requests cost, and a budget that is never exceeded."""

import json
import re

import pytest

from helpers import progress
from helpers.chat import money
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Usage, request_body
from helpers.errors import UserError
from helpers.student.server import Server as Student
from tests.faults.asking import (
    ask,
    at,
    one_sentence,
    questions,
    run_together,
    states,
)
from tests.faults.server import Server

LUNA = {"model": "gpt-6-luna", "max_tokens": 1000}  # in params/prices.yaml


class Dear(Server):
    """Each reply costs four fifths of the most that it can cost."""

    prompt_tokens = 4000


def luna():
    return money.prices()["gpt-6-luna"]


def most():
    """US dollars that one of the questions can cost."""
    where = Endpoint(base_url="http://127.0.0.1", **LUNA)
    return money.most(request_body(questions(1)[0], where, 0, 1), luna())


def test_replies_are_counted_by_their_tokens(ledger):
    with Dear() as server:
        ask(questions(10, n=2), at(server, **LUNA), ledger)
    assert ledger.spent() == pytest.approx(10 * money.cost((4000, 2), luna()))
    assert ledger.summary().dollars.tolist() == pytest.approx([ledger.spent()])


def test_the_progress_line_shows_the_running_cost(ledger, monkeypatch, capfd):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv(progress.HEADLESS, "01_generate")
    with Dear() as server:
        ask(questions(40, n=2), at(server, **LUNA), ledger, what="texts graded")
        ask(questions(40), at(server), ledger)
    lines = capfd.readouterr().err.splitlines()
    last = [line for line in lines if "texts graded" in line][-1]
    assert re.fullmatch(
        r"01_generate: texts graded 39 of 40, about 0 s left, 0\.02 US dollars", last
    )
    assert lines[-1].endswith(", price unknown")


def test_a_budget_is_never_exceeded_and_used_to_its_end(tmp_path):
    each = money.cost((4000, 1), luna())
    ledger = Ledger(tmp_path / "ledger.sqlite", budget=20 * most())
    with Dear(latency=0.02) as server:
        with pytest.raises(
            UserError, match=r"^budget = 0\.\d+ US dollars: .* raise budget"
        ) as failure:
            ask(questions(100), at(server, concurrency=16, **LUNA), ledger)
        one_sentence(failure)
        assert ledger.spent() == pytest.approx(server.billed * each)
        assert ledger.budget - most() < ledger.spent() <= ledger.budget
        assert states(ledger) == {"replied": server.billed}
        richer = Ledger(ledger.path, budget=100 * most())
        assert len(ask(questions(100), at(server, **LUNA), richer)) == 100
        assert server.billed == 100


SPENDING = """
import sys
from pathlib import Path
from helpers.chat.client import ask
from helpers.chat.endpoint import Endpoint
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.chat.ledger import Ledger, key
luna = {"model": "gpt-6-luna", "max_tokens": 1000}
where = Endpoint(base_url=sys.argv[1], key_env="TEST_KEY", concurrency=16, **luna)
some = [Request([{"role": "user", "content": f"{sys.argv[4]} {i}"}]) for i in range(200)]
print("ready", flush=True)
sys.stdin.readline()
try:
    ask(some, where, Ledger(Path(sys.argv[2]), budget=float(sys.argv[3])), role="judge")
except UserError as error:
    assert str(error).startswith("budget ="), error
else:
    sys.exit("the budget was no limit")
"""


def test_a_budget_holds_for_two_processes_together(ledger):
    budget, seen = 50 * most(), []
    with Dear(
        latency=0.02, say=lambda body, i: seen.append(Ledger(ledger.path).spent()) or "text"
    ) as server:
        run_together(SPENDING, server.url, str(ledger.path), str(budget))
    assert max(seen) <= budget
    assert ledger.spent() <= budget
    assert server.billed >= 50


def test_what_a_failed_attempt_may_have_cost_stays_reserved(tmp_path, quick):
    for fault, reserved in {"500": 6, "drop_after": 6, "400": 0, "quota": 0}.items():
        ledger = Ledger(tmp_path / f"{fault}.sqlite", budget=1.0)
        with Server({fault: 1}) as server, pytest.raises(UserError):
            ask(questions(1), at(server, **LUNA), ledger)
        assert ledger.spent() == pytest.approx(reserved * most()), fault
    with Server({"429": 0.5}, seed=3, retry_after="0.01") as server:
        ledger = Ledger(tmp_path / "429.sqlite", budget=1.0)
        ask(questions(10), at(server, **LUNA), ledger)
        assert server.happened["429"]
        assert ledger.spent() < most()


def test_a_budget_needs_prices(ledger, monkeypatch):
    with Server() as server:
        with pytest.raises(
            UserError, match=r"params/prices.yaml has no price for model m; .* or set budget: null"
        ) as failure:
            ask(questions(3), at(server), Ledger(ledger.path, budget=5.0))
        assert (server.received, states(ledger)) == (0, {})
        ask(questions(3), at(server), ledger)
        assert ledger.spent() == 0
        assert ledger.summary().dollars.isna().all()
        with pytest.raises(
            UserError, match="no price for model m"
        ):  # what was spent before is unknown
            ask(questions(1), at(server, **LUNA), Ledger(ledger.path, budget=5.0))
        monkeypatch.setattr(
            money, "prices", lambda: {"m": money.Price(1.0, 2.0), "gpt-6-luna": money.FREE}
        )
        ask(questions(1), at(server, **LUNA), Ledger(ledger.path, budget=5.0))
        assert ledger.spent() == pytest.approx(3 * (7 * 1.0 + 2.0) / 1e6)
    one_sentence(failure)


@pytest.mark.parametrize(
    "content",
    [
        "m: [1.0]",
        "m: free",
        "- m",
        "m: [1.0, -1]",
        "m: [",
        "m: [a, b]",
        "m: {input: 1.0}",
        "m: [.nan, 1]",
    ],
)
def test_a_price_file_that_is_none(monkeypatch, tmp_path, content):
    (tmp_path / "params").mkdir()
    (tmp_path / "params/prices.yaml").write_text(content)
    monkeypatch.setattr(money, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"^params/prices.yaml: ") as failure:
        money.prices()
    one_sentence(failure)


def test_the_most_a_prompt_can_cost_is_a_bound():
    """A token is at least a byte, whatever the alphabet."""
    body = {
        "messages": [{"role": "user", "content": "日本語 é\n" * 50}],
        "max_completion_tokens": 7,
        "n": 3,
    }
    prompt, answer = money.most_tokens(body)
    assert prompt >= len(body["messages"][0]["content"].encode()) + 20
    assert answer == 21


def test_caches_have_prices_of_their_own(monkeypatch, tmp_path):
    (tmp_path / "params").mkdir()
    lines = "m: {input: 4.0, output: 20.0, cache_read: 0.4, cache_write: 5.0}\nl: [4.0, 20.0]\n"
    (tmp_path / "params/prices.yaml").write_text(lines)
    monkeypatch.setattr(money, "ROOT", tmp_path)
    priced, plain = money.prices()["m"], money.prices()["l"]
    usage = Usage(prompt=1000, completion=10, cache_read=100, cache_write=200)
    output = 10 * 20.0
    assert money.paid(usage, priced) * 1e6 == pytest.approx(700 * 4 + 100 * 0.4 + 200 * 5 + output)
    assert money.paid(usage, plain) * 1e6 == pytest.approx(700 * 4 + 100 * 4 + 200 * 5 + output)
    body = {"messages": ["x" * 1000], "max_tokens": 10}
    assert money.most(body, plain) > money.paid(Usage(1000, 10, cache_write=1000), plain)


def test_what_is_priced_late_is_reserved_as_what_is_priced_at_once(tmp_path, monkeypatch):
    """All of a prompt without counts as if it was written into a cache."""
    price = money.Price(4.0, 20.0)
    where = Endpoint(base_url="http://127.0.0.1", model="m")
    who = {"endpoint": where.base_url, "model": "m", "role": "judge", "replicate": 0}
    body = {"messages": [{"role": "user", "content": "é" * 500}], "max_tokens": 10, "n": 2}
    late, at_once = Ledger(tmp_path / "late.sqlite"), Ledger(tmp_path / "at_once.sqlite")
    late.begin("k", body=body, **who)
    at_once.begin("k", body=body, dollars=money.most(body, price), **who)
    monkeypatch.setattr(money, "prices", lambda: {"m": price})
    money.check_budget(Ledger(late.path, budget=5.0), where)
    assert late.spent() == pytest.approx(at_once.spent(), rel=1e-6)


DEAR = [{"service_tier": "priority"}, {"tools": [{"type": "web_search"}]}, {"plugins": ["web"]}]


@pytest.mark.parametrize("extra", DEAR)
def test_what_cannot_be_priced_is_refused_under_a_budget(ledger, extra):
    with Server() as server:
        where = at(server, **LUNA, extra_body=extra)
        with pytest.raises(UserError, match=f"budget = 5.0, and {next(iter(extra))}") as failure:
            ask(questions(1), where, Ledger(ledger.path, budget=5.0))
        one_sentence(failure)
        assert server.received == 0
        ask(questions(1), where, ledger)
        harmless = at(server, **LUNA, extra_body={"reasoning_effort": "low"})
        ask(questions(1), harmless, Ledger(ledger.path, budget=5.0))
        assert server.received == 2


def test_nothing_that_a_server_says_lowers_the_sum(tmp_path, priced):
    """What is no number of tokens leaves the reserve as it is."""
    for i, (name, count) in enumerate(
        [("prompt_tokens", -7200), ("completion_tokens", -1), ("prompt_tokens", 0)]
    ):
        usage = {"prompt_tokens": 7, "completion_tokens": 2, name: count}
        reply = {"choices": [{"message": {"content": "a text"}}], "usage": usage}
        with Server(raw=lambda body, reply=reply: json.dumps(reply).encode()) as server:
            ledger = Ledger(tmp_path / f"{i}.sqlite")
            ask(questions(1), at(server), ledger)
            assert ledger.spent() > 1024 * 2.0 / 1e6


def test_only_what_runs_here_is_free_by_default():
    assert money.is_free(Endpoint(base_url="world:", model="teacher"))
    assert not money.is_free(Endpoint(base_url="http://127.0.0.1:4000/v1", model="m")), "a proxy?"
    assert money.is_free(Student())
    assert money.is_free(Student(base_url="http://127.0.0.1:8000/v1"))
    assert not money.is_free(Student(base_url="https://api.example.com/v1"))
    assert not money.is_free(Student(base_url="http://127.0.0.1:4000/v1", free=False))
    with pytest.raises(UserError, match="no price for model"):
        money.check_price(Student(base_url="https://api.example.com/v1"), 5.0)
