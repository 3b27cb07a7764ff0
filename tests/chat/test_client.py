"""The chat client under fire: a real client against a server on loopback whose faults are seeded."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import traceback

import pydantic
import pytest

from helpers import progress
from helpers.chat import endpoint, limits, money
from helpers.chat.client import ask
from helpers.chat.endpoint import Endpoint, check_address
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request, outcome, request_body
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile import schema
from tests.faults.server import Server

SECRET = "sk-MARKED-0123456789abcdef"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def quick(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr(limits, "FIRST_WAIT", 0.001)


def at(server, **settings):
    return Endpoint(**{"base_url": server.url, "model": "m", "key_env": "TEST_KEY", **settings})


def questions(count, **settings):
    return [
        Request([{"role": "user", "content": f"question {i}"}], **settings) for i in range(count)
    ]


def number(body):
    return int(body["messages"][0]["content"].split()[1])


def texts(replies):
    return [[r.text for r in some] for some in replies]


def one_sentence(failure):
    """The user's sentence; the key stands neither in it nor in the traceback."""
    sentence = str(failure.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert "MARKED" not in sentence + "".join(traceback.format_exception(failure.value))
    return sentence


def nowhere_in(ledger, secret="MARKED"):
    files = list(ledger.path.parent.iterdir())
    assert ledger.path in files
    assert not [f for f in files if secret.encode() in f.read_bytes()], (
        "the key stands in the ledger"
    )


def counts(ledger):
    return dict(ledger.db.execute("select state, count(*) from attempt group by state").fetchall())


# ---- many requests, many faults ----

MIXED = {
    "500": 0.03,
    "429": 0.01,
    "drop_before": 0.01,
    "garbage": 0.005,
    "drop_after": 0.01,
    "truncated": 0.01,
}
MIXED |= {"broken": 0.005, "list": 0.005, "empty": 0.005, "slow": 0.01, "length": 0.005}


def test_ten_percent_faults_lose_nothing(ledger, quick):
    with Server(MIXED, seed=3, latency=0.02) as server:
        many, where = questions(400), at(server, concurrency=50)
        replies = ask(many, where, ledger, stage="judge")
        assert [len(r) for r in replies] == [1] * 400
        assert len({r.text for some in replies for r in some}) == 400
        assert set(server.happened) >= set(MIXED), "a fault that never came proves nothing"
        assert server.billed - 400 == server.paid_and_lost()
        assert sum(counts(ledger).values()) == server.received
        assert (
            counts(ledger)["replied"]
            == server.billed - server.happened["drop_after"] - server.happened["truncated"]
        )
        asked = server.received
        again = ask(many, where, Ledger(ledger.path), stage="judge")
        assert again == replies
        assert server.received == asked, "a stored reply was asked for again"
    nowhere_in(ledger)


def test_rate_limits_lose_nothing(ledger):
    with Server(rate=100, burst=20) as server:
        replies = ask(questions(200), at(server, concurrency=50), ledger, stage="judge")
        assert [len(r) for r in replies] == [1] * 200
        assert server.billed == 200
        assert server.happened["429"], "the limit was never reached"


def test_order_of_replies_is_the_order_of_requests(ledger):
    def late(body, i):
        time.sleep(random.Random(number(body)).random() / 10)
        return f"reply {number(body)}"

    with Server(say=late) as server:
        assert texts(ask(questions(60), at(server), ledger, stage="judge")) == [
            [f"reply {i}"] for i in range(60)
        ]


def test_requests_per_minute_are_kept(ledger):
    """40 a second against a limit of 50 with room for 10 at once: none is refused."""
    with Server(rate=50, burst=10) as server:
        start = time.monotonic()
        ask(
            questions(60),
            at(server, concurrency=30, requests_per_minute=40 * 60),
            ledger,
            stage="judge",
        )
        assert time.monotonic() - start >= 59 / 40 - limits.AT_ONCE
        assert server.happened["429"] == 0
        assert server.received == 60


def test_tokens_per_minute_are_kept(ledger):
    with Server() as server:
        where = at(server, max_tokens=1000)
        counted = sum(money.likely_tokens(request_body(q, where, 0, 2)) for q in questions(20, n=2))
        assert counted > 20 * 2 * 1000
        start = time.monotonic()
        ask(
            questions(20, n=2),
            at(server, max_tokens=1000, tokens_per_minute=counted * 60),
            ledger,
            stage="judge",
        )
        assert time.monotonic() - start >= 0.95 - limits.AT_ONCE
        start = time.monotonic()
        ask(
            questions(21, n=2),
            at(server, max_tokens=1000, tokens_per_minute=1),
            ledger,
            stage="judge",
        )
        assert time.monotonic() - start < 5, "one request larger than the limit goes out alone"


# ---- what no second try can mend ----


def test_what_was_on_its_way_when_the_run_ended_is_stored(ledger):
    """401 at once for some, while others take half a second: they were paid, so they are waited for; nothing more is sent."""
    with Server({"401": 0.2}, seed=5, latency=0.5) as server:
        with pytest.raises(UserError, match="was refused"):
            ask(questions(200), at(server, concurrency=16), ledger, stage="judge")
        assert server.busy == 0
        assert server.received == 16
        assert 0 < server.billed < 16
        assert counts(ledger)["replied"] == server.billed
        assert "sent" not in counts(ledger)


def test_a_request_that_is_put_off_does_not_hold_up_the_end(ledger):
    with Server({"429": 0.5, "401": 0.2}, seed=1, retry_after="600") as server:
        start = time.monotonic()
        with pytest.raises(UserError, match="was refused"):
            ask(questions(50), at(server, concurrency=10), ledger, stage="judge")
        assert server.happened["429"]
        assert time.monotonic() - start < 5


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
            ask(questions(20), at(server, concurrency=4), ledger, stage="judge")
        assert server.received <= 4, "asked again what cannot be mended"
    assert says in one_sentence(failure)
    assert server.url in str(failure.value)
    nowhere_in(ledger)


def test_a_server_that_stays_broken(ledger, quick):
    for fault, why in {"500": "HTTP 500", "drop_after": "", "garbage": ""}.items():
        with Server({fault: 1}) as server:
            with pytest.raises(
                UserError, match=f"{limits.TRANSPORT_TRIES} failures in a row.*{why}.*run again"
            ) as failure:
                ask(questions(1), at(server), ledger, stage="judge")
            assert server.received == limits.TRANSPORT_TRIES
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
            stage="judge",
        )
    one_sentence(failure)
    assert ledger.spent() == 0, "a request that reached nobody cost something"


def test_a_key_in_the_place_of_its_name_is_not_shown():
    values = {"base_url": "http://a/v1", "model": "m", "key_env": SECRET}
    with pytest.raises(UserError, match="never a key") as failure:
        schema.checked(Endpoint, values, where=lambda name: "shared.yaml")
    one_sentence(failure)


def test_replies_before_the_end_are_stored(ledger, quick):
    with Server({"500": 0.9}, seed=1) as server:
        with pytest.raises(UserError):
            ask(questions(30), at(server, concurrency=4), ledger, stage="judge")
        assert counts(ledger)["replied"] == server.billed >= 1
        server.faults = {}
        assert len(ask(questions(30), at(server), ledger, stage="judge")) == 30
        assert counts(ledger)["replied"] == server.billed == 30


def test_a_time_out_is_tried_again(ledger, quick):
    with Server({"slow": 0.5}, seed=2, slow=2) as server:
        replies = ask(questions(8), at(server, timeout=0.5), ledger, stage="judge")
        assert [len(r) for r in replies] == [1] * 8
        assert server.happened["slow"]
        assert server.received >= 8 + server.happened["slow"]


@pytest.mark.parametrize(
    "retry_after", ["7200", "Wed, 21 Oct 2099 07:28:00 GMT", "nan", "-1", "soon"]
)
def test_rate_limits_are_bounded_in_time(ledger, monkeypatch, retry_after):
    """What is no number of seconds counts as at least one."""
    monkeypatch.setattr(limits, "RATE_LIMIT_SECONDS", 1)
    with Server({"429": 1}, retry_after=retry_after) as server:
        with pytest.raises(UserError, match="rate limit") as failure:
            ask(questions(1), at(server), ledger, stage="judge")
        assert server.received == 1
    one_sentence(failure)


def test_retry_after_zero_is_soon_and_not_at_once(ledger):
    with Server({"429": 0.5}, seed=4, retry_after="0") as server:
        start = time.monotonic()
        assert [len(r) for r in ask(questions(10), at(server), ledger, stage="judge")] == [1] * 10
        assert server.happened["429"]
        assert limits.LEAST_WAIT <= time.monotonic() - start < 1 + limits.LEAST_WAIT


@pytest.mark.parametrize("value", [None, "", "sk-MARKED\n0123456789", "sk-MARKED…0123456789"])
def test_a_key_that_is_missing_or_broken(ledger, monkeypatch, value):
    """`.invalid` is no host, so a request would show as a failure of transport."""
    monkeypatch.delenv("TEST_KEY") if value is None else monkeypatch.setenv("TEST_KEY", value)
    with pytest.raises(UserError, match="environment variable TEST_KEY") as failure:
        ask(
            questions(1),
            Endpoint(base_url="https://api.invalid/v1", model="m", key_env="TEST_KEY"),
            ledger,
            stage="judge",
        )
    one_sentence(failure)
    assert counts(ledger) == {}


def test_a_key_with_a_newline_at_its_end(ledger, monkeypatch):
    """As read from a file."""
    monkeypatch.setenv("TEST_KEY", SECRET + "\r\n")
    with Server() as server:
        assert len(ask(questions(1), at(server), ledger, stage="judge")[0]) == 1
        server.faults = {"400": 1}
        with pytest.raises(UserError) as failure:
            ask(questions(2), at(server), ledger, stage="judge")
    one_sentence(failure)


def test_loopback_needs_no_key(ledger, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with Server() as server:
        assert len(ask(questions(1), at(server), ledger, stage="judge")[0]) == 1
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


# ---- several replies to one request ----


def test_gradings_come_in_one_request(ledger):
    with Server() as server:
        replies = ask(questions(5, n=3), at(server), ledger, stage="judge")
        assert [len(set(t)) for t in texts(replies)] == [3] * 5
        assert server.received == 5
        assert {(b["n"], b["seed"]) for b in server.bodies} == {(3, 0)}


def choice_named(body, i):
    """Says which choice of which replicate it is."""
    return f"{body['seed']}.{i}"


def test_an_unusable_choice_is_asked_again_alone(ledger):
    with Server(say=choice_named) as server:
        replies = ask(
            questions(1, n=3),
            at(server),
            ledger,
            stage="judge",
            usable=lambda q, r: r.text not in ("0.1", "3.0"),
        )
        assert texts(replies) == [["0.0", "0.2", "4.0"]]
        assert [(b.get("n"), b["seed"]) for b in server.bodies] == [(3, 0), (None, 3), (None, 4)]


def test_what_is_usable_may_depend_on_the_request(ledger):
    some = questions(3, n=2)
    with Server(say=choice_named) as server:
        replies = ask(some, at(server), ledger, stage="judge", usable=lambda q, r: q is not some[1])
        assert texts(replies) == [["0.0", "0.1"], [], ["0.0", "0.1"]]


def test_an_endpoint_without_n_gets_replicates(ledger):
    with Server(say=choice_named) as server:
        replies = ask(
            questions(1, n=3),
            at(server, takes_n=False),
            ledger,
            stage="judge",
            usable=lambda q, r: r.text != "1.0",
        )
        assert texts(replies) == [["0.0", "2.0", "3.0"]]
        assert [(b.get("n"), b["seed"]) for b in server.bodies] == [
            (None, 0),
            (None, 1),
            (None, 2),
            (None, 3),
        ]


def test_an_endpoint_that_ignores_n(ledger):
    with Server(say=choice_named, most=1) as server:
        assert texts(ask(questions(1, n=3), at(server), ledger, stage="judge")) == [
            ["0.0", "3.0", "4.0"]
        ]


def test_a_used_up_budget_gives_fewer_replies(ledger):
    def never(q, r):
        return False

    with Server(say=choice_named) as server:
        some = ask(
            questions(1, n=3),
            at(server),
            ledger,
            stage="judge",
            usable=lambda q, r: r.text == "0.1",
        )
        assert texts(some) == [["0.1"]]
        assert server.received == 1 + 2
    with Server(say=choice_named) as server:
        for _ in range(2):  # the budget holds over runs
            assert ask(
                questions(2), at(server), ledger, stage="judge", usable=never, re_asks=4
            ) == [[], []]
            assert server.received == 2 * 5


@pytest.mark.parametrize("fault", ["empty", "broken", "list"])
def test_replies_without_text(ledger, fault):
    with Server({fault: 1}) as server:
        assert ask(questions(2), at(server), ledger, stage="judge") == [[], []]
        assert counts(ledger) == {"replied": 6}, "what was paid is kept as it came"
        server.faults = {}
        assert [
            len(r) for r in ask(questions(2), at(server), ledger, stage="judge", re_asks=3)
        ] == [1, 1]
        assert server.received == 8


def test_a_new_parser_reads_old_replies_and_asks_nothing(ledger):
    def read(usable):
        return texts(
            ask(
                questions(2, n=3),
                at(server),
                ledger,
                stage="judge",
                usable=lambda q, r: usable(r.text),
            )
        )

    with Server(say=choice_named) as server:
        assert read(lambda text: text in ("0.0", "4.0")) == [["0.0", "4.0"]] * 2
        received = server.received
        assert read(lambda text: True) == [["0.0", "0.1", "0.2"]] * 2
        assert read(lambda text: text > "0.0") == [["0.1", "0.2", "3.0"]] * 2
        assert server.received == received


def test_what_is_stored_needs_no_key_no_network_and_no_price(ledger, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    away, some = (
        Endpoint(base_url="https://api.invalid/v1", model="m", key_env="TEST_KEY"),
        questions(3),
    )
    for request in some:
        found, missing = outcome(request, away, ledger)
        assert (found, len(missing)) == ([], 1)
        whole = json.dumps({"choices": [{"message": {"content": "stored"}}]}).encode()
        who = {"endpoint": away.base_url, "model": "m", "stage": "judge", "replicate": 0}
        ledger.replied(ledger.begin(missing[0].key, body=missing[0].body, **who), whole)
    assert (
        texts(ask(some, away, Ledger(ledger.path, budget=0.0), stage="judge")) == [["stored"]] * 3
    )
    with pytest.raises(UserError, match="environment variable TEST_KEY"):
        ask(questions(4), away, ledger, stage="judge")


def test_a_reply_at_the_token_limit_says_so(ledger):
    with Server({"length": 1}) as server:
        assert [r.cut for r in ask(questions(1), at(server), ledger, stage="judge")[0]] == [True]


def test_tokens_reach_the_ledger(ledger):
    with Server() as server:
        ask(questions(2), at(server), ledger, stage="judge")
        assert ledger.summary().prompt_tokens.tolist() == [14]


# ---- whose reply it is ----


def test_models_and_replicates_never_share_replies(ledger):
    def asked(server, **settings):
        replicate = settings.pop("replicate", 0)
        return texts(
            ask(questions(1, replicate=replicate), at(server, **settings), ledger, stage="judge")
        )[0][0]

    with Server(say=lambda body, i: f"{server.received}") as server:
        ways = [
            {},
            {"model": "l"},
            {"replicate": 1},
            {"temperature": 0.0},
            {"max_tokens": 7},
            {"takes_seed": False},
        ]
        ways += [{"takes_seed": False, "replicate": 1}]
        first = [asked(server, **way) for way in ways]
        assert first == [str(i + 1) for i in range(len(ways))]
        assert [asked(server, **way) for way in ways] == first
        assert server.received == len(ways)
    with Server(say=lambda body, i: "elsewhere") as server:
        assert asked(server) == "elsewhere"


def test_the_same_request_twice_is_paid_once(ledger):
    with Server(latency=0.1) as server:
        replies = ask(questions(1) * 5 + questions(2), at(server), ledger, stage="judge")
        assert server.received == 2
        assert len({t for some in texts(replies[:6]) for t in some}) == 1
        assert ask(questions(1) * 5 + questions(2), at(server), ledger, stage="judge") == replies


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
            ask(questions(1, replicate=4), at(server, **settings), ledger, stage="judge")
            assert server.bodies[-1] == {
                "model": "m",
                "messages": questions(1)[0].messages,
                **expected,
            }


def test_settings_that_the_request_has_already(monkeypatch):
    for name in ("n", "messages", "max_tokens", "stream"):
        with pytest.raises(pydantic.ValidationError, match=f"{name} may not stand in extra_body"):
            Endpoint(base_url="http://a/v1", model="m", extra_body={name: 1})


# ---- money ----

LUNA = {"model": "gpt-6-luna", "max_tokens": 1000}  # in params/prices.yaml


class Dear(Server):
    """Each reply costs four fifths of the most that it can cost."""

    prompt_tokens = 4000


def luna():
    return tuple(x / 1e6 for x in money.prices()["gpt-6-luna"])


def test_replies_are_counted_by_their_tokens(ledger):
    with Dear() as server:
        ask(questions(10, n=2), at(server, **LUNA), ledger, stage="judge")
    assert ledger.spent() == pytest.approx(10 * (4000 * luna()[0] + 2 * luna()[1]))
    assert ledger.summary().dollars.tolist() == pytest.approx([ledger.spent()])


def test_the_progress_line_shows_the_running_cost(ledger, monkeypatch, capfd):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv(progress.HEADLESS, "01_generate")
    with Dear() as server:
        ask(questions(40, n=2), at(server, **LUNA), ledger, stage="judge", what="texts graded")
        ask(questions(40), at(server), ledger, stage="judge")
    lines = capfd.readouterr().err.splitlines()
    last = [line for line in lines if "texts graded" in line][-1]
    assert re.fullmatch(
        r"01_generate: texts graded 39 of 40, about 0 s left, 0\.02 US dollars", last
    )
    assert lines[-1].endswith(", price unknown")


def test_a_budget_is_never_exceeded_and_used_to_its_end(tmp_path):
    most, each = (
        money.most({"messages": questions(1)[0].messages, "max_tokens": 1000}, luna()),
        4000 * luna()[0] + luna()[1],
    )
    ledger = Ledger(tmp_path / "ledger.sqlite", budget=20 * most)
    with Dear(latency=0.02) as server:
        with pytest.raises(
            UserError, match=r"^budget = 0\.\d+ US dollars: .* raise budget"
        ) as failure:
            ask(questions(100), at(server, concurrency=16, **LUNA), ledger, stage="judge")
        one_sentence(failure)
        assert ledger.spent() == pytest.approx(server.billed * each)
        assert ledger.budget - most < ledger.spent() <= ledger.budget
        assert counts(ledger) == {"replied": server.billed}
        richer = Ledger(ledger.path, budget=100 * most)
        assert len(ask(questions(100), at(server, **LUNA), richer, stage="judge")) == 100
        assert server.billed == 100


SPENDING = """
import sys
from pathlib import Path
from helpers.chat.client import ask
from helpers.chat.endpoint import Endpoint
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.chat.ledger import Ledger, key
where = Endpoint(base_url=sys.argv[1], model="gpt-6-luna", key_env="TEST_KEY", max_tokens=1000, concurrency=16)
some = [Request([{"role": "user", "content": f"{sys.argv[4]} {i}"}]) for i in range(200)]
print("ready", flush=True)
sys.stdin.readline()
try:
    ask(some, where, Ledger(Path(sys.argv[2]), budget=float(sys.argv[3])), stage="judge")
except UserError as error:
    assert str(error).startswith("budget ="), error
else:
    sys.exit("the budget was no limit")
"""


def test_a_budget_holds_for_two_processes_together(ledger):
    budget, seen = (
        50 * money.most({"messages": questions(1)[0].messages, "max_tokens": 1000}, luna()),
        [],
    )
    with Dear(
        latency=0.02, say=lambda body, i: seen.append(Ledger(ledger.path).spent()) or "text"
    ) as server:
        command = [sys.executable, "-c", SPENDING, server.url, str(ledger.path), str(budget)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        both = [
            subprocess.Popen([*command, name], cwd=ROOT, env=environment, **pipes) for name in "ab"
        ]
        assert [child.stdout.readline() for child in both] == ["ready\n"] * 2
        for child in both:
            child.stdin.write("\n")
            child.stdin.flush()
        for child in both:
            _, said = child.communicate(timeout=60)
            assert child.returncode == 0, said
    assert max(seen) <= budget
    assert ledger.spent() <= budget
    assert {b["messages"][0]["content"][0] for b in server.bodies} == {"a", "b"}
    assert server.billed >= 50


def test_what_a_failed_attempt_may_have_cost_stays_reserved(tmp_path, quick):
    most = money.most({"messages": questions(1)[0].messages, "max_tokens": 1000}, luna())
    for fault, reserved in {"500": 6, "drop_after": 6, "400": 0, "quota": 0}.items():
        ledger = Ledger(tmp_path / f"{fault}.sqlite", budget=1.0)
        with Server({fault: 1}) as server, pytest.raises(UserError):
            ask(questions(1), at(server, **LUNA), ledger, stage="judge")
        assert ledger.spent() == pytest.approx(reserved * most), fault
    with Server({"429": 0.5}, seed=3, retry_after="0.01") as server:
        ledger = Ledger(tmp_path / "429.sqlite", budget=1.0)
        ask(questions(10), at(server, **LUNA), ledger, stage="judge")
        assert server.happened["429"]
        assert ledger.spent() < most


def test_a_budget_needs_prices(ledger, monkeypatch):
    with Server() as server:
        with pytest.raises(
            UserError, match=r"params/prices.yaml has no price for model m; .* or set budget: null"
        ) as failure:
            ask(questions(3), at(server), Ledger(ledger.path, budget=5.0), stage="judge")
        assert (server.received, counts(ledger)) == (0, {})
        ask(questions(3), at(server), ledger, stage="judge")
        assert ledger.spent() == 0
        assert ledger.summary().dollars.isna().all()
        with pytest.raises(
            UserError, match="no price for model m"
        ):  # what was spent before is unknown
            ask(questions(1), at(server, **LUNA), Ledger(ledger.path, budget=5.0), stage="judge")
        monkeypatch.setattr(money, "prices", lambda: {"m": [1.0, 2.0], "gpt-6-luna": [0.0, 0.0]})
        ask(questions(1), at(server, **LUNA), Ledger(ledger.path, budget=5.0), stage="judge")
        assert ledger.spent() == pytest.approx(3 * (7 * 1.0 + 2.0) / 1e6)
    one_sentence(failure)


@pytest.mark.parametrize(
    "content", ["m: [1.0]", "m: free", "- m", "m: [1.0, -1]", "m: [", "m: [a, b]"]
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


# ---- interrupted, inside a notebook ----


def test_ask_works_inside_a_running_loop(ledger):
    async def cell():
        return ask(questions(3), at(server), ledger, stage="judge")

    with Server() as server:
        assert [len(r) for r in asyncio.run(cell())] == [1, 1, 1]


def test_no_requests(ledger):
    with Server() as server:
        assert ask([], at(server), ledger, stage="judge") == []


def test_an_interrupt_stops_asking(ledger):
    def interrupting(body, i):
        if server.billed == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return "text"

    with Server(latency=0.05, say=interrupting) as server:
        with pytest.raises(KeyboardInterrupt):
            ask(questions(200), at(server, concurrency=8), ledger, stage="judge")
        server.settle()
        assert 20 <= server.billed < 100
        ask(questions(200), at(server, concurrency=8), ledger, stage="judge")
        assert 200 <= server.billed <= 208


# ---- addresses ----


def test_addresses_are_checked():
    for good in (
        "world:",
        "world:?drop=0.5",
        "http://localhost:1/v1",
        "https://api.example.com/v1",
    ):
        check_address(good)
    for bad in ("api.example.com", "ftp://a", "world:?drop=2", "world:?speed=1", ""):
        with pytest.raises(UserError, match=re.escape(bad.partition("?")[0]) or "base_url"):
            check_address(bad)
